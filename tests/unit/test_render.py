"""Render: every kind is drawn, whatever is in it; files are complete, safe, bounded and readable."""

from __future__ import annotations

import hashlib
import json
import re
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from convscope.errors import ConvscopeError
from convscope.render import FORMATS, Style, encode, html, save
from convscope.render.colormap import (
    MARKS,
    NAN,
    NEGATIVE_INFINITY,
    POSITIVE_INFINITY,
    ZERO,
    Scale,
    color_indices,
    palette,
)
from convscope.render.grid import HIGHEST, WIDEST, arrange, enlarge, reduce, sheet
from convscope.render.kinds import draw
from convscope.view import Array, Recipe, View

GOLDEN = Path(__file__).parents[1] / "golden"
HOSTILE = '</title><script>alert("1")</script>\x00\ud800&'
KERNEL = ("unit", "slice", "row", "column")
MAP = ("image", "unit", "row", "column")
CHANNEL = ("channel", "row", "column")


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def kernels(count: int = 6, slices: int = 9, side: int = 3, gradient: bool = False, **meta: Any) -> View:
    arrays = {
        "kernel": numbers(count, slices, side, side),
        "channel": np.tile(np.arange(slices, dtype=np.int32), (count, 1)),
    }
    axes: dict[str, tuple[str, ...]] = {"kernel": KERNEL, "channel": KERNEL[:2]}
    if gradient:
        arrays["gradient"], axes["gradient"] = numbers(count, slices, side, side, seed=1) * np.float32(1e-6), KERNEL
    about = {"caption": "kernels", "layout": "slices", "input_channels": 64, "groups": 1, **meta}
    return View("kernels", arrays, axes, about, Recipe("weights", {}, "conv1"))


def maps(images: int = 1, units: int = 4, side: int = 8, gradient: bool = False) -> View:
    arrays = {"map": np.maximum(0, numbers(images, units, side, side))}
    if gradient:
        arrays["gradient"] = numbers(images, units, side, side)
    return View(
        "maps", arrays, dict.fromkeys(arrays, MAP), {"caption": "activations"}, Recipe("activations", {}, "relu")
    )


def convolution(position: bool = True) -> View:
    kernel, patch = numbers(8, 3, 3), numbers(8, 3, 3, seed=1)
    arrays = {"input": numbers(8, 9, 9), "kernel": kernel, "channel": np.arange(8, dtype=np.int32)}
    arrays |= {"output": numbers(7, 7), "upstream": numbers(7, 7), "weight_gradient": kernel, "bias": numbers(1)}
    axes: dict[str, tuple[str, ...]] = dict.fromkeys(["input", "kernel", "weight_gradient"], CHANNEL)
    axes |= {"channel": ("channel",), "bias": ("unit",), "output": CHANNEL[1:], "upstream": CHANNEL[1:]}
    if position:
        product = patch * kernel
        arrays |= {"patch": patch, "product": product, "channel_sum": product.sum((1, 2)), "share": kernel}
        arrays |= {"result": product.sum().reshape(1), "share_norm": np.abs(numbers(7, 7))}
        arrays |= {"patch_row": np.arange(-1, 2, dtype=np.int32), "patch_column": np.arange(3, 6, dtype=np.int32)}
        axes |= {
            "patch": CHANNEL,
            "product": CHANNEL,
            "share": CHANNEL,
            "channel_sum": ("channel",),
            "result": ("unit",),
        }
        axes |= {"share_norm": CHANNEL[1:], "patch_row": ("row",), "patch_column": ("column",)}
    meta = {"caption": "one number", "position": [0, 4] if position else None}
    return View("convolution", arrays, axes, meta, Recipe("convolution", {}, "conv1:5:0,4"))


