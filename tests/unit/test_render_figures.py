"""Attribution, its checks, projections, optimized images and the rest: drawn in every format, whatever is in them."""

from __future__ import annotations

import re
from io import BytesIO
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from convscope.render import Style, encode
from convscope.render.chart import Series, chart, ticks
from convscope.render.colormap import MARKS, NAN
from convscope.render.figure import Curve, Pixels, Rectangle, connected, framed
from convscope.render.kinds import draw
from convscope.render.photos import Drawn, Fit, fitted, in_color
from convscope.render.raster import raster
from convscope.render.svg import svg
from convscope.view import Array, Recipe, View

HOSTILE = '</svg><script>alert("1")</script>\x00\ud800&'
IMAGE_MAP = ("image", "row", "column")


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def picture(*shape: int) -> Array:
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def make(kind: str, arrays: dict[str, Array], axes: dict[str, tuple[str, ...]], **meta: Any) -> View:
    return View(kind, arrays, axes, {"caption": kind, **meta}, Recipe(kind, {}, "conv1:3"))


def attribution(images: int = 2, channels: int = 3, size: tuple[int, int] = (20, 24), **extra: Any) -> View:
    values = numbers(images, channels, *size)
    arrays = {"attribution": values, "map": values.sum(axis=1), "picture": picture(images, *size, channels)}
    axes: dict[str, tuple[str, ...]] = {"attribution": ("image", "channel", "row", "column"), "map": IMAGE_MAP}
    axes["picture"] = ("image", "row", "column", "color")
    about = {
        "signed": True,
        "badge": "",
        "values": [1.5] * images,
        "objective": "score",
        "label_names": [HOSTILE] * images,
    }
    return make("attribution", arrays, axes, **{**about, "images": [f"{i}.jpg" for i in range(images)], **extra})


def occlusion() -> View:
    view = attribution(1, 1)
    arrays = {**view.arrays, "attribution": view["attribution"][:, :1], "picture": picture(1, 20, 24, 3)}
    arrays |= {"activity": np.abs(numbers(1, 4, 5)), "activity_whole": np.ones(1, np.float32), "drop": numbers(1, 4, 5)}
    arrays |= {"most_probable": np.arange(20, dtype=np.int32).reshape(1, 4, 5) % 9, "probability": arrays["activity"]}
    axes = {**view.axes, **dict.fromkeys(("activity", "most_probable", "probability", "drop"), IMAGE_MAP)}
    facts = {"class_names": {str(number): f"class {number}!" for number in range(9)}}
    return make("attribution", arrays, {**axes, "activity_whole": ("image",)}, **{**view.meta, "facts": facts})


def projections(units: int = 3, ranks: int = 9, channels: int = 3, empty: int = 0) -> View:
    value = -np.sort(-np.random.default_rng(0).random((units, ranks)).astype(np.float32))
    image = np.arange(units * ranks, dtype=np.int32).reshape(units, ranks)
    reached = value.copy()
    if empty:
        image[:, -empty:], reached[:, -empty:] = -1, np.nan
    if ranks > 2:
        reached[0, 1] = np.nan
    window = np.tile(np.array([-2, 3, 9, 7], np.int32), (units, ranks, 1))
    window[0, 0] = 0
    arrays = {"value": value, "image": image, "reached": reached, "window": window}
    arrays["projection"] = numbers(units, ranks, 9, 8, channels)
    arrays["patch"] = picture(units, ranks, 9, 8, 3)
    axes: dict[str, tuple[str, ...]] = dict.fromkeys(("value", "image", "reached"), ("unit", "rank"))
    tile = ("unit", "rank", "row", "column")
    axes |= {"window": ("unit", "rank", "side"), "projection": (*tile, "channel"), "patch": (*tile, "color")}
    units_shown = list(range(10, 10 + units))
    return make("projections", arrays, axes, rule="deconvnet", units=units_shown, missing={"1": "gone"}, image_names={})


