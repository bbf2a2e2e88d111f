"""Top patches: a row of patches for each unit, its value under each, as in the R-CNN paper's figures."""

from __future__ import annotations

import math
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import numpy as np

from convscope.render.figure import SMALL, TONES, Figure, Pixels, Rectangle, Words, above, line, paragraph, shortened
from convscope.render.grid import HIGHEST
from convscope.render.number import format_number
from convscope.render.panel import WIDTH
from convscope.render.predictions import class_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from convscope.render.figure import Item, Tone
    from convscope.render.panel import Style
    from convscope.view import Array, View

_LABEL = 118
_GAP = 6
_UNDER = 17
_BETWEEN = 28
_LARGEST_TILE, _SMALLEST_TILE = 96, 40
_MOST_MISSING = 8
_KINDS = {
    "top": "the images with the highest maxima",
    "quantile": "images spread evenly from the highest to the lowest maximum of a random sample, and the share of "
    "images whose maximum is no larger",
    "bottom": "the images with the lowest minima",
}
_SOURCES = {"labels": "the images' own labels", "predicted": "the network's top class for each image"}


def top_patches(view: View, style: Style) -> Figure:
    """A layer: each unit's top patches in a row. One unit: its top patches, its quantiles and its bottom patches."""
    units, ranks = view["image"].shape
    side = max(_SMALLEST_TILE, min(_LARGEST_TILE, (WIDTH - _LABEL) // max(ranks, 1) - _GAP))
    missing: dict[str, str] = {}
    if units == 1:
        rows = [
            above([line(_title(view, which), SMALL, "quiet"), _rows(view, style, which, side, 1, missing)], gap=6)
            for which in _KINDS
        ]
        return above([*rows, _notes(view, missing)], gap=20)
    columns = max(1, (WIDTH + _BETWEEN) // (_LABEL + ranks * (side + _GAP) + _BETWEEN))
    shown = min(units, columns * max(1, (HIGHEST - 400) // (side + _UNDER + _GAP)))
    parts = [_rows(view, style, "top", side, shown, missing, columns)]
    if shown < units:
        text = f"the first {shown} of {units:,} units: no more fit into one picture"
        parts.append(line(text, SMALL, "quiet"))
    return above([*parts, _notes(view, missing)], gap=14)


def _title(view: View, which: str) -> str:
    """What a row of one unit shows; extremes that are all equal are no extremes."""
    value = view["value" if which == "top" else f"{which}_value"][0]
    shown = value[np.isfinite(value)]
    if which != "quantile" and len(shown) > 1 and (shown == shown[0]).all():
        return f"{_KINDS[which]}: all the same, of which these are the first"
    return _KINDS[which]


def _rows(
    view: View, style: Style, which: str, side: int, units: int, missing: dict[str, str], columns: int = 1
) -> Figure:
    """A row for each of the first ``units``, in ``columns`` read downwards; adds to ``missing`` what isn't shown."""
    prefix = "" if which == "top" else f"{which}_"
    image = view[f"{prefix}image"][:units]
    find = _finder()
    tiles = None if find is None else find(view, which, side, units)
    if tiles is None:
        missing[""] = "the images can't be shown here: this process hasn't opened the study that they are of"
    else:
        names = view.meta.get("image_names", {})
        missing |= {
            str(names.get(str(number), f"image {number}")): reason for number, reason in sorted(tiles.missing.items())
        }
    items: list[Item] = []
    down, width = math.ceil(units / columns), _LABEL + image.shape[1] * (side + _GAP) - _GAP
    for unit in range(units):
        column, row = divmod(unit, down)
        top, start = row * (side + _UNDER + _GAP), column * (width + _BETWEEN)
        for place, (text, tone) in enumerate(_label(view, which, unit)):
            items.append(Words(top + 16 * place, start, text, SMALL, tone))
        for rank in np.flatnonzero(image[unit] >= 0).tolist():
            left = start + _LABEL + rank * (side + _GAP)
            if tiles is None:
                items.append(Rectangle(top, left, side, side, "line", outline=True))
                items.append(Words(top + side // 2 - 8, left + side / 2, "no image", 10, "quiet", "center"))
            else:
                items.append(Pixels(top, left, _on_ground(tiles.tile(unit, rank), style)))
            items.append(Words(top + side + 1, left, _under(view, which, prefix, unit, rank), 10, "quiet"))
    return Figure(down * (side + _UNDER + _GAP) - _GAP, columns * (width + _BETWEEN) - _BETWEEN, tuple(items))


def _label(view: View, which: str, unit: int) -> list[tuple[str, Tone]]:
    """The row's name, and for the top patches the class that most of them are of."""
    if which != "top":
        return [({"quantile": "usual", "bottom": "least"}[which], "ink")]
    units = view.meta.get("units")
    lines: list[tuple[str, Tone]] = [(f"unit {units[unit] if units else unit}", "ink")]
    # One image of a class says nothing of the unit.
    if "class_count" in view.arrays and view["class_count"][unit, 0] > 1:
        name = class_name(view.meta.get("class_names"), int(view["class_index"][unit, 0]))
        share = f"{view['class_count'][unit, 0]} of {int(view['class_count'][unit].sum())}"
        lines += [(shortened(name, _LABEL - 12), "quiet"), (share, "quiet")]
    return lines


def _under(view: View, which: str, prefix: str, unit: int, rank: int) -> str:
    text = format_number(float(view[f"{prefix}value"][unit, rank]))
    share = f" · {format_number(100 * float(view['quantile'][unit, rank]), 2)} %" if which == "quantile" else ""
    return text + share


def _on_ground(tile: Array, style: Style) -> Array:
    """A tile of red, green, blue and opacity, laid on the figure's ground."""
    opacity = tile[:, :, 3:].astype(np.float32) / 255
    ground = np.array(TONES[style.theme]["ground"], np.float32)
    colors: Array = np.rint(tile[:, :, :3] * opacity + ground * (1 - opacity)).astype(np.uint8)
    return colors


def _notes(view: View, missing: dict[str, str]) -> Figure:
    lines = ["Under each patch: the unit's value there. Gray: beyond the image's border, where the field leaves it."]
    source = _SOURCES.get(str(view.meta.get("classes_from")))
    if source:
        lines.append(f"Under a unit: the most frequent class of its top images, by {source}.")
    lines += [f"Not shown: {name}: {reason}" if name else reason for name, reason in missing.items()][:_MOST_MISSING]
    if len(missing) > _MOST_MISSING:
        lines.append(f"and {len(missing) - _MOST_MISSING:,} more that aren't shown")
    return above([paragraph(each, WIDTH, SMALL, "quiet") for each in lines], gap=3)


@cache
def _finder() -> Callable[[View, str, int, int], Any] | None:
    # A plug-in of this file, so that drawing need not know where pictures come from.
    found = list(entry_points(group="convscope.pictures", name="top_patches"))
    return found[0].load() if found else None
