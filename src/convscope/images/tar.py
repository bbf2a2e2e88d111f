"""What lies where in a tar archive, by its headers alone; nothing is ever unpacked.

Python's own tarfile reads as much memory as a header asks for and follows what it finds. This reads the three dialects
there are (ustar, pax, GNU), trusts no number, and says of each member why it isn't read, if it isn't.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convscope.errors import BadImage, ConvscopeError, UnsafeFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

_BLOCK = 512
_LONGEST_NOTE = 1 << 20  # bytes of a header that holds a long name or pax records
_PADDING = 2 * 10_240  # how far behind the end one looks for a second archive: tar pads to records of this size
_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\0": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
    b"\x04\x22\x4d\x18": ("lz4", "unlz4"),
}
_REGULAR, _FOLDER, _SPARSE = (b"0", b"\0", b"7"), b"5", b"S"
_LONG_NAME, _LONG_LINK, _PAX, _PAX_FOR_ALL = b"L", b"K", (b"x", b"X"), b"g"
_NO_FILES = {b"1": "a link", b"2": "a link", b"3": "a device", b"4": "a device", b"6": "a pipe"}
_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive: where its bytes lie, or why they aren't read."""

    name: str
    offset: int
    size: int
    trouble: str = ""


class Damaged(BadImage):
    """An archive can't be read from some place on; what came before is good."""


def members(path: str) -> Iterator[Member]:
    """The files in an archive, in order, without folders.

    Raises :class:`ConvscopeError` for what is no tar archive or a compressed one, and :class:`Damaged` after the last
    good member of one that breaks off.
    """
    # A small buffer: between two headers lies an image, which isn't read.
    with open(path, "rb", buffering=4096) as stream:  # noqa: PTH123 - a path in text, of a million
        size = os.fstat(stream.fileno()).st_size
        _refuse_compressed(stream)
        yield from _Reader(stream, size).members()


def _refuse_compressed(stream: BinaryIO) -> None:
    start = stream.read(_BLOCK)
    for magic, (kind, command) in _COMPRESSED.items():
        if start.startswith(magic):
            raise ConvscopeError(
                f"the archive is compressed ({kind}), so no image in it can be read without all those before it",
                next_step=f"unpack it once with {command}; images are compressed already",
            )
    if len(start) < _BLOCK or (any(start) and not _checksum_fits(start)):
        raise ConvscopeError("damaged, or not a tar archive", next_step="fetch or write it again")


