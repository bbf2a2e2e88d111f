"""Claim: one process at a time mines into a study. Two would each write down sums that lack what the other added."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from convscope.errors import Refused
from convscope.store import TEMPORARY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convscope.store import Store

NAME = "mining.lock"


@contextmanager
def claimed(store: Store) -> Iterator[None]:
    """Hold the study inside the block; raises :class:`Refused` while anyone else does, in this process or another.

    The system lets go of it when the process ends, however it ends. A read-only store needs no claim.

    >>> import tempfile
    >>> from convscope.store import Store
    >>> with tempfile.TemporaryDirectory() as folder, Store.open(folder) as store:
    ...     with claimed(store):
    ...         try:
    ...             claimed(store).__enter__()
    ...         except Refused as refusal:
    ...             print(refusal.what)
    this study is being mined already
    """
    if not store.writable:
        yield
        return
    folder = store.path / TEMPORARY
    folder.mkdir(exist_ok=True)
    descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            _lock(descriptor)
        except OSError as error:
            raise Refused(
                "this study is being mined already",
                where=str(store.path),
                next_step="wait for that to finish, or stop it; what it has finished is kept",
            ) from error
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Lock a file until it is closed; OSError while somebody else has it locked."""
    if sys.platform == "win32":  # pragma: no cover - the tests run elsewhere
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


__all__ = ["claimed"]
