"""Top patches as pictures: rows of tiles with values, whatever of it is missing."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from convscope.mining.atlas import Atlas
from convscope.mining.patches import missing_tile
from convscope.render import encode
from convscope.render import patches as module
from convscope.render.kinds import draw
from convscope.render.panel import Style
from convscope.view import Recipe, View

SIDES = ("unit", "rank", "side")


def view(units=5, ranks=4, empty=0, numbers=None):
    random = np.random.default_rng(0)
    arrays, axes = {}, {}
    for prefix in ("", "bottom_", "quantile_"):
        value = -np.sort(-random.random((units, ranks)).astype(np.float32))
        image = random.integers(0, 9, (units, ranks)).astype(np.int32)
        if empty:
            value[:, -empty:], image[:, -empty:] = np.nan, -1
        arrays |= {f"{prefix}value": value, f"{prefix}image": image}
        arrays[f"{prefix}box"] = np.zeros((units, ranks, 4), np.int32)
        axes |= {f"{prefix}value": SIDES[:2], f"{prefix}image": SIDES[:2], f"{prefix}box": SIDES}
    arrays["quantile"] = np.linspace(1, 0, units * ranks, dtype=np.float32).reshape(units, ranks)
    arrays["class_index"] = np.full((units, 1), 3, np.int32)
    arrays["class_count"] = np.full((units, 1), ranks, np.int32)
    axes |= {"quantile": SIDES[:2], "class_index": ("unit", "class_rank"), "class_count": ("unit", "class_rank")}
    given = {"class_names": {"3": "tabby"}, "classes_from": "labels", "image_names": {"2": "cat.jpg"}, "units": numbers}
    return View("top_patches", arrays, axes, given, Recipe("top_patches", {}, "conv1"))


def found(view, which, side, units):
    """Each tile has its unit's and rank's own color; image 2 can't be shown."""
    image = view["image" if which == "top" else f"{which}_image"][:units]
    pixels = np.zeros((len(image) * side, image.shape[1] * side, 4), np.uint8)
    for unit, rank in np.argwhere(image >= 0):
        tile = pixels[unit * side : (unit + 1) * side, rank * side : (rank + 1) * side]
        tile[:, :] = (50 + 20 * unit, 50 + 20 * rank, 200, 255)
        if image[unit, rank] == 2:
            tile[:, :, :3] = missing_tile(side)
    return Atlas(pixels, side, {2: "gone"} if (image == 2).any() else {}, False)


@pytest.fixture
def pictures(monkeypatch):
    monkeypatch.setattr(module, "_finder", lambda: found)


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr(module, "_finder", lambda: lambda *_: None)


def words(view):
    return [item.text for item, _, _ in draw(view, Style()).placed() if hasattr(item, "text")]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_tile_is_drawn_over_its_value(pictures, theme):
    shown = view()
    pixels = np.asarray(Image.open(BytesIO(encode(shown, "png", Style(theme=theme)))).convert("RGB"))
    for unit in range(5):
        for rank in range(4):
            if shown["image"][unit, rank] != 2:
                color = (50 + 20 * unit, 50 + 20 * rank, 200)
                assert (pixels == color).all(axis=2).sum() > 1000
    text = words(shown)
    assert [f"unit {unit}" for unit in range(5)] == [each for each in text if each.startswith("unit")]
    assert f"{shown['value'][3, 1]:.3f}" in text
    assert text.count("tabby") == 5


def test_one_unit_shows_its_top_its_quantiles_and_its_bottom(pictures):
    text = words(view(units=1))
    assert "unit 0" in text
    assert "usual" in text
    assert "least" in text
    assert any(each.endswith("100 %") for each in text)
    assert next(each for each in words(view(units=1)) if "unit" in each) == "unit 0"


def test_extremes_that_are_all_equal_are_said_to_be(pictures):
    shown = view(units=1)
    arrays = {**shown.arrays, "bottom_value": np.zeros((1, 4), np.float32)}
    text = words(View(shown.kind, arrays, shown.axes, shown.meta, shown.recipe))
    assert [each for each in text if "all the same" in each] == [
        "the images with the lowest minima: all the same, of which these are the first"
    ]


def test_a_unit_keeps_its_number(pictures):
    assert "unit 37" in words(view(units=1, numbers=[37]))


def test_an_image_that_is_missing_is_named(pictures):
    assert "Not shown: cat.jpg: gone" in words(view())


def test_without_the_study_the_values_are_there_and_the_reason(no_pictures):
    text = words(view())
    assert text.count("no image") == 20
    assert any("hasn't opened the study" in each for each in text)


@pytest.mark.parametrize("suffix", ["png", "svg", "html"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 9), (1, 100), (700, 9), (64, 3), (2, 3)])
def test_any_number_of_units_and_ranks_fits_into_a_picture(pictures, suffix, shape):
    shown = view(*shape, empty=min(1, shape[1] - 1))
    blob = encode(shown, suffix)
    assert blob
    if suffix == "png":
        assert max(Image.open(BytesIO(blob)).size) <= 8000
    if shape == (700, 9):
        assert any("of 700 units" in each for each in words(shown))


def test_other_arrays_than_these_are_drawn_as_a_table(pictures):
    text = words(View("top_patches", {"value": np.zeros((2, 3))}, {"value": SIDES[:2]}))
    assert any("table" in each for each in text)
