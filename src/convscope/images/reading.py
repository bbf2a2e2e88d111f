"""Reading ahead: images decoded and prepared in threads, a bounded way ahead of whoever uses them, in order."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, NamedTuple

import torch

from convscope.errors import BadImage, Cancelled
from convscope.images.image_set import Image  # noqa: TC001 - types are checked in tests
from convscope.view import Array  # noqa: TC001 - types are checked in tests

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

AHEAD = 64
HELD_BYTES = 512 << 20
_MOST_THREADS = 16


class ReadImage(NamedTuple):
    """One image that was read: the fingerprint is None where there was nothing to take it of."""

    image: Image
    fingerprint: bytes | None
    prepared: torch.Tensor | BadImage


def read_ahead(
    images: Iterable[Image],
    prepare: Callable[[Array], torch.Tensor],
    *,
    threads: int | None = None,
    ahead: int = AHEAD,
    held_bytes: int = HELD_BYTES,
) -> Generator[ReadImage, None, None]:
    """Each image with the SHA-256 of its bytes and what ``prepare`` makes of its pixels, in the order of ``images``.

    ``threads`` threads (None: one for each processor that this process may use, at most 16; 0: the caller's own, when
    the next image is asked for) read, decode and prepare, at most ``ahead`` images and about ``held_bytes`` bytes ahead
    of the caller. Only an image that is waited for may take more than that by itself.

    An image that can't be read, is damaged, changed or vanished since it was listed, doesn't fit the network, or takes
    more memory than there is, comes as the :class:`BadImage` that says so in place of the tensor; nothing else stops.
    Any other error of ``prepare`` is raised when that image's turn comes.

    The threads end when the iterator does, is closed, or is thrown away.

    >>> from convscope.images import ImageSet
    >>> from convscope.images.origins import BytesOrigin
    >>> broken = ImageSet([Image(0, "broken.png", BytesOrigin(b"no picture"))])
    >>> [(each.image.id, each.prepared.where) for each in read_ahead(broken, torch.from_numpy)]
    [(0, 'broken.png')]
    """
    if threads == 0:
        for image in images:
            yield _read(image, prepare)
        return
    pipeline = _Pipeline(images, prepare, max(1, ahead), held_bytes)
    try:
        pipeline.start(threads or min(_processors(), _MOST_THREADS))
        while (found := pipeline.next()) is not None:
            yield found
    finally:
        pipeline.close()


class _Abandoned(Cancelled):
    """Nobody waits for the image any more."""


class _Pipeline:
    """The state that the threads share; every change is made under one condition, and told to all."""

    def __init__(
        self, images: Iterable[Image], prepare: Callable[[Array], torch.Tensor], ahead: int, limit: int
    ) -> None:
        self._images = iter(images)
        self._prepare = prepare
        self._ahead = ahead
        self._limit = limit
        self._changed = threading.Condition()
        self._done: dict[int, tuple[ReadImage | BaseException, int]] = {}
        self._taken = 0  # images that a thread took, or has finished
        self._given = 0  # images that the caller got
        self._held = 0  # bytes of what is being decoded, or waits to be given
        self._exhausted = False
        self._closed = False
        self._ready = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []

    def start(self, count: int) -> None:
        """Start the threads. Within them torch runs on one thread, or each would bring a team of its own."""
        own = torch.get_num_threads()
        try:
            for number in range(count):
                thread = threading.Thread(
                    target=self._work, args=(own > 1,), name=f"convscope-read-{number}", daemon=True
                )
                thread.start()
                self._threads.append(thread)
                self._ready.acquire()
        finally:
            if own > 1:
                # The number holds for the thread that sets it, and for threads that come later: leave those as before.
                torch.set_num_threads(own)

    def next(self) -> ReadImage | None:
        """The next image, or None after the last; waits for it."""
        with self._changed:
            while self._given not in self._done:
                if self._exhausted and self._given == self._taken:
                    return None
                self._changed.wait()
            found, size = self._done.pop(self._given)
            self._given += 1
            self._held -= size
            self._changed.notify_all()
        if isinstance(found, BaseException):
            raise found
        return found

    def close(self) -> None:
        """End the threads; what they work at is finished, or given up where it waits."""
        with self._changed:
            self._closed = True
            self._done.clear()
            self._changed.notify_all()
        for thread in self._threads:
            if thread is not threading.current_thread():  # the garbage collector closes iterators in any thread
                thread.join()

    def _work(self, alone: bool) -> None:
        if alone:
            torch.get_num_threads()  # a thread's first look sets its number to everybody's
            torch.set_num_threads(1)
        self._ready.release()
        while (taken := self._take()) is not None:
            place, image = taken
            held = 0

            def admit(size: int, place: int = place) -> None:
                nonlocal held
                self._admit(place, size)
                held += size

            found: ReadImage | BaseException
            try:
                found = _read(image, self._prepare, admit)
            except _Abandoned:
                return
            except BaseException as error:  # also KeyboardInterrupt and the like: raised where the image is asked for
                found = error
            self._finish(place, found, held)
            del found, image, taken  # not kept while waiting for the next

    def _take(self) -> tuple[int, Image] | None:
        with self._changed:
            while not self._closed and not self._exhausted and self._taken - self._given >= self._ahead:
                self._changed.wait()
            if self._closed or self._exhausted:
                return None
            place = self._taken
            try:
                image = next(self._images, None)
            except BaseException as error:
                self._done[place] = error, 0
                self._taken += 1
                image = None
            else:
                self._taken += image is not None
            if image is None:
                self._exhausted = True
                self._changed.notify_all()
                return None
            return place, image

    def _admit(self, place: int, size: int) -> None:
        """Wait until there is room; the image that is given next never waits, so there is always an end."""
        with self._changed:
            while not self._closed and place != self._given and self._held + size > self._limit:
                self._changed.wait()
            if self._closed:
                raise _Abandoned
            self._held += size

    def _finish(self, place: int, found: ReadImage | BaseException, held: int) -> None:
        prepared = found.prepared if isinstance(found, ReadImage) else None
        size = prepared.nbytes if isinstance(prepared, torch.Tensor) else 0
        with self._changed:
            self._held += size - held
            if not self._closed:
                self._done[place] = found, size
            self._changed.notify_all()


def _read(
    image: Image, prepare: Callable[[Array], torch.Tensor], admit: Callable[[int], None] | None = None
) -> ReadImage:
    fingerprint: bytes | None = None
    try:
        with image.named():
            if admit is not None:
                admit(image.origin.encoded_size() or 0)
            content = image.read()
            fingerprint = content.fingerprint()
            return ReadImage(image, fingerprint, prepare(content.pixels(admit)))
    except BadImage as error:
        return ReadImage(image, fingerprint, error.with_traceback(None))
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):  # as torch says it
            raise
    return ReadImage(
        image,
        fingerprint,
        BadImage("reading it takes more memory than there is", where=image.name, next_step="make it smaller"),
    )


def _processors() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1