def sanity_checks(images: int = 2, full: bool = True) -> View:
    arrays = {"picture": picture(images, 20, 24, 3), "randomized": numbers(4, images, 20, 24)}
    axes: dict[str, tuple[str, ...]] = {"picture": ("image", "row", "column", "color")}
    axes |= {"randomized": ("stage", *IMAGE_MAP), "spearman": ("stage", "image"), "ssim": ("stage", "image")}
    arrays |= {"spearman": numbers(4, images), "ssim": numbers(4, images)}
    arrays["spearman"][1, 0] = np.nan
    about: dict[str, Any] = {"stages": ["original", "fc", "a.b", f"{HOSTILE} and later"], "signed": True}
    if full:
        arrays |= {"fraction": np.linspace(0, 1, 5, dtype=np.float32), "varied": numbers(1, images, 20, 24)}
        arrays |= {name: numbers(4, images, 5) for name in ("deletion", "insertion")}
        arrays |= {f"{name}_area": numbers(2, 4, images) for name in ("deletion", "insertion")}
        arrays["sensitivity"] = numbers(1, images)
        curve = ("curve", "image", "step")
        axes |= {"fraction": ("step",), "varied": ("variant", *IMAGE_MAP), "sensitivity": ("variant", "image")}
        axes |= {"deletion": curve, "insertion": curve}
        axes |= dict.fromkeys(("deletion_area", "insertion_area"), ("fill", "curve", "image"))
        about |= {"curves": ["map", "random", "center", "edges"], "fills": ["blur"], "variants": ["baseline=mean"]}
        findings = [
            {"check": "edges", "level": level, "text": f"It is {level}."} for level in ("good", "doubt", "neutral")
        ]
        about |= {"findings": findings, "cautions": ["Careful."], "badge": "Not class-sensitive: …", "measure": "value"}
    return make("sanity_checks", arrays, axes, **about)


def attribution_matrix(checks: bool = True) -> View:
    arrays = {"picture": picture(1, 20, 24, 3), "map": numbers(1, 2, 2, 20, 24), "class": np.array([[3, 1]], np.int32)}
    arrays |= {"score": numbers(1, 2), "probability": np.array([[0.7, 0.1]], np.float32)}
    axes: dict[str, tuple[str, ...]] = dict.fromkeys(("class", "score", "probability"), ("image", "class"))
    axes |= {"picture": ("image", "row", "column", "color"), "map": ("image", "method", "class", "row", "column")}
    if checks:
        arrays |= {"random_map": numbers(1, 2, 20, 24), "class_similarity": np.array([[0.99, 0.1]], np.float32)}
        arrays |= {"random_similarity": np.array([[0.1, np.nan]], np.float32), "edge_similarity": numbers(1, 2)}
        arrays |= {"deletion_area": np.array([[0.1, 0.5, 0.3, 0.3]], np.float32)}
        arrays |= {"insertion_area": np.array([[0.6, 0.2, 0.3, 0.3]], np.float32)}
        axes |= dict.fromkeys(("class_similarity", "random_similarity", "edge_similarity"), ("image", "method"))
        axes |= {"random_map": ("image", "method", "row", "column")}
        axes |= dict.fromkeys(("deletion_area", "insertion_area"), ("image", "curve"))
    about = {"titles": ["Gradient", "Grad-CAM"], "badges": ["not class-sensitive", ""], "signed": [True, False]}
    return make("attribution_matrix", arrays, axes, **about, class_names={"3": "tabby", "1": HOSTILE})


def feature_visualization(units: int = 3, ranks: int = 9) -> View:
    arrays = {"picture": picture(units, 30, 30, 3), "natural_picture": picture(units, ranks, 12, 12, 3)}
    arrays |= {"score": np.arange(units, dtype=np.float32), "natural_score": np.full(units, 0.5, np.float32)}
    arrays["history"] = numbers(units, 20)
    axes: dict[str, tuple[str, ...]] = {"picture": ("unit", "row", "column", "color"), "history": ("unit", "step")}
    axes |= {"natural_picture": ("unit", "rank", "row", "column", "color")}
    axes |= {"score": ("unit",), "natural_score": ("unit",)}
    return make("feature_visualization", arrays, axes, names=[f"conv1:{unit}" for unit in range(units)])


