"""The ledger of a run: every write that was ever made to it, in order; what says which steps and Views there are.

It only grows. A chunk of it is one View, replaced by a longer one at each write until it is full.
docs/reference/run-format.md is the contract.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from convscope.errors import ConvscopeError
from convscope.view import Recipe, View

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from convscope.view import Array

FORMAT = 1
KIND = "training_ledger"
METHOD = "training"
# A chunk is written anew at every write, so it must stay small; and there should be few of them.
LARGEST_WRITES = 256
LARGEST_SCALARS = 4096


@dataclass(frozen=True)
class Event:
    """Something that happened at a step.

    ``kind`` is a word such as "setting" (``name`` went from ``old`` to ``new``), "not_finite", "paused", "resumed",
    "rewound", "dropped", "schedule", "failed"; ``text`` is a sentence for a person. ``old`` and ``new`` are numbers,
    texts, truth values or None.
    """

    step: int
    kind: str
    name: str = ""
    old: Any = None
    new: Any = None
    text: str = ""

    def to_json(self) -> dict[str, Any]:
        """The event as plain JSON values; numbers that JSON doesn't have become their names."""
        return {
            "step": self.step,
            "kind": self.kind,
            "name": self.name,
            "old": _plain(self.old),
            "new": _plain(self.new),
            "text": self.text,
        }


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return number if math.isfinite(number) else str(number)


@dataclass(frozen=True, eq=False)
class Write:
    """One transaction: the Views recorded at its step, scalars of this and earlier steps, events.

    ``rewound`` True says that everything recorded after its step, by the writes before it, no longer counts.
    """

    step: int
    views: tuple[str, ...] = ()
    scalar_steps: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    scalar_names: tuple[str, ...] = ()
    scalar_values: Array = field(default_factory=lambda: np.zeros(0, np.float64))
    events: tuple[Event, ...] = ()
    rewound: bool = False

    @classmethod
    def of(
        cls,
        step: int,
        views: Sequence[str],
        scalars: Sequence[tuple[int, Mapping[str, float]]],
        events: Sequence[Event],
    ) -> Write:
        """A write from what people give: rows of scalars, each with its step."""
        flat = [(at, name, float(value)) for at, row in scalars for name, value in row.items()]
        return cls(
            step,
            tuple(views),
            np.array([at for at, _, _ in flat], np.int64),
            tuple(name for _, name, _ in flat),
            np.array([value for _, _, value in flat], np.float64),
            tuple(events),
        )


def ledger_recipe(chunk: int, network: str) -> Recipe:
    """The recipe, and so the key, of a chunk of the ledger."""
    return Recipe(METHOD, {"name": "ledger", "chunk": chunk}, network=network)


def is_full(writes: Sequence[Write]) -> bool:
    """Whether the next write begins a new chunk."""
    return len(writes) >= LARGEST_WRITES or sum(len(each.scalar_names) for each in writes) >= LARGEST_SCALARS


def encode(chunk: int, writes: Sequence[Write], network: str) -> View:
    """A chunk as a View; the same writes give the same bytes."""
    views = list(dict.fromkeys(name for write in writes for name in write.views))
    scalars = list(dict.fromkeys(name for write in writes for name in write.scalar_names))
    view_index = {name: index for index, name in enumerate(views)}
    scalar_index = {name: index for index, name in enumerate(scalars)}
    arrays: dict[str, Array] = {
        "step": np.array([write.step for write in writes], np.int64),
        "view_end": np.cumsum([len(write.views) for write in writes], dtype=np.int64),
        "view": np.array([view_index[name] for write in writes for name in write.views], np.int32),
        "scalar_end": np.cumsum([len(write.scalar_names) for write in writes], dtype=np.int64),
        "scalar": np.array([scalar_index[name] for write in writes for name in write.scalar_names], np.int32),
        "scalar_step": np.concatenate([np.zeros(0, np.int64), *(write.scalar_steps for write in writes)]),
        "scalar_value": np.concatenate([np.zeros(0), *(write.scalar_values for write in writes)]),
    }
    axes = {
        name: ("write",) if name in ("step", "view_end", "scalar_end") else (name.split("_")[0],) for name in arrays
    }
    meta = {
        "caption": f"Chunk {chunk} of the ledger of a training run.",
        "format": FORMAT,
        "chunk": chunk,
        "full": is_full(writes),
        "views": views,
        "scalars": scalars,
        "events": [[index, each.to_json()] for index, write in enumerate(writes) for each in write.events],
        "rewound": [index for index, write in enumerate(writes) if write.rewound],
    }
    return View(KIND, arrays, axes, meta, ledger_recipe(chunk, network))


def decode(blob: bytes, where: str) -> tuple[list[Write], bool]:
    """The writes of a chunk, and whether it is full."""
    view = View.from_bytes(blob)
    if view.meta.get("format", 0) != FORMAT or view.kind != KIND:
        raise ConvscopeError(
            f"a run of format {view.meta.get('format')}; this convscope reads format {FORMAT}",
            where=where,
            next_step="upgrade convscope",
        )
    try:
        return _writes(view), bool(view.meta["full"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ConvscopeError(
            "the run's ledger doesn't fit together", where=where, next_step="record the run again"
        ) from error


def _writes(view: View) -> list[Write]:
    view_names, scalar_names = list(view.meta["views"]), list(view.meta["scalars"])
    events: dict[int, list[Event]] = {}
    for index, event in view.meta["events"]:
        events.setdefault(int(index), []).append(Event(**event))
    rewound = set(view.meta["rewound"])
    found = []
    view_start = scalar_start = 0
    for index, (step, view_end, scalar_end) in enumerate(
        zip(view["step"].tolist(), view["view_end"].tolist(), view["scalar_end"].tolist(), strict=True)
    ):
        if not (view_start <= view_end <= len(view["view"]) and scalar_start <= scalar_end <= len(view["scalar"])):
            raise ValueError("ends out of order")
        found.append(
            Write(
                step,
                tuple(view_names[each] for each in view["view"][view_start:view_end].tolist()),
                view["scalar_step"][scalar_start:scalar_end],
                tuple(scalar_names[each] for each in view["scalar"][scalar_start:scalar_end].tolist()),
                view["scalar_value"][scalar_start:scalar_end],
                tuple(events.get(index, ())),
                index in rewound,
            )
        )
        view_start, scalar_start = view_end, scalar_end
    return found


__all__ = ["METHOD", "Event", "Write", "decode", "encode", "is_full", "ledger_recipe"]
