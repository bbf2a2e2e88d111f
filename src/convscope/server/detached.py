"""Detached: work that nobody holds a connection for. A browser opens six connections to a server and no more; work of
minutes that each kept one would leave none for the rest of the page.

It ends when its page has gone: a page says which one it is when it begins to listen for events, and again when it asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convscope.errors import ConvscopeError
from convscope.server.jobs import Busy

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

GONE_SECONDS = 5.0
"""A page whose stream of events broke comes back within this time, or not at all."""

MOST_WORKS = 256

_log = logging.getLogger("convscope")


@dataclass(eq=False)
class _Work:
    page: str
    task: asyncio.Task[Any]


class Detached:
    """Runs coroutines that nobody awaits, until their page is gone. All of it belongs to the event loop."""

    def __init__(self, gone_seconds: float = GONE_SECONDS) -> None:
        self._gone_seconds = gone_seconds
        self._works: list[_Work] = []
        self._there: Counter[str] = Counter()
        self._leaving: dict[str, asyncio.TimerHandle] = {}

    def make_room(self) -> None:
        """Raise :class:`Busy` when nothing more is taken: who wants the same shares a job, but each is waited for."""
        if len(self._works) >= MOST_WORKS:
            raise Busy(f"{len(self._works)} requests are waited for already", next_step="wait for some, or cancel them")

    def begin(self, work: Coroutine[Any, Any, Any], page: str = "") -> asyncio.Task[Any]:
        """Run ``work`` to its end, or until the page is gone; "" is nobody's, and runs to its end."""
        begun = _Work(page, asyncio.ensure_future(work))
        self._works.append(begun)
        begun.task.add_done_callback(lambda task: self._ended(begun, task))
        if page and not self._there[page]:
            self._expect(page)
        return begun.task

    @contextmanager
    def listening(self, page: str) -> Iterator[None]:
        """The page listens for events inside the block."""
        self._there[page] += 1
        leaving = self._leaving.pop(page, None)
        if leaving is not None:
            leaving.cancel()
        try:
            yield
        finally:
            self._there[page] -= 1
            if not self._there[page]:
                del self._there[page]
                self._expect(page)

    def cancel_all(self) -> None:
        """Cancel everything."""
        for work in list(self._works):
            work.task.cancel()
        for timer in self._leaving.values():
            timer.cancel()
        self._leaving.clear()

    async def close(self) -> None:
        """:meth:`cancel_all`, and wait for the ends."""
        self.cancel_all()
        for work in list(self._works):
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await work.task

    def _expect(self, page: str) -> None:
        """The page comes back in time, or what it asked for is cancelled."""
        if page in self._leaving or all(work.page != page for work in self._works):
            return
        loop = asyncio.get_running_loop()
        self._leaving[page] = loop.call_later(self._gone_seconds, self._gone, page)

    def _gone(self, page: str) -> None:
        self._leaving.pop(page, None)
        for work in [each for each in self._works if each.page == page]:
            work.task.cancel()

    def _ended(self, work: _Work, task: asyncio.Task[Any]) -> None:
        self._works.remove(work)
        error = None if task.cancelled() else task.exception()
        # What was meant for the user is told to who asks for the job; a bug also belongs in the log.
        if error is not None and not isinstance(error, ConvscopeError):
            _log.error("unexpected error in the server", exc_info=error)


__all__ = ["GONE_SECONDS", "Detached"]
