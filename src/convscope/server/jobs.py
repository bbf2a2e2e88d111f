"""Jobs: one thread at a time owns the network; everything else waits for it in line.

Hooks on a module fire whichever thread runs it, so exactly one thread may; :mod:`convscope.server.turns` says which.
Requests for the same thing share one job; a job that nobody waits for any more is cancelled. Work of minutes or hours
is done aside, in a thread of its own because torch's modes belong to a thread: at each of its reports of progress it
lets what goes first go first. All methods of :class:`Jobs` are called on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from convscope.errors import Cancelled, ConvscopeError
from convscope.progress import Progress, watch
from convscope.server.events import Event, JobEvent, State, Subscription
from convscope.server.turns import Kind, Turn, Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from convscope.view import View

Result = TypeVar("Result")

QUEUE_LIMIT = 32
SUBSCRIBER_LIMIT = 64
JOIN_SECONDS = 2.0
REMEMBERED = 256


class Busy(ConvscopeError):
    """More work is waiting than the server takes on."""


@dataclass(eq=False)
class _Waiter:
    name: str
    future: asyncio.Future[Any]


@dataclass(eq=False)
class _Job:
    key: str
    work: Callable[[], Any]
    turn: Turn | None  # None: it leaves the network alone
    state: State = "queued"
    progress: Progress = field(default_factory=lambda: Progress(0, 0, "", None))
    cancel: threading.Event = field(default_factory=threading.Event)
    waiters: list[_Waiter] = field(default_factory=list)
    preview: tuple[int, bytes] = (0, b"")

    def event(self, name: str) -> JobEvent:
        told = self.progress
        return JobEvent(name, self.state, told.done, told.total, told.message, told.seconds_left, self.preview[0])

    @property
    def kind(self) -> Kind | None:
        return None if self.turn is None else self.turn.kind


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
        self._over: OrderedDict[str, tuple[JobEvent, ConvscopeError | None]] = OrderedDict()  # by name
        self._turns = Turns()
        self._views: dict[Turn, _Job] = {}  # that wait for the worker
        self._one_mining = threading.Lock()  # held until it has ended, also when nobody waits for it any more
        self._previews = 0
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
        self._turns.stop()

    async def close(self) -> None:
        """:meth:`stop`, and give the worker a moment to let go of what it does."""
        self.stop()
        for thread in (self._thread, *self._threads):
            if thread.is_alive():
                await asyncio.to_thread(thread.join, JOIN_SECONDS)

    async def run(self, key: str, work: Callable[[], Result], name: str, line: str = "") -> Result:
        """The result of ``work`` in the worker thread, or of an equal job (same ``key``) already under way.

        Cancelling this coroutine cancels the job unless somebody else waits for it too. Lines take turns. Raises
        :class:`Busy` when too much waits, :class:`Cancelled` when cancelled by ``name``, and whatever ``work`` raises.
        """
        job = self._open.get(key)
        if job is None:
            job = self._begin(key, work, Kind.VIEW, line)
            assert job.turn is not None  # noqa: S101 - for the type checker
            self._views[job.turn] = job
            self._turns.ask(job.turn)
        result: Result = await self._wait(job, name)
        return result

    async def run_long(self, key: str, work: Callable[[], Result], name: str, line: str = "") -> Result:
        """:meth:`run` for work of minutes, which gives way to views whenever it reports progress, and after a while to
        long work of other lines. It must not report while hooks of its own are on the network.
        """
        job = self._open.get(key)
        if job is None:
            job = self._begin(key, work, Kind.LONG, line)
            self._start_thread(self._work_aside, job)
        result: Result = await self._wait(job, name)
        return result

    async def run_aside(self, key: str, work: Callable[[], Result], name: str) -> Result:
        """:meth:`run_long` for work of hours, which gives way to everything else.

        One at a time: raises :class:`Busy` while another is under way, unless that has the same ``key``.
        """
        job = self._open.get(key)
        if job is None:
            other = next((each for each in self._open.values() if each.kind == Kind.MINING), None)
            if other is not None:
                raise Busy("long work is under way already", where=other.key, next_step="wait for it, or cancel it")
            job = self._begin(key, work, Kind.MINING)
            self._start_thread(self._work_aside, job)
        result: Result = await self._wait(job, name)
        return result

    async def run_beside(self, key: str, work: Callable[[], Result], name: str) -> Result:
        """:meth:`run` for work that leaves the network alone, in a thread of its own: nothing waits for it, and it
        waits for nothing.
        """
        job = self._open.get(key)
        if job is None:
            job = self._begin(key, work, None)
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

    def is_open(self, key: str) -> bool:
        """Whether a job with this key waits or is under way."""
        return key in self._open

    def told(self, name: str) -> tuple[JobEvent, ConvscopeError | None] | None:
        """What a job of this name has come to, and why it failed; None for one that never was, or was long ago."""
        under_way = self._under_way(name)
        return self._over.get(name) if under_way is None else (under_way.event(name), None)

    def preview(self, name: str) -> tuple[int, bytes] | None:
        """The newest preview of a job under way, and its number, 0 where there is none yet; None for no such job."""
        job = self._under_way(name)
        return None if job is None else job.preview

    def _under_way(self, name: str) -> _Job | None:
        found = (job for job in self._open.values() for waiter in job.waiters if waiter.name == name)
        return next(found, None)

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

    def _begin(self, key: str, work: Callable[[], Any], kind: Kind | None, line: str = "") -> _Job:
        if self._stopping:
            raise Cancelled("the server is stopping")
        alike = sum(each.kind == kind for each in self._open.values())
        if kind in (Kind.VIEW, Kind.LONG) and alike >= self._limit:
            raise Busy(f"{alike} jobs are waiting already", next_step="wait for some, or cancel them")
        cancel = threading.Event()
        turn = None if kind is None else Turn(kind, line, cancel)
        job = self._open[key] = _Job(key, work, turn, cancel=cancel)
        return job

    def _start_thread(self, target: Callable[[_Job], None], job: _Job) -> None:
        thread = threading.Thread(target=target, args=(job,), name="convscope-aside", daemon=True)
        self._threads = [each for each in self._threads if each.is_alive()] + [thread]
        thread.start()

    def _dismiss(self, job: _Job, waiter: _Waiter) -> None:
        """One waiter goes away, unanswered; the last one takes the job with it."""
        job.waiters.remove(waiter)
        if not waiter.future.done():
            waiter.future.set_exception(Cancelled())
            waiter.future.exception()  # nobody may be left to read it, which isn't worth a warning
        if not job.waiters:
            job.cancel.set()
            self._open.pop(job.key, None)
            if job.turn is not None:
                self._turns.leave(job.turn)
                self._views.pop(job.turn, None)
        told = job.progress
        self._end(JobEvent(waiter.name, "cancelled", told.done, told.total, told.message), None)

    def _end(self, event: JobEvent, error: Exception | None) -> None:
        self._over.pop(event.id, None)
        self._over[event.id] = event, _told(error)
        while len(self._over) > REMEMBERED:
            self._over.popitem(last=False)
        self.announce(event)

    def announce(self, event: Event) -> None:
        """Tell every subscriber."""
        for subscription in self._subscriptions:
            subscription.push(event)

    def _update(self, job: _Job, progress: Progress) -> None:
        job.state, job.progress = "running", progress
        for waiter in job.waiters:
            self.announce(job.event(waiter.name))

    def _show(self, job: _Job, blob: bytes) -> None:
        self._previews += 1
        job.preview = self._previews, blob
        self._update(job, job.progress)

    def _finish(self, job: _Job, result: Any, error: Exception | None) -> None:
        if self._open.get(job.key) is job:
            del self._open[job.key]
        job.state = "done" if error is None else "cancelled" if isinstance(error, Cancelled) else "failed"
        for waiter in job.waiters:
            self._end(job.event(waiter.name), error)
            if waiter.future.done():
                continue
            if error is None:
                waiter.future.set_result(result)
            else:
                waiter.future.set_exception(error)
        job.waiters.clear()

    # Below here: the worker's thread, and those of work aside.

    def _work(self) -> None:
        while (turn := self._turns.next_view()) is not None:
            try:
                job = self._views.pop(turn, None)  # None: cancelled at this very moment
                if job is not None:
                    self._do(job, lambda progress, job=job: self._tell(self._update, job, progress))  # type: ignore[misc]
            finally:
                self._turns.give_back(turn)

    def _work_aside(self, job: _Job) -> None:
        turn = job.turn
        assert turn is not None  # noqa: S101 - for the type checker

        def listen(progress: Progress) -> None:
            self._tell(self._update, job, progress)
            self._turns.give_way(turn)

        def show(view: View) -> None:
            self._tell(self._show, job, view.to_bytes())

        with self._one_mining if turn.kind == Kind.MINING else contextlib.nullcontext():
            try:
                self._turns.ask(turn)
                self._turns.take(turn)
                self._do(job, listen, show)
            except Cancelled:
                pass  # before it began; whoever waited knows
            finally:
                self._turns.give_back(turn)

    def _work_beside(self, job: _Job) -> None:
        self._do(job, lambda progress: self._tell(self._update, job, progress))

    def _do(self, job: _Job, listen: Callable[[Progress], None], show: Callable[[View], None] | None = None) -> None:
        self._tell(self._update, job, job.progress)
        result: Any = None
        error: Exception | None = None
        try:
            with watch(listen, job.cancel, show):
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


def _told(error: Exception | None) -> ConvscopeError | None:
    """An error to be read later, without what its traceback keeps in memory."""
    if error is None or isinstance(error, Cancelled):
        return None
    if isinstance(error, ConvscopeError):
        return copy.copy(error)
    return ConvscopeError(
        f"something unexpected went wrong: {type(error).__name__}",
        next_step="look at the terminal for the details, and report them",
    )


__all__ = ["Busy", "Jobs"]
