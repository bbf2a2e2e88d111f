"""Projections: a unit's top patches, and beside each what of it the unit's activation leads back to; as in ZFNet's
figure.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from convscope.render.colormap import Scale, color_indices, color_levels
from convscope.render.figure import LARGE, SMALL, Figure, Pixels, Words, above, beside, line, paragraph
from convscope.render.grid import HIGHEST
from convscope.render.number import format_number
from convscope.render.panel import WIDTH, Style, true_range
from convscope.render.photos import Drawn, fitted

if TYPE_CHECKING:
    from convscope.render.figure import Item
    from convscope.view import Array, View

_GAP = 3
_BETWEEN = 36
_TILE, _LARGE_TILE = 52, 116
_RULES = {"deconvnet": "deconvnet", "guided_backprop": "guided backpropagation", "gradient": "gradient"}


def projections(view: View, style: Style) -> Figure:
    """A layer: for each unit a square of projections and the same square of patches. One unit: a row of each."""
    units, ranks = view["value"].shape
    if not units or not ranks:
        return line("no patches", SMALL, "quiet")
    method = _RULES.get(str(view.meta.get("rule")), "projection")
    if units == 1:
        side = max(40, min(_LARGE_TILE, WIDTH // ranks - _GAP))
        across = max(1, min(ranks, (WIDTH + _GAP) // (side + _GAP)))
        body = above(
            [
                above(
                    [line(title, SMALL, "ink", strong=True), _square(view, 0, what, side, across, style, values)], gap=5
                )
                for title, what, values in (("patches", "patch", True), (f"{method} projections", "projection", False))
            ],
            gap=16,
        )
        return above([body, _notes(view)], gap=16)
    across = math.ceil(math.sqrt(ranks))
    block = 2 * (across * (_TILE + _GAP) - _GAP) + 10
    columns = max(1, (WIDTH + _BETWEEN) // (block + _BETWEEN))
    high = math.ceil(ranks / across) * (_TILE + _GAP) + 20 + 16
    shown = min(units, columns * max(1, (HIGHEST - 400) // high))
    blocks = [_block(view, unit, across, style) for unit in range(shown)]
    rows = [beside(blocks[start : start + columns], gap=_BETWEEN) for start in range(0, shown, columns)]
    title = line(f"left: {method} projections · right: the patches that they are of", SMALL, "quiet")
    more = [line(f"the first {shown} of {units:,} units: no more fit into one picture", SMALL, "quiet")]
    return above([title, *rows, *(more if shown < units else []), _notes(view)], gap=16)


def _block(view: View, unit: int, across: int, style: Style) -> Figure:
    numbers = view.meta.get("units")
    best = format_number(float(view["value"][unit, 0]))
    name = above([line(f"unit {numbers[unit] if numbers else unit}", LARGE)], gap=0)
    strongest = Figure(name.height, 1, (Words(3, name.width + 8, f"strongest {best}", 11, "quiet"),))
    head = Figure(name.height, name.width, (), ((0, 0, name), (0, 0, strongest)))
    squares = [_square(view, unit, what, _TILE, across, style, False) for what in ("projection", "patch")]
    return above([head, beside(squares, gap=10)], gap=3)


def _square(view: View, unit: int, what: str, side: int, across: int, style: Style, values: bool) -> Figure:
    """The tiles of one unit, in rows of ``across``."""
    ranks = view["value"].shape[1]
    under = 16 if values else 0
    down = math.ceil(ranks / across)
    items: list[Item] = []
    for rank in range(ranks):
        row, column = divmod(rank, across)
        top, left = row * (side + _GAP + under), column * (side + _GAP)
        if view["image"][unit, rank] < 0:
            continue
        if np.isfinite(view["reached"][unit, rank]):
            items.append(Pixels(top, left, fitted(_colors(view, unit, rank, what, style), side, style)))
        else:
            items.append(Words(top + side // 2 - 8, left + side / 2, "no picture", 10, "quiet", "center"))
        if values:
            items.append(Words(top + side + 1, left, format_number(float(view["value"][unit, rank])), 10, "quiet"))
    return Figure(down * (side + _GAP + under) - _GAP, min(ranks, across) * (side + _GAP) - _GAP, tuple(items))


def _colors(view: View, unit: int, rank: int, what: str, style: Style) -> Array:
    """One patch or projection at its own size: uint8 ``[row, column, 3]``."""
    rows, columns = (int(each) for each in view["window"][unit, rank, 2:])
    whole = view[what][unit, rank, :rows, :columns]
    if what == "patch" or not rows or not columns:
        return whole if what == "patch" else np.zeros((0, 0, 3), np.uint8)
    values = whole if whole.shape[2] in (1, 3) else whole.sum(axis=2, keepdims=True)
    limit = float(Drawn.of(values[None], True, style, own=True).limits[0])
    clipped = np.where(np.isfinite(values), np.clip(values, -limit, limit), values)
    if values.shape[2] == 3:
        return color_levels(clipped, limit)
    return np.asarray(style.palette(signed=True)[color_indices(clipped[:, :, 0], Scale(True, limit))])


def _notes(view: View) -> Figure:
    found = true_range(view.meta, "projection", view["projection"])
    channels = view["projection"].shape[4]
    drawn = {
        1: "each projection on its own scale, symmetric about 0",
        3: "each projection on its own scale, its channels as red, green and blue; gray is 0",
    }.get(channels, f"the sum over {channels} channels, each projection on its own scale, symmetric about 0")
    lines = [
        f"Projections: true minimum {format_number(found['minimum'])} · maximum {format_number(found['maximum'])} · "
        f"{drawn}. Gray at a patch's edge is beyond the image's border."
    ]
    lost = sum(int(found.get(key) or 0) for key in ("nan", "positive_infinity", "negative_infinity"))
    if lost:
        lines.append(f"{lost:,} values aren't finite: drawn in a color of their own")
    missing = view.meta.get("missing") or {}
    names = view.meta.get("image_names") or {}
    lines += [f"Not shown: {names.get(number, number)}: {reason}" for number, reason in list(missing.items())[:8]]
    return above([paragraph(each, WIDTH, SMALL, "quiet") for each in lines], gap=3)


__all__ = ["projections"]
