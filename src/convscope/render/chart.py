"""Chart: curves in a frame, with their scale and their names; for what changes with a step, an angle or a share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from convscope.render.figure import (
    SMALL,
    Curve,
    Figure,
    Length,
    Pixels,
    Rectangle,
    Words,
    above,
    line,
    paragraph,
    text_width,
)
from convscope.render.number import format_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convscope.render.colormap import Rgb
    from convscope.render.figure import Tone
    from convscope.view import Array

# Okabe and Ito's hues, which people with any color vision tell apart; each readable on white and on black.
HUES: tuple[Rgb, ...] = (
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    (140, 140, 140),
)
_LEFT, _RIGHT, _BELOW = 48, 12, 20


@dataclass(frozen=True, eq=False)
class Series:
    """One curve: ``across`` and ``values`` [point], what it is called, and its color."""

    name: str
    across: Array
    values: Array
    color: Tone | Rgb
    thickness: Length = 1.75


def chart(
    title: str,
    series: Sequence[Series],
    *,
    width: Length = 340,
    height: Length = 170,
    across: str = "",
    low: float | int | None = None,
    high: float | int | None = None,
    marks: Sequence[float | int] = (),
) -> Figure:
    """Curves on one scale, from ``low`` to ``high`` (None: their own), named below.

    ``across`` says what the horizontal axis is. ``marks`` are values at which a line crosses the frame.
    """
    bottom, top = _ends([each.values for each in series], low, high)
    start, end = _ends([each.across for each in series], None, None, pad=False)
    inner_width, inner_height = width - _LEFT - _RIGHT, height - _BELOW - 6
    items: list[Pixels | Words | Rectangle | Curve] = [
        Rectangle(6, _LEFT, inner_height, inner_width, "line", outline=True)
    ]

    def down(value: float | int) -> float:
        return 6 + inner_height * (1 - (value - bottom) / (top - bottom))

    for tick in ticks(bottom, top):
        items.append(Words(down(tick) - 8, _LEFT - 6, format_number(tick, 2), 10, "quiet", "right"))
        items.append(Rectangle(down(tick), _LEFT - 3, 1, 3, "line"))
        if tick == 0 and bottom < 0:
            items.append(Rectangle(down(tick), _LEFT, 1, inner_width, "line"))
    items += [Rectangle(down(mark), _LEFT, 1, inner_width, "quiet") for mark in marks if bottom <= mark <= top]
    beneath = 6 + inner_height + 3
    items += [
        Words(beneath, _LEFT, format_number(start), 10, "quiet"),
        Words(beneath, _LEFT + inner_width, format_number(end), 10, "quiet", "right"),
        Words(beneath, _LEFT + inner_width / 2, across, 10, "quiet", "center"),
    ]
    for each in series:
        places = _LEFT + inner_width * (each.across.astype(np.float64) - start) / max(end - start, 1e-300)
        rows = np.array([down(value) for value in np.clip(each.values.astype(np.float64), bottom, top)])
        items.append(Curve(0, 0, np.stack([rows, places], axis=1), each.color, each.thickness))
    heading = [line(title, SMALL, "ink", strong=True)] if title else []
    names = [keys([(each.name, each.color) for each in series if each.name], width)]
    return above([*heading, Figure(height, width, tuple(items)), *names], gap=4)


def keys(entries: Sequence[tuple[str, Tone | Rgb]], width: Length) -> Figure:
    """Names with a spot of their color before each, in as many lines as it takes."""
    items: list[Pixels | Words | Rectangle | Curve] = []
    top, left = 0, 0.0
    for name, color in entries:
        needed = 16 + text_width(name, SMALL)
        if left and left + needed > width:
            top, left = top + 18, 0.0
        items.append(Rectangle(top + 3, left, 10, 10, color))
        items.append(Words(top, left + 16, name, SMALL, "ink"))
        left += needed + 16
    return Figure(top + 18 if entries else 0, width, tuple(items))


def _ends(
    arrays: Sequence[Array], low: float | int | None, high: float | int | None, pad: bool = True
) -> tuple[float, float]:
    finite = [float(each) for array in arrays for each in array[np.isfinite(array)].ravel()]
    bottom, top = min(finite, default=0.0), max(finite, default=1.0)
    room = 0.04 * (top - bottom) if pad else 0.0
    bottom, top = bottom - room if low is None else float(low), top + room if high is None else float(high)
    return (bottom, top) if top > bottom else (bottom - 0.5, bottom + 0.5) if pad else (bottom, bottom + 1)


def ticks(low: float | int, high: float | int) -> list[float]:
    """Three to six round numbers from ``low`` to ``high``.

    >>> ticks(0, 1)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    >>> ticks(-3, 14)
    [0.0, 5.0, 10.0]
    """
    spread = high - low
    step = 10.0 ** math.floor(math.log10(spread))
    for part in (0.1, 0.2, 0.25, 0.5, 1.0):
        if spread / (step * part) <= 5:
            step *= part
            break
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [round((first + number) * step, 12) if step > 1e-9 else (first + number) * step for number in range(count)]


def note(text: str, width: Length) -> Figure:
    """A line or more of small quiet words."""
    return paragraph(text, width, SMALL, "quiet")


__all__ = ["HUES", "Series", "chart", "keys", "note", "ticks"]
