"""The run that is open: a trainer in threads of its own, watched by any number of pages. Knows no HTTP.

A page asks for a frame when it has painted the last one, and always gets the newest; nothing is queued for anyone, so
a slow page misses frames and training never waits. What blocks (a step, the boundary between two steps) is waited for
in threads that belong to training alone: the rest of the server has its own.
"""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from convscope.errors import ConvscopeError, Refused, UnknownName, suggest
from convscope.server.jobs import Busy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from convscope.training.backpropagation import Backpropagation
    from convscope.training.frames import Frame
    from convscope.training.recorded import Recorded
    from convscope.training.trainer import Trainer

Result = TypeVar("Result")

FRAME_SECONDS = 2.0  # that a question for a frame waits
WAITING_LIMIT = 64  # questions for frames that wait at once
PANELS = ("map", "map_gradient", "kernel", "kernel_gradient", "bias", "bias_gradient", "spatial", "spatial_gradient")
USUAL_PANELS = PANELS[:6]
MOST_IMAGES = 4
_STATISTICS_SECONDS = 0.2
_THREADS = 6
_PASSES = 8  # backward passes whose terms can be asked for


class LiveRun:
    """A trainer and what pages ask of it.

    ``identity`` is its id, ``notify`` is called in the event loop whenever something changed. All coroutines belong to
    that loop.
    """

    def __init__(self, trainer: Trainer, recorded: Recorded, identity: str, notify: Callable[[LiveRun], None]) -> None:
        self.trainer = trainer
        self.recorded = recorded
        self.identity = identity
        self._notify = notify
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="convscope-watching")
        self._news: asyncio.Future[None] = self._loop.create_future()
        self._waiting = 0
        self._serial = 0
        self._shown: Frame | None = None
        self._framing = threading.Lock()
        self._blobs: dict[tuple[Any, ...], asyncio.Future[bytes]] = {}
        self._statistics: tuple[float, int, dict[str, Any]] = (0.0, -1, {})
        self._lock = threading.Lock()
        self._passes: dict[int, Backpropagation] = {}
        self._closing = threading.Event()
        self._over = False  # its threads take nothing more
        self._changing = asyncio.Lock()  # one change of what the trainer does at a time
        self._watcher = threading.Thread(target=self._watch, name="convscope-news", daemon=True)
        self._watcher.start()

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.recorded.path

    # ---- threads -----------------------------------------------------------------------------------------------

    async def away(self, work: Callable[[], Result]) -> Result:
        """Have something done that may wait for a step to end; refused once the run is closed."""
        if self._over:
            raise Refused("this run was closed", where=self.identity, next_step="open it: it goes on where it stopped")
        return await self._loop.run_in_executor(self._threads, work)

    async def change(self, work: Callable[[], Result]) -> Result:
        """Have something done that changes what the trainer does; others who want that wait."""
        async with self._changing:
            return await self.away(work)

    def _watch(self) -> None:
        """Wake whoever waits in the event loop when the trainer has news."""
        version = -1
        while not self._closing.is_set():
            now = self.trainer.watchers.wait(version, 0.5)
            if now != version:
                version = now
                with suppress(RuntimeError):  # the loop is closed: nobody is left to hear
                    self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        news, self._news = self._news, self._loop.create_future()
        if not news.done():
            news.set_result(None)
        self._notify(self)

    async def close(self) -> None:
        """Stop training, and write what is recorded to its end."""
        self._closing.set()
        try:
            await self.away(self.trainer.close)
        finally:
            self._over = True
            self._wake()
            self._threads.shutdown(wait=False)

    # ---- frames ------------------------------------------------------------------------------------------------

    async def frame(
        self, after: int, layers: Sequence[str], panels: Sequence[str], images: int
    ) -> tuple[int, bytes] | None:
        """The newest frame, once it is another than ``after``; None after two seconds.

        Each frame has a number of its own, which only grows, over all runs of this process.
        """
        if self._waiting >= WAITING_LIMIT:
            raise Busy("too many pages wait for frames", next_step="close some of them")
        self._check(layers)
        self._waiting += 1
        try:
            found = await self._newer(after)
        finally:
            self._waiting -= 1
        if found is None:
            return None
        serial, frame = found
        return serial, await self._blob(serial, frame, tuple(layers), tuple(panels), images)

    def _check(self, layers: Sequence[str]) -> None:
        known = self.trainer.learner.panels
        for each in layers:
            if each not in known:
                raise UnknownName(f"no layer {each[:80]!r}", next_step=suggest(each, known) or "look at the run's list")

    async def _newer(self, after: int) -> tuple[int, Frame] | None:
        deadline = self._loop.time() + FRAME_SECONDS
        while not self._closing.is_set():
            news = self._news
            if self.trainer.state == "running":
                frame = self.trainer.watchers.frame(-1, 0.0)  # asking is what keeps them coming
            else:
                frame = await self.away(self._still_frame)
            if frame is not None:
                serial = self._number(frame)
                if serial != after:
                    return serial, frame
            rest = deadline - self._loop.time()
            if rest <= 0:
                break
            await asyncio.wait({asyncio.shield(news)}, timeout=rest)
        return None

    def _still_frame(self) -> Frame | None:
        with self._framing:  # the second of two pages finds what the first had made
            return self.trainer.frame(-1, 0.0)

    def _number(self, frame: Frame) -> int:
        with self._lock:
            if frame is not self._shown:
                self._serial, self._shown = next_serial(), frame
            return self._serial

    async def _blob(
        self, serial: int, frame: Frame, layers: tuple[str, ...], panels: tuple[str, ...], images: int
    ) -> bytes:
        """The frame's bytes; pages that look at the same panels share the work."""
        key = (serial, layers, panels, images)
        if key not in self._blobs:
            self._blobs = {known: each for known, each in self._blobs.items() if known[0] >= serial - 1}
            self._blobs[key] = asyncio.ensure_future(
                self.away(lambda: self._encoded(serial, frame, layers, panels, images))
            )
        return await asyncio.shield(self._blobs[key])

    def _encoded(
        self, serial: int, frame: Frame, layers: tuple[str, ...], panels: tuple[str, ...], images: int
    ) -> bytes:
        from convscope.server.frame_blob import frame_view
        from convscope.server.training_answers import statistics_answer

        statistics = statistics_answer(self.statistics()).model_dump()
        meta = {"frame": serial, "run": self.identity, "statistics": statistics}
        return frame_view(frame, layers, panels, images, meta).to_bytes()

    # ---- numbers -----------------------------------------------------------------------------------------------

    def statistics(self) -> dict[str, Any]:
        """The trainer's numbers, at most some fifth of a second old while it runs; may wait for a step to end."""
        with self._lock:
            stamp, version, known = self._statistics
        now = time.monotonic()
        if known and version == self.trainer.learner.steps and self.trainer.state == known["state"]:
            return known
        if known and now - stamp < _STATISTICS_SECONDS and known["state"] == self.trainer.state == "running":
            return known
        found = self.trainer.statistics()
        with self._lock:
            self._statistics = (now, found["step"], found)
        return found

    def forget_statistics(self) -> None:
        """Something was changed between two steps."""
        with self._lock:
            self._statistics = (0.0, -1, {})

    # ---- running -----------------------------------------------------------------------------------------------

    def reset(self, path: Path) -> None:
        """Begin anew, recorded in another folder; what was recorded stays."""
        self.trainer.cancel()
        before, self.recorded.path = self.recorded.path, path
        try:
            self.trainer.reset()
        except ConvscopeError:
            self.recorded.path = before
            raise
        self.recorded.save(self.trainer.learner)
        self.forget_statistics()

    def step(self, count: int) -> None:
        """Take single steps; an end of the server or of the run cuts them short."""
        for _ in range(count):
            if self._closing.is_set():
                break
            self.trainer.step()

    # ---- the backward pass of one image ------------------------------------------------------------------------

    def backpropagation(self, index: int, label: int | None) -> tuple[int, Backpropagation]:
        """That of a held-out image, towards its own class or another; kept under a number, to ask for its terms."""
        from convscope.training.backpropagation import backpropagation

        learner = self.trainer.learner
        part = learner.data.held_out
        if not 0 <= index < len(part):
            raise UnknownName(f"no held-out image {index}", next_step=f"choose 0 to {len(part) - 1}")
        image = learner.batches.normalized(part.images[index : index + 1]).to(learner.device)
        true = int(part.labels[index]) if label is None else label

        def work() -> Backpropagation:
            return backpropagation(learner.module, learner.definition.loss, image, true, learner.given.class_names)

        found = self.trainer.at_boundary(work)
        number = next_serial()
        with self._lock:
            self._passes[number] = found
            while len(self._passes) > _PASSES:
                self._passes.pop(next(iter(self._passes)))
        return number, found

    def backward_pass(self, number: int) -> Backpropagation:
        """One of the last that were asked for."""
        with self._lock:
            found = self._passes.get(number)
        if found is None:
            raise UnknownName(f"the backward pass {number} isn't kept any more", next_step="ask for it again")
        return found


_serials = 0
_counting = threading.Lock()


def next_serial() -> int:
    """A number above all that were given."""
    global _serials
    with _counting:
        _serials += 1
        return _serials


__all__ = ["MOST_IMAGES", "PANELS", "USUAL_PANELS", "LiveRun", "next_serial"]
