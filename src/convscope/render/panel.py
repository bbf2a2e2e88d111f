"""Panel: a sheet of tiles of one array, with its title and a legend that states the scale and the true range."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from convscope.errors import ConvscopeError
from convscope.render.colormap import (
    CLIPPED_HIGH,
    CLIPPED_LOW,
    MARKS,
    NAN,
    NEGATIVE_INFINITY,
    POSITIVE_INFINITY,
    STEPS,
    THEMES,
    Rgb,
    Scale,
    Theme,
    color_indices,
    color_levels,
    palette,
)
from convscope.render.figure import (
    LARGE,
    SMALL,
    TONES,
    Figure,
    Length,
    Pixels,
    Rectangle,
    Words,
    above,
    beside,
    line,
    paragraph,
)
from convscope.render.grid import arrange, reduce, sheet
from convscope.render.number import MINUS, format_number, format_signed
from convscope.view import value_range

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from convscope.view import Array

WIDTH = 1120  # of a figure's content


@dataclass(frozen=True)
class Style:
    """How to draw: the theme, the color maps, and what shares a scale.

    ``scale`` is "layer" (one scale for all tiles, from the whole tensor's range), "unit" (each tile its own), or a
    number: the magnitude that gets the last color; what is beyond it gets the colors of clipped values.
    """

    theme: Theme = "light"
    signed: str = "orange-blue"
    positive: str = "viridis"
    scale: str | float | int = "layer"

    def __post_init__(self) -> None:
        if self.theme not in THEMES:
            raise ConvscopeError(f"no theme called {self.theme!r}", next_step=f"choose {' or '.join(THEMES)}")
        if not (self.scale in ("layer", "unit") or (isinstance(self.scale, (int, float)) and self.scale > 0)):
            raise ConvscopeError(
                f"no scale called {self.scale!r}", next_step="choose layer, unit, or a positive number"
            )
        palette(True, self.signed, self.theme)
        palette(False, self.positive, self.theme)

    def palette(self, signed: bool) -> Array:
        """The color table for signed or for non-negative values."""
        return palette(signed, self.signed if signed else self.positive, self.theme)


@dataclass(frozen=True, eq=False)
class Tiles:
    """What a panel shows: ``[tile, slice, row, column]``, the true range of the whole tensor, a label per tile.

    ``color``: the three slices of each tile are its red, green and blue.
    """

    title: str
    values: Array
    value_range: Mapping[str, Any]
    labels: Sequence[str] = ()
    color: bool = False
    notes: Sequence[str] = field(default_factory=tuple)
    side: int | None = None  # wanted, in pixels; by their number where it is None
    mark: tuple[int, int, int, int] | None = None  # (row, column, rows, columns) to frame in every tile


def true_range(meta: Mapping[str, Any], name: str, values: Array) -> Mapping[str, Any]:
    """The range that the method stated for the whole tensor, or that of the values themselves."""
    stated = meta.get("ranges", {}).get(name)
    complete = isinstance(stated, dict) and {"minimum", "maximum"} <= set(stated)
    return {**value_range(values), **stated} if complete and isinstance(stated, dict) else value_range(values)


def panel(tiles: Tiles, style: Style, width: Length = WIDTH) -> Figure:
    """The panel as a figure of about this width."""
    count, slices, rows, columns = tiles.values.shape
    heading = [line(tiles.title, SMALL, "ink", strong=True)] if tiles.title else []
    if tiles.values.size == 0:
        return above([*heading, line("empty: nothing to draw", SMALL, "quiet")])
    drawn_slices = 1 if tiles.color else slices
    arrangement = arrange(count, rows, columns, drawn_slices, int(width), tiles.side, bool(tiles.labels))
    values = reduce(tiles.values[: arrangement.shown], arrangement.reduction)
    if np.iscomplexobj(values):  # pragma: no cover - no method makes them
        values = np.abs(values)
    scale, limits = _scale(tiles, style)
    tones = TONES[style.theme]
    colors = _colors(values, scale, None if limits is None else limits[: arrangement.shown], tiles.color, style)
    pixels = sheet(colors, arrangement, tones["ground"], tones["line"])
    items: list[Pixels | Words | Rectangle] = [Pixels(0, 0, pixels)]
    if arrangement.label:
        for index, label in enumerate(list(tiles.labels)[: arrangement.shown]):
            top, left = arrangement.place(index)
            items.append(Words(top + arrangement.tile_height, left + 1, label, 10, "quiet"))
    if tiles.mark is not None:
        cell = arrangement.factor / arrangement.reduction
        row, column, height, across = (size * cell for size in tiles.mark)
        for index in range(arrangement.shown):
            top, left = arrangement.place(index)
            items.append(Rectangle(top + row - 1, left + column - 1, height + 4, across + 4, "accent", outline=True))
    picture = Figure(arrangement.height, arrangement.width, tuple(items))
    notes = list(tiles.notes)
    if arrangement.reduction > 1:
        notes.append(f"each drawn {arrangement.reduction} times smaller, by area average")
    if arrangement.shown < count:
        notes.append(f"the first {arrangement.shown:,} of {count:,}: no more fit into one picture")
    clipped = 0 if isinstance(style.scale, str) else _clipped_count(tiles.values, scale)
    legend = _legend(tiles, scale, style, clipped, notes, max(arrangement.width, min(width, 420)))
    return above([*heading, picture, legend])


def _scale(tiles: Tiles, style: Style) -> tuple[Scale, Array | None]:
    limit = style.scale if not isinstance(style.scale, str) else None
    scale = Scale.of(tiles.value_range, limit)
    if tiles.color:
        whole = max(abs(tiles.value_range["minimum"] or 0), abs(tiles.value_range["maximum"] or 0))
        scale = Scale(True, limit or whole)
    if style.scale != "unit":
        return scale, None
    magnitudes = np.where(np.isfinite(tiles.values), np.abs(tiles.values.astype(np.float64)), 0)
    return scale, magnitudes.max(axis=(1, 2, 3), keepdims=True)


def _colors(values: Array, scale: Scale, limits: Array | None, color: bool, style: Style) -> list[list[Array]]:
    if color:
        last = np.moveaxis(values, 1, -1)
        levels = color_levels(last, scale.limit if limits is None else limits)
        return [[tile] for tile in levels]
    return [list(tile) for tile in style.palette(scale.signed)[color_indices(values, scale, limits)]]


def _clipped_count(values: Array, scale: Scale) -> int:
    indices = color_indices(values, scale)
    return int(((indices == CLIPPED_HIGH) | (indices == CLIPPED_LOW)).sum())


def _legend(tiles: Tiles, scale: Scale, style: Style, clipped: int, notes: Sequence[str], width: Length) -> Figure:
    found = tiles.value_range
    shared = {"layer": "one scale for all", "unit": "each its own scale"}.get(str(style.scale), "a chosen scale")
    statement = [
        f"true minimum {format_number(found['minimum'])}",
        f"maximum {format_number(found['maximum'])}",
        shared,
    ]
    rows = [
        color_bar(scale, style, tiles.color, own=style.scale == "unit"),
        paragraph(" · ".join(statement), width, SMALL, "quiet"),
    ]
    marks = _marks(found, scale, style, clipped)
    if marks:
        rows.append(marks)
    rows += [paragraph(note, width, SMALL, "quiet") for note in notes]
    return above(rows, gap=3)


def _marks(found: Mapping[str, Any], scale: Scale, style: Style, clipped: int) -> Figure | None:
    """What isn't in the bar: the color and the count of NaN, infinities and clipped values, where there are any."""
    table = style.palette(scale.signed)
    counted: list[tuple[str, int, list[Rgb]]] = [
        ("NaN", found.get("nan", 0), [MARKS[NAN]]),
        ("+Inf", found.get("positive_infinity", 0), [MARKS[POSITIVE_INFINITY]]),
        (f"{MINUS}Inf", found.get("negative_infinity", 0), [MARKS[NEGATIVE_INFINITY]]),
        ("clipped", clipped, [rgb(table[CLIPPED_LOW]), rgb(table[CLIPPED_HIGH])]),
    ]
    present = [
        beside(
            [*(Figure(11, 11, (Rectangle(2, 0, 11, 11, each),)) for each in colors), line(f"{name} {count:,}")], gap=5
        )
        for name, count, colors in counted
        if count
    ]
    return beside(present, gap=14) if present else None


def rgb(color: Array) -> Rgb:
    """A color table's row as three whole numbers."""
    red, green, blue = (int(value) for value in color)
    return red, green, blue


def color_bar(scale: Scale, style: Style, color: bool = False, own: bool = False) -> Figure:
    """The color map from its first to its last color, with the values at its ends and at 0."""
    width, height = STEPS, 10
    if color:
        table = np.repeat(np.linspace(0, 255, STEPS).round().astype(np.uint8)[:, None], 3, axis=1)
    else:
        table = style.palette(scale.signed)[:STEPS]
    bar = np.repeat(table[None], height, axis=0)
    high = "its maximum" if own else (format_signed if scale.signed else format_number)(scale.limit)
    low = ("its minimum" if own else format_number(-scale.limit)) if scale.signed else "0"
    if own and scale.signed:
        low, high = f"{MINUS}its largest", "+its largest"
    words = [Words(height + 2, 0, low, SMALL, "quiet"), Words(height + 2, width, high, SMALL, "quiet", "right")]
    if scale.signed:
        middle = "0 in each of red, green, blue" if color else "0"
        words.append(Words(height + 2, width / 2, "0" if own else middle, SMALL, "quiet", "center"))
    return Figure(height + 2 + round(SMALL * 1.4), width, (Pixels(0, 0, bar), *words))


def heading(title: str, caption: str, warnings: Sequence[str], width: Length) -> Figure:
    """What a figure starts with: the target, what is shown, and when it misleads."""
    rows = [line(title, LARGE, "ink", strong=True)] if title else []
    if caption:
        rows.append(paragraph(caption, width, SMALL, "ink"))
    rows += [paragraph(f"Careful: {warning}", width, SMALL, "alarm") for warning in warnings]
    return above(rows, gap=4)


def share_width(panels: int) -> int:
    """The width of each of several panels that lie beside each other."""
    return math.floor((WIDTH - 28 * (panels - 1)) / panels)
