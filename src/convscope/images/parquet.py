"""Images in parquet files: a column of encoded bytes, or of bytes and path as Hugging Face's datasets write it."""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from convscope.errors import BadImage, ConvscopeError
from convscope.images.image_set import Image, ImageSet, printable
from convscope.images.labels import number_labels
from convscope.images.origins import Origin
from convscope.progress import report

if TYPE_CHECKING:
    from collections.abc import Sequence

_COLUMNS = ("image", "img", "bytes")
_LABEL = "label"
_BATCH_BYTES = 32 << 20  # a row group may be the whole file; about so much of it is held at once
_KEPT = 2  # images read by several threads come from two neighboring batches at most


class _Batch(NamedTuple):
    """Rows ``start`` to ``stop`` of a row group."""

    group: int
    start: int
    stop: int
    cells: Any


@dataclass(eq=False)
class ParquetFile:
    """One parquet file; reads forward in batches and keeps the last, because neighbors are read together."""

    path: str
    column: str
    listed: tuple[int, int]  # bytes, modification time in nanoseconds
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _kept: deque[_Batch] = field(default_factory=lambda: deque(maxlen=_KEPT), repr=False)
    _reader: _Reader | None = field(default=None, repr=False)

    def image(self, group: int, row: int) -> bytes:
        """The encoded image in a row of a row group."""
        with self._lock:
            batch = next((each for each in self._kept if each.group == group and each.start <= row < each.stop), None)
            batch = batch or self._read(group, row)
            cell = batch.cells[row - batch.start].as_py()
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(content, bytes):
            raise BadImage("the row holds no image bytes", next_step="store the encoded image in the column")
        return content

    def _read(self, group: int, row: int) -> _Batch:
        if self._reader is None or self._reader.group != group or self._reader.place > row:
            self._close()
            self._reader = _Reader(self, group)
        while True:
            batch = self._reader.next()
            self._kept.append(batch)
            if row < batch.stop:
                return batch

    def _close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader = None

    def __reduce__(self) -> tuple[Any, ...]:
        return ParquetFile, (self.path, self.column, self.listed)


