"""Store: Views on disk, found again by their recipe. The only file of convscope that writes results.

A folder with a SQLite index and content-addressed safetensors files; docs/reference/store-format.md is the contract.
A View's file is complete and on the disk before the index names it, and readers believe only the index, so a process
that dies at any moment leaves a store that opens and never gives a wrong answer.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import sqlite3
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

from convscope.errors import ConvscopeError
from convscope.view import Recipe, View, canonical_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FORMAT = 1
APPLICATION_ID = 0x43565343  # "CVSC": tells a store's index from any other SQLite file
INDEX = "index.sqlite"
OBJECTS = "objects"
TEMPORARY = "temporary"
_LEFT_BY_A_CRASH_SECONDS = 3600.0
# Besides what a store has itself: what a study is of, training runs in it, and of a run what it goes on from.
_OWN = {OBJECTS, TEMPORARY, INDEX, f"{INDEX}-journal"}
_MAY_LIE_BESIDE = _OWN | {"study.json", "runs", "snapshot.safetensors", ".DS_Store"}

_SCHEMA = (
    """CREATE TABLE views (
        key TEXT PRIMARY KEY,
        blob TEXT NOT NULL,
        size INTEGER NOT NULL,
        kind TEXT NOT NULL,
        method TEXT NOT NULL,
        target TEXT NOT NULL,
        network TEXT NOT NULL,
        recipe TEXT NOT NULL,
        created TEXT NOT NULL
    )""",
    "CREATE INDEX views_by_network ON views (network, method, target)",
    "CREATE INDEX views_by_blob ON views (blob)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT}",
)

_log = logging.getLogger("convscope")


@dataclass(frozen=True)
class Entry:
    """One stored View, as the index knows it: its key, its file (SHA-256 and bytes), and what it is of."""

    key: str
    blob: str
    size: int
    kind: str
    method: str
    target: str
    network: str
    recipe: Recipe
    created: str


class Store:
    """Views by the SHA-256 of their recipe. Any number of threads may use one Store.

    >>> import tempfile, numpy as np
    >>> recipe = Recipe("activations", parameters={})
    >>> view = View("maps", {"map": np.zeros((1, 2, 2))}, {"map": ("unit", "row", "column")}, recipe=recipe)
    >>> with tempfile.TemporaryDirectory() as folder, Store.open(folder) as store:
    ...     key = store.put(view)
    ...     store.get(key) == view.to_bytes(), len(store.query(method="activations"))
    (True, 1)
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, *, writable: bool) -> None:
        self.path = path
        self.writable = writable
        self._connection = connection
        self._lock = RLock()  # the connection
        self._writing = RLock()  # files and index together; readers needn't wait while large files are written

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Store:
        """Open the store in this folder; a folder that is empty or doesn't exist becomes a new store.

        A folder that can't be written to is opened for reading. Raises :class:`ConvscopeError` when the path is a file,
        a folder with other things in it, or a store of a newer format.
        """
        folder = Path(path)
        with _explained(folder, "open the store"):
            _check_folder(folder)
            index = folder / INDEX
            writable = _may_write(folder) and (not index.exists() or _may_write(index))
            if not writable and not index.exists():
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            connection = sqlite3.connect(
                f"{index.absolute().as_uri()}?mode={'rwc' if writable else 'ro'}",
                uri=True,
                timeout=30.0,
                isolation_level=None,
                check_same_thread=False,
            )
            store = cls(folder, connection, writable=writable)
            try:
                store._prepare()
            except BaseException:
                connection.close()
                raise
            return store

    def _prepare(self) -> None:
        if self.writable:
            # A rollback journal always, never a write-ahead log: SQLite before 3.51.3 can corrupt a database when a
            # write-ahead log is reset, and one writer gains nothing from it.
            self._connection.execute("PRAGMA journal_mode = DELETE")
            self._connection.execute("PRAGMA synchronous = FULL")
        if self._is_new():
            if self.writable:
                self._create()
        else:
            self._check_format()
        if self.writable:
            self._remove_leftovers()

    def _is_new(self) -> bool:
        (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return int(tables) == 0

    def _check_format(self) -> None:
        (application,) = self._connection.execute("PRAGMA application_id").fetchone()
        if application != APPLICATION_ID:
            raise ConvscopeError(
                f"{INDEX} is a SQLite file of another program", where=str(self.path), next_step="choose another folder"
            )
        (found,) = self._connection.execute("PRAGMA user_version").fetchone()
        if found > FORMAT:
            raise ConvscopeError(
                f"a store of format {found}; this convscope reads format {FORMAT}",
                where=str(self.path),
                next_step="upgrade convscope",
            )

    def _create(self) -> None:
        with self._transaction():
            if not self._is_new():  # another process was faster
                return
            for statement in _SCHEMA:
                self._connection.execute(statement)
            for blob_path in sorted((self.path / OBJECTS).glob("??/*.safetensors"), key=lambda p: p.stat().st_mtime):
                self._index_again(blob_path)

    def _index_again(self, blob_path: Path) -> None:
        # The index was deleted or damaged: every file says itself what it is.
        blob = blob_path.read_bytes()
        if hashlib.sha256(blob).hexdigest() != blob_path.stem:
            _log.warning("left out the damaged file %s", blob_path)
            return
        with suppress(ConvscopeError):
            view = View.from_bytes(blob)
            if view.recipe is not None:
                self._insert(view, view.recipe, blob_path.stem, len(blob))

    def _remove_leftovers(self) -> None:
        # Another process may be writing at this moment, so only what is old goes.
        for leftover in (self.path / TEMPORARY).glob("*.tmp"):
            with suppress(OSError):
                if time.time() - leftover.stat().st_mtime > _LEFT_BY_A_CRASH_SECONDS:
                    leftover.unlink()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}{'' if self.writable else ', read-only'})"

    def __len__(self) -> int:
        with self._lock, _explained(self.path, "count the views"):
            if self._is_new():
                return 0
            (count,) = self._connection.execute("SELECT count(*) FROM views").fetchone()
        return int(count)

    def close(self) -> None:
        """Close the index. The store can be opened again."""
        with self._lock:
            self._connection.close()

    def get(self, key: str | Recipe) -> bytes | None:
        """The View's bytes exactly as they were put, or None when it isn't here.

        A file whose size or SHA-256 isn't what the index says counts as not here (a warning says so): compute it again.
        """
        text = key.key if isinstance(key, Recipe) else key
        found = self._found(text)
        while found is not None:
            digest, size = found
            path = self._blob_path(digest)
            try:
                blob = path.read_bytes()
            except OSError as error:
                # Another process may have replaced the View since the index was read: it then names another file.
                again = self._found(text) if isinstance(error, FileNotFoundError) else None
                if again is None or again[0] == digest:
                    _log.warning(
                        "the stored view %s can't be read (%s); it will be computed again", path, error.strerror
                    )
                    return None
                found = again
                continue
            if len(blob) != size or hashlib.sha256(blob).hexdigest() != digest:
                _log.warning("the stored view %s is damaged; it will be computed again", path)
                return None
            return blob
        return None

    def _found(self, key: str) -> tuple[str, int] | None:
        with self._lock, _explained(self.path, "read the index"):
            if self._is_new():
                return None
            row = self._connection.execute("SELECT blob, size FROM views WHERE key = ?", (key,)).fetchone()
        return (str(row[0]), int(row[1])) if row else None

    def put(self, view: View) -> str:
        """Keep a View and return its key; one with the same key is replaced.

        Raises :class:`ConvscopeError` when the View has no recipe, the store is read-only, or the disk is full; then
        nothing that was stored before is lost.
        """
        return self.replace([view])[0]

    def replace(self, views: Iterable[View], forget: Iterable[str] = ()) -> list[str]:
        """Keep many Views and drop those of the keys to ``forget``, all or nothing; the keys of the Views, in order.

        Files that no View needs any more are removed afterwards, so that something rewritten a thousand times takes no
        more room than once. Raises as :meth:`put` does.
        """
        if not self.writable:
            raise ConvscopeError("this store is read-only", where=str(self.path), next_step="choose another folder")
        keys: list[str] = []
        rows: list[tuple[object, ...]] = []
        with self._writing, _explained(self.path, "store a view"):
            for view, recipe in [(view, _recipe_of(view)) for view in views]:
                blob = view.to_bytes()
                digest = hashlib.sha256(blob).hexdigest()
                self._write_blob(digest, blob)
                rows.append(_row(view, recipe, digest, len(blob)))
                keys.append(recipe.key)
            dropped = [*keys, *forget]
            with self._lock, self._transaction():
                replaced = {each for key in dropped for each in self._blobs_of(key)}
                self._connection.executemany("DELETE FROM views WHERE key = ?", [(key,) for key in dropped])
                self._connection.executemany(_INSERT, rows)
            self._remove_blobs(replaced)
        return keys

    def forget(self, keys: Iterable[str]) -> None:
        """Drop the Views of these keys; a key that isn't here is dropped already."""
        self.replace([], forget=keys)

    def _blobs_of(self, key: str) -> list[str]:
        return [row[0] for row in self._connection.execute("SELECT blob FROM views WHERE key = ?", (key,))]

    def _remove_blobs(self, digests: Iterable[str]) -> None:
        # After the commit: a process that dies in between leaves a file too many, never one too few.
        for digest in digests:
            with self._lock:
                used = self._connection.execute("SELECT 1 FROM views WHERE blob = ? LIMIT 1", (digest,)).fetchone()
            if not used:
                with suppress(OSError):
                    self._blob_path(digest).unlink()

    def query(
        self,
        *,
        method: str | None = None,
        target: str | None = None,
        network: str | None = None,
        kind: str | None = None,
        limit: int = -1,
    ) -> list[Entry]:
        """What is stored, oldest first; each argument that is given must match exactly. ``limit`` -1 means all."""
        with self._lock, _explained(self.path, "read the index"):
            if self._is_new():
                return []
            rows = self._connection.execute(
                """SELECT key, blob, size, kind, method, target, network, recipe, created FROM views
                WHERE (:method IS NULL OR method = :method) AND (:target IS NULL OR target = :target)
                AND (:network IS NULL OR network = :network) AND (:kind IS NULL OR kind = :kind)
                ORDER BY rowid LIMIT :limit""",
                {"method": method, "target": target, "network": network, "kind": kind, "limit": limit},
            ).fetchall()
        return [
            Entry(key, blob, size, kind, method, target, network, Recipe.from_json(json.loads(recipe)), created)
            for key, blob, size, kind, method, target, network, recipe, created in rows
        ]

    def _blob_path(self, digest: str) -> Path:
        return self.path / OBJECTS / digest[:2] / f"{digest}.safetensors"

    def _write_blob(self, digest: str, blob: bytes) -> None:
        final = self._blob_path(digest)
        for folder in (self.path / TEMPORARY, final.parent.parent, final.parent):
            if not folder.is_dir():
                folder.mkdir(exist_ok=True)
                _sync_folder(folder.parent)
        if not _holds(final, digest):
            temporary = self.path / TEMPORARY / f"{digest}.{uuid.uuid4().hex}.tmp"
            try:
                _write_through(temporary, blob)
                os.replace(temporary, final)  # noqa: PTH105 - the tests make this very call fail
            except BaseException:
                with suppress(OSError):
                    temporary.unlink()
                raise
        _sync_folder(final.parent)

    def _insert(self, view: View, recipe: Recipe, digest: str, size: int) -> None:
        self._connection.execute(_INSERT, _row(view, recipe, digest, size))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            # SQLite rolls back by itself after some errors; rolling back twice would hide the first one.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


