"""Recorded: the built-in loop's own Monitor, and the snapshot beside the run that it is continued from."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from convscope.network.batch import Batch
from convscope.training.monitor import Monitor
from convscope.training.snapshot import Snapshot

if TYPE_CHECKING:
    import os

    from convscope.training.evaluation import Evaluation
    from convscope.training.learner import Learner, Step
    from convscope.training.ledger import Event

SNAPSHOT = "snapshot.safetensors"
SNAPSHOT_SECONDS = 60.0
REFERENCE_IMAGES = 8


class Recorded:
    """A run on disk that a :class:`~convscope.training.trainer.Trainer` writes.

    The built-in loop is recorded like anybody's: by a Monitor around its network and optimizer. A snapshot is written
    beside the run every minute, at each pause and at the end, so that the run goes on after the process is gone.
    """

    def __init__(self, path: str | os.PathLike[str], *, budget: float | None = 0.02, resume: bool = False) -> None:
        self.path = Path(path)
        self._budget = budget
        self._resume = resume
        self._monitor: Monitor | None = None
        self._saved = time.monotonic()

    @property
    def snapshot_path(self) -> Path:
        """Where the snapshot is."""
        return self.path / SNAPSHOT

    @property
    def monitor(self) -> Monitor:
        """The Monitor of the run that is being recorded."""
        assert self._monitor is not None  # noqa: S101 - begin() comes first
        return self._monitor

    def begin(self, learner: Learner, *, anew: bool = False) -> None:
        """Begin to record this learner: in the folder's run if it is resumed, otherwise in a new one."""
        if self._monitor is not None:
            self._monitor.close()
        resume = self._resume and not anew
        self._monitor = self._made(learner, resume=resume)
        self.path = Path(self._monitor.path)
        self._resume = True

    def begin_again(self, learner: Learner) -> None:
        """The learner has another optimizer: the same run goes on with that."""
        self.monitor.close()
        self._monitor = self._made(learner, resume=True)

    def _made(self, learner: Learner, *, resume: bool) -> Monitor:
        monitor = Monitor(
            learner.network,
            learner.optimizer,
            store=self.path,
            images=reference_batch(learner),
            facts=facts_of(learner),
            budget=self._budget,
            resume=resume,
            first_step=learner.steps,
        )
        return monitor.start()

    def step(self, done: Step) -> None:
        """A step was taken."""
        values = {"loss": done.loss, "accuracy": done.correct / done.size, "learning_rate": done.rate}
        self.monitor.log(values, step=done.step)

    def evaluated(self, learner: Learner, found: Evaluation) -> None:
        """The held-out images were looked at; now and then that is also when the snapshot is renewed."""
        values = {"held_out_loss": found.loss, "held_out_accuracy": found.accuracy, "penalty": learner.penalty()}
        self.monitor.log(values, step=max(0, found.step - 1))
        if time.monotonic() - self._saved > SNAPSHOT_SECONDS:
            self.save(learner)

    def event(self, event: Event) -> None:
        """Something happened."""
        self.monitor.event(event.kind, event.name, event.old, event.new, event.text)

    def pause(self, learner: Learner, state: str) -> None:
        """Training stopped for now."""
        self.monitor.event(state, text=f"Training is {state} after {learner.examples:,} examples.")
        self.save(learner)

    def save(self, learner: Learner) -> None:
        """Renew the snapshot."""
        Snapshot.of(learner).save(self.snapshot_path)
        self._saved = time.monotonic()

    def close(self, learner: Learner) -> None:
        """Write what waits, and the snapshot."""
        self.save(learner)
        self.monitor.close()


def reference_batch(learner: Learner) -> Batch:
    """The first held-out image of each class, up to eight: what maps are recorded on."""
    part = learner.data.held_out
    first = [int((part.labels == label).nonzero()[0]) for label in part.labels.unique()][:REFERENCE_IMAGES]
    indexes = torch.tensor(first, dtype=torch.int64)
    labels = part.labels[indexes].tolist()
    prepared = learner.batches.normalized(part.images[indexes])
    names = [f"held-out {index}" for index in first]
    batch = Batch.from_tensor(prepared, labels, names)
    return learner.network.batch(batch) if learner.device.type == "cpu" else _moved(batch, learner)


def _moved(batch: Batch, learner: Learner) -> Batch:
    return replace(batch, tensor=batch.tensor.to(learner.device))


def facts_of(learner: Learner) -> dict[str, Any]:
    """What is said about a run beside its numbers."""
    return {
        "network": learner.network.name,
        "definition": learner.definition.text(),
        "settings": learner.settings.to_json(),
        "seed": learner.seed,
        "data": {
            "name": learner.given.name,
            "source": learner.given.source,
            "fingerprint": learner.given.fingerprint,
            "training_images": len(learner.data.train),
            "held_out_images": len(learner.data.held_out),
            "held_out": learner.given.split,
        },
        "class_names": list(learner.given.class_names),
    }


__all__ = ["SNAPSHOT", "Recorded", "facts_of", "reference_batch"]
