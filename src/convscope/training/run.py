"""Run: what was recorded while a network trained, step by step; a folder that is a Store.

One process writes, any number read, also while it writes. Every write is one transaction: a writer that is killed at
any moment leaves a run that opens and has every step that was written. docs/reference/run-format.md is the contract.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np

from convscope.errors import ConvscopeError, Refused, UnknownName, suggest
from convscope.store import INDEX, Store
from convscope.training.history import History, News, in_order, rows
from convscope.training.ledger import FORMAT, METHOD, Event, Write, decode, encode, is_full, ledger_recipe
from convscope.training.writers_lock import WritersLock
from convscope.view import Recipe, View, canonical_json

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from convscope.view import Array

KIND = "training_run"


def view_name(name: str, layer: str = "") -> str:
    """The name under which a View of a layer is recorded: ``filters:layer1.0.conv1``.

    >>> view_name("filters", "layer1.0.conv1")
    'filters:layer1.0.conv1'
    """
    return f"{name}:{layer}" if layer else name


def split_view_name(full: str) -> tuple[str, str]:
    """The name and the layer ("" for the whole network) of a recorded View.

    >>> split_view_name("filters:layer1.0.conv1")
    ('filters', 'layer1.0.conv1')
    """
    name, _, layer = full.partition(":")
    return name, layer


class Run:
    """A training run on disk.

    Views are recorded under names: of a layer ``filters:layer1.0.conv1``, see :func:`view_name`; of the whole network a
    bare word. Steps are whole numbers from 0. Any number of threads may use one Run.

    >>> import tempfile
    >>> view = View("training_filters", {"weight_norm": np.ones(4, np.float32)}, {"weight_norm": ("unit",)})
    >>> with tempfile.TemporaryDirectory() as folder, Run.create(folder, name="a", facts={"optimizer": "SGD"}) as run:
    ...     run.write(0, {"filters:conv1": view}, {"loss": 2.3})
    ...     run.write(1, {}, {"loss": 2.1}, [Event(1, "setting", "lr", 0.1, 0.01)])
    ...     again = Run.open(folder)
    ...     again.steps("filters:conv1"), again.scalars()["loss"][1].tolist(), again.events()[0].new
    ([0], [2.3, 2.1], 0.01)
    """

    def __init__(self, store: Store, header: View) -> None:
        self.store = store
        self.path = store.path
        self.name: str = header.meta["name"]
        self.facts: dict[str, Any] = header.meta["facts"]
        self.network: str = header.recipe.network if header.recipe else ""
        self.created: str = header.meta["created"]
        self._lock = RLock()
        self._history = History()
        self._chunk = 0  # the one that is being read or written
        self._tail: list[Write] = []  # its writes
        self._writer: WritersLock | None = None
        self.closed = False

    # ---- opening -----------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: str | os.PathLike[str], *, name: str, facts: Mapping[str, Any], network: str = "") -> Run:
        """A new run in this folder. ``facts`` are plain JSON values, shown beside the run; ``network`` is the
        fingerprint of the architecture. Refuses a folder that holds a run already.
        """
        try:
            plain = canonical_json(dict(facts))
        except (TypeError, ValueError) as error:
            raise ConvscopeError(
                f"the run's facts aren't plain JSON values: {error}",
                next_step="pass texts, finite numbers, lists and dicts",
            ) from error
        store = Store.open(path)
        try:
            if _header_of(store) is not None:
                raise Refused(
                    "there is a run in this folder already",
                    where=str(path),
                    next_step="open it, or name another folder",
                )
            meta = {
                "caption": f"The training run {name}.",
                "format": FORMAT,
                "name": name,
                "facts": json.loads(plain),
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            header = View(KIND, {}, {}, meta, Recipe(METHOD, {"name": "run"}, network=network))
            run = cls(store, header)
            run._become_writer()
            store.put(header)
        except BaseException:
            store.close()
            raise
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Run:
        """The run in this folder, also while another process writes it. The first :meth:`write` continues it."""
        if not (Path(path) / INDEX).exists():
            raise ConvscopeError("there is no run here", where=str(path), next_step="name the folder of a run")
        store = Store.open(path)
        try:
            header = _header_of(store)
            if header is None:
                raise ConvscopeError(
                    "there is no run in this store", where=str(path), next_step="name the folder of a run"
                )
            if header.meta.get("format") != FORMAT:
                raise ConvscopeError(
                    f"a run of format {header.meta.get('format')}; this convscope reads format {FORMAT}",
                    where=str(path),
                    next_step="upgrade convscope",
                )
            return cls(store, header)
        except BaseException:
            store.close()
            raise

    @staticmethod
    def find(folder: str | os.PathLike[str]) -> list[Path]:
        """The folders of the runs in this folder (itself, or those directly in it), by name; opens none for writing."""
        here = Path(folder)
        candidates = [here, *(sorted(each for each in here.iterdir() if each.is_dir()) if here.is_dir() else [])]
        return [each for each in candidates if _is_run(each)]

    def close(self) -> None:
        """Let go of the store and of the right to write."""
        with self._lock:
            if self._writer is not None:
                self._writer.release()
                self._writer = None
            self.store.close()
            self.closed = True

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Run({self.name!r}, {str(self.path)!r})"

    # ---- writing -----------------------------------------------------------------------------------------------

    def write(
        self,
        step: int,
        views: Mapping[str, View],
        scalars: Mapping[str, float],
        events: Sequence[Event] = (),
        *,
        earlier: Sequence[tuple[int, Mapping[str, float]]] = (),
    ) -> None:
        """Record a step: all of it in one transaction, or none of it.

        ``earlier`` are scalars of other steps that nothing was written at. The same step may be written again; a View
        or a scalar of the same name then takes the place of the old one. Raises :class:`ConvscopeError` when the disk
        is full, the folder read-only, or another process writes this run; the run then stays as it was.
        """
        named = [self._named(step, name, view) for name, view in views.items()]
        self._append(Write.of(step, tuple(views), [*earlier, (step, scalars)], events), named)

    def rewind(self, step: int) -> None:
        """Take back everything recorded after this step, as when training goes on from a snapshot of it."""
        with self._lock:
            self._become_writer()
            gone = [
                self.recipe(each, name).key
                for name, steps in self._history.views.items()
                for each in steps
                if each > step
            ]
            self._append(Write(step, events=(Event(step, "rewound"),), rewound=True), [], forget=gone)

    def recipe(self, step: int, name: str) -> Recipe:
        """The recipe, and so the key in the store, of a recorded View."""
        bare, layer = split_view_name(name)
        return Recipe(METHOD, {"step": int(step), "name": bare}, target=layer, network=self.network)

    def _named(self, step: int, name: str, view: View) -> View:
        recipe = self.recipe(step, name)
        return view if view.recipe == recipe else View(view.kind, view.arrays, view.axes, view.meta, recipe)

    def _append(self, write: Write, views: Sequence[View], forget: Sequence[str] = ()) -> None:
        with self._lock:
            self._become_writer()
            chunk, tail = (self._chunk + 1, []) if is_full(self._tail) else (self._chunk, self._tail)
            longer = [*tail, write]
            self.store.replace([*views, encode(chunk, longer, self.network)], forget=forget)
            self._chunk, self._tail = chunk, longer
            self._history.add(write)

    def _become_writer(self) -> None:
        if self._writer is None:
            writer = WritersLock(self.path)
            self._refresh()  # what the last writer wrote; from now on this run knows itself what there is
            self._writer = writer

    # ---- reading -----------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        while self._writer is None:
            blob = self.store.get(ledger_recipe(self._chunk, self.network))
            if blob is None:
                return
            writes, full = decode(blob, str(self.path))
            for write in writes[len(self._tail) :]:
                self._history.add(write)
            self._tail = writes
            following = ledger_recipe(self._chunk + 1, self.network)
            if not full or self.store.get(following) is None:
                return
            self._chunk, self._tail = self._chunk + 1, []

    def _now(self) -> History:
        with self._lock:
            self._refresh()
            return self._history

    def names(self) -> list[str]:
        """The names of all recorded Views, in the order in which they first appeared."""
        return list(self._now().views)

    def steps(self, name: str) -> list[int]:
        """The steps at which a View of this name was recorded, in order; none for a name that isn't here."""
        return list(self._now().views.get(name, []))

    def latest(self, name: str = "") -> int | None:
        """The last step at which anything, or a View of this name, was recorded; None when nothing was."""
        history = self._now()
        if not name:
            return history.latest
        steps = history.views.get(name)
        return steps[-1] if steps else None

    def get(self, step: int, name: str) -> View:
        """The View of this name recorded at exactly this step."""
        return View.from_bytes(self.bytes(step, name))

    def bytes(self, step: int, name: str) -> bytes:
        """The View's bytes as they lie on the disk; raises :class:`UnknownName` with the nearest step or name."""
        history = self._now()
        if not history.has(step, name):
            raise self._unknown(history, step, name)
        blob = self.store.get(self.recipe(step, name))
        if blob is None:
            raise ConvscopeError(
                f"the View {name} of step {step} is damaged", where=str(self.path), next_step="choose another step"
            )
        return blob

    def _unknown(self, history: History, step: int, name: str) -> UnknownName:
        steps = history.views.get(name)
        if not steps:
            known = suggest(name, history.views) or f"recorded are {', '.join(list(history.views)[:8]) or 'no Views'}"
            return UnknownName(f"nothing called {name[:80]!r} was recorded", where=self.name, next_step=known)
        nearest = min(steps, key=lambda each: (abs(each - step), each))
        return UnknownName(
            f"{name} wasn't recorded at step {step}", where=self.name, next_step=f"the nearest step is {nearest}"
        )

    def scalars(self) -> dict[str, tuple[Array, Array]]:
        """Every scalar's steps (int64, rising) and values (float64), by name; of equal steps the last one written."""
        with self._lock:
            pairs = [(name, np.array(steps), np.array(values)) for name, (steps, values) in self._now().scalars.items()]
        return {name: in_order(steps, values) for name, steps, values in pairs if len(steps)}

    def events(self) -> list[Event]:
        """Everything that happened, in the order in which it was written; without what was taken back."""
        found: list[Event] = []
        for write in self._now().writes:
            if write.rewound:
                found = [event for event in found if event.step <= write.step]
            found += write.events
        return found

    def follow(self, after: int = 0) -> News:
        """What was written after a position (0: all of it). Cheap when nothing was: ask as often as you like."""
        history = self._now()
        fresh = history.writes[max(0, after) :]
        return News(
            len(history.writes),
            tuple((write.step, write.views) for write in fresh if write.views),
            tuple(row for write in fresh for row in rows(write)),
            tuple(event for write in fresh for event in write.events),
            after > len(history.writes) or any(write.rewound for write in fresh),
        )


def _header_of(store: Store) -> View | None:
    for entry in store.query(method=METHOD, target="", kind=KIND, limit=1):
        blob = store.get(entry.key)
        if blob is not None:
            return View.from_bytes(blob)
    return None


def _is_run(folder: Path) -> bool:
    if not (folder / INDEX).exists():
        return False
    try:
        with Store.open(folder) as store:
            return bool(store.query(method=METHOD, target="", kind=KIND, limit=1))
    except ConvscopeError:
        return False


__all__ = ["News", "Run", "split_view_name", "view_name"]
