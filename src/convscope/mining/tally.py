"""From a block of images' numbers to what a shard knows of each unit: ranks, sums and a histogram, all whole numbers.

Twice, as :mod:`convscope.mining.reduce`: in torch, where the outputs lie, and compiled, for the processor. Both give
the same bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from convscope.mining.exact import BITS, EMPTY, FINER, SUM_BITS, bins, on_grid, smallest_bin
from convscope.mining.ranks import pack
from convscope.mining.state import Histogram

if TYPE_CHECKING:
    from collections.abc import Callable

    from convscope.mining.reduce import Block, Reduction
    from convscope.mining.settings import Grid
    from convscope.view import Array

_SUMS = 9
_FEW = 8  # one in so many: below it, candidates are ranked one by one


class Floor:
    """The worst values that can still enter the ranks, ``top`` and ``bottom`` [unit]: lives as long as its worker.

    Each worker knows only what it has seen itself, so it may look for places in vain, but never misses one.
    """

    def __init__(self, units: int, k: int, device: torch.device) -> None:
        self._key = torch.full((2, units, k), EMPTY, dtype=torch.int64, device=device)
        self.top = torch.full((units,), -torch.inf, device=device)
        self.bottom = torch.full((units,), torch.inf, device=device)

    def raise_to(self, key: Tensor) -> None:
        """Take in packed entries [2, unit, rank], of which more may come from the same shard."""
        for which, (worst, empty) in enumerate(((self.top, -torch.inf), (self.bottom, torch.inf))):
            last = key[which, :, -1]
            bits = ((last >> 32) if which else ~(last >> 32)).to(torch.int32)
            value = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32).masked_fill(last == EMPTY, empty)
            torch.minimum(worst, value, out=worst) if which else torch.maximum(worst, value, out=worst)

    def keep(self, key: Tensor) -> None:
        """Take in a shard's last entries: the next shard needs nothing worse than the best of all so far."""
        k = self._key.shape[2]
        self._key = torch.cat([self._key, key], 2).topk(k, dim=2, largest=False, sorted=True).values
        self.raise_to(self._key)


class Tally:
    """What a shard knows of a layer so far.

    ``key`` and ``position`` [2, unit, rank] are the packed entries of maxima and of minima, best first. ``sums`` [9,
    unit] are of the means on the finer grid and on the coarser, of images that aren't finite, that excite the unit, and
    that were clipped; then, of the spot images, of means, mean squares, zeros and images. ``maxima`` is the histogram.
    """

    def __init__(self, units: int, k: int, grid: Grid, floor: Floor, device: torch.device) -> None:
        self.floor = floor
        self.exponent = torch.from_numpy(grid.exponent).to(device)
        self.square_exponent = torch.from_numpy(grid.square_exponent).to(device)
        self.smallest_bin = smallest_bin(grid.exponent)
        self.key = torch.full((2, units, k), EMPTY, dtype=torch.int64, device=device)
        self.position = torch.zeros(2, units, k, dtype=torch.int32, device=device)
        self.sums = torch.zeros(_SUMS, units, dtype=torch.int64, device=device)
        self.maxima = Histogram(0, np.zeros((units, 0), np.int64))


def tallying(name: Reduction) -> Callable[[Tally, Block, Tensor, Tensor], Tensor]:
    """What counts blocks that were reduced by the reduction called ``name``."""
    return tally_with_numba if name == "numba" else tally_with_torch


# ---- in torch --------------------------------------------------------------------------------------------------


def tally_with_torch(tally: Tally, block: Block, images: Tensor, spots: Tensor) -> Tensor:
    """Count the first images of ``block``, whose ids are ``images``; ``spots`` are the places of spot images.

    Returns the means ``[image, unit]`` on the coarser grid, whole numbers in float64.
    """
    count = len(images)
    maximum, minimum = block.extreme[:, :count]
    mean, mean_square = block.mean[:count], block.mean_square[:count]
    finite = maximum.isfinite() & minimum.isfinite()
    _rank(tally, block, 0, maximum, images, finite & (maximum >= tally.floor.top))
    _rank(tally, block, 1, minimum, images, finite & (minimum <= tally.floor.bottom))
    tally.floor.raise_to(tally.key)
    tally.maxima = tally.maxima.merge(_histogram(maximum, finite, tally.smallest_bin))
    known = mean.masked_fill(~finite, 0.0)
    finer, clipped = on_grid(known, tally.exponent - FINER, SUM_BITS)
    pooled, _ = on_grid(known, tally.exponent, BITS)
    _add(tally.sums[:5], finer, pooled, ~finite, (maximum > 0) & finite, clipped)
    known = finite[spots]
    finer, _ = on_grid(mean[spots].masked_fill(~known, 0.0), tally.exponent - FINER, SUM_BITS)
    square, clipped = on_grid(mean_square[spots].masked_fill(~known, 0.0), tally.square_exponent, SUM_BITS)
    _add(tally.sums[4:], clipped, finer, square, block.zeros[spots].masked_fill(~known, 0), known)
    return pooled


