"""From one layer's output to a few numbers per image and unit, where the output lies; the map is then dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from convscope.view import Array  # noqa: TC001 - types are checked in tests

if TYPE_CHECKING:
    from collections.abc import Sequence

_LARGE = 4_000_000  # values of a batch that are more than a core's cache holds
_MANY = 0.3


@dataclass(frozen=True, eq=False)
class Reduced:
    """Per image and unit, [image, unit]: extremes and their places, and the mean over positions.

    A place is row · columns + column of the first of equals, or −1 where nobody wants to know it. ``mean_square`` and
    ``zeros`` (how many exact ones) are those of the spot images only, and 0 for the others.
    """

    maximum: Tensor
    maximum_place: Tensor
    minimum: Tensor
    minimum_place: Tensor
    mean: Tensor
    mean_square: Tensor
    zeros: Tensor


@dataclass(frozen=True, eq=False)
class Wanted:
    """Which places are worth finding, per unit: of maxima of at least ``top`` and of minima of at most ``bottom``.

    ``placed`` [image] marks images whose maxima are placed for all units; ``spots`` are the indices of the spot images.
    """

    top: Tensor
    bottom: Tensor
    placed: Tensor
    spots: Sequence[int]


def reduce_output(units: Tensor, wanted: Wanted) -> Reduced:
    """Reduce ``[image, unit, row, column]``.

    >>> anything = Wanted(torch.tensor([-1.0]), torch.tensor([9.0]), torch.tensor([False]), [0])
    >>> found = reduce_output(torch.tensor([[[[1.0, 3.0], [3.0, 0.0]]]]), anything)
    >>> found.maximum.item(), found.maximum_place.item(), found.minimum_place.item(), found.zeros.item()
    (3.0, 1, 3, 1)
    """
    flat = units.detach().flatten(2).float().contiguous()
    positions = flat.shape[2]
    maximum, minimum, total = _extremes_and_sum(flat)
    mean_square = torch.zeros_like(maximum)
    zeros = torch.zeros_like(maximum, dtype=torch.int32)
    for image in wanted.spots:
        mean_square[image] = torch.linalg.vector_norm(flat[image], dim=1).square() / positions
        # Ones and zeros as floats: torch compares into floats, and adds them up, with vector instructions.
        equal = torch.empty_like(flat[image])
        zeros[image] = torch.eq(flat[image], 0, out=equal).sum(1).int()
    if flat.device.type == "cpu":
        worth = (maximum.numpy() >= wanted.top.numpy()) | wanted.placed.numpy()[:, None]
        maximum_place = _places(flat, worth, largest=True)
        minimum_place = _places(flat, minimum.numpy() <= wanted.bottom.numpy(), largest=False)
    else:
        # How many are worth it would have to be known on the host, and the device would wait for that.
        maximum_place, minimum_place = flat.argmax(2).int(), flat.argmin(2).int()
    return Reduced(maximum, maximum_place, minimum, minimum_place, total / positions, mean_square, zeros)


def _extremes_and_sum(flat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Maximum, minimum and sum over the last axis."""
    if flat.device.type != "cpu" or flat.numel() < _LARGE:
        return flat.amax(2), flat.amin(2), flat.sum(2)
    # One image after the other, so that the second and third pass find its maps in the cache.
    found = [(image.amax(1), image.amin(1), image.sum(1)) for image in flat]
    maximum, minimum, total = (torch.stack(each) for each in zip(*found, strict=True))
    return maximum, minimum, total


def _places(flat: Tensor, worth: Array, *, largest: bool) -> Tensor:
    """Where the extremes over the last axis are, the first of equals, of the maps that are worth it; −1 elsewhere."""
    place = np.full(worth.size, -1, np.int32)
    chosen = np.flatnonzero(worth)
    if len(chosen):
        # NumPy finds places with vector instructions, ten times as fast as torch; all of them where copying out the
        # chosen maps would cost more than searching the others too.
        rows = flat.flatten(0, 1)
        every = len(chosen) > _MANY * len(rows)
        searched = (rows if every else rows.index_select(0, torch.from_numpy(chosen))).numpy()
        found = searched.argmax(1) if largest else searched.argmin(1)
        place[chosen] = found[chosen] if every else found
    return torch.from_numpy(place).view(worth.shape)
