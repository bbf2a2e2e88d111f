"""Executors: where shards are mined. In this process, in processes of this machine, or on a Ray cluster.

All of them give the same results: a shard is mined by the same arithmetic everywhere (``Settings.batch_size``,
``Settings.threads``), and what they give is merged by a total order. None keeps a ledger; the study does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import torch

from convscope.errors import ConvscopeError, Refused, UnknownName, suggest
from convscope.mining import worker as frames
from convscope.mining.crew import Crew, Event
from convscope.mining.parcel import Parcel, can_be_sent
from convscope.mining.shard import Miner
from convscope.mining.worker import Task, launch_settings, read_frame, write_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from typing import BinaryIO

    from convscope.mining.shard import Shard, ShardResult, Work

# Starting workers takes seconds: fewer images are mined faster here.
_WORTH_PROCESSES = 256
_MOST_READING_THREADS = 16
_PROGRAM = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from convscope.mining.worker import serve; serve()"


@runtime_checkable
class Executor(Protocol):
    """Where shards are mined: any object with this one method will do."""

    def run(
        self, work: Work, shards: Sequence[Shard], progress: Callable[[int], None]
    ) -> Generator[ShardResult, None, None]:
        """Each shard's result, in any order.

        ``progress`` is told how many more images are done, several times a second, also 0 or, when a worker was lost
        with what it did, a negative number. It raises :class:`Cancelled` to stop; then, and when the iterator is
        closed, everything that was started ends.
        """


class SerialExecutor:
    """One shard after the other in this process; images are decoded ahead in ``reading_threads`` threads."""

    def __init__(self, *, reading_threads: int | None = None) -> None:
        self._reading_threads = reading_threads

    def run(
        self, work: Work, shards: Sequence[Shard], progress: Callable[[int], None]
    ) -> Generator[ShardResult, None, None]:
        """Each shard's result, in order."""
        miner = Miner(work, reading_threads=self._reading_threads)
        for shard in shards:
            done = 0

            def tell(images: int) -> None:
                nonlocal done
                done += images
                progress(images)

            result = miner.mine(shard, tell)
            progress(len(shard) - done)  # skipped images are done as well
            yield result


class ProcessExecutor:
    """Fresh processes on this machine, ``workers`` of them: None is one for each GPU, or as many as the cores allow.

    Each opens the network once. One that dies is replaced and its shard mined again; an image that kills whoever reads
    it is found, skipped and listed. They end with this process, however it ends.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = _checked(workers)

    def run(
        self, work: Work, shards: Sequence[Shard], progress: Callable[[int], None]
    ) -> Generator[ShardResult, None, None]:
        """Each shard's result, as workers finish. Raises :class:`Refused` for what can't be sent to a process."""
        refuse_within_worker()
        parcel = Parcel.pack(work).to_bytes()
        devices = _devices(work, self.workers)
        size = min(len(devices), len(shards))
        reading_threads = _reading_threads(size)

        def start(number: int, place: int, events: SimpleQueue[Event]) -> _Process:
            return _Process(number, events, launch_settings(parcel, devices[place], reading_threads), work)

        return Crew(start, size, shards, work.settings.batch_size, progress).run()


class RayExecutor:
    """Ray actors: one for each GPU, or one for ``Settings.threads`` cores, of a cluster or of this machine.

    ``address`` is a cluster's, as for ``ray.init``; None uses the Ray that runs in this process, or starts one that
    listens on the loopback interface alone, without dashboard and usage reports, and ends it afterwards. Lost actors
    are replaced. Every machine must have convscope installed and find the images under the same paths.
    """

    def __init__(self, address: str | None = None, workers: int | None = None) -> None:
        self.address = address
        self.workers = _checked(workers)

    def run(
        self, work: Work, shards: Sequence[Shard], progress: Callable[[int], None]
    ) -> Generator[ShardResult, None, None]:
        """Each shard's result, as actors finish. Raises :class:`ConvscopeError` where Ray is missing or unreachable."""
        refuse_within_worker()
        from convscope.mining.ray_workers import ray_session

        parcel = Parcel.pack(work).to_bytes()
        with ray_session(_import_ray(), self.address, parcel, work, self.workers) as session:
            crew = Crew(session.start, min(session.size, len(shards)), shards, work.settings.batch_size, progress)
            yield from crew.run()


EXECUTORS = ("serial", "processes", "ray")


def executor_for(
    executor: str | Executor | None, work: Work, *, workers: int | None = None, ray_address: str | None = None
) -> Executor:
    """The executor of a name; None is processes where there is work for more than one, and it can be sent to them.

    >>> from typing import Any, cast
    >>> executor_for("thread", cast(Any, None))
    Traceback (most recent call last):
    convscope.errors.UnknownName: no executor 'thread'. Next: choose serial, processes or ray.
    """
    if executor is None and ray_address is not None:
        executor = "ray"
    if executor is None:
        executor = "processes" if _worth_processes(work, workers) else "serial"
    if not isinstance(executor, str):
        return executor
    if ray_address is not None and executor != "ray":
        raise ConvscopeError(f"an address of Ray for the executor {executor}", next_step='pass executor="ray"')
    if executor == "serial":
        if workers is not None and workers > 1:
            raise ConvscopeError(f"{workers} workers of the serial executor", next_step='pass executor="processes"')
        return SerialExecutor()
    if executor == "processes":
        return ProcessExecutor(workers)
    if executor == "ray":
        return RayExecutor(ray_address, workers)
    raise UnknownName(
        f"no executor {executor[:80]!r}",
        next_step=suggest(executor, EXECUTORS) or f"choose {', '.join(EXECUTORS[:-1])} or {EXECUTORS[-1]}",
    )


