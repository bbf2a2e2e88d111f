"""The one family of errors a user meets: each says what, where, and the next step."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


class ConvscopeError(Exception):
    """What went wrong, where, and what to do next.

    Shells, pages and notebooks show the three parts separately; ``str()`` joins them into one paragraph.

    >>> print(ConvscopeError("no such layer 'conv9'", where="resnet18", next_step="list them with `convscope layers`"))
    no such layer 'conv9' (resnet18). Next: list them with `convscope layers`.
    """

    def __init__(self, what: str, *, where: str = "", next_step: str = "") -> None:
        super().__init__(what, where, next_step)
        self.what = what
        self.where = where
        self.next_step = next_step

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        stop = "" if self.next_step.endswith(("?", ".")) else "."
        step = f" Next: {self.next_step}{stop}" if self.next_step else ""
        return f"{self.what}{place}.{step}"

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own would pass the parts by position, so no error could leave the process it was raised in.
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[ConvscopeError], arguments: tuple[str, ...], parts: dict[str, Any]) -> ConvscopeError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(parts)
    return error


class UnknownName(ConvscopeError):
    """A layer, unit, method, image or class that isn't there."""


class Refused(ConvscopeError):
    """Asked for something that has no honest answer here; the reason is the message."""


class BadImage(ConvscopeError):
    """An image that can't be decoded, is too large, or has a shape the network can't take."""


class UnsafeFile(ConvscopeError):
    """A file that could run code or exhaust memory when opened."""


class Cancelled(ConvscopeError):
    """The work was cancelled from outside."""

    def __init__(self, what: str = "cancelled") -> None:
        super().__init__(what)


def suggest(name: str, known: Iterable[str]) -> str:
    """`did you mean …?` for the nearest known names, or an empty string.

    >>> suggest("layer4.1.conv", ["layer4.1.conv1", "layer4.1.conv2", "fc"])
    'did you mean layer4.1.conv2 or layer4.1.conv1?'
    """
    nearest = get_close_matches(name, list(known), n=2, cutoff=0.5)
    return f"did you mean {' or '.join(nearest)}?" if nearest else ""
