"""Mining one shard: what a worker does. It reads images and runs the network; it touches no disk and no other shard."""

from __future__ import annotations

import json
import struct
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from convscope.errors import BadImage, Cancelled, ConvscopeError
from convscope.images.reading import read_ahead
from convscope.mining.accumulate import BLOCK, Accumulator, sample_ids
from convscope.mining.reduce import Wanted, reduction
from convscope.mining.state import LayerState
from convscope.mining.tally import Floor
from convscope.view import Array, View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from convscope.images import Image, ImageSet
    from convscope.mining.settings import Settings
    from convscope.network.network import Network
    from convscope.trace import Trace

_MAGIC = b"CVSH1\n"
_FINGERPRINT_BYTES = 16


@dataclass(frozen=True)
class Shard:
    """Study images ``start`` to ``stop`` − 1, mined in one piece; ``index`` is its number in the study."""

    index: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, eq=False)
class Work:
    """All that a worker needs: the network, the images, and the settings of the study.

    ``image_ids`` [study id] is each study image's id in ``images``, −1 where it isn't there any more. ``count`` is the
    number of images that the study has planned.
    """

    network: Network
    images: ImageSet
    image_ids: Array
    settings: Settings

    @property
    def count(self) -> int:
        """How many images the study has planned."""
        return len(self.image_ids)


@dataclass(frozen=True, eq=False)
class ShardTable:
    """What is kept of each image of a shard, in order of the study's ids.

    ``fingerprint`` uint8 [image, byte] (the first 16 bytes of the SHA-256), ``label`` int32 [image] into
    ``label_names``, ``predicted`` int32 [image] the network's top class; −1 where unknown; ``good`` bool [image].
    ``skipped`` lists (study id, name, reason).
    """

    fingerprint: Array
    label: Array
    predicted: Array
    good: Array
    label_names: tuple[str, ...] = ()
    skipped: tuple[tuple[int, str, str], ...] = ()


@dataclass(frozen=True, eq=False)
class ShardResult:
    """What a shard adds to a study: a state for each layer, and the table of its images."""

    shard: Shard
    states: Mapping[str, LayerState]
    table: ShardTable
    smallest_batch: int = 0

    def to_bytes(self) -> bytes:
        """One blob, the same for equal results."""
        views = [self.table_view(), *(state.to_view() for state in self.states.values())]
        blobs = [view.to_bytes() for view in views]
        header = {
            "shard": [self.shard.index, self.shard.start, self.shard.stop],
            "layers": list(self.states),
            "sizes": [len(blob) for blob in blobs],
        }
        text = json.dumps(header).encode()
        return b"".join([_MAGIC, struct.pack("<Q", len(text)), text, *blobs])

    @classmethod
    def from_bytes(cls, blob: bytes) -> ShardResult:
        """The inverse of :meth:`to_bytes`; raises :class:`ConvscopeError` for anything else."""
        try:
            if not blob.startswith(_MAGIC):
                raise ValueError("magic")
            start = len(_MAGIC) + 8
            (size,) = struct.unpack("<Q", blob[len(_MAGIC) : start])
            header = json.loads(blob[start : start + size])
            ends = np.cumsum([start + size, *header["sizes"]]).tolist()
            views = [View.from_bytes(blob[a:b]) for a, b in pairwise(ends)]
            states = [LayerState.from_view(view) for view in views[1:]]
            table, smallest_batch = table_of(views[0])
            return cls(Shard(*header["shard"]), dict(zip(header["layers"], states, strict=True)), table, smallest_batch)
        except (KeyError, TypeError, ValueError, struct.error) as error:
            raise ConvscopeError("not the result of a shard", next_step="mine the images again") from error

    def table_view(self) -> View:
        """The table of images as a View of kind "mining_shard"."""
        table = self.table
        arrays = {
            "fingerprint": table.fingerprint,
            "label": table.label.astype(np.int32),
            "predicted": table.predicted.astype(np.int32),
            "good": table.good.astype(np.uint8),
        }
        axes = {"fingerprint": ("image", "byte"), "label": ("image",), "predicted": ("image",), "good": ("image",)}
        meta = {
            "caption": f"Images {self.shard.start} to {self.shard.stop - 1}, mined.",
            "start": self.shard.start,
            "stop": self.shard.stop,
            "label_names": list(table.label_names),
            "skipped": [list(each) for each in table.skipped],
            "smallest_batch": self.smallest_batch,
        }
        return View("mining_shard", arrays, axes, meta)


