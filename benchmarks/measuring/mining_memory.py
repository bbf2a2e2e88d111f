"""How much memory mining takes for more images, and how much room its result; and the parts that a forecast needs."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, TypeVar

import torch
from measuring.mining_work import THREADS, K
from measuring.pictures import Pictures, write_jpegs
from measuring.resnet50 import resnet50
from measuring.rows import Row

import convscope as cs
from convscope.images.reading import read_ahead
from convscope.mining.mine import merge
from convscope.mining.shard import Shard, ShardResult, torch_threads
from convscope.mining.study import commit
from convscope.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from convscope.mining.study import Study

T = TypeVar("T")
MEMORY_GOAL, SIZE_GOAL = 1.05, 60.0
FEW, MANY = 1_000, 10_000
SIDE = 48
# Peak memory is a process's own, so each run has a process. A network of 4 layers and 480 units, 32 × 32 pixels: the
# images, not the network, are what grows.
PROGRAM = """
import resource, sys
from torch import nn
import torch
torch.manual_seed(0)
import convscope as cs
layers = [nn.Conv2d(3, 32, 3, 2), nn.ReLU(), nn.Conv2d(32, 64, 3, 2), nn.ReLU(), nn.Conv2d(64, 128, 3), nn.ReLU()]
module = nn.Sequential(*layers, nn.Conv2d(128, 256, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))
network = cs.Network.from_module(module.eval(), image_size=32)
study = cs.mine(network, cs.load_images(sys.argv[1]), k=100, study=sys.argv[2], executor="serial")
assert study.finished
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def measure(quick: bool) -> list[Row]:
    """A row for peak memory: 10,000 images against 1,000, in turn."""
    rounds = 1 if quick else 3
    ratios = []
    with tempfile.TemporaryDirectory(prefix="convscope-benchmark-") as folder:
        for count in (FEW, MANY):
            photos = Path(folder) / str(count)
            photos.mkdir()
            write_jpegs(photos, count, SIDE, SIDE)
        for turn in range(rounds):
            peaks = {count: _peak(Path(folder), count, turn) for count in (FEW, MANY)}
            print(f"peak memory {peaks[FEW]:.0f} MB for {FEW} images, {peaks[MANY]:.0f} MB for {MANY}")
            ratios.append(peaks[MANY] / peaks[FEW])
    how = f"the peak for {FEW:,} images; JPEG files of {SIDE} × {SIDE}, a network of 4 layers, k = 100, fresh processes"
    return [Row(f"peak memory for {MANY:,} images", median(ratios), "×", MEMORY_GOAL, how)]


def _peak(folder: Path, count: int, turn: int) -> float:
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, folder / str(count), folder / f"study-{count}-{turn}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"mining {count} images failed: {done.stderr[-500:]}")
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes elsewhere
    return float(done.stdout.split()[-1]) / unit


def measure_size(_: bool) -> list[Row]:
    """Rows for a ResNet-50's result, by what it holds, and for what handling it costs."""
    network = cs.Network.from_module(resnet50(), image_size=64)
    with tempfile.TemporaryDirectory(prefix="convscope-benchmark-") as folder:
        pictures = Pictures(4 * K, 64, 64, different=4 * K)
        study = cs.mine(network, pictures, layers=None, k=K, study=folder, executor="serial", shard_size=2 * K)
        sizes = _sizes(study)
        rows = _size_rows(study, sizes)
        rows += _parts(study, network)
        study.store.close()
    return rows


def _sizes(study: Study) -> dict[str, float]:
    """Megabytes on the disk by what they are for."""
    sizes: dict[str, float] = defaultdict(float)
    for entry in study.store.query(kind="responses"):
        sizes["all"] += entry.size / 1e6
    for layer in study.layers:
        for name, array in study.state(layer).to_view().arrays.items():
            kind = name.split("_")[0]
            part = {"top": "patches", "bottom": "patches", "sample": "sample", "product": "covariance"}
            sizes[part.get(kind, "statistics")] += array.nbytes / 1e6
    return sizes


def _size_rows(study: Study, sizes: dict[str, float]) -> list[Row]:
    units = sum(study.state(layer).units for layer in study.layers)
    how = f"ResNet-50's {len(study.layers)} layers, {units:,} units, k = {K}"
    without = sizes["all"] - sizes["covariance"]
    return [
        Row(
            "size of a ResNet-50's result without covariances",
            without,
            "MB",
            SIZE_GOAL,
            f"{how}; sum of the next three",
        ),
        Row("size: the top and bottom patches", sizes["patches"], "MB", None, how),
        Row("size: the sample that quantiles come from", sizes["sample"], "MB", None, how),
        Row("size: histograms and statistics", sizes["statistics"], "MB", None, how),
        Row("size: covariances of the pooled activations", sizes["covariance"], "MB", None, how),
    ]


def _parts(study: Study, network: cs.Network) -> list[Row]:
    """What a shard costs beside its images."""
    states = {layer: study.state(layer) for layer in study.layers}
    table = study.table(0)
    result = ShardResult(Shard(0, 0, len(table.good)), states, table, 8)
    blob, sending = _timed(result.to_bytes)
    _, reading = _timed(lambda: ShardResult.from_bytes(blob))
    merged, merging = _timed(lambda: merge(states, states))
    with tempfile.TemporaryDirectory(prefix="convscope-benchmark-") as folder, Store.open(folder) as store:
        _, committing = _timed(lambda: commit(store, network.fingerprint, result, merged))
    how = "ResNet-50, every unit, k = 100, covariances included; seconds of one core"
    return [
        Row("a shard's result, as sent", len(blob) / 1e6, "MB", None, how),
        Row("a shard's result: to bytes and back", sending + reading, "s", None, how),
        Row("a shard's result: merge", merging, "s", None, how),
        Row("a shard's result: commit", committing, "s", None, f"{how}, without those that the disk takes"),
    ]


def _timed(run: Callable[[], T]) -> tuple[T, float]:
    """The result, and the seconds that were computed for it: on a machine of one's own, those of one core."""
    start = time.process_time()
    found = run()
    return found, time.process_time() - start


def measure_parts(quick: bool) -> list[Row]:
    """Rows for decoding and for the network on one core: the other parts of the forecast."""
    count = 128 if quick else 512
    network = cs.Network.from_module(resnet50())
    with tempfile.TemporaryDirectory(prefix="convscope-benchmark-") as folder, torch_threads(THREADS):
        size = write_jpegs(Path(folder), count, 375, 500) / count / 1000
        images = cs.load_images(folder)
        _, seconds = _timed(lambda: list(map(_drop, read_ahead(images, network.preprocessing.prepare, threads=1))))
        batch = torch.rand(8, 3, 224, 224)
        with torch.inference_mode():
            network.module(batch)
            forward = min(_timed(lambda: network.module(batch))[1] for _ in range(3 if quick else 8))
    return [
        Row("decode and prepare, one core", count / seconds, "images/s", None, f"JPEG of 500 × 375, {size:.0f} kB"),
        Row("ResNet-50 forward, one core", 8 / forward, "images/s", None, "batch 8, float32, the best of several"),
    ]


def _drop(_: object) -> None:
    return
