"""Progress, previews and cancellation, without the worker knowing who watches.

A method calls :func:`report` between images or batches, and where what it has so far can be looked at already,
:func:`preview` beside it. Whoever started it (a shell, a page, a test) listens by :func:`watch`. Nobody listening costs
one context-variable read.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING, Any

from convscope.errors import Cancelled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PREVIEW_SECONDS = 1.0
_PREVIEW_SHARE = 0.1  # of the time, at most, that previews cost the work they are of


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
    previews: Callable[[Any], None] | None = None
    _phase: tuple[str, int] = ("", -1)
    _began: tuple[float, int] = (0.0, 0)
    _last: float = field(default_factory=time.monotonic)
    _next_preview: float = 0.0

    def seconds_left(self, done: int, total: int, message: str) -> float | None:
        """From the pace since the first report of this message: work that is resumed doesn't begin at 0."""
        now = time.monotonic()
        if self._phase != (message, total) or done < self._began[1]:
            # Whoever reports a first step has worked on it since the report before.
            self._phase, self._began = (message, total), (self._last, 0) if done == 1 else (now, done)
        self._last = now
        started, before = self._began
        return (now - started) / (done - before) * (total - done) if done > before else None

    def preview(self, make: Callable[[], object]) -> None:
        """Pass on what ``make`` gives, unless it is too soon after the last time or nobody looks."""
        if self.previews is None or self.cancel.is_set() or (started := time.monotonic()) < self._next_preview:
            return
        self.previews(make())
        now = time.monotonic()
        # Counted from its end, and longer after a dear one: a page that looks on slows the work by little.
        self._next_preview = now + max(PREVIEW_SECONDS, (now - started) * (1 / _PREVIEW_SHARE - 1))


_watcher: ContextVar[Watcher | None] = ContextVar("convscope_watcher", default=None)


@contextmanager
def watch(
    listener: Callable[[Progress], None], cancel: Event | None = None, previews: Callable[[Any], None] | None = None
) -> Iterator[Watcher]:
    """Listen to everything that is reported inside the block; setting ``cancel`` stops it at the next report.

    ``previews`` is given the Views that :func:`preview` makes; without it none are made.
    """
    watcher = Watcher(listener, cancel or Event(), previews)
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


def preview(make: Callable[[], object]) -> None:
    """Show what there is so far: ``make`` gives a View, of the kind and axes that the finished work will have.

    ``make`` is called at most once a second, at once, in this thread, and only where somebody looks; whoever calls this
    at every step of an optimization pays nothing for it. It must leave the work as it is (random numbers, gradients,
    the network's mode), since nobody may get another result for having looked on. An error in it ends the work.

    >>> shown = []
    >>> with watch(print, previews=shown.append):
    ...     for step in range(3):
    ...         preview(lambda: f"the image after step {step}")
    >>> shown
    ['the image after step 0']
    >>> preview(lambda: 1 / 0)  # nobody looks
    """
    watcher = _watcher.get()
    if watcher is not None:
        watcher.preview(make)


__all__ = ["PREVIEW_SECONDS", "Progress", "Watcher", "preview", "report", "watch"]
