"""Class names: ImageNet's, and a user's own from a text or JSON file."""

from __future__ import annotations

import json
from collections.abc import Sequence  # noqa: TC003 - types are checked in tests
from functools import cache
from importlib.resources import files
from pathlib import Path

from convscope.errors import ConvscopeError

_MAXIMUM_BYTES = 16 << 20


@cache
def imagenet_classes() -> tuple[str, ...]:
    """The 1000 ImageNet classes in order, by short name.

    >>> imagenet_classes()[967]
    'espresso'
    """
    text = files("convscope.network.formats").joinpath("imagenet_classes.txt").read_text("utf-8")
    return tuple(text.splitlines())


def read_class_names(source: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Class names from a sequence, a text file (one a line) or a JSON file (a list, or an object ``{"0": name}``).

    In an object a name may also be a list whose last entry is the name, as in Keras's ``imagenet_class_index.json``.

    >>> read_class_names(["cat", "dog"])
    ('cat', 'dog')
    """
    if not isinstance(source, (str, Path)):
        return tuple(str(name) for name in source)
    path = Path(source)
    try:
        if path.stat().st_size > _MAXIMUM_BYTES:
            raise ConvscopeError("the file of class names is too large", where=path.name)
        text = path.read_text("utf-8-sig")
        if path.suffix.lower() != ".json":
            return tuple(line.strip() for line in text.splitlines() if line.strip())
        return _from_json(json.loads(text))
    except OSError as error:
        raise ConvscopeError(
            f"can't open the class names: {error.strerror}", where=path.name, next_step="check the path"
        ) from error
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise ConvscopeError(
            "can't read the class names",
            where=path.name,
            next_step='write one name a line, or JSON: ["cat", "dog"] or {"0": "cat", "1": "dog"}',
        ) from error


def _from_json(value: object) -> tuple[str, ...]:
    if isinstance(value, dict):
        numbered = {int(number): name for number, name in value.items()}
        value = [numbered[number] for number in range(len(numbered))]
    if not isinstance(value, list):
        raise TypeError("neither a list nor an object")
    return tuple(str(entry[-1] if isinstance(entry, list) else entry) for entry in value)
