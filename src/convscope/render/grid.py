"""Tiles: one little picture per unit, nearest-neighbor when enlarged, area average when reduced."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convscope.render.colormap import Rgb
    from convscope.view import Array

# A figure's sides stay under 8,000 pixels; its words and legends need some of that.
HIGHEST = 7000
WIDEST = 7600
LABEL = 15
LABEL_FROM = 28


def enlarge(pixels: Array, factor: int) -> Array:
    """Nearest-neighbor: every pixel of ``[row, column, …]`` becomes factor × factor."""
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def reduce(values: Array, factor: int) -> Array:
    """Area average of ``[…, row, column]`` over factor × factor; what is left over at the borders is averaged too.

    A NaN or an infinity anywhere in an area shows in its average: nothing is hidden by making it smaller.
    """
    if factor == 1:
        return values
    rows, columns = (np.arange(0, size, factor) for size in values.shape[-2:])
    with np.errstate(invalid="ignore", over="ignore"):
        sums = np.add.reduceat(np.add.reduceat(values.astype(np.float64), rows, axis=-2), columns, axis=-1)
    counted = np.outer(np.diff([*rows, values.shape[-2]]), np.diff([*columns, values.shape[-1]]))
    return np.asarray(sums / counted)


@dataclass(frozen=True)
class Arrangement:
    """How tiles lie: ``factor`` times enlarged or ``reduction`` times reduced; columns of tiles; how many are shown."""

    factor: int
    reduction: int
    columns: int
    shown: int
    tile_height: int
    tile_width: int
    gap: int
    label: int

    @property
    def rows(self) -> int:
        """Rows of tiles."""
        return math.ceil(self.shown / self.columns)

    @property
    def height(self) -> int:
        """Of the whole sheet, in pixels."""
        return self.rows * (self.tile_height + self.label + self.gap) - self.gap

    @property
    def width(self) -> int:
        """Of the whole sheet, in pixels."""
        return self.columns * (self.tile_width + self.gap) - self.gap

    def place(self, index: int) -> tuple[int, int]:
        """(top, left) of a tile."""
        row, column = divmod(index, self.columns)
        return row * (self.tile_height + self.label + self.gap), column * (self.tile_width + self.gap)


def wanted_side(count: int) -> int:
    """The side, in pixels, that a tile of this many should have: few are large, many are small."""
    for most, side in ((1, 288), (4, 168), (12, 120), (32, 92), (96, 68), (300, 52), (1100, 38)):
        if count <= most:
            return side
    return 28


def arrange(
    count: int, rows: int, columns: int, slices: int, width: int, side: int | None = None, labeled: bool = True
) -> Arrangement:
    """Fit ``count`` tiles of ``slices`` little pictures of rows × columns each into about ``width`` pixels.

    ``side`` is the wanted side of a tile. Where the sheet gets too high, it gets wider, then the tiles smaller, and at
    last some tiles are left out.
    """
    across = math.ceil(math.sqrt(slices))
    down = math.ceil(slices / across)
    if side is None:
        across_wanted = count if count <= 4 else min(8, math.ceil(math.sqrt(1.5 * count)))
        side = max(LABEL_FROM, min(wanted_side(count), int(width / across_wanted) - 8))
    while True:
        each = side / across
        larger = max(rows, columns, 1)
        factor = max(1, int(each / larger))
        reduction = 1 if larger <= 1.5 * each else math.ceil(larger / each)
        one_high, one_wide = (math.ceil(size / reduction) * factor for size in (rows, columns))
        found = _columns_of(
            count,
            factor,
            reduction,
            down * one_high + down + 1,
            across * one_wide + across + 1,
            max(width, across * one_wide + across + 1),
            labeled,
        )
        if found.shown == count or side < 12:
            return found
        side = side * 3 // 4


def _columns_of(
    count: int, factor: int, reduction: int, tile_height: int, tile_width: int, width: int, labeled: bool
) -> Arrangement:
    gap = 6 if tile_width >= LABEL_FROM else 3
    label = LABEL if labeled and tile_width >= LABEL_FROM else 0
    step_down, step_across = tile_height + label + gap, tile_width + gap
    # Wider than high, as screens and pages are; never wider than asked for unless it would get too high.
    liked = count if count <= 4 else math.ceil(math.sqrt(count * 1.5 * step_down / step_across))
    columns = max(1, min(count, liked, (width + gap) // step_across))
    rows_that_fit = max(1, HIGHEST // step_down)
    if math.ceil(count / columns) > rows_that_fit:
        columns = min(math.ceil(count / rows_that_fit), max(1, min(WIDEST, 4 * width) // step_across))
    shown = min(count, columns * rows_that_fit)
    return Arrangement(factor, reduction, columns, shown, tile_height, tile_width, gap, label)


def sheet(tiles: Sequence[Sequence[Array]], arrangement: Arrangement, ground: Rgb, line: Rgb) -> Array:
    """All tiles as one uint8 picture ``[row, column, 3]``. A tile is its slices, framed and parted by lines."""
    colors = np.empty((arrangement.height, arrangement.width, 3), np.uint8)
    colors[:] = ground
    for index, slices in enumerate(tiles[: arrangement.shown]):
        top, left = arrangement.place(index)
        colors[top : top + arrangement.tile_height, left : left + arrangement.tile_width] = line
        across = math.ceil(math.sqrt(len(slices)))
        for number, pixels in enumerate(slices):
            large = enlarge(pixels, arrangement.factor)
            row, column = divmod(number, across)
            inner_top = top + 1 + row * (large.shape[0] + 1)
            inner_left = left + 1 + column * (large.shape[1] + 1)
            colors[inner_top : inner_top + large.shape[0], inner_left : inner_left + large.shape[1]] = large
    return colors
