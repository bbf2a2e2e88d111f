"""The runs in one folder, whoever writes them: found by id, read while they grow, never by a path from outside.

Knows no HTTP. A run's id is its folder's name, or of a folder with an odd name a digest; an id that isn't in the list
of what lies there is unknown, whatever it says.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import threading
import time
from collections import OrderedDict
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convscope.errors import ConvscopeError, UnknownName, suggest
from convscope.store import INDEX, OBJECTS, TEMPORARY, Store
from convscope.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from convscope.training.curves import Curves
    from convscope.training.ledger import Event
    from convscope.training.run import Run

MOST_RUNS = 1000
SNAPSHOT = "snapshot.safetensors"
RECORDING_SECONDS = 15.0  # a run that was written within them is still being recorded
_OPEN = 24  # runs whose index stays open
_PLAIN = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

Stamp = tuple[int, int]


def run_id(name: str) -> str:
    """The id of the run in a folder of this name: itself where that can stand in an address.

    >>> run_id("lenet5-2"), run_id("My run 2")
    ('lenet5-2', 'my-run-2-d75dc3')
    """
    if _PLAIN.fullmatch(name):
        return name
    return f"{slug(name)}-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:6]}"


def slug(name: str) -> str:
    """A name as a folder's: small letters, digits and hyphens.

    >>> slug("ResNet, η = 0.1"), slug("../..")
    ('resnet-0-1', 'run')
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:48].strip("-") or "run"


@dataclass(frozen=True)
class Summary:
    """What a list says of a run; ``problem`` why nothing of it can be read."""

    id: str
    path: Path
    name: str
    created: str
    facts: Mapping[str, Any]
    step: int | None
    ended: str  # the last word about how it goes: "paused", "finished", "failed", "stopped" or ""
    written: float  # seconds since the epoch
    problem: str = ""
    settled: bool = False  # nothing was written since it was closed here

    @property
    def recording(self) -> bool:
        """Whether it looks as if something were writing it."""
        return not (self.ended or self.settled) and time.time() - self.written < RECORDING_SECONDS

    @property
    def resumable(self) -> bool:
        """Whether there is a snapshot to go on from."""
        return (self.path / SNAPSHOT).is_file()


class Reader:
    """One run, open for reading: what is new in it is read once, into curves of bounded length."""

    def __init__(self, run: Run) -> None:
        from convscope.training.curves import Curves

        self.run = run
        self.curves: Curves = Curves()
        self.events: list[Event] = []
        self._position = 0
        self.lock = threading.RLock()

    def refresh(self) -> None:
        """Take in what was written since."""
        with self.lock:
            news = self.run.follow(self._position)
            if news.rewound:
                self.curves.clear()
                self.events.clear()
                self._position = 0
                self._read_anew()
                return
            self._position = news.position
            self.events += news.events
            for step, name, value in news.scalars:
                self.curves.add(step, **{name: value})

    def _read_anew(self) -> None:
        """After steps were taken back: what is left, which only the run as a whole can say."""
        for name, (steps, values) in self.run.scalars().items():
            for step, value in zip(steps.tolist(), values.tolist(), strict=True):
                self.curves.add(step, **{name: value})
        self.events += self.run.events()
        self._position = self.run.follow(1 << 62).position


