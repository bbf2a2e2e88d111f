"""Parts of an object, marked by a box in each image: the text they are written in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from convscope.errors import ConvscopeError

if TYPE_CHECKING:
    from convscope.view import Array

HELP = (
    "the same part in every image, as boxes row,column,rows,columns in pixels of the prepared image: one box for all "
    "images, or one for each, separated by ;  Several parts are separated by / and may have names: "
    "'eye: 12,30,40,40; 14,28,40,40 / nose: 60,50,30,30'"
)
_GRAMMAR = "write boxes as row,column,rows,columns; one for all images or one for each: 12,30,40,40; 14,28,40,40"
_NUMBER = re.compile(r"\s*\d{1,6}\s*")


@dataclass(frozen=True, eq=False)
class Part:
    """A named part: its box in each image, int ``[image, side]`` (row, column, rows, columns)."""

    name: str
    boxes: Array


def parse_parts(text: str, images: int, image_size: tuple[int, int]) -> tuple[Part, ...]:
    """The parts that a text marks in some images.

    Raises :class:`ConvscopeError` with the grammar, and where a box lies beyond the image.

    >>> part, = parse_parts("eye: 1,2,3,4", 2, (9, 9))
    >>> part.name, part.boxes.tolist()
    ('eye', [[1, 2, 3, 4], [1, 2, 3, 4]])
    """
    if not text.strip():
        raise ConvscopeError("which part is hidden isn't said", where="parameter parts", next_step=_GRAMMAR)
    parts = []
    for number, written in enumerate(text.split("/"), start=1):
        name, colon, boxes = written.rpartition(":")
        name = name.strip() if colon and name.strip() else f"part {number}"
        found = [_box(box, name, image_size) for box in boxes.split(";") if box.strip()]
        if len(found) not in (1, images):
            raise ConvscopeError(
                f"{name} has {len(found)} boxes for {images} images", where="parameter parts", next_step=_GRAMMAR
            )
        parts.append(Part(name, np.array(found * images if len(found) == 1 else found, np.int32)))
    names = [part.name for part in parts]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConvscopeError(
            f"two parts are called {twice}", where="parameter parts", next_step="give each a name of its own"
        )
    return tuple(parts)


def _box(text: str, name: str, image_size: tuple[int, int]) -> list[int]:
    numbers = text.split(",")
    if len(numbers) != 4 or not all(_NUMBER.fullmatch(number) for number in numbers):
        raise ConvscopeError(f"{text.strip()[:80]!r} isn't a box of {name}", next_step=_GRAMMAR)
    row, column, rows, columns = (int(number) for number in numbers)
    if rows < 1 or columns < 1 or row + rows > image_size[0] or column + columns > image_size[1]:
        raise ConvscopeError(
            f"the box {row},{column},{rows},{columns} of {name} isn't within the prepared image",
            next_step=f"choose rows 0 to {image_size[0] - 1} and columns 0 to {image_size[1] - 1}",
        )
    return [row, column, rows, columns]


__all__ = ["HELP", "Part", "parse_parts"]
