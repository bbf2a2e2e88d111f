"""Figure to SVG: pixels as embedded PNG that stay sharp when enlarged, words as real text, the rest as vectors."""

from __future__ import annotations

import base64
import re
from html import escape
from typing import TYPE_CHECKING

from convscope.render.figure import TONES, Curve, Figure, Pixels, Rectangle, Words, connected
from convscope.render.raster import png_bytes

if TYPE_CHECKING:
    from convscope.render.colormap import Rgb, Theme
    from convscope.render.figure import Length

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"
_ANCHORS = {"left": "start", "center": "middle", "right": "end"}
# Control characters, lone surrogates and two non-characters have no place in XML, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def svg(figure: Figure, theme: Theme, title: str) -> str:
    """The figure as one self-contained SVG document."""
    tones = TONES[theme]
    height, width = _number(figure.height), _number(figure.width)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" font-family="{escape(FONT)}">',
        f"<title>{text(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="{_hexadecimal(tones["ground"])}"/>',
    ]
    for item, top, left in figure.placed():
        place = f'x="{_number(left)}" y="{_number(top)}"'
        if isinstance(item, Pixels):
            parts.append(_image(item, place))
        elif isinstance(item, Rectangle):
            color = _hexadecimal(tones[item.color] if isinstance(item.color, str) else item.color)
            size = f'width="{_number(max(0, item.width))}" height="{_number(max(0, item.height))}"'
            paint = f'fill="none" stroke="{color}"' if item.outline else f'fill="{color}"'
            parts.append(f"<rect {place} {size} {paint}/>")
        elif isinstance(item, Curve):
            parts += _curve(
                item, top, left, _hexadecimal(tones[item.color] if isinstance(item.color, str) else item.color)
            )
        else:
            parts.append(_text(item, top, left, _hexadecimal(tones[item.tone])))
    return "\n".join([*parts, "</svg>", ""])


def text(value: str) -> str:
    """Text that is safe in XML and HTML; names of layers, classes and files come from strangers."""
    return escape(_NOT_XML.sub("\N{REPLACEMENT CHARACTER}", value))


def data_uri(png: bytes) -> str:
    """A PNG as the address of itself."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _image(item: Pixels, place: str) -> str:
    height, width = item.colors.shape[:2]
    return (
        f'<image {place} width="{width}" height="{height}" preserveAspectRatio="none" '
        f'style="image-rendering: pixelated" href="{data_uri(png_bytes(item.colors))}"/>'
    )


def _curve(item: Curve, top: Length, left: Length, color: str) -> list[str]:
    return [
        f'<polyline points="{" ".join(f"{_number(left + column)},{_number(top + row)}" for row, column in part)}" '
        f'fill="none" stroke="{color}" stroke-width="{_number(item.thickness)}" stroke-linejoin="round"/>'
        for part in connected(item.points)
    ]


def _text(item: Words, top: Length, left: Length, color: str) -> str:
    weight = ' font-weight="600"' if item.strong else ""
    return (
        f'<text x="{_number(left)}" y="{_number(top + 1.05 * item.size)}" font-size="{item.size}" '
        f'fill="{color}" text-anchor="{_ANCHORS[item.align]}"{weight}>{text(item.text)}</text>'
    )


def _number(value: Length) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _hexadecimal(color: Rgb) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
