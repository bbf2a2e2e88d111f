"""Attribution matrix: methods down, classes across, and beside each row what speaks for and against it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from convscope.render.colormap import Scale
from convscope.render.figure import LARGE, SMALL, Figure, Words, above, beside, line, paragraph, shortened
from convscope.render.grid import enlarge
from convscope.render.number import format_number
from convscope.render.panel import WIDTH, Style, color_bar, true_range
from convscope.render.photos import Drawn, Fit, in_color, tile
from convscope.render.predictions import class_name

if TYPE_CHECKING:
    from convscope.render.figure import Item, Tone
    from convscope.view import Array, View

MOST_IMAGES = 4
SIDE = 150
_LABEL = 150
# Only what is far on the wrong side is said to be: these are no thresholds of the papers.
ALIKE = 0.5


def attribution_matrix(view: View, style: Style) -> Figure:
    """For each image its picture, then a row for each method."""
    images, methods = view["map"].shape[:2]
    if not images or not methods:
        return line("nothing to draw", SMALL, "quiet")
    parts = []
    names = view.meta.get("images") or []
    for image in range(min(images, MOST_IMAGES)):
        name = str(names[image]) if image < len(names) else f"image {image}"
        rows = [_row(view, image, method, style) for method in range(methods)]
        parts.append(above([line(shortened(name, WIDTH, LARGE), LARGE), _head(view, image), *rows], gap=12))
    if images > MOST_IMAGES:
        parts.append(line(f"the first {MOST_IMAGES} of {images:,} images", SMALL, "quiet"))
    return above([*parts, _notes(view, style)], gap=24)


def _fit(view: View) -> Fit:
    return Fit.of(*view["map"].shape[3:], side=SIDE)


def _head(view: View, image: int) -> Figure:
    """The picture, and the classes with what the network makes of them."""
    picture = in_color(view["picture"][image])
    parts = [Figure(1, _LABEL), tile(_fit(view).picture(picture), "as it was seen")]
    lines = []
    for place, number in enumerate(view["class"][image]):
        name = class_name(view.meta.get("class_names"), int(number))
        words = f"{view.meta.get('measure', 'score')} {format_number(float(view['probability'][image, place]))}"
        score = f"score {format_number(float(view['score'][image, place]))}"
        lines.append(line(f"{_ordinal(place)} column: {name}", SMALL, "ink", strong=True))
        lines.append(line(f"{words} · {score}", SMALL, "quiet"))
    return beside([*parts, above(lines, gap=3)], gap=12)


def _ordinal(place: int) -> str:
    return ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")[min(place, 7)]


def _row(view: View, image: int, method: int, style: Style) -> Figure:
    fit = _fit(view)
    maps = [*view["map"][image, method]]
    titles = [shortened(class_name(view.meta.get("class_names"), int(number)), SIDE) for number in view["class"][image]]
    if "random_map" in view.arrays:
        maps.append(view["random_map"][image, method])
        titles.append("random weights")
    values = fit.values(np.stack(maps))
    signed = bool((view.meta.get("signed") or [])[method : method + 1] == [True])
    drawn = Drawn.of(values, signed, style, own=True)
    tiles = [
        tile(enlarge(drawn.colors(each, place, style), fit.factor), title)
        for place, (each, title) in enumerate(zip(values, titles, strict=True))
    ]
    return beside([_label(view, method, tiles[0].height), *tiles, _checks(view, image, method)], gap=12)


def _label(view: View, method: int, height: float | int) -> Figure:
    titles, badges = view.meta.get("titles") or [], view.meta.get("badges") or []
    name = str(titles[method]) if method < len(titles) else f"method {method}"
    parts = [Figure(18, 1), paragraph(name, _LABEL, LARGE)]
    if method < len(badges) and badges[method]:
        parts.append(paragraph(str(badges[method]), _LABEL, SMALL, "alarm"))
    figure = above(parts, gap=4)
    return Figure(height, _LABEL, figure.items, figure.parts)


def _checks(view: View, image: int, method: int) -> Figure:
    """What was measured of a row's first map: words that say which way each number speaks."""
    if "random_similarity" not in view.arrays:
        return Figure(0, 0)
    rows: list[tuple[str, str, Tone]] = []
    for name, words in (
        ("class_similarity", "same for the next class"),
        ("random_similarity", "same for random weights"),
        ("edge_similarity", "same as an edge detector"),
    ):
        value = float(view[name][image, method])
        rows.append((words, format_number(value, 2), "alarm" if value >= ALIKE else "ink"))
    random = view["map"].shape[1]
    for name, words, better in (("deletion_area", "deletion", -1), ("insertion_area", "insertion", 1)):
        own, other = (float(view[name][image, place]) for place in (method, random))
        text = f"{format_number(own, 2)} (at random {format_number(other, 2)})"
        rows.append((words, text, "ink" if better * (own - other) > 0 else "alarm"))
    items: list[Item] = []
    for place, (words, text, tone) in enumerate(rows):
        items.append(Words(22 + 22 * place, 0, words, SMALL, "quiet"))
        items.append(Words(22 + 22 * place, 165, text, SMALL, tone, strong=tone == "alarm"))
    return Figure(22 + 22 * len(rows), 320, tuple(items))


def _notes(view: View, style: Style) -> Figure:
    low, high = (true_range(view.meta, "map", view["map"])[end] for end in ("minimum", "maximum"))
    signs: Array = np.array(view.meta.get("signed") or [True])
    kinds = sorted({bool(each) for each in signs}, reverse=True)
    bars = [color_bar(Scale(signed, 1.0), style, own=True) for signed in kinds]
    lines = [
        f"Each map on its own scale, its strongest half percent in the last color; over all maps minimum "
        f"{format_number(low)} · maximum {format_number(high)}."
    ]
    if "random_similarity" in view.arrays:
        lines.append(
            "Same: rank correlation of the maps' magnitudes, 1 is the same map; a map that is the same for another "
            "class or for random weights explains neither. Deletion (lower is better) and insertion (higher is "
            f"better): the mean {view.meta.get('measure', 'score')} of the first class as tiles are blurred away or "
            f"put back in the map's order. In the color of alarm: {ALIKE} or more the same, or no better than a random "
            "order."
        )
    lines += [str(each) for each in view.meta.get("cautions") or []]
    return above([beside(bars, gap=40), *(paragraph(each, WIDTH, SMALL, "quiet") for each in lines)], gap=5)


__all__ = ["attribution_matrix"]
