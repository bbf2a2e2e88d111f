"""From one layer's output to a few numbers per image and unit, where the output lies; the map is then dropped."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from convscope.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

Reduction = Literal["torch", "numba"]
_LARGE = 4_000_000  # values of a batch that are more than a core's cache holds


class Block:
    """What is known of a block of images, [image, unit] each: filled batch by batch, ranked and added up as a whole.

    ``extreme`` and ``place`` [2, image, unit] are of the maxima and of the minima; a place is row · columns + column of
    the first of equals, or −1 where nobody wants to know it. ``mean`` is over positions. ``mean_square`` and ``zeros``
    (how many exact ones) are those of the spot images only.
    """

    def __init__(self, images: int, units: int, device: torch.device) -> None:
        self.extreme = torch.empty(2, images, units, device=device)
        self.place = torch.empty(2, images, units, dtype=torch.int32, device=device)
        self.mean = torch.empty(images, units, device=device)
        self.mean_square = torch.empty(images, units, device=device)
        self.zeros = torch.empty(images, units, dtype=torch.int32, device=device)


@dataclass(frozen=True, eq=False)
class Wanted:
    """Which places are worth finding: of maxima of at least ``top`` [unit] and of minima of at most ``bottom`` [unit].

    ``placed`` [image] marks images whose maxima are placed for all units, ``spots`` [image] the spot images.
    """

    top: Tensor
    bottom: Tensor
    placed: Tensor
    spots: Tensor


def reduction(name: Reduction) -> Callable[[Tensor, Wanted, Block, int], None]:
    """The reduction called ``name``; raises :class:`Refused` where it needs what isn't installed.

    They differ in the last bits of a mean, which is why a study keeps to one.
    """
    if name == "torch":
        return reduce_with_torch
    if not numba_is_there():
        raise Refused(
            "this study's means are computed by Numba, which isn't installed here",
            next_step="pip install 'convscope[fast]', or begin another study",
        )
    return reduce_with_numba


def numba_is_there() -> bool:
    """Whether Numba is installed; looking doesn't import it."""
    return find_spec("numba") is not None


def reduce_with_torch(units: Tensor, wanted: Wanted, block: Block, start: int) -> None:
    """Reduce ``[image, unit, row, column]`` into ``block`` from its image ``start`` on; finds every place.

    >>> anything = Wanted(torch.tensor([0.0]), torch.tensor([0.0]), torch.tensor([True]), torch.tensor([True]))
    >>> block = Block(1, 1, torch.device("cpu"))
    >>> reduce_with_torch(torch.tensor([[[[1.0, 3.0], [3.0, 0.0]]]]), anything, block, 0)
    >>> block.extreme.flatten().tolist(), block.place.flatten().tolist(), block.zeros.item()
    ([3.0, 0.0], [1, 3], 1)
    """
    flat = units.detach().flatten(2).float().contiguous()
    images = slice(start, start + len(flat))
    if flat.device.type != "cpu" or flat.numel() < _LARGE:
        parts = [(images, flat)]
    else:
        # One image after the other, so that the second and third pass find its maps in the cache.
        parts = [(slice(start + i, start + i + 1), image[None]) for i, image in enumerate(flat)]
    for places, part in parts:
        if flat.device.type == "cpu":
            _extremes_in_memory(part, block, places)
        else:
            block.extreme[:, places] = torch.stack((part.amax(2), part.amin(2)))
            block.place[:, places] = torch.stack((part.argmax(2), part.argmin(2))).int()
        block.mean[places] = part.mean(2)
    for image in wanted.spots.nonzero()[:, 0].tolist():
        block.mean_square[start + image] = torch.linalg.vector_norm(flat[image], dim=1).square() / flat.shape[2]
        # Ones and zeros as floats: torch compares into floats, and adds them up, with vector instructions.
        equal = torch.empty_like(flat[image])
        block.zeros[start + image] = torch.eq(flat[image], 0, out=equal).sum(1).int()


def _extremes_in_memory(part: Tensor, block: Block, images: slice) -> None:
    """NumPy finds a place as fast as torch finds the value alone, and the value is then where the place is."""
    values = part.numpy()
    for which, place in enumerate((values.argmax(2), values.argmin(2))):
        found = np.take_along_axis(values, place[:, :, None], axis=2)[:, :, 0]
        block.extreme[which, images] = torch.from_numpy(found)
        block.place[which, images] = torch.from_numpy(place)


def reduce_with_numba(units: Tensor, wanted: Wanted, block: Block, start: int) -> None:
    """The same in one pass over memory, for outputs in the processor's own; finds the places that are wanted."""
    from convscope.mining.compiled import reduce_maps

    values = units.detach().flatten(2).float().contiguous().numpy()
    images = slice(start, start + len(values))
    reduce_maps(
        values.view(np.int32),
        values,
        wanted.top.numpy(),
        wanted.bottom.numpy(),
        wanted.placed.numpy(),
        wanted.spots.numpy(),
        block.extreme.numpy()[:, images],
        block.place.numpy()[:, images],
        block.mean.numpy()[images],
        block.mean_square.numpy()[images],
        block.zeros.numpy()[images],
    )
