"""Progress and cancellation, without the worker knowing who watches.

A method calls :func:`report` between images or batches. Whoever started it (a shell, a page, a test) listens by
:func:`watch`. Nobody listening costs one context-variable read.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING

from convscope.errors import Cancelled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True)
class Progress:
    """How far a piece of work is: ``done`` of ``total`` steps, what it does now, and the seconds it will still take."""

    done: int
    total: int
    message: str
    seconds_left: float | None


@dataclass
class Watcher:
    """Who listens to one piece of work, and whether it was told to stop."""

    listener: Callable[[Progress], None]
    cancel: Event = field(default_factory=Event)
    _phase: tuple[str, int] = ("", -1)
    _began: tuple[float, int] = (0.0, 0)
    _last: float = field(default_factory=time.monotonic)

    def seconds_left(self, done: int, total: int, message: str) -> float | None:
        """From the pace since the first report of this message: work that is resumed doesn't begin at 0."""
        now = time.monotonic()
        if self._phase != (message, total) or done < self._began[1]:
            # Whoever reports a first step has worked on it since the report before.
            self._phase, self._began = (message, total), (self._last, 0) if done == 1 else (now, done)
        self._last = now
        started, before = self._began
        return (now - started) / (done - before) * (total - done) if done > before else None


_watcher: ContextVar[Watcher | None] = ContextVar("convscope_watcher", default=None)


@contextmanager
def watch(listener: Callable[[Progress], None], cancel: Event | None = None) -> Iterator[Watcher]:
    """Listen to everything that is reported inside the block; setting ``cancel`` stops it at the next report."""
    watcher = Watcher(listener, cancel or Event())
    token = _watcher.set(watcher)
    try:
        yield watcher
    finally:
        _watcher.reset(token)


def report(done: int, total: int, message: str) -> None:
    """Tell the watcher that ``done`` of ``total`` steps are finished; raises :class:`Cancelled` if told to stop.

    >>> seen = []
    >>> with watch(seen.append):
    ...     report(1, 4, "weight gradients")
    >>> seen[0].done, seen[0].total, seen[0].message
    (1, 4, 'weight gradients')
    """
    watcher = _watcher.get()
    if watcher is None:
        return
    if watcher.cancel.is_set():
        raise Cancelled
    watcher.listener(Progress(done, total, message, watcher.seconds_left(done, total, message)))
