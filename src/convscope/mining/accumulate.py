"""Accumulating one layer's reduced outputs over a shard, a block of images at a time, where the outputs lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from convscope.mining.exact import BITS, EMPTY, FINER, SUM_BITS, bins, hashed, on_grid, smallest_bin
from convscope.mining.ranks import Ranks, pack
from convscope.mining.reduce import Block
from convscope.mining.settings import COVARIANCE_UNITS
from convscope.mining.state import Counts, Histogram, LayerState, Sample
from convscope.view import Array  # noqa: TC001 - types are checked in tests

if TYPE_CHECKING:
    from convscope.mining.settings import Grid, Settings
    from convscope.network.layer import Layer

BLOCK = 128  # images between two rankings
_STRIP = 128


class Floor:
    """The worst values that can still enter the ranks, ``top`` and ``bottom`` [unit]: lives as long as its worker.

    Each worker knows only what it has seen itself, so it may look for places in vain, but never misses one.
    """

    def __init__(self, units: int, k: int, device: torch.device) -> None:
        self._key = torch.full((2, units, k), EMPTY, dtype=torch.int64, device=device)
        self.top = torch.full((units,), -torch.inf, device=device)
        self.bottom = torch.full((units,), torch.inf, device=device)

    def raise_to(self, key: Tensor, *, keep: bool) -> None:
        """Take in packed entries [2, unit, rank]; ``keep`` when no more of the same shard will come."""
        k = self._key.shape[2]
        if keep:
            self._key = torch.cat([self._key, key], 2).topk(k, dim=2, largest=False, sorted=True).values
            key = self._key
        for which, (worst, empty) in enumerate(((self.top, -torch.inf), (self.bottom, torch.inf))):
            last = key[which, :, -1]
            bits = ((last >> 32) if which else ~(last >> 32)).to(torch.int32)
            value = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32).masked_fill(last == EMPTY, empty)
            torch.minimum(worst, value, out=worst) if which else torch.maximum(worst, value, out=worst)


class Accumulator:
    """One layer's state while a shard is mined. ``floor`` is read and raised; it lives longer than the shard."""

    def __init__(self, layer: Layer, settings: Settings, grid: Grid, floor: Floor, device: torch.device) -> None:
        self.layer = layer
        self.floor = floor
        self._settings = settings
        self._grid = grid
        self._exponent = torch.from_numpy(grid.exponent).to(device)
        self._square_exponent = torch.from_numpy(grid.square_exponent).to(device)
        units = layer.units
        # What a reduction writes a batch's numbers into; they count once the block is closed over them.
        self.block = Block(BLOCK + settings.batch_size, units, device)
        self._key = torch.full((2, units, settings.k), EMPTY, dtype=torch.int64, device=device)
        self._position = torch.zeros(2, units, settings.k, dtype=torch.int32, device=device)
        self._sums = torch.zeros(9, units, dtype=torch.int64, device=device)
        self._keeps_products = units <= COVARIANCE_UNITS
        self._product = torch.zeros(
            (units, units) if self._keeps_products else (0, 0), dtype=torch.float64, device=device
        )
        self._smallest_bin = smallest_bin(grid.exponent)
        self._maxima = Histogram(0, np.zeros((units, 0), np.int64))
        self._sampled: list[tuple[Array, Array, Array]] = []

    def close_block(self, images: Array, sampled: Array, spots: Array) -> None:
        """Rank and add up the block's first ``len(images)`` images; some are of the sample, some are spot images."""
        count = len(images)
        block = self.block
        maximum, minimum = block.extreme[:, :count]
        mean, mean_square = block.mean[:count], block.mean_square[:count]
        finite = maximum.isfinite() & minimum.isfinite()
        identity = torch.from_numpy(images).to(maximum.device)
        self._rank(0, maximum, identity, finite & (maximum >= self.floor.top))
        self._rank(1, minimum, identity, finite & (minimum <= self.floor.bottom))
        self.floor.raise_to(self._key, keep=False)
        self._add(maximum, mean, finite)
        self._add_spots(mean, mean_square, finite, torch.from_numpy(np.flatnonzero(spots)).to(maximum.device))
        self._maxima = self._maxima.merge(_histogram(maximum, finite, self._smallest_bin))
        if sampled.any():
            chosen = torch.from_numpy(np.flatnonzero(sampled)).to(maximum.device)
            value = maximum[chosen].where(finite[chosen], torch.nan)
            self._sampled.append(
                (
                    images[sampled],
                    value.cpu().numpy().T,
                    block.place[0, :count][chosen].cpu().numpy().astype(np.int64).T,
                )
            )

    def _rank(self, which: int, values: Tensor, identity: Tensor, candidate: Tensor) -> None:
        """Rank the candidates [image, unit], set out in as many columns as the unit with most of them needs."""
        unit, image = candidate.T.nonzero(as_tuple=True)
        if not len(unit):
            return
        counts = torch.bincount(unit, minlength=self.layer.units)
        column = torch.arange(len(unit), device=unit.device) - (counts.cumsum(0) - counts)[unit]
        held, row = torch.unique_consecutive(unit, return_inverse=True)
        k, width = self._settings.k, int(counts.max())
        key = torch.full((len(held), k + width), EMPTY, dtype=torch.int64, device=unit.device)
        place = torch.zeros(len(held), k + width, dtype=torch.int32, device=unit.device)
        key[:, :k], place[:, :k] = self._key[which, held], self._position[which, held]
        key[row, k + column] = pack(values[image, unit], identity[image], descending=which == 0)
        place[row, k + column] = self.block.place[which][image, unit]
        best, order = key.topk(k, dim=1, largest=False, sorted=True)
        self._key[which, held] = best
        self._position[which, held] = place.gather(1, order)

    def _add(self, maximum: Tensor, mean: Tensor, finite: Tensor) -> None:
        known = mean.masked_fill(~finite, 0.0)
        finer, clipped = on_grid(known, self._exponent - FINER, SUM_BITS)
        pooled, _ = on_grid(known, self._exponent, BITS)
        for row, values in zip(self._sums, (finer, pooled, ~finite, (maximum > 0) & finite, clipped), strict=False):
            row += values.sum(0).long()
        if self._keeps_products:
            # Whole numbers below 2^53 throughout, so these products in float64 are exact. Below the diagonal they are
            # the same, so only what is right of each strip's beginning is computed.
            for start in range(0, pooled.shape[1], _STRIP):
                strip = self._product[start : start + _STRIP, start:]
                strip.addmm_(pooled[:, start : start + _STRIP].T, pooled[:, start:])

    def _add_spots(self, mean: Tensor, mean_square: Tensor, finite: Tensor, spots: Tensor) -> None:
        known = finite[spots]
        pooled, _ = on_grid(mean[spots].masked_fill(~known, 0.0), self._exponent - FINER, SUM_BITS)
        square, clipped = on_grid(mean_square[spots].masked_fill(~known, 0.0), self._square_exponent, SUM_BITS)
        totals = (clipped, pooled, square, self.block.zeros[spots].masked_fill(~known, 0), known)
        for row, values in zip(self._sums[4:], totals, strict=True):
            row += values.sum(0).long()

    def state(self, images: int) -> LayerState:
        """The shard's state of this layer. Nothing can be added after it."""
        self.floor.raise_to(self._key, keep=True)
        units, k = self.layer.units, self._settings.k
        key, position = self._key.cpu().numpy(), self._position.cpu().numpy().astype(np.int64)
        sums = [each.cpu().numpy().copy() for each in self._sums]
        total, pooled, not_finite, positive, clipped, spot_sum, spot_square, spot_zeros, spot_images = sums
        upper = np.triu_indices(units) if self._keeps_products else None
        product = self._product.cpu().numpy()[upper] if upper is not None else np.zeros(0)
        return LayerState(
            rows=self.layer.rows,
            columns=self.layer.columns,
            images=images,
            top=Ranks(key[0].reshape(units, k), position[0].reshape(units, k), True),
            bottom=Ranks(key[1].reshape(units, k), position[1].reshape(units, k), False),
            sample=self._sample(),
            maxima=self._maxima,
            counts=Counts(
                sum=total,
                pooled_sum=pooled,
                product=product.astype(np.int64),
                spot_sum=spot_sum,
                spot_square_sum=spot_square,
                spot_zeros=spot_zeros,
                spot_images=spot_images,
                not_finite=not_finite,
                positive=positive,
                clipped=clipped,
            ),
            exponent=self._grid.exponent,
            square_exponent=self._grid.square_exponent,
            sample_size=self._settings.sample,
        )

    def _sample(self) -> Sample:
        units = self.layer.units
        nothing = Sample(np.zeros(0, np.int64), np.zeros((units, 0), np.float32), np.zeros((units, 0), np.int64))
        parts = [Sample(*each) for each in self._sampled]
        for part in parts:
            nothing = nothing.merge(part, self._settings.sample)
        return nothing


