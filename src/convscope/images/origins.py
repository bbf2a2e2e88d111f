"""Where an image's bytes come from: a file, memory, an item of a torch Dataset. Origins can be sent to other processes.

They are tuples of plain values with names (a dataclass whose fields are its positional arguments), because a set of a
million of them is sent column by column.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import threading
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image as Pillow

from convscope.errors import BadImage
from convscope.images.decoding import FILES, Limits, check_array, decode, picture_pixels, size_of
from convscope.view import Array  # noqa: TC001 - types are checked in tests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Content(ABC):
    """What reading an image once gave, before it is decoded."""

    @abstractmethod
    def pixels(self, admit: Callable[[int], None] | None = None) -> Array:
        """uint8 or float32 ``[row, column, channel]``; ``admit`` is told how many bytes that takes, and may wait."""

    @abstractmethod
    def fingerprint(self) -> bytes:
        """SHA-256 of the encoded bytes; of the pixels, where there are none."""

    def label(self) -> int | None:
        """The label that was read together with the image."""
        return None


@dataclass(frozen=True)
class Encoded(Content):
    """The encoded image."""

    encoded: bytes
    limits: Limits = FILES

    def pixels(self, admit: Callable[[int], None] | None = None) -> Array:
        """The decoded image."""
        return decode(self.encoded, self.limits, admit=admit)

    def fingerprint(self) -> bytes:
        """SHA-256 of the encoded bytes."""
        return hashlib.sha256(self.encoded).digest()


class Origin(ABC):
    """Where one image comes from; read whenever it is asked for, kept by nobody."""

    __slots__ = ()

    @abstractmethod
    def encoded(self) -> bytes:
        """The encoded image."""

    def read(self) -> Content:
        """Read it, once for the pixels, the fingerprint and the label."""
        return Encoded(self.encoded(), self.limits)

    def check(self) -> None:
        """Decode all of it, at a fraction of its size where the format allows that; raises :class:`BadImage`."""
        decode(self.encoded(), self.limits, at_least=1)

    def size(self) -> tuple[int, int]:
        """(height, width) in pixels, upright."""
        return size_of(self.encoded(), self.limits)

    def encoded_size(self) -> int | None:
        """The number of encoded bytes where it is known without reading them."""
        return None

    @property
    def limits(self) -> Limits:
        """How large the image may be."""
        return FILES


@dataclass(frozen=True, slots=True)
class FileOrigin(Origin):
    """A regular file; not read any more when it changed since it was listed, because its identity would be wrong."""

    folder: str  # absolute: another process has another working directory
    name: str
    listed_bytes: int
    modified: int  # nanoseconds

    @classmethod
    def of(cls, path: Path) -> FileOrigin:
        """The file as it is now; raises :class:`BadImage` for anything but a regular file within the limits."""
        try:
            facts = path.stat()
        except OSError as error:
            raise BadImage(f"can't be read: {error.strerror}", next_step="check the path") from error
        return cls.found(str(path.parent.absolute()), path.name, facts)

    @classmethod
    def found(cls, folder: str, name: str, facts: os.stat_result) -> FileOrigin:
        """The file that was found to be so; raises :class:`BadImage` as :meth:`of` does."""
        if not stat.S_ISREG(facts.st_mode):
            raise BadImage("not a regular file", next_step="give an image file")
        if not facts.st_size:
            raise BadImage("the file is empty", next_step="fetch or save it again")
        FILES.check_bytes(facts.st_size)
        return cls(folder, name, facts.st_size, facts.st_mtime_ns)

    @property
    def path(self) -> Path:
        """The file's path."""
        return Path(self.folder, self.name)

    def encoded(self) -> bytes:
        """The file's bytes."""
        return read_part(os.path.join(self.folder, self.name), (self.listed_bytes, self.modified))  # noqa: PTH118 - fast

    def size(self) -> tuple[int, int]:
        """(height, width) in pixels, upright, from the header; the rest isn't read."""
        path = os.path.join(self.folder, self.name)  # noqa: PTH118 - fast
        with opened(path, (self.listed_bytes, self.modified), buffering=4096) as stream:
            return size_of(stream, self.limits)

    def encoded_size(self) -> int:
        """The file's size when it was listed."""
        return self.listed_bytes


@contextmanager
def opened(path: str, listed: tuple[int, int], *, buffering: int = 0) -> Iterator[BinaryIO]:
    """A regular file, if size and time are still those ``listed``; raises :class:`BadImage` if not, or if it's gone."""
    try:
        # Opened without blocking, so that a pipe that took the file's place can't hang us.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb", buffering=buffering) as stream:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode) or (facts.st_size, facts.st_mtime_ns) != listed:
                raise BadImage("the file changed since it was opened", next_step="open the images again")
            yield stream
    except OSError as error:
        raise BadImage(f"can't be read: {error.strerror}", next_step="open the images again") from error


