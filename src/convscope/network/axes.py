"""Which axis of a call's output is the channel, which the row, which the column.

Torch doesn't say: convolutions give ``[image, channel, row, column]``, ConvNeXt's linear layers work on
``[image, row, column, channel]``, transformers on ``[image, token, channel]``. The footprint tells rows and columns
apart by what each element sees; operations that keep or permute their input's axes hand its names on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from convscope.network.receptive_field import squash

if TYPE_CHECKING:
    from convscope.network.footprint import Footprint
    from convscope.network.layer import Axis, Kernel
    from convscope.trace import Call

FIRST: tuple[Axis, ...] = ("image", "channel", "row", "column")
LAST: tuple[Axis, ...] = ("image", "row", "column", "channel")
TOKENS: tuple[Axis, ...] = ("image", "column", "channel")
SEQUENCE: tuple[Axis, ...] = ("image", "channel", "column")


def axes_of(
    shape: tuple[int, ...],
    call: Call,
    *,
    kernel: Kernel | None,
    known: tuple[Axis, ...] | None,
    input_axes: tuple[Axis, ...] | None,
    input_shape: tuple[int, ...],
    footprint: Footprint | None,
) -> tuple[tuple[Axis, ...], str]:
    """The axes of an output observed for one image, and why it has no units if it hasn't."""
    if not shape or shape[0] != 1:
        return (), "its first axis isn't the image axis"
    if len(shape) not in (2, 3, 4):
        return (), f"its output has {len(shape)} axes"
    if known is not None:
        return known, ""
    if len(shape) == 2:
        return ("image", "channel"), ""
    if kernel is not None:
        if kernel.operation != "linear":
            return FIRST, ""
        return (LAST if len(shape) == 4 else TOKENS), ""
    permuted = _permuted(call, input_axes)
    if permuted is not None:
        return permuted, ""
    if input_axes is not None and input_shape == shape:
        return input_axes, ""
    return _by_footprint(shape, footprint), ""


def _permuted(call: Call, input_axes: tuple[Axis, ...] | None) -> tuple[Axis, ...] | None:
    if input_axes is None or call.kind not in ("permute", "transpose"):
        return None
    rest = [argument for argument in call.arguments if not isinstance(argument, torch.Tensor)]
    rest = rest or list(call.options.values())
    order = list(rest[0]) if len(rest) == 1 and isinstance(rest[0], list | tuple) else rest
    if not all(isinstance(axis, int) for axis in order):
        return None
    count = len(input_axes)
    if call.kind == "transpose" and len(order) == 2:
        axes = list(input_axes)
        axes[order[0] % count], axes[order[1] % count] = axes[order[1] % count], axes[order[0] % count]
        new = tuple(axes)
    elif len(order) == count:
        new = tuple(input_axes[axis % count] for axis in order)
    else:
        return None
    return new if new[0] == "image" else None


def _by_footprint(shape: tuple[int, ...], footprint: Footprint | None) -> tuple[Axis, ...]:
    if footprint is None:
        return FIRST if len(shape) == 4 else TOKENS
    rows = [axis for axis, size in enumerate(squash(footprint.parts[0]).shape) if size > 1]
    columns = [axis for axis, size in enumerate(squash(footprint.parts[2]).shape) if size > 1]
    if len(shape) == 4:
        return LAST if 1 in rows and 2 in columns and 3 not in columns else FIRST
    return SEQUENCE if 2 in columns and 1 not in columns else TOKENS
