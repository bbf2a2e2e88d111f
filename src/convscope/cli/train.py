"""``convscope train``: train a small network in the page or in the shell, recorded, so that it can be continued."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from convscope.cli.explore import server_options
from convscope.cli.help import HelpfulCommand, terminal, working
from convscope.cli.source import debug_option
from convscope.errors import ConvscopeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convscope.training.learner import Learner
    from convscope.training.recorded import Recorded
    from convscope.training.trainer import Trainer

Function = TypeVar("Function", bound=Callable[..., Any])

DEFAULT_NETWORK = "lenet5"
INTERRUPTED = 130
_SECONDS_BETWEEN_LINES = 5.0

_END_OPTIONS = (
    click.option("--steps", type=click.IntRange(0), help="stop after so many steps, from the run's beginning"),
    click.option("--epochs", type=click.FloatRange(0), help="… after so many times through the training images"),
    click.option("--examples", type=click.IntRange(0), help="… after so many training images"),
    click.option("--seconds", type=click.FloatRange(0), help="… after so many seconds from now"),
    click.option("--accuracy", type=click.FloatRange(0, 1), help="… once the held-out accuracy is this high"),
)
ENDS = ("steps", "epochs", "examples", "seconds", "accuracy")
_SETTINGS = tuple(
    "optimizer learning_rate momentum nesterov weight_decay l1 batch_size dropout shift flip fill schedule".split()
)
_SETTING_OPTIONS = (
    click.option("--optimizer", metavar="NAME", help="sgd, adagrad, adadelta, rmsprop, adam or adamw"),
    click.option("--learning-rate", type=float, help="how far a step goes"),
    click.option("--momentum", type=float, help="of sgd and rmsprop; β₁ of adam and adamw"),
    click.option("--nesterov/--no-nesterov", default=None, help="look ahead with sgd's momentum"),
    click.option("--weight-decay", type=float, help="λ of the penalty λ/2 · Σ w²"),
    click.option("--l1", type=float, help="λ of the penalty λ · Σ |w|"),
    click.option("--batch-size", type=int, help="images per step: 1 is stochastic, 0 is batch gradient descent"),
    click.option("--dropout", type=float, help="probability of every dropout layer"),
    click.option("--shift", type=int, help="move training images by up to so many pixels"),
    click.option("--flip/--no-flip", default=None, help="mirror every other training image"),
    click.option("--fill", metavar="WHAT", help="what shifting brings in from outside: mean or edge"),
    click.option("--schedule", metavar="NAME", help="of the learning rate over --epochs: constant or one_cycle"),
)


def training_options(function: Function) -> Function:
    """When to stop, and how to train."""
    for option in reversed((*_END_OPTIONS, *_SETTING_OPTIONS)):
        function = option(function)
    return function


@click.command(
    cls=HelpfulCommand,
    examples=(
        ("convscope train", "LeNet-5 on 5,000 handwritten digits, watched in the page"),
        ("convscope train convnetjs-cifar10 --data data/cifar10", "ConvNetJS's network on real CIFAR-10"),
        ("convscope train resnet --data data/cifar10 --epochs 8 --run runs/resnet", "again to continue it"),
        ("convscope train lenet5 --show > mine.yaml", "a definition to edit"),
        ("convscope train mine.yaml --optimizer adam --learning-rate 0.001 --run runs/mine", "your own network"),
    ),
)
@click.argument("network", required=False)
@click.option("--data", metavar="SOURCE", help="mnist, fashion-mnist, or a folder  [default: the preset's, or mnist]")
@click.option(
    "--page/--no-page",
    default=None,
    help="watch it in the page, or train in the shell  [default: the page, unless it says when to stop or to export]",
)
@click.option("--paused", is_flag=True, help="open the page without beginning to train")
@click.option(
    "--run", metavar="FOLDER", help="where it is recorded; a run that is there is continued  [default: runs/NAME]"
)
@training_options
@click.option(
    "--seed", type=click.IntRange(0, 2**31), help="of initial weights, order, shifts and dropout  [default: 0]"
)
@click.option("--train-images", type=click.IntRange(0), default=0, help="use only the first so many training images")
@click.option("--held-out-images", type=click.IntRange(0), default=0, help="… and held-out images")
@click.option("--export", metavar="FILE", help="write the weights at the end: .safetensors, or .json for ConvNetJS")
@click.option("--device", help="cpu, cuda, cuda:1, mps …  [default: cpu]")
@click.option("--show", is_flag=True, help="print the network's definition and do nothing else")
@click.option("--json", "as_json", is_flag=True, help="print the outcome as JSON")
@server_options
@debug_option
def train(network: str | None, **options: Any) -> int:
    """Train a small network: a preset, or a definition of your own.

    NETWORK is lenet5, convnetjs-mnist, convnetjs-cifar10, resnet, alexnet, zfnet or linear; a .yaml file with a list of
    layers; or a .json file of ConvNetJS. It is trained in the page's Train tab, where everything can be watched and
    changed while it runs; or in the shell, with --no-page. Ctrl-C stops it after the step that is being taken; the same
    command with the same --run goes on exactly there.
    """
    if options["show"]:
        click.echo(_show(network or DEFAULT_NETWORK), nl=False)
        return 0
    until = {name: options[name] for name in ENDS}
    if options["page"] is None:
        options["page"] = not (
            options["export"] or options["as_json"] or any(each is not None for each in until.values())
        )
    if options["page"]:
        return _in_the_page(network, options, until)
    return _in_the_shell(network, options, until)


def _in_the_page(network: str | None, options: dict[str, Any], until: dict[str, Any]) -> int:
    from convscope.cli.training_page import First, open_training

    for name in ("export", "as_json"):
        if options[name]:
            raise ConvscopeError(f"--{name.removeprefix('as_')} is for the shell", next_step="add --no-page")
    run = None if options["run"] is None else Path(options["run"])
    resumes = _check(network, run, options)
    name = run.name if run is not None else Path(network or DEFAULT_NETWORK).stem

    def make() -> Learner:
        return _open(network, options)[0]

    first = First(make, name, run, resumes, None if options["paused"] else until)
    folder = str(run.parent) if run is not None else "runs"
    open_training(folder, [options["data"]] if options["data"] else [], options, first)
    return 0


def _in_the_shell(network: str | None, options: dict[str, Any], until: dict[str, Any]) -> int:
    with working("opening the data"):
        learner, recorded = _open(network, options)
    export = Path(options["export"]) if options["export"] else None
    if export is not None:
        _exported(learner, export)  # what can't be written is said before hours of training, not after
    from convscope.training.trainer import Trainer, suitable_threads
    from convscope.training.until import Until

    _use_threads(suitable_threads(learner))
    trainer = Trainer(learner, recorded)
    began, before = time.monotonic(), learner.examples
    try:
        _say(f"{_heading(learner)}\nrecorded in {recorded.path}")
        with working("training"), _lines(), _stopping(trainer) as stopped:
            trainer.run(Until(**until))
        seconds = time.monotonic() - began
        evaluation = trainer.evaluation
        if evaluation is None or not evaluation.whole:
            evaluation = trainer.evaluate()
        if export is not None:
            export.write_bytes(_exported(learner, export))
            _say(f"weights written to {export}")
    finally:
        trainer.close()
    outcome = {
        "run": str(recorded.path),
        "state": trainer.state,
        "steps": learner.steps,
        "epochs": learner.epoch,
        "examples": learner.examples,
        "seconds": seconds,
        "examples_per_second": (learner.examples - before) / seconds if seconds else None,
        "held_out": {name: value for name, value in evaluation.to_json().items() if name != "confusion"},
    }
    click.echo(json.dumps(outcome, indent=2) if options["as_json"] else _summary(outcome))
    if stopped.is_set():
        _say(f"stopped; go on with the same command and --run {recorded.path}")
        return INTERRUPTED
    return 0


# ---- what is trained ---------------------------------------------------------------------------------------------


def _show(network: str) -> str:
    from convscope.training.opening import open_network
    from convscope.training.presets import PRESETS

    return PRESETS[network].text if network in PRESETS else open_network(network).definition.text()


def _check(network: str | None, run: Path | None, options: dict[str, Any]) -> bool:
    """Say what is wrong with the command before the page opens; whether a run goes on in its folder."""
    from convscope.training.opening import check_data, is_continuable, open_network
    from convscope.training.recorded import SNAPSHOT
    from convscope.training.snapshot import Snapshot

    opened = open_network(network or DEFAULT_NETWORK)
    if run is not None and is_continuable(run):
        snapshot = Snapshot.open(run / SNAPSHOT)
        snapshot.settings.changed(_given_settings(options))
        check_data(options["data"] or snapshot.data["source"], snapshot.name)
        return True
    opened.settings.changed(_given_settings(options))
    check_data(options["data"] or opened.data, opened.name)
    return False


def _open(network: str | None, options: dict[str, Any]) -> tuple[Learner, Recorded]:
    """A learner, new or as it was left in the run's folder, and what records it."""
    from convscope.training.opening import begin, is_continuable, open_network, resume
    from convscope.training.recorded import Recorded

    run, seed, changes = options["run"], options["seed"], _given_settings(options)
    common: dict[str, Any] = {
        "device": options["device"] or "cpu",
        "train": options["train_images"],
        "held_out": options["held_out_images"],
    }
    if run is not None and is_continuable(run):
        opened = open_network(network) if network is not None else None
        return resume(run, opened, options["data"] or "", changes, seed=seed, **common)
    opened = open_network(network or DEFAULT_NETWORK)
    for note in opened.notes:
        _say(note)
    learner = begin(opened, options["data"] or "", changes, seed=seed or 0, **common)
    return learner, Recorded(run if run is not None else Path("runs") / opened.name)


