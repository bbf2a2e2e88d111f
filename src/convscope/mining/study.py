"""Study: what mining wrote into a Store, and how it is written. A study's folder is that of its Store.

A finished shard is one transaction: its table of images, which is its line in the ledger, and the merged state of every
layer. So a process that dies at any moment leaves a study that opens, and has lost at most the shard it was at.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from convscope.errors import ConvscopeError, Refused, UnknownName, suggest
from convscope.mining.settings import Settings
from convscope.mining.shard import Shard, ShardTable, table_of
from convscope.mining.state import KIND, LayerState
from convscope.store import Store
from convscope.view import Array, Recipe, View

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from convscope.mining.shard import ShardResult

METHOD = "mining"
FORMAT = 1  # of what the plan, the tables and the states mean; raised when a grid, a bin or an order changes
PLAN = "plan"


@dataclass(frozen=True, eq=False)
class Plan:
    """Which images a study is of, in its own order: an image's study id is its place here and never changes.

    ``names`` are unique. ``segments`` are the numbers of images after each time that images were added; a shard never
    crosses them. ``facts`` say what the network was: its name, source, preprocessing, and the machine's arithmetic.
    """

    names: tuple[str, ...]
    segments: tuple[int, ...]
    settings: Settings
    network: str
    location: str = ""
    facts: Mapping[str, Any] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def shards(self) -> list[Shard]:
        """All shards, in order."""
        found: list[Shard] = []
        start = 0
        for end in self.segments:
            for first in range(start, end, self.settings.shard_size):
                found.append(Shard(len(found), first, min(first + self.settings.shard_size, end)))
            start = end
        return found

    def extended(self, names: Sequence[str]) -> Plan:
        """The plan with more images, behind those it has."""
        return replace(self, names=(*self.names, *names), segments=(*self.segments, len(self.names) + len(names)))

    def to_view(self) -> View:
        """The plan as a View of kind "mining_plan"."""
        encoded = [name.encode() for name in self.names]
        arrays: dict[str, Array] = {
            "name": np.frombuffer(b"".join(encoded), np.uint8),
            "name_end": np.cumsum([len(each) for each in encoded], dtype=np.int64),
            "segment_end": np.array(self.segments, np.int64),
            **self.settings.arrays(),
        }
        axes: dict[str, tuple[str, ...]] = {"name": ("byte",), "name_end": ("image",), "segment_end": ("segment",)}
        axes |= dict.fromkeys(self.settings.arrays(), ("unit",))
        meta = {
            "caption": f"A study of {len(self.names):,} images.",
            "format": FORMAT,
            "settings": self.settings.to_json(),
            "location": self.location,
            "facts": dict(self.facts or {}),
        }
        return View("mining_plan", arrays, axes, meta, recipe(PLAN, self.network))

    @classmethod
    def from_view(cls, view: View) -> Plan:
        """The inverse of :meth:`to_view`; refuses a study of another format, whose numbers mean something else."""
        found = view.meta.get("format")
        if found != FORMAT:
            raise ConvscopeError(
                f"a study of format {found}; this convscope reads format {FORMAT}",
                next_step="upgrade convscope" if isinstance(found, int) and found > FORMAT else "mine the images again",
            )
        text = view["name"].tobytes()
        ends = view["name_end"].tolist()
        names = tuple(text[start:end].decode() for start, end in zip([0, *ends[:-1]], ends, strict=True))
        settings = Settings.restore(view.meta["settings"], view.arrays)
        segments = tuple(int(each) for each in view["segment_end"])
        network = view.recipe.network if view.recipe else ""
        return cls(names, segments, settings, network, str(view.meta["location"]), dict(view.meta["facts"]))


def recipe(target: str, network: str) -> Recipe:
    """The recipe of one of mining's Views: a study holds one of each."""
    return Recipe(METHOD, parameters={}, target=target, network=network)