def read_part(path: str, listed: tuple[int, int], start: int = 0, length: int | None = None) -> bytes:
    """``length`` bytes of a regular file from ``start`` on, or all of it, if size and time are still those ``listed``.

    Raises :class:`BadImage` for a file that is gone, that changed, or that ends before that.
    """
    with opened(path, listed) as stream:
        stream.seek(start)
        missing = listed[0] - start if length is None else length
        parts = []
        while missing and (part := stream.read(missing)):
            parts.append(part)
            missing -= len(part)
    if missing:
        raise BadImage("the file ends too early", next_step="fetch it again, and open the images again")
    return parts[0] if len(parts) == 1 else b"".join(parts)


@dataclass(frozen=True, slots=True)
class BytesOrigin(Origin):
    """Bytes in memory, such as an upload."""

    content: bytes
    allowed: Limits = FILES

    def encoded(self) -> bytes:
        """The bytes."""
        return self.content

    def encoded_size(self) -> int:
        """The number of bytes."""
        return len(self.content)

    @property
    def limits(self) -> Limits:
        """How large the image may be."""
        return self.allowed


@dataclass(eq=False)
class Items:
    """A torch Dataset or sequence. One thread at a time asks it for an item: few of them can stand more."""

    items: Any
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def item(self, index: int) -> Item:
        """An item; whatever the dataset raises becomes a :class:`BadImage`, because it concerns that item only."""
        with self.lock:
            try:
                found = self.items[index]
            except BadImage:
                raise
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"[:160]
                raise BadImage(
                    f"the dataset can't give item {index}: {reason}", next_step="mend the dataset"
                ) from error
        return Item(found, index)

    def __reduce__(self) -> tuple[Any, ...]:
        return Items, (self.items,)


@dataclass(frozen=True)
class Item(Content):
    """An item of a dataset: a Pillow image, array, tensor or encoded bytes, alone or before its label."""

    item: Any
    index: int

    def picture(self) -> Any:
        """The image, as the dataset gives it."""
        item = self.item
        if isinstance(item, dict):
            item = item.get("image", item)
        return item[0] if isinstance(item, (tuple, list)) and item else item

    def label(self) -> int | None:
        """The label in the item, if it is a number."""
        if isinstance(self.item, dict):
            found = self.item.get("label")
        else:
            found = self.item[1] if isinstance(self.item, (tuple, list)) and len(self.item) > 1 else None
        try:
            return None if found is None else int(found)
        except (TypeError, ValueError):
            return None

    def pixels(self, admit: Callable[[int], None] | None = None) -> Array:
        """The item's pixels; a tensor's axes are channel, row, column, an array's row, column, channel."""
        picture = self.picture()
        if isinstance(picture, bytes):
            return decode(picture, FILES, admit=admit)
        if isinstance(picture, Pillow.Image):
            FILES.check_pixels(picture.height, picture.width)
            return picture_pixels(picture)
        if isinstance(picture, np.ndarray):
            return check_array(picture)
        if hasattr(picture, "detach") and hasattr(picture, "ndim"):
            values = picture.detach().cpu().numpy()
            return check_array(values.transpose(1, 2, 0) if values.ndim == 3 else values)
        raise BadImage(
            f"item {self.index} of the dataset is a {type(picture).__name__}",
            next_step="give images as Pillow images, arrays [row, column, channel] or tensors [channel, row, column]",
        )

    def fingerprint(self) -> bytes:
        """SHA-256 of the shape, type and values of the pixels."""
        pixels = self.pixels()
        return hashlib.sha256(f"{pixels.shape} {pixels.dtype.str} ".encode() + pixels.tobytes()).digest()


@dataclass(frozen=True, slots=True)
class ItemOrigin(Origin):
    """An item of a torch Dataset or of a sequence."""

    items: Items
    index: int

    def read(self) -> Item:
        """The item, with its label."""
        return self.items.item(self.index)

    def encoded(self) -> bytes:
        """The pixels as PNG, or as NPY where they aren't a picture's."""
        pixels = self.read().pixels()
        buffer = io.BytesIO()
        if pixels.dtype == np.uint8 and pixels.shape[2] in (3, 4):
            Pillow.fromarray(pixels).save(buffer, "PNG", compress_level=1)
        else:
            np.save(buffer, pixels, allow_pickle=False)
        return buffer.getvalue()

    def check(self) -> None:
        """Make its pixels."""
        self.read().pixels()

    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        shape = self.read().pixels().shape
        return shape[0], shape[1]