_INSERT = (
    "INSERT OR REPLACE INTO views (key, blob, size, kind, method, target, network, recipe, created) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def _recipe_of(view: View) -> Recipe:
    if view.recipe is None:
        raise ConvscopeError(
            f"this {view.kind} view has no recipe, so it has no key", next_step="store what network.view(…) returned"
        )
    return view.recipe


def _row(view: View, recipe: Recipe, digest: str, size: int) -> tuple[object, ...]:
    created = datetime.now(UTC).isoformat(timespec="milliseconds")
    text = canonical_json(recipe.to_json())
    return (recipe.key, digest, size, view.kind, recipe.method, recipe.target, recipe.network, text, created)


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConvscopeError("a store is a folder, and this is a file", where=str(folder), next_step="name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / INDEX).exists():
        strangers = sorted({entry.name for entry in folder.iterdir()} - _MAY_LIE_BESIDE)
        if strangers:
            raise ConvscopeError(
                f"this folder isn't a store and has other things in it, like {strangers[0]!r}",
                where=str(folder),
                next_step="name an empty or a new folder",
            )


def _may_write(path: Path) -> bool:
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def _holds(path: Path, digest: str) -> bool:
    # A damaged file may lie there; then the View is written once more over it.
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == digest
    except OSError:
        return False


def _write_through(path: Path, blob: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o644)
    try:
        rest = memoryview(blob)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    # A new name is on the disk only when its folder is. Windows has no such call for folders.
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_WRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM}


@contextmanager
def _explained(path: Path, doing: str) -> Iterator[None]:
    """Turn what the operating system and SQLite say into one sentence and a next step."""
    try:
        yield
    except OSError as error:
        raise _error(path, doing, error, error.errno in _NO_SPACE, error.errno in _NOT_WRITABLE) from error
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
            raise ConvscopeError(
                f"can't {doing}: {INDEX} is damaged",
                where=str(path),
                next_step=f"delete {INDEX} and open the store again; it is rebuilt from the files in {OBJECTS}",
            ) from error
        not_writable = name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM"))
        raise _error(path, doing, error, name == "SQLITE_FULL", not_writable) from error


def _error(path: Path, doing: str, error: Any, full: bool, not_writable: bool) -> ConvscopeError:
    if full:
        step = "free some space; nothing that was stored is lost"
        return ConvscopeError(f"can't {doing}: the disk is full", where=str(path), next_step=step)
    if not_writable:
        step = "choose another folder, or change who may write here"
        return ConvscopeError(f"can't {doing}: the folder can't be written to", where=str(path), next_step=step)
    reason = getattr(error, "strerror", None) or str(error)
    return ConvscopeError(f"can't {doing}: {reason}", where=str(path), next_step="try again, or choose another folder")


__all__ = ["Entry", "Store"]
