"""Deletion and insertion (Petsiuk et al. 2018): what a network answers as a map's most important places go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from convscope.view import Array  # noqa: TC001 - types are checked in tests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True, eq=False)
class Curves:
    """The answer ``[curve, step]`` as tiles are deleted, and as they are inserted; step 0 is before the first."""

    deletion: Float[Array, "curve step"]
    insertion: Float[Array, "curve step"]


def tile_side(rows: int, columns: int) -> int:
    """Pixels along a tile's side, so that the shorter side of an image holds about 28: 8 for 224 × 224, 1 below 56.

    >>> tile_side(224, 224), tile_side(64, 64), tile_side(9, 7)
    (8, 2, 1)
    """
    return max(1, min(rows, columns) // 28)


def tile_ranks(
    importance: Float[Tensor, "curve row column"], side: int, seed: int
) -> tuple[Int[Tensor, "curve row column"], int]:
    """When each pixel's turn comes, 0 first, and how many turns there are: tiles by their mean importance, falling.

    A tile is ``side`` × ``side`` pixels, less at the lower and right border. Equal tiles come in an order that the seed
    draws: in reading order, a map that is zero almost everywhere would seem to know something about the top of images.
    """
    tiles = F.avg_pool2d(importance[:, None], side, ceil_mode=True)[:, 0]
    drawn = torch.randperm(tiles[0].numel(), generator=torch.Generator().manual_seed(seed))
    order = drawn[tiles.flatten(1)[:, drawn].argsort(dim=1, descending=True, stable=True)]
    ranks = torch.empty_like(order)
    ranks.scatter_(1, order, torch.arange(order.shape[1]).expand_as(order))
    spread = ranks.reshape(tiles.shape).repeat_interleave(side, dim=1).repeat_interleave(side, dim=2)
    return spread[:, : importance.shape[1], : importance.shape[2]], order.shape[1]


def turns(steps: int, tiles: int) -> list[int]:
    """How many tiles are gone at each step: from none to all, evenly.

    >>> turns(4, 9)
    [0, 2, 5, 7, 9]
    """
    return [(2 * step * tiles + steps) // (2 * steps) for step in range(steps + 1)]


def perturbation_curves(
    image: Float[Tensor, "channel row column"],
    fill: Float[Tensor, "channel row column"],
    importance: Float[Tensor, "curve row column"],
    answer: Callable[[Tensor], Tensor],
    *,
    steps: int,
    side: int,
    seed: int,
    batch: int,
) -> Curves:
    """One image's curves: ``answer`` maps images ``[image, channel, row, column]`` to one number each.

    Deletion begins with the image and ends with ``fill``, insertion the other way round; both take the places in the
    order of falling importance. The two ends are the same for all curves and are computed once.
    """
    ranks, tiles = tile_ranks(importance.cpu(), side, seed)
    ranks = ranks.to(image.device)
    gone = turns(steps, tiles)
    inner = range(1, steps)
    wanted = [(insert, curve, step) for insert in (0, 1) for curve in range(len(ranks)) for step in inner]
    values = torch.empty((2, len(ranks), steps + 1), dtype=torch.float64)
    whole, none = answer(torch.stack([image, fill])).double().cpu()
    values[0, :, 0], values[0, :, -1], values[1, :, 0], values[1, :, -1] = whole, none, none, whole
    for chunk in _chunks(wanted, batch):
        inserts, curves, at = (torch.tensor(each, device=image.device) for each in zip(*chunk, strict=True))
        taken = ranks[curves] < torch.tensor(gone, device=image.device)[at][:, None, None]
        shown = taken ^ (inserts == 0)[:, None, None]
        found = answer(torch.where(shown[:, None], image, fill)).double().cpu()
        values[inserts.cpu(), curves.cpu(), at.cpu()] = found
    return Curves(values[0].numpy(), values[1].numpy())


def area(curves: Array) -> Array:
    """The area under curves ``[…, step]`` over the fraction of tiles from 0 to 1, by the trapezoidal rule.

    >>> area(np.array([[1.0, 0.5, 0.0], [1.0, 1.0, 1.0]])).tolist()
    [0.5, 1.0]
    """
    found: Array = np.trapezoid(curves, dx=1 / (curves.shape[-1] - 1), axis=-1)
    return found


def _chunks(wanted: list[tuple[int, int, int]], size: int) -> Iterator[list[tuple[int, int, int]]]:
    for start in range(0, len(wanted), size):
        yield wanted[start : start + size]
