"""How much of training's time recording may take, and so how often each kind of quantity is recorded."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convscope.training.schedule import NEVER, Purse, Schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# What each kind may take of the budget: none can starve another.
SHARES = {"filters": 0.3, "histograms": 0.25, "kernels": 0.15, "maps": 0.3}
# Of the budget so much is spent: the rest is for what Monitor doesn't see itself, such as caches that it emptied.
SPENT = 0.9
# Seconds lent at the beginning, where every step counts. With the default budget of 2 % they are paid back in a minute.
ALLOWANCE = 0.5


@dataclass(frozen=True)
class Stretch:
    """A kind is recorded less often than its schedule asks: every how many steps, asked and as it can be afforded."""

    kind: str
    asked: int
    every: int


@dataclass(frozen=True)
class Cost:
    """What recording took so far. ``fraction`` is the part of training's own time, all threads' work added up."""

    training_seconds: float
    measuring_seconds: float
    writing_seconds: float
    stretched: tuple[Stretch, ...]
    lent_seconds: float = 0.0  # of them for the first steps, not yet paid back

    @property
    def fraction(self) -> float:
        """0.02 is 2 %."""
        spent = self.measuring_seconds + self.writing_seconds
        return spent / self.training_seconds if self.training_seconds > 0 else 0.0

    def __str__(self) -> str:
        text = f"recording took {100 * self.fraction:.1f} % of {self.training_seconds:.1f} s of training"
        if self.lent_seconds > 0.005:
            text += f" ({self.lent_seconds:.2f} s lent for the first steps, to be paid back)"
        slower = [f"{each.kind} every {each.every} steps instead of {each.asked}" for each in self.stretched]
        return text + (f"; to stay in the budget, {', '.join(slower)}" if slower else "")


class _Kind:
    """One kind of quantity: when it is wanted, what it may cost, when it was last recorded."""

    def __init__(self, name: str, schedule: Schedule, purse: Purse, first_step: int) -> None:
        self.name = name
        self.schedule = schedule
        self.purse = purse
        self.wanted: int | None = schedule.following(first_step)
        self.retry = first_step
        self.last: int | None = None
        self.stretch: Stretch | None = None
        self._told: int | None = None

    def next(self) -> int | None:
        return None if self.wanted is None else max(self.wanted, self.retry)

    def record(self, step: int) -> Stretch | None:
        """It is recorded now; the stretch to tell of when it is much more, or less, than what was told."""
        if self.last is not None:
            asked = (self.schedule.following(self.last + 1) or step) - self.last
            every = step - self.last
            self.stretch = Stretch(self.name, asked, every) if every > asked else None
        self.last = step
        self.wanted = self.schedule.following(step + 1)
        told, self_stretch = self._told, self.stretch
        if self_stretch is None or self_stretch.every < 1.5 * self_stretch.asked:
            return None
        if told is not None and told / 2 < self_stretch.every < 2 * told:
            return None
        self._told = self_stretch.every
        return self_stretch


class Budget:
    """Asked before each step what to record; told afterwards what it cost. Any thread may tell.

    ``fraction`` None means that everything is recorded when its schedule says so. ``next`` is the first step at which
    there can be anything to record: until then nobody need ask.
    """

    def __init__(
        self,
        schedules: Mapping[str, Schedule],
        fraction: float | None,
        first_step: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.limited = fraction is not None
        wanted = {kind: each for kind, each in schedules.items() if each is not NEVER}
        whole = sum(SHARES[kind] for kind in wanted) or 1.0
        self._kinds = {
            kind: _Kind(
                kind,
                each,
                Purse(SPENT * (fraction or 0.0) * SHARES[kind] / whole, ALLOWANCE * SHARES[kind] / whole),
                first_step,
            )
            for kind, each in wanted.items()
        }
        self._started = self._seen = clock()
        self._seen_step = first_step
        self._measuring = self._writing = self._since = 0.0
        self._step_seconds = 0.0
        self.next: int = first_step
        self._plan()

    def begin(self, step: int) -> tuple[dict[str, float], list[Stretch]]:
        """What to record at this step, each with what it is charged in advance; and the stretches to tell of."""
        with self._lock:
            now = self._clock()
            elapsed = max(0.0, now - self._seen - self._since)
            if step > self._seen_step:
                self._step_seconds = elapsed / (step - self._seen_step)
            self._seen, self._seen_step, self._since = now, step, 0.0
            chosen: dict[str, float] = {}
            told = []
            for name, kind in self._kinds.items():
                kind.purse.earn(elapsed)
                if kind.wanted is None or kind.wanted > step:
                    continue
                if self.limited and not kind.purse.affordable:
                    steps = kind.purse.wait / self._step_seconds if self._step_seconds else 1.0
                    kind.retry = step + max(1, int(min(steps, 1e9)))
                    continue
                chosen[name] = kind.purse.cost
                kind.purse.spend(kind.purse.cost)
                stretch = kind.record(step)
                if stretch is not None:
                    told.append(stretch)
            self._plan()
            return chosen, told

    def foresee(self, kind: str, measuring: float) -> None:
        """A recording was measured and isn't written yet: the next one costs this much at least."""
        with self._lock:
            if kind in self._kinds:
                purse = self._kinds[kind].purse
                purse.cost = max(purse.cost, measuring)

    def settle(self, kind: str, charged: float, measuring: float, writing: float, device: float) -> None:
        """What a recording really cost: seconds of the thread that trains, of the writer, of the device."""
        with self._lock:
            self._writing += writing
            if kind in self._kinds:
                cost = max(measuring, device) + writing
                self._kinds[kind].purse.spend(cost - charged)
                self._kinds[kind].purse.learn(cost)
            else:
                for each in self._kinds.values():
                    each.purse.spend(writing / len(self._kinds))

    def measured(self, seconds: float) -> None:
        """The thread that trains was held up for so long."""
        with self._lock:
            self._measuring += seconds
            self._since += seconds

    def want_all(self) -> None:
        """Everything that is recorded at all is wanted at the next step, as soon as it can be afforded."""
        with self._lock:
            for kind in self._kinds.values():
                kind.wanted, kind.retry = self._seen_step, self._seen_step
            self.next = 0

    def stop(self, kind: str) -> None:
        """Record no more of a kind."""
        with self._lock:
            self._kinds.pop(kind, None)
            self._plan()

    def cost(self) -> Cost:
        """What it took so far."""
        with self._lock:
            elapsed = self._clock() - self._started - self._measuring
            stretched = tuple(each.stretch for each in self._kinds.values() if each.stretch is not None)
            lent = sum(min(each.purse.owed, each.purse.size - each.purse.seconds) for each in self._kinds.values())
            return Cost(elapsed, self._measuring, self._writing, stretched, max(0.0, lent) if self.limited else 0.0)

    def _plan(self) -> None:
        found = [step for kind in self._kinds.values() if (step := kind.next()) is not None]
        self.next = min(found, default=2**62)


__all__ = ["Budget", "Cost", "Stretch"]
