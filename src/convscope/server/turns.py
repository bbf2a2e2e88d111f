"""Turns: whose turn it is to have the network. Hooks on a module fire whichever thread runs it, so one thread may.

There are three kinds of work. A *view* is what somebody waits for: it goes before all else. *Long* work (images that
are optimized, maps of hundreds of forward passes) and *mining* (hours) are done in threads of their own, which at each
of their reports of progress let whatever goes before them go first. Within a kind, lines take turns: of several methods
asked for at once by several pages, none waits for all of another's. Work of one line is done in the order it came.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from enum import IntEnum

from convscope.errors import Cancelled

MOST_LONG_AT_ONCE = 3
"""Long work that has begun and isn't finished: each holds its images and gradients in memory."""
SLICE_SECONDS = 2.0
_MOST_LINES = 256


class Kind(IntEnum):
    """What kind of work it is; the smaller goes first."""

    VIEW = 0
    LONG = 1
    MINING = 2


@dataclass(eq=False)
class Turn:
    """One piece of work's place in line."""

    kind: Kind = Kind.VIEW
    line: str = ""
    cancel: threading.Event = field(default_factory=threading.Event)
    begun: bool = False
    since: float = 0.0


class Turns:
    """Gives the network to one thread at a time. Safe for threads.

    >>> turns = Turns()
    >>> mining, view = Turn(Kind.MINING), Turn()
    >>> for turn in (mining, view):
    ...     turns.ask(turn)
    >>> turns.next_view() is view
    True
    >>> turns.give_back(view)
    >>> turns.take(mining)
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[Turn] = []
        self._holder: Turn | None = None
        self._begun: list[Turn] = []  # long work under way, whether it has the network or waits for it
        self._served: dict[str, int] = {}  # when each line had its last turn
        self._count = 0
        self._stopping = False

    def ask(self, turn: Turn) -> None:
        """Stand in line."""
        with self._changed:
            self._waiting.append(turn)
            self._changed.notify_all()

    def leave(self, turn: Turn) -> bool:
        """Leave the line without having had a turn; False when it isn't in it. Call it too once ``cancel`` was set."""
        with self._changed:
            waited = turn in self._waiting
            if waited and turn.kind == Kind.VIEW:
                self._waiting.remove(turn)  # everything else has a thread of its own, which notices
            self._changed.notify_all()
            return waited

    def next_view(self) -> Turn | None:
        """Wait until it is the turn of a view, and give it the network; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._is_a_views_turn())
            if self._stopping:
                return None
            turn = self._best()
            assert turn is not None  # noqa: S101 - for the type checker: it was just found
            self._give(turn)
            return turn

    def take(self, turn: Turn) -> None:
        """Wait in line until it is this one's turn; raises :class:`Cancelled` at the end, or when told to."""
        with self._changed:
            self._changed.wait_for(lambda: self._over(turn) or (self._holder is None and self._best() is turn))
            if self._over(turn):
                if turn in self._waiting:
                    self._waiting.remove(turn)
                self._changed.notify_all()
                raise Cancelled
            self._give(turn)

    def give_way(self, turn: Turn) -> None:
        """Let go first whatever goes before this; told to end meanwhile, don't take the network again."""
        with self._changed:
            if not self._over(turn) and not self._should_wait(turn):
                return
            self._release(turn)
            self._waiting.append(turn)
            self._changed.notify_all()
        self.take(turn)

    def give_back(self, turn: Turn) -> None:
        """It has ended, with the network or without."""
        with self._changed:
            if turn in self._begun:
                self._begun.remove(turn)
            self._release(turn)
            self._changed.notify_all()

    def stop(self) -> None:
        """Give nobody a turn any more."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    # ---- with the lock held --------------------------------------------------------------------------------------

    def _is_a_views_turn(self) -> bool:
        best = self._best() if self._holder is None else None
        return best is not None and best.kind == Kind.VIEW

    def _best(self) -> Turn | None:
        """Who is next: by kind, then the line whose last turn is longest ago, then who has begun or came first."""
        able = [turn for turn in self._waiting if self._may_go(turn)]
        return min(able, key=lambda turn: (turn.kind, self._served.get(turn.line, 0), not turn.begun), default=None)

    def _may_go(self, turn: Turn) -> bool:
        if turn.cancel.is_set():
            return False
        if turn.kind != Kind.LONG or turn.begun:
            return True
        return len(self._begun) < MOST_LONG_AT_ONCE and all(each.line != turn.line for each in self._begun)

    def _should_wait(self, turn: Turn) -> bool:
        best = self._best()
        if best is None or best.kind > turn.kind:
            return False
        in_time = time.monotonic() - turn.since < SLICE_SECONDS
        return best.kind < turn.kind or (best.line != turn.line and not in_time)

    def _give(self, turn: Turn) -> None:
        self._waiting.remove(turn)
        self._holder = turn
        self._count += 1
        self._served.pop(turn.line, None)
        self._served[turn.line] = self._count
        while len(self._served) > _MOST_LINES:
            self._served.pop(next(iter(self._served)))
        if turn.kind == Kind.LONG and not turn.begun:
            self._begun.append(turn)
        turn.begun, turn.since = True, time.monotonic()

    def _release(self, turn: Turn) -> None:
        if self._holder is turn:
            self._holder = None

    def _over(self, turn: Turn) -> bool:
        return self._stopping or turn.cancel.is_set()


__all__ = ["MOST_LONG_AT_ONCE", "SLICE_SECONDS", "Kind", "Turn", "Turns"]