def commit(store: Store, network: str, result: ShardResult, merged: Mapping[str, LayerState]) -> None:
    """Write a finished shard: its table and what all finished shards together make, in one transaction."""
    table = result.table_view()
    views = [View(table.kind, table.arrays, table.axes, table.meta, recipe(f"shard:{result.shard.index}", network))]
    views += [state.to_view(recipe(layer, network)) for layer, state in merged.items()]
    store.replace(views)


class Study:
    """What mining found, read from its folder (or an open Store); it may still be growing.

    Raises :class:`ConvscopeError` when nothing was mined there.
    """

    def __init__(self, store: Store, plan: Plan) -> None:
        self.store = store
        self.plan = plan

    @classmethod
    def open(cls, place: str | os.PathLike[str] | Store) -> Study:
        """The study in a folder, or in a Store that is open already."""
        if not isinstance(place, Store) and not os.path.isdir(place):  # noqa: PTH112 - any path-like
            raise ConvscopeError("there is no such folder", where=str(place), next_step="make it: convscope mine …")
        store = place if isinstance(place, Store) else Store.open(place)
        plan = find_plan(store)
        if plan is None:
            raise ConvscopeError(
                "nothing was mined here yet",
                where=str(store.path),
                next_step=f"convscope mine MODEL --images FOLDER --study {store.path}",
            )
        return cls(store, plan)

    def __repr__(self) -> str:
        state = "finished" if self.finished else f"{self.done:,} of them mined"
        return f"Study({len(self.layers)} layers, {self.count:,} images, {state})"

    @property
    def network(self) -> str:
        """The fingerprint of the network that was mined."""
        return self.plan.network

    @property
    def settings(self) -> Settings:
        """What decides the numbers."""
        return self.plan.settings

    @property
    def layers(self) -> tuple[str, ...]:
        """Addresses of the layers that were mined, in call order."""
        return self.plan.settings.layers

    @property
    def k(self) -> int:
        """How many images are ranked for each unit."""
        return self.plan.settings.k

    @property
    def location(self) -> str:
        """Where the images were."""
        return self.plan.location

    @property
    def count(self) -> int:
        """How many images are planned."""
        return len(self.plan)

    def finished_shards(self) -> dict[int, str]:
        """The ledger: the index of every finished shard, and the key of its table."""
        entries = self.store.query(method=METHOD, network=self.network, kind="mining_shard")
        return {int(entry.target.removeprefix("shard:")): entry.key for entry in entries}

    @property
    def done(self) -> int:
        """How many images are in finished shards."""
        finished = self.finished_shards()
        return sum(len(shard) for shard in self.plan.shards() if shard.index in finished)

    @property
    def finished(self) -> bool:
        """Whether every planned image was mined."""
        return len(self.finished_shards()) == len(self.plan.shards())

    @cached_property
    def _tables(self) -> dict[int, ShardTable]:
        return {}

    def table(self, index: int) -> ShardTable:
        """The table of a finished shard's images."""
        if index not in self._tables:
            blob = self.store.get(recipe(f"shard:{index}", self.network))
            if blob is None:
                raise ConvscopeError(f"shard {index} isn't there", next_step="mine the images again")
            self._tables[index] = table_of(View.from_bytes(blob))[0]
        return self._tables[index]

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(name, reason) of every image that couldn't be used, in order."""
        found: list[tuple[str, str]] = []
        for index in sorted(self.finished_shards()):
            found += [(name or self.plan.names[number], reason) for number, name, reason in self.table(index).skipped]
        return found

    def state(self, layer: str) -> LayerState:
        """Everything that is known of a layer's units; raises :class:`UnknownName` for one that wasn't mined."""
        blob = self.store.get(recipe(layer, self.network)) if layer in self.layers else None
        if blob is None:
            if layer in self.layers:
                raise ConvscopeError("no shard is finished yet", where=layer, next_step="wait a moment, or mine on")
            raise UnknownName(
                f"{layer!r} wasn't mined",
                next_step=suggest(layer, self.layers) or f"this study has {', '.join(self.layers[:3])} …",
            )
        return LayerState.from_view(View.from_bytes(blob))

    # ---- images ------------------------------------------------------------------------------------------------

    def names(self, ids: Iterable[int]) -> list[str]:
        """The names of study images."""
        return [self.plan.names[number] for number in ids]

    def fingerprint(self, number: int) -> str:
        """The first 32 hexadecimal digits of the SHA-256 of an image's bytes; empty where it wasn't read."""
        table, place = self._place(number)
        return "" if table is None or not table.fingerprint[place].any() else table.fingerprint[place].tobytes().hex()

    def class_names(self, ids: Iterable[int]) -> list[str | None]:
        """The name of each image's class in the image set; None where it has none."""
        found: list[str | None] = []
        for number in ids:
            table, place = self._place(number)
            label = -1 if table is None else int(table.label[place])
            found.append(table.label_names[label] if table is not None and label >= 0 else None)
        return found

    def predicted(self, ids: Iterable[int]) -> list[int]:
        """The network's top class for each image; −1 where the pass ended before the scores."""
        places = [self._place(number) for number in ids]
        return [-1 if table is None else int(table.predicted[place]) for table, place in places]

    def _place(self, number: int) -> tuple[ShardTable | None, int]:
        """The table that an image is in, and its place there."""
        shards = self._shards
        index = int(np.searchsorted(self._starts, number, side="right")) - 1
        if not 0 <= number < self.count:
            raise UnknownName(f"the study has no image {number}", next_step=f"choose 0 to {self.count - 1}")
        if index not in self._tables and index not in self.finished_shards():
            return None, 0
        return self.table(index), number - shards[index].start

    @cached_property
    def _shards(self) -> list[Shard]:
        return self.plan.shards()

    @cached_property
    def _starts(self) -> Array:
        return np.array([shard.start for shard in self._shards], np.int64)


