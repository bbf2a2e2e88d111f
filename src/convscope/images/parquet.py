"""Images in parquet files: a column of encoded bytes, or of bytes and path as Hugging Face's datasets write it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path  # noqa: TC003 - types are checked in tests
from typing import Any

from convscope.errors import BadImage
from convscope.images.origins import Origin


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

    def __reduce__(self) -> tuple[Any, ...]:
        return ParquetFile, (self.path, self.column)


@dataclass(frozen=True, slots=True)
class ParquetOrigin(Origin):
    """A row of a parquet file."""

    file: ParquetFile
    group: int
    row: int

    def encoded(self) -> bytes:
        """The encoded image in that row."""
        return self.file.image(self.group, self.row)
