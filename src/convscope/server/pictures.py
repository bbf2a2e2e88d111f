"""Pictures made for the page: thumbnails, what the network sees, and downloads. Called off the event loop."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convscope.images import Image
    from convscope.network.network import Network

DOWNLOADS = {
    "png": "image/png",
    "svg": "image/svg+xml",
    "npz": "application/octet-stream",
    "safetensors": "application/octet-stream",
}
_SIGNATURES = ((b"\x89PNG", "image/png"), (b"RIFF", "image/webp"), (b"\xff\xd8", "image/jpeg"))


def make_thumbnail(image: Image, side: int) -> bytes:
    """A small picture, ``side`` pixels at most on its longer side."""
    from convscope.images import thumbnail

    return thumbnail(image, side)


def picture_type(content: bytes) -> str:
    """The media type of a picture we made ourselves.

    >>> picture_type(b"RIFF....WEBP")
    'image/webp'
    """
    return next((media_type for start, media_type in _SIGNATURES if content.startswith(start)), "image/png")


def make_prepared(network: Network, image: Image) -> bytes:
    """PNG of the prepared image, brought back to pixels: resized and cropped as the network sees it."""
    from PIL import Image as PillowImage

    pixels = network.unprepare(network.prepare(image))
    # More channels than a picture has: the first one stands for all.
    shown = pixels[:, :, 0] if pixels.shape[2] not in (3, 4) else pixels
    buffer = io.BytesIO()
    PillowImage.fromarray(shown).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def make_download(blob: bytes, suffix: str) -> bytes:
    """A View's blob as a file of another format, drawn as ``convscope view -o`` draws it."""
    if suffix == "safetensors":
        return blob
    from convscope.render import encode
    from convscope.view import View

    return encode(View.from_bytes(blob), suffix)


__all__ = ["DOWNLOADS", "make_download", "make_prepared", "make_thumbnail", "picture_type"]
