"""Files of training, down and up: snapshots of convscope and networks of ConvNetJS. What comes in is only data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convscope.errors import ConvscopeError, Refused
from convscope.server.query import shown_name
from convscope.server.run_folder import SNAPSHOT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from convscope.server.live_run import LiveRun
    from convscope.server.run_folder import Summary
    from convscope.server.training_data import TrainingData
    from convscope.training.definition import Definition
    from convscope.training.learner import Learner


def snapshot_file(live: LiveRun | None, summary: Summary | None, kind: str) -> bytes:
    """The file of a run that is open, or else of its last snapshot; ``kind`` is "safetensors" or "convnetjs"."""
    from convscope.training.convnetjs import write_convnetjs
    from convscope.training.snapshot import Snapshot

    if live is not None:
        snapshot = live.trainer.at_boundary(lambda: Snapshot.of(live.trainer.learner))
    else:
        assert summary is not None  # noqa: S101 - one of the two
        if not summary.resumable:
            raise Refused("this run has no snapshot", where=summary.name, next_step="it was trained elsewhere")
        snapshot = Snapshot.open(summary.path / SNAPSHOT)
    if kind == "convnetjs":
        return write_convnetjs(snapshot.definition, snapshot.weights).encode()
    return snapshot.to_bytes()


@dataclass(frozen=True)
class Read:
    """A file that was understood: what it is called, how its learner is made, and what isn't said in it."""

    name: str
    learner: Callable[[], Learner]
    notes: tuple[str, ...] = ()


def read_file(data_sets: TrainingData, content: bytes, data: str | None, name: str) -> Read:
    """Understand a file that was sent; raises :class:`UnsafeFile` for what isn't one.

    Its images are those that the page chose among the server's, or where that is clear those it was trained on.
    """
    from convscope.training.snapshot import Snapshot

    title = shown_name(name) if name else ""
    if _is_json(content):
        return _convnetjs(data_sets, content, data, title)
    snapshot = Snapshot.from_bytes(content, "the file that was sent")

    def learner() -> Learner:
        found = data_sets.of_snapshot(snapshot, {}, data)
        if found.fingerprint == snapshot.data["fingerprint"]:
            return snapshot.learner(found)
        return _with_weights(snapshot.definition, snapshot.weights, found, snapshot.settings, snapshot.name)

    notes: tuple[str, ...] = ()
    if data is not None:
        notes = ("On other images than it was trained on it begins with its weights, and counts from step 0.",)
    return Read(title or snapshot.name or "snapshot", learner, notes)


def _convnetjs(data_sets: TrainingData, content: bytes, data: str | None, title: str) -> Read:
    from convscope.training.convnetjs import read_convnetjs

    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConvscopeError("the file isn't text", next_step="send what ConvNetJS's page shows") from error
    found = read_convnetjs(text)
    offer = data_sets.offer(data)

    def learner() -> Learner:
        size = (found.definition.input.rows, found.definition.input.columns)
        return _with_weights(found.definition, found.weights, data_sets.load(offer, size), None, "convnetjs")

    return Read(title or "convnetjs", learner, found.notes)


def _with_weights(
    definition: Definition, weights: Mapping[str, Tensor], data: Any, settings: Any, name: str
) -> Learner:
    from convscope.training.learner import Learner

    if data.classes != definition.classes:
        raise Refused(
            f"a network of {definition.classes} classes for images of {data.classes}",
            where=data.name,
            next_step="choose other images",
        )
    return Learner(definition, data, settings, name=name, weights=weights)


def _is_json(content: bytes) -> bool:
    """A safetensors file begins with the length of its header, and that with a brace."""
    size = int.from_bytes(content[:8], "little")
    return content.lstrip()[:1] == b"{" and not (content[8:9] == b"{" and size <= len(content) - 8)


__all__ = ["Read", "read_file", "snapshot_file"]