class RunFolder:
    """All runs in a folder: those directly in it, and itself if it is one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[Path, tuple[Stamp, Summary]] = {}
        self._settled: dict[Path, Stamp] = {}
        self._readers: OrderedDict[str, Reader] = OrderedDict()
        self._lock = threading.RLock()

    def fresh(self, base: str) -> Path:
        """A folder for a new run that isn't there yet: ``base``, ``base-2`` and so on."""
        name, number = slug(base), 1
        while True:
            path = self.path / (name if number == 1 else f"{name}-{number}")
            if not path.exists():
                return path
            number += 1

    # ---- finding -----------------------------------------------------------------------------------------------

    def stamps(self) -> dict[str, Stamp]:
        """When each run, by its id, was last written, and how large its index is."""
        found: dict[str, Stamp] = {}
        for folder in self._folders():
            stamp = _stamp(folder)
            if stamp is not None:
                found[run_id(folder.name)] = stamp
        return found

    def _folders(self) -> list[Path]:
        try:
            inside = sorted(each for each in self.path.iterdir() if not each.name.startswith("."))
        except OSError:
            return []
        here = self.path.resolve()
        return [each for each in (here, *inside) if (each / INDEX).is_file()][:MOST_RUNS]

    def summaries(self) -> list[Summary]:
        """What there is, the one that was begun last first."""
        found = [each for folder in self._folders() if (each := self._summary(folder)) is not None]
        return sorted(found, key=lambda each: (each.created, each.id), reverse=True)

    def summary(self, identity: str) -> Summary:
        """One run; raises :class:`UnknownName`."""
        folder = self._folder_of(identity)
        found = None if folder is None else self._summary(folder)
        if found is None:
            known = [run_id(each.name) for each in self._folders()]
            raise UnknownName(
                f"there is no run {identity[:64]!r} here", next_step=suggest(identity, known) or "look at the list"
            )
        return found

    def _folder_of(self, identity: str) -> Path | None:
        return next((each for each in self._folders() if run_id(each.name) == identity), None)

    def _summary(self, folder: Path) -> Summary | None:
        """None where there is a store, but no run in it."""
        stamp = _stamp(folder)
        if stamp is None:
            return None
        with self._lock:
            known = self._known.get(folder)
            settled = self._settled.get(folder) == stamp
        if known is not None and known[0] == stamp:
            return known[1]
        try:
            summary = _read(folder, stamp, settled=settled)
        except ConvscopeError as error:
            written = stamp[0] / 1e9
            summary = Summary(run_id(folder.name), folder, folder.name, "", {}, None, "", written, str(error))
        if summary is not None:
            with self._lock:
                self._known[folder] = (stamp, summary)
        return summary

    # ---- reading -----------------------------------------------------------------------------------------------

    @contextmanager
    def reading(self, identity: str, folder: Path | None = None) -> Iterator[Reader]:
        """A run's reader, with all that was written so far; nobody else uses it inside the block."""
        while True:
            reader = self._reader(identity, folder)
            with reader.lock:
                if reader.run.closed:  # it gave way to others in between
                    continue
                reader.refresh()
                yield reader
                return

    def _reader(self, identity: str, folder: Path | None) -> Reader:
        from convscope.training.run import Run

        with self._lock:
            reader = self._readers.get(identity)
        path = folder or (self.summary(identity).path if reader is None else None)
        with self._lock:
            reader = self._readers.get(identity)
            if reader is None or reader.run.closed:
                reader = Reader(Run.open(reader.run.path if reader is not None else path or self.path))
            self._readers[identity] = reader
            self._readers.move_to_end(identity)
            gone = [self._readers.popitem(last=False)[1] for _ in range(len(self._readers) - _OPEN)]
        for each in gone:
            with each.lock:
                each.run.close()
        return reader

    def forget(self, identity: str) -> None:
        """Close a run's reader: from now on somebody else in this process has it open."""
        with self._lock:
            reader = self._readers.pop(identity, None)
        if reader is not None:
            with reader.lock:
                reader.run.close()

    def remove(self, folder: Path) -> None:
        """Remove a run, and nothing else that may lie in its folder."""
        self.forget(run_id(folder.name))
        for part in (OBJECTS, TEMPORARY):
            shutil.rmtree(folder / part, ignore_errors=True)
        for name in (INDEX, SNAPSHOT):
            (folder / name).unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()

    def settle(self, folder: Path) -> None:
        """A run was closed in this process: it isn't being recorded, however lately it was written."""
        stamp = _stamp(folder)
        with self._lock:
            if stamp is not None:
                self._settled[folder] = stamp
            self._known.pop(folder, None)

    def close(self) -> None:
        """Close every run."""
        with self._lock:
            readers = list(self._readers.values())
            self._readers.clear()
        for reader in readers:
            with reader.lock:
                reader.run.close()


_ENDS = ("paused", "finished", "failed", "stopped")


def _read(folder: Path, stamp: Stamp, *, settled: bool) -> Summary | None:
    """What the header and the end of the ledger say: a long run isn't read as a whole to be listed."""
    from convscope.training.ledger import KIND as LEDGER
    from convscope.training.ledger import METHOD, decode
    from convscope.training.run import KIND

    with Store.open(folder) as store:
        headers = store.query(method=METHOD, target="", kind=KIND, limit=1)
        if not headers:
            return None
        header = _view(store, headers[0].key)
        entries = store.query(method=METHOD, kind=LEDGER)
        entries.sort(key=lambda each: int(each.recipe.parameters.get("chunk", 0)))
        blob = store.get(entries[-1].key) if entries else None
    writes = decode(blob, str(folder))[0] if blob is not None else []
    # Numbers are written sooner than Views of the same steps.
    latest = max((step for write in writes for step in (write.step, *write.scalar_steps.tolist())), default=None)
    meta = header.meta
    facts = meta.get("facts")
    return Summary(
        run_id(folder.name),
        folder,
        str(meta.get("name", folder.name))[:200],
        str(meta.get("created", ""))[:40],
        facts if isinstance(facts, dict) else {},
        latest,
        _ended([event for write in writes for event in write.events], latest),
        stamp[0] / 1e9,
        settled=settled,
    )


def _view(store: Store, key: str) -> View:
    blob = store.get(key)
    if blob is None:
        raise ConvscopeError("the run's header is damaged", where=str(store.path), next_step="record it again")
    return View.from_bytes(blob)


def _ended(events: list[Event], latest: int | None) -> str:
    """How a run ended, unless it went on afterwards. A failure with a name is one of recording something."""
    for event in reversed(events):
        if event.kind in _ENDS and not (event.kind == "failed" and event.name):
            return event.kind if latest is None or event.step >= latest else ""
    return ""


def _stamp(folder: Path) -> Stamp | None:
    try:
        facts = (folder / INDEX).stat()
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size


__all__ = ["MOST_RUNS", "SNAPSHOT", "Reader", "RunFolder", "Summary", "run_id", "slug"]
