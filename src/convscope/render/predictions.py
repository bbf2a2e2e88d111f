"""Predictions: bars of probability per image, and which units the first class's score came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from convscope.render.explanation import signed_colors
from convscope.render.figure import LARGE, SMALL, Figure, Rectangle, Words, above, beside, line, shortened
from convscope.render.number import format_number, format_signed

if TYPE_CHECKING:
    from convscope.render.panel import Style
    from convscope.view import View

MOST_IMAGES = 24
MOST_UNITS = 8
ROW = 24
NAME, BAR = 190, 240


def predictions(view: View, style: Style) -> Figure:
    """One block per image: its classes, and its units' contributions beside them."""
    images = len(view["probability"])
    blocks = []
    for image in range(min(images, MOST_IMAGES)):
        parts = [_classes(view, image)]
        if "contribution" in view.arrays and view["contribution"].shape[1]:
            parts.append(_contributions(view, image, style))
        titled = [line(f"image {image}", LARGE)] if images > 1 else []
        blocks.append(above([*titled, beside(parts, gap=48)], gap=6))
    if len(blocks) < images:
        blocks.append(line(f"the first {len(blocks)} of {images} images", SMALL, "quiet"))
    return above(blocks, gap=22) if blocks else line("no images", SMALL, "quiet")


def class_name(names: Any, index: int) -> str:
    """A class's name from ``meta.class_names``, which maps indices (text, in JSON) to names, or lists them all."""
    if isinstance(names, dict):
        found = names.get(str(index), names.get(index))
    else:
        found = names[index] if isinstance(names, (list, tuple)) and 0 <= index < len(names) else None
    return str(found) if found is not None else f"class {index}"


def _classes(view: View, image: int) -> Figure:
    items: list[Words | Rectangle] = []
    for rank, (probability, index) in enumerate(zip(view["probability"][image], view["class"][image], strict=True)):
        top = rank * ROW
        name = shortened(class_name(view.meta.get("class_names"), int(index)), NAME - 10)
        share = float(probability) if np.isfinite(probability) else 0.0
        items += [
            Words(top + 3, NAME - 10, name, SMALL, "ink", "right"),
            Rectangle(top + 6, NAME, 10, BAR, "paper"),
            Rectangle(top + 6, NAME, 10, BAR * min(1.0, max(0.0, share)), "ink"),
            Words(top + 3, NAME + BAR + 10, format_number(float(probability)), SMALL, "ink"),
        ]
        if "score" in view.arrays:
            score = f"score {format_number(float(view['score'][image, rank]))}"
            items.append(Words(top + 3, NAME + BAR + 70, score, SMALL, "quiet"))
    height = ROW * view["probability"].shape[1]
    rows = Figure(height, NAME + BAR + 160, tuple(items))
    return above([line("probability", SMALL, "ink", strong=True), rows], gap=4)


def _contributions(view: View, image: int, style: Style) -> Figure:
    values = np.nan_to_num(view["contribution"][image].astype(np.float64))
    order = np.argsort(-np.abs(values), kind="stable")[:MOST_UNITS]
    largest = float(np.abs(values[order]).max()) or 1.0
    units = view.meta.get("units")
    negative, positive = signed_colors(style)
    items: list[Words | Rectangle] = []
    for row, index in enumerate(order):
        top, value = row * ROW, float(values[index])
        length = BAR / 2 * abs(value) / largest
        left = 90 + BAR / 2 - (length if value < 0 else 0)
        unit = units[index] if units else index
        items += [
            Words(top + 3, 80, f"unit {unit}", SMALL, "ink", "right"),
            Rectangle(top + 6, left, 10, length, positive if value > 0 else negative),
            Words(top + 3, 90 + BAR + 10, format_signed(value), SMALL, "ink"),
        ]
    items.append(Rectangle(0, 90 + BAR / 2, ROW * len(order), 1, "line"))
    layer = view.meta.get("contribution_layer")
    title = "largest contributions to the score" + (f", units of {layer}" if layer else "")
    rows = [line(title, SMALL, "ink", strong=True), Figure(ROW * len(order), 90 + BAR + 80, tuple(items))]
    others = len(values) - len(order)
    rest = f"the other {others:,} units {format_signed(float(values.sum() - values[order].sum()))}"
    if "bias" in view.arrays:
        rest += f" · bias {format_signed(float(view['bias'].ravel()[image]))}"
    return above([*rows, line(rest, SMALL, "quiet")], gap=4)
