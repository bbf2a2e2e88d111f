"""``convscope mine``: find what every unit responds to over any number of images, into a study."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convscope.cli.help import HelpfulCommand, duration, interruptible, working
from convscope.cli.source import debug_option, image_option, keep_record, model_options, take_source
from convscope.errors import Cancelled, ConvscopeError

if TYPE_CHECKING:
    from convscope.cli.source import Source
    from convscope.mining.study import Study

CANCELLED = 130
_MOST_LISTED = 10


@click.command(
    cls=HelpfulCommand,
    examples=(
        ("convscope mine demo --images photos/ --study study/", "every convolution of the embedded network"),
        (
            "convscope mine torchvision:resnet18 --weights resnet18.safetensors --images imagenet/val "
            "--layers 'layer4.*' -k 25 --study study/",
            "some layers of your own, 25 patches for each unit",
        ),
        ("convscope serve study/", "look at what was found, also while it is still mining"),
        (
            "convscope view top_patches demo blocks.5.project:3 --study study/ -o unit.png",
            "one unit's patches as a picture",
        ),
        (
            "convscope view projections demo blocks.5.project:3 --study study/ -o unit.png",
            "and what in each drove the unit",
        ),
    ),
)
@click.argument("model")
@image_option
@click.option(
    "--layers",
    multiple=True,
    metavar="GLOB",
    help="layers by address or pattern, * for every call; may be repeated  [default: convolutions and linear layers]",
)
@click.option("-k", "ranks", type=click.IntRange(1, 1000), metavar="N", help="patches kept for each unit  [default: 9]")
@click.option("--study", metavar="FOLDER", required=True, help="where the result is kept; the same folder goes on")
@click.option(
    "--executor",
    type=click.Choice(["serial", "processes", "ray"]),
    help="where to mine: this process, several on this machine, a Ray cluster  [default: processes where they help]",
)
@click.option("--workers", type=click.IntRange(1), metavar="N", help="how many processes or Ray actors")
@click.option("--ray-address", metavar="ADDRESS", help="the Ray cluster  [default: one of this machine]")
@click.option("--batch-size", type=click.IntRange(1, 4096), metavar="N", help="images in one forward pass")
@click.option("--json", "as_json", is_flag=True, help="what was mined, as JSON")
@model_options
@debug_option
def mine(model: str, images: tuple[str, ...], study: str, as_json: bool, **options: Any) -> None:
    """Find what every unit responds to most, least and usually, over any number of images, in one pass.

    MODEL is demo, torchvision:NAME, timm:NAME, package.module:factory or path/to/file.py:factory. The result is kept in
    the study's folder as it grows: Ctrl-C loses at most what is under way, the same command goes on where it stopped,
    and images that were added since are mined alone. Images that can't be read are skipped and listed.
    """
    if not images:
        raise click.UsageError("Missing option '--images'", click.get_current_context())
    source = take_source(model, options, tuple(_absolute(each) for each in images))
    mining = {name: options.pop(name) for name in ("ranks", "executor", "workers", "ray_address", "batch_size")}
    layers = list(options.pop("layers")) or None
    started = time.monotonic()
    with interruptible("stopping; what is finished is kept") as cancel:
        try:
            with working(f"opening {source.model}", cancel):
                found = _mine(source, layers, study, mining)
        except Cancelled:
            _say_what_is_kept(study, source)
            raise click.exceptions.Exit(CANCELLED) from None
    with found.store:
        if as_json:
            click.echo(json.dumps(_summary(found, time.monotonic() - started), indent=2, ensure_ascii=False))
        else:
            _say_what_was_found(found, source, study, time.monotonic() - started)


def _mine(source: Source, layers: list[str] | None, study: str, mining: dict[str, Any]) -> Study:
    from convscope.mining.mine import mine as run
    from convscope.mining.study import find_plan
    from convscope.store import Store

    network = source.network()
    images = source.image_set()
    store = Store.open(study)
    try:
        plan = find_plan(store)
        if store.writable and (plan is None or plan.network == network.fingerprint):
            keep_record(Path(study), source, network.fingerprint)
        return run(network, images, layers=layers, k=mining.pop("ranks"), study=store, **mining)
    except BaseException:
        store.close()
        raise


def _say_what_is_kept(study: str, source: Source) -> None:
    from convscope.mining.study import Study
    from convscope.store import Store

    try:
        with Store.open(study) as store:
            found = Study.open(store)
            kept = f"{found.done:,} of {found.count:,} images are mined and kept"
            looks = f"Look at them: {_serve(study, source)}\n" if found.done else ""
    except ConvscopeError:  # before anything was planned
        kept, looks = "nothing was mined yet", ""
    click.echo(f"{kept}.\n{looks}Go on: {shlex.join(['convscope', *sys.argv[1:]])}", err=True)


def _say_what_was_found(found: Study, source: Source, study: str, seconds: float) -> None:
    units = sum(len(found.plan.settings.grids[layer].exponent) for layer in found.layers)
    skipped = found.skipped
    click.echo(
        f"{found.done:,} {'image' if found.done == 1 else 'images'} mined in {duration(seconds)}: "
        f"up to {found.k} patches for each of {units:,} units of {len(found.layers):,} layers"
    )
    for name, reason in skipped[:_MOST_LISTED]:
        click.echo(f"skipped {name}: {reason}")
    if len(skipped) > _MOST_LISTED:
        click.echo(f"and {len(skipped) - _MOST_LISTED:,} more, listed by --json")
    click.echo(f"Look at them: {_serve(study, source)}")


def _serve(study: str, source: Source) -> str:
    return shlex.join(["convscope", "serve", study, *(["--trust"] if source.runs_code or source.trust else [])])


def _summary(found: Study, seconds: float) -> dict[str, Any]:
    return {
        "study": str(found.store.path),
        "network": found.network,
        "images": found.count,
        "done": found.done,
        "finished": found.finished,
        "k": found.k,
        "layers": list(found.layers),
        "skipped": [{"name": name, "reason": reason} for name, reason in found.skipped],
        "seconds": round(seconds, 3),
    }


def _absolute(text: str) -> str:
    """Where images are, good from any folder: the study is looked at from others."""
    path = Path(text).expanduser()
    return os.path.abspath(path) if path.exists() else text  # noqa: PTH100 - links stay as they are


__all__ = ["mine"]
