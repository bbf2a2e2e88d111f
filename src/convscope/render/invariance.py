"""Invariance and correspondence: how features follow an image that is moved, and whether they follow an object's parts;
as in figures 5 and 8 of Zeiler and Fergus.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from convscope.render.chart import HUES, Series, chart, keys
from convscope.render.figure import (
    LARGE,
    SMALL,
    Figure,
    Item,
    Rectangle,
    Words,
    above,
    beside,
    line,
    paragraph,
    shortened,
    text_width,
)
from convscope.render.number import format_number
from convscope.render.panel import WIDTH, Style
from convscope.render.photos import fitted, in_color, tile, wrapped

if TYPE_CHECKING:
    from convscope.view import Array, View

MOST_CURVES = len(HUES)
MOST_LAYERS = 3
MOST_PICTURES = 8
_SIDE = 74
_SHORT = 235


def invariance(view: View, style: Style) -> Figure:
    """A row for each way of moving an image: examples, the distance at each layer, the probability of the class."""
    images, layers, transforms = view["distance"].shape[:3]
    if not (images and transforms):
        return line("no images", SMALL, "quiet")
    names = view.meta.get("images") or []
    shown = min(images, MOST_CURVES)
    labels = view.meta.get("label_names") or []
    entries = []
    for image in range(shown):
        name = str(names[image]) if image < len(names) else f"image {image}"
        about = f" ({labels[image]})" if image < len(labels) else ""
        entries.append((shortened(name + about, 300), HUES[image]))
    rows = [_row(view, transform, shown, style) for transform in range(transforms)]
    notes = []
    if shown < images:
        notes.append(f"the first {shown} of {images:,} images")
    if layers > MOST_LAYERS:
        notes.append(f"the first {MOST_LAYERS} of {layers} layers; all are in the view")
    notes.append("distance: Euclidean, between the features of the moved image and of the image as it is")
    return above([keys(entries, WIDTH), *rows, *(line(each, SMALL, "quiet") for each in notes)], gap=20)


def _row(view: View, transform: int, shown: int, style: Style) -> Figure:
    names, units = view.meta.get("transforms") or [], view.meta.get("amount_units") or []
    name = str(names[transform]) if transform < len(names) else f"transform {transform}"
    unit = str(units[transform]) if transform < len(units) else ""
    amount = view["amount"][transform]
    parts = []
    if "example" in view.arrays:
        examples = view["example"][0, transform]
        steps = np.linspace(0, len(amount) - 1, len(examples)).round().astype(int)
        pictures = [
            tile(fitted(in_color(each), _SIDE, style), "", [f"{format_number(float(amount[step]))} {unit}".strip()])
            for each, step in zip(examples, steps, strict=True)
        ]
        parts.append(beside(pictures, gap=6))
    layers = view.meta.get("layers") or []
    for layer in range(min(view["distance"].shape[1], MOST_LAYERS)):
        title = f"distance at {layers[layer] if layer < len(layers) else f'layer {layer}'}"
        parts.append(_lines(title, amount, view["distance"][:shown, layer, transform], unit))
    if "probability" in view.arrays:
        parts.append(_lines("probability of the class", amount, view["probability"][:shown, transform], unit, high=1.0))
    return above([line(name, LARGE), wrapped(parts, WIDTH, gap=10)], gap=6)


def _lines(title: str, amount: Array, values: Array, unit: str, high: float | int | None = None) -> Figure:
    series = [Series("", amount, each, HUES[image]) for image, each in enumerate(values)]
    return chart(shortened(title, _SHORT), series, width=_SHORT, height=150, across=unit, low=0, high=high)


def correspondence(view: View, style: Style) -> Figure:
    """A table: how much more alike the changes are when the same part is hidden than when any part is; and what was."""
    parts, layers = view["distance"].shape
    part_names = [str(each) for each in view.meta.get("parts") or range(parts)]
    layer_names = [str(each) for each in view.meta.get("layers") or range(layers)]
    cells = [["hidden part", *layer_names]]
    for part in range(parts):
        row = [part_names[part]]
        for layer in range(layers):
            random = view["random"][part, layer].astype(np.float64)
            spread = f"{format_number(float(random.mean()))} ± {format_number(float(random.std()))}"
            text = f"{format_number(float(view['distance'][part, layer]))} · random {spread}"
            if "smaller" in view.arrays:
                text += f" · {int(view['smaller'][part, layer]):,} of {random.size:,} as low"
            row.append(text)
        cells.append(row)
    note = paragraph(
        "The number is the mean Hamming distance between the signs of the changes in different images, 0 to 1, when "
        "the same part is hidden in each; beside it the same for places drawn at random. Lower means that the layer "
        "keeps track of the part.",
        WIDTH,
        SMALL,
        "quiet",
    )
    return above([_table(cells), note, *_hidden(view, part_names, style)], gap=16)


def _table(cells: list[list[str]]) -> Figure:
    """Words in columns, the first row as a heading."""
    widths = [max(text_width(row[column], SMALL) for row in cells) for column in range(len(cells[0]))]
    lefts = [sum(widths[:column]) + 28 * column for column in range(len(widths))]
    items: list[Item] = []
    for number, row in enumerate(cells):
        for left, text in zip(lefts, row, strict=True):
            items.append(Words(24 * number, left, text, SMALL, "ink" if number else "quiet", strong=not number))
        items.append(Rectangle(24 * number + 19, 0, 1, lefts[-1] + widths[-1], "line"))
    return Figure(24 * len(cells), lefts[-1] + widths[-1], tuple(items))


def _hidden(view: View, names: list[str], style: Style) -> list[Figure]:
    if "picture" not in view.arrays:
        return []
    rows = []
    for part, pictures in enumerate(view["picture"]):
        tiles = [tile(fitted(in_color(each), 120, style)) for each in pictures[:MOST_PICTURES]]
        rows.append(above([line(names[part], SMALL, "ink", strong=True), beside(tiles, gap=8)], gap=4))
    return rows


__all__ = ["correspondence", "invariance"]
