"""Exact counts of floating-point values by sign and power of two.

The bins are those of the number format itself, so nothing need be known about the values beforehand, histograms of any
two steps can be compared, and a count is never an estimate: NaN, infinities and zeros are counted, not dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from convscope.errors import Refused

if TYPE_CHECKING:
    from convscope.view import Array


class _Layout(NamedTuple):
    """A floating format: the integer type of its width, and how many bits fraction and exponent have."""

    integer: torch.dtype
    fraction: int
    exponent: int

    @property
    def bias(self) -> int:
        return (1 << (self.exponent - 1)) - 1

    @property
    def infinity(self) -> int:
        return ((1 << self.exponent) - 1) << self.fraction

    @property
    def negative_zero(self) -> int:
        return -(1 << (self.fraction + self.exponent))


_LAYOUTS = {
    torch.float64: _Layout(torch.int64, 52, 11),
    torch.float32: _Layout(torch.int32, 23, 8),
    torch.bfloat16: _Layout(torch.int16, 7, 8),
    torch.float16: _Layout(torch.int16, 10, 5),
}
_CHUNK = 2**18  # values counted at once on a processor: they stay in its cache


@dataclass(frozen=True, eq=False)
class ExponentCounts:
    """How many values lie in ``[2^e, 2^(e+1))`` for each exponent ``e``, for either sign, and what lies in no bin.

    ``positive`` and ``negative`` int64 [exponent] begin at ``first``. Values below the format's smallest normal number
    are counted at the exponent before that number's, all together.

    >>> counts = ExponentCounts.of(torch.tensor([1.5, -0.25, 0.0, float("nan")]))
    >>> counts.first, counts.negative.tolist(), counts.positive.tolist(), counts.zero, counts.nan
    (-2, [1, 0, 0], [0, 0, 1], 1, 1)
    """

    first: int
    positive: Array
    negative: Array
    zero: int = 0
    nan: int = 0
    positive_infinity: int = 0
    negative_infinity: int = 0

    @classmethod
    def of(cls, tensor: torch.Tensor, zeros: int = 0) -> ExponentCounts:
        """Count one tensor, and so many zeros that it doesn't hold (of a sparse one)."""
        return cls.read(count(tensor).cpu().numpy(), tensor.dtype, zeros)

    @classmethod
    def read(cls, counted: Array, dtype: torch.dtype, zeros: int = 0) -> ExponentCounts:
        """From what :func:`count` left on the device."""
        layout = _layout(dtype)
        bins, (zero, negative_zero, infinity, negative_infinity) = counted[:-4], counted[-4:].tolist()
        positive, negative = bins.reshape(2, -1).astype(np.int64)
        # The first bin of each sign holds its zero too, the last one infinity and NaN.
        positive[0] -= zero
        negative[0] -= negative_zero
        nan = int(positive[-1] + negative[-1]) - infinity - negative_infinity
        positive, negative = positive[:-1], negative[:-1]
        used = np.flatnonzero(positive + negative)
        low, high = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
        first = low - layout.bias if len(used) else 0
        return cls(
            first,
            positive[low:high],
            negative[low:high],
            zero + negative_zero + zeros,
            nan,
            infinity,
            negative_infinity,
        )

    @property
    def not_finite(self) -> int:
        """How many values are NaN or infinite."""
        return self.nan + self.positive_infinity + self.negative_infinity

    @property
    def total(self) -> int:
        """All values that were counted."""
        return int(self.positive.sum() + self.negative.sum()) + self.zero + self.not_finite

    def over(self, first: int, bins: int) -> tuple[Array, Array]:
        """``positive`` and ``negative`` over other exponents, which must hold all of these."""
        wide = np.zeros((2, bins), np.int64)
        start = self.first - first
        wide[0, start : start + len(self.positive)] = self.positive
        wide[1, start : start + len(self.negative)] = self.negative
        return wide[0], wide[1]


def shared_exponents(several: list[ExponentCounts]) -> tuple[int, int]:
    """The first exponent and the number of bins that hold all of these."""
    used = [each for each in several if len(each.positive)]
    if not used:
        return 0, 0
    first = min(each.first for each in used)
    return first, max(each.first + len(each.positive) for each in used) - first


def count(tensor: torch.Tensor) -> torch.Tensor:
    """Count where the tensor lies, without waiting for the device; :meth:`ExponentCounts.read` makes sense of it.

    Integers: one for each sign and exponent, then the zeros, negative zeros, infinities and negative infinities. All
    comparisons are of bits, so that a processor set to flush small numbers to zero counts them all the same.
    """
    layout = _layout(tensor.dtype)
    bits = _in_memory_order(tensor.detach()).view(layout.integer)
    return _count_on_cpu(bits, layout) if bits.device.type == "cpu" else _count_on_device(bits, layout)


def _count_on_cpu(bits: torch.Tensor, layout: _Layout) -> torch.Tensor:
    values = bits.numpy()
    size = 2 ** (layout.exponent + 1)
    total = np.zeros(size + 4, np.int64)
    for start in range(0, len(values), _CHUNK):
        chunk = values[start : start + _CHUNK]
        bins = np.bincount((chunk >> layout.fraction) & (size - 1), minlength=size)
        total[:size] += bins
        specials = (
            (0, 0, 0),
            (1, size // 2, layout.negative_zero),
            (2, size // 2 - 1, layout.infinity),
            (3, size - 1, layout.infinity + layout.negative_zero),
        )
        for place, bin_, pattern in specials:
            if bins[bin_]:
                total[size + place] += np.count_nonzero(chunk == pattern)
    return torch.from_numpy(total)


def _count_on_device(bits: torch.Tensor, layout: _Layout) -> torch.Tensor:
    size = 2 ** (layout.exponent + 1)
    index = torch.bitwise_and(torch.bitwise_right_shift(bits, layout.fraction), size - 1).to(torch.int32)
    bins = torch.histc(index, bins=size, min=0, max=size - 1)
    patterns = (0, layout.negative_zero, layout.infinity, layout.infinity + layout.negative_zero)
    specials = torch.stack([torch.count_nonzero(bits == pattern) for pattern in patterns])
    return torch.cat([bins.to(torch.int64), specials])


def _layout(dtype: torch.dtype) -> _Layout:
    if dtype not in _LAYOUTS:
        raise Refused(f"{str(dtype).removeprefix('torch.')} values have no histogram by exponent")
    return _LAYOUTS[dtype]


def _in_memory_order(tensor: torch.Tensor) -> torch.Tensor:
    """All values in one row, in whichever order needs no copy."""
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.reshape(-1)


__all__ = ["ExponentCounts", "count", "shared_exponents"]