def inversion(images: int = 2) -> View:
    arrays = {"picture": picture(images, 20, 24, 3), "original": picture(images, 20, 24, 3)}
    arrays |= {"error": np.abs(numbers(images)), "history": np.abs(numbers(images, 30))}
    axes: dict[str, tuple[str, ...]] = dict.fromkeys(("picture", "original"), ("image", "row", "column", "color"))
    return make("inversion", arrays, {**axes, "error": ("image",), "history": ("image", "step")})


def invariance(images: int = 2) -> View:
    arrays = {"amount": np.tile(np.linspace(-30, 30, 7, dtype=np.float32), (2, 1))}
    arrays |= {"distance": np.abs(numbers(images, 4, 2, 7)), "probability": np.full((images, 2, 7), 0.5, np.float32)}
    arrays["example"] = picture(images, 2, 3, 20, 24, 3)
    axes: dict[str, tuple[str, ...]] = {"amount": ("transform", "step")}
    axes |= {"distance": ("image", "layer", "transform", "step"), "probability": ("image", "transform", "step")}
    axes |= {"example": ("image", "transform", "example", "row", "column", "color")}
    about = {"transforms": ["vertical", "rotation"], "amount_units": ["pixels", "degrees"], "layers": list("abcd")}
    return make("invariance", arrays, axes, **about)


def correspondence() -> View:
    arrays = {"distance": np.array([[0.1, 0.2]], np.float32), "random": np.abs(numbers(1, 2, 5))}
    arrays |= {"smaller": np.array([[0, 3]], np.int32), "picture": picture(1, 3, 20, 24, 3)}
    axes: dict[str, tuple[str, ...]] = {"distance": ("part", "layer"), "smaller": ("part", "layer")}
    axes |= {"random": ("part", "layer", "draw"), "picture": ("part", "image", "row", "column", "color")}
    return make("correspondence", arrays, axes, parts=["left eye"], layers=["conv1", "conv7"])


def broken_map() -> View:
    view = attribution(1)
    values = view["map"].copy()
    values[0, :3, 0] = np.nan, np.inf, -np.inf
    arrays = {**view.arrays, "map": values}
    meta = {key: value for key, value in view.meta.items() if key != "ranges"}
    return View(view.kind, arrays, view.axes, meta, view.recipe)


EVERY = {
    "attribution": attribution(),
    "a large image": attribution(1, 1, (400, 300)),
    "one image": attribution(1),
    "gray": attribution(2, 1),
    "four channels": attribution(1, 4),
    "six channels": attribution(1, 6),
    "many images": attribution(20, 1, (8, 8)),
    "no image": attribution(0),
    "non-negative": attribution(1, signed=False, badge="Not class-sensitive"),
    "not finite": broken_map(),
    "occlusion": occlusion(),
    "projections": projections(),
    "projections of one unit": projections(1),
    "projections of one patch": projections(2, 1),
    "missing projections": projections(3, 4, empty=2),
    "gray projections": projections(1, 3, 1),
    "projections of four channels": projections(1, 3, 4),
    "sanity checks": sanity_checks(),
    "only randomized": sanity_checks(1, full=False),
    "checks of many images": sanity_checks(7, full=False),
    "matrix": attribution_matrix(),
    "matrix without checks": attribution_matrix(checks=False),
    "optimized": feature_visualization(),
    "one optimized": feature_visualization(1),
    "many optimized": feature_visualization(12, 4),
    "optimized, nothing natural": feature_visualization(2, 0),
    "inversion": inversion(),
    "one inversion": inversion(1),
    "invariance": invariance(),
    "correspondence": correspondence(),
}


