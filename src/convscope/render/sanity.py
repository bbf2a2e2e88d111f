"""Sanity checks of a map: what stays of it when the weights are forgotten, what erasing by it does; and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from convscope.render.chart import HUES, Series, chart
from convscope.render.figure import LARGE, SMALL, Figure, Rectangle, above, beside, line, paragraph, shortened
from convscope.render.grid import enlarge
from convscope.render.number import format_number
from convscope.render.panel import WIDTH, Style, true_range
from convscope.render.photos import Drawn, Fit, in_color, tile, wrapped

if TYPE_CHECKING:
    from convscope.render.colormap import Rgb
    from convscope.render.figure import Tone
    from convscope.view import Array, View

MOST_IMAGES = 6
SIDE = 124
_CURVES: dict[str, Tone | Rgb] = {
    "map": "ink",
    "random": HUES[6],
    "center": HUES[4],
    "edges": HUES[0],
    "moved": HUES[2],
}
_NAMES = {
    "map": "the map",
    "random": "a random order",
    "center": "a blob in the center",
    "edges": "an edge detector",
    "moved": "the map moved elsewhere",
}
_LEVELS: dict[str, Tone | Rgb] = {"good": HUES[2], "neutral": "quiet", "doubt": "alarm"}


def sanity_checks(view: View, style: Style) -> Figure:
    """The sentences, then for each image the map of the network as it loses its weights, and the curves."""
    images = view["randomized"].shape[1]
    if not images:
        return line("no images", SMALL, "quiet")
    parts = [_words(view)]
    for image in range(min(images, MOST_IMAGES)):
        names = view.meta.get("images") or []
        name = shortened(str(names[image]) if image < len(names) else f"image {image}", WIDTH, LARGE)
        rows = [line(name, LARGE), _stages(view, image, style)]
        rows += [_varied(view, image, style)] if "varied" in view.arrays else []
        rows += [_curves(view, image)] if {"deletion", "insertion", "fraction"} <= set(view.arrays) else []
        parts.append(above(rows, gap=10))
    if images > MOST_IMAGES:
        parts.append(line(f"the first {MOST_IMAGES} of {images:,} images", SMALL, "quiet"))
    return above([*parts, _legend(view, style)], gap=20)


def _words(view: View) -> Figure:
    """What came out, each sentence with a mark of how it speaks; and what none of it proves."""
    rows = []
    badge = str(view.meta.get("badge") or "")
    if badge:
        rows.append(paragraph(badge, WIDTH, SMALL, "alarm", strong=True))
    for finding in view.meta.get("findings") or []:
        color = _LEVELS.get(str(finding.get("level")), "quiet")
        mark = Figure(14, 10, (Rectangle(4, 0, 10, 10, color),))
        rows.append(beside([mark, paragraph(str(finding.get("text", "")), WIDTH - 20)], gap=8))
    rows += [paragraph(str(each), WIDTH, SMALL, "quiet") for each in view.meta.get("cautions") or []]
    return above(rows, gap=5)


def _maps(values: Array, signed: bool, style: Style) -> list[Array]:
    """Maps ``[map, row, column]`` as pictures, each on its own scale: only their shapes are compared."""
    fit = Fit.of(*values.shape[1:], side=SIDE)
    small = fit.values(values)
    drawn = Drawn.of(small, signed, style, own=True)
    return [enlarge(drawn.colors(each, place, style), fit.factor) for place, each in enumerate(small)]


def _stages(view: View, image: int, style: Style) -> Figure:
    """The picture, the map, and the map of each stage with its similarity to the first."""
    stages = [str(each) for each in view.meta.get("stages") or []]
    picture = in_color(view["picture"][image])
    tiles = [tile(Fit.of(*picture.shape[:2], side=SIDE).picture(picture), "image", ["", "", ""])]
    for stage, colors in enumerate(_maps(view["randomized"][:, image], _signed(view), style)):
        name = stages[stage] if stage < len(stages) else f"stage {stage}"
        if not stage:
            tiles.append(tile(colors, "the map", ["of the network", "as it is", ""]))
            continue
        under = [f"ranks {_similar(view, 'spearman', stage, image)}", f"SSIM {_similar(view, 'ssim', stage, image)}"]
        kind = "random from" if stage > 1 else "random alone"
        tiles.append(tile(colors, kind, [name.removesuffix(" and later"), *under]))
    title = line("weights forgotten, from the last layer down: a map that stays doesn't show them", SMALL, "quiet")
    return above([title, wrapped(tiles, WIDTH, gap=10)], gap=4)


def _varied(view: View, image: int, style: Style) -> Figure:
    names = [str(each) for each in view.meta.get("variants") or []]
    tiles = []
    for place, colors in enumerate(_maps(view["varied"][:, image], _signed(view), style)):
        name = names[place] if place < len(names) else f"variant {place}"
        tiles.append(tile(colors, name, [f"ranks {format_number(float(view['sensitivity'][place, image]), 2)}"]))
    title = line("the same map under another choice that nothing but habit decides", SMALL, "quiet")
    return above([title, wrapped(tiles, WIDTH, gap=10)], gap=4)


def _signed(view: View) -> bool:
    return bool(view.meta.get("signed", (view["randomized"] < 0).any()))


def _similar(view: View, name: str, stage: int, image: int) -> str:
    return format_number(float(view[name][stage, image]), 2) if name in view.arrays else "–"


def _curves(view: View, image: int) -> Figure:
    """Deletion and insertion: the map's order beside orders that know no network."""
    measure = str(view.meta.get("measure") or "answer")
    both = np.concatenate([view["deletion"][:, image].ravel(), view["insertion"][:, image].ravel()])
    finite = both[np.isfinite(both)]
    low = 0.0 if not finite.size else min(0.0, float(finite.min()))
    high = 1.0 if measure.startswith("probability") else None
    charts = [
        chart(
            f"{name}: {words}",
            _series(view, name, image),
            width=480,
            height=190,
            across="part of the image",
            low=low,
            high=high,
        )
        for name, words in (("deletion", f"{measure}, the lower the better"), ("insertion", "the higher the better"))
    ]
    return beside(charts, gap=40)


def _series(view: View, name: str, image: int) -> list[Series]:
    found = []
    curves: Any = view.meta.get("curves") or []
    for place, values in enumerate(view[name][:, image]):
        curve = str(curves[place]) if place < len(curves) else f"curve {place}"
        title = _NAMES.get(curve, curve)
        area = f"{name}_area"
        if area in view.arrays:
            title += f" {format_number(float(view[area][0, place, image]), 2)}"
        color = _CURVES.get(curve, HUES[place % len(HUES)])
        found.append(Series(title, view["fraction"], values, color, 2.5 if curve == "map" else 1.5))
    return found


def _legend(view: View, style: Style) -> Figure:
    drawn = Drawn.of(view["randomized"][0], _signed(view), style, own=True)
    fills = ", ".join(str(each) for each in view.meta.get("fills") or [])
    notes = ["ranks: Spearman's correlation of the maps' magnitudes; SSIM: structural similarity; 1 is the same map"]
    if fills:
        notes.append(f"erased tiles are filled with: {fills}; the curves and their areas are of the first")
    return drawn.legend(true_range(view.meta, "randomized", view["randomized"]), style, WIDTH, notes)


__all__ = ["sanity_checks"]
