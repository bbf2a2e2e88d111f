"""Ranks: the k images that excite each unit most (or least), in a total order that merging can't disturb.

The order is (−value, image id); a unit has at most one entry per image. Both are packed into one integer, so that
ranking is sorting integers, no two entries are equal, and the k smallest of a union are the same however it was made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from convscope.mining.exact import EMPTY, from_ordered, ordered
from convscope.view import Array  # noqa: TC001 - types are checked in tests

_IMAGE = (1 << 32) - 1
LARGEST_IMAGE = _IMAGE - 1


def pack(values: Tensor, images: Tensor, *, descending: bool) -> Tensor:
    """One int64 for each (value, image): the better the value, then the lower the image's id, the smaller.

    >>> keys = pack(torch.tensor([[3.0, 5.0, 5.0]]), torch.tensor([[0, 2, 1]]), descending=True)
    >>> keys.argsort(1).tolist()
    [[2, 1, 0]]
    """
    code = ordered(values).long()
    return ((~code if descending else code) << 32) + images


@dataclass(frozen=True, eq=False)
class Ranks:
    """Packed entries ``key`` [unit, rank], best first, and each one's ``position`` (row · columns + column).

    Places that nothing fills yet hold :data:`EMPTY` and position 0.
    """

    key: Array
    position: Array
    descending: bool

    @classmethod
    def none(cls, units: int, k: int, *, descending: bool) -> Ranks:
        """Nothing ranked yet."""
        return cls(np.full((units, k), EMPTY, np.int64), np.zeros((units, k), np.int64), descending)

    @classmethod
    def of(cls, value: Array, image: Array, position: Array, *, k: int, descending: bool) -> Ranks:
        """Ranks from what :attr:`value`, :attr:`image` and ``position`` gave; ``image`` −1 is an empty place."""
        keys = pack(
            torch.from_numpy(np.ascontiguousarray(value, np.float32)),
            torch.from_numpy(np.ascontiguousarray(image, np.int64)),
            descending=descending,
        ).numpy()
        keys = np.where(image < 0, EMPTY, keys)
        short = k - keys.shape[1]
        if short > 0:
            keys = np.pad(keys, ((0, 0), (0, short)), constant_values=EMPTY)
            position = np.pad(position, ((0, 0), (0, short)))
        return cls(keys, position.astype(np.int64), descending)

    @property
    def filled(self) -> Array:
        """Which places hold an image, ``[unit, rank]``."""
        filled: Array = self.key != EMPTY
        return filled

    @property
    def value(self) -> Array:
        """The unit's value for each image, float32 ``[unit, rank]``; NaN where a place is empty."""
        code = self.key >> 32
        values = from_ordered(~code if self.descending else code)
        shown: Array = np.where(self.filled, values, np.float32(np.nan)).astype(np.float32)
        return shown

    @property
    def image(self) -> Array:
        """Image ids, int64 ``[unit, rank]``; −1 where a place is empty."""
        image: Array = np.where(self.filled, self.key & _IMAGE, -1)
        return image

    def merge(self, other: Ranks) -> Ranks:
        """The best k of both. Associative and commutative; the same entry in both counts once."""
        key = np.concatenate([self.key, other.key], axis=1)
        position = np.concatenate([self.position, other.position], axis=1)
        order = key.argsort(axis=1, kind="stable")
        key, position = np.take_along_axis(key, order, 1), np.take_along_axis(position, order, 1)
        twice = np.zeros(key.shape, bool)
        twice[:, 1:] = (key[:, 1:] == key[:, :-1]) & (key[:, 1:] != EMPTY)
        if twice.any():
            key, position = np.where(twice, EMPTY, key), np.where(twice, 0, position)
            order = key.argsort(axis=1, kind="stable")
            key, position = np.take_along_axis(key, order, 1), np.take_along_axis(position, order, 1)
        k = self.key.shape[1]
        return Ranks(key[:, :k].copy(), position[:, :k].copy(), self.descending)

    def floor(self) -> Array:
        """The worst value that a new image must at least equal to be ranked, float32 ``[unit]``."""
        last = self.value[:, -1]
        return np.where(np.isnan(last), np.float32(-np.inf if self.descending else np.inf), last).astype(np.float32)
