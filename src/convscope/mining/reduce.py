"""From one layer's output to a few numbers per image and unit, on the device where the output lies; the map is dropped.

Positions are looked for only where an image may enter a unit's ranks, and then only in the block of rows that holds the
maximum: finding where a maximum is costs ten times as much as finding it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK = 448  # positions in a block, about: long enough for vector instructions, short enough to search


@dataclass(frozen=True)
class Wanted:
    """Which places are worth finding, per unit of a layer: maxima of at least ``top``, minima of at most ``bottom``.

    ``everywhere`` [image] marks images whose maxima are placed for all units.
    """

    top: Tensor
    bottom: Tensor
    everywhere: Tensor


@dataclass(frozen=True, eq=False)
class Reduced:
    """Per image and unit ``[image, unit]``: extremes and their places (−1 where not looked for), mean, mean square.

    ``zeros`` counts exact zeros of the images asked for, 0 for the others.
    """

    maximum: Tensor
    maximum_place: Tensor
    minimum: Tensor
    minimum_place: Tensor
    mean: Tensor
    mean_square: Tensor
    zeros: Tensor


def reduce_output(units: Tensor, wanted: Wanted, count_zeros: Tensor) -> Reduced:
    """Reduce ``[image, unit, row, column]``; ``count_zeros`` are indices of images."""
    rows, columns = units.shape[2], units.shape[3]
    flat = units.detach().reshape(*units.shape[:2], rows * columns)
    if flat.dtype != torch.float32:
        flat = flat.float()
    blocks = flat.unflatten(2, (-1, _block_rows(rows, columns) * columns))
    maximum, maximum_place = _extreme(blocks, wanted.top, wanted.everywhere, largest=True)
    minimum, minimum_place = _extreme(blocks, wanted.bottom, torch.zeros_like(wanted.everywhere), largest=False)
    positions = float(rows * columns)
    zeros = torch.zeros(maximum.shape, dtype=torch.int64, device=flat.device)
    if len(count_zeros):
        nonzero = torch.linalg.vector_norm(flat[count_zeros], 0, dim=2)
        zeros[count_zeros] = rows * columns - nonzero.long()
    mean_square = torch.linalg.vector_norm(flat, dim=2).square() / positions
    return Reduced(maximum, maximum_place, minimum, minimum_place, flat.sum(2) / positions, mean_square, zeros)


def _extreme(blocks: Tensor, threshold: Tensor, everywhere: Tensor, *, largest: bool) -> tuple[Tensor, Tensor]:
    """The extreme ``[image, unit]`` of ``[image, unit, block, position]`` and its place: the first of equals."""
    images, units, count, length = blocks.shape
    by_block = blocks.amax(3) if largest else blocks.amin(3)
    extreme = by_block.flatten(2) if count > 1 else by_block
    extreme = (extreme.amax(2) if largest else extreme.amin(2)) if count > 1 else extreme.squeeze(2)
    place = torch.full((images, units), -1, dtype=torch.int64, device=blocks.device)
    if blocks.is_cuda:
        # How many are worth looking for would have to be known on the host, and the GPU would wait for that.
        flat = torch.arange(images * units, device=blocks.device)
    else:
        worth = (extreme >= threshold if largest else extreme <= threshold) | everywhere[:, None]
        flat = worth.flatten().nonzero().squeeze(1)
    if not len(flat):
        return extreme, place
    held = by_block.reshape(-1, count)
    block = (held[flat].argmax(1) if largest else held[flat].argmin(1)) if count > 1 else torch.zeros_like(flat)
    searched = blocks.reshape(-1, length)[flat * count + block]
    inside = searched.argmax(1) if largest else searched.argmin(1)
    place.view(-1)[flat] = block * length + inside
    return extreme, place


def _block_rows(rows: int, columns: int) -> int:
    """Rows of a block: a divisor of all rows, so that blocks are equal."""
    fitting = [each for each in range(1, rows + 1) if rows % each == 0]
    return min(fitting, key=lambda each: abs(each * columns - _BLOCK))
