"""From one layer's output to a few numbers per image and unit, where the output lies; the map is then dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence


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
    maximum, minimum = flat.amax(2), flat.amin(2)
    mean_square = torch.zeros_like(maximum)
    zeros = torch.zeros_like(maximum, dtype=torch.int32)
    for image in wanted.spots:
        mean_square[image] = torch.linalg.vector_norm(flat[image], dim=1).square() / positions
        # Ones and zeros as floats: torch compares into floats, and adds them up, with vector instructions.
        equal = torch.empty_like(flat[image])
        zeros[image] = torch.eq(flat[image], 0, out=equal).sum(1).int()
    return Reduced(
        maximum,
        _places(flat, (maximum >= wanted.top) | wanted.placed[:, None], largest=True),
        minimum,
        _places(flat, minimum <= wanted.bottom, largest=False),
        flat.sum(2) / positions,
        mean_square,
        zeros,
    )


def _places(flat: Tensor, worth: Tensor, *, largest: bool) -> Tensor:
    """Where the extremes over the last axis are, the first of equals, for the maps that are worth it."""
    if flat.device.type != "cpu":
        # How many are worth it would have to be known on the host, and the device would wait for that.
        return (flat.argmax(2) if largest else flat.argmin(2)).int()
    place = torch.full(worth.shape, -1, dtype=torch.int32)
    chosen = worth.flatten().nonzero().squeeze(1)
    if len(chosen):
        rows = flat.flatten(0, 1)
        searched = rows if len(chosen) == len(rows) else rows.index_select(0, chosen)
        # NumPy finds places with vector instructions, ten times as fast as torch.
        numbers = searched.numpy()
        found = numbers.argmax(1) if largest else numbers.argmin(1)
        place.view(-1)[chosen] = torch.from_numpy(found).int()
    return place
