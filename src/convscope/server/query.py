"""Reading what a client sent: ids, method parameters, names. Nothing of it is ever used as a path."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from convscope.errors import ConvscopeError
from convscope.server.question import IMAGES_PER_VIEW

if TYPE_CHECKING:
    from starlette.datastructures import QueryParams

NOT_METHOD_PARAMETERS = ("target", "images", "format", "opening")
_IDS = re.compile(r"\d{1,9}(?:,\d{1,9})*", re.ASCII)


def image_ids(text: str) -> tuple[int, ...]:
    """Image ids from a query.

    >>> image_ids("0,3"), image_ids("")
    ((0, 3), ())
    """
    if not text:
        return ()
    if _IDS.fullmatch(text) is None:
        raise ConvscopeError("images are ids separated by commas", next_step="write images=0,3")
    numbers = tuple(map(int, text.split(",")))
    if len(numbers) > IMAGES_PER_VIEW:
        raise ConvscopeError(f"{len(numbers)} images in one view", next_step=f"choose {IMAGES_PER_VIEW} at most")
    return numbers


def method_parameters(query: QueryParams) -> dict[str, str]:
    """What is left of the query for the method."""
    parameters: dict[str, str] = {}
    for name, value in query.multi_items():
        if name in parameters or (name in NOT_METHOD_PARAMETERS and len(query.getlist(name)) > 1):
            raise ConvscopeError("a parameter is given twice", where="the query", next_step="give each once")
        if name not in NOT_METHOD_PARAMETERS:
            parameters[name] = value
    return parameters


def shown_name(name: str) -> str:
    r"""A file name as the client gave it, good for showing: no folders, no control characters, not too long.

    >>> shown_name("C:\\photos\\cat\n.jpg")
    'cat.jpg'
    """
    last = re.split(r"[/\\]", name)[-1]
    return "".join(character for character in last if character.isprintable())[:100].strip() or "image"


def file_name(method: str, target: str, suffix: str) -> str:
    """What a browser should call a download.

    >>> file_name("weights", "layer1.0.conv1@1:37", "png")
    'weights-layer1.0.conv1-1-37.png'
    """
    place = re.sub(r"[^A-Za-z0-9._]+", "-", target).strip("-.")
    return f"{method}-{place}.{suffix}" if place else f"{method}.{suffix}"


__all__ = ["NOT_METHOD_PARAMETERS", "file_name", "image_ids", "method_parameters", "shown_name"]
