"""Images: sets of pictures whose ids never change, decoded on demand and distrusted until decoded."""

from __future__ import annotations

from convscope.images.decoding import FILES, UPLOADS, Limits, decode
from convscope.images.image_set import Image, ImageSet
from convscope.images.loading import load_images
from convscope.images.reading import ReadImage, read_ahead
from convscope.images.thumbnails import thumbnail

__all__ = [
    "FILES",
    "UPLOADS",
    "Image",
    "ImageSet",
    "Limits",
    "ReadImage",
    "decode",
    "load_images",
    "read_ahead",
    "thumbnail",
]