def predictions(images: int = 2) -> View:
    probability = np.tile(np.array([0.9, 0.09, 1e-6], np.float32), (images, 1))
    arrays = {
        "probability": probability,
        "score": np.log(probability),
        "class": np.tile(np.arange(3, dtype=np.int32), (images, 1)),
    }
    arrays |= {"contribution": numbers(images, 32), "bias": numbers(images)}
    axes: dict[str, tuple[str, ...]] = dict.fromkeys(["probability", "score", "class"], ("image", "rank"))
    axes |= {"contribution": ("image", "unit"), "bias": ("image",)}
    meta = {"caption": "classes", "class_names": {"0": "tabby", "1": HOSTILE}, "contribution_layer": "head"}
    return View("predictions", arrays, axes, meta, Recipe("predictions", {}))


def spatial() -> View:
    arrays = {name: numbers(5, 1, 4, 4) for name in ("row", "column", "magnitude")}
    return View(
        "spatial_gradients", arrays, dict.fromkeys(arrays, KERNEL), {}, Recipe("spatial_gradients", {}, "conv1")
    )


def by_image() -> View:
    view = kernels(1, 3, layout="color", gradient=True)
    arrays = {**view.arrays, "image_gradient": numbers(4, 1, 3, 3, 3), "image_share": numbers(4, 1)}
    axes = {**view.axes, "image_gradient": ("image", *KERNEL), "image_share": ("image", "unit")}
    return View("kernels", arrays, axes, view.meta, view.recipe)


EVERY = {
    "color kernels": kernels(32, 3, 7, layout="color", input_channels=3),
    "slices": kernels(),
    "slices of one unit": kernels(1, 64, units=[37]),
    "gradients": kernels(gradient=True),
    "gradients by image": by_image(),
    "depthwise": kernels(32, 1),
    "templates": kernels(10, 9, 7, layout="templates"),
    "class templates": kernels(10, 3, 28, layout="templates"),
    "a matrix": kernels(20, 64, 1, layout="vector"),
    "a part of a matrix": kernels(20, 32, 1, layout="vector"),
    "one row of a matrix": kernels(1, 64, 1, layout="vector"),
    "maps": maps(),
    "maps and gradients": maps(gradient=True),
    "maps of images": maps(3, 4),
    "one unit of images": maps(5, 1),
    "large maps": maps(1, 3, 230),
    "spatial gradients": spatial(),
    "convolution": convolution(),
    "convolution without a position": convolution(position=False),
    "predictions": predictions(),
    "one prediction": predictions(1),
    "an unknown kind": View(
        "patches", {"value": numbers(3, 4), "n": np.array(3)}, {"value": ("unit", "rank"), "n": ()}
    ),
    "a known kind without its arrays": View("maps", {"else": numbers(2)}, {"else": ("unit",)}),
    "nothing": View("maps", {}, {}),
    "no units": maps(1, 0),
    "no images": maps(0, 3),
    "empty maps": maps(1, 3, 0),
}


def picture(blob: bytes) -> Array:
    return np.asarray(Image.open(BytesIO(blob)).convert("RGB"))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", EVERY)
def test_everything_is_drawn_and_never_blank(name: str, theme: Any) -> None:
    pixels = picture(encode(EVERY[name], "png", Style(theme=theme)))
    assert max(pixels.shape) <= 8000
    assert (pixels != pixels[0, 0]).any()


@pytest.mark.parametrize("name", EVERY)
def test_svg_is_well_formed_and_has_real_text(name: str) -> None:
    document = ET.fromstring(encode(EVERY[name], "svg"))  # noqa: S314 - our own
    tags = [element.tag.rpartition("}")[2] for element in document.iter()]
    assert "text" in tags
    assert "script" not in tags
    for element in document.iter():
        if element.tag.endswith("image"):
            assert "pixelated" in element.attrib["style"]
            assert element.attrib["href"].startswith("data:image/png;base64,")


@pytest.mark.parametrize("name", EVERY)
def test_html_loads_nothing_from_anywhere(name: str) -> None:
    text = html(EVERY[name])
    assert re.findall(r'(?:src|href)="(?!data:image/png;base64,)', text) == []
    assert "<script" not in text