def _histogram(maximum: Tensor, finite: Tensor, smallest: int) -> Histogram:
    """How many of the block's maxima ``[image, unit]`` lie in each bin."""
    everything = bool(finite.all())  # nearly always, and it saves the searching
    found = bins(maximum if everything else maximum.nan_to_num(0.0, 0.0, 0.0), smallest)
    used = found if everything else found[finite]
    units = maximum.shape[1]
    if not used.numel():
        return Histogram(0, np.zeros((units, 0), np.int64))
    first, last = (int(each) for each in used.aminmax())
    width = last - first + 1
    cell = found + (torch.arange(units, dtype=torch.int32, device=maximum.device) * width - first)
    counted = torch.bincount((cell if everything else cell[finite]).flatten(), minlength=units * width)
    return Histogram(first, counted.reshape(units, width).cpu().numpy())


def sample_ids(count: int, size: int) -> Array:
    """The ids of the ``size`` images of the smallest hashes among ids 0 to ``count`` − 1.

    Those of a smaller set that are in the sample of a larger one were in the smaller one's sample.

    >>> sample_ids(10, 3).tolist(), sample_ids(20, 3).tolist()
    ([3, 5, 7], [10, 18, 3])
    """
    order = np.argsort(hashed(np.arange(count)), kind="stable")
    return order[:size]


__all__ = ["BLOCK", "Accumulator", "Floor", "sample_ids"]
