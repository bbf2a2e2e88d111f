"""From labels as they are written (numbers, or names) to a class's number and name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

_LARGEST = 2**31


class Labels(NamedTuple):
    """For each image its class's number and name, or None; and the names of all classes."""

    numbers: list[int | None]
    names: list[str | None]
    classes: tuple[str, ...]


def number_labels(written: Sequence[Any], classes: Sequence[str] = ()) -> Labels:
    """Numbers stay what they are, named by ``classes`` where there are any; names are numbered in their sorted order.

    If one label is a name, all are. A negative number, as data sets without labels have it, is no label; neither is
    anything but a number or a text.

    >>> number_labels(["dog", None, "cat", "dog"])
    Labels(numbers=[1, None, 0, 1], names=['dog', None, 'cat', 'dog'], classes=('cat', 'dog'))
    >>> number_labels([1, -1, 7], ["cat", "dog"])
    Labels(numbers=[1, None, 7], names=['dog', None, None], classes=('cat', 'dog'))
    """
    plain = [_plain(label) for label in written]
    if any(isinstance(label, str) for label in plain):
        texts = [None if label is None else str(label) for label in plain]
        found = sorted({text for text in texts if text is not None})
        known = tuple(classes) if set(found) <= set(classes) else tuple(found)
        places = {name: number for number, name in enumerate(known)}
        return Labels([None if text is None else places[text] for text in texts], texts, known)
    numbers = [label if isinstance(label, int) else None for label in plain]
    count = len(classes)
    names = [None if number is None or number >= count else classes[number] for number in numbers]
    return Labels(numbers, names, tuple(classes))


def _plain(label: Any) -> int | str | None:
    if isinstance(label, bool):
        return None
    if isinstance(label, int):
        return label if 0 <= label < _LARGEST else None
    return label.strip()[:200] or None if isinstance(label, str) else None