def test_hostile_words_are_text() -> None:
    view = View(
        "maps", {HOSTILE: numbers(2)}, {HOSTILE: ("unit",)}, {"caption": "<img onerror=x>" + HOSTILE, "python": HOSTILE}
    )
    for text in (html(view), encode(view, "html").decode(), encode(view, "svg").decode()):
        assert "<script" not in text
        assert "<img onerror" not in text
        assert "&lt;script" in text
    ET.fromstring(encode(view, "svg"))  # noqa: S314
    encode(view, "png")


def test_a_view_shows_itself_in_a_notebook() -> None:
    text = kernels()._repr_html_()
    assert 'alt="conv1: kernels"' in text
    assert "numbers and recipe" in text


def test_the_legend_states_the_true_range_scale_and_counts() -> None:
    kernel = numbers(4, 2, 3, 3)
    kernel[0, 0, 0, 0], kernel[1, 0, 0, :2], kernel[2, 0, 0, 0] = np.nan, np.inf, -np.inf
    meta = {
        "ranges": {
            "kernel": {
                "minimum": -7.5,
                "maximum": 6.25,
                "count": 999,
                "nan": 1,
                "positive_infinity": 2,
                "negative_infinity": 1,
            }
        }
    }
    view = View("kernels", {"kernel": kernel}, {"kernel": KERNEL}, {**meta, "layout": "slices"})
    words = " ".join(item.text for item, _, _ in draw(view, Style()).placed() if hasattr(item, "text"))
    for statement in ("true minimum −7.50", "maximum 6.25", "one scale for all", "+7.50", "NaN 1", "+Inf 2", "−Inf 1"):
        assert statement in words
    pixels = picture(encode(view, "png"))
    for mark in (NAN, POSITIVE_INFINITY, NEGATIVE_INFINITY):
        assert (pixels == MARKS[mark]).all(-1).any()


def test_a_chosen_limit_counts_and_colors_what_it_clips() -> None:
    view = maps()
    words = " ".join(item.text for item, _, _ in draw(view, Style(scale=0.5)).placed() if hasattr(item, "text"))
    assert f"clipped {int((view['map'] > 0.5).sum())}" in words
    assert "a chosen scale" in words


def test_each_unit_may_have_its_own_scale() -> None:
    values = np.zeros((1, 2, 2, 2), np.float32)
    values[0, 0, 0, 0], values[0, 1, 0, 0] = 100.0, 0.001
    view = View("maps", {"map": values}, {"map": MAP})
    last = palette(False, "viridis", "light")[2 * ZERO]

    def cells(style: Style) -> int:
        pixels = picture(encode(view, "png", style))[: -140 * 2]
        return int((pixels == last).all(-1).sum())

    assert cells(Style(scale="unit")) == 2 * cells(Style(scale="layer"))


@pytest.mark.parametrize(
    "arguments", [{"theme": "blue"}, {"scale": "image"}, {"scale": -1.0}, {"signed": "viridis"}, {"positive": "jet"}]
)
def test_an_unknown_style_names_the_known_ones(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConvscopeError, match="Next: "):
        Style(**arguments)


# ------------------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("suffix", FORMATS)
def test_equal_views_give_equal_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"view.{suffix.upper()}"
    kernels().save(str(path))
    assert path.read_bytes() == encode(kernels(), suffix)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_npz_is_read_without_a_pickle() -> None:
    view = kernels()
    with np.load(BytesIO(encode(view, "npz")), allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["kernel"], view["kernel"])
        about = json.loads(str(archive["convscope"]))
    assert about["axes"]["kernel"] == list(KERNEL)
    assert about["recipe"]["method"] == "weights"


def test_safetensors_are_the_views_own_bytes() -> None:
    assert View.from_bytes(encode(kernels(), "safetensors")).to_bytes() == kernels().to_bytes()


