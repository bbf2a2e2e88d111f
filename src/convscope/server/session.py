"""Session: one open network, its images and its store, and how a request becomes a View.

The store first, the one worker thread on a miss, and both give the same bytes. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from convscope.errors import Cancelled, ConvscopeError
from convscope.methods.base import describe, method_class, method_names
from convscope.progress import report
from convscope.server.study import Studying
from convscope.server.training import Training

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from convscope.images import Image, ImageSet
    from convscope.methods.base import Method
    from convscope.network.batch import Batch
    from convscope.network.network import Network
    from convscope.network.receptive_field import Box
    from convscope.server.jobs import Jobs
    from convscope.store import Store
    from convscope.view import Recipe

IMAGES_PER_VIEW = 256
UPLOADED_BYTES = 512 * 1024 * 1024
MEMORY_BYTES = 64 * 1024 * 1024
OPENING = "open"
STUDY = "study"

_log = logging.getLogger("convscope")

Value = TypeVar("Value")


@dataclass(frozen=True)
class Opened:
    """What a session shows: the network, the images, and where they came from in the user's words."""

    network: Network
    images: ImageSet
    image_source: str


class Memory(Generic[Value]):
    """The most recently used values up to a number of bytes; safe for threads."""

    def __init__(self, limit: int, size: Callable[[Value], int]) -> None:
        self._limit = limit
        self._size = size
        self._values: OrderedDict[Any, Value] = OrderedDict()
        self._used = 0
        self._lock = threading.Lock()

    def get(self, key: Any) -> Value | None:
        """The value kept under ``key``, or None."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Any, value: Value) -> Value:
        """Keep ``value`` and give it back; the least recently used ones make room."""
        with self._lock:
            if key not in self._values and self._size(value) <= self._limit:
                self._values[key] = value
                self._used += self._size(value)
            while self._used > self._limit:
                self._used -= self._size(self._values.popitem(last=False)[1])
        return value


@dataclass(frozen=True)
class Question:
    """A request for a View, checked against the network: everything is known but the numbers."""

    opened: Opened
    method: Method
    target: str
    ids: tuple[int, ...]
    recipe: Recipe


class Session:
    """``opener`` loads the network and the images; it runs in the worker as soon as the server listens.

    ``place`` is the store's folder as the user named it; empty where it goes when the session ends. Where it isn't
    ``needed``, the network is opened when somebody first looks at it, and the session goes on without it.
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
        self.store = store
        self.jobs = jobs
        self.training = training or Training(jobs)
        self.studying = Studying(store, jobs, place)
        self.pictures: Memory[bytes] = Memory(MEMORY_BYTES, len)  # thumbnails, prepared images, downloads
        self.methods: list[dict[str, Any]] = []
        self.unavailable: list[dict[str, str]] = []
        self._opener = opener
        self._needed = needed
        self._started = False
        self._opening: asyncio.Task[Opened] | None = None
        self._batches: Memory[Batch] = Memory(
            4 * MEMORY_BYTES, lambda batch: batch.tensor.numel() * batch.tensor.element_size()
        )
        self._uploaded = 0
        self._adding = threading.Lock()

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
        await self.training.close()
        await self.jobs.close()
        await self.studying.close()
        self.store.close()

    async def opened(self) -> Opened:
        """The network and images, once they are there; raises what opening them raised."""
        if not self._started:
            raise RuntimeError("the session was never started")
        return await asyncio.shield(self._opening or self._begin_opening())

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
        # Both are lazy and cost a forward pass: here, not in the first request.
        _ = opened.network.layers, opened.network.fingerprint
        self.methods, self.unavailable = describe_methods()
        report(1, 1, "opening the network")
        return opened

    async def ask(self, name: str, target: str, ids: Sequence[int], parameters: Mapping[str, str]) -> Question:
        """Check a request for a View; raises with the next step when it doesn't fit this network."""
        opened = await self.opened()
        if len(ids) > IMAGES_PER_VIEW:
            raise ConvscopeError(
                f"{len(ids)} images in one view", next_step=f"choose {IMAGES_PER_VIEW} at most", where=name[:80]
            )
        images = opened.images[tuple(ids)]
        method = self._method(name, parameters)
        if "images" in method.needs and not ids:
            raise ConvscopeError(f"{name} needs images", next_step="choose at least one image")
        return Question(
            opened, method, target, tuple(ids), method.recipe(opened.network, target, _identity(opened.network, images))
        )

    def _method(self, name: str, parameters: Mapping[str, str]) -> Method:
        """The method with its parameters; a study is always the session's own, never a folder that a client names."""
        cls = method_class(name)
        if all(each.name != STUDY for each in cls.parameters()):
            return cls.make(parameters)
        if STUDY in parameters:
            raise ConvscopeError(f"{name} shows this session's own study", next_step=f"leave out {STUDY}")
        return cls.make({**parameters, STUDY: str(self.store.path)})

    async def answer(self, question: Question, name: str) -> bytes:
        """The View's blob: from the store, or computed in the worker under the job name ``name``."""
        key = question.recipe.key
        if not question.method.kept:
            # Read off the store, without running the network: it needn't wait for what does.
            blob = self.pictures.get(key)
            return blob or self.pictures.put(key, await asyncio.to_thread(self._compute, question))
        blob = await asyncio.to_thread(self.store.get, key)
        if blob is None:
            blob = await self.jobs.run(key, lambda: self._compute(question), name)
        return blob

    async def receptive_field(self, unit: str, name: str) -> Box:
        """What one neuron sees. Measuring it runs the network, which only the worker may do: as the job ``name``."""
        from convscope.network.unit import split_address

        network = (await self.opened()).network
        if network.layer(split_address(unit)[0]).receptive_field.exact:
            return await asyncio.to_thread(network.receptive_field, unit)
        return await self.jobs.run(f"receptive field of {unit}", lambda: network.receptive_field(unit), name)

    def _compute(self, question: Question) -> bytes:
        network = question.opened.network
        batch = self._batch(question)
        view = question.method.run(network, question.target, images=batch)
        try:
            if question.method.kept:
                self.store.put(view)
        except ConvscopeError as error:
            # A full disk costs the next visitor a computation, not this one their answer.
            _log.warning("a view couldn't be stored: %s", error)
        return view.to_bytes()

    def _batch(self, question: Question) -> Batch | None:
        """The prepared images; the same few are looked at again and again, so they stay in memory."""
        if not question.ids:
            return None
        batch = self._batches.get(question.ids)
        if batch is None:
            images = question.opened.images[question.ids]
            batch = self._batches.put(question.ids, question.opened.network.batch(images))
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


def _identity(network: Network, images: ImageSet) -> Batch | None:
    """As much of a batch as a recipe reads; preparing the pixels can wait until the store has nothing."""
    if not len(images):
        return None
    import torch

    from convscope.network.batch import Batch

    return Batch(
        torch.empty(len(images), 0, 0, 0),
        tuple(image.fingerprint for image in images),
        tuple(image.name for image in images),
        tuple(network.class_of(image) for image in images),
    )


def describe_methods() -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Every method as plain values, and those that can't be imported as {name, reason}."""
    described, unavailable = [], []
    for name in method_names():
        try:
            found = describe(method_class(name))
            # The page can't choose a study: it has one.
            found["parameters"] = [each for each in found["parameters"] if each["name"] != STUDY]
            described.append(found)
        except ConvscopeError as error:
            unavailable.append({"name": name, "reason": str(error)})
    return described, unavailable


__all__ = ["IMAGES_PER_VIEW", "OPENING", "Memory", "Opened", "Question", "Session", "describe_methods"]
