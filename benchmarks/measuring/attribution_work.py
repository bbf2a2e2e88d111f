"""What the attribution benchmarks share: networks with random weights, images, Captum, and the clock."""

from __future__ import annotations

import time
import warnings
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from measuring.pictures import prepared
from measuring.plain import alexnet, vgg16
from measuring.resnet18 import resnet18

import convscope as cs

if TYPE_CHECKING:
    from collections.abc import Callable

    from convscope.network.batch import Batch
    from convscope.network.network import Network

# Threads that share their cores with other work wait for each other; with one, processor time is the time that passes
# on a machine that does nothing else.
THREADS = 1
MAKE = {"ResNet-18": resnet18, "VGG-16": vgg16, "AlexNet": alexnet}


def seeded(name: str) -> Network:
    """A network with random weights, always the same ones, whose layer table is made."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = cs.Network.from_module(MAKE[name](), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    # Made when first asked for; part of opening a network, not of a method.
    _ = network.layers, network.fingerprint
    return network


def images(network: Network, count: int) -> Batch:
    """Prepared images; both sides are given the same tensor."""
    return network.batch(torch.stack(prepared(0, count, *network.image_size)))


def captum() -> Any:
    """captum.attr, or None with a line that says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import captum.attr
        except ImportError:
            print("Captum isn't installed (pip install captum): no comparison with it")
            return None
    return captum.attr


def seconds(
    run: Callable[[], torch.Tensor], clock: Callable[[], float] = time.process_time
) -> tuple[torch.Tensor, float]:
    """What it returns, and the seconds that were computed for it, or that passed by another clock."""
    start = clock()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = run()
    return found, clock() - start


def in_turns(
    ours: Callable[[], torch.Tensor],
    theirs: Callable[[], torch.Tensor],
    rounds: int,
    clock: Callable[[], float] = time.process_time,
) -> tuple[float, float, float]:
    """Median of ours / theirs in one round, each round beginning with the other one, and both medians in seconds."""
    kept: list[tuple[float, float]] = []
    for turn in range(rounds):
        if turn % 2:
            theirs_s, ours_s = seconds(theirs, clock)[1], seconds(ours, clock)[1]
        else:
            ours_s, theirs_s = seconds(ours, clock)[1], seconds(theirs, clock)[1]
        kept.append((ours_s, theirs_s))
    return median(a / b for a, b in kept), median(a for a, _ in kept), median(b for _, b in kept)


def check_equal(what: str, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """An attribution that is fast and wrong would win.

    A ReLU whose input is 0 but for rounding may be open here and closed there, so batches of other sizes, which other
    kernels may compute, can differ by more than the last bits. On VGG-16 one such image of eight has been seen, 2.5e-4
    from Captum's; both were 7e-3 from float64's.
    """
    scale = float(theirs.abs().max())
    worst = float((ours - theirs).abs().max()) / scale if scale else float(ours.abs().max())
    if ours.shape != theirs.shape or not worst <= 1e-3:
        raise SystemExit(f"{what}: ours differs from Captum's by {worst:.2g} of its largest value")
