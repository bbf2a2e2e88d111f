"""Reading IDX files, plain or gzipped: the format of MNIST, Fashion-MNIST and their kin."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path  # noqa: TC003 - types are checked in tests
from typing import Any

import numpy as np

from convscope.errors import ConvscopeError, UnsafeFile
from convscope.view import Array  # noqa: TC001 - types are checked in tests

_UNSIGNED_BYTE = 0x08
_LARGEST = 2**31


def read_idx(path: Path) -> Array:
    """The uint8 array in an IDX file; ``.gz`` is opened while reading, never more of it than the header promises.

    Raises :class:`ConvscopeError` for any other type of number, or a file that is too short or too long.
    """
    try:
        opened = gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # noqa: SIM115 - closed below
        with opened:
            return _read(opened, path.name)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise ConvscopeError(f"can't be read: {error}", where=path.name, next_step="fetch the file again") from error


def _read(stream: Any, name: str) -> Array:
    zero, kind, dimensions = struct.unpack(">HBB", stream.read(4))
    if zero != 0 or kind != _UNSIGNED_BYTE or not 1 <= dimensions <= 4:
        raise ConvscopeError("not an IDX file of bytes", where=name, next_step="give the files of MNIST or its kin")
    shape = struct.unpack(f">{dimensions}I", stream.read(4 * dimensions))
    size = 1
    for each in shape:
        size *= each
    if size > _LARGEST:
        raise UnsafeFile(f"the file promises {size:,} bytes", where=name, next_step="fetch the file again")
    content = stream.read(size + 1)
    if len(content) != size:
        more = "more" if len(content) > size else "less"
        raise ConvscopeError(
            f"there is {more} in the file than its header says", where=name, next_step="fetch it again"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


__all__ = ["read_idx"]
