"""What pages hear of by server-sent events, and one page's stream of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

State = Literal["queued", "running", "done", "failed", "cancelled"]


@dataclass(frozen=True)
class JobEvent:
    """What one request for work has come to. ``id`` is the name the client gave; times are seconds.

    ``preview`` is the number of the newest look at what there is so far; 0 for none.
    """

    id: str
    state: State
    done: int = 0
    total: int = 0
    message: str = ""
    seconds_left: float | None = None
    preview: int = 0


@dataclass(frozen=True)
class SessionEvent:
    """Another network was opened in place of the one before."""

    opening: int
    id: str = "session"


@dataclass(frozen=True)
class StudyEvent:
    """A shard was finished: ``done`` of ``images`` are mined, and what they say can be read."""

    done: int
    images: int
    finished: bool
    id: str = "study"


@dataclass(frozen=True)
class TrainingEvent:
    """A run changed, or with no ``id`` the list of runs. ``live``: it is open in this server."""

    id: str
    state: str
    step: int | None
    live: bool


Event = JobEvent | SessionEvent | StudyEvent | TrainingEvent


class Subscription:
    """One client's view of all jobs. A slow client misses steps, never the latest state of a job."""

    def __init__(self, limit: int = 256) -> None:
        self._latest: OrderedDict[tuple[type, str], Event] = OrderedDict()
        self._limit = limit
        self._news = asyncio.Event()
        self._closed = False

    def push(self, event: Event) -> None:
        """Keep ``event`` in place of an older one of the same job; beyond the limit the oldest job is forgotten."""
        self._latest.pop((type(event), event.id), None)
        self._latest[type(event), event.id] = event
        if len(self._latest) > self._limit:
            self._latest.popitem(last=False)
        self._news.set()

    def close(self) -> None:
        """End the stream after what is waiting has been read."""
        self._closed = True
        self._news.set()

    async def take(self, timeout: float) -> list[Event] | None:
        """The events since the last call, oldest first; none of them after ``timeout`` seconds; None at the end."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), timeout)
        events = list(self._latest.values())
        self._latest.clear()
        if self._closed:
            return events or None
        self._news.clear()
        return events


__all__ = ["Event", "JobEvent", "SessionEvent", "State", "StudyEvent", "Subscription", "TrainingEvent"]