def words(view: View) -> list[str]:
    return [item.text for item, _, _ in draw(view, Style()).placed() if hasattr(item, "text")]


@pytest.mark.parametrize("name", EVERY)
def test_every_kind_is_drawn_in_every_format(name: str) -> None:
    view = EVERY[name]
    assert not any("shown as the table" in each for each in words(view))
    pixels = Image.open(BytesIO(encode(view, "png", Style(theme="dark")))).convert("RGB")
    assert max(pixels.size) <= 8000
    assert pixels.getpixel((0, 0)) == (17, 19, 21)
    found = ET.fromstring(encode(view, "svg").decode())  # noqa: S314 - our own
    assert found.tag.endswith("svg")


@pytest.mark.parametrize("name", ["one image", "matrix"])
def test_a_page_is_safe_and_equal_views_give_equal_files(name: str) -> None:
    view = EVERY[name]
    assert "<script>alert" not in encode(view, "html").decode()
    assert encode(view, "svg") == encode(view, "svg")


@pytest.mark.parametrize("scale", ["unit", 0.5])
@pytest.mark.parametrize("name", ["one image", "occlusion", "matrix", "only randomized"])
def test_other_scales_are_drawn_too(name: str, scale: str | float) -> None:
    assert encode(EVERY[name], "png", Style(scale=scale, signed="gray", positive="magma"))


def test_a_map_says_its_true_range_and_what_lies_beyond_the_bar() -> None:
    view = attribution(1, 1)
    values = view["map"] * 0 + 0.5
    values[0, 0, 0] = -9
    arrays = {**view.arrays, "map": values}
    meta = {key: value for key, value in view.meta.items() if key != "ranges"}
    text = words(View(view.kind, arrays, view.axes, meta, view.recipe))
    assert any("true minimum −9.00 · maximum 0.500" in each for each in text)
    assert any("the strongest 0.21 % share the last color" in each for each in text)
    assert "+0.500" in text


def test_a_map_is_symmetric_about_zero_and_marks_what_is_not_finite() -> None:
    values = np.array([[[-1.0, 0.0, 1.0, np.nan]]])
    drawn = Drawn.of(values, True, Style())
    indices = drawn.indices(values[0], 0)[0].tolist()
    assert indices[:3] == [0, 128, 256]
    assert indices[3] == NAN
    assert tuple(drawn.colors(values[0], 0, Style())[0, 3]) == MARKS[NAN]
    over = drawn.over(values[0], np.full((1, 4, 3), 60, np.uint8), 0, Style())
    assert over[0, 1].tolist() == [60, 60, 60], "where the map is 0 the picture stays"


def test_a_single_outlier_does_not_blank_a_map() -> None:
    values = np.full((1, 40, 40), 1.0)
    values[0, 0, 0] = 1000
    drawn = Drawn.of(values, True, Style())
    assert drawn.limits.tolist() == [1.0]
    assert drawn.beyond == 1
    sparse = np.zeros((1, 40, 40))
    sparse[0, 0, 0] = 1000
    assert Drawn.of(sparse, True, Style()).limits.tolist() == [1000.0], "where all else is 0, the outlier is the map"
    assert Drawn.of(np.zeros((2, 3, 3)), True, Style()).limits.tolist() == [0.0, 0.0]


def test_the_class_map_of_occlusion_names_its_classes() -> None:
    text = words(EVERY["occlusion"])
    assert "class 0!" in text
    assert "3 other classes" in text
    assert "most probable class" in text
    assert any("without 1.00" in each for each in text)


def test_the_badge_and_the_sentences_are_there() -> None:
    text = " ".join(words(EVERY["sanity checks"]))
    assert "Not class-sensitive: …" in text
    assert "It is doubt." in text
    assert "Careful." in text
    assert "NaN" in text, "a correlation that isn't defined"
    assert "Not class-sensitive" in " ".join(words(EVERY["non-negative"]))


