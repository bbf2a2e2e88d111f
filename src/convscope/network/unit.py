"""Unit: a frozen address, the same text in library, shell, URL, file and log."""

from __future__ import annotations

import re
from dataclasses import dataclass

from convscope.errors import ConvscopeError, UnknownName

# Layer names are torch's dotted module paths; "@" and ":" can't occur in an attribute that a module path is made of.
_ADDRESS = re.compile(
    r"(?P<path>[^@:\s]+)(?:@(?P<call>\d{1,6}))?(?::(?P<channel>\d{1,7})(?::(?P<row>\d{1,6}),(?P<column>\d{1,6}))?)?"
)


@dataclass(frozen=True, order=True)
class Unit:
    """``layer[@call]:channel[:row,column]``: a channel of one layer call, or one neuron of it.

    >>> Unit.parse("layer4.1.conv2:37")
    Unit(layer='layer4.1.conv2', channel=37, row=None, column=None)
    >>> str(Unit.parse("layer4.1.relu@1:37:5,6"))
    'layer4.1.relu@1:37:5,6'
    >>> str(Unit.parse("conv1@0:5"))  # the first call is written without its index
    'conv1:5'
    """

    layer: str
    channel: int
    row: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        place = "" if self.row is None else f":{self.row},{self.column}"
        return f"{self.layer}:{self.channel}{place}"

    @property
    def position(self) -> tuple[int, int] | None:
        """(row, column) of one neuron; None for the whole channel."""
        return None if self.row is None or self.column is None else (self.row, self.column)

    @classmethod
    def parse(cls, text: str) -> Unit:
        """Read an address; raises :class:`ConvscopeError` with the grammar when it isn't one."""
        layer, channel, position = split_address(text)
        if channel is None:
            raise ConvscopeError(f"{text!r} names a layer, not a unit", next_step=f"add a channel, like {layer}:0")
        return cls(layer, channel, *(position or (None, None)))


def split_address(text: str) -> tuple[str, int | None, tuple[int, int] | None]:
    """A target's three parts: layer call, channel (or None), position (or None).

    >>> split_address("features.3@2")
    ('features.3@2', None, None)
    """
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise ConvscopeError(
            f"{text[:80]!r} isn't an address",
            next_step="write layer[@call][:channel[:row,column]], like layer4.1.conv2:37",
        )
    layer = call_address(match["path"], int(match["call"] or 0))
    channel = None if match["channel"] is None else int(match["channel"])
    position = None if match["row"] is None else (int(match["row"]), int(match["column"]))
    return layer, channel, position


def channel_numbers(text: str, count: int, layer: str = "") -> list[int]:
    """The channels that a text names, among ``count``; all of them for an empty one.

    >>> channel_numbers("3,7,0-2", 8)
    [3, 7, 0, 1, 2]
    """
    if not text.strip():
        return list(range(count))
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,7})(?:-(\d{1,7}))?\s*", part)
        if match is None:
            raise ConvscopeError(f"{text[:80]!r} doesn't name units", where=layer, next_step="write 0-15 or 3,7,20-25")
        first, last = int(match[1]), int(match[2] or match[1])
        if last >= count or first > last:
            raise UnknownName(f"no units {part.strip()}", where=layer, next_step=f"choose 0 to {count - 1}")
        found += range(first, last + 1)
    return list(dict.fromkeys(found))


def call_address(path: str, call: int) -> str:
    """The address of the ``call``-th call of a module or operation; the first is the bare path."""
    return f"{path}@{call}" if call else path
