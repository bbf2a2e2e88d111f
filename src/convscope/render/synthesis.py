"""Optimized images, never without the natural ones beside them; and images made again from a layer's code."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from convscope.render.chart import HUES, Series, chart
from convscope.render.figure import (
    LARGE,
    SMALL,
    Figure,
    Pixels,
    Words,
    above,
    beside,
    line,
    paragraph,
    shortened,
)
from convscope.render.grid import HIGHEST
from convscope.render.number import format_number
from convscope.render.panel import WIDTH, Style
from convscope.render.photos import fitted, in_color, tile

if TYPE_CHECKING:
    from convscope.render.figure import Item
    from convscope.view import Array, View

MOST_IMAGES = 24
_SIDE, _LARGE_SIDE = 150, 300
_GAP = 3
_MOST_CURVES = 6


def feature_visualization(view: View, style: Style) -> Figure:
    """For each unit the optimized image, its natural ones to the right, and how far both excite it."""
    units = len(view["picture"])
    if not units:
        return line("no units", SMALL, "quiet")
    if units == 1:
        large = _unit(view, 0, _LARGE_SIDE, style)
        return above([beside([large, *_history(view, [0])], gap=32), _scores_note()], gap=14)
    one = _unit(view, 0, _SIDE, style)
    columns = max(1, int((WIDTH + 28) // (one.width + 28)))
    shown = min(units, columns * max(1, int((HIGHEST - 500) // (one.height + 22))))
    blocks = [_unit(view, unit, _SIDE, style) for unit in range(shown)]
    rows = [beside(blocks[start : start + columns], gap=28) for start in range(0, shown, columns)]
    more = [line(f"the first {shown} of {units:,}: no more fit into one picture", SMALL, "quiet")]
    return above([*rows, *(more if shown < units else []), _scores_note()], gap=22)


def _unit(view: View, unit: int, side: int, style: Style) -> Figure:
    """One unit: its name, the optimized image, the natural ones as high, and both scores."""
    optimized = tile(fitted(in_color(view["picture"][unit]), side, style), "", ())
    natural = view["natural_picture"][unit]
    square = _natural(natural, optimized.height - 2, style)
    score, best = float(view["score"][unit]), float(view["natural_score"][unit])
    head = line(shortened(_name(view, unit), optimized.width + square.width + 10, LARGE), LARGE)
    words = [
        _under("optimized", format_number(score), optimized.width),
        _under("natural, at most", format_number(best), square.width) if len(natural) else Figure(0, 0),
    ]
    lefts = (0, optimized.width + 10)
    under = Figure(
        17,
        optimized.width + 10 + square.width,
        (),
        tuple((0, left, each) for left, each in zip(lefts, words, strict=True)),
    )
    parts = [head, beside([optimized, square], gap=10), under]
    if not score > best and math.isfinite(best):
        parts.append(line("no more than a natural image: read it with care", 11, "alarm"))
    return above(parts, gap=3)


def _under(what: str, value: str, width: float | int) -> Figure:
    return Figure(17, width, (Words(0, 0, shortened(f"{what} {value}", width, 11), 11, "quiet"),))


def _natural(pictures: Array, height: float | int, style: Style) -> Figure:
    """Natural patches in a square as high as the optimized image; only those there are."""
    count = len(pictures)
    if not count:
        return line("no natural image", SMALL, "quiet")
    across = math.ceil(math.sqrt(count))
    side = int((height - (across - 1) * _GAP) // across)
    items: list[Item] = []
    for rank, each in enumerate(pictures):
        row, column = divmod(rank, across)
        items.append(Pixels(row * (side + _GAP), column * (side + _GAP), fitted(in_color(each), side, style)))
    down = math.ceil(count / across)
    return Figure(down * (side + _GAP) - _GAP, across * (side + _GAP) - _GAP, tuple(items))


def _name(view: View, unit: int) -> str:
    names, units = view.meta.get("names"), view.meta.get("units")
    if names and unit < len(names):
        return str(names[unit])
    return f"unit {units[unit] if units else unit}"


def _history(view: View, units: list[int]) -> list[Figure]:
    if "history" not in view.arrays or view["history"].shape[-1] < 2:
        return []
    series = []
    for place, unit in enumerate(units):
        values = view["history"][unit].astype(np.float64)
        series.append(Series(_name(view, unit), np.arange(len(values)), values, HUES[place % len(HUES)]))
    drawn = chart("the objective as raised, through the transforms", series, width=380, height=220, across="step")
    words = "another number than the score: the mean of a unit's map where the score is its largest value"
    return [above([drawn, paragraph(words, 380, SMALL, "quiet")], gap=4)]


def _scores_note() -> Figure:
    text = (
        "Left: optimized. Right: the natural images that excite the same most; people tell a unit's answers better "
        "from these (Borowski et al. 2021). The numbers are what each reaches at the network's own input size."
    )
    return paragraph(text, WIDTH, SMALL, "quiet")


def inversion(view: View, style: Style) -> Figure:
    """Each image, the one made again from its code, how far apart their codes are, and the way there."""
    images = len(view["picture"])
    if not images:
        return line("no images", SMALL, "quiet")
    side = _LARGE_SIDE if images == 1 else 200
    names = view.meta.get("images") or []
    blocks = []
    for image in range(min(images, MOST_IMAGES)):
        name = str(names[image]) if image < len(names) else f"image {image}"
        error = f"distance of the codes {format_number(float(view['error'][image]))}"
        blocks.append(
            beside(
                [
                    tile(fitted(in_color(view["original"][image]), side, style), "original", [name]),
                    tile(fitted(in_color(view["picture"][image]), side, style), "made again", [error]),
                ],
                gap=8,
            )
        )
    columns = max(1, int((WIDTH + 28) // (blocks[0].width + 28)))
    rows = [beside(blocks[start : start + columns], gap=28) for start in range(0, len(blocks), columns)]
    if len(blocks) < images:
        rows.append(line(f"the first {len(blocks)} of {images:,} images", SMALL, "quiet"))
    return above([*rows, *_way(view)], gap=18)


def _way(view: View) -> list[Figure]:
    if "history" not in view.arrays or view["history"].shape[-1] < 2:
        return []
    names = view.meta.get("images") or []
    series = [
        Series(
            shortened(str(names[image]) if image < len(names) else f"image {image}", 150),
            np.arange(view["history"].shape[1]),
            view["history"][image],
            HUES[image % len(HUES)],
        )
        for image in range(min(len(view["history"]), _MOST_CURVES))
    ]
    return [chart("distance of the codes, step by step", series, width=560, height=200, across="step", low=0)]


__all__ = ["feature_visualization", "inversion"]
