"""One process writes a run: a lock that goes with the process, however it ends."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from convscope.errors import ConvscopeError, Refused
from convscope.store import TEMPORARY

if TYPE_CHECKING:
    from pathlib import Path


class WritersLock:
    """The right to write, which the system takes back when the process ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        self._descriptor: int | None = None
        where = folder / TEMPORARY
        try:
            where.mkdir(exist_ok=True)
            self._descriptor = os.open(where / "writer.lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise ConvscopeError(
                f"can't write to the run: {error.strerror}", where=str(folder), next_step="choose another folder"
            ) from error
        try:
            _lock(self._descriptor)
        except OSError as error:
            self.release()
            raise Refused(
                "another process is writing this run",
                where=str(folder),
                next_step="wait for it, or name another folder",
            ) from error

    def release(self) -> None:
        """Give it back; nothing happens the second time."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        self.release()


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


__all__ = ["WritersLock"]
