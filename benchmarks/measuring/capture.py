"""What capturing every convolution's activations costs beside a plain forward pass, and what it costs others."""

from __future__ import annotations

import time
import warnings
from statistics import median
from typing import TYPE_CHECKING

import torch
from measuring.resnet18 import resnet18
from measuring.rows import Row
from torch import Tensor, nn

import convscope as cs

if TYPE_CHECKING:
    from collections.abc import Callable

    from convscope.network.network import Network

GOAL = 1.15
BATCH = 8


def measure(quick: bool) -> list[Row]:
    """Rows for ResNet-18 and for the demonstration's EfficientNet-Lite0, in evaluation mode and without gradients."""
    networks = {
        "ResNet-18": cs.Network.from_module(resnet18(), name="ResNet-18"),
        "EfficientNet-Lite0": cs.load("demo"),
    }
    return [row for name, network in networks.items() for row in _measure(name, network, 7 if quick else 25, quick)]


def _measure(name: str, network: Network, rounds: int, quick: bool) -> list[Row]:
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

    def hooks() -> dict[str, Tensor]:
        return _by_hand(network.module, convolutions, images)

    _check_equal(ours(), hooks())
    seconds = _interleaved([plain, ours, hooks], rounds)
    print(f"{name}: plain forward of {BATCH} images {1000 * median(seconds[plain]):.0f} ms, median of {rounds}")
    what = f"capture {len(convolutions)} convolutions of {name}"
    with_plain = f"the same forward pass without capture, batch {BATCH}, {torch.get_num_threads()} threads"
    rows = [
        Row(what, _ratio(seconds[ours], seconds[plain]), "×", GOAL, with_plain),
        Row(f"{what}: forward hooks by hand that clone", _ratio(seconds[hooks], seconds[plain]), "×", None, with_plain),
    ]
    rows += _torchlens(what, with_plain, plain, network.module, images, len(convolutions), 3 if quick else 9)
    return rows


def _by_hand(module: nn.Module, names: list[str], images: Tensor) -> dict[str, Tensor]:
    """What people write themselves: it must clone, because it can't know what is overwritten in place later."""
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            kept[name] = output.clone()

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


def _ratio(ours: list[float], base: list[float]) -> float:
    """Median of the ratios within a round: what slows the whole machine for a while slows both."""
    return median(one / other for one, other in zip(ours, base, strict=True))
