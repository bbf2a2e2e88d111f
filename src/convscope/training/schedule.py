"""When to record: at which steps it is wanted, and how often it can be afforded."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from convscope.errors import ConvscopeError

if TYPE_CHECKING:
    from collections.abc import Iterable


class Schedule(ABC):
    """A set of steps. Schedules are joined with ``|``."""

    @abstractmethod
    def following(self, step: int) -> int | None:
        """The first step of the set that isn't before ``step``; None when there is none."""

    def __contains__(self, step: int) -> bool:
        return self.following(step) == step

    def __or__(self, other: Schedule) -> Schedule:
        return _Union((self, other))


@dataclass(frozen=True)
class Every(Schedule):
    """Every ``interval``-th step from 0 on.

    >>> [step for step in range(10) if step in Every(4)]
    [0, 4, 8]
    """

    interval: int

    def __post_init__(self) -> None:
        _positive("interval", self.interval)

    def following(self, step: int) -> int:
        """The first multiple that isn't before ``step``."""
        return -(-max(0, step) // self.interval) * self.interval


@dataclass(frozen=True)
class At(Schedule):
    """These steps and no others.

    >>> At.steps([5, 1]).following(2)
    5
    """

    sorted_steps: tuple[int, ...]

    @classmethod
    def steps(cls, steps: Iterable[int]) -> At:
        """From steps in any order."""
        return cls(tuple(sorted({int(step) for step in steps})))

    def following(self, step: int) -> int | None:
        """The first of them that isn't before ``step``."""
        index = bisect_right(self.sorted_steps, step - 1)
        return self.sorted_steps[index] if index < len(self.sorted_steps) else None


@dataclass(frozen=True)
class Logarithmic(Schedule):
    """Every one of the first steps, then ``per_decade`` steps in each factor of ten, never more than ``largest`` apart.

    What happens early in training happens fast: equal factors show it as well as what comes late.

    >>> [step for step in range(50) if step in Logarithmic(first=4, per_decade=5, largest=1000)]
    [0, 1, 2, 3, 6, 10, 15, 25, 39]
    """

    first: int = 20
    per_decade: int = 48
    largest: int = 100

    def __post_init__(self) -> None:
        for name in ("first", "per_decade", "largest"):
            _positive(name, getattr(self, name))

    def following(self, step: int) -> int:
        """Steps below ``first``; then the whole numbers nearest below powers of 10^(1/per_decade); then multiples."""
        if step < self.first:
            return max(0, step)
        # Where neighboring powers are further apart than `largest`, its multiples take over.
        regular_from = int(1 / (10 ** (1 / self.per_decade) - 1)) * self.largest
        if step >= regular_from:
            return -(-step // self.largest) * self.largest
        index = math.floor(math.log10(max(1, step)) * self.per_decade) - 1
        while (candidate := int(10 ** (index / self.per_decade) + 1e-9)) < step:
            index += 1
        return min(candidate, regular_from)


@dataclass(frozen=True)
class _Union(Schedule):
    parts: tuple[Schedule, ...]

    def following(self, step: int) -> int | None:
        found = [each for part in self.parts if (each := part.following(step)) is not None]
        return min(found, default=None)


NEVER = At(())
ScheduleLike = Schedule | int | None


def schedule(value: ScheduleLike) -> Schedule:
    """A schedule from what people write: a Schedule, every how many steps, or None for never."""
    if value is None:
        return NEVER
    if isinstance(value, Schedule):
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConvscopeError(
            f"{value!r} isn't a schedule", next_step="pass every how many steps, a Schedule, or None for never"
        )
    return Every(value)


def _positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConvscopeError(f"{name} is {value!r}", where="schedule", next_step="pass a whole number from 1")


@dataclass(eq=False)
class Purse:
    """The seconds that one kind of recording may still take: it earns a share of the time that passes.

    It begins full, on credit: half of what it earns pays that back, so that in the end no more than the share is spent.
    What isn't spent is kept, up to ``size`` or one and a half times what a recording costs, so that a pause doesn't
    buy a burst. Costs that are only known later may leave it in debt.
    """

    share: float
    size: float
    cost: float = 0.0  # of one recording, as it was lately
    seconds: float = field(init=False)
    owed: float = field(init=False)

    def __post_init__(self) -> None:
        self.seconds = self.owed = self.size

    def earn(self, elapsed: float) -> None:
        """Time has passed."""
        income = self.share * elapsed
        repaid = min(self.owed, income / 2)
        self.owed -= repaid
        self.seconds = min(self.seconds + income - repaid, max(self.size, 1.5 * self.cost))

    def spend(self, seconds: float) -> None:
        """Something was paid."""
        self.seconds -= seconds

    def learn(self, cost: float) -> None:
        """A whole recording was paid: the next will cost about as much."""
        self.cost = cost if not self.cost else 0.5 * (self.cost + cost)

    @property
    def affordable(self) -> bool:
        """Whether the next recording can be paid."""
        return self.seconds >= self.cost

    @property
    def wait(self) -> float:
        """The seconds until it can."""
        if self.affordable:
            return 0.0
        missing = self.cost - self.seconds
        return (missing + min(missing, self.owed)) / self.share if self.share else math.inf


__all__ = ["NEVER", "At", "Every", "Logarithmic", "Purse", "Schedule", "ScheduleLike", "schedule"]
