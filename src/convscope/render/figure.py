"""Figure: where what is drawn; one description for PNG, SVG and HTML. Pixels, words, rectangles and curves.

Lengths are CSS pixels. ``top`` and ``left`` count from the figure's corner.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import ImageFont

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from convscope.render.colormap import Rgb, Theme
    from convscope.view import Array

Tone = Literal["ink", "quiet", "line", "paper", "ground", "alarm", "accent"]
Align = Literal["left", "center", "right"]
# Spelled out because run-time type checks, unlike mypy, don't take a whole number for a float.
Length = float | int

SMALL, LARGE = 12, 15

TONES: dict[Theme, dict[Tone, Rgb]] = {
    "light": {
        "ink": (26, 28, 31),
        "quiet": (98, 103, 110),
        "line": (190, 194, 199),
        "paper": (236, 237, 239),
        "ground": (255, 255, 255),
        "alarm": (176, 42, 0),
        "accent": (194, 24, 91),
    },
    "dark": {
        "ink": (232, 233, 235),
        "quiet": (154, 160, 167),
        "line": (62, 67, 73),
        "paper": (38, 41, 45),
        "ground": (17, 19, 21),
        "alarm": (255, 150, 96),
        "accent": (255, 92, 147),
    },
}


@dataclass(frozen=True, eq=False)
class Pixels:
    """A picture drawn one to one: uint8 ``[row, column, 3]``."""

    top: Length
    left: Length
    colors: Array


@dataclass(frozen=True)
class Words:
    """One line of text; ``top`` is the top of its line, ``left`` where it starts, is centered or ends."""

    top: Length
    left: Length
    text: str
    size: int = SMALL
    tone: Tone = "ink"
    align: Align = "left"
    strong: bool = False


@dataclass(frozen=True)
class Rectangle:
    """A filled rectangle, or only its outline."""

    top: Length
    left: Length
    height: Length
    width: Length
    color: Tone | Rgb = "line"
    outline: bool = False


@dataclass(frozen=True, eq=False)
class Curve:
    """Straight lines from point to point; ``points`` is ``[point, 2]``: how far below the top, and right of the left.

    A point that isn't finite interrupts it.
    """

    top: Length
    left: Length
    points: Array
    color: Tone | Rgb = "ink"
    thickness: Length = 1.5


Item = Pixels | Words | Rectangle | Curve


@dataclass(frozen=True, eq=False)
class Figure:
    """Items in a box, and smaller figures placed in it. Put together by :func:`above` and :func:`beside`."""

    height: Length
    width: Length
    items: tuple[Item, ...] = ()
    parts: tuple[tuple[Length, Length, Figure], ...] = ()  # (top, left, figure)

    def placed(self, top: Length = 0, left: Length = 0) -> Iterator[tuple[Item, Length, Length]]:
        """Every item with the (top, left) of its own corner, when the figure's corner is at ``top``, ``left``."""
        for item in self.items:
            yield item, top + item.top, left + item.left
        for part_top, part_left, figure in self.parts:
            yield from figure.placed(top + part_top, left + part_left)


def above(figures: Sequence[Figure], gap: Length = 8) -> Figure:
    """One under the other, left edges in line."""
    parts: list[tuple[Length, Length, Figure]] = []
    top: Length = 0
    for figure in figures:
        parts.append((top, 0, figure))
        top += figure.height + gap
    return Figure(max(0, top - gap), max((figure.width for figure in figures), default=0), (), tuple(parts))


def beside(figures: Sequence[Figure], gap: Length = 24, middle: bool = False) -> Figure:
    """Next to each other, top edges (or middles) in line."""
    parts: list[tuple[Length, Length, Figure]] = []
    height = max((figure.height for figure in figures), default=0)
    left: Length = 0
    for figure in figures:
        parts.append(((height - figure.height) / 2 if middle else 0, left, figure))
        left += figure.width + gap
    return Figure(height, max(0, left - gap), (), tuple(parts))


def connected(points: Array) -> list[Array]:
    """A curve's points ``[point, 2]`` cut where they aren't finite; pieces of one point are left out."""
    there = np.isfinite(points).all(axis=1)
    pieces = np.split(points, np.flatnonzero(~there))
    found = [piece[np.isfinite(piece).all(axis=1)] for piece in pieces]
    return [piece for piece in found if len(piece) > 1]


def framed(figure: Figure, margin: Length = 20) -> Figure:
    """The figure with an empty margin around it."""
    return Figure(figure.height + 2 * margin, figure.width + 2 * margin, (), ((margin, margin, figure),))


def line(text: str, size: int = SMALL, tone: Tone = "ink", strong: bool = False) -> Figure:
    """One line of text as a figure."""
    width = text_width(text, size)
    return Figure(round(size * 1.4), width, (Words(0, 0, text, size, tone, strong=strong),))


def paragraph(text: str, width: Length, size: int = SMALL, tone: Tone = "ink", strong: bool = False) -> Figure:
    """Text broken into lines of at most ``width``; a word that is longer than a line is cut."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(shortened(word, width, size))
    return above([line(each, size, tone, strong) for each in lines], gap=0)


def shortened(text: str, width: Length, size: int = SMALL) -> str:
    """The text, cut with an ellipsis where it is wider than ``width``."""
    if text_width(text, size) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if text_width(f"{text[:middle]}…", size) <= width else (low, middle - 1)
    return f"{text[:low]}…"


@cache
def font(size: Length) -> ImageFont.FreeTypeFont:
    """Pillow's own font: the same pixels on every machine."""
    loaded = ImageFont.load_default(size)
    if not isinstance(loaded, ImageFont.FreeTypeFont):
        raise RuntimeError("this Pillow was built without FreeType")
    return loaded


def text_width(text: str, size: Length) -> float:
    """The width of a line of text."""
    return float(font(size).getlength(drawable(text)))


# Pillow's font has ASCII and a few signs. SVG and HTML keep the real text.
_SIGNS = {
    "×": "x",
    "–": "-",
    "—": "-",
    "−": "-",
    "Σ": "sum",
    "∂": "d",
    "²": "2",
    "→": "->",
    "≥": ">=",
    "≤": "<=",
    "µ": "u",
}
_HAS = frozenset("«°±´·»‘’“”…‹›™")


@cache
def _drawable_character(character: str) -> str:
    if character in _HAS or " " <= character <= "~":
        return character
    if character in _SIGNS:
        return _SIGNS[character]
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return plain if plain.isprintable() and plain else "?"


def drawable(text: str) -> str:
    """Text in the signs that Pillow's font has: accents go, what has no counterpart becomes a question mark."""
    return "".join(map(_drawable_character, text))
