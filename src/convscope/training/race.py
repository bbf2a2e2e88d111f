"""Race: several optimizers, side by side, on the same batches from the same initial weights."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from convscope.errors import Cancelled, ConvscopeError, Refused
from convscope.progress import report
from convscope.training.curves import Curves
from convscope.training.learner import Learner
from convscope.training.settings import OPTIMIZERS, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from convscope.training.data import Data
    from convscope.training.definition import Definition
    from convscope.view import Array

MOST = 12
EVALUATE_EVERY = 100  # steps, as ConvNetJS's trainer page does
EVALUATED = 500
_REPORTS_PER_SECOND = 10
_SHARED = ("batch_size", "shift", "flip", "fill")


@dataclass(eq=False)
class Racer:
    """One of them: what it is called, its learner, its curves (loss, accuracy, held_out_accuracy)."""

    name: str
    learner: Learner
    curves: Curves = field(default_factory=Curves)
    failed: str = ""


class Race:
    """Several learners that take every step on the same batch.

    ``settings`` by name; they must agree in everything that decides the batches (``batch_size``, ``shift``, ``flip``,
    ``fill``). A racer whose step fails drops out, and the others go on.

    >>> from convscope.training.data import load_data
    >>> from convscope.training.presets import preset
    >>> data = load_data("mnist", train=200, held_out=50)
    >>> race = Race.of_optimizers(preset("linear").definition(), data, ["sgd", "adam"])
    >>> race.run(3)
    >>> {name: len(curves["loss"][0]) for name, curves in race.curves().items()}
    {'sgd': 3, 'adam': 3}
    """

    def __init__(
        self,
        definition: Definition,
        data: Data,
        settings: Mapping[str, Settings],
        *,
        seed: int = 0,
        device: str = "cpu",
        weights: Mapping[str, Any] | None = None,
    ) -> None:
        if not 1 <= len(settings) <= MOST:
            raise Refused(f"a race of {len(settings)} optimizers", next_step=f"choose 1 to {MOST}")
        first = next(iter(settings.values()))
        for name, each in settings.items():
            for shared in _SHARED:
                if getattr(each, shared) != getattr(first, shared):
                    raise Refused(
                        f"{name} has another {shared} than the others, so it would see other batches",
                        next_step=f"give all of them the same {shared}",
                    )
        self.racers = [
            Racer(name, Learner(definition, data, each, seed=seed, device=device, name=name, weights=weights))
            for name, each in settings.items()
        ]
        self.state = "paused"
        self._stopping = threading.Event()
        self._lock = threading.Lock()

    @classmethod
    def of_optimizers(
        cls,
        definition: Definition,
        data: Data,
        optimizers: Sequence[str],
        settings: Settings | None = None,
        **more: Any,
    ) -> Race:
        """A race of optimizers by name, each with a learning rate to start with, all else as ``settings`` say."""
        base = settings or Settings()
        for name in optimizers:
            if name not in OPTIMIZERS:
                raise ConvscopeError(f"no optimizer {name[:40]!r}", next_step=f"choose {', '.join(OPTIMIZERS)}")
        return cls(definition, data, {name: _settings_of(base, name) for name in optimizers}, **more)

    @property
    def steps(self) -> int:
        """How many steps were taken by all that are still in the race."""
        return max(racer.learner.steps for racer in self.racers)

    def step(self) -> None:
        """One step of each that is still in the race, on the same batch."""
        self._round([racer for racer in self.racers if not racer.failed])

    def _round(self, racers: Sequence[Racer]) -> None:
        for racer in racers:
            try:
                done = racer.learner.step(cancelled=self._stopping.is_set)
            except Cancelled:
                raise
            except Exception as error:
                racer.failed = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
                continue
            racer.curves.add(done.step, loss=done.loss, accuracy=done.correct / done.size)
            if racer.learner.steps % EVALUATE_EVERY == 0:
                found = racer.learner.evaluate(EVALUATED, self._stopping.is_set)
                if found is not None:
                    racer.curves.add(found.step, held_out_accuracy=found.accuracy, held_out_loss=found.loss)

    def run(self, steps: int) -> None:
        """Race until each has taken ``steps`` in all, or :meth:`pause` is called from another thread."""
        with self._lock:
            self._stopping.clear()
            self.state, reported = "running", 0.0
            try:
                while not self._stopping.is_set():
                    behind = [each for each in self.racers if not each.failed and each.learner.steps < steps]
                    if not behind:
                        break
                    if time.monotonic() - reported > 1 / _REPORTS_PER_SECOND:
                        reported = time.monotonic()
                        report(min(each.learner.steps for each in behind), steps, "racing")
                    # After a pause in the middle of a round some are a step behind: they take theirs first.
                    last = min(each.learner.steps for each in behind)
                    self._round([each for each in behind if each.learner.steps == last])
            except Cancelled:
                if not self._stopping.is_set():
                    raise
            finally:
                done = all(each.failed or each.learner.steps >= steps for each in self.racers)
                self.state = "finished" if done else "paused"

    def pause(self) -> None:
        """Stop, also in the middle of a long step; :meth:`run` goes on from there."""
        self._stopping.set()

    def curves(self) -> dict[str, dict[str, tuple[Array, Array]]]:
        """Each racer's curves by name: steps and values."""
        return {racer.name: racer.curves.read() for racer in self.racers}

    def failed(self) -> dict[str, str]:
        """Who dropped out, and why."""
        return {racer.name: racer.failed for racer in self.racers if racer.failed}


def _settings_of(base: Settings, name: str) -> Settings:
    return base if name == base.optimizer else base.changed({"optimizer": name})


__all__ = ["Race", "Racer"]
