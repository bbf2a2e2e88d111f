"""Session: one open network, its images and its store, and how a request becomes a View.

The store first, the worker on a miss, and both give the same bytes. Another network can take the place of the one that
the session began with: one that is being trained here. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convscope.errors import Cancelled, ConvscopeError
from convscope.progress import report
from convscope.server import question as questions
from convscope.server.detached import Detached
from convscope.server.events import JobEvent, SessionEvent
from convscope.server.memory import MEMORY_BYTES, Memory
from convscope.server.question import Opened, Question, Replaced
from convscope.server.study import Studying
from convscope.server.training import Training
from convscope.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence

    from convscope.images import Image, ImageSet
    from convscope.network.batch import Batch
    from convscope.network.receptive_field import Box
    from convscope.server.jobs import Jobs

UPLOADED_BYTES = 512 * 1024 * 1024
VIEW_BYTES = 512 * 1024 * 1024
"""Of one View: a browser that is sent more can do nothing with it, and several are computed at once."""
OPENING = "open"
REPLACED = "another network was opened in place of this one"

_log = logging.getLogger("convscope")


@dataclass(frozen=True, eq=False)
class _Place:
    """Where what is computed of a network is kept."""

    store: Store
    studying: Studying
    folder: tempfile.TemporaryDirectory[str] | None = None

    async def close(self) -> None:
        await self.studying.close()
        self.store.close()
        if self.folder is not None:
            await asyncio.to_thread(self.folder.cleanup)


class Session:
    """``opener`` loads the network and the images; it runs in the worker as soon as the server listens.

    ``place`` is the store's folder as the user named it; empty where it goes when the session ends. Where it isn't
    ``needed``, the network is opened when somebody first looks at it, and the session goes on without it. ``opening``
    counts the networks that took each other's place, from 1.
    """

    def __init__(
        self,
        opener: Callable[[], Opened],
        store: Store,
        jobs: Jobs,
        *,
        place: str = "",
        training: Training | None = None,
        needed: bool = True,
    ) -> None:
        self.jobs = jobs
        self.training = training or Training(jobs)
        self.detached = Detached()
        self.pictures: Memory[bytes] = Memory(MEMORY_BYTES, len)  # thumbnails, prepared images, downloads
        self.methods: list[dict[str, Any]] = []
        self.unavailable: list[dict[str, str]] = []
        self.opening = 1
        self.seconds: dict[str, float] = {}  # what a View of each method took last
        self._first = _Place(store, Studying(store, jobs, place))
        self._place = self._first
        self._opener = opener
        self._needed = needed
        self._started = False
        self._opening: asyncio.Task[Opened] | None = None
        self._explored: Opened | None = None
        self._replacing = asyncio.Lock()
        self._unkept: Memory[bytes] = Memory(MEMORY_BYTES, len)  # what the store couldn't take
        self._batches: Memory[Batch] = Memory(
            4 * MEMORY_BYTES, lambda batch: batch.tensor.numel() * batch.tensor.element_size()
        )
        self._uploaded = 0
        self._adding = threading.Lock()

    @property
    def store(self) -> Store:
        """Where the Views of the network that is open are kept."""
        return self._place.store

    @property
    def studying(self) -> Studying:
        """What was mined of the network that is open."""
        return self._place.studying

    def start(self) -> None:
        """Start the worker, with opening the network as its first job if it is needed."""
        self.jobs.start()
        self._started = True
        if self._needed:
            self._begin_opening()
        self.studying.start()
        self.training.start()

    def _begin_opening(self) -> asyncio.Task[Opened]:
        self._opening = asyncio.ensure_future(self.jobs.run(OPENING, self._open, OPENING))
        # A failure is told to everyone who asks; that nobody has asked yet isn't a second failure.
        self._opening.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._opening

    async def close(self) -> None:
        """Stop training and the worker, and close the store."""
        self.jobs.stop()
        await self.detached.close()
        await self.training.close()
        await self.jobs.close()
        for place in {self._first, self._place}:
            await place.close()

    async def opened(self) -> Opened:
        """The network and images, once they are there; raises what opening them raised."""
        if not self._started:
            raise RuntimeError("the session was never started")
        if self._explored is not None:
            return self._explored
        return await asyncio.shield(self._opening or self._begin_opening())

    def check_opening(self, known: int) -> None:
        """Raise :class:`Replaced` for who knows another network than the one that is open."""
        if known != self.opening:
            raise Replaced(REPLACED, next_step="load the page again")

    def when_failed(self, callback: Callable[[], None]) -> None:
        """Call back if the network that is needed can't be opened."""
        if self._opening is not None and self._needed:
            self._opening.add_done_callback(lambda _: callback() if self.failure() else None)

    def failure(self) -> BaseException | None:
        """Why the network couldn't be opened; None while it is being opened, when it is open, or when cancelled."""
        task = self._opening if self._needed else None
        if task is None or not task.done() or task.cancelled() or isinstance(task.exception(), Cancelled):
            return None
        return task.exception()

    def raise_failure(self) -> None:
        """Raise :meth:`failure`, if there is one."""
        failure = self.failure()
        if failure is not None:
            raise failure

    def _open(self) -> Opened:
        report(0, 1, "opening the network")
        opened = self._opener()
        self._get_ready(opened)
        report(1, 1, "opening the network")
        return opened

    def _get_ready(self, opened: Opened) -> None:
        # Both are lazy and cost a forward pass: here, not in the first request.
        _ = opened.network.layers, opened.network.fingerprint
        self.methods, self.unavailable = questions.describe_methods()

    # ---- another network ---------------------------------------------------------------------------------------

    async def explore(self, make: Callable[[], Opened], name: str) -> Opened:
        """Open another network in place of the one that is open; making it is the job ``name``.

        What is computed of it is kept as long as it is open.
        """

        def work() -> Opened:
            report(0, 1, "taking the network out of training")
            opened = make()
            self._get_ready(opened)
            return opened

        async with self._replacing:
            opened = await self.jobs.run_beside(f"exploring {name}", work, name)
            await _to_its_end(self._replace_by(opened))
        return opened

    async def _replace_by(self, opened: Opened) -> None:
        def make() -> tuple[Store, tempfile.TemporaryDirectory[str]]:
            folder = tempfile.TemporaryDirectory(prefix="convscope-explored-", ignore_cleanup_errors=True)
            return Store.open(folder.name), folder

        store, folder = await asyncio.to_thread(make)
        await self._replace(opened, _Place(store, Studying(store, self.jobs), folder))

    async def go_back(self) -> Opened:
        """The network that the session began with is open again."""
        async with self._replacing:
            if self._explored is not None:
                await _to_its_end(self._replace(None, self._first))
        return await self.opened()

    async def _replace(self, opened: Opened | None, place: _Place) -> None:
        before, self._place, self._explored = self._place, place, opened
        self.opening += 1
        self.detached.cancel_all()
        self._batches.clear()
        if before is self._first:
            await before.studying.close()  # no one looks at what is mined of it
        else:
            await before.close()
        if self._started:
            place.studying.start()
        self.jobs.announce(SessionEvent(self.opening))

    # ---- views -------------------------------------------------------------------------------------------------

    async def ask(self, name: str, target: str, ids: Sequence[int], parameters: Mapping[str, str]) -> Question:
        """Check a request for a View; raises with the next step when it doesn't fit this network."""
        opened = await self.opened()
        # What was mined, and the images' bytes, are read from files.
        with self._here():
            return await asyncio.to_thread(questions.ask, opened, self.studying, name, target, ids, parameters)

    async def known(self, question: Question) -> bytes | None:
        """The View's blob, where it was computed before."""
        key = question.recipe.key
        if not question.method.kept:
            return self.pictures.get(key)
        with self._here():
            return self._unkept.get(key) or await asyncio.to_thread(self.store.get, key)

    @contextmanager
    def _here(self) -> Iterator[None]:
        """Whoever asks while another network is being opened is told so, not that a store was closed."""
        place = self._place
        try:
            yield
        except ConvscopeError as error:
            if self._place is not place:
                raise Replaced(REPLACED, next_step="load the page again") from error
            raise

    async def computed(self, question: Question, name: str, page: str = "") -> bytes:
        """The View's blob, computed as the job ``name``; what one page asks of one method is a line of its own."""
        key, line = question.recipe.key, f"{page} {question.method.name}"
        if question.method.long:
            return await self.jobs.run_long(key, lambda: self._compute(question), name, line)
        if not question.method.kept:
            # Read off the store, without running the network: it needn't wait for what does.
            return self.pictures.put(key, await asyncio.to_thread(self._compute, question))
        return await self.jobs.run(key, lambda: self._compute(question), name, line)

    async def begin(self, question: Question, name: str, page: str = "") -> JobEvent:
        """Have a View computed that nobody waits for; its job's state. It is cancelled when the page is gone."""
        self.detached.make_room()
        task = self.detached.begin(self.computed(question, name, page), page)
        await asyncio.sleep(0)  # until it stands in line, or was turned away
        if task.done():
            task.result()
        told = self.jobs.told(name)
        return JobEvent(name, "queued") if told is None else told[0]

    async def receptive_field(self, unit: str, name: str) -> Box:
        """What one neuron sees. Measuring it runs the network, which only the worker may do: as the job ``name``."""
        from convscope.network.unit import split_address

        network = (await self.opened()).network
        if network.layer(split_address(unit)[0]).receptive_field.exact:
            return await asyncio.to_thread(network.receptive_field, unit)
        return await self.jobs.run(f"receptive field of {unit}", lambda: network.receptive_field(unit), name)

    def _compute(self, question: Question) -> bytes:
        from convscope.methods.ranges import view_bytes

        network, method = question.opened.network, question.method
        batch = self._batch(question)
        started = time.monotonic()
        with view_bytes(VIEW_BYTES):
            view = method.run(network, question.target, images=batch)
        self.seconds[method.name] = time.monotonic() - started
        blob = view.to_bytes()
        if method.kept:
            try:
                self.store.put(view)
            except ConvscopeError as error:
                # A full disk costs the next visitor a computation, not this one their answer.
                _log.warning("a view couldn't be stored: %s", error)
                self._unkept.put(question.recipe.key, blob)
        elif method.long:
            self.pictures.put(question.recipe.key, blob)
        return blob

    def _batch(self, question: Question) -> Batch | None:
        """The prepared images; the same few are looked at again and again, so they stay in memory."""
        if not question.ids:
            return None
        key = (id(question.opened), question.ids)
        batch = self._batches.get(key)
        if batch is None:
            images = question.opened.images[question.ids]
            batch = self._batches.put(key, question.opened.network.batch(images))
        return batch

    async def add_image(self, encoded: bytes, name: str) -> Image:
        """Add an uploaded image (encoded bytes) to the set. ``name`` is shown, and never becomes a path."""
        opened = await self.opened()
        return await asyncio.to_thread(self._add_image, opened.images, encoded, name)

    def _add_image(self, images: ImageSet, encoded: bytes, name: str) -> Image:
        with self._adding:
            if self._uploaded + len(encoded) > UPLOADED_BYTES:
                raise ConvscopeError(
                    f"more than {UPLOADED_BYTES // 2**20} MiB of images were added to this session",
                    next_step="open the rest with --images FOLDER",
                )
            before = len(images)
            image = images.add(encoded, name)
            if len(images) > before:
                self._uploaded += len(encoded)
        return image


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Finish it whoever goes away: what is half replaced could be used by nobody."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    finally:
        await asyncio.wait({task})


__all__ = ["OPENING", "Opened", "Session"]
