"""Colors: exact at 0, symmetric, told apart without color vision of every kind, and the same as the page's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convscope.errors import ConvscopeError
from convscope.render.colormap import (
    CLIPPED_HIGH,
    CLIPPED_LOW,
    MARKS,
    NAN,
    NEGATIVE_INFINITY,
    POSITIVE_INFINITY,
    POSITIVE_MAPS,
    SIGNED_MAPS,
    STEPS,
    THEMES,
    ZERO,
    Scale,
    color_indices,
    color_levels,
    palette,
)
from convscope.render.number import MINUS, format_number

GOLDEN = Path(__file__).parents[1] / "golden" / "palettes.json"

# Machado, Oliveira and Fernandes (2009), severity 1.0, on linear RGB.
SIGHT = {
    "full color vision": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(colors: np.ndarray, sight: object) -> np.ndarray:
    """sRGB to CIE L*a*b* (D65), as seen with this color vision."""
    part = colors / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.asarray(sight).T, 0, 1)
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = seen @ np.array(to_xyz).T / [0.95047, 1, 1.08883]
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], -1)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", SIGNED_MAPS)
@pytest.mark.parametrize("sight", SIGHT)
def test_signs_are_told_apart_with_every_color_vision(theme: str, name: str, sight: str) -> None:
    seen = lab(palette(True, name, theme)[:STEPS].astype(float), SIGHT[sight])
    difference = np.linalg.norm(seen - seen[::-1], axis=1)
    quarter = ZERO // 4
    assert difference[ZERO + quarter :].min() >= 20


@pytest.mark.parametrize("theme", THEMES)
def test_equal_magnitudes_look_equally_strong(theme: str) -> None:
    lightness = lab(palette(True, "orange-blue", theme)[:STEPS].astype(float), np.eye(3))[:, 0]
    assert np.abs(lightness - lightness[::-1]).max() < 8


@pytest.mark.parametrize("theme", THEMES)
def test_zero_is_near_white_in_light_and_near_black_in_dark(theme: str) -> None:
    neutral = palette(True, "orange-blue", theme)[ZERO]
    assert np.ptp(neutral.astype(int)) <= 2
    assert neutral.min() > 245 if theme == "light" else neutral.max() < 40


@pytest.mark.parametrize("name", POSITIVE_MAPS)
def test_positive_maps_start_dark_and_get_ever_lighter(name: str) -> None:
    lightness = lab(palette(False, name, "light")[:STEPS].astype(float), np.eye(3))[:, 0]
    assert (np.diff(lightness) > -0.6).all()
    assert lightness[0] < 16
    assert lightness[-1] > 90


def test_marks_are_no_color_of_any_map() -> None:
    for signed, names in ((True, SIGNED_MAPS), (False, POSITIVE_MAPS)):
        for name in names:
            for theme in THEMES:
                table = lab(palette(signed, name, theme).astype(float), np.eye(3))
                for mark in (*MARKS, CLIPPED_HIGH, CLIPPED_LOW):
                    others = np.delete(table, mark, axis=0)
                    assert np.linalg.norm(others - table[mark], axis=1).min() > 5, (name, theme, mark)


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(1e-300, 1e300))
def test_plus_and_minus_are_equally_far_from_zero(value: float, limit: float) -> None:
    plus, minus = color_indices(np.array([value, -value]), Scale(True, limit))
    if plus < STEPS:
        assert plus - ZERO == ZERO - minus
    else:
        assert {plus, minus} == {CLIPPED_HIGH, CLIPPED_LOW}


@given(st.lists(st.floats(-2, 2), min_size=2, max_size=20))
def test_larger_values_never_get_earlier_colors(values: list[float]) -> None:
    indices = color_indices(np.sort(values), Scale(True, 2.0))
    assert (np.diff(indices) >= 0).all()


@pytest.mark.parametrize(
    ("value", "signed", "index"),
    [
        (0.0, True, ZERO),
        (-0.0, True, ZERO),
        (2.0, True, 256),
        (-2.0, True, 0),
        (2.0 * (1 + 1e-7), True, 256),
        (2.1, True, CLIPPED_HIGH),
        (-2.1, True, CLIPPED_LOW),
        (0.0, False, 0),
        (2.0, False, 256),
        (-0.1, False, CLIPPED_LOW),
        (np.nan, True, NAN),
        (np.inf, True, POSITIVE_INFINITY),
        (-np.inf, False, NEGATIVE_INFINITY),
    ],
)
def test_values_get_these_colors(value: float, signed: bool, index: int) -> None:
    assert color_indices(np.array([value]), Scale(signed, 2.0))[0] == index


def test_a_scale_of_nothing_draws_zero() -> None:
    assert color_indices(np.array([0.0, np.nan]), Scale(True, 0.0)).tolist() == [ZERO, NAN]


def test_a_scale_shows_the_whole_range() -> None:
    assert Scale.of({"minimum": -3.0, "maximum": 2.0}) == Scale(True, 3.0)
    assert Scale.of({"minimum": 0.0, "maximum": 2.0}) == Scale(False, 2.0)
    assert Scale.of({"minimum": None, "maximum": None}) == Scale(False, 0.0)
    assert Scale.of({"minimum": -3.0, "maximum": 2.0}, 1.0) == Scale(True, 1.0)


def test_tiles_may_have_scales_of_their_own() -> None:
    values = np.array([[1.0, -1.0], [10.0, -10.0]])
    indices = color_indices(values, Scale(True, 99.0), np.array([[1.0], [10.0]]))
    assert indices.tolist() == [[256, 0], [256, 0]]


def test_mid_gray_is_zero_in_color_kernels() -> None:
    levels = color_levels(np.array([[0, 0, 0], [1, -1, 0], [np.nan, 0, 0], [np.inf, 0, 0], [0, -np.inf, 9]]), 1.0)
    assert levels.tolist() == [
        [128] * 3,
        [255, 0, 128],
        *(list(MARKS[m]) for m in (NAN, POSITIVE_INFINITY, NEGATIVE_INFINITY)),
    ]


def test_an_unknown_map_names_the_known_ones() -> None:
    with pytest.raises(ConvscopeError, match="did you mean viridis"):
        palette(False, "virdis", "light")


def test_the_page_and_the_library_use_the_same_colors() -> None:
    golden = json.loads(GOLDEN.read_text())
    for key, colors in golden.items():
        sign, name, theme = key.split()
        assert palette(sign == "signed", name, theme).tobytes().hex() == colors, key
    assert len(golden) == 2 * (len(SIGNED_MAPS) + len(POSITIVE_MAPS))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0123456, "0.0123"),
        (-0.697, f"{MINUS}0.697"),
        (1.0, "1.00"),
        (9.999, "10.0"),
        (371.7, "372"),
        (14208.0, "14208"),
        (1e6, "1,000,000"),
        (1.5e8, "1.50e8"),
        (1.234e-6, f"1.23e{MINUS}6"),
        (-1e-30, f"{MINUS}1.00e{MINUS}30"),
        (float("nan"), "NaN"),
        (float("-inf"), f"{MINUS}Inf"),
        (None, "–"),
    ],
)
def test_numbers_carry_three_digits(value: float | None, text: str) -> None:
    assert format_number(value) == text
