"""The loops that are timed, each in a process of its own: one network, one way of watching it.

``python -m measuring.monitor_loops '{"network": …, "watch": …, …}'`` prints what it took as one line of JSON.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from measuring.resnet18 import resnet18
from torch import nn
from torch.nn.functional import cross_entropy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# One: threads that share their cores with other work wait for each other, which says nothing about watching.
THREADS = 1


def convnetjs() -> nn.Sequential:
    """ConvNetJS's network for CIFAR-10, with a dropout so that random numbers matter."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 20, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(20, 20, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.1), nn.Linear(320, 10),
    )  # fmt: skip


def lenet() -> nn.Sequential:
    """LeNet-5, with ReLU and maximum pooling."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


# A network, its channels and image size, how many images are in a batch.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int], int]] = {
    "ResNet-18": (resnet18, (3, 64, 64), 64),
    "ConvNetJS's CIFAR-10 network": (convnetjs, (3, 32, 32), 32),
    "LeNet-5": (lenet, (1, 28, 28), 32),
}


def run(order: dict[str, Any]) -> dict[str, Any]:
    """Train for so many steps or seconds, watched in one of several ways or not at all."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    make, shape, batch = NETWORKS[order["network"]]
    module = make()
    images, labels = torch.randn(4 * batch, *shape), torch.randint(0, 10, (4 * batch,))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        watch = WATCHES[order["watch"]](module, optimizer, Path(folder), order.get("every", 0), (images, labels))
        started, processor = time.perf_counter(), time.process_time()
        losses, clock = _train(module, optimizer, images, labels, batch, order, watch)
        watch["close"]()
        seconds, processor = time.perf_counter() - started, time.process_time() - processor
        facts = watch.get("facts", dict)()
    return {
        "steps": len(losses),
        "seconds": seconds,
        "processor": processor,
        "start": started - began,
        "losses": hashlib.sha256(json.dumps(losses).encode()).hexdigest(),
        "clock": clock if "every" in order else [],
        **facts,
    }


def alternate(order: dict[str, Any]) -> dict[str, Any]:
    """The same loop twice in one process, with Monitor as it comes and without, taking turns of about a second.

    What the machine does besides falls on both alike. Monitor's budget sees its own turns only, and each of them ends
    when everything is written.
    """
    torch.set_num_threads(THREADS)
    import functools

    import convscope as cs
    from convscope.training import budget, monitor

    turns = Turns()
    monitor.Budget = functools.partial(budget.Budget, clock=turns)  # type: ignore[misc, assignment]
    make, shape, batch = NETWORKS[order["network"]]
    sides = []
    for _ in range(2):
        torch.manual_seed(0)
        module = make()
        sides.append((module, torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)))
    images, labels = torch.randn(4 * batch, *shape), torch.randint(0, 10, (4 * batch,))

    def turn(side: int, steps: int, watching: cs.Monitor | None) -> tuple[float, float]:
        module, optimizer = sides[side]
        started, processor = time.perf_counter(), time.process_time()
        for each in range(steps):
            part = slice(each % 4 * batch, (each % 4 + 1) * batch)
            optimizer.zero_grad()
            loss = cross_entropy(module(images[part]), labels[part])
            loss.backward()
            optimizer.step()
            if watching is not None:
                watching.log(loss=loss)
        seconds = time.perf_counter() - started
        if watching is not None:
            watching._recorder.drain()  # training doesn't wait for the disk, but the work is to be seen here
        return seconds, time.process_time() - processor

    steps = max(1, round(1 / (turn(0, 3, None)[0] / 3)))
    turn(1, 3, None)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "run"
        options = {"images": (images[:4], labels[:4]), **order.get("options", {})}
        with cs.Monitor(*sides[1], store=store, **options) as watching:
            spent: list[list[tuple[float, float]]] = [[], []]
            while sum(seconds for seconds, _ in spent[0]) < order["seconds"]:
                spent[0].append(turn(0, steps, None))
                with turns.running():
                    spent[1].append(turn(1, steps, watching))
            cost = watching.cost
        if watching.problems or watching.dropped:
            raise SystemExit(f"the recording is not whole: {watching.problems}, {watching.dropped} dropped")
    plain, watched = ([sum(column) for column in zip(*side, strict=True)] for side in spent)
    return {
        "step": plain[0] / (steps * len(spent[0])),
        "wall": watched[0] / plain[0] - 1,
        "processor": watched[1] / plain[1] - 1,
        "account": cost.fraction,
        "text": str(cost),
        "steps": steps * len(spent[0]),
    }


