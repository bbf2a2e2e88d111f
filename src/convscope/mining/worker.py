"""What runs in a worker's process: it opens the work once, then mines one task after the other.

``python -c "from convscope.mining.worker import serve; serve()"`` speaks frames over its standard input and output:
one byte of kind, eight of length, the content. It ends with its input, so it never outlives who started it.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import signal
import struct
import sys
import threading
import traceback
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, BinaryIO

from convscope.errors import ConvscopeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from convscope.mining.shard import Shard, ShardResult, Work

# Kinds of frames: what the driver sends, and what it gets.
PARCEL, TASK = b"P", b"T"
READY, PROGRESS, RESULT, FAILED = b"R", b"G", b"S", b"F"
_FRAME = struct.Struct("<cQ")


@dataclass(frozen=True)
class Task:
    """A shard to mine. ``hidden`` are study ids and reasons of images that ended workers before: they are skipped.

    A ``probe`` is a piece of a shard, mined to find such an image; its result is thrown away.
    """

    shard: Shard
    hidden: tuple[tuple[int, str], ...] = ()
    probe: bool = False


class Bench:
    """An opened parcel, and the miner that goes from shard to shard."""

    def __init__(self, work: Work, reading_threads: int) -> None:
        from convscope.mining.shard import Miner

        self._work = work
        self._reading_threads = reading_threads
        self._miner = Miner(work, reading_threads=reading_threads)

    @classmethod
    def open(cls, parcel: bytes, device: str, reading_threads: int) -> Bench:
        """Raises :class:`ConvscopeError` where the work can't be opened here."""
        from convscope.mining.parcel import Parcel

        return cls(Parcel.from_bytes(parcel).open(device), reading_threads)

    def mine(self, task: Task, progress: Callable[[int], None]) -> bytes:
        """The result of a task as bytes; nothing for a probe."""
        from convscope.mining.shard import Miner

        if task.probe:
            # Nobody keeps the result, so what it shows mustn't tell the next shard what needn't be looked at.
            Miner(_without(self._work, task.hidden), reading_threads=0).mine(task.shard)
            return b""
        if not task.hidden:
            return self._miner.mine(task.shard, progress).to_bytes()
        miner = Miner(_without(self._work, task.hidden), reading_threads=self._reading_threads)
        return _listed(miner.mine(task.shard, progress), self._work, task.hidden).to_bytes()


def _without(work: Work, hidden: tuple[tuple[int, str], ...]) -> Work:
    image_ids = work.image_ids.copy()
    for number, _ in hidden:
        image_ids[number] = -1
    return replace(work, image_ids=image_ids)


def _listed(result: ShardResult, work: Work, hidden: tuple[tuple[int, str], ...]) -> ShardResult:
    """The result with the hidden images' names and reasons in the place of their absence."""
    entries = {entry[0]: entry for entry in result.table.skipped}
    for number, reason in hidden:
        entries[number] = (number, work.images[int(work.image_ids[number])].name, reason)
    return replace(result, table=replace(result.table, skipped=tuple(entries[number] for number in sorted(entries))))


def explained(error: BaseException) -> ConvscopeError:
    """Any error of a worker as one that the driver can raise."""
    if isinstance(error, ConvscopeError):
        return error
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return ConvscopeError(
            "a worker had too little memory even for one image at a time", next_step="mine with fewer workers"
        )
    lines = traceback.format_exception(error)
    place = lines[-2].strip().splitlines()[0] if len(lines) > 1 else ""
    return ConvscopeError(
        f"a worker failed: {type(error).__name__}: {str(error)[:300].rstrip('.')}",
        where=place,
        next_step='pass executor="serial" to see all of the error',
    )


def serving() -> bool:
    """Whether this process is a worker."""
    return os.environ.get("CONVSCOPE_WORKER") == "1"


# ---- a process of its own --------------------------------------------------------------------------------------


def serve() -> None:
    """Mine what standard input asks for, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver decides
    faulthandler.enable()
    # What the user's code prints goes to standard error; the frames keep the real output to themselves.
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with open(os.devnull) as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)
    frames: SimpleQueue[tuple[bytes, bytes]] = SimpleQueue()
    threading.Thread(target=_listen, args=(source, frames), name="convscope-listen", daemon=True).start()
    try:
        _serve(frames, sink)
    except (Exception, SystemExit) as error:
        write_frame(sink, FAILED, pickle.dumps(explained(error)))
        source.close()


def _serve(frames: SimpleQueue[tuple[bytes, bytes]], sink: BinaryIO) -> None:
    _, content = frames.get()
    settings = pickle.loads(content)  # noqa: S301 - from the process that started this one
    bench = Bench.open(settings["parcel"], settings["device"], settings["reading_threads"])
    write_frame(sink, READY, b"")
    while True:
        _, content = frames.get()
        task = pickle.loads(content)  # noqa: S301
        result = bench.mine(task, lambda images: write_frame(sink, PROGRESS, str(images).encode()))
        write_frame(sink, RESULT, result)


def _listen(source: BinaryIO, frames: SimpleQueue[tuple[bytes, bytes]]) -> None:
    """Runs beside the work, so that the end of the input ends the process at once, whatever it does."""
    while (frame := read_frame(source)) is not None:
        frames.put(frame)
    sys.stderr.flush()
    os._exit(0)


def write_frame(sink: BinaryIO, kind: bytes, content: bytes) -> None:
    """One frame, at once."""
    sink.write(_FRAME.pack(kind, len(content)))
    sink.write(content)
    sink.flush()


def read_frame(source: BinaryIO) -> tuple[bytes, bytes] | None:
    """The next frame's kind and content; None where the other side has ended, also within a frame."""
    try:
        header = source.read(_FRAME.size)
        if len(header) < _FRAME.size:
            return None
        kind, length = _FRAME.unpack(header)
        content = source.read(length)
    except (OSError, ValueError):
        return None
    return (kind, content) if len(content) == length else None


def packed(task: Task) -> bytes:
    """The content of a task's frame."""
    return pickle.dumps(task, pickle.HIGHEST_PROTOCOL)


def unpacked_error(content: bytes) -> ConvscopeError:
    """What a worker failed of; ``content`` comes from a process that this one started."""
    error = pickle.loads(content)  # noqa: S301
    return error if isinstance(error, ConvscopeError) else ConvscopeError("a worker failed")


def launch_settings(parcel: bytes, device: str, reading_threads: int) -> bytes:
    """The content of the first frame."""
    values: dict[str, Any] = {"parcel": parcel, "device": device, "reading_threads": reading_threads}
    return pickle.dumps(values, pickle.HIGHEST_PROTOCOL)
