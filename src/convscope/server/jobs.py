"""Jobs: one thread at a time owns the network; everything else waits for it in line.

Hooks on a module fire whichever thread runs it, so exactly one thread may. Requests for the same thing share one job;
a job that nobody waits for any more is cancelled. Work of hours, like mining, is done aside: it runs while nothing is
in line, and at each of its reports of progress lets everything that waits go first. It has a thread of its own because
torch's modes belong to a thread; only one of the two threads has the network, because hooks belong to that. All methods
of :class:`Jobs` are called on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from convscope.errors import Cancelled, ConvscopeError
from convscope.progress import Progress, watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

State = Literal["queued", "running", "done", "failed", "cancelled"]
Result = TypeVar("Result")

QUEUE_LIMIT = 32
SUBSCRIBER_LIMIT = 64
JOIN_SECONDS = 2.0


class Busy(ConvscopeError):
    """More work is waiting than the server takes on."""


@dataclass(frozen=True)
class JobEvent:
    """What one request for work has come to. ``id`` is the name the client gave; times are seconds."""

    id: str
    state: State
    done: int = 0
    total: int = 0
    message: str = ""
    seconds_left: float | None = None


@dataclass(frozen=True)
class StudyEvent:
    """A shard was finished: ``done`` of ``images`` are mined, and what they say can be read."""

    done: int
    images: int
    finished: bool
    id: str = "study"


@dataclass(frozen=True)
class TrainingEvent:
    """A run changed, or with no ``id`` the list of runs. ``live``: it is open in this server."""

    id: str
    state: str
    step: int | None
    live: bool


Event = JobEvent | StudyEvent | TrainingEvent


@dataclass(eq=False)
class _Waiter:
    name: str
    future: asyncio.Future[Any]


@dataclass(eq=False)
class _Job:
    key: str
    work: Callable[[], Any]
    state: State = "queued"
    progress: Progress = field(default_factory=lambda: Progress(0, 0, "", None))
    cancel: threading.Event = field(default_factory=threading.Event)
    waiters: list[_Waiter] = field(default_factory=list)
    aside: bool = False
    beside: bool = False

    def event(self, name: str) -> JobEvent:
        progress = self.progress
        return JobEvent(name, self.state, progress.done, progress.total, progress.message, progress.seconds_left)


class Subscription:
    """One client's view of all jobs. A slow client misses steps, never the latest state of a job."""

    def __init__(self, limit: int = 256) -> None:
        self._latest: OrderedDict[tuple[type, str], Event] = OrderedDict()
        self._limit = limit
        self._news = asyncio.Event()
        self._closed = False

    def push(self, event: Event) -> None:
        """Keep ``event`` in place of an older one of the same job; beyond the limit the oldest job is forgotten."""
        self._latest.pop((type(event), event.id), None)
        self._latest[type(event), event.id] = event
        if len(self._latest) > self._limit:
            self._latest.popitem(last=False)
        self._news.set()

    def close(self) -> None:
        """End the stream after what is waiting has been read."""
        self._closed = True
        self._news.set()

    async def take(self, timeout: float) -> list[Event] | None:
        """The events since the last call, oldest first; none of them after ``timeout`` seconds; None at the end."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), timeout)
        events = list(self._latest.values())
        self._latest.clear()
        if self._closed:
            return events or None
        self._news.clear()
        return events


class Jobs:
    """The line in front of the one worker thread.

    >>> async def twice():
    ...     jobs = Jobs()
    ...     jobs.start()
    ...     answers = await asyncio.gather(jobs.run("k", lambda: 6 * 7, "a"), jobs.run("k", lambda: 6 * 7, "b"))
    ...     await jobs.close()
    ...     return answers
    >>> asyncio.run(twice())
    [42, 42]
    """

    def __init__(self, limit: int = QUEUE_LIMIT) -> None:
        self._limit = limit
        self._open: dict[str, _Job] = {}  # by key: queued or running, and not cancelled
        self._queue: deque[_Job] = deque()
        self._ready = threading.Condition()
        self._front = False  # the worker has the network
        self._aside = False  # work aside has it
        self._one_aside = threading.Lock()  # held until it has ended, also when nobody waits for it any more
        self._stopping = False
        self._threads: list[threading.Thread] = []
        self._subscriptions: list[Subscription] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._work, name="convscope-model", daemon=True)

    def start(self) -> None:
        """Start the worker; the running event loop becomes the one that hears of results."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """Cancel everything, take no more, and end every event stream. Returns at once."""
        self._stopping = True
        for job in list(self._open.values()):
            for waiter in list(job.waiters):
                self._dismiss(job, waiter)
        for subscription in self._subscriptions:
            subscription.close()
        with self._ready:
            self._ready.notify_all()

    async def close(self) -> None:
        """:meth:`stop`, and give the worker a moment to let go of what it does."""
        self.stop()
        for thread in (self._thread, *self._threads):
            if thread.is_alive():
                await asyncio.to_thread(thread.join, JOIN_SECONDS)

    async def run(self, key: str, work: Callable[[], Result], name: str) -> Result:
        """The result of ``work`` in the worker thread, or of an equal job (same ``key``) already under way.

        Cancelling this coroutine cancels the job unless somebody else waits for it too. Raises :class:`Busy` when the
        line is full, :class:`Cancelled` when cancelled by ``name``, and whatever ``work`` raises.
        """
        job = self._open.get(key)
        if job is None:
            job = self._enqueue(key, work)
        result: Result = await self._wait(job, name)
        return result

    async def run_aside(self, key: str, work: Callable[[], Result], name: str) -> Result:
        """:meth:`run` for long work, which gives way to everything in line whenever it reports progress.

        It must not report while hooks of its own are on the network. One at a time: raises :class:`Busy` while another
        is under way, unless that has the same ``key``.
        """
        job = self._open.get(key)
        if job is None:
            other = next((each for each in self._open.values() if each.aside), None)
            if other is not None:
                raise Busy("long work is under way already", where=other.key, next_step="wait for it, or cancel it")
            job = self._start_aside(key, work)
        result: Result = await self._wait(job, name)
        return result

    async def run_beside(self, key: str, work: Callable[[], Result], name: str) -> Result:
        """:meth:`run` for work that leaves the network alone, in a thread of its own: nothing waits for it, and it
        waits for nothing.
        """
        job = self._open.get(key)
        if job is None:
            self._refuse_when_stopping()
            job = self._open[key] = _Job(key, work, beside=True)
            self._start_thread(self._work_beside, job)
        result: Result = await self._wait(job, name)
        return result

    async def _wait(self, job: _Job, name: str) -> Any:
        waiter = _Waiter(name, asyncio.get_running_loop().create_future())
        job.waiters.append(waiter)
        self.announce(job.event(name))
        try:
            return await waiter.future
        finally:
            if waiter in job.waiters:
                self._dismiss(job, waiter)

    def cancel(self, name: str) -> bool:
        """Tell everyone who waits under ``name`` that it is cancelled; False when nobody does."""
        found = [(job, waiter) for job in self._open.values() for waiter in job.waiters if waiter.name == name]
        for job, waiter in found:
            self._dismiss(job, waiter)
        return bool(found)

    @property
    def followed(self) -> bool:
        """Whether anybody hears of events."""
        return bool(self._subscriptions)

    def make_room(self) -> None:
        """Raise :class:`Busy` when no further subscription is taken."""
        if len(self._subscriptions) >= SUBSCRIBER_LIMIT:
            raise Busy("too many pages follow this server", next_step="close some of them")

    @contextlib.contextmanager
    def subscribe(self) -> Iterator[Subscription]:
        """Hear of every job inside the block, beginning with those under way."""
        self.make_room()
        subscription = Subscription()
        for job in self._open.values():
            for waiter in job.waiters:
                subscription.push(job.event(waiter.name))
        self._subscriptions.append(subscription)
        if self._stopping:
            subscription.close()
        try:
            yield subscription
        finally:
            self._subscriptions.remove(subscription)

    def _enqueue(self, key: str, work: Callable[[], Any]) -> _Job:
        self._refuse_when_stopping()
        if sum(not (each.aside or each.beside) for each in self._open.values()) >= self._limit:
            raise Busy(f"{len(self._open)} jobs are waiting already", next_step="wait for some, or cancel them")
        job = _Job(key, work)
        self._open[key] = job
        with self._ready:
            self._queue.append(job)
            self._ready.notify_all()
        return job

    def _start_aside(self, key: str, work: Callable[[], Any]) -> _Job:
        self._refuse_when_stopping()
        job = _Job(key, work, aside=True)
        self._open[key] = job
        self._start_thread(self._work_aside, job)
        return job

    def _start_thread(self, target: Callable[[_Job], None], job: _Job) -> None:
        thread = threading.Thread(target=target, args=(job,), name="convscope-aside", daemon=True)
        self._threads = [each for each in self._threads if each.is_alive()] + [thread]
        thread.start()

    def _refuse_when_stopping(self) -> None:
        if self._stopping:
            raise Cancelled("the server is stopping")

    def _dismiss(self, job: _Job, waiter: _Waiter) -> None:
        """One waiter goes away, unanswered; the last one takes the job with it."""
        job.waiters.remove(waiter)
        if not waiter.future.done():
            waiter.future.set_exception(Cancelled())
            waiter.future.exception()  # nobody may be left to read it, which isn't worth a warning
        if not job.waiters:
            job.cancel.set()
            self._open.pop(job.key, None)
            with self._ready, contextlib.suppress(ValueError):
                self._ready.notify_all()
                self._queue.remove(job)
        progress = job.progress
        self.announce(JobEvent(waiter.name, "cancelled", progress.done, progress.total, progress.message))

    def announce(self, event: Event) -> None:
        """Tell every subscriber."""
        for subscription in self._subscriptions:
            subscription.push(event)

    def _update(self, job: _Job, progress: Progress) -> None:
        job.state, job.progress = "running", progress
        for waiter in job.waiters:
            self.announce(job.event(waiter.name))

    def _finish(self, job: _Job, result: Any, error: Exception | None) -> None:
        if self._open.get(job.key) is job:
            del self._open[job.key]
        job.state = "done" if error is None else "cancelled" if isinstance(error, Cancelled) else "failed"
        for waiter in job.waiters:
            self.announce(job.event(waiter.name))
            if waiter.future.done():
                continue
            if error is None:
                waiter.future.set_result(result)
            else:
                waiter.future.set_exception(error)
        job.waiters.clear()

    # Below here: the worker's thread, and those of work aside.

    def _work(self) -> None:
        while True:
            with self._ready:
                self._ready.wait_for(lambda: self._stopping or (self._queue and not self._aside))
                if self._stopping:
                    return
                job = self._queue.popleft()
                self._front = True
            try:
                self._do(job, lambda progress, job=job: self._tell(self._update, job, progress))  # type: ignore[misc]
            finally:
                with self._ready:
                    self._front = False
                    self._ready.notify_all()

    def _work_aside(self, job: _Job) -> None:
        def listen(progress: Progress) -> None:
            self._tell(self._update, job, progress)
            self._give_way(job)

        with self._one_aside:
            try:
                self._give_way(job)
                self._do(job, listen)
            except Cancelled:
                pass  # before it began; whoever waited knows
            finally:
                with self._ready:
                    self._aside = False
                    self._ready.notify_all()

    def _work_beside(self, job: _Job) -> None:
        self._do(job, lambda progress: self._tell(self._update, job, progress))

    def _give_way(self, job: _Job) -> None:
        """Let go of the network until nothing waits for it; told to end, don't take it again."""
        with self._ready:
            self._aside = False
            self._ready.notify_all()
            self._ready.wait_for(lambda: self._stopping or job.cancel.is_set() or not (self._queue or self._front))
            if self._stopping or job.cancel.is_set():
                raise Cancelled
            self._aside = True

    def _do(self, job: _Job, listen: Callable[[Progress], None]) -> None:
        self._tell(self._update, job, job.progress)
        result: Any = None
        error: Exception | None = None
        try:
            with watch(listen, job.cancel):
                result = job.work()
        except Exception as problem:
            error = problem
        except BaseException as problem:
            # Someone's network may call sys.exit(); that must end neither the worker nor the event loop.
            error = RuntimeError(type(problem).__name__)
            error.__cause__ = problem
        self._tell(self._finish, job, result, error)

    def _tell(self, function: Callable[..., None], *arguments: Any) -> None:
        assert self._loop is not None  # noqa: S101 - start() sets it before the thread exists
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to hear
            self._loop.call_soon_threadsafe(function, *arguments)


__all__ = ["Busy", "Event", "JobEvent", "Jobs", "State", "StudyEvent", "Subscription", "TrainingEvent"]