class _Reader:
    """Reads one row group forward. What fails once fails for all the rows that follow, without being tried again."""

    def __init__(self, file: ParquetFile, group: int) -> None:
        import pyarrow.parquet

        self.group = group
        self.place = 0
        self._failure: BadImage | None = None
        self._file: Any = None
        try:
            facts = os.stat(file.path)  # noqa: PTH116 - a path in text
            if (facts.st_size, facts.st_mtime_ns) != file.listed:
                raise BadImage("the file changed since it was opened", next_step="open the images again")
            # Without pre-buffering: it would read all of a row group at once.
            self._file = pyarrow.parquet.ParquetFile(file.path, pre_buffer=False, buffer_size=1 << 20)
            facts = self._file.metadata.row_group(group)
            size = max(1, facts.total_byte_size // max(1, facts.num_rows))
            self._batches = self._file.iter_batches(
                batch_size=max(1, min(facts.num_rows, _BATCH_BYTES // size)),
                row_groups=[group],
                columns=[_leaf(self._file.schema_arrow, file.column)],
            )
        except BadImage as error:
            self._failure = error
        except (pyarrow.ArrowException, OSError) as error:
            self._failure = _unreadable(error)

    def next(self) -> _Batch:
        """The next batch; raises :class:`BadImage` when the file is damaged there."""
        import pyarrow

        if self._failure is None:
            try:
                cells = next(self._batches).column(0)
                batch = _Batch(self.group, self.place, self.place + len(cells), cells)
                self.place = batch.stop
                return batch
            except (pyarrow.ArrowException, OSError, StopIteration) as error:
                self._failure = _unreadable(error)
        raise BadImage(self._failure.what, where=self._failure.where, next_step=self._failure.next_step)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _unreadable(error: Exception) -> BadImage:
    reason = str(error).splitlines()[0][:120].rstrip(".") if str(error) else "it ends too early"
    return BadImage(f"the parquet file is damaged here: {reason}", next_step="fetch or write it again")


def _leaf(schema: Any, column: str) -> str:
    """The column, or its bytes alone where it is a struct of bytes and path."""
    import pyarrow

    kind = schema.field(column).type
    return f"{column}.bytes" if pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else column


@dataclass(frozen=True, slots=True)
class ParquetOrigin(Origin):
    """A row of a parquet file."""

    file: ParquetFile
    group: int
    row: int

    def encoded(self) -> bytes:
        """The encoded image in that row."""
        return self.file.image(self.group, self.row)


class _Table(NamedTuple):
    """What one file says of itself."""

    file: ParquetFile
    rows: list[int]  # in each row group
    labels: list[Any] | None
    classes: tuple[str, ...]


def list_tables(paths: Sequence[tuple[str, str]], source: str) -> ImageSet:
    """The images of parquet files, given as (path, name); unreadable files are skipped and listed, unless all are."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ConvscopeError(
            "reading parquet files needs pyarrow", where=source, next_step="run `pip install 'convscope[parquet]'`"
        ) from error
    origins: list[ParquetOrigin] = []
    names: list[str] = []
    written: list[Any] = []
    classes: tuple[str, ...] = ()
    skipped: list[tuple[str, str]] = []
    for done, (path, name) in enumerate(paths):
        report(done, len(paths), "looking into the parquet files")
        try:
            table = _open(path, printable(name))
        except ConvscopeError as error:
            if len(paths) == 1:
                raise
            skipped.append((printable(name), error.what))
            continue
        if table.classes and classes and table.classes != classes:
            raise ConvscopeError(
                "the parquet files don't name their classes alike", where=printable(name), next_step="open one of them"
            )
        classes = classes or table.classes
        count = sum(table.rows)
        origins += [
            ParquetOrigin(table.file, group, row) for group, rows in enumerate(table.rows) for row in range(rows)
        ]
        names += [f"{printable(name.removesuffix('.parquet'))}/{number}" for number in range(count)]
        written += table.labels or [None] * count
    if not origins:
        where = f"{skipped[0][0]}: {skipped[0][1]}" if skipped else source
        raise ConvscopeError("no image in the parquet files", where=where, next_step="give one with rows")
    labels = number_labels(written, classes)
    images = map(Image, range(len(origins)), names, origins, labels.numbers, labels.names)
    return ImageSet(images, skipped=skipped, classes=labels.classes, source=source)


def _open(path: str, name: str) -> _Table:
    import pyarrow.parquet

    try:
        facts = os.stat(path)  # noqa: PTH116 - a path in text
        with pyarrow.parquet.ParquetFile(path) as opened:
            schema = opened.schema_arrow
            column = _image_column(schema, name)
            labels = opened.read(columns=[_LABEL])[_LABEL].to_pylist() if _LABEL in schema.names else None
            rows = [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]
    except (pyarrow.ArrowException, OSError) as error:
        raise ConvscopeError(
            "damaged, or not a parquet file", where=name, next_step="fetch or write it again"
        ) from error
    file = ParquetFile(os.path.abspath(path), column, (facts.st_size, facts.st_mtime_ns))  # noqa: PTH100 - as text
    return _Table(file, rows, labels, _class_names(schema.metadata))


def _image_column(schema: Any, name: str) -> str:
    known = [each for each in _COLUMNS if each in schema.names]
    if not known:
        raise ConvscopeError(
            f"no column 'image' among {', '.join(schema.names)[:120]}",
            where=name,
            next_step="name the column of encoded images 'image'",
        )
    return known[0]


def _class_names(metadata: Any) -> tuple[str, ...]:
    """The label's class names, where Hugging Face's datasets library wrote them into the file."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[_LABEL]["names"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()
