"""Window: the loss, the accuracy and the speed that a person reads while it trains, as means over the last steps."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convscope.training.learner import Step

STEPS = 100


@dataclass
class Window:
    """Means over the last 100 steps; None while there is nothing yet."""

    steps: deque[Step] = field(default_factory=lambda: deque(maxlen=STEPS))
    stamps: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=STEPS))

    def add(self, step: Step, examples: int) -> None:
        """A step was taken; ``examples`` in all so far."""
        self.steps.append(step)
        self.stamps.append((time.perf_counter(), examples))

    def clear(self) -> None:
        """Forget all steps."""
        self.steps.clear()
        self.stamps.clear()

    def loss(self) -> float | None:
        """The mean over examples."""
        size = sum(each.size for each in self.steps)
        return sum(each.loss * each.size for each in self.steps) / size if size else None

    def accuracy(self) -> float | None:
        """The part of the examples that were classified right."""
        size = sum(each.size for each in self.steps)
        return sum(each.correct for each in self.steps) / size if size else None

    def rate(self) -> float | None:
        """Examples per second."""
        if len(self.stamps) < 2:
            return None
        (first, before), (last, after) = self.stamps[0], self.stamps[-1]
        return (after - before) / (last - first) if last > first else None


__all__ = ["Window"]