def _rank(tally: Tally, block: Block, which: int, values: Tensor, identity: Tensor, candidate: Tensor) -> None:
    """Rank the candidates [image, unit], set out in as many columns as the unit with most of them needs."""
    unit, image = candidate.T.nonzero(as_tuple=True)
    if not len(unit):
        return
    counts = torch.bincount(unit, minlength=values.shape[1])
    column = torch.arange(len(unit), device=unit.device) - (counts.cumsum(0) - counts)[unit]
    held, row = torch.unique_consecutive(unit, return_inverse=True)
    k, width = tally.key.shape[2], int(counts.max())
    key = torch.full((len(held), k + width), EMPTY, dtype=torch.int64, device=unit.device)
    place = torch.zeros(len(held), k + width, dtype=torch.int32, device=unit.device)
    key[:, :k], place[:, :k] = tally.key[which, held], tally.position[which, held]
    key[row, k + column] = pack(values[image, unit], identity[image], descending=which == 0)
    place[row, k + column] = block.place[which][image, unit]
    best, order = key.topk(k, dim=1, largest=False, sorted=True)
    tally.key[which, held] = best
    tally.position[which, held] = place.gather(1, order)


def _histogram(maximum: Tensor, finite: Tensor, smallest: int) -> Histogram:
    """How many of the block's maxima ``[image, unit]`` lie in each bin."""
    found = bins(maximum.nan_to_num(0.0, 0.0, 0.0), smallest)
    used = found[finite]
    units = maximum.shape[1]
    if not used.numel():
        return Histogram(0, np.zeros((units, 0), np.int64))
    first, last = (int(each) for each in used.aminmax())
    width = last - first + 1
    cell = found + (torch.arange(units, dtype=torch.int32, device=maximum.device) * width - first)
    counted = torch.bincount(cell[finite], minlength=units * width)
    return Histogram(first, counted.reshape(units, width).cpu().numpy())


def _add(sums: Tensor, *values: Tensor) -> None:
    for row, each in zip(sums, values, strict=True):
        row += each.sum(0).long()


# ---- compiled --------------------------------------------------------------------------------------------------


def tally_with_numba(tally: Tally, block: Block, images: Tensor, spots: Tensor) -> Tensor:
    """The same in a few passes, for blocks in the processor's own memory."""
    from convscope.mining.compiled import add_block, count_bins

    count = len(images)
    bits = block.extreme[:, :count].view(torch.int32).numpy()
    spot = np.zeros(count, bool)
    spot[spots.numpy()] = True
    pooled = torch.empty(bits.shape[1:], dtype=torch.float64)
    found = np.empty(bits.shape[1:], np.int32)
    first, last = add_block(
        bits,
        block.mean.numpy(),
        block.mean_square.numpy(),
        block.zeros.numpy(),
        spot,
        np.ldexp(1.0, -tally.exponent.numpy()),
        np.ldexp(1.0, -tally.square_exponent.numpy()),
        tally.smallest_bin,
        tally.sums.numpy(),
        pooled.numpy(),
        found,
    )
    if first <= last:
        tally.maxima = tally.maxima.widened(first, last)
        count_bins(found, tally.maxima.first, tally.maxima.count)
    candidates = (block.extreme[0, :count] >= tally.floor.top), (block.extreme[1, :count] <= tally.floor.bottom)
    for which, candidate in enumerate(candidates):
        _rank_compiled(tally, which, bits[which], found, block.place[which].numpy(), images.numpy(), candidate.numpy())
    tally.floor.raise_to(tally.key)
    return pooled


def _rank_compiled(
    tally: Tally, which: int, bits: Array, found: Array, place: Array, images: Array, candidate: Array
) -> None:
    """Few candidates enter their ranks one by one; many are sorted, by NumPy's vector instructions, and merged."""
    from convscope.mining.compiled import list_entries, merge_entries, rank_few

    key, position = tally.key[which].numpy(), tally.position[which].numpy()
    few = np.count_nonzero(candidate) * _FEW < candidate.size
    if few:
        rank_few(bits, which, found, candidate, place, images, key, position)
        return
    order = images.argsort()
    entries = np.empty(bits.T.shape, np.int64)
    list_entries(bits, which, found, candidate, order, entries)
    entries.sort(axis=1)
    merge_entries(entries, order, images, place, key, position)


__all__ = ["Floor", "Tally", "tallying"]
