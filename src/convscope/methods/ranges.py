"""From torch tensors to a View's arrays, and the true range of a whole tensor of which a View keeps only a part."""

from __future__ import annotations

import math
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from convscope.errors import Refused
from convscope.view import Array, value_range

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

Range = dict[str, Any]
LARGEST_VIEW = 4 * 2**30
"""Bytes above which a View is refused: more than a page can hold or a person can look at."""


def to_array(tensor: torch.Tensor) -> Array:
    """A float32 copy in numpy: a View never changes when the network trains on."""
    return np.array(tensor.detach().to("cpu", torch.float32).numpy(), order="C")


def tensor_range(tensor: torch.Tensor) -> Range:
    """What :func:`convscope.view.value_range` says of a tensor, in one pass when all of it is finite.

    >>> tensor_range(torch.tensor([1.0, -2.0, float("nan")]))["nan"]
    1
    """
    tensor = tensor.detach()
    if tensor.numel() and tensor.is_floating_point():
        low, high = (float(end) for end in torch.aminmax(tensor))
        if math.isfinite(low) and math.isfinite(high):
            return {
                "minimum": low,
                "maximum": high,
                "count": tensor.numel(),
                "nan": 0,
                "positive_infinity": 0,
                "negative_infinity": 0,
            }
    return value_range(to_array(tensor))


def merge_ranges(ranges: Iterable[Range]) -> Range:
    """The range of all parts together.

    >>> merge_ranges([tensor_range(torch.ones(2)), tensor_range(torch.zeros(3))])["count"]
    5
    """
    parts = list(ranges)
    lows = [part["minimum"] for part in parts if part["minimum"] is not None]
    highs = [part["maximum"] for part in parts if part["maximum"] is not None]
    counts = {
        name: sum(part[name] for part in parts) for name in ("count", "nan", "positive_infinity", "negative_infinity")
    }
    return {"minimum": min(lows, default=None), "maximum": max(highs, default=None), **counts}


def not_finite(ranges: Mapping[str, Range], words: Mapping[str, str]) -> list[str]:
    """One warning for each array (under the word a reader knows it by) that holds NaN or infinite values."""
    warnings = []
    for name, word in words.items():
        if name not in ranges:
            continue
        found = ranges[name]
        infinite = found["positive_infinity"] + found["negative_infinity"]
        if found["nan"] or infinite:
            warnings.append(f"{found['nan']} NaN and {infinite} infinite of {found['count']} {word} values")
    return warnings


def finite(value: float) -> float | None:
    """A number that JSON can hold; None for NaN and infinity."""
    return value if math.isfinite(value) else None


_allowed: ContextVar[float] = ContextVar("convscope_view_bytes", default=math.inf)


@contextmanager
def view_bytes(limit: int) -> Iterator[None]:
    """Inside the block, refuse Views of more bytes than this, where that is less than ``LARGEST_VIEW``.

    >>> with view_bytes(1024):
    ...     check_size(1000, "the maps of all images", "pass fewer images")
    Traceback (most recent call last):
    convscope.errors.Refused: the maps of all images would take 0.0 GiB. Next: pass fewer images.
    """
    token = _allowed.set(limit)
    try:
        yield
    finally:
        _allowed.reset(token)


def check_size(values: int, what: str, next_step: str) -> None:
    """Refuse a View that would hold more than ``LARGEST_VIEW`` bytes of float32 ``values``."""
    if values * 4 > min(LARGEST_VIEW, _allowed.get()):
        raise Refused(f"{what} would take {values * 4 / 2**30:.1f} GiB", next_step=next_step)
