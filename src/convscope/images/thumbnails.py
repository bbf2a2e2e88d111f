"""Small pictures of images, for strips and lists."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image as Pillow
from PIL import features

from convscope.images.decoding import decode
from convscope.images.image_set import Image  # noqa: TC001 - types are checked in tests
from convscope.images.origins import ItemOrigin
from convscope.network.preprocessing import over_white
from convscope.view import Array  # noqa: TC001 - types are checked in tests

LARGEST = 1024


def thumbnail(image: Image, side: int) -> bytes:
    """The image as WEBP (JPEG where Pillow can't write that), ``side`` pixels at most on its longer side (1 to 1024).

    Laid over white where it is transparent; an array that isn't a picture shows its first channel.
    """
    side = min(max(side, 1), LARGEST)
    if isinstance(image.origin, ItemOrigin):
        pixels = image.pixels()
    else:
        # Twice the side is decoded, so that the last reduction is still a smooth one.
        pixels = decode(image.encoded(), image.origin.limits, at_least=2 * side)
    picture = Pillow.fromarray(in_color(pixels))
    picture.thumbnail((side, side), reducing_gap=2.0)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP" if features.check("webp") else "JPEG", quality=85)
    return buffer.getvalue()


def in_color(pixels: Array) -> Array:
    """Any image's pixels as uint8 ``[row, column, 3]``: over white where transparent, else its first channel in gray.

    >>> in_color(np.full((1, 1, 6), 0.5, np.float32))
    array([[[128, 128, 128]]], dtype=uint8)
    """
    if pixels.dtype != np.uint8:
        pixels = (pixels * 255).round().astype(np.uint8)
    if pixels.shape[2] == 4:
        return over_white(pixels[:, :, :3], pixels[:, :, 3:])
    return pixels if pixels.shape[2] == 3 else np.ascontiguousarray(np.repeat(pixels[:, :, :1], 3, axis=2))
