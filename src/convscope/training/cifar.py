"""Reading CIFAR-10's own files: the binary version, and the Python version without ever unpickling it.

torchvision downloads only the Python version, whose files are pickles. Unpickling calls what the file names, so a
stranger's batch could run anything. A batch is a dict with a list of labels and one numpy array; the dozen opcodes
that such a pickle is made of are interpreted here by hand. They build lists, dicts and texts; nothing is imported and
nothing is called, and any other opcode or name is refused.
"""

from __future__ import annotations

import io
import pickletools
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - types are checked in tests
from typing import Any

import numpy as np

from convscope.errors import ConvscopeError, UnsafeFile
from convscope.view import Array  # noqa: TC001 - types are checked in tests

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_TRAIN = [f"data_batch_{number}" for number in range(1, 6)]
_HELD_OUT = ["test_batch"]
_PIXELS = 3 * 32 * 32
_LARGEST_FILE = 64 * 2**20


def find_batches(folder: Path) -> Path | None:
    """The folder with CIFAR-10's batches: this one or one in it, binary or Python version; None if there is none."""
    for each in (folder, folder / "cifar-10-batches-bin", folder / "cifar-10-batches-py"):
        if any((each / f"{_TRAIN[0]}{ending}").is_file() for ending in (".bin", "")):
            return each
    return None


def read_batches(folder: Path) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """(images, labels) of training and test: uint8 ``[image, channel, row, column]`` and int64 ``[image]``."""
    binary = (folder / f"{_TRAIN[0]}.bin").is_file()
    parts = []
    for names in (_TRAIN, _HELD_OUT):
        batches = [_read(folder / (f"{name}.bin" if binary else name), binary=binary) for name in names]
        parts.append((np.concatenate([each[0] for each in batches]), np.concatenate([each[1] for each in batches])))
    return parts[0], parts[1]


def _read(path: Path, *, binary: bool) -> tuple[Array, Array]:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise UnsafeFile("too large for a batch of CIFAR-10", where=path.name, next_step="fetch it again")
        content = path.read_bytes()
    except OSError as error:
        raise ConvscopeError(f"can't be read: {error.strerror}", where=path.name, next_step="fetch it again") from error
    images, labels = read_binary(content, path.name) if binary else read_pickled(content, path.name)
    if not len(labels) or labels.min() < 0 or labels.max() >= len(CLASSES):
        raise ConvscopeError("a label isn't one of ten classes", where=path.name, next_step="fetch it again")
    return images.reshape(-1, 3, 32, 32), labels


def read_binary(content: bytes, name: str) -> tuple[Array, Array]:
    """Pixels ``[image, 3072]`` and labels of a batch of the binary version: a byte of label, then the pixels."""
    if not content or len(content) % (_PIXELS + 1):
        raise ConvscopeError("not a binary batch of CIFAR-10", where=name, next_step="fetch it again")
    rows = np.frombuffer(content, np.uint8).reshape(-1, _PIXELS + 1)
    return rows[:, 1:], rows[:, 0].astype(np.int64)


def read_pickled(content: bytes, name: str) -> tuple[Array, Array]:
    """Pixels and labels of a batch of the Python version; raises :class:`UnsafeFile` for any other pickle."""
    try:
        found = _Reader(content).value()
        batch = {_text(key): value for key, value in found.items()}
        images, labels = batch["data"].array(), np.array(batch["labels"], np.int64)
    except UnsafeFile as error:
        raise UnsafeFile(error.what, where=name, next_step=error.next_step) from error
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise ConvscopeError("not a batch of CIFAR-10", where=name, next_step="fetch it again") from error
    if images.shape != (len(labels), _PIXELS) or labels.ndim != 1:
        raise ConvscopeError("not as many labels as images", where=name, next_step="fetch it again")
    return images, labels


@dataclass(frozen=True)
class _Name:
    """A name that a numpy array's pickle mentions. It stands for itself and is never looked up."""

    text: str


@dataclass
class _Made:
    """What the pickle says about an object: which name made it, of what, and its state."""

    maker: str
    arguments: tuple[Any, ...]
    state: Any = None

    def array(self) -> Array:
        """The array of bytes that this describes."""
        _, shape, kind, fortran, content = self.state
        plain = kind.maker == "dtype" and _text(kind.arguments[0]) in ("u1", "|u1", "uint8")
        if self.maker != "_reconstruct" or not plain or fortran or len(shape) != 2:
            raise ValueError("not a plain array of bytes")
        data = content.encode("latin-1") if isinstance(content, str) else content
        return np.frombuffer(data, np.uint8).reshape(shape)


_NAMES = {
    "numpy.core.multiarray _reconstruct": "_reconstruct",
    "numpy._core.multiarray _reconstruct": "_reconstruct",
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = frozenset(
    "BINSTRING SHORT_BINSTRING BINUNICODE SHORT_BINUNICODE BINBYTES SHORT_BINBYTES BININT BININT1 BININT2".split()
)
_MARK = object()


class _Reader:
    """A stack, a memo, and the opcodes of a dict of lists, texts, numbers and one array."""

    def __init__(self, content: bytes) -> None:
        self._operations = pickletools.genops(io.BytesIO(content))
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def value(self) -> dict[Any, Any]:
        """What the pickle holds."""
        for operation, argument, _ in self._operations:
            if operation.name == "STOP":
                break
            self._do(operation.name, argument)
        (result,) = self._stack
        if not isinstance(result, dict):
            raise TypeError("a batch is a dict")
        return result

    def _do(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in ("PROTO", "FRAME"):
            return
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
            stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3", "TUPLE"):
            items = self._to_mark() if name == "TUPLE" else [stack.pop() for _ in range(int(name[-1]))][::-1]
            stack.append(tuple(items))
        else:
            self._build(name, argument)

    def _build(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name == "GLOBAL":
            if argument not in _NAMES:
                raise UnsafeFile(
                    f"the file names {str(argument)[:60]!r}, which a batch of CIFAR-10 has no use for",
                    next_step="don't open it elsewhere either; fetch CIFAR-10's binary version",
                )
            stack.append(_Name(_NAMES[argument]))
        elif name == "REDUCE":
            arguments, maker = stack.pop(), stack.pop()
            if not (isinstance(maker, _Name) and isinstance(arguments, tuple)):
                raise TypeError("only an array is made of something")
            stack.append(_Made(maker.text, arguments))
        elif name == "BUILD":
            state = stack.pop()
            stack[-1].state = state
        elif name in ("APPENDS", "APPEND"):
            items = self._to_mark() if name == "APPENDS" else [stack.pop()]
            stack[-1].extend(items)
        elif name in ("SETITEMS", "SETITEM"):
            items = self._to_mark() if name == "SETITEMS" else [stack.pop() for _ in range(2)][::-1]
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        else:
            raise UnsafeFile(
                f"the file does {name}, which a batch of CIFAR-10 has no use for",
                next_step="fetch CIFAR-10's binary version",
            )

    def _to_mark(self) -> list[Any]:
        where = len(self._stack) - 1 - self._stack[::-1].index(_MARK)
        items = self._stack[where + 1 :]
        del self._stack[where:]
        return items


def _text(value: Any) -> str:
    return value.decode("ascii") if isinstance(value, bytes) else str(value)


__all__ = ["CLASSES", "find_batches", "read_batches", "read_binary", "read_pickled"]
