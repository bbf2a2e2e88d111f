"""Attribution: what drove a score or a unit, beside and over the picture that the network saw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from convscope.render.chart import HUES, keys
from convscope.render.colormap import color_levels
from convscope.render.figure import LARGE, SMALL, Figure, above, line, paragraph, shortened
from convscope.render.grid import HIGHEST, enlarge
from convscope.render.number import format_number
from convscope.render.panel import WIDTH, Style, true_range
from convscope.render.photos import SIDE, Drawn, Fit, in_color, tile, wrapped
from convscope.render.predictions import class_name

if TYPE_CHECKING:
    from convscope.render.colormap import Rgb
    from convscope.view import Array, View

MOST_IMAGES = 16
_OWN = ("attribution", "map", "picture", "place", "drop")  # the map is an occlusion's drop, brought to pixels
_TITLES = {
    "coarse": "at the layer's own resolution",
    "activity": "activity of the unit",
    "probability": "probability of the class",
}
_OTHER: Rgb = (140, 140, 140)


def attribution(view: View, style: Style) -> Figure:
    """A row for each image: the picture, the map, the map over the picture, its channels as colors, and what else
    the method found at each place.
    """
    images = len(view["map"])
    if not images:
        return line("no images", SMALL, "quiet")
    fit = Fit.of(*view["map"].shape[1:])
    shown = min(images, MOST_IMAGES, max(1, (HIGHEST - 600) // (SIDE + 60)))
    signed = bool(view.meta.get("signed", (view["map"] < 0).any()))
    maps = fit.values(view["map"][:shown])
    drawn = Drawn.of(maps, signed, style)
    classes = _classes(view, shown)
    others = [_Extra(view, name, shown, style) for name in _extras(view)]
    rows = []
    for image in range(shown):
        picture = in_color(view["picture"][image])
        small = fit.values(picture.transpose(2, 0, 1)).transpose(1, 2, 0)
        tiles = [
            tile(fit.picture(picture), "what the network saw", _about(view, image)),
            tile(enlarge(drawn.colors(maps[image], image, style), fit.factor), _map_title(view)),
            tile(enlarge(drawn.over(maps[image], small, image, style), fit.factor), "over the image"),
        ]
        if view["attribution"].shape[1] == 3:
            tiles.append(tile(_by_channel(view, image, fit), "in red, green and blue"))
        tiles += [each.tile(image, style) for each in others]
        tiles += [_most_probable(view, name, image, colors) for name, colors in classes.items()]
        rows.append(above([*_name(view, image, images), wrapped(tiles, WIDTH)], gap=6))
    notes = [fit.note]
    if shown < images:
        notes.append(f"the first {shown} of {images:,} images: no more fit into one picture")
    if view["attribution"].shape[1] == 3:
        notes.append("in red, green and blue: each channel's own attribution, each image on its own scale; gray is 0")
    named = [line(_map_title(view), SMALL, "ink", strong=True)] if others else []
    width = 420 if others else WIDTH
    legends = [above([*named, drawn.legend(true_range(view.meta, "map", view["map"]), style, width, notes)], gap=3)]
    legends += [each.legend(style) for each in others]
    legends += [_class_key(view, colors) for colors in classes.values()]
    return above([*_badge(view), *rows, wrapped(legends, WIDTH, gap=40)], gap=18)


def _badge(view: View) -> list[Figure]:
    badge = str(view.meta.get("badge") or "")
    return [paragraph(badge, WIDTH, SMALL, "alarm", strong=True)] if badge else []


def _name(view: View, image: int, images: int) -> list[Figure]:
    names = view.meta.get("images") or []
    text = str(names[image]) if image < len(names) else f"image {image}"
    return [line(shortened(text, WIDTH, LARGE), LARGE)] if images > 1 or names else []


def _about(view: View, image: int) -> list[str]:
    """The number that is explained, and the class it is about."""
    values, names = view.meta.get("values") or [], view.meta.get("label_names") or []
    objective = str(view.meta.get("objective") or "objective")
    found = []
    if image < len(values):
        found.append(f"{objective} = {format_number(values[image])}")
    if image < len(names):
        found.append(str(names[image]))
    return found


def _map_title(view: View) -> str:
    reduce = {"maximum": "largest of the channels", "norm": "norm over the channels", "sum": "sum of the channels"}
    return reduce.get(str(view.meta.get("reduce")), "map") if view["attribution"].shape[1] > 1 else "map"


def _by_channel(view: View, image: int, fit: Fit) -> Array:
    """Three channels as red, green and blue about a middle gray, as Zeiler and Fergus drew them."""
    values = fit.values(view["attribution"][image])
    drawn = Drawn.of(values[None], True, Style())
    limit = float(drawn.limits[0])
    clipped = np.where(np.isfinite(values), np.clip(values, -limit, limit), values)
    return enlarge(color_levels(clipped.transpose(1, 2, 0), limit), fit.factor)


def _extras(view: View) -> list[str]:
    """Further maps of each image, known or not."""
    return [
        name
        for name, axes in view.axes.items()
        if name not in _OWN and axes == ("image", "row", "column") and view[name].dtype.kind == "f"
    ]


class _Extra:
    """One more map of each image, at a resolution of its own."""

    def __init__(self, view: View, name: str, shown: int, style: Style) -> None:
        self.name, self.range = name, true_range(view.meta, name, view[name])
        self.whole = view.arrays.get(f"{name}_whole")
        self.fit = Fit.of(*view[name].shape[1:])
        self.values = self.fit.values(view[name][:shown])
        signed = (self.range["minimum"] or 0) < 0
        limit = max(abs(self.range["minimum"] or 0.0), abs(self.range["maximum"] or 0.0))
        whole = style if isinstance(style.scale, str) else Style(style.theme, style.signed, style.positive)
        found = Drawn.of(self.values, signed, whole)
        self.drawn = found if whole.scale == "unit" else Drawn(signed, np.full(shown, limit), True, 0, found.count)

    def tile(self, image: int, style: Style) -> Figure:
        colors = self.drawn.colors(self.values[image], image, style)
        title = _TITLES.get(self.name, self.name.replace("_", " "))
        under = (
            [] if self.whole is None else [f"with a square there; without {format_number(float(self.whole[image]))}"]
        )
        return tile(enlarge(colors, self.fit.factor), title, under)

    def legend(self, style: Style) -> Figure:
        title = line(_TITLES.get(self.name, self.name.replace("_", " ")), SMALL, "ink", strong=True)
        return above([title, self.drawn.legend(self.range, style, 420, [self.fit.note])], gap=3)


def _classes(view: View, shown: int) -> dict[str, dict[int, Rgb]]:
    """Maps of class numbers: the color of each class, the most frequent ones first; all others share a gray."""
    found: dict[str, dict[int, Rgb]] = {}
    for name, axes in view.axes.items():
        if name not in _OWN and axes == ("image", "row", "column") and view[name].dtype.kind in "iu":
            numbers, counts = np.unique(view[name][:shown], return_counts=True)
            order = numbers[np.argsort(-counts, kind="stable")].tolist()
            found[name] = {int(each): HUES[place] if place < 6 else _OTHER for place, each in enumerate(order)}
    return found


def _most_probable(view: View, name: str, image: int, colors: dict[int, Rgb]) -> Figure:
    fit = Fit.of(*view[name].shape[1:])
    numbers = view[name][image]
    table = np.zeros((*numbers.shape, 3), np.uint8)
    for number, color in colors.items():
        table[numbers == number] = color
    # Classes have no average: what is too large to draw loses rows and columns.
    step = fit.reduction
    return tile(enlarge(table[::step, ::step], fit.factor), name.replace("_", " ") + " class")


def _class_key(view: View, colors: dict[int, Rgb]) -> Figure:
    facts: Any = view.meta.get("facts") or {}
    names: Any = view.meta.get("class_names") or facts.get("class_names")
    entries = [(shortened(class_name(names, number), 200), color) for number, color in colors.items()]
    own = [entry for entry in entries if entry[1] != _OTHER]
    if len(own) < len(entries):
        own.append((f"{len(entries) - len(own):,} other classes", _OTHER))
    return above([line("most probable class", SMALL, "ink", strong=True), keys(own, 420)], gap=5)


__all__ = ["attribution"]
