"""What a run's ledger says, all its writes taken together."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from convscope.training.ledger import Event, Write
    from convscope.view import Array


@dataclass(frozen=True)
class News:
    """What was written after a position: the Views recorded (step, names), scalars (step, name, value), events.

    ``position`` is where to ask from the next time. After ``rewound`` steps were taken back: read everything anew.
    """

    position: int
    recorded: tuple[tuple[int, tuple[str, ...]], ...] = ()
    scalars: tuple[tuple[int, str, float], ...] = ()
    events: tuple[Event, ...] = ()
    rewound: bool = False


@dataclass(eq=False)
class History:
    """What the ledger says, all writes taken together."""

    writes: list[Write] = field(default_factory=list)
    views: dict[str, list[int]] = field(default_factory=dict)  # each name's steps in order
    scalars: dict[str, tuple[array[int], array[float]]] = field(default_factory=dict)  # steps and values as written
    latest: int | None = None

    def add(self, write: Write) -> None:
        """One more write."""
        self.writes.append(write)
        if write.rewound:
            for name, steps in self.views.items():
                self.views[name] = [step for step in steps if step <= write.step]
            self.views = {name: steps for name, steps in self.views.items() if steps}
            self.scalars = {name: _until(write.step, *pair) for name, pair in self.scalars.items()}
            self.latest = write.step
            return
        for step, name, value in rows(write):
            steps_of, values_of = self.scalars.setdefault(name, (array("q"), array("d")))
            steps_of.append(step)
            values_of.append(value)
        for name in write.views:
            steps = self.views.setdefault(name, [])
            index = bisect_left(steps, write.step)
            if index == len(steps) or steps[index] != write.step:
                steps.insert(index, write.step)
        self.latest = write.step if self.latest is None else max(self.latest, write.step)

    def has(self, step: int, name: str) -> bool:
        """Whether a View of this name was recorded at exactly this step."""
        steps = self.views.get(name, [])
        index = bisect_left(steps, step)
        return index < len(steps) and steps[index] == step


def _until(step: int, steps: array[int], values: array[float]) -> tuple[array[int], array[float]]:
    kept = [index for index, each in enumerate(steps) if each <= step]
    return array("q", [steps[index] for index in kept]), array("d", [values[index] for index in kept])


def in_order(steps: Array, values: Array) -> tuple[Array, Array]:
    """Sorted by step; of equal steps the last one written."""
    if len(steps) > 1 and not (np.diff(steps) > 0).all():
        order = np.argsort(steps, kind="stable")
        steps, values = steps[order], values[order]
        last = np.append(np.diff(steps) > 0, True)
        steps, values = steps[last], values[last]
    return steps, values


def rows(write: Write) -> list[tuple[int, str, float]]:
    """The numbers of one write: step, name, value."""
    return list(zip(write.scalar_steps.tolist(), write.scalar_names, write.scalar_values.tolist(), strict=True))


__all__ = ["History", "News", "in_order", "rows"]
