"""Pictures, and maps of the same size laid beside and over them; one stated scale, whose ends lie within the outliers.

A map of pixels has a few values far beyond all others. Drawn up to its maximum it would be blank, so the color bar ends
where half a percent of the values still lie beyond it; these get the last color, and the legend says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from convscope.render.colormap import MARKS, NAN, NEGATIVE_INFINITY, POSITIVE_INFINITY, ZERO, Scale, color_indices
from convscope.render.figure import (
    SMALL,
    TONES,
    Figure,
    Pixels,
    Rectangle,
    Words,
    above,
    beside,
    line,
    paragraph,
    shortened,
)
from convscope.render.grid import enlarge, reduce
from convscope.render.number import MINUS, format_number
from convscope.render.panel import Style, color_bar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from convscope.render.figure import Item, Length
    from convscope.view import Array

SIDE = 224
WITHIN = 0.995
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
_OVER = 0.9  # how much of the strongest value's color covers the picture


@dataclass(frozen=True)
class Fit:
    """How pictures of rows × columns are brought to a tile's side: so many times enlarged, or reduced by area."""

    factor: int
    reduction: int

    @classmethod
    def of(cls, rows: int, columns: int, *, side: int = SIDE) -> Fit:
        """Enlarged by whole numbers to at most ``side``; reduced where they are half as large again."""
        longest = max(rows, columns, 1)
        return cls(max(1, side // longest), 1 if longest <= 1.5 * side else math.ceil(longest / side))

    def values(self, values: Array) -> Array:
        """Numbers ``[…, row, column]``, reduced where needed."""
        return reduce(values, self.reduction)

    def picture(self, colors: Array) -> Array:
        """A picture uint8 ``[row, column, 3]`` at the tile's size."""
        if self.reduction > 1:
            colors = np.rint(reduce(colors.transpose(2, 0, 1), self.reduction).transpose(1, 2, 0)).astype(np.uint8)
        return enlarge(colors, self.factor)

    @property
    def note(self) -> str:
        """What a legend says of it."""
        return f"each drawn {self.reduction} times smaller, by area average" if self.reduction > 1 else ""


@dataclass(frozen=True, eq=False)
class Drawn:
    """The scale of some maps: signed or not, its end for each map ``[map]``, and whether they share it."""

    signed: bool
    limits: Array
    shared: bool
    beyond: int  # how many finite values lie beyond the scale
    count: int

    @classmethod
    def of(cls, values: Array, signed: bool, style: Style, *, own: bool = False) -> Drawn:
        """The scale of maps ``[map, …]``: one for all, or with ``own`` (or a style of that kind) one for each."""
        magnitude = np.abs(np.where(np.isfinite(values), values, 0).astype(np.float64)).reshape(len(values), -1)
        shared = not (own or style.scale == "unit") or isinstance(style.scale, (int, float))
        if isinstance(style.scale, (int, float)):
            limits = np.full(len(values), float(style.scale))
        elif shared:
            limits = np.full(len(values), _end(magnitude))
        else:
            limits = np.array([_end(each) for each in magnitude])
        beyond = int((magnitude > limits[:, None] * (1 + 1e-6)).sum())
        return cls(signed, limits, shared, beyond, int(magnitude.size))

    def indices(self, values: Array, place: int) -> Array:
        """The color index of each value of a map; what lies beyond the scale gets its last color."""
        limit = float(self.limits[place])
        inside = np.where(np.isfinite(values), np.clip(values, -limit if self.signed else 0, limit), values)
        return color_indices(inside, Scale(self.signed, limit))

    def colors(self, values: Array, place: int, style: Style) -> Array:
        """A map's picture: uint8 ``[row, column, 3]``."""
        return np.asarray(style.palette(self.signed)[self.indices(values, place)])

    def over(self, values: Array, picture: Array, place: int, style: Style) -> Array:
        """The map over its picture in gray, the less to be seen through the stronger it is."""
        indices = self.indices(values, place)
        strength = np.abs(indices - ZERO) / ZERO if self.signed else indices / (2 * ZERO)
        cover = (_OVER * np.sqrt(np.clip(strength, 0, 1)))[:, :, None]
        cover[np.isin(indices, (NAN, POSITIVE_INFINITY, NEGATIVE_INFINITY))] = 1
        gray = (picture.astype(np.float32) @ _LUMINANCE)[:, :, None]
        laid = cover * style.palette(self.signed)[indices] + (1 - cover) * gray
        return np.asarray(np.rint(laid).clip(0, 255).astype(np.uint8))

    def legend(self, found: Mapping[str, Any], style: Style, width: Length, extra: Sequence[str] = ()) -> Figure:
        """The color bar, the true range, and what lies beyond the bar."""
        words = [f"true minimum {format_number(found['minimum'])}", f"maximum {format_number(found['maximum'])}"]
        words.append("one scale for all" if self.shared else "each its own scale")
        if self.beyond:
            words.append(f"the strongest {100 * self.beyond / max(1, self.count):.2g} % share the last color")
        rows = [
            color_bar(Scale(self.signed, float(self.limits[0]) if len(self.limits) else 0.0), style)
            if self.shared
            else color_bar(Scale(self.signed, 1.0), style, own=True),
            paragraph(" · ".join(words), width, SMALL, "quiet"),
        ]
        marks = [
            beside([Figure(11, 11, (Rectangle(2, 0, 11, 11, MARKS[mark]),)), line(f"{name} {found[key]:,}")], gap=5)
            for name, key, mark in (
                ("NaN", "nan", NAN),
                ("+Inf", "positive_infinity", POSITIVE_INFINITY),
                (f"{MINUS}Inf", "negative_infinity", NEGATIVE_INFINITY),
            )
            if found.get(key)
        ]
        rows += [beside(marks, gap=14)] if marks else []
        rows += [paragraph(each, width, SMALL, "quiet") for each in extra if each]
        return above(rows, gap=3)


def in_color(picture: Array) -> Array:
    """A picture of any number of channels as uint8 ``[row, column, 3]``.

    Gray becomes color, four channels are laid over white, and of any others the first is shown in gray.
    """
    channels = picture.shape[2]
    if channels == 4:
        opacity = picture[:, :, 3:].astype(np.float32) / 255
        return np.asarray(np.rint(picture[:, :, :3] * opacity + 255 * (1 - opacity)).astype(np.uint8))
    return picture if channels == 3 else np.repeat(picture[:, :, :1], 3, axis=2)


def fitted(colors: Array, side: int, style: Style) -> Array:
    """A picture in the middle of a square tile: nearest neighbor where it gets larger, area average where smaller."""
    whole = np.empty((side, side, 3), np.uint8)
    whole[:] = np.array(TONES[style.theme]["paper"], np.uint8)
    rows, columns = colors.shape[:2]
    if not rows or not columns:
        return whole
    longest = max(rows, columns)
    height, width = max(1, round(side * rows / longest)), max(1, round(side * columns / longest))
    way = Image.Resampling.NEAREST if longest <= side else Image.Resampling.BOX
    resized = Image.fromarray(np.ascontiguousarray(colors)).resize((width, height), way)
    top, left = (side - height) // 2, (side - width) // 2
    whole[top : top + height, left : left + width] = np.asarray(resized)
    return whole


def _end(magnitude: Array) -> float:
    """Where a color bar ends: within the outliers, unless there is nothing but outliers."""
    largest = float(magnitude.max(initial=0.0))
    # What a map is zero at, or as good as zero, says nothing of its outliers.
    counted = magnitude[magnitude > 1e-6 * largest]
    if not counted.size:
        return 0.0
    place = math.ceil(WITHIN * counted.size) - 1
    end = float(np.partition(counted, place)[place])
    return largest if end >= 0.8 * largest else end


def tile(colors: Array, title: str = "", under: Sequence[str] = (), width: Length = 0) -> Figure:
    """A picture in a hairline frame, what it shows above it, and small words under it."""
    rows, columns = colors.shape[:2]
    whole = max(columns + 2, width)
    items: list[Item] = [
        Pixels(1, 1, np.ascontiguousarray(colors)),
        Rectangle(0, 0, rows + 2, columns + 2, "line", outline=True),
    ]
    for number, each in enumerate(under):
        items.append(Words(rows + 5 + 16 * number, 1, shortened(each, whole, 11), 11, "quiet"))
    parts = [Figure(rows + 4 + 16 * len(under), whole, tuple(items))]
    if title:
        parts.insert(0, Figure(17, whole, (Words(0, 1, shortened(title, whole), SMALL, "ink", strong=True),)))
    return above(parts, gap=3)


def wrapped(figures: Sequence[Figure], width: Length, gap: Length = 16, between: Length = 16) -> Figure:
    """Figures beside each other, in as many rows as they need."""
    rows: list[list[Figure]] = []
    used: Length = 0
    for figure in figures:
        if not rows or used + gap + figure.width > width:
            rows.append([])
            used = -gap
        rows[-1].append(figure)
        used += gap + figure.width
    return above([beside(row, gap=gap) for row in rows], gap=between)


__all__ = ["SIDE", "Drawn", "Fit", "fitted", "in_color", "tile", "wrapped"]
