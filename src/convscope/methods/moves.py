"""Moving an image: translation by whole pixels, enlarging, turning; each by many amounts, the first of them none."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, radians, sin
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from convscope.errors import UnknownName, suggest

if TYPE_CHECKING:
    from collections.abc import Sequence

NAMES = ("vertical", "horizontal", "scale", "rotation")
UNITS = {"vertical": "pixels", "horizontal": "pixels", "scale": "×", "rotation": "degrees"}


def parse_moves(text: str) -> tuple[str, ...]:
    """The kinds of move that a text names, separated by commas; all for an empty one.

    >>> parse_moves("rotation, scale")
    ('rotation', 'scale')
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip())) or NAMES
    for name in names:
        if name not in NAMES:
            raise UnknownName(
                f"no transform {name[:80]!r}", next_step=suggest(name, NAMES) or f"choose {', '.join(NAMES)}"
            )
    return names


@dataclass(frozen=True)
class Moves:
    """One kind of move by many amounts."""

    name: str
    amounts: tuple[float, ...]

    @classmethod
    def make(cls, name: str, steps: int, size: tuple[int, int], reach: float) -> Moves:
        """``steps`` amounts. Translations go from -reach to reach (a share of the side) in whole pixels, scales from 1
        to ``reach``, rotations from 0 to ``reach`` degrees.

        >>> Moves.make("vertical", 5, (40, 20), 0.25).amounts
        (-10.0, -5.0, 0.0, 5.0, 10.0)
        """
        if name in ("vertical", "horizontal"):
            pixels = reach * size[0 if name == "vertical" else 1]
            return cls(name, tuple(float(np.rint(each)) + 0.0 for each in np.linspace(-pixels, pixels, steps)))
        low = 1.0 if name == "scale" else 0.0
        return cls(name, tuple(float(each) for each in np.linspace(low, reach, steps)))

    @property
    def unit(self) -> str:
        """What the amounts are counted in."""
        return UNITS[self.name]

    def still(self, step: int) -> bool:
        """Whether the amount at a step is none at all."""
        amount = self.amounts[step]
        if self.name == "scale":
            return amount == 1
        return amount % 360 == 0 if self.name == "rotation" else amount == 0

    def of(self, image: torch.Tensor, filling: torch.Tensor | None, steps: Sequence[int]) -> torch.Tensor:
        """One image ``[channel, row, column]`` moved by the amounts of some steps, ``[step, channel, row, column]``.

        What comes in from beyond the border is ``filling`` (an image of the same size); where it is None, the border's
        pixels go on. An amount of nothing gives the very image.
        """
        return torch.stack([self._moved(image, filling, step) for step in steps])

    def _moved(self, image: torch.Tensor, filling: torch.Tensor | None, step: int) -> torch.Tensor:
        amount = self.amounts[step]
        if self.still(step):
            return image
        if self.name in ("vertical", "horizontal"):
            return _shifted(image, filling, 1 if self.name == "vertical" else 2, int(amount))
        rows, columns = image.shape[1:]
        angle = radians(amount) if self.name == "rotation" else 0.0
        size = amount if self.name == "scale" else 1.0
        # Where each pixel of the result comes from, in pixels from the center: turned back, and made smaller.
        row, column = torch.meshgrid(
            torch.arange(rows, dtype=torch.float64) - (rows - 1) / 2,
            torch.arange(columns, dtype=torch.float64) - (columns - 1) / 2,
            indexing="ij",
        )
        from_row = (cos(angle) * row + sin(angle) * column) / size
        from_column = (-sin(angle) * row + cos(angle) * column) / size
        return _sampled(image, filling, from_row + (rows - 1) / 2, from_column + (columns - 1) / 2)


def _shifted(image: torch.Tensor, filling: torch.Tensor | None, axis: int, pixels: int) -> torch.Tensor:
    """Down or to the right for positive numbers of pixels, without a new value."""
    size = image.shape[axis]
    source = torch.arange(size, device=image.device) - pixels
    moved = image.index_select(axis, source.clamp(0, size - 1))
    if filling is None:
        return moved
    inside = (source >= 0) & (source < size)
    return torch.where(inside[:, None] if axis == 1 else inside[None, :], moved, filling)


def _sampled(
    image: torch.Tensor, filling: torch.Tensor | None, row: torch.Tensor, column: torch.Tensor
) -> torch.Tensor:
    """Bilinear values at fractional rows and columns; a pixel's neighborhood beyond the border is the filling."""
    rows, columns = image.shape[1:]
    place = torch.stack([(2 * column + 1) / columns - 1, (2 * row + 1) / rows - 1], dim=-1)
    grid = place[None].to(image)
    mode = "border" if filling is None else "zeros"
    moved = F.grid_sample(image[None], grid, mode="bilinear", padding_mode=mode, align_corners=False)[0]
    if filling is None:
        return moved
    inside = F.grid_sample(torch.ones_like(image[None, :1]), grid, mode="bilinear", align_corners=False)[0]
    return moved + (1 - inside) * filling


__all__ = ["NAMES", "UNITS", "Moves", "parse_moves"]
