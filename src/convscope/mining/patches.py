"""Patches: the part of a picture that a neuron sees, cut out exactly, and many of them in one picture.

A box is ``(row, column, rows, columns)`` in pixels of the prepared image, as :meth:`Network.boxes` gives it: not
clipped, because how much of a field lies beyond the border says where the neuron sits. Cutting needs the picture and
the preprocessing alone, never the network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from convscope.errors import ConvscopeError
from convscope.images.decoding import decode, size_of
from convscope.images.origins import Content, Encoded
from convscope.images.thumbnails import in_color
from convscope.view import Array  # noqa: TC001 - types are checked in tests

if TYPE_CHECKING:
    from convscope.images import Image
    from convscope.network.preprocessing import Preprocessing

Mode = Literal["crop", "context", "mask"]
MODES: tuple[str, ...] = get_args(Mode)
BoxLike = tuple[int, int, int, int]

NEUTRAL = 128
"""The gray of what lies beyond the image's border; no claim that the network saw gray there."""
LARGEST_SIDE = 1024
_DIMMED = 0.3
_AROUND = 3  # a context shows a field's size on each side of it, and never less than a quarter of the image
_LIGHT, _DARK = 255, 0


@dataclass(frozen=True, eq=False)
class Seen:
    """What a network saw of one picture, with as many pixels as there are.

    ``pixels`` is uint8 ``[row, column, 3]``; prepared pixel (r, c) begins at ``origin + (r, c) · scale`` of them, and
    ``size`` is that of the prepared image. A picture with more pixels than the network takes is kept as it is, so that
    a patch of a few prepared pixels isn't blurred a second time; one with fewer is the prepared image brought back.
    ``finest`` is the number of tile pixels per prepared pixel that there are enough pixels for.
    """

    pixels: Array
    origin: tuple[float, float]
    scale: tuple[float, float]
    size: tuple[int, int]
    finest: float = math.inf

    def cut(self, box: BoxLike, side: int, mode: Mode = "crop") -> Array:
        """The patch as uint8 ``[row, column, 3]``; see :func:`cut`."""
        if box[2] < 1 or box[3] < 1:  # the neuron depends on no pixel
            return np.full((side, side, 3), NEUTRAL, np.uint8)
        window = window_of(box, self.size, mode)
        height, width = tile_size(window, side)
        tile = self._sample(window, height, width)
        if mode == "crop":
            return tile
        inside = _placed(box, window, height, width)
        if mode == "mask":
            down = _overlap(inside[0], inside[2], height)[:, None, None]
            across = _overlap(inside[1], inside[3], width)[None, :, None]
            tile = np.rint(tile * (_DIMMED + (1 - _DIMMED) * down * across)).astype(np.uint8)
        return _outlined(tile, inside, max(1, side // 96))

    def _sample(self, window: BoxLike, height: int, width: int) -> Array:
        """The window as height × width pixels: nearest neighbor where it gets larger, area average where smaller."""
        row, column, rows, columns = window
        down = _axis(self.origin[0], self.scale[0], self.size[0], (row, rows), height, self.pixels.shape[0])
        across = _axis(self.origin[1], self.scale[1], self.size[1], (column, columns), width, self.pixels.shape[1])
        part = self.pixels[down.used, across.used].astype(np.float32)
        narrow = across.within().resample(part.transpose(1, 0, 2))
        tile = down.within().resample(narrow.transpose(1, 0, 2))
        beyond = 1 - np.outer(down.inside, across.inside).astype(np.float32)
        return np.asarray(np.rint(tile + NEUTRAL * beyond[:, :, None]).clip(0, 255).astype(np.uint8))


@dataclass(frozen=True, eq=False)
class _Axis:
    """How the pixels of a tile are made of a picture's along one axis: each covers ``step`` of them from ``start`` on.

    What lies outside of ``low`` to ``high`` isn't part of the image; ``inside`` is how much of each tile pixel is.
    """

    start: float
    step: float
    count: int
    low: float
    high: float

    @property
    def _edges(self) -> Array:
        return (self.start + self.step * np.arange(self.count + 1)).clip(self.low, self.high)

    @property
    def _centers(self) -> Array:
        return self.start + self.step * (np.arange(self.count) + 0.5)

    @property
    def inside(self) -> Array:
        """How much of each tile pixel lies within the image, 0 to 1."""
        if self.step > 1:
            return np.diff(self._edges) / self.step
        return ((self._centers >= self.low) & (self._centers < self.high)).astype(np.float64)

    @property
    def used(self) -> slice:
        """The picture's pixels that are needed."""
        first = min(math.floor(self._edges[0]), math.ceil(self.high) - 1)
        return slice(first, max(first + 1, math.ceil(self._edges[-1])))

    def within(self) -> _Axis:
        """The same axis over the pixels that are needed alone."""
        first = self.used.start
        return _Axis(self.start - first, self.step, self.count, self.low - first, self.high - first)

    def resample(self, values: Array) -> Array:
        """``[pixel, …]`` to ``[tile pixel, …]``; 0 for what isn't part of the image."""
        tail = (slice(None), *[None] * (values.ndim - 1))
        last = len(values) - 1
        if self.step <= 1:
            nearest = np.floor(self._centers).astype(np.int64).clip(0, last)
            return np.asarray(values[nearest] * self.inside.astype(np.float32)[tail])
        # The integral of the picture up to each edge; its differences are exact area averages.
        edges = self._edges
        whole = np.minimum(edges.astype(np.int64), last)
        total = np.zeros((len(values) + 1, *values.shape[1:]), np.float32)
        np.cumsum(values, axis=0, out=total[1:])
        reached = total[whole] + (edges - whole).astype(np.float32)[tail] * values[whole]
        return np.diff(reached, axis=0) / np.float32(self.step)


def _axis(origin: float, scale: float, size: int, window: tuple[int, int], count: int, available: int) -> _Axis:
    low, high = max(origin, 0.0), min(origin + size * scale, float(available))
    return _Axis(origin + window[0] * scale, window[1] * scale / count, count, low, high)


def seen(preprocessing: Preprocessing, content: Content, finest: float = math.inf) -> Seen:
    """What the network sees of a picture that was read; raises :class:`BadImage`.

    ``finest`` is the number of tile pixels per prepared pixel that will be asked for at most: a JPEG much larger than
    that is decoded at a half, a quarter or an eighth of its size, never below twice the tiles' resolution.
    """
    if not isinstance(content, Encoded):
        return _of_pixels(preprocessing, content.pixels(), None)
    height, width = size_of(content.encoded, content.limits)
    at_least = None
    if math.isfinite(finest):
        *_, rows, columns = preprocessing.crop_box(height, width)
        spare = min(rows / preprocessing.image_size[0], columns / preprocessing.image_size[1]) / max(finest, 1e-9)
        if spare >= 4:
            at_least = math.ceil(2 * min(height, width) / spare)
    pixels = decode(content.encoded, content.limits, at_least=at_least)
    return _of_pixels(preprocessing, pixels, (height, width))


def _of_pixels(preprocessing: Preprocessing, pixels: Array, original: tuple[int, int] | None) -> Seen:
    height, width = original or pixels.shape[:2]
    top, left, rows, columns = preprocessing.crop_box(height, width)
    size = preprocessing.image_size
    vertical, horizontal = rows / size[0], columns / size[1]
    if min(vertical, horizontal) < 1:
        return Seen(in_color(preprocessing.unprepare(preprocessing.prepare(pixels))), (0.0, 0.0), (1.0, 1.0), size)
    # A JPEG decoded at a fraction has one pixel for each k × k of the original, the last ones not all there.
    fraction = _fraction((height, width), pixels.shape[:2])
    origin, scale = (top / fraction, left / fraction), (vertical / fraction, horizontal / fraction)
    finest = math.inf if fraction == 1 else min(scale) / 2
    return Seen(in_color(preprocessing.match_channels(pixels)), origin, scale, size, finest)


def _fraction(original: tuple[int, int], decoded: tuple[int, ...]) -> int:
    fitting = [k for k in (1, 2, 4, 8) if (math.ceil(original[0] / k), math.ceil(original[1] / k)) == tuple(decoded)]
    if not fitting:  # pragma: no cover - the header and the decoder would have to disagree
        raise ConvscopeError(f"decoded to {decoded} pixels, not {original}", next_step="report it with the image")
    return fitting[0]


def cut(preprocessing: Preprocessing, picture: Image, box: BoxLike, side: int, mode: Mode = "crop") -> Array:
    """One patch as uint8 ``[row, column, 3]``, ``side`` pixels on its longer side.

    ``box`` is (row, column, rows, columns) in prepared pixels, not clipped. ``mode`` "crop" shows the box alone. What
    lies beyond the image's border stays, in neutral gray, on the side where the field leaves the image; along an axis
    where the field covers the image from end to end, the image is shown. "context" shows the patch with what is around
    it, and "mask" the whole image dimmed outside the box, both with the box drawn. The pixels are the picture's own, at
    its full resolution where that is higher than the network's: nearest neighbor when enlarged, area average when
    reduced.

    Raises :class:`BadImage` for a picture that can't be decoded.

    >>> from convscope.images import load_images
    >>> from convscope.network.preprocessing import Preprocessing
    >>> (picture,) = load_images([np.full((8, 8, 3), 200, np.uint8)])
    >>> patch = cut(Preprocessing(8), picture, (-1, 3, 3, 3), side=3)  # the first of its rows is beyond the border
    >>> patch[:, 1, 0].tolist()
    [128, 200, 200]
    """
    side = check_side(side)
    window = window_of(box, preprocessing.image_size, mode)
    with picture.named():
        return seen(preprocessing, picture.read(), finest(window, side)).cut(box, side, mode)


def check_side(side: int) -> int:
    """A tile's side in pixels; raises with the range when it is out of it."""
    if not 1 <= side <= LARGEST_SIDE:
        raise ConvscopeError(f"no tile has a side of {side} pixels", next_step=f"choose 1 to {LARGEST_SIDE}")
    return side


def finest(window: BoxLike, side: int) -> float:
    """Tile pixels per prepared pixel."""
    return side / max(window[2], window[3], 1)


def tile_size(window: BoxLike, side: int) -> tuple[int, int]:
    """Height and width of a window's tile: its longer side is ``side`` pixels, its shape the window's.

    >>> tile_size((0, 0, 3, 6), 48)
    (24, 48)
    """
    longer = max(window[2], window[3])
    return max(1, round(side * window[2] / longer)), max(1, round(side * window[3] / longer))


def window_of(box: BoxLike, size: tuple[int, int], mode: Mode = "crop") -> BoxLike:
    """What part of the (extended) prepared image a tile shows.

    >>> window_of((-3, 10, 7, 7), (32, 32))  # the padded side is kept
    (-3, 10, 7, 7)
    >>> window_of((-20, 10, 70, 70), (32, 32))  # rows: from end to end; columns: beyond one end
    (0, 10, 32, 70)
    """
    if mode == "mask":
        return (0, 0, *size)
    row, rows = _span(box[0], box[2], size[0], mode)
    column, columns = _span(box[1], box[3], size[1], mode)
    return row, column, rows, columns


def _span(start: int, extent: int, size: int, mode: Mode) -> tuple[int, int]:
    if start <= 0 and start + extent >= size:
        return 0, size
    if mode == "crop":
        return start, extent
    first, last = min(0, start), max(size, start + extent)
    wanted = min(max(_AROUND * extent, math.ceil(size / 4)), last - first)
    begin = start + extent // 2 - wanted // 2
    return max(first, min(begin, last - wanted)), wanted


def _placed(box: BoxLike, window: BoxLike, height: int, width: int) -> tuple[float, float, float, float]:
    """(top, left, bottom, right) of the box in the tile's pixels."""
    down, across = height / window[2], width / window[3]
    top, left = (box[0] - window[0]) * down, (box[1] - window[1]) * across
    return top, left, top + box[2] * down, left + box[3] * across


def _overlap(low: float, high: float, count: int) -> Array:
    """How much of each of ``count`` pixels lies between ``low`` and ``high``."""
    begins = np.arange(count, dtype=np.float64)
    return np.asarray((np.minimum(begins + 1, high) - np.maximum(begins, low)).clip(0))


def _outlined(tile: Array, inside: tuple[float, float, float, float], thickness: int) -> Array:
    """A light line around the box with a dark one around that, so that one of them shows on any picture."""
    top, left, bottom, right = (round(each) for each in inside)

    def grown(by: int) -> Array:
        within = np.zeros(tile.shape[:2], bool)
        within[max(0, top - by) : max(0, bottom + by), max(0, left - by) : max(0, right + by)] = True
        return within

    tile[grown(2 * thickness) & ~grown(thickness)] = _DARK
    tile[grown(thickness) & ~grown(0)] = _LIGHT
    return tile


def missing_tile(side: int) -> Array:
    """What stands where a picture can't be shown: a cross on gray, uint8 ``[row, column, 3]``."""
    tile = np.full((side, side, 3), NEUTRAL + 40, np.uint8)
    place = np.arange(side)
    for shift in range(max(1, side // 32)):
        tile[place, (place + shift).clip(max=side - 1)] = NEUTRAL - 40
        tile[place, (side - 1 - place - shift).clip(0)] = NEUTRAL - 40
    return tile


__all__ = [
    "LARGEST_SIDE",
    "MODES",
    "NEUTRAL",
    "BoxLike",
    "Mode",
    "Seen",
    "check_side",
    "cut",
    "finest",
    "missing_tile",
    "seen",
    "tile_size",
    "window_of",
]