def _worth_processes(work: Work, workers: int | None) -> bool:
    if frames.serving() or workers == 1:
        return False
    wanted = workers is not None or work.count >= _WORTH_PROCESSES
    return wanted and len(_devices(work, workers)) > 1 and can_be_sent(work)


def _checked(workers: int | None) -> int | None:
    if workers is not None and workers < 1:
        raise ConvscopeError(f"{workers} workers", next_step="pass 1 or more, or leave it out")
    return workers


def refuse_within_worker() -> None:
    """Raises :class:`Refused` where a worker is about to start workers: it runs its driver's script again."""
    if frames.serving():
        raise Refused(
            "the script that mines was run again by its own worker, which only needs its classes",
            next_step='put what starts the work under `if __name__ == "__main__":`',
        )


def _devices(work: Work, workers: int | None) -> list[str]:
    """The device of each worker of this machine."""
    device = work.network.device
    if device.type == "cuda":
        count = torch.cuda.device_count()
        return [f"cuda:{place % count}" for place in range(workers or count)]
    if device.type != "cpu":
        return [str(device)] * (workers or 1)
    return ["cpu"] * (workers or max(1, cores() // work.settings.threads))


def cores() -> int:
    """How many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def _reading_threads(workers: int) -> int:
    return max(1, min(_MOST_READING_THREADS, cores() // max(1, workers)))


class _Process:
    """A worker in a fresh process (never forked: torch's threads don't survive that), with a thread that listens."""

    def __init__(self, number: int, events: SimpleQueue[Event], settings: bytes, work: Work) -> None:
        self._number, self._events = number, events
        threads = str(work.settings.threads)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "CONVSCOPE_WORKER": "1",
            # glibc: what a forward pass frees, the next one takes again.
            "MALLOC_TRIM_THRESHOLD_": str(2**30),
            "MALLOC_MMAP_THRESHOLD_": str(2**30),
        }
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-W", "ignore", "-c", _PROGRAM, json.dumps([str(each) for each in sys.path])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        self._last_words: deque[str] = deque(maxlen=20)
        # What is sent waits in a queue: a pipe takes no more than its reader has room for.
        self._outbox: SimpleQueue[tuple[bytes, bytes] | None] = SimpleQueue()
        self._outbox.put((frames.PARCEL, settings))
        self._threads = [
            threading.Thread(target=target, name=f"convscope-worker-{number}", daemon=True)
            for target in (self._read_words, self._read_events, self._write)
        ]
        for thread in self._threads:
            thread.start()

    def send(self, task: Task) -> None:
        self._outbox.put((frames.TASK, frames.packed(task)))

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
        self._outbox.put(None)

    def wait(self) -> None:
        self._process.wait()
        for thread in self._threads:
            thread.join()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with suppress(OSError):  # what it never read
                    stream.close()

    def _write(self) -> None:
        # A worker that died meanwhile is noticed by the thread that reads its output.
        stream = cast("BinaryIO", self._process.stdin)
        with suppress(OSError, ValueError):
            while (frame := self._outbox.get()) is not None:
                write_frame(stream, *frame)

    def _read_words(self) -> None:
        for line in self._process.stderr or ():
            self._last_words.append(line.decode(errors="replace").rstrip())

    def _read_events(self) -> None:
        stream = cast("BinaryIO", self._process.stdout)
        while (frame := read_frame(stream)) is not None:
            self._events.put(_event(self._number, *frame))
        code = self._process.wait()
        self._threads[0].join()
        self._events.put(Event(self._number, "died", reason=_reason(code, list(self._last_words))))


def _event(number: int, kind: bytes, content: bytes) -> Event:
    if kind == frames.READY:
        return Event(number, "ready")
    if kind == frames.PROGRESS:
        return Event(number, "progress", images=int(content))
    if kind == frames.RESULT:
        return Event(number, "result", content=content)
    return Event(number, "failed", error=frames.unpacked_error(content))


def _reason(code: int, last_words: list[str]) -> str:
    """How a process ended, for people."""
    if code < 0:
        with suppress(ValueError):
            return signal.Signals(-code).name
        return f"signal {-code}"
    said = next((line for line in reversed(last_words) if line.strip()), "")
    return f"exit code {code}{': ' if said else ''}{said[:200]}"


def _import_ray() -> Any:
    # Set before the import, because Ray reads them then; they matter only for a Ray that is started here.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ConvscopeError(
            "Ray isn't installed", next_step="run `pip install 'convscope[ray]'`, or pass executor=\"processes\""
        ) from error
    return ray


__all__ = ["EXECUTORS", "Executor", "ProcessExecutor", "RayExecutor", "SerialExecutor", "executor_for"]