def table_of(view: View) -> tuple[ShardTable, int]:
    """The table of images in a View of kind "mining_shard", and the smallest batch that memory allowed."""
    meta = view.meta
    table = ShardTable(
        view["fingerprint"],
        view["label"],
        view["predicted"],
        view["good"].astype(bool),
        tuple(map(str, meta["label_names"])),
        tuple((int(number), str(name), str(reason)) for number, name, reason in meta["skipped"]),
    )
    return table, int(meta["smallest_batch"])


class Miner:
    """Mines shards one after the other; what it has seen in one tells it what needn't be looked at in the next.

    Reading and decoding run ahead in ``reading_threads`` threads (None: as many as there are processors).
    """

    def __init__(self, work: Work, *, reading_threads: int | None = None) -> None:
        self.work = work
        self.batch_size = work.settings.batch_size
        network = work.network
        self.reduce = reduction(work.settings.reduction)
        self._reading_threads = reading_threads
        self._layers = {address: network.layer(address) for address in work.settings.layers}
        self._floors = {
            address: Floor(layer.units, work.settings.k, network.device) for address, layer in self._layers.items()
        }
        kernels = [layer.index for layer in network.layers if layer.kernel is not None]
        # Without the last layers there are no scores, and the pass can end early.
        self._stop = max(layer.index for layer in self._layers.values()) < max(kernels, default=0)
        self._sample = np.zeros(work.count, bool)
        self._sample[sample_ids(work.count, work.settings.sample)] = True

    def mine(
        self,
        shard: Shard,
        progress: Callable[[int], None] = lambda _: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> ShardResult:
        """The result of a shard. ``progress`` is told the number of images done after every batch.

        Raises :class:`Cancelled` within a batch of ``cancelled`` returning True.
        """
        return _Pass(self, shard, progress, cancelled).run()


def mine_shard(
    work: Work,
    shard: Shard,
    progress: Callable[[int], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> ShardResult:
    """The result of one shard; a :class:`Miner` is faster for more than one."""
    return Miner(work).mine(shard, progress, cancelled)


class _Pass:
    """The state of one shard's pass: which images are in the open block, and what is known of each."""

    def __init__(
        self, miner: Miner, shard: Shard, progress: Callable[[int], None], cancelled: Callable[[], bool]
    ) -> None:
        self.miner, self.shard, self.progress, self.cancelled = miner, shard, progress, cancelled
        work = miner.work
        device = work.network.device
        self.accumulators = {
            address: Accumulator(layer, work.settings, work.settings.grids[address], miner._floors[address], device)
            for address, layer in miner._layers.items()
        }
        self.placed = self.spots = torch.zeros(0, dtype=torch.bool)
        self.block: list[int] = []
        self.good: list[int] = []
        self.labels: dict[str, int] = {}
        self.skipped: list[tuple[int, str, str]] = []
        count = len(shard)
        self.fingerprint = np.zeros((count, _FINGERPRINT_BYTES), np.uint8)
        self.label = np.full(count, -1, np.int32)
        self.predicted = np.full(count, -1, np.int32)

    def run(self) -> ShardResult:
        self.take(self._prepared())
        good = np.zeros(len(self.shard), bool)
        good[np.array(self.good, int) - self.shard.start] = True
        table = ShardTable(self.fingerprint, self.label, self.predicted, good, tuple(self.labels), tuple(self.skipped))
        states = {name: each.state(len(self.good)) for name, each in self.accumulators.items()}
        return ShardResult(self.shard, states, table, self.miner.batch_size)

    def take(self, prepared: Iterable[tuple[int, Tensor]]) -> None:
        """Mine study ids with their prepared images."""
        work = self.miner.work
        batch: list[tuple[int, Tensor]] = []
        with (
            torch_threads(work.settings.threads),
            work.network.trace(self.accumulators, consume=self._consume) as trace,
        ):
            for each in prepared:
                batch.append(each)
                if len(batch) >= self.miner.batch_size:
                    self._batch(trace, batch)
                    batch = []
            if batch:
                self._batch(trace, batch)
            self._close_block()

    def _prepared(self) -> Iterator[tuple[int, Tensor]]:
        """Study ids and prepared images, decoded ahead; what can't be read is listed."""
        work, shard = self.miner.work, self.shard
        places = work.image_ids[shard.start : shard.stop]
        identities = [shard.start + int(offset) for offset in np.flatnonzero(places >= 0)]
        self.skipped += [
            (shard.start + int(offset), "", "not in the image set any more") for offset in np.flatnonzero(places < 0)
        ]
        pictures = (work.images[int(work.image_ids[identity])] for identity in identities)
        reading = read_ahead(pictures, work.network.preprocessing.prepare, threads=self.miner._reading_threads)
        try:
            for identity, found in zip(identities, reading, strict=True):
                self._note(identity, found.image, found.fingerprint)
                if isinstance(found.prepared, BadImage):
                    self.skipped.append((identity, found.image.name, _reason(found.prepared)))
                else:
                    yield identity, found.prepared
                if self.cancelled():
                    raise Cancelled
        finally:
            reading.close()

    def _note(self, identity: int, image: Image, fingerprint: bytes | None) -> None:
        place = identity - self.shard.start
        if fingerprint is not None:
            self.fingerprint[place] = np.frombuffer(fingerprint[:_FINGERPRINT_BYTES], np.uint8)
        name = label_name(image, self.miner.work.network)
        if name:
            self.label[place] = self.labels.setdefault(name, len(self.labels))

    def _batch(self, trace: Trace, batch: list[tuple[int, Tensor]]) -> None:
        """One batch, or parts of it where memory is short."""
        size = self.miner.batch_size
        if len(batch) > size:
            for start in range(0, len(batch), size):
                self._batch(trace, batch[start : start + size])
            return
        try:
            self._forward(trace, batch)
            return
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error) or size == 1:
                raise
        self.miner.batch_size = (size + 1) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._batch(trace, batch)

    def _consume(self, address: str, output: Tensor) -> None:
        """Reduce one layer's output; what is behind the batch's images fills it up and counts for nothing."""
        accumulator = self.accumulators[address]
        units = accumulator.layer.to_units(output)[: len(self.placed)]
        wanted = Wanted(accumulator.floor.top, accumulator.floor.bottom, self.placed, self.spots)
        self.miner.reduce(units, wanted, accumulator.block, len(self.block))

    def _forward(self, trace: Trace, batch: list[tuple[int, Tensor]]) -> None:
        if self.cancelled():
            raise Cancelled
        network = self.miner.work.network
        identities = np.array([identity for identity, _ in batch], np.int64)
        images = torch.zeros(self.miner.batch_size, *batch[0][1].shape)
        for place, (_, prepared) in enumerate(batch):
            images[place] = prepared
        self.placed = torch.from_numpy(self.miner._sample[identities]).to(network.device)
        self.spots = torch.from_numpy(self._spots(identities))
        count = len(batch)
        output = trace.run(images.to(network.device, network.dtype), stop=self.miner._stop)
        if output is not None:
            best = network.scores(output)[:count].argmax(1).cpu().numpy()
            self.predicted[identities - self.shard.start] = best
        self.block += identities.tolist()
        self.good += identities.tolist()
        if len(self.block) >= BLOCK:
            self._close_block()
        self.progress(count)

    def _close_block(self) -> None:
        if not self.block:
            return
        images = np.array(self.block, np.int64)
        for accumulator in self.accumulators.values():
            accumulator.close_block(images, self.miner._sample[images], self._spots(images))
        self.block = []

    def _spots(self, images: Array) -> Array:
        """Which images are looked at more closely."""
        spots: Array = images % self.miner.work.settings.spot_stride == 0
        return spots


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run torch on ``count`` threads inside the block: the number decides the last bits of a forward pass."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def label_name(image: Image, network: Network) -> str:
    """The name of an image's class, or "" where it has none."""
    if image.label_name:
        return image.label_name
    label = image.label
    return "" if label is None else network.class_name(label)


def _reason(error: BadImage) -> str:
    return error.what


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        words in text for words in ("out of memory", "can't allocate memory", "not enough memory")
    )


def calibration(network: Network, layers: Any, images: Tensor, threads: int) -> dict[str, tuple[Array, Array]]:
    """For each layer, per unit, the largest pooled activation (in size) and mean square on a few prepared images."""
    found: dict[str, tuple[Array, Array]] = {}

    def consume(address: str, output: Tensor) -> None:
        units = network.layer(address).to_units(output).detach().flatten(2).float()
        pooled, square = units.mean(2).abs(), torch.linalg.vector_norm(units, dim=2).square() / units.shape[2]
        found[address] = tuple(  # type: ignore[assignment]
            torch.nan_to_num(each, 0.0, 0.0, 0.0).amax(0).double().cpu().numpy() for each in (pooled, square)
        )

    with torch_threads(threads), network.trace(layers, consume=consume) as trace:
        trace.run(images.to(network.device, network.dtype), stop=True)
    return found
