"""Figure: where what is drawn; one description for PNG, SVG and HTML. Pixels, words and rectangles, nothing else.

Lengths are CSS pixels. ``top`` and ``left`` count from the figure's corner.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Literal

from PIL import ImageFont

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convscope.render.colormap import Rgb, Theme
    from convscope.view import Array

Tone = Literal["ink", "quiet", "line", "paper", "ground", "alarm"]
Align = Literal["left", "center", "right"]

SMALL, LARGE = 12, 15

TONES: dict[Theme, dict[Tone, Rgb]] = {
    "light": {
        "ink": (26, 28, 31),
        "quiet": (98, 103, 110),
        "line": (208, 211, 215),
        "paper": (236, 237, 239),
        "ground": (255, 255, 255),
        "alarm": (176, 42, 0),
    },
    "dark": {
        "ink": (232, 233, 235),
        "quiet": (154, 160, 167),
        "line": (62, 67, 73),
        "paper": (38, 41, 45),
        "ground": (17, 19, 21),
        "alarm": (255, 150, 96),
    },
}


@dataclass(frozen=True, eq=False)
class Pixels:
    """A picture drawn one to one: uint8 ``[row, column, 3]``."""

    top: float
    left: float
    colors: Array


@dataclass(frozen=True)
class Words:
    """One line of text; ``top`` is the top of its line, ``left`` where it starts, is centered or ends."""

    top: float
    left: float
    text: str
    size: int = SMALL
    tone: Tone = "ink"
    align: Align = "left"
    strong: bool = False


@dataclass(frozen=True)
class Rectangle:
    """A filled rectangle, or only its outline."""

    top: float
    left: float
    height: float
    width: float
    color: Tone | Rgb = "line"
    outline: bool = False


Item = Pixels | Words | Rectangle


@dataclass(frozen=True, eq=False)
class Figure:
    """Items in a box. Figures are put together by :func:`above` and :func:`beside`."""

    height: float
    width: float
    items: tuple[Item, ...] = ()

    def moved(self, top: float, left: float) -> tuple[Item, ...]:
        """The items, with the figure's corner at (top, left)."""
        return tuple(replace(item, top=item.top + top, left=item.left + left) for item in self.items)


def above(figures: Sequence[Figure], gap: float = 8) -> Figure:
    """One under the other, left edges in line."""
    items: list[Item] = []
    top = 0.0
    for figure in figures:
        items += figure.moved(top, 0)
        top += figure.height + gap
    return Figure(max(0.0, top - gap), max((figure.width for figure in figures), default=0), tuple(items))


def beside(figures: Sequence[Figure], gap: float = 24, middle: bool = False) -> Figure:
    """Next to each other, top edges (or middles) in line."""
    items: list[Item] = []
    height = max((figure.height for figure in figures), default=0)
    left = 0.0
    for figure in figures:
        items += figure.moved((height - figure.height) / 2 if middle else 0, left)
        left += figure.width + gap
    return Figure(height, max(0.0, left - gap), tuple(items))


def framed(figure: Figure, margin: float = 20) -> Figure:
    """The figure with an empty margin around it."""
    return Figure(figure.height + 2 * margin, figure.width + 2 * margin, figure.moved(margin, margin))


def line(text: str, size: int = SMALL, tone: Tone = "ink", strong: bool = False) -> Figure:
    """One line of text as a figure."""
    width = text_width(text, size)
    return Figure(round(size * 1.4), width, (Words(0, 0, text, size, tone, strong=strong),))


def paragraph(text: str, width: float, size: int = SMALL, tone: Tone = "ink", strong: bool = False) -> Figure:
    """Text broken into lines of at most ``width``; a word that is longer than a line is cut."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(shortened(word, width, size))
    return above([line(each, size, tone, strong) for each in lines], gap=0)


def shortened(text: str, width: float, size: int = SMALL) -> str:
    """The text, cut with an ellipsis where it is wider than ``width``."""
    if text_width(text, size) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if text_width(f"{text[:middle]}…", size) <= width else (low, middle - 1)
    return f"{text[:low]}…"


@cache
def font(size: float) -> ImageFont.FreeTypeFont:
    """Pillow's own font: the same pixels on every machine."""
    loaded = ImageFont.load_default(size)
    if not isinstance(loaded, ImageFont.FreeTypeFont):
        raise RuntimeError("this Pillow was built without FreeType")
    return loaded


def text_width(text: str, size: float) -> float:
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
