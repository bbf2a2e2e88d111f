"""Measuring a receptive field: put NaN into part of an image and see whether the unit becomes NaN.

NaN passes through sums, products, maxima and rectifiers alike, so this finds what a unit *depends on*, whatever the
weights are; a gradient would miss what a closed ReLU or a lost maximum hides. It serves where an operation isn't
followed, and as the tests' second opinion everywhere else.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import torch

from convscope.network.receptive_field import Box
from convscope.progress import report
from convscope.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from convscope.network.layer import Layer


def measure_box(module: nn.Module, image: Tensor, layer: Layer, neuron: tuple[int, int, int]) -> Box:
    """The smallest box of ``image`` ``[1, channel, row, column]`` holding every pixel that a neuron depends on.

    About ``4·log2(size)`` forward passes, each stopped at the layer.
    """
    channel, row, column = neuron
    height, width = image.shape[-2:]
    passes = 1 + 2 * (height.bit_length() + width.bit_length())
    done = count()

    def depends(rows: slice, columns: slice) -> bool:
        report(min(next(done), passes), passes, f"measuring the receptive field of {layer.address}")
        spoiled = image.clone()
        spoiled[..., rows, columns] = float("nan")
        # cuDNN's fast convolutions transform whole tiles, which spreads NaN beyond the window.
        with torch.backends.cudnn.flags(enabled=False), Trace(module, [layer.address]) as trace:
            trace.run(spoiled)
        return bool(torch.isnan(layer.to_units(trace[layer.address])[0, channel, row, column]))

    everything = slice(None)
    if not depends(everything, everything):
        return Box(0, 0, 0, 0, (0, 0, 0, 0), False, "measured: it depends on no pixel")
    top = _first(height, lambda size: depends(slice(0, size), everything)) - 1
    bottom = height - _first(height, lambda size: depends(slice(height - size, height), everything))
    left = _first(width, lambda size: depends(everything, slice(0, size))) - 1
    right = width - _first(width, lambda size: depends(everything, slice(width - size, width)))
    rows, columns = bottom - top + 1, right - left + 1
    return Box(
        top, left, rows, columns, (top, left, rows, columns), False, "measured by passing NaN through the network"
    )


def _first(limit: int, holds: Callable[[int], bool]) -> int:
    """The smallest size in 1 … limit for which a condition holds that, once true, stays true."""
    low, high = 1, limit
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
