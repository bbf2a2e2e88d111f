"""Crew: hands shards to workers, replaces those that die, and finds the images that kill them.

It knows nothing of processes or clusters: a worker takes tasks and puts what happens to it into a queue.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

from convscope.errors import ConvscopeError
from convscope.mining.shard import Shard, ShardResult
from convscope.mining.worker import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

# Two tasks at most with each worker: it begins the next while the result of the last is being merged.
_QUEUED = 2
_TICK_SECONDS = 0.1
_DEATHS_BEFORE_SEARCH = 2


class Event(NamedTuple):
    """What happened to a worker: ready, ``images`` more done, a result, an error, or its death and the reason."""

    worker: int
    kind: Literal["ready", "progress", "result", "failed", "died"]
    images: int = 0
    content: bytes = b""
    error: ConvscopeError | None = None
    reason: str = ""


@runtime_checkable
class Worker(Protocol):
    """A worker as the crew sees it; it has a number, and puts events that carry it into the crew's queue."""

    def send(self, task: Task) -> None:
        """Queue a task behind those it has."""

    def kill(self) -> None:
        """End it at once, without waiting for what it does; no error if it has ended already."""

    def wait(self) -> None:
        """Wait until a killed worker is gone."""


@dataclass(eq=False)
class _Member:
    worker: Worker
    place: int
    tasks: deque[Task] = field(default_factory=deque)
    ready: bool = False
    done: int = 0  # images of the first task


class Crew:
    """Workers over shards. ``start(number, place, events)`` makes one; ``place`` is below ``size`` (its device)."""

    def __init__(
        self,
        start: Callable[[int, int, SimpleQueue[Event]], Worker],
        size: int,
        shards: Sequence[Shard],
        batch_size: int,
        progress: Callable[[int], None],
    ) -> None:
        self._start = start
        self._size = max(1, min(size, len(shards)))
        self._piece = batch_size
        self._progress = progress
        self._pending = deque(Task(shard) for shard in shards)
        self._unfinished = len(shards)
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._members: dict[int, _Member] = {}
        self._started = 0
        self._deaths_before_ready = 0
        self._deaths: Counter[int] = Counter()
        self._searching: Counter[int] = Counter()
        self._found: Counter[int] = Counter()
        self._culprits: defaultdict[int, dict[int, str]] = defaultdict(dict)
        self._shards = {shard.index: shard for shard in shards}

    def run(self) -> Generator[ShardResult, None, None]:
        """Results as they come. Ended in any way, nothing of the crew is left."""
        try:
            for place in range(self._size):
                self._hire(place)
            while self._unfinished:
                self._hand_out()
                result = self._handle(self._next_event())
                if result is not None:
                    self._unfinished -= 1
                    self._hand_out()
                    yield result
        finally:
            for member in self._members.values():
                member.worker.kill()
            for member in self._members.values():
                member.worker.wait()

    def _hire(self, place: int) -> None:
        number = self._started
        self._started += 1
        self._members[number] = _Member(self._start(number, place, self._events), place)

    def _hand_out(self) -> None:
        # One each, then a second: the last shards are spread over all workers.
        for depth in range(_QUEUED):
            for member in self._members.values():
                # A worker that searches may die of it, and what waits behind would wait for its successor.
                searches = any(task.probe for task in member.tasks)
                if self._pending and len(member.tasks) <= depth and not (searches and depth):
                    task = self._pending.popleft()
                    member.tasks.append(task)
                    member.worker.send(task)

    def _next_event(self) -> Event:
        while True:
            try:
                return self._events.get(timeout=_TICK_SECONDS)
            except Empty:
                self._progress(0)  # raises Cancelled where somebody wants it

    def _handle(self, event: Event) -> ShardResult | None:
        member = self._members.get(event.worker)
        if member is None:  # of a worker that was given up
            return None
        if event.kind == "failed":
            raise event.error or ConvscopeError("a worker failed")
        if event.kind == "died":
            self._lost(event.worker, member, event.reason)
        elif event.kind == "ready":
            member.ready, self._deaths_before_ready = True, 0
        elif event.kind == "progress":
            if not member.tasks[0].probe:
                member.done += event.images
                self._progress(event.images)
        else:
            return self._finished(member, event.content)
        return None

    def _finished(self, member: _Member, content: bytes) -> ShardResult | None:
        task = member.tasks.popleft()
        if task.probe:
            self._settle(task.shard.index)
            return None
        self._progress(len(task.shard) - member.done)  # skipped images are done as well
        member.done = 0
        return ShardResult.from_bytes(content)

    # ---- death -------------------------------------------------------------------------------------------------

    def _lost(self, number: int, member: _Member, reason: str) -> None:
        del self._members[number]
        member.worker.kill()
        member.worker.wait()
        if not member.ready:
            self._deaths_before_ready += 1
            if self._deaths_before_ready > self._size:
                raise ConvscopeError(
                    f"workers end before they begin: {reason}",
                    next_step='pass executor="serial" to see what goes wrong',
                )
            self._pending.extendleft(reversed(member.tasks))
        elif member.tasks:
            task = member.tasks.popleft()
            self._pending.extendleft(reversed(member.tasks))
            self._progress(-member.done)
            self._suspect(task, reason)
        self._hire(member.place)

    def _suspect(self, task: Task, reason: str) -> None:
        """One death may be anybody's fault; after a second of the same shard its images are tried in small pieces."""
        shard = task.shard
        if task.probe:
            if len(shard) == 1:
                self._culprits[shard.index][shard.start] = f"reading it crashed a worker ({reason})"
                self._settle(shard.index)
            else:
                self._search(shard, 1)
                self._settle(shard.index)
            return
        self._deaths[shard.index] += 1
        if self._deaths[shard.index] < _DEATHS_BEFORE_SEARCH:
            self._pending.appendleft(task)
        elif self._deaths[shard.index] == _DEATHS_BEFORE_SEARCH:
            self._search(shard, self._piece)
        else:
            raise ConvscopeError(
                f"images {shard.start} to {shard.stop - 1} end every worker, but no single one does: {reason}",
                next_step="look whether memory runs out, and mine with fewer workers",
            )

    def _search(self, shard: Shard, size: int) -> None:
        known = self._culprits[shard.index]
        pieces = [
            Task(Shard(shard.index, start, min(start + size, shard.stop)), tuple(known.items()), probe=True)
            for start in range(shard.start, shard.stop, size)
        ]
        self._searching[shard.index] += len(pieces)
        self._pending.extendleft(reversed(pieces))

    def _settle(self, index: int) -> None:
        """A piece is known to be harmless, or its culprit is; after the last the shard itself has its turn again."""
        self._searching[index] -= 1
        if not self._searching[index]:
            hidden = tuple(sorted(self._culprits[index].items()))
            if len(hidden) > self._found[index]:
                # A search that found something may be followed by another one, for what hid behind it.
                self._found[index], self._deaths[index] = len(hidden), 1
            self._pending.appendleft(Task(self._shards[index], hidden))


__all__ = ["Crew", "Event", "Worker"]