def test_optimized_images_stand_beside_natural_ones_and_say_when_they_fail() -> None:
    view = EVERY["optimized"]
    text = words(view)
    assert text.count("no more than a natural image: read it with care") == 1
    assert any("natural, at most 0.500" in each for each in text)
    drawn = [item for item, _, _ in draw(view, Style()).placed() if isinstance(item, Pixels)]
    assert len(drawn) == 3 * (1 + 9)
    assert "no natural image" in words(EVERY["optimized, nothing natural"])


def test_the_matrix_says_what_speaks_against_a_row() -> None:
    alarms = [
        item.text
        for item, _, _ in draw(EVERY["matrix"], Style()).placed()
        if getattr(item, "tone", "") == "alarm" and item.text != "not class-sensitive"
    ]
    assert alarms == ["0.99", "0.50 (at random 0.30)", "0.20 (at random 0.30)"]


def test_a_missing_projection_is_named_and_a_window_of_nothing_is_empty() -> None:
    text = words(EVERY["projections"])
    assert "no picture" in text
    assert "Not shown: 1: gone" in text
    assert [each for each in text if each.startswith("unit")] == ["unit 10", "unit 11", "unit 12"]


def test_what_does_not_fit_into_a_picture_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convscope.render.projections.HIGHEST", 800)
    monkeypatch.setattr("convscope.render.synthesis.HIGHEST", 800)
    monkeypatch.setattr("convscope.render.attribution.HIGHEST", 900)
    assert "the first 3 of 7 units: no more fit into one picture" in words(projections(7))
    assert "the first 3 of 7: no more fit into one picture" in words(feature_visualization(7))
    assert "the first 1 of 5 images: no more fit into one picture" in words(attribution(5))


def test_pictures_fit_their_tiles() -> None:
    assert Fit.of(13, 13, side=100) == Fit(7, 1)
    assert Fit.of(500, 400, side=100) == Fit(1, 5)
    assert fitted(np.full((4, 2, 3), 9, np.uint8), 8, Style()).shape == (8, 8, 3)
    assert in_color(np.zeros((2, 2, 4), np.uint8)).tolist() == [[[255] * 3] * 2] * 2, "transparent is white"
    assert in_color(np.full((1, 1, 6), 7, np.uint8)).tolist() == [[[7, 7, 7]]]


def test_a_curve_is_drawn_where_its_points_are_and_interrupted_where_there_are_none() -> None:
    points = np.array([[10.0, 0], [10, 20], [np.nan, 25], [10, 30], [10, 50]])
    assert [len(each) for each in connected(points)] == [2, 2]
    figure = framed(chart("", [Series("a", np.arange(3.0), np.array([0.0, np.nan, 1.0]), "ink")]), 5)
    assert raster(figure, "light").min() < 100
    line = framed(type(figure)(20, 60, (Curve(0, 0, points, (255, 0, 0), 2),)), 0)
    pixels = raster(line, "light")
    assert tuple(pixels[20, 20]) == (255, 0, 0)
    assert tuple(pixels[20, 50]) == (255, 255, 255), "between the pieces"
    assert len(re.findall("<polyline", svg(line, "light", "a line"))) == 2


def test_ticks_are_round_and_inside() -> None:
    for low, high in ((0, 1), (-3, 14), (1e-9, 3e-9), (1234, 1235), (-1e6, 1e7)):
        found = ticks(low, high)
        assert 2 <= len(found) <= 6
        assert all(low - 1e-9 * abs(low) <= each <= high * (1 + 1e-9) for each in found)


def test_a_constant_curve_has_a_scale() -> None:
    figure = chart("flat", [Series("a", np.zeros(1), np.ones(1), "ink")], low=None)
    assert any(isinstance(item, Rectangle) for item, _, _ in figure.placed())
    assert chart("nothing", [Series("a", np.zeros(0), np.zeros(0), "ink")]).height > 100
