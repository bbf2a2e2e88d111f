"""Figure to PNG."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from convscope.render.figure import TONES, Curve, Figure, Pixels, Rectangle, Words, connected, drawable, font

if TYPE_CHECKING:
    from convscope.render.colormap import Rgb, Theme
    from convscope.render.figure import Length
    from convscope.view import Array

# Twice as many pixels as CSS has make text sharp on today's screens; a large figure is drawn with one each.
SHARP = 2
SHARP_AREA = 3_000_000
HIGHEST_SIDE = 8000
_FINER = 4


def raster(figure: Figure, theme: Theme) -> Array:
    """The figure as uint8 ``[row, column, 3]``; at most 8,000 pixels on each side."""
    scale = SHARP if figure.height * figure.width <= SHARP_AREA else 1
    if scale * max(figure.height, figure.width) > HIGHEST_SIDE:
        scale = 1
    tones = TONES[theme]
    size = (min(HIGHEST_SIDE, round(figure.width * scale)), min(HIGHEST_SIDE, round(figure.height * scale)))
    image = Image.new("RGB", (max(1, size[0]), max(1, size[1])), tones["ground"])
    pen = ImageDraw.Draw(image)
    for item, top, left in figure.placed():
        if isinstance(item, Pixels):
            picture = Image.fromarray(np.ascontiguousarray(item.colors))
            enlarged = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
            image.paste(enlarged, (round(left * scale), round(top * scale)))
        elif isinstance(item, Rectangle):
            _rectangle(pen, item, top, left, tones[item.color] if isinstance(item.color, str) else item.color, scale)
        elif isinstance(item, Curve):
            _curve(image, item, top, left, tones[item.color] if isinstance(item.color, str) else item.color, scale)
        else:
            _words(pen, item, top, left, tones[item.tone], scale)
    return np.asarray(image)


def _rectangle(pen: ImageDraw.ImageDraw, item: Rectangle, top: Length, left: Length, color: Rgb, scale: int) -> None:
    if item.height <= 0 or item.width <= 0:
        return
    first_column, first_row = round(left * scale), round(top * scale)
    last_column = max(first_column, round((left + item.width) * scale) - 1)
    last_row = max(first_row, round((top + item.height) * scale) - 1)
    box = (first_column, first_row, last_column, last_row)
    if item.outline:
        pen.rectangle(box, outline=color, width=scale)
    else:
        pen.rectangle(box, fill=color)


def _curve(image: Image.Image, item: Curve, top: Length, left: Length, color: Rgb, scale: int) -> None:
    """Drawn on a mask that is larger and then reduced: Pillow's own lines have stairs."""
    for part in connected(item.points):
        places = (part + np.array([top, left])) * scale
        margin = 2 + item.thickness * scale
        first = np.floor(places.min(axis=0) - margin).astype(int)
        size = np.ceil(places.max(axis=0) + margin).astype(int) - first
        mask = Image.new("L", (int(size[1]) * _FINER, int(size[0]) * _FINER))
        corners = [(float(column), float(row)) for row, column in (places - first) * _FINER]
        thickness = max(1, round(item.thickness * scale * _FINER))
        ImageDraw.Draw(mask).line(corners, fill=255, width=thickness, joint="curve")
        image.paste(color, (int(first[1]), int(first[0])), mask.reduce(_FINER))


def _words(pen: ImageDraw.ImageDraw, item: Words, top: Length, left: Length, color: Rgb, scale: int) -> None:
    text = drawable(item.text)
    if not text:
        return
    anchor = {"left": "l", "center": "m", "right": "r"}[item.align]
    size = item.size * scale
    # Pillow's font has one weight; a hair of stroke makes the second.
    stroke = 0.018 * size if item.strong else 0
    baseline = top * scale + 1.05 * size
    pen.text((left * scale, baseline), text, color, font(size), anchor=f"{anchor}s", stroke_width=stroke)


def png_bytes(pixels: Array, description: str = "") -> bytes:
    """uint8 ``[row, column, 3]`` as a PNG file; the same pixels give the same bytes."""
    from PIL.PngImagePlugin import PngInfo

    information = PngInfo()
    if description:
        # Lone surrogates, which a file name may hold, can't be written.
        information.add_itxt("Description", description.encode("utf-8", "replace").decode())
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", pnginfo=information, compress_level=6)
    return buffer.getvalue()
