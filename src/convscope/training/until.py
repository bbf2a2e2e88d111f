"""Until: when training is to stop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convscope.errors import ConvscopeError

if TYPE_CHECKING:
    from convscope.training.learner import Learner


@dataclass(frozen=True)
class Until:
    """When to stop: at whichever is reached first. Steps, epochs and examples count from the run's beginning,
    ``seconds`` from this call; ``accuracy`` is on the held-out images. Nothing given: never.
    """

    steps: int | None = None
    epochs: float | None = None
    examples: int | None = None
    seconds: float | None = None
    accuracy: float | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "epochs", "examples", "seconds", "accuracy"):
            value = getattr(self, name)
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise ConvscopeError(f"{name} can't be {value}", next_step="give a number of 0 or more")

    def reached(self, learner: Learner, seconds: float, accuracy: float | None) -> bool:
        """Whether it is time to stop."""
        pairs = (
            (self.steps, learner.steps),
            (self.epochs, learner.epoch),
            (self.examples, learner.examples),
            (self.seconds, seconds),
            (self.accuracy, accuracy),
        )
        return any(wanted is not None and now is not None and now >= wanted for wanted, now in pairs)

    def fraction(self, learner: Learner, seconds: float) -> float:
        """How much of the way is done, from 0 to 1; 0 where that isn't known."""
        pairs = (
            (self.steps, learner.steps),
            (self.epochs, learner.epoch),
            (self.examples, learner.examples),
            (self.seconds, seconds),
        )
        return min(1.0, max((now / wanted for wanted, now in pairs if wanted), default=0.0))


FOREVER = Until()

__all__ = ["FOREVER", "Until"]
