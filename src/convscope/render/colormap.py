"""Value to color: signed maps are symmetric about 0 by construction; what isn't finite or was clipped has its own.

The page computes the same colors from the same numbers (web/src/paint/colormap.ts): tests/golden/palettes.json.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from convscope.errors import UnknownName, suggest
from convscope.render.ramps import MAGMA, VIRIDIS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convscope.view import Array

Theme = str  # one of THEMES; a Style checks it and says which there are
Rgb = tuple[int, int, int]

THEMES = ("light", "dark")
SIGNED_MAPS = ("orange-blue", "red-blue", "gray")
POSITIVE_MAPS = ("viridis", "magma", "gray")

# Colors 0 … 256 carry finite values (signed: 128 is exactly zero); the rest are marks.
STEPS = 257
ZERO = 128
NAN = 257
POSITIVE_INFINITY = 258
NEGATIVE_INFINITY = 259
CLIPPED_HIGH = 260
CLIPPED_LOW = 261
COLORS = 262

# Hues far from every map's and from each other.
MARKS: dict[int, Rgb] = {NAN: (36, 214, 0), POSITIVE_INFINITY: (255, 20, 200), NEGATIVE_INFINITY: (0, 232, 226)}

# Rounding of float32 must not turn the maximum itself into a clipped value.
_SLACK = 1 + 1e-6


@dataclass(frozen=True)
class Scale:
    """Which value gets the last color. Signed: -limit … 0 … limit; positive: 0 … limit. A limit of 0 draws zero."""

    signed: bool
    limit: float | int

    @classmethod
    def of(cls, value_range: Mapping[str, Any], limit: float | int | None = None) -> Scale:
        """The scale that shows a whole range, or up to ``limit``; signed unless nothing is below 0."""
        low, high = value_range["minimum"] or 0.0, value_range["maximum"] or 0.0
        signed = low < 0
        full = max(abs(low), abs(high)) if signed else max(0.0, high)
        return cls(signed, full if limit is None else limit)


def _half_up(values: Array) -> Array:
    # The page rounds so; numpy would round halves to even numbers.
    return np.asarray(np.floor(values + 0.5))


def _parts(numbers: Array, limit: Array, drawable: Array) -> Array:
    # A tiny limit under a huge value overflows to infinity, which is as clipped as it can be.
    with np.errstate(over="ignore"):
        return np.asarray(np.divide(numbers, limit, out=np.zeros(numbers.shape), where=drawable))


def color_indices(values: Array, scale: Scale, limits: Array | None = None) -> Array:
    """The index of each value's color: int16, the shape of ``values``. +x and -x are always equally far from ``ZERO``.

    ``limits`` (broadcast against ``values``) replaces the scale's limit where tiles have scales of their own.
    """
    numbers = values.astype(np.float64)
    limit = np.broadcast_to(np.asarray(scale.limit if limits is None else limits, np.float64), numbers.shape)
    drawable = np.isfinite(numbers) & (limit > 0)
    part = _parts(numbers, limit, drawable)
    if scale.signed:
        distance = np.minimum(ZERO, _half_up(np.minimum(np.abs(part), 2) * ZERO))
        indices = np.where(part < 0, ZERO - distance, ZERO + distance).astype(np.int16)
        indices[part < -_SLACK] = CLIPPED_LOW
    else:
        indices = np.clip(_half_up(np.minimum(part, 2) * 2 * ZERO), 0, 2 * ZERO).astype(np.int16)
        indices[part < 0] = CLIPPED_LOW
    indices[part > _SLACK] = CLIPPED_HIGH
    indices[np.isnan(numbers)] = NAN
    indices[np.isposinf(numbers)] = POSITIVE_INFINITY
    indices[np.isneginf(numbers)] = NEGATIVE_INFINITY
    return indices


def color_levels(values: Array, limits: Array | float | int) -> Array:
    """Three slices as red, green and blue: ``[..., 3]`` to uint8 of that shape; -limit is 0, 0 is 128, limit is 255.

    A pixel with a NaN or an infinity in any slice gets its mark.
    """
    numbers = values.astype(np.float64)
    limit = np.broadcast_to(np.asarray(limits, np.float64), numbers.shape)
    drawable = np.isfinite(numbers) & (limit > 0)
    part = np.clip(_parts(numbers, limit, drawable), -1, 1)
    levels = np.where(part < 0, 128 - _half_up(-part * 128), 128 + _half_up(part * 127)).astype(np.uint8)
    for mark, where in (
        (NEGATIVE_INFINITY, np.isneginf(numbers)),
        (POSITIVE_INFINITY, np.isposinf(numbers)),
        (NAN, np.isnan(numbers)),
    ):
        levels[where.any(axis=-1)] = MARKS[mark]
    return levels


def _oklch(lightness: float | int, chroma: float | int, hue: float | int) -> Rgb:
    """Oklch (lightness 0…1, chroma, hue in degrees) to sRGB; chroma is lowered until the color exists."""
    angle = hue * math.pi / 180
    scale = 1.0
    while True:
        a, b = chroma * scale * math.cos(angle), chroma * scale * math.sin(angle)
        long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
        middle = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
        short = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3
        linear = (
            4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * middle + 1.707614701 * short,
        )
        if scale <= 0 or all(-1e-4 <= value <= 1.0001 for value in linear):
            red, green, blue = (_encode(min(1.0, max(0.0, value))) for value in linear)
            return red, green, blue
        scale -= 0.02


def _encode(value: float | int) -> int:
    encoded = 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055
    return math.floor(255 * encoded + 0.5)


def _diverging(theme: Theme, negative_hue: float | int, positive_hue: float | int) -> Array:
    """Both arms walk through the same lightness, so that equal magnitudes look equally strong."""
    neutral, end, chroma = (0.984, 0.44, 0.165) if theme == "light" else (0.2, 0.83, 0.16)
    colors = []
    for index in range(STEPS):
        value = (index - ZERO) / ZERO
        strength = abs(value)
        hue = negative_hue if value < 0 else positive_hue
        colors.append(_oklch(neutral + (end - neutral) * strength, chroma * strength**0.85, hue))
    return np.array(colors, np.uint8)


def _ramp(hexadecimal: str) -> Array:
    steps = np.frombuffer(bytes.fromhex(hexadecimal), np.uint8).reshape(-1, 3).astype(np.float64)
    place = np.arange(STEPS) / (STEPS - 1) * (len(steps) - 1)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, len(steps) - 1)
    part = (place - low)[:, None]
    return _half_up(steps[low] * (1 - part) + steps[high] * part).astype(np.uint8)


def _steps(signed: bool, name: str, theme: Theme) -> Array:
    if name == "gray":
        return np.repeat(_half_up(255 * np.arange(STEPS) / (STEPS - 1)).astype(np.uint8)[:, None], 3, axis=1)
    if not signed:
        return _ramp(MAGMA if name == "magma" else VIRIDIS)
    return _diverging(theme, 22, 262) if name == "red-blue" else _diverging(theme, 58, 250)


def _clipped(signed: bool, name: str, theme: Theme) -> tuple[Rgb, Rgb]:
    # Clipped values step out of the map's own range of lightness, on the side they left it.
    if name == "gray":
        return (255, 236, 92), (72, 60, 0)
    if not signed:
        return (255, 255, 255), ((0, 0, 0) if name == "viridis" else (0, 0, 70))
    if theme == "light":
        return _oklch(0.22, 0.09, 262), _oklch(0.22, 0.08, 45)
    return _oklch(0.96, 0.04, 230), _oklch(0.96, 0.05, 85)


@cache
def palette(signed: bool, name: str, theme: Theme) -> Array:
    """The color table of a map in a theme: uint8 ``[color, 3]``, :data:`COLORS` long."""
    known = SIGNED_MAPS if signed else POSITIVE_MAPS
    if name not in known:
        raise UnknownName(
            f"no {'signed' if signed else 'positive'} color map called {name!r}",
            next_step=suggest(name, known) or f"choose {', '.join(known)}",
        )
    colors = np.zeros((COLORS, 3), np.uint8)
    colors[:STEPS] = _steps(signed, name, theme)
    for mark, color in MARKS.items():
        colors[mark] = color
    colors[CLIPPED_HIGH], colors[CLIPPED_LOW] = _clipped(signed, name, theme)
    colors.setflags(write=False)
    return colors
