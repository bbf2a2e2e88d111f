"""Accumulating one layer's reduced outputs over a shard, a block of images at a time, where the outputs lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from convscope.mining.exact import hashed
from convscope.mining.ranks import Ranks
from convscope.mining.reduce import Block
from convscope.mining.settings import COVARIANCE_UNITS
from convscope.mining.state import Counts, LayerState, Sample
from convscope.mining.tally import Tally, tallying
from convscope.view import Array  # noqa: TC001 - types are checked in tests

if TYPE_CHECKING:
    from convscope.mining.settings import Grid, Settings
    from convscope.mining.tally import Floor
    from convscope.network.layer import Layer

BLOCK = 128  # images between two rankings
_STRIP = 128


class Accumulator:
    """One layer's state while a shard is mined. ``floor`` is read and raised; it lives longer than the shard."""

    def __init__(self, layer: Layer, settings: Settings, grid: Grid, floor: Floor, device: torch.device) -> None:
        self.layer = layer
        self.floor = floor
        self._settings = settings
        self._grid = grid
        units = layer.units
        # What a reduction writes a batch's numbers into; they count once the block is closed over them.
        self.block = Block(BLOCK + settings.batch_size, units, device)
        self._take = tallying(settings.reduction)
        self._tally = Tally(units, settings.k, grid, floor, device)
        self._keeps_products = units <= COVARIANCE_UNITS
        self._product = torch.zeros(
            (units, units) if self._keeps_products else (0, 0), dtype=torch.float64, device=device
        )
        self._sampled: list[tuple[Array, Array, Array]] = []

    def close_block(self, images: Array, sampled: Array, spots: Array) -> None:
        """Rank and add up the block's first ``len(images)`` images; some are of the sample, some are spot images."""
        device = self._product.device
        identity, spot = torch.from_numpy(images).to(device), torch.from_numpy(np.flatnonzero(spots)).to(device)
        pooled = self._take(self._tally, self.block, identity, spot)
        if self._keeps_products:
            # Whole numbers below 2^53 throughout, so these products in float64 are exact. Below the diagonal they are
            # the same, so only what is right of each strip's beginning is computed.
            for start in range(0, pooled.shape[1], _STRIP):
                strip = self._product[start : start + _STRIP, start:]
                strip.addmm_(pooled[:, start : start + _STRIP].T, pooled[:, start:])
        if sampled.any():
            chosen = torch.from_numpy(np.flatnonzero(sampled)).to(device)
            maximum, minimum = self.block.extreme[0][chosen], self.block.extreme[1][chosen]
            value = maximum.where(maximum.isfinite() & minimum.isfinite(), torch.nan)
            place = self.block.place[0][chosen].cpu().numpy().astype(np.int64)
            self._sampled.append((images[sampled], value.cpu().numpy().T, place.T))

    def state(self, images: int) -> LayerState:
        """The shard's state of this layer. Nothing can be added after it."""
        tally = self._tally
        self.floor.keep(tally.key)
        units, k = self.layer.units, self._settings.k
        key, position = tally.key.cpu().numpy(), tally.position.cpu().numpy().astype(np.int64)
        sums = [each.cpu().numpy().copy() for each in tally.sums]
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
            maxima=tally.maxima,
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


def sample_ids(count: int, size: int) -> Array:
    """The ids of the ``size`` images of the smallest hashes among ids 0 to ``count`` − 1.

    Those of a smaller set that are in the sample of a larger one were in the smaller one's sample.

    >>> sample_ids(10, 3).tolist(), sample_ids(20, 3).tolist()
    ([3, 5, 7], [10, 18, 3])
    """
    order = np.argsort(hashed(np.arange(count)), kind="stable")
    return order[:size]


__all__ = ["BLOCK", "Accumulator", "sample_ids"]