class Turns:
    """A clock that runs during one side's turns only."""

    def __init__(self) -> None:
        self._before = 0.0
        self._since: float | None = None

    def __call__(self) -> float:
        return self._before + (0.0 if self._since is None else time.perf_counter() - self._since)

    @contextmanager
    def running(self) -> Iterator[None]:
        self._since = time.perf_counter()
        yield
        self._before, self._since = self(), None


def _train(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    labels: torch.Tensor,
    batch: int,
    order: dict[str, Any],
    watch: dict[str, Callable[..., Any]],
) -> tuple[list[str], list[float]]:
    """The losses to the last bit, and the processor's time after each step, of all threads."""
    losses: list[str] = []
    clock = [time.process_time()]
    started = time.perf_counter()
    while len(losses) < order.get("steps", 10**9) and time.perf_counter() - started < order.get("seconds", 10**9):
        part = slice(len(losses) % 4 * batch, (len(losses) % 4 + 1) * batch)
        optimizer.zero_grad()
        loss = cross_entropy(module(images[part]), labels[part])
        loss.backward()
        watch["before"](len(losses))
        optimizer.step()
        watch["after"](len(losses), loss)
        losses.append(loss.item().hex())
        clock.append(time.process_time())
    return losses, clock


def _nothing(*_: Any) -> None:
    pass


def _plain(*_: Any) -> dict[str, Callable[..., Any]]:
    return {"before": _nothing, "after": _nothing, "close": _nothing}


def _monitor(
    module: nn.Module, optimizer: Any, folder: Path, every: int, reference: tuple[torch.Tensor, torch.Tensor]
) -> dict[str, Callable[..., Any]]:
    """As it comes; or, with ``every``, norms and histograms so often and nothing else, without a budget."""
    import convscope as cs

    options: dict[str, Any] = {"images": (reference[0][:4], reference[1][:4])}
    if every:
        options = {"filters": every, "histograms": every, "kernels": None, "maps": None, "budget": None}
    monitor = cs.Monitor(module, optimizer, store=folder / "run", **options).start()

    def facts() -> dict[str, Any]:
        if monitor.problems or monitor.dropped:
            raise SystemExit(f"the recording is not whole: {monitor.problems}, {monitor.dropped} dropped")
        cost = monitor.cost
        spent = cost.measuring_seconds + cost.writing_seconds
        return {"account": cost.fraction, "text": str(cost), "spent": spent, "recordings": recordings()}

    def recordings() -> int:
        with monitor.run as run:
            return max(len(run.steps(name)) for name in run.names())

    return {
        "before": _nothing,
        "after": lambda _step, loss: monitor.log(loss=loss),
        "close": monitor.close,
        "facts": facts,
    }


def _weights(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, each) for name, each in module.named_parameters() if each.dim() >= 2]


def _tensorboard(
    module: nn.Module, _optimizer: Any, folder: Path, every: int, *_: Any
) -> dict[str, Callable[..., Any]]:
    """What its users write: a histogram of every weight and of its gradient."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))

    def before(step: int) -> None:
        if step % every == 0:
            for name, each in _weights(module):
                writer.add_histogram(f"weight/{name}", each.detach(), step)
                if each.grad is not None:
                    writer.add_histogram(f"gradient/{name}", each.grad, step)

    def after(step: int, loss: torch.Tensor) -> None:
        writer.add_scalar("loss", loss.item(), step)

    return {"before": before, "after": after, "close": writer.close}


def _wandb(module: nn.Module, _optimizer: Any, folder: Path, every: int, *_: Any) -> dict[str, Callable[..., Any]]:
    """``wandb.watch(log="all")``, offline. What it does after the loop isn't counted."""
    import wandb

    run = wandb.init(mode="offline", dir=str(folder), settings=wandb.Settings(console="off", silent=True))
    wandb.watch(module, log="all", log_freq=every)
    return {"before": _nothing, "after": lambda _step, loss: run.log({"loss": loss.item()}), "close": _nothing}


WATCHES: dict[str, Callable[..., dict[str, Callable[..., Any]]]] = {
    "nothing": _plain,
    "Monitor": _monitor,
    "TensorBoard": _tensorboard,
    "wandb.watch": _wandb,
}


if __name__ == "__main__":
    ordered = json.loads(sys.argv[1])
    print(json.dumps(alternate(ordered) if "watch" not in ordered else run(ordered)))
