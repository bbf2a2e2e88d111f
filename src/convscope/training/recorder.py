"""Writing a run from one thread of its own, so that training never waits for the disk.

What is handed over waits in a queue of bounded size. When the disk can't keep up the oldest is dropped and counted:
training goes on, and what is recorded is always recent.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from convscope.errors import ConvscopeError
from convscope.training.ledger import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

    from convscope.training.run import Run
    from convscope.view import View

_log = logging.getLogger("convscope")

CAPACITY = 256 * 2**20  # bytes that may wait for the disk
FLUSH_SECONDS = 1.0


@dataclass(eq=False)
class Built:
    """What a part of a recording came to be."""

    views: dict[str, View] = field(default_factory=dict)
    scalars: dict[str, float] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    device_seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class Part:
    """One kind of quantity at one step: how to build it, once what was measured has arrived.

    ``size`` in bytes; ``seconds`` it took from training to measure, ``charged`` what it was expected to cost in all.
    """

    kind: str
    build: Callable[[], Built]
    size: int = 0
    seconds: float = 0.0
    charged: float = 0.0


@dataclass(frozen=True, eq=False)
class Recording:
    """All that is written for one step in one transaction."""

    step: int
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(part.size for part in self.parts)


class Recorder:
    """The queue and the thread. Nothing here raises into the thread that trains.

    ``paid(part, processor_seconds, device_seconds)`` is told what each part cost here (None: what no part is to blame
    for), ``failed(kind, error)`` what went wrong; ``not_finite()`` is called when a number turns NaN or infinite.
    """

    def __init__(
        self,
        run: Run,
        *,
        paid: Callable[[Part | None, float, float], None],
        failed: Callable[[str, BaseException], None],
        not_finite: Callable[[], None],
        largest: int,
        capacity: int = CAPACITY,
    ) -> None:
        self.run = run
        self.dropped = 0
        self.lost = 0  # recordings that couldn't be written
        self.written = 0  # bytes of Views
        self.full = False  # as large as it may become
        self._paid, self._failed, self._turned = paid, failed, not_finite
        self._largest, self._capacity = largest, capacity
        self._queue: deque[Recording] = deque()
        self._waiting = 0  # bytes in it
        self._scalars: list[tuple[int, Mapping[str, float | torch.Tensor]]] = []
        self._events: list[Event] = []
        self._not_finite: set[str] = set()
        self._wake = threading.Condition()
        self._closing = self._at_once = self._busy = False
        self._thread = threading.Thread(target=self._work, name="convscope recorder", daemon=True)
        self._thread.start()

    # ---- called by the thread that trains ----------------------------------------------------------------------

    def submit(self, recording: Recording) -> None:
        """Hand a recording over; the oldest one waiting gives way when there are too many."""
        with self._wake:
            self._waiting += recording.size
            while self._queue and self._waiting > self._capacity:
                gone = self._queue.popleft()
                self._waiting -= gone.size
                self.dropped += 1
                if self.dropped == 1:
                    text = "The disk can't keep up: the oldest recordings that wait for it are left out."
                    self._events.append(Event(gone.step, "dropped", text=text))
            self._queue.append(recording)
            self._wake.notify()

    def scalars(self, step: int, values: Mapping[str, float | torch.Tensor]) -> None:
        """Keep numbers for the next write, within a second."""
        with self._wake:
            self._scalars.append((step, values))

    def event(self, event: Event) -> None:
        """Keep an event for the next write, within a second."""
        with self._wake:
            self._events.append(event)

    def close(self, seconds: float) -> bool:
        """Write what waits and end; False when that took longer than it may."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def drain(self, seconds: float = 60.0) -> bool:
        """Wait until everything handed over so far is written."""
        deadline = time.monotonic() + seconds
        with self._wake:
            while self._queue or self._scalars or self._events or self._busy:
                self._at_once = True
                self._wake.notify()
                if time.monotonic() > deadline or not self._thread.is_alive():
                    return False
                self._wake.wait(0.01)
        return True

    # ---- the writer's thread -----------------------------------------------------------------------------------

    def _work(self) -> None:
        flushed = time.monotonic()
        while True:
            with self._wake:
                self._busy = self._at_once = False
                while not (self._queue or self._closing or self._due(flushed)):
                    self._wake.wait(FLUSH_SECONDS)
                recording = self._queue.popleft() if self._queue else None
                self._waiting -= recording.size if recording else 0
                scalars, self._scalars = self._scalars, []
                events, self._events = self._events, []
                if recording is None and not scalars and not events:
                    if self._closing:
                        return
                    continue
                self._busy = True
            started = time.thread_time()
            try:
                self._write(recording, scalars, events)
            except Exception as error:  # a thread that died would record nothing more and say nothing of it
                self._failed("recording", error)
            flushed = time.monotonic()
            if recording is None:
                self._paid(None, time.thread_time() - started, 0.0)

    def _due(self, flushed: float) -> bool:
        waited = self._at_once or time.monotonic() - flushed >= FLUSH_SECONDS
        return waited and bool(self._scalars or self._events)

    def _write(
        self,
        recording: Recording | None,
        scalars: list[tuple[int, Mapping[str, float | torch.Tensor]]],
        events: list[Event],
    ) -> None:
        # A scalar may still lie on a device: here is where one waits for it.
        rows = [(step, {name: float(value) for name, value in row.items()}) for step, row in scalars]
        for step, row in rows:
            events += self._notice(step, row)
        step = recording.step if recording else max([at for at, _ in rows] + [event.step for event in events])
        built = [self._build(part) for part in (recording.parts if recording else ())]
        views = {name: view for _, each, _ in built for name, view in each.views.items()}
        values = {name: value for _, each, _ in built for name, value in each.scalars.items()}
        events += [event for _, each, _ in built for event in each.events]
        started = time.thread_time()
        try:
            self.run.write(step, views, values, events, earlier=rows)
        except ConvscopeError as error:
            self.lost += 1
            self._failed("writing", error)
            self._give_back(scalars, events)
        else:
            self._grow(step, views)
        each_view = (time.thread_time() - started) / max(1, len(views))
        for part, made, cost in built:
            self._paid(part, cost + each_view * len(made.views), made.device_seconds)

    def _build(self, part: Part) -> tuple[Part, Built, float]:
        started = time.thread_time()
        try:
            built = part.build()
        except Exception as error:
            self._failed(part.kind, error)
            built = Built()
        return part, built, time.thread_time() - started

    def _notice(self, step: int, row: Mapping[str, float]) -> list[Event]:
        found = []
        for name, value in row.items():
            if np.isfinite(value):
                self._not_finite.discard(name)
            elif name not in self._not_finite:
                self._not_finite.add(name)
                found.append(Event(step, "not_finite", name, text=f"{name} is {value} from step {step} on."))
                self._turned()
        return found

    def _give_back(self, scalars: list[tuple[int, Mapping[str, float | torch.Tensor]]], events: list[Event]) -> None:
        # Numbers and events are small: they wait until there is room again, but not without end.
        if not self._closing:
            with self._wake:
                self._scalars = (scalars + self._scalars)[-100_000:]
                self._events = (events + self._events)[-1000:]

    def _grow(self, step: int, views: Mapping[str, View]) -> None:
        self.written += sum(array.nbytes for view in views.values() for array in view.arrays.values())
        if self.written > self._largest and not self.full:
            self.full = True
            size = f"{self.written / 2**30:.1f} GiB"
            text = f"The run has {size}, as much as it may: from here on only numbers are recorded."
            self.event(Event(step, "full", text=text))
            _log.warning("%s", text)


__all__ = ["Built", "Part", "Recorder", "Recording"]
