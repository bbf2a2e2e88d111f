"""Where an image's bytes come from: a file, memory, a row of a parquet file, an item of a torch Dataset."""

from __future__ import annotations

import io
import os
import stat
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path  # noqa: TC003 - types are checked in tests
from typing import Any

import numpy as np
from PIL import Image as Pillow

from convscope.errors import BadImage
from convscope.images.decoding import FILES, Limits, check_array, decode, picture_pixels, size_of
from convscope.view import Array  # noqa: TC001 - types are checked in tests


class Origin(ABC):
    """Where one image comes from; read whenever it is asked for, kept by nobody."""

    @abstractmethod
    def encoded(self) -> bytes:
        """The encoded image."""

    def pixels(self) -> Array:
        """uint8 or float32 ``[row, column, channel]``."""
        return decode(self.encoded(), self.limits)

    def check(self) -> None:
        """Decode all of it, at a fraction of its size where the format allows that; raises :class:`BadImage`."""
        decode(self.encoded(), self.limits, at_least=1)

    def size(self) -> tuple[int, int]:
        """(height, width) in pixels, upright."""
        return size_of(self.encoded(), self.limits)

    def identity(self) -> bytes:
        """The bytes that the image's fingerprint is taken of."""
        return self.encoded()

    def encoded_size(self) -> int | None:
        """The number of encoded bytes where it is known without reading them."""
        return None

    @property
    def limits(self) -> Limits:
        """How large the image may be."""
        return FILES


@dataclass(frozen=True)
class FileOrigin(Origin):
    """A regular file; not read any more when it changed since it was listed, because its identity would be wrong."""

    path: Path
    listed: tuple[int, int]  # bytes, modification time in nanoseconds

    @classmethod
    def of(cls, path: Path) -> FileOrigin:
        """The file as it is now; raises :class:`BadImage` for anything but a regular file within the limits."""
        try:
            facts = path.stat()
        except OSError as error:
            raise BadImage(f"can't be read: {error.strerror}", next_step="check the path") from error
        if not stat.S_ISREG(facts.st_mode):
            raise BadImage("not a regular file", next_step="give an image file")
        FILES.check_bytes(facts.st_size)
        return cls(path, (facts.st_size, facts.st_mtime_ns))

    def encoded(self) -> bytes:
        """The file's bytes."""
        try:
            # Opened without blocking, so that a pipe that took the file's place can't hang us.
            descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
            with os.fdopen(descriptor, "rb") as stream:
                facts = os.fstat(stream.fileno())
                if not stat.S_ISREG(facts.st_mode) or (facts.st_size, facts.st_mtime_ns) != self.listed:
                    raise BadImage("the file changed since it was opened", next_step="open the images again")
                return stream.read(self.limits.encoded_bytes + 1)
        except OSError as error:
            raise BadImage(f"can't be read: {error.strerror}", next_step="open the images again") from error

    def encoded_size(self) -> int:
        """The file's size when it was listed."""
        return self.listed[0]


@dataclass(frozen=True)
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
class ParquetFile:
    """One parquet file; keeps the row group that was read last, because neighbors are read together."""

    path: Path
    column: str
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _kept: tuple[int, list[Any]] = (-1, [])

    def image(self, group: int, row: int) -> bytes:
        """The encoded image in a row of a row group."""
        import pyarrow
        import pyarrow.parquet

        with self._lock:
            if self._kept[0] != group:
                try:
                    with pyarrow.parquet.ParquetFile(self.path) as file:
                        self._kept = (group, file.read_row_group(group, columns=[self.column])[self.column].to_pylist())
                except (pyarrow.ArrowException, OSError) as error:
                    raise BadImage("the parquet file can't be read", where=self.path.name) from error
            found = self._kept[1][row]
        content = found.get("bytes") if isinstance(found, dict) else found
        if not isinstance(content, bytes):
            raise BadImage("the row holds no image bytes", next_step="store the encoded image in the column")
        return content


@dataclass(frozen=True)
class ParquetOrigin(Origin):
    """A row of a parquet file."""

    file: ParquetFile
    group: int
    row: int

    def encoded(self) -> bytes:
        """The encoded image in that row."""
        return self.file.image(self.group, self.row)


@dataclass(frozen=True)
class ItemOrigin(Origin):
    """An item of a torch Dataset, or of a sequence: a Pillow image, array or tensor, alone or before its label."""

    items: Any
    index: int

    def picture(self) -> Any:
        """The item's image as the dataset gives it."""
        item = self.items[self.index]
        if isinstance(item, dict):
            item = item.get("image", item)
        return item[0] if isinstance(item, (tuple, list)) and item else item

    def pixels(self) -> Array:
        """The item's pixels; a tensor's axes are channel, row, column, an array's row, column, channel."""
        picture = self.picture()
        if isinstance(picture, bytes):
            return decode(picture, self.limits)
        if isinstance(picture, Pillow.Image):
            self.limits.check_pixels(picture.height, picture.width)
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

    def encoded(self) -> bytes:
        """The pixels as PNG, or as NPY where they aren't a picture's."""
        pixels = self.pixels()
        buffer = io.BytesIO()
        if pixels.dtype == np.uint8 and pixels.shape[2] in (3, 4):
            Pillow.fromarray(pixels).save(buffer, "PNG", compress_level=1)
        else:
            np.save(buffer, pixels, allow_pickle=False)
        return buffer.getvalue()

    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        shape = self.pixels().shape
        return shape[0], shape[1]

    def identity(self) -> bytes:
        """Shape, type and values of the pixels."""
        pixels = self.pixels()
        return f"{pixels.shape} {pixels.dtype.str} ".encode() + pixels.tobytes()
