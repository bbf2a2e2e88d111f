"""Receptive fields: which part of the image a unit sees."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from convscope.network.footprint import Footprint, Parts


@dataclass(frozen=True)
class Extent:
    """Along one image axis: position i sees pixels ``offset + stride·i`` to ``offset + stride·i + size - 1``.

    Before clipping to the image. ``stride`` is None where positions aren't evenly spaced or there is only one.
    """

    size: int
    stride: float | None
    offset: int


@dataclass(frozen=True)
class ReceptiveField:
    """What part of the image a layer's units can see, as if the image went on beyond its border.

    ``exact`` is False where an operation isn't followed; ``reason`` says which, and the extents are then an upper bound
    (``Network.receptive_field`` measures the box of a neuron there). Where units differ, as after a concatenation, the
    extents are those of the unit that sees most and ``uniform`` is False.
    """

    rows: Extent | None
    columns: Extent | None
    exact: bool
    reason: str = ""
    uniform: bool = True


@dataclass(frozen=True)
class Box:
    """A rectangle of the prepared image: first row and column, and how many of each.

    ``whole`` is the same box before it was clipped to the image; equal to it where nothing was cut off.
    """

    row: int
    column: int
    rows: int
    columns: int
    whole: tuple[int, int, int, int]
    exact: bool = True
    reason: str = ""


def squash(part: Tensor) -> Tensor:
    """A part without the axes along which it doesn't change, so that keeping it costs next to nothing."""
    for axis in range(part.dim()):
        if part.shape[axis] == 1:
            continue
        first = part.narrow(axis, 0, 1)
        if part.stride(axis) == 0 or bool((part == first).all()):
            part = first
    return part.contiguous().clone()


def _extent(first: Tensor, negative_last: Tensor) -> Extent | None:
    """``first`` and ``-last`` along one axis, already the smallest over channels and the other axis."""
    known = torch.isfinite(first) & torch.isfinite(negative_last)
    if not bool(known.any()):
        return None
    seen, last = first[known], -negative_last[known]
    sizes, steps = last - seen + 1, seen.diff()
    even = bool(known.all() and (steps == steps[0]).all() and (sizes == sizes[0]).all()) if len(seen) > 1 else False
    return Extent(int(sizes.max()), float(steps[0]) if even else None, int(seen[0]))


def field_of(parts: Parts, reason: str) -> ReceptiveField:
    """A layer's receptive field from its footprint in ``[image, unit, row, column]`` order."""
    rows = _extent(*torch.broadcast_tensors(_over(parts[0], 2), _over(parts[1], 2)))
    columns = _extent(*torch.broadcast_tensors(_over(parts[2], 3), _over(parts[3], 3)))
    uniform = all(part.shape[1] == 1 for part in parts)
    if rows is None or columns is None:
        return ReceptiveField(rows, columns, True, "it depends on no pixel", uniform)
    note = reason
    if not reason and not all(bool(torch.isfinite(part).all()) for part in parts):
        note = "some positions (a class token, padding) depend on no pixel"
    elif not reason and any(
        extent.stride is None and part.shape[axis] > 1
        for extent, part, axis in ((rows, parts[0], 2), (columns, parts[2], 3))
    ):
        note = "size or spacing varies with the position; the largest is given"
    return ReceptiveField(rows, columns, not reason, note, uniform)


def _over(part: Tensor, axis: int) -> Tensor:
    return part.movedim(axis, 0).flatten(1).amin(1)


def box_of(parts: Parts, place: tuple[int, int, int], image_size: tuple[int, int]) -> Box:
    """The box of one neuron (channel, row, column), clipped to the image."""
    values = []
    for part in parts:
        index = [0, *(min(wanted, size - 1) for wanted, size in zip(place, part.shape[1:], strict=True))]
        value = float(part[tuple(index)])
        if not math.isfinite(value):
            return Box(0, 0, 0, 0, (0, 0, 0, 0), True, "it depends on no pixel")
        values.append(int(value))
    top, bottom, left, right = values[0], -values[1], values[2], -values[3]
    row, column = max(top, 0), max(left, 0)
    rows = max(min(bottom, image_size[0] - 1) - row + 1, 0)
    columns = max(min(right, image_size[1] - 1) - column + 1, 0)
    whole = (top, left, bottom - top + 1, right - left + 1)
    return Box(row, column, rows, columns, whole)


def boxes_of(parts: Parts, channel: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """The boxes of many neurons at once, not clipped: int32 ``[…, side]``, sides (row, column, rows, columns).

    The three indices have one shape, which is that of the result. A neuron that depends on no pixel has a box of 0 × 0.
    """
    values = []
    for part in parts:
        places = (each.clamp(max=size - 1) for each, size in zip((channel, row, column), part.shape[1:], strict=True))
        values.append(part[0][tuple(places)])
    top, bottom, left, right = values[0], -values[1], values[2], -values[3]
    boxes = torch.stack([top, left, bottom - top + 1, right - left + 1], dim=-1)
    known = torch.isfinite(boxes).all(dim=-1, keepdim=True)
    return torch.where(known, boxes, torch.zeros_like(boxes)).to(torch.int32)


def arranged(footprint: Footprint, order: list[int], shape: tuple[int, ...]) -> Parts:
    """A footprint as ``[image, unit, row, column]`` parts, reduced to what changes."""

    def arrange(part: Tensor) -> Tensor:
        full = part.expand(shape).permute(order)
        while full.dim() < 4:
            full = full.unsqueeze(2)
        return squash(full)

    first, second, third, fourth = (arrange(part) for part in footprint.parts)
    return first, second, third, fourth
