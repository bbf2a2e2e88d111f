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
    """Per image and unit, [image, unit]: extremes and their places, mean and mean square over positions, exact zeros.

    A place is row · columns + column of the first of equals. Zeros are counted of the images asked for; 0 for others.
    """

    maximum: Tensor
    maximum_place: Tensor
    minimum: Tensor
    minimum_place: Tensor
    mean: Tensor
    mean_square: Tensor
    zeros: Tensor


def reduce_output(units: Tensor, count_zeros: Sequence[int]) -> Reduced:
    """Reduce ``[image, unit, row, column]``; ``count_zeros`` are the indices of the images whose zeros are counted.

    >>> found = reduce_output(torch.tensor([[[[1.0, 3.0], [3.0, 0.0]]]]), [0])
    >>> found.maximum.item(), found.maximum_place.item(), found.minimum_place.item(), found.zeros.item()
    (3.0, 1, 3, 1)
    """
    flat = units.detach().flatten(2).float().contiguous()
    positions = flat.shape[2]
    maximum, maximum_place = _extreme(flat, largest=True)
    minimum, minimum_place = _extreme(flat, largest=False)
    zeros = torch.zeros(maximum.shape, dtype=torch.int32, device=flat.device)
    for image in count_zeros:
        # Ones and zeros as floats: torch compares into floats, and adds them up, with vector instructions.
        equal = torch.empty_like(flat[image])
        zeros[image] = torch.eq(flat[image], 0, out=equal).sum(1).int()
    return Reduced(
        maximum,
        maximum_place,
        minimum,
        minimum_place,
        flat.sum(2) / positions,
        torch.linalg.vector_norm(flat, dim=2).square() / positions,
        zeros,
    )


def _extreme(flat: Tensor, *, largest: bool) -> tuple[Tensor, Tensor]:
    """The extreme over the last axis and the place of the first of equals."""
    if flat.device.type == "cpu":
        # NumPy finds places with vector instructions: as fast as finding the value, and ten times as fast as torch.
        numbers = flat.numpy()
        place = torch.from_numpy(numbers.argmax(2) if largest else numbers.argmin(2))
        return flat.gather(2, place[:, :, None]).squeeze(2), place
    found = flat.max(2) if largest else flat.min(2)
    return found.values, found.indices
