"""Footprint: the part of the image that each element of a tensor depends on, and the arithmetic on footprints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

INFINITY = float("inf")
# First row, minus last row, first column, minus last column: signed so that every merge is a minimum.
Parts = tuple[Tensor, Tensor, Tensor, Tensor]


class Footprint:
    """The footprint of one tensor, and why it is an upper bound where it isn't exact."""

    __slots__ = ("parts", "reason")

    def __init__(self, parts: Parts, reason: str = "") -> None:
        self.parts = parts
        self.reason = reason

    def map(self, function: Callable[[Tensor], Tensor]) -> Footprint:
        """The same operation on all four parts."""
        first, second, third, fourth = (function(part) for part in self.parts)
        return Footprint((first, second, third, fourth), self.reason)


def of_image(image: Tensor) -> Footprint:
    """Each pixel depends on itself."""
    rows, columns = image.shape[-2:]
    row = torch.arange(rows, dtype=torch.float32)[:, None].expand(image.shape)
    column = torch.arange(columns, dtype=torch.float32).expand(image.shape)
    return Footprint((row, -row, column, -column))


@dataclass(frozen=True, eq=False)
class Step:
    """One elementary operation as it ran, with a way to look up the footprints of its operands."""

    of: Callable[[Any], Footprint | None]
    function: Any
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    outputs: list[Tensor]

    @property
    def name(self) -> str:
        """Torch's name of the operation, without its overload."""
        return str(self.function._overloadpacket.__name__)

    def values(self) -> dict[str, Any]:
        """All arguments by name."""
        names = [each.name for each in self.function._schema.arguments]
        return {**dict(zip(names, self.arguments, strict=False)), **self.options}


def compact(part: Tensor) -> Tensor:
    """A broadcast tensor without its repetitions, so that work on it costs what is really there."""
    for axis, (size, stride) in enumerate(zip(part.shape, part.stride(), strict=True)):
        if size > 1 and stride == 0:
            part = part.narrow(axis, 0, 1)
    return part


def merge(parts: list[Tensor], shape: torch.Size) -> Tensor:
    """The elementwise minimum of parts, broadcast to a shape."""
    merged = compact(parts[0])
    for part in parts[1:]:
        merged = torch.minimum(merged, compact(part))
    return merged.expand(shape)


def reduced_to(part: Tensor, axes: list[int], *, keep: bool) -> Tensor:
    """The minimum over some axes, which are kept (repeated nowhere) or dropped."""
    shape = list(part.shape)
    for axis in axes:
        shape[axis] = 1
    small = compact(part).amin(dim=axes, keepdim=True) if axes else compact(part)
    result = small.expand(shape)
    return result if keep else result.squeeze(tuple(axes))


def extend(part: Tensor, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    """Continue a footprint linearly beyond its border along rows and columns."""
    for axis, (low, high) in ((-2, (before[0], after[0])), (-1, (before[1], after[1]))):
        if low <= 0 and high <= 0:
            continue
        size = part.shape[axis]
        first, last = part.narrow(axis, 0, 1), part.narrow(axis, size - 1, 1)
        step = (
            torch.nan_to_num(part.narrow(axis, 1, 1) - first, nan=0.0) if size > 1 else torch.zeros_like(first),
            torch.nan_to_num(last - part.narrow(axis, size - 2, 1), nan=0.0) if size > 1 else torch.zeros_like(last),
        )
        shape = [1] * part.dim()
        shape[axis] = -1
        ahead = torch.arange(low, 0, -1, dtype=part.dtype).view(shape)
        behind = torch.arange(1, high + 1, dtype=part.dtype).view(shape)
        part = torch.cat([first - ahead * step[0], part, last + behind * step[1]], dim=axis)
    return part
