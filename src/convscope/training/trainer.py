"""Trainer: a learner that runs, pauses, changes its settings, is watched by any number of threads, and is recorded.

All that touches the network happens in one thread at a time, between two steps: whoever asks for something while it
runs has it done at the next boundary. That is a few milliseconds for a small network; a long step is cut into parts.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch

from convscope.errors import Cancelled, ConvscopeError, Refused
from convscope.progress import report
from convscope.training.boundary import Boundary
from convscope.training.curves import Curves
from convscope.training.learner import Learner
from convscope.training.ledger import Event
from convscope.training.until import FOREVER
from convscope.training.watchers import Watchers
from convscope.training.window import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from convscope.network.network import Network
    from convscope.training.evaluation import Evaluation, Prediction
    from convscope.training.frames import Frame
    from convscope.training.recorded import Recorded
    from convscope.training.until import Until

_log = logging.getLogger("convscope")

State = Literal["paused", "running", "finished", "failed"]
Result = TypeVar("Result")
EVALUATION_SHARE = 0.1  # of the time; evaluating the held-out images waits until it is that little
EVALUATED = 1000  # held-out images while running; all of them at the end
_REPORTS_PER_SECOND = 10
# Below so much work in a step several threads wait for one another longer than they help.
_WORTH_THREADS = 1e8
# Asked before anything is set: what one thread sets is what threads that begin later find.
_ALL_THREADS = torch.get_num_threads()


class Trainer:
    """Trains a network while threads watch, pause and change it.

    ``recorded`` keeps what happens in a run on disk (see :mod:`convscope.training.recorded`); without it the run is
    only watched.

    >>> from convscope.training.data import load_data
    >>> from convscope.training.presets import preset
    >>> from convscope.training.until import Until
    >>> data = load_data("mnist", train=300, held_out=100)
    >>> trainer = Trainer(Learner(preset("linear").definition(), data))
    >>> trainer.run(Until(steps=20))
    >>> trainer.state, trainer.learner.steps, trainer.evaluation.whole
    ('finished', 20, True)
    """

    def __init__(self, learner: Learner, recorded: Recorded | None = None, *, frames_per_second: float = 12.0) -> None:
        self.learner = learner
        self.recorded = recorded
        self.watchers = Watchers(frames_per_second)
        self.curves = Curves()
        self.events: list[Event] = []
        self.state: State = "paused"
        self.error: ConvscopeError | None = None
        self.evaluation: Evaluation | None = None
        self._window = Window()
        self._boundary = Boundary()
        self._pausing = threading.Event()
        self._cancelling = threading.Event()
        self._thread: threading.Thread | None = None
        self._evaluated = (0.0, 0.0)  # when the last evaluation ended, and how long it took
        if recorded is not None:
            recorded.begin(learner)

    @property
    def network(self) -> Network:
        """The network as it is being trained; use it inside :meth:`still`."""
        return self.learner.network

    def at_boundary(self, work: Callable[[], Result]) -> Result:
        """Have something done between two steps, by the thread that trains, or at once when none does."""
        return self._boundary.run(work)

    @contextmanager
    def still(self) -> Iterator[Network]:
        """The network, with training held between two steps for as long as the block lasts."""
        with self._boundary.still():
            yield self.network

    # ---- running -----------------------------------------------------------------------------------------------

    def step(self, count: int = 1) -> None:
        """Take single steps, here and now; refused while it runs."""
        if self.state == "running":
            raise Refused("training is running", next_step="pause it first")
        with self._boundary.loop():
            for _ in range(count):
                self._once()
                self.watchers.changed()
        self._end("paused")

    def run(self, until: Until = FOREVER) -> None:
        """Train in this thread until it is time, or :meth:`pause` or :meth:`cancel` is called from another.

        Tells the watcher (:func:`convscope.progress.watch`) how far it is. Raises what made a step fail; the state is
        then "failed" and everything as it was before that step.
        """
        if self.state == "running":
            raise Refused("training is running already", next_step="pause it first")
        self._pausing.clear()
        self._cancelling.clear()
        began = time.monotonic()
        reported = 0.0
        with self._boundary.loop():
            self.state, self.error = "running", None
            self.watchers.changed()
            ended: State = "paused"
            try:
                while not (self._pausing.is_set() or self._cancelling.is_set()):
                    seconds = time.monotonic() - began
                    accuracy = self.evaluation.accuracy if self.evaluation else None
                    if until.reached(self.learner, seconds, accuracy):
                        # A part of the held-out images tells when to look, all of them whether it is so.
                        found = self._evaluate(0)
                        if found is not None and until.reached(self.learner, seconds, found.accuracy):
                            ended = "finished"
                            break
                    if time.monotonic() - reported > 1 / _REPORTS_PER_SECOND:
                        reported = time.monotonic()
                        report(round(1e4 * until.fraction(self.learner, seconds)), 10_000, self._said())
                    self._once()
                    self._evaluate_now_and_then()
            except Cancelled:
                if not self._cancelling.is_set():
                    raise
            except Exception as error:
                ended = "failed"
                self.error = _explained(error)
                raise
            finally:
                self._end(ended)

    def _once(self) -> None:
        self._boundary.answer()
        started = time.perf_counter()
        wanted = self.watchers.wants_frame()
        done = self.learner.step(frame=wanted, cancelled=self._cancelling.is_set)
        self._window.add(done, self.learner.examples)
        self.curves.add(done.step, loss=done.loss, accuracy=done.correct / done.size)
        if not math.isfinite(done.loss) and self._last_kind("not_finite") is None:
            self._happened(Event(done.step, "not_finite", "loss", text=f"The loss is {done.loss}."))
        if self.recorded is not None:
            self.recorded.step(done)
        seconds = time.perf_counter() - started
        if done.frame is not None:
            self.watchers.show(done.frame, seconds)
        else:
            self.watchers.stepped(seconds)

    def _end(self, state: State) -> None:
        self.state = state
        if self.recorded is not None:
            self.recorded.pause(self.learner, state)
        self.watchers.changed()

    def _last_kind(self, kind: str) -> Event | None:
        return next((event for event in reversed(self.events) if event.kind == kind), None)

    def _said(self) -> str:
        loss, accuracy = self._window.loss(), self._window.accuracy()
        known = "" if loss is None or accuracy is None else f", loss {loss:.3g}, training accuracy {accuracy:.1%}"
        held = "" if self.evaluation is None else f", held out {self.evaluation.accuracy:.1%}"
        return f"step {self.learner.steps:,}, epoch {self.learner.epoch:.2f}{known}{held}"

    def start(self, until: Until = FOREVER) -> None:
        """Train in a thread of its own. What makes a step fail is then in :attr:`error`."""
        if self.state == "running":
            raise Refused("training is running already", next_step="pause it first")

        def work() -> None:
            torch.set_num_threads(suitable_threads(self.learner))
            try:
                self.run(until)
            except Exception:
                _log.exception("training failed")

        self._thread = threading.Thread(target=work, name="convscope training", daemon=True)
        began = self.watchers.version
        self._thread.start()
        self.watchers.wait(began, 10.0)  # until it says that it runs

    def stop(self, *, now: bool = False) -> None:
        """Ask it to stop, without waiting: after the step that is being taken, or ``now`` by giving that up."""
        (self._cancelling if now else self._pausing).set()

    def pause(self, timeout: float | None = 60.0) -> None:
        """Stop after the step that is being taken, and wait for that. Runs on with :meth:`run` or :meth:`start`."""
        self.stop()
        self._join(timeout)

    def cancel(self, timeout: float | None = 60.0) -> None:
        """Stop now: a long step is given up, as if it had not begun."""
        self.stop(now=True)
        self._join(timeout)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until a run of :meth:`start` ends; False when it hasn't."""
        self._join(timeout)
        return self.state != "running"

    def _join(self, timeout: float | None) -> None:
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def close(self) -> None:
        """Stop, and let go of what is recorded."""
        self.cancel()
        if self.recorded is not None:
            self.recorded.close(self.learner)

    # ---- changing it -------------------------------------------------------------------------------------------

    def change(self, values: Mapping[str, Any]) -> list[Event]:
        """Change settings from the next step on; each that is another then is an event. All of them, or none."""

        def work() -> list[Event]:
            differences = self.learner.change(values)
            events = [
                Event(self.learner.steps, "setting", name, old, new, f"{name}: {old} → {new}")
                for name, (old, new) in differences.items()
            ]
            for event in events:
                self._happened(event)
            if self.recorded is not None and "optimizer" in differences:
                self.recorded.begin_again(self.learner)
            return events

        return self.at_boundary(work)

    def _happened(self, event: Event) -> None:
        self.events.append(event)
        if self.recorded is not None:
            self.recorded.event(event)
        self.watchers.changed()

    def reset(self, learner: Learner | None = None) -> None:
        """Begin anew: with the same network, data, settings and seed, or with another learner."""
        self.cancel()
        old = self.learner
        with self._boundary.alone():
            self.learner = learner or Learner(
                old.definition, old.data, old.settings, seed=old.seed, device=str(old.device), name=old.network.name
            )
            self.curves.clear()
            self.events.clear()
            self._window.clear()
            self.evaluation, self.error = None, None
            self.state = "paused"
            self.watchers.forget()
            if self.recorded is not None:
                self.recorded.begin(self.learner, anew=True)
        self.watchers.changed()

    # ---- watching it -------------------------------------------------------------------------------------------

    def frame(self, after: int = -1, timeout: float = 2.0) -> Frame | None:
        """The newest frame of a step after ``after``; waits for one while it runs, makes one while it doesn't.

        None when there is nothing newer within ``timeout``. Asking keeps frames coming for a few seconds.
        """
        if self.state == "running":
            found = self.watchers.frame(after, timeout)
            if found is not None or self.state == "running":
                return found
        current = self.watchers.latest
        if current is None or current.step != self.learner.steps:
            current = self.at_boundary(self.learner.frame)
            self.watchers.show(current, 0.0)
        return current if current.step > after else None

    def statistics(self) -> dict[str, Any]:
        """The numbers of the training panel; means over the last 100 steps, None while there is nothing yet."""
        learner, loss = self.learner, self._window.loss()
        frame = self.watchers.latest
        times = frame.totals() if frame is not None else (None, None)
        return {
            "state": self.state,
            "step": learner.steps,
            "examples": learner.examples,
            "epoch": learner.epoch,
            "loss": loss if loss is not None and math.isfinite(loss) else None,
            "penalty": self.at_boundary(learner.penalty),
            "accuracy": self._window.accuracy(),
            "held_out": None if self.evaluation is None else self.evaluation.to_json(),
            "learning_rate": learner.settings.rate(learner.examples, len(learner.data.train)),
            "examples_per_second": self._window.rate() if self.state == "running" else None,
            "forward_milliseconds": times[0],
            "backward_milliseconds": times[1],
            "settings": learner.settings.to_json(),
            "error": None if self.error is None else str(self.error),
        }

    def samples(self, indexes: list[int], top: int = 3) -> list[Prediction]:
        """The ``top`` classes of these held-out images."""
        count = len(self.learner.data.held_out)
        if any(not 0 <= each < count for each in indexes):
            raise ConvscopeError("no such held-out image", next_step=f"choose 0 to {count - 1}")
        return self.at_boundary(lambda: self.learner.samples(indexes, top))

    def predict(self, pixels: Any, top: int = 3) -> Prediction:
        """The ``top`` classes of a picture of one's own, uint8 or 0..1 ``[row, column, channel]``."""
        return self.at_boundary(lambda: self.learner.predict(pixels, top))

    def evaluate(self) -> Evaluation:
        """Loss, accuracy and confusion on all held-out images, now."""
        found = self.at_boundary(lambda: self._evaluate(0))
        if found is None:
            raise Cancelled
        return found

    def _evaluate_now_and_then(self) -> None:
        ended, took = self._evaluated
        if time.monotonic() - ended >= max(0.5, took / EVALUATION_SHARE):
            self._evaluate(EVALUATED)

    def _evaluate(self, limit: int) -> Evaluation | None:
        began = time.monotonic()
        found = self.learner.evaluate(limit, self._cancelling.is_set)
        self._evaluated = (time.monotonic(), time.monotonic() - began)
        if found is not None:
            self.evaluation = found
            values = {"held_out_loss": found.loss, "held_out_accuracy": found.accuracy}
            self.curves.add(found.step, **values, penalty=self.learner.penalty())
            if self.recorded is not None:
                self.recorded.evaluated(self.learner, found)
        return found


def suitable_threads(learner: Learner) -> int:
    """How many threads torch should use for a step of this learner: one for a small one, all for a large one."""
    size = learner.settings.batch_size or len(learner.data.train)
    return 1 if learner.multiplications * size < _WORTH_THREADS else _ALL_THREADS


def _explained(error: Exception) -> ConvscopeError:
    if isinstance(error, ConvscopeError):
        return error
    text = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return ConvscopeError(f"a training step failed: {text}", next_step="change the network or the settings, and reset")


__all__ = ["Trainer", "suitable_threads"]
