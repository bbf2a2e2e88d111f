"""How one number came to be: patch × kernel = product, channel by channel; and the way back to the weight gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from convscope.render.colormap import STEPS, Rgb, Scale, color_indices
from convscope.render.figure import (
    LARGE,
    SMALL,
    TONES,
    Figure,
    Length,
    Pixels,
    Rectangle,
    Tone,
    Words,
    above,
    beside,
    line,
)
from convscope.render.grid import enlarge, reduce
from convscope.render.number import format_cell, format_signed
from convscope.render.panel import WIDTH, Style, Tiles, color_bar, panel, rgb, share_width, true_range

if TYPE_CHECKING:
    from convscope.view import Array, View

MOST_CHANNELS = 6
SIDE = 112


def convolution(view: View, style: Style) -> Figure:
    """The step-through of one position where there is one; then input, output and the weight gradient as maps."""
    parts = []
    if {"patch", "product", "channel_sum", "result"} <= set(view.arrays):
        parts.append(_steps(view, style))
    parts += [_forward(view, style), _backward(view, style)]
    return above([part for part in parts if part.height], gap=28)


@dataclass(frozen=True)
class _Plane:
    """One little map with the scale that it shares with the other rows."""

    name: str
    scale: Scale

    @classmethod
    def of(cls, view: View, name: str) -> _Plane:
        return cls(name, Scale.of(true_range({}, name, view[name])))

    def draw(self, values: Array, style: Style, numbers: bool) -> Figure:
        rows, columns = values.shape
        larger = max(rows, columns)
        shown = reduce(values, math.ceil(larger / SIDE)) if larger > SIDE else values
        cell = max(1, SIDE // max(shown.shape))
        colors = enlarge(style.palette(self.scale.signed)[color_indices(shown, self.scale)], cell)
        height, width = colors.shape[:2]
        items: list[Pixels | Words | Rectangle] = [
            Pixels(0, 0, colors),
            Rectangle(0, 0, height, width, "line", outline=True),
        ]
        if numbers and cell >= 32:
            items += self._numbers(values, colors, cell, style)
        return Figure(height, width, tuple(items))

    @staticmethod
    def _numbers(values: Array, colors: Array, cell: int, style: Style) -> list[Words]:
        dark, light = TONES["light"]["ink"], TONES["dark"]["ink"]
        words = []
        tone: Tone
        for (row, column), value in np.ndenumerate(values):
            bright = colors[row * cell, column * cell].astype(float) @ [0.299, 0.587, 0.114] > 128
            readable = dark if bright else light
            tone = "ink" if readable == TONES[style.theme]["ink"] else "ground"
            left, top = column * cell + cell / 2, row * cell + cell / 2 - 7
            words.append(Words(top, left, format_cell(float(value)), 10, tone, "center"))
        return words


def _steps(view: View, style: Style) -> Figure:
    sums = view["channel_sum"].astype(np.float64)
    order = np.argsort(-np.abs(np.nan_to_num(sums)), kind="stable")[:MOST_CHANNELS]
    planes = [_Plane.of(view, name) for name in ("patch", "kernel", "product")]
    channels = view.arrays.get("channel", np.arange(len(sums)))
    rows = [_names(planes, view, style)]
    for index in order:
        patch, kernel, product = (plane.draw(view[plane.name][index], style, numbers=True) for plane in planes)
        total = line(f"Σ {format_signed(float(sums[index]))}", LARGE)
        label = _wide(line(f"channel {channels[index]}", SMALL, "quiet"), 84)
        rows.append(
            beside([label, patch, line("×", LARGE), kernel, line("=", LARGE), product, total], gap=14, middle=True)
        )
    return above([*rows, _sum(view, order, sums), beside([_bar(plane, style) for plane in planes], gap=24)], gap=10)


def _wide(figure: Figure, width: Length) -> Figure:
    return Figure(figure.height, max(width, figure.width), figure.items, figure.parts)


def _names(planes: list[_Plane], view: View, style: Style) -> Figure:
    words = {"patch": "input patch", "kernel": "kernel", "product": "product"}
    gap = 14 * 2 + line("×", LARGE).width
    left = 84.0 + 14
    items = []
    for plane in planes:
        width = plane.draw(view[plane.name][0], style, numbers=False).width
        items.append(Words(0, left, words[plane.name], SMALL, "ink", strong=True))
        left += width + gap
    return Figure(17, left, tuple(items))


def _bar(plane: _Plane, style: Style) -> Figure:
    titles = {"patch": "input patch", "kernel": "kernel", "product": "product"}
    return above([line(titles[plane.name], SMALL, "quiet"), color_bar(plane.scale, style)], gap=2)


def _sum(view: View, order: Array, sums: Array) -> Figure:
    shown = float(sums[order].sum())
    others = len(sums) - len(order)
    parts = [
        f"Σ of these {len(order)} channels {format_signed(shown)}" if len(order) > 1 else f"Σ {format_signed(shown)}"
    ]
    if others:
        parts.append(f"the other {others:,} channels {format_signed(float(sums.sum()) - shown)}")
    if "bias" in view.arrays and view["bias"].size:
        parts.append(f"bias {format_signed(float(view['bias'].ravel()[0]))}")
    parts += [f"result {format_signed(float(view['result'].ravel()[0]))}"]
    return line(" + ".join(parts[:-1]) + " = " + parts[-1], LARGE, "ink", strong=True)


def _forward(view: View, style: Style) -> Figure:
    stepped = "patch" in view.arrays
    shown = [("input", "input, by channel"), ("kernel", "kernel, by channel"), ("output", "output")]
    return _panels(view, style, shown[:1] + shown[2:] if stepped else shown)


def _backward(view: View, style: Style) -> Figure:
    shown = [
        ("upstream", "gradient with respect to the output"),
        ("share_norm", "how much each position pulls at the kernel"),
        ("share", "this position's share of the weight gradient"),
        ("weight_gradient", "weight gradient: the sum over all positions"),
    ]
    return _panels(view, style, shown)


def _panels(view: View, style: Style, shown: list[tuple[str, str]]) -> Figure:
    present = [(name, title) for name, title in shown if name in view.arrays]
    if not present:
        return Figure(0, WIDTH)
    figures = []
    for name, title in present:
        values = view[name]
        by_channel = values.ndim == 3
        channels = view.arrays.get("channel", np.arange(len(values)))
        mark = _patch(view) if name == "input" else None if by_channel else _position(view)
        labels = [str(each) for each in channels] if by_channel and len(channels) == len(values) else []
        tiles = values[:, None] if by_channel else values[None, None]
        figures.append(
            panel(
                Tiles(title, tiles, true_range(view.meta, name, values), labels, mark=mark),
                style,
                share_width(len(present)),
            )
        )
    return beside(figures, gap=28)


def _position(view: View) -> tuple[int, int, int, int] | None:
    """The output position that is explained, as a box of one cell."""
    position = view.meta.get("position")
    return (int(position[0]), int(position[1]), 1, 1) if position and "patch" in view.arrays else None


def _patch(view: View) -> tuple[int, int, int, int] | None:
    """The part of the input that the patch covers, without the padding."""
    if not {"patch_row", "patch_column"} <= set(view.arrays):
        return None
    rows, columns = view["patch_row"], view["patch_column"]
    inside_rows = rows[(rows >= 0) & (rows < view["input"].shape[1])]
    inside_columns = columns[(columns >= 0) & (columns < view["input"].shape[2])]
    if not inside_rows.size or not inside_columns.size:
        return None
    top, left = int(inside_rows.min()), int(inside_columns.min())
    return top, left, int(inside_rows.max()) - top + 1, int(inside_columns.max()) - left + 1


def signed_colors(style: Style) -> tuple[Rgb, Rgb]:
    """The last colors of the signed map: of what is far below 0, and of what is far above."""
    table = style.palette(signed=True)
    return rgb(table[16]), rgb(table[STEPS - 17])