def _given_settings(options: dict[str, Any]) -> dict[str, Any]:
    given = {name: options[name] for name in _SETTINGS if options[name] is not None}
    if options["schedule"] and options["epochs"]:
        given["epochs"] = options["epochs"]
    return given


def _exported(learner: Learner, path: Path) -> bytes:
    """The weights as the file's suffix says."""
    from safetensors.torch import save

    from convscope.training.convnetjs import write_convnetjs

    weights = {name: each.detach().cpu().contiguous() for name, each in learner.module.state_dict().items()}
    if path.suffix not in (".json", ".safetensors") or not path.absolute().parent.is_dir():
        raise ConvscopeError(
            "weights are written as .safetensors or .json",
            where=str(path),
            next_step="name a file that ends in one of these, in a folder that is there",
        )
    if path.suffix == ".json":
        return write_convnetjs(learner.definition, weights).encode()
    return bytes(save(weights))


# ---- what is said ------------------------------------------------------------------------------------------------


def _say(text: str) -> None:
    click.echo(text, err=True)


def _heading(learner: Learner) -> str:
    data, settings = learner.given, learner.settings
    size = f"{settings.batch_size} images a step" if settings.batch_size else "all images in each step"
    return (
        f"{learner.network.name}, {learner.definition.parameters:,} parameters, on {data.name}: {len(data.train):,} "
        f"training images, {len(data.held_out):,} held out ({data.split})\n"
        f"{settings.optimizer}, learning rate {settings.learning_rate:g}, {size}"
        + (f"; continued at step {learner.steps:,}" if learner.steps else "")
    )


