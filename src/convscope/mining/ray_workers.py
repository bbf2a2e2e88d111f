"""Workers as Ray actors. The module ``ray`` is handed in: :mod:`convscope.mining.executors` alone imports it."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import torch

from convscope.errors import ConvscopeError, Refused
from convscope.mining.crew import Event
from convscope.mining.worker import Bench, Task, explained

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convscope.mining.shard import Work

_LOOPBACK = "127.0.0.1"
_POLL_SECONDS = 0.3
_OBJECTS = 512 << 20
# A core's actor decodes beside its forward pass; a GPU's needs the machine's cores for that.
_READING_THREADS = 16


@dataclass(frozen=True, eq=False)
class Session:
    """A connection to Ray with the parcel in its object store; ``size`` actors have room."""

    ray: Any
    actor: Any
    parcel: Any
    size: int
    accelerated: bool
    threads: int

    def start(self, number: int, _: int, events: SimpleQueue[Event]) -> _Actor:
        """One more actor."""
        return _Actor(self, number, events)


@contextmanager
def ray_session(ray: Any, address: str | None, parcel: bytes, work: Work, workers: int | None) -> Iterator[Session]:
    """Connected to ``address``, to the Ray of this process, or to one that is started and ended here."""
    threads = work.settings.threads
    accelerated = work.network.device.type == "cuda"
    with _connected(ray, address, len(parcel), (workers or 1) * threads):
        resources = ray.cluster_resources()
        room = int(resources.get("GPU", 0)) if accelerated else int(resources.get("CPU", 0)) // threads
        if not room:
            wanted = "no GPU, but the network is on one" if accelerated else f"fewer than {threads} cores"
            raise Refused(f"the Ray cluster has {wanted}", next_step="add machines, or pass another executor")
        # A dead actor is replaced by the crew, which knows what it had to do; Ray doesn't repeat anything by itself.
        actor = ray.remote(max_restarts=0, max_task_retries=0, max_concurrency=2, num_cpus=threads)(_Bench)
        options = actor.options(num_gpus=1) if accelerated else actor
        yield Session(ray, options, ray.put(parcel), min(workers or room, room), accelerated, threads)


@contextmanager
def _connected(ray: Any, address: str | None, parcel_bytes: int, cpus: int) -> Iterator[None]:
    if ray.is_initialized():
        if address is not None:
            raise ConvscopeError(
                "Ray is already running in this process",
                where=address,
                next_step="leave the address out, or call ray.shutdown() first",
            )
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    folder = tempfile.mkdtemp(prefix="convscope-ray-") if address is None else None
    logger = logging.getLogger("ray")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        try:
            if folder is None:
                ray.init(address=address, **quiet)
            else:
                _start(ray, folder, max(cpus, os.cpu_count() or 1), _OBJECTS + 2 * parcel_bytes, quiet)
        except ConvscopeError:
            raise
        except Exception as error:  # Ray raises many kinds
            raise ConvscopeError(
                f"Ray doesn't {'start' if folder else 'answer'}: {str(error)[:300].rstrip('.')}",
                where=address or "",
                next_step="look whether the cluster runs (`ray status`)" if address else 'pass executor="processes"',
            ) from error
        yield
    finally:
        ray.shutdown()
        logger.setLevel(level)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _start(ray: Any, folder: str, cpus: int, objects: int, quiet: dict[str, Any]) -> None:
    """A Ray of this machine alone: nothing of it listens on another interface than loopback."""
    from importlib import import_module

    # Ray takes the machine's outer address even when it is told the loopback one, unless it believes that it can't
    # have a cluster here, as on Windows and macOS. Its own processes read the variable, this one the constant.
    constants: Any = import_module("ray._private.ray_constants")
    before, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
    variable = constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    kept = os.environ.get(variable)
    os.environ[variable] = "0"
    try:
        ray.init(
            num_cpus=cpus,
            include_dashboard=False,
            object_store_memory=objects,
            _node_ip_address=_LOOPBACK,
            _temp_dir=folder,
            **quiet,
        )
    finally:
        constants.ENABLE_RAY_CLUSTER = before
        if kept is None:
            del os.environ[variable]
        else:
            os.environ[variable] = kept
    if (found := ray.util.get_node_ip_address()) != _LOOPBACK:
        raise Refused(f"Ray would listen on {found}", next_step="start Ray yourself, and pass its address")


class _Bench:
    """The actor: a bench of :mod:`convscope.mining.worker`, and how far it is."""

    def __init__(self) -> None:
        self._bench: Bench | None = None
        self._done = 0

    def open(self, parcel: bytes, accelerated: bool, threads: int) -> ConvscopeError | None:
        """Open the work; the error where it can't be."""
        os.environ["CONVSCOPE_WORKER"] = "1"
        torch.set_num_threads(threads)
        try:
            self._bench = Bench.open(parcel, "cuda:0" if accelerated else "cpu", _READING_THREADS if accelerated else 1)
        except Exception as error:
            return explained(error)
        return None

    def mine(self, task: Task) -> bytes | ConvscopeError:
        """A task's result, or what failed."""
        self._done = 0
        if self._bench is None:
            return ConvscopeError("an actor was asked to mine before it was opened")
        try:
            return self._bench.mine(task, self._tell)
        except Exception as error:
            return explained(error)

    def _tell(self, images: int) -> None:
        self._done += images

    def done(self) -> int:
        """Images of the current task that are done."""
        return self._done


class _Actor:
    """An actor as the crew sees it: a thread passes it one task after the other, and asks how far it is."""

    def __init__(self, session: Session, number: int, events: SimpleQueue[Event]) -> None:
        self._session, self._number, self._events = session, number, events
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._killed = False
        self._actor = session.actor.remote()
        self._thread = threading.Thread(target=self._serve, name=f"convscope-actor-{number}", daemon=True)
        self._thread.start()

    def send(self, task: Task) -> None:
        self._tasks.put(task)

    def kill(self) -> None:
        self._killed = True
        self._tasks.put(None)
        with suppress(Exception):  # it may be dead, or Ray itself gone
            self._session.ray.kill(self._actor, no_restart=True)

    def wait(self) -> None:
        self._thread.join(timeout=5)

    def _serve(self) -> None:
        try:
            if (error := self._open()) is not None:
                self._tell(Event(self._number, "failed", error=error))
                return
            self._tell(Event(self._number, "ready"))
            while (task := self._tasks.get()) is not None:
                self._mine(task)
        except Exception as error:  # Ray's own, for an actor that died or a cluster that is gone
            said = type(error).__name__
            self._tell(Event(self._number, "died", reason=said))

    def _open(self) -> ConvscopeError | None:
        session = self._session
        opening = self._actor.open.remote(session.parcel, session.accelerated, session.threads)
        while not session.ray.wait([opening], timeout=_POLL_SECONDS)[0]:
            if self._killed:
                return None
        found = session.ray.get(opening)
        return found if isinstance(found, ConvscopeError) else None

    def _mine(self, task: Task) -> None:
        ray, told = self._session.ray, 0
        running = self._actor.mine.remote(task)
        while not ray.wait([running], timeout=_POLL_SECONDS)[0]:
            if self._killed:
                return
            done = ray.get(self._actor.done.remote()) if not task.probe else 0
            if done > told:
                self._tell(Event(self._number, "progress", images=done - told))
                told = done
        found = ray.get(running)
        if isinstance(found, ConvscopeError):
            self._tell(Event(self._number, "failed", error=found))
        else:
            self._tell(Event(self._number, "result", content=found))

    def _tell(self, event: Event) -> None:
        if not self._killed:
            self._events.put(event)