@pytest.mark.parametrize("name", ["view.gif", "view", "view.png.txt"])
def test_another_suffix_is_refused_with_the_known_ones(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConvscopeError, match=r"end the name in one of \.png, \.svg, \.html, \.npz, \.safetensors"):
        save(kernels(), tmp_path / name)
    with pytest.raises(ConvscopeError, match="choose one of png, svg"):
        encode(kernels(), "gif")


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "view.png"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(ConvscopeError, match="No space left on device"):
        save(kernels(), path)
    assert [each.name for each in tmp_path.iterdir()] == ["view.png"]
    assert path.read_bytes() == b"old"
    with pytest.raises(ConvscopeError, match=r"can't write 'view.png': No such file.*choose a folder that exists"):
        save(kernels(), tmp_path / "missing" / "view.png")


# ------------------------------------------------------------------------------------------------------------ tiles


def test_golden_pixels() -> None:
    # Pure uint8 all the way: these pixels are the same on every machine, and change only on purpose.
    values = np.linspace(-1, 1, 4 * 2 * 3 * 3).reshape(4, 2, 3, 3)
    values[1, 0, 0, 0], values[2, 0, 0, 0], values[3, 1, 2, 2] = np.nan, np.inf, -np.inf
    colors = palette(True, "orange-blue", "light")[color_indices(values, Scale(True, 0.9))]
    arrangement = arrange(4, 3, 3, 2, 300, 24)
    pixels = sheet([list(tile) for tile in colors], arrangement, (255, 255, 255), (190, 194, 199))
    assert (
        hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
        == "277041421aa1ed0ae20622e127f7dee9a6cea2e3447b818292768d9a9db01a61"
    )


def test_enlarging_repeats_pixels_and_invents_none() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    large = enlarge(pixels, 3)
    assert large.shape == (6, 6, 3)
    np.testing.assert_array_equal(large[::3, ::3], pixels)
    np.testing.assert_array_equal(large[2::3, 2::3], pixels)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
@settings(deadline=None)
def test_reducing_averages_areas(rows: int, columns: int, factor: int) -> None:
    values = np.random.default_rng(rows * 9 + columns).normal(size=(2, rows, columns))
    small = reduce(values, factor)
    for row in range(small.shape[-2]):
        for column in range(small.shape[-1]):
            area = values[:, row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
            np.testing.assert_allclose(small[:, row, column], area.mean(axis=(1, 2)), atol=1e-12)


def test_reducing_hides_no_nan() -> None:
    values = np.zeros((4, 4))
    values[0, 0], values[3, 3] = np.nan, np.inf
    assert np.isnan(reduce(values, 2)[0, 0])
    assert np.isinf(reduce(values, 2)[1, 1])


@given(
    st.integers(1, 20_000),
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(1, 9),
    st.sampled_from([250, 546, 1120]),
)
@settings(deadline=None)
def test_no_sheet_gets_too_large(count: int, rows: int, columns: int, slices: int, width: int) -> None:
    found = arrange(count, rows, columns, slices, width)
    assert 1 <= found.shown <= count
    assert found.height <= HIGHEST
    assert found.width <= WIDEST


def test_a_layer_of_2048_units_is_drawn_whole() -> None:
    for view in (kernels(2048, 9), kernels(2048, 9, gradient=True), maps(1, 2048, 7), maps(1, 512, 56, gradient=True)):
        figure = draw(view, Style())
        assert max(figure.height, figure.width) <= 8000
        words = [item.text for item, _, _ in figure.placed() if hasattr(item, "text")]
        assert not any("no more fit" in text for text in words)


def test_what_does_not_fit_is_said() -> None:
    words = [item.text for item, _, _ in draw(maps(40, 4), Style()).placed() if hasattr(item, "text")]
    assert "the first 8 of 40 images" in words
    words = [item.text for item, _, _ in draw(maps(1, 3, 500), Style()).placed() if hasattr(item, "text")]
    assert any("times smaller, by area average" in text for text in words)
