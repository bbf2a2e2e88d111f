"""Training over the server: the images that can be trained on, the runs in a folder, and the one run that is open.

Knows no HTTP. Torch and what trains are imported when something is trained: a server that begins to listen doesn't
wait for them, nor does training wait for the network of the explorer.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convscope.errors import Cancelled, ConvscopeError, Refused
from convscope.server.events import TrainingEvent
from convscope.server.live_run import LiveRun
from convscope.server.racing import Racing
from convscope.server.run_folder import SNAPSHOT, RunFolder, Stamp, run_id
from convscope.server.training_data import TrainingData

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from convscope.server.jobs import Jobs
    from convscope.server.snapshots import Read
    from convscope.server.training_data import Wanted
    from convscope.training.learner import Learner
    from convscope.training.recorded import Recorded
    from convscope.training.trainer import Trainer

NEWS_SECONDS = 1.0
BETWEEN_NEWS_SECONDS = 0.5
FRAMES_PER_SECOND = 15.0  # so that ten arrive, also where the machine has other things to do
FIRST = "first-run"
"""What the job is called that makes the run which the server begins with."""

_log = logging.getLogger("convscope")


class Training:
    """What a session does with training. ``place`` is the runs' folder, None for one that goes at the end."""

    def __init__(self, jobs: Jobs, place: str | None = None, data: Sequence[str] = ()) -> None:
        self.place = place or ""
        self.data = TrainingData(data)
        self.live: LiveRun | None = None
        self._jobs = jobs
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._folder: RunFolder | None = None if place is None else RunFolder(Path(place))
        self._opening = asyncio.Lock()
        self._following: asyncio.Task[None] | None = None
        self._told: tuple[str, str, float] = ("", "", 0.0)
        self.racing = Racing(self.data, jobs)
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
        return "" if self.data.usable else "there are no images to train on"

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
                from convscope.training.until import Until

                await live.change(lambda: live.trainer.start(Until(**until)))

        self._first = begin

    async def _begin_first(self, begin: Callable[[], Awaitable[None]]) -> None:
        try:
            await begin()
        except Cancelled:
            pass  # somebody's wish, no failure
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

            data, definition = self.data.of(wanted)
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
            return snapshot.learner(self.data.of_snapshot(snapshot, summary.facts, data))

        return await self._open(work, lambda: summary.path, job, replaces=replaces, resume=True)

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
            # From here on it is finished whoever goes away: a run that is half open could never be closed.
            swap = asyncio.ensure_future(self._swap(learner, path, resume=resume))
            try:
                return await asyncio.shield(swap)
            finally:
                await asyncio.wait({swap})

    async def _swap(self, learner: Learner, path: Callable[[], Path], *, resume: bool) -> LiveRun:
        """Close the run that is open, and open another in its place."""
        await self._close_live()
        trainer, recorded = await asyncio.to_thread(self._recorded, learner, path, resume=resume)
        self.live = LiveRun(trainer, recorded, run_id(recorded.path.name), self._tell_of_live)
        self._tell_of_live(self.live)
        return self.live

    def _recorded(self, learner: Learner, path: Callable[[], Path], *, resume: bool) -> tuple[Trainer, Recorded]:
        """A trainer that is recorded in this folder, with what is known of its past."""
        from convscope.training.recorded import Recorded
        from convscope.training.trainer import Trainer

        folder = path()
        if not folder.exists():
            self._made.add(folder)
        give = self._past(folder) if resume else None
        self.folder.forget(run_id(folder.name))
        recorded = Recorded(folder, resume=resume)
        trainer = Trainer(learner, recorded, frames_per_second=FRAMES_PER_SECOND)
        recorded.save(learner)  # from now on it can be opened again, whatever happens
        if give is not None:
            give(trainer)
        return trainer, recorded

    def _past(self, folder: Path) -> Callable[[Trainer], None]:
        """The curves and events of a run that goes on, for its trainer."""
        with self.folder.reading(run_id(folder.name), folder) as reader:
            curves, events = reader.curves.read(), list(reader.events)

        def give(trainer: Trainer) -> None:
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
        """Frames come faster than anybody needs to hear of them here; everything else is told at once."""
        now, state = time.monotonic(), live.trainer.state
        same = (state, live.identity) == self._told[:2] and state == "running"
        if self.live is live and not (same and now - self._told[2] < BETWEEN_NEWS_SECONDS):
            self._told = (state, live.identity, now)
            self._announce(TrainingEvent(live.identity, state, live.trainer.learner.steps, live=True))

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


__all__ = ["FIRST", "Training"]
