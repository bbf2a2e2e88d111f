"""Atlas: the patches of many units in one picture, each image decoded once."""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image as Pillow
from PIL import features

from convscope.errors import BadImage, ConvscopeError, UnknownName
from convscope.mining.patches import (
    BoxLike,
    Mode,
    check_side,
    finest,
    missing_tile,
    window_of,
)
from convscope.progress import report
from convscope.view import Array  # noqa: TC001 - types are checked in tests

if TYPE_CHECKING:
    from collections.abc import Callable

    from convscope.mining.patches import Seen

THREADS = 4
# WEBP's largest side, and as many pixels as a page should decode at once.
LARGEST_PICTURE_SIDE = 16_383
LARGEST_PICTURE = 40_000_000
_ENLARGED = 2.0


@dataclass(frozen=True, eq=False)
class Atlas:
    """Tiles of one size: uint8 ``[row, column, 4]``, units in rows and ranks in columns of ``side`` pixels.

    Transparent where there is no tile, and around a tile that isn't square. ``missing`` says of each image that
    couldn't be shown why; its tiles hold a cross. ``enlarged``: the picture's own pixels are visible as squares.
    """

    pixels: Array
    side: int
    missing: dict[int, str]
    enlarged: bool

    def tile(self, unit: int, rank: int) -> Array:
        """One tile, uint8 ``[row, column, 4]``."""
        side = self.side
        return self.pixels[unit * side : (unit + 1) * side, rank * side : (rank + 1) * side]

    def encode(self) -> bytes:
        """The atlas as WEBP (PNG where Pillow can't write that); squares of enlarged pixels stay sharp."""
        opaque = bool((self.pixels[:, :, 3] == 255).all())
        picture = Pillow.fromarray(np.ascontiguousarray(self.pixels[:, :, :3]) if opaque else self.pixels)
        buffer = io.BytesIO()
        if features.check("webp"):
            # Lossy WEBP halves the resolution of colors, which shows where single pixels are drawn large.
            picture.save(buffer, "WEBP", lossless=self.enlarged, quality=40 if self.enlarged else 85, method=2)
        else:  # pragma: no cover - Pillow's wheels have WEBP
            picture.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()


def atlas(
    images: Array,
    boxes: Array,
    side: int,
    mode: Mode = "crop",
    *,
    see: Callable[[int, float], Seen],
    size: tuple[int, int],
) -> Atlas:
    """The patches of ``images`` [unit, rank] (−1: none) at ``boxes`` [unit, rank, side], each image decoded once.

    ``see`` gives what the network saw of the image of an id, good for so many tile pixels per prepared pixel; the
    :class:`UnknownName` or :class:`BadImage` that it raises is kept in :attr:`Atlas.missing`. ``size`` is that of a
    prepared image. A few threads decode side by side; progress is reported by image, and that is where it can be
    cancelled. Raises :class:`ConvscopeError` for more tiles than fit into one picture.
    """
    side = check_side(side)
    units, ranks = images.shape
    if max(units, ranks) * side > LARGEST_PICTURE_SIDE or units * ranks * side * side > LARGEST_PICTURE:
        raise ConvscopeError(
            f"{units} units × {ranks} ranks of {side} pixels are too large a picture",
            next_step="ask for fewer units or ranks, or smaller tiles",
        )
    canvas = np.zeros((units * side, ranks * side, 4), np.uint8)
    missing: dict[int, str] = {}
    places = _places(images)

    def tiles_of(image: int) -> list[tuple[int, int, Array]]:
        asked = [(unit, rank, _box(boxes[unit, rank])) for unit, rank in places[image]]
        try:
            picture = see(image, max(finest(window_of(box, size, mode), side) for _, _, box in asked))
            return [(unit, rank, picture.cut(box, side, mode)) for unit, rank, box in asked]
        except (BadImage, UnknownName) as error:
            missing[image] = error.what
            return [(unit, rank, missing_tile(side)) for unit, rank, _ in asked]

    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1), thread_name_prefix="convscope-patches") as pool:
        try:
            for done, future in enumerate(as_completed([pool.submit(tiles_of, image) for image in places])):
                report(done, len(places), "cutting patches")
                for unit, rank, tile in future.result():
                    _place(canvas[unit * side : (unit + 1) * side, rank * side : (rank + 1) * side], tile)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    longest = float(boxes[images >= 0][..., 2:].max(initial=0)) if mode == "crop" else float(max(size))
    return Atlas(canvas, side, missing, side >= _ENLARGED * max(longest, 1.0))


def _places(images: Array) -> dict[int, list[tuple[int, int]]]:
    """Where each image is asked for, in the order of the ids."""
    found: dict[int, list[tuple[int, int]]] = {}
    for unit, rank in np.argwhere(images >= 0).tolist():
        found.setdefault(int(images[unit, rank]), []).append((unit, rank))
    return dict(sorted(found.items()))


def _box(box: Array) -> BoxLike:
    row, column, rows, columns = (int(each) for each in box)
    return row, column, rows, columns


def _place(place: Array, tile: Array) -> None:
    """A tile in the middle of its place."""
    top, left = ((whole - part) // 2 for whole, part in zip(place.shape[:2], tile.shape[:2], strict=True))
    inner = place[top : top + tile.shape[0], left : left + tile.shape[1]]
    inner[:, :, :3] = tile
    inner[:, :, 3] = 255


__all__ = ["LARGEST_PICTURE", "LARGEST_PICTURE_SIDE", "Atlas", "atlas"]