class _Reader:
    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._size = size
        self._place = 0
        self._for_all: dict[str, str] = {}
        self._last = "its first member"

    def members(self) -> Iterator[Member]:
        """Every file, until the end of the archive."""
        notes: dict[str, str] = {}
        announced = False
        while (header := self._header()) is not None:
            kind, size = header[156:157], _number(header[124:136])
            if size is None:
                raise self._damaged("a size that is no number")
            if kind in (_LONG_NAME, _LONG_LINK, _PAX_FOR_ALL, *_PAX):
                self._note(kind, size, notes)
                announced = True
                continue
            found = self._member(header, kind, size, self._for_all | notes)
            notes, announced = {}, False
            if found is not None:
                self._last = found.name
                yield found
        if announced:
            raise self._damaged("it ends within a header")
        self._look_behind_the_end()

    def _header(self) -> bytes | None:
        """The next header; None at the end."""
        if self._place >= self._size:
            return None  # without the two empty blocks that should be there: common, and nothing is missing
        self._stream.seek(self._place)
        header = self._stream.read(_BLOCK)
        if len(header) < _BLOCK:
            raise self._damaged("it ends within a header")
        self._place += _BLOCK
        if not any(header):
            return None
        if not _checksum_fits(header):
            raise self._damaged("a header is damaged")
        return header

    def _note(self, kind: bytes, size: int, notes: dict[str, str]) -> None:
        """A header that says more about the next one."""
        if size > _LONGEST_NOTE:
            raise UnsafeFile(
                f"a header of the archive has {size} bytes; at most {_LONGEST_NOTE} are read",
                where=f"after {self._last}",
                next_step="write it again, e.g. with `tar --format=ustar`",
            )
        content = self._stream.read(size)
        if len(content) < size:
            raise self._damaged("it ends within a header")
        self._place += -(-size // _BLOCK) * _BLOCK
        if kind == _LONG_NAME:
            notes["path"] = _text(content.split(b"\0", 1)[0])
        elif kind != _LONG_LINK:
            (self._for_all if kind == _PAX_FOR_ALL else notes).update(self._records(content))

    def _records(self, content: bytes) -> dict[str, str]:
        """Records in pax's way: ``length key=value`` and a line feed, the length counting all of it."""
        records: dict[str, str] = {}
        place = 0
        while place < len(content) and content[place]:
            digits, _, _ = content[place : place + 12].partition(b" ")
            length = int(digits) if digits.isdigit() else 0
            record = content[place : place + length]
            key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
            if not equals or len(record) != length or record[-1:] != b"\n":
                raise self._damaged("a header is damaged")
            records[_text(key)] = _text(value)
            place += length
        return records

    def _member(self, header: bytes, kind: bytes, size: int, notes: dict[str, str]) -> Member | None:
        name = (notes.get("GNU.sparse.name") or notes.get("path") or _name(header)).removeprefix("./")
        if "size" in notes:
            stated = notes["size"]
            if not (stated.isascii() and stated.isdigit() and len(stated) < 20):
                raise self._damaged("a size that is no number")
            size = int(stated)
        sparse = kind == _SPARSE or any(key.startswith("GNU.sparse.") for key in notes)
        if kind == _SPARSE:
            self._pass_sparse_map(header)
        if kind == _FOLDER or (kind in _REGULAR and name.endswith("/")):
            return None
        offset = self._place
        if kind in _NO_FILES:
            return Member(name, offset, 0, f"{_NO_FILES[kind]} in the archive, not a file")
        self._place += -(-size // _BLOCK) * _BLOCK
        if sparse:
            return Member(name, offset, 0, "stored with holes (sparse), which no image is")
        if kind not in _REGULAR:
            return Member(name, offset, 0, "a kind of member that isn't known")
        if offset + size > self._size:
            return Member(name, offset, 0, "the archive ends within it")
        return Member(name, offset, size, _name_trouble(name))

    def _pass_sparse_map(self, header: bytes) -> None:
        more = header[482]
        while more:
            block = self._stream.read(_BLOCK)
            if len(block) < _BLOCK:
                raise self._damaged("it ends within a header")
            self._place += _BLOCK
            more = block[504]

    def _look_behind_the_end(self) -> None:
        if self._place >= self._size:  # perhaps far behind it, as a damaged size says
            return
        self._stream.seek(self._place)
        behind = self._stream.read(_PADDING)
        for start in range(0, len(behind) - _BLOCK + 1, _BLOCK):
            block = behind[start : start + _BLOCK]
            if any(block):
                raise self._damaged("another archive follows" if _checksum_fits(block) else "something else follows")

    def _damaged(self, what: str) -> Damaged:
        return Damaged(
            f"{what}, after {self._last}: nothing behind that is read", next_step="fetch or write the archive again"
        )


def _checksum_fits(header: bytes) -> bool:
    stated = _number(header[148:156])
    found = sum(header[:148]) + sum(b" " * 8) + sum(header[156:])
    if stated == found:
        return True
    # Some old programs summed signed characters.
    negative = sum(byte > 127 for byte in header[:148] + header[156:])
    return stated is not None and stated == found - 256 * negative


def _number(field: bytes) -> int | None:
    """An octal number, or one in base 256 that octal has no room for; None for anything else."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip()
    if not digits:
        return 0
    return None if digits.strip(b"01234567") else int(digits, 8)


def _name(header: bytes) -> str:
    name = _text(header[:100].split(b"\0", 1)[0])
    prefix = _text(header[345:500].split(b"\0", 1)[0]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _name_trouble(name: str) -> str:
    parts = re.split(r"[/\\]", name)
    if name.startswith(("/", "\\")) or ".." in parts or _DRIVE.match(name):
        return "its name leads out of the archive"
    return "" if name else "it has no name"


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
