"""Looking into a network that is being trained: a copy of its weights as they are, with the images held out from it.

The copy shares nothing with the run: training goes on, and what is shown stays what it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from convscope.errors import ConvscopeError, Refused
from convscope.images import ImageSet, load_images
from convscope.server.question import Opened
from convscope.server.run_folder import SNAPSHOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from convscope.network.network import Network
    from convscope.server.live_run import LiveRun
    from convscope.server.run_folder import Summary
    from convscope.server.training_data import TrainingData
    from convscope.training.data import Data
    from convscope.training.snapshot import Snapshot
    from convscope.view import Array

MOST_IMAGES = 1000


@dataclass(frozen=True)
class HeldOut:
    """Held-out images as a dataset: pixels ``[row, column, channel]`` uint8 with their labels."""

    data: Data

    def __len__(self) -> int:
        return min(MOST_IMAGES, len(self.data.held_out))

    def __getitem__(self, index: int) -> tuple[Array, int]:
        pixels: Array = self.data.held_out.images[index].permute(1, 2, 0).contiguous().numpy()
        return pixels, int(self.data.held_out.labels[index])

    @property
    def classes(self) -> list[str]:
        """The names that labels count."""
        return list(self.data.class_names)

    @property
    def targets(self) -> list[int]:
        """Every image's label."""
        labels: list[int] = self.data.held_out.labels[:MOST_IMAGES].tolist()
        return labels


def explore_live(live: LiveRun, name: str) -> Callable[[], Opened]:
    """What makes the session's network of the run that is open; it may wait for a step to end."""

    def make() -> Opened:
        from convscope.training.snapshot import Snapshot

        learner = live.trainer.learner
        snapshot = live.trainer.at_boundary(lambda: Snapshot.of(learner))
        return _opened(snapshot, learner.given, live.identity, name)

    return make


def explore_recorded(summary: Summary, data_sets: TrainingData) -> Callable[[], Opened]:
    """The same of the last snapshot of a run that isn't open; refuses one that has none."""
    if not summary.resumable:
        raise Refused(
            "this run has no snapshot to look into",
            where=summary.name,
            next_step="runs of one's own loop are only watched; open the network itself with `convscope open`",
        )

    def make() -> Opened:
        from convscope.training.snapshot import Snapshot

        snapshot = Snapshot.open(summary.path / SNAPSHOT)
        try:
            data = data_sets.of_snapshot(snapshot, summary.facts, None)
        except ConvscopeError:
            data = None  # they aren't here any more: the page says that there are no images, and takes others
        return _opened(snapshot, data, summary.id, summary.name)

    return make


def _opened(snapshot: Snapshot, data: Data | None, run: str, name: str) -> Opened:
    explored = (run, name, snapshot.steps)
    if data is None:
        return Opened(_network(snapshot, None), ImageSet([]), "no images", explored)
    fitted = data.fitted(snapshot.definition.input)
    images = load_images(HeldOut(fitted))
    return Opened(_network(snapshot, fitted), images, f"{data.name}, held out", explored)


def _network(snapshot: Snapshot, data: Data | None) -> Network:
    """The snapshot's network, in evaluation mode, prepared for images as training prepares them."""
    from convscope.training.data import resized_side

    network = snapshot.definition.network(
        snapshot.seed,
        class_names=snapshot.class_names,
        name=f"{snapshot.name}, step {snapshot.steps:,}",
        resize=None if data is None else resized_side(data, snapshot.definition.input),
    )
    network.module.load_state_dict(snapshot.weights)
    network.module.eval()
    return network


__all__ = ["HeldOut", "explore_live", "explore_recorded"]