def _summary(outcome: dict[str, Any]) -> str:
    held = outcome["held_out"]
    rate = outcome["examples_per_second"]
    loss = "not finite" if held["loss"] is None else f"{held['loss']:.3g}"
    return (
        f"step {outcome['steps']:,}, epoch {outcome['epochs']:.2f}: held-out accuracy {held['accuracy']:.2%} of "
        f"{held['count']:,} images, loss {loss}; {outcome['seconds']:.1f} s, {rate or 0:,.0f} examples/s"
    )


@contextmanager
def _lines() -> Iterator[None]:
    """Where nobody sees a progress bar (a pipe, a log file), a line every few seconds says how it goes."""
    if terminal(error=True).is_terminal:
        yield
        return
    from convscope.progress import Progress, watch

    said = [time.monotonic()]

    def listen(progress: Progress) -> None:
        if time.monotonic() - said[0] >= _SECONDS_BETWEEN_LINES:
            said[0] = time.monotonic()
            left = progress.seconds_left
            _say(progress.message + (f", {left:.0f} s left" if left is not None and progress.done else ""))

    with watch(listen):
        yield


@contextmanager
def _stopping(trainer: Trainer) -> Iterator[threading.Event]:
    """Ctrl-C lets the step that is being taken end; a second one gives it up."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def stop(*_: object) -> None:
        trainer.stop(now=stopped.is_set())
        stopped.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _use_threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)


__all__ = ["train"]
