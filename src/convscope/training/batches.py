"""Batches: which images come next, shifted and mirrored how, as numbers that the network takes.

Everything is decided by (seed, position) alone, where the position is how many training images were drawn before. So a
run that is continued from a snapshot draws the very same images, and several optimizers race on the same batches.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from convscope.training.data import Split
    from convscope.training.settings import Settings
    from convscope.training.spelling import Input


def derived_seed(seed: int, *what: object) -> int:
    """A seed for one purpose, from the run's own: the same for the same words, unrelated otherwise.

    >>> derived_seed(0, "order", 1) == derived_seed(0, "order", 1) != derived_seed(0, "order", 2)
    True
    """
    text = ":".join(map(str, (seed, *what)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


@dataclass
class Batches:
    """The stream of training batches: every image once per epoch, in an order of its own for each epoch."""

    train: Split
    input: Input
    seed: int
    _epoch: int = field(default=-1, init=False)
    _order: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64), init=False)

    def __post_init__(self) -> None:
        shape = (-1, 1, 1)
        self._mean, self._std = (
            torch.tensor(values if isinstance(values, tuple) else (values,), dtype=torch.float32).reshape(shape)
            for values in (self.input.mean, self.input.std)
        )

    def indexes(self, position: int, size: int) -> tuple[torch.Tensor, int]:
        """The ``size`` images from ``position`` on, and the position after them.

        A batch may run over the end of an epoch. One of the whole training set (size 0, or that large) begins an epoch,
        so that it has every image once: what is left of the one before is passed over.
        """
        count = len(self.train)
        if size <= 0 or size >= count:
            epoch = -(-position // count)
            return self._order_of(epoch), (epoch + 1) * count
        parts = []
        end = position + size
        while position < end:
            epoch, offset = divmod(position, count)
            part = self._order_of(epoch)[offset : offset + end - position]
            parts.append(part)
            position += len(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts), end

    def _order_of(self, epoch: int) -> torch.Tensor:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(derived_seed(self.seed, "order", epoch))
            self._order = torch.randperm(len(self.train), generator=generator)
            self._epoch = epoch
        return self._order

    def images(self, indexes: torch.Tensor, settings: Settings, position: int) -> torch.Tensor:
        """These training images, shifted and mirrored as ``settings`` say, ``[image, channel, row, column]``."""
        given = self.train.images[indexes]
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "augmentation", position))
        return self.normalized(given, settings, generator)

    def normalized(
        self, given: torch.Tensor, settings: Settings | None = None, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """uint8 images as the network takes them: (pixels / 255 − mean) / std of their middle.

        With ``settings`` and a generator each is shifted by up to ``settings.shift`` pixels each way and mirrored with
        probability one half.
        """
        rows, columns = self.input.rows, self.input.columns
        top, left = (given.shape[2] - rows) // 2, (given.shape[3] - columns) // 2
        shift, flip = (settings.shift, settings.flip) if settings and generator is not None else (0, False)
        if not shift and not flip:
            return self._scaled(given[:, :, top : top + rows, left : left + columns])
        assert settings is not None  # noqa: S101 - there is no shift without
        count = len(given)
        row, column = torch.arange(top, top + rows).expand(count, -1), torch.arange(left, left + columns)
        if shift:
            moves = torch.randint(-shift, shift + 1, (2, count, 1), generator=generator)
            row, column = row + moves[0], column + moves[1]
        if flip:
            mirrored = torch.rand(count, 1, generator=generator) < 0.5
            column = torch.where(mirrored, column.flip(-1), column)
        column = column.expand(count, -1)
        inside_row, inside_column = row.clamp(0, given.shape[2] - 1), column.clamp(0, given.shape[3] - 1)
        places = (inside_row * given.shape[3])[:, :, None] + inside_column[:, None, :]
        moved = given.flatten(2).gather(2, places.reshape(count, 1, -1).expand(-1, given.shape[1], -1))
        result = self._scaled(moved.unflatten(2, (rows, columns)))
        if settings.fill == "mean" and shift:
            outside = (row != inside_row)[:, None, :, None] | (column != inside_column)[:, None, None, :]
            result = result.masked_fill_(outside, 0.0)
        return result

    def _scaled(self, pixels: torch.Tensor) -> torch.Tensor:
        # The very operations of Preprocessing.prepare, so that a picture of one's own is treated alike.
        return pixels.to(torch.float32).mul_(1.0 / 255.0).sub_(self._mean).div_(self._std)


__all__ = ["Batches", "derived_seed"]
