"""What capturing every convolution's activations costs beside a plain forward pass, and what it costs others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING

import torch
from measuring.resnet18 import resnet18
from measuring.rows import Row
from torch import Tensor, nn

import convscope as cs
from convscope.cli.memory import keep_freed_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from convscope.network.network import Network

GOAL = 1.15
BATCH = 8
# One thread: threads that share their cores with other work wait for each other, which says nothing about capturing.
THREADS = 1
BENCHMARKS = Path(__file__).parents[1]
# What is captured can't be reused during the pass, so it takes new memory, and glibc's malloc gives what is freed back
# to the system: the next pass pays for every page again. The commands keep it; a library may not.
MEMORY = ("as a library", "as the commands do, keeping freed memory")


def measure(quick: bool) -> list[Row]:
    """Rows for ResNet-18 and the demonstration's EfficientNet-Lite0, in processes with and without kept memory."""
    rows = []
    for memory in MEMORY:
        done = subprocess.run(
            [sys.executable, "-c", "from measuring import capture; capture.measure_here()", memory, str(int(quick))],
            env={**os.environ, "PYTHONPATH": str(BENCHMARKS)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        *notes, answer = done.stdout.splitlines()
        print(*notes, sep="\n")
        rows += [Row(**row) for row in json.loads(answer)]
    return rows


def measure_here() -> None:
    """In a process of its own: measure, and print the rows as JSON on the last line."""
    memory, quick = sys.argv[1], bool(int(sys.argv[2]))
    if memory != MEMORY[0]:
        keep_freed_memory()
    torch.set_num_threads(THREADS)
    networks = {
        "ResNet-18": cs.Network.from_module(resnet18(), name="ResNet-18"),
        "EfficientNet-Lite0": cs.load("demo"),
    }
    rows = [row for name, each in networks.items() for row in _measure(name, each, 7 if quick else 25, memory, quick)]
    print(json.dumps([asdict(row) for row in rows]))


def _measure(name: str, network: Network, rounds: int, memory: str, quick: bool) -> list[Row]:
    images = torch.rand(BATCH, network.channels, *network.image_size, generator=torch.Generator().manual_seed(0))
    convolutions = [
        layer.address for layer in network.layers if layer.kernel and layer.kernel.operation == "convolution"
    ]

    def plain() -> dict[str, Tensor]:
        with torch.no_grad():
            network.module(images)
        return {}

    def ours() -> dict[str, Tensor]:
        with network.trace(convolutions) as trace:
            trace.run(images, stop=False)
        return {address: trace[address] for address in convolutions}

    def references() -> dict[str, Tensor]:
        return _by_hand(network.module, convolutions, images, clone=False)

    def clones() -> dict[str, Tensor]:
        return _by_hand(network.module, convolutions, images, clone=True)

    _check_equal(ours(), clones())
    seconds = _interleaved([plain, ours, references, clones], rounds)
    print(f"{name}, {memory}: plain forward of {BATCH} images {1000 * median(seconds[plain]):.0f} ms")
    what = f"capture {len(convolutions)} convolutions of {name}, {memory}"
    base = f"the same forward pass without capture, batch {BATCH}, {THREADS} thread"

    def row(label: str, run: Callable[[], dict[str, Tensor]], goal: float | None) -> Row:
        ratios = [one / other for one, other in zip(seconds[run], seconds[plain], strict=True)]
        low, middle, high = quantiles(ratios, n=4)
        return Row(f"{what}{label}", middle, "×", goal, f"{base}; quartiles {low:.2f} to {high:.2f}")

    rows = [
        row("", ours, GOAL),
        row(": hooks by hand that only keep references, wrong where written over in place", references, None),
        row(": hooks by hand that clone", clones, None),
    ]
    if memory == MEMORY[0]:
        rows += _torchlens(what, base, plain, network.module, images, len(convolutions), 3 if quick else 9)
    return rows


def _by_hand(module: nn.Module, names: list[str], images: Tensor, *, clone: bool) -> dict[str, Tensor]:
    """What people write themselves: it should clone, because it can't know what is overwritten in place later."""
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            kept[name] = output.clone() if clone else output

        return hook

    handles = [module.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    with torch.no_grad():
        module(images)
    for handle in handles:
        handle.remove()
    return kept


def _check_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """A capture that is fast and wrong would win."""
    different = [name for name in theirs if not torch.equal(ours[name], theirs[name])]
    if different:
        raise SystemExit(f"captured activations differ from those of plain hooks: {', '.join(different)}")


def _torchlens(
    what: str,
    compared_with: str,
    plain: Callable[[], dict[str, Tensor]],
    module: nn.Module,
    images: Tensor,
    convolutions: int,
    rounds: int,
) -> list[Row]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torchlens
            from torchlens.backends.torch.wrappers import unwrap_torch, wrap_torch
    except ImportError:
        print("TorchLens isn't installed: no comparison with it")
        return []

    def theirs() -> dict[str, Tensor]:
        options = torchlens.options.CaptureOptions(inference_only=True)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trace = torchlens.trace(module, images, save=torchlens.func("conv2d"), capture=options)
        return {each.layer_label: each.out for each in trace.layer_list if each.layer_label.startswith("conv2d")}

    # It wraps torch's functions for good, which slows everybody: put on before each of its turns and taken off after
    # it, neither of them measured.
    pairs = []
    for _ in range(rounds + 1):
        wrap_torch()
        kept, ours = _timed(theirs)
        unwrap_torch()
        _, base = _timed(plain)
        if len(kept) != convolutions or any(value is None for value in kept.values()):
            print(f"TorchLens kept {len(kept)} convolutions of {convolutions}: no comparison with it")
            return []
        pairs.append((ours, base))
    ratio = median(theirs / base for theirs, base in pairs[1:])
    return [Row(f"{what}: TorchLens {torchlens.__version__}", ratio, "×", None, compared_with)]


def _timed(run: Callable[[], dict[str, Tensor]]) -> tuple[dict[str, Tensor], float]:
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


def _interleaved(
    runs: list[Callable[[], dict[str, Tensor]]], rounds: int
) -> dict[Callable[[], dict[str, Tensor]], list[float]]:
    """Seconds of each, one after the other in every round, each round beginning with another; one round of warm-up."""
    seconds: dict[Callable[[], dict[str, Tensor]], list[float]] = {run: [] for run in runs}
    for turn in range(rounds + 1):
        first = turn % len(runs)
        for run in (*runs[first:], *runs[:first]):
            elapsed = _timed(run)[1]
            if turn:
                seconds[run].append(elapsed)
    return seconds