def find_plan(store: Store) -> Plan | None:
    """The plan of whatever was mined into this Store, by any network."""
    for entry in store.query(method=METHOD, kind="mining_plan"):
        blob = store.get(entry.key)
        if blob is not None:
            return Plan.from_view(View.from_bytes(blob))
    return None


def check_same(plan: Plan, network: str, facts: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise :class:`Refused` with the difference when a study isn't of this network, preprocessing and settings."""
    then, now = dict((plan.facts or {}).get("preprocessing", {})), dict(facts.get("preprocessing", {}))
    changed = [
        f"{name} was {json.dumps(then.get(name))}, now {json.dumps(now[name])}"
        for name in now
        if then.get(name) != now[name]
    ]
    step = "name another folder with --study, or mine with what the study was made with"
    if changed:
        raise Refused(f"this study was made with another preprocessing: {'; '.join(changed)}", next_step=step)
    if plan.network != network:
        named = (plan.facts or {}).get("network", ""), facts.get("network", "")
        which = (
            f"another network: {named[0]}, now {named[1]}" if named[0] != named[1] else f"other weights of {named[0]}"
        )
        raise Refused(
            f"this study was made with {which}", where=f"{plan.network[:12]} ≠ {network[:12]}", next_step=step
        )
    settings = {**plan.settings.to_json(), "layers": list(plan.settings.layers)}
    for name, value in wanted.items():
        if value is not None and settings[name] != value:
            raise Refused(
                f"this study was made with {name} {_layers_or(settings[name], value)}, "
                f"not {_layers_or(value, settings[name])}",
                next_step=step,
            )


def _layers_or(value: Any, other: Any) -> str:
    """A value; of a list of layers, what the other hasn't."""
    if not isinstance(value, list):
        return str(value)
    own = [each for each in value if each not in other]
    return f"{len(value)} ({', '.join(own[:3])}{' …' if len(own) > 3 else ''})" if own else str(len(value))


__all__ = ["KIND", "METHOD", "Plan", "Study", "check_same", "commit", "find_plan", "recipe"]
