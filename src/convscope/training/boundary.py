"""Boundary: what other threads ask of the one that trains is done by it between two steps.

So whatever touches the network does so in one thread at a time. Whoever asks while a step is being taken waits for its
end: a few milliseconds for a small network.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Result = TypeVar("Result")


class Boundary:
    """Where the thread that trains and those that ask meet.

    >>> boundary = Boundary()
    >>> boundary.run(lambda: "done at once, where nobody trains")
    'done at once, where nobody trains'
    """

    def __init__(self) -> None:
        self._owner = threading.RLock()  # who holds it may touch the network
        self._inbox: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._mutex = threading.Lock()  # the inbox, and whether somebody will empty it
        self._looping = False
        self._running_in: threading.Thread | None = None

    def run(self, work: Callable[[], Result]) -> Result:
        """Have something done between two steps, by the thread that trains, or at once when none does."""
        with self._mutex:
            busy = self._looping and threading.current_thread() is not self._running_in
            if busy:
                future: Future[Result] = Future()
                self._inbox.append((work, future))
        if busy:
            return future.result()
        with self._owner:
            return work()

    @contextmanager
    def still(self) -> Iterator[None]:
        """Training is held between two steps for as long as the block lasts."""
        entered, leave = threading.Event(), threading.Event()
        with self._mutex:
            busy = self._looping and threading.current_thread() is not self._running_in
            if busy:
                self._inbox.append((lambda: _stand_still(entered, leave), Future()))
        if not busy:
            with self._owner:
                yield
            return
        entered.wait()
        try:
            yield
        finally:
            leave.set()

    def answer(self) -> None:
        """Do what was asked for since the last step."""
        while self._inbox:
            with self._mutex:
                work, future = self._inbox.popleft()
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

    @contextmanager
    def loop(self) -> Iterator[None]:
        """The thread at hand trains inside the block, and calls :meth:`answer` between two steps."""
        with self._owner:
            with self._mutex:
                self._looping, self._running_in = True, threading.current_thread()
            try:
                yield
            finally:
                with self._mutex:
                    self._looping = False
                self.answer()  # what came in before that

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody trains, nor asks for anything, inside the block."""
        with self._owner:
            yield


def _stand_still(entered: threading.Event, leave: threading.Event) -> None:
    entered.set()
    leave.wait()


__all__ = ["Boundary"]
