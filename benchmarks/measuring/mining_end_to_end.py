"""From JPEG to a finished study, beside what decoding alone and the network alone do; and a second worker's worth."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from measuring.mining_work import THREADS, K, convolutions, networks, seeded_resnet18
from measuring.pictures import Pictures, write_jpegs
from measuring.rows import Row

import convscope as cs
from convscope.cli.memory import keep_freed_memory
from convscope.images.reading import read_ahead
from convscope.mining.executors import Executor, ProcessExecutor, SerialExecutor, cores
from convscope.mining.shard import torch_threads
from convscope.progress import Progress, watch

if TYPE_CHECKING:
    from convscope.network.network import Network

END_TO_END_GOAL = 1 / 0.9
WORKERS_GOAL = 1 / 1.7
BATCH = 8
ROWS, COLUMNS = 375, 500
BENCHMARKS = Path(__file__).parents[1]
# The network alone, in a process like a worker: it waits for a line, and says how many images a second it did.
FORWARD = """
import sys, time, torch
from measuring import mining_work
from convscope.cli.memory import keep_freed_memory
keep_freed_memory()
torch.set_num_threads(mining_work.THREADS)
network = mining_work.networks()[sys.argv[1]]
images = torch.rand(int(sys.argv[2]), network.channels, *network.image_size)
with torch.inference_mode():
    network.module(images)
    print("ready", flush=True)
    sys.stdin.readline()
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < float(sys.argv[3]):
        network.module(images)
        done += len(images)
    print(done / (time.perf_counter() - start))
"""


def measure(quick: bool) -> list[Row]:
    """Rows for both networks, serially and in processes.

    Four shards, most of them at what a shard of any larger study costs: in the first few hundred images nearly every
    one is among a unit's hundred best.
    """
    keep_freed_memory()  # as the commands do; so does the network alone
    count, rounds = (512, 1) if quick else (4096, 1)
    rows = []
    with tempfile.TemporaryDirectory(prefix="convscope-benchmark-") as folder:
        photos = Path(folder) / "photos"
        photos.mkdir()
        size = write_jpegs(photos, count, ROWS, COLUMNS) / count
        print(f"{count} JPEG files of {COLUMNS} × {ROWS}, {size / 1000:.0f} kB each")
        for name, network in networks().items():
            rows += [_measure(name, network, photos, workers, rounds, quick) for workers in (1, cores())]
    return rows


def _measure(name: str, network: Network, photos: Path, workers: int, rounds: int, quick: bool) -> Row:
    """Everything in turn within a round; the ratio is of the slower part's rate and the whole's."""
    images = cs.load_images(photos)
    # The serial executor's one thread for the network has the other cores for decoding; workers share all of them.
    executor: Executor = SerialExecutor() if workers == 1 else ProcessExecutor(workers)
    ratios = []
    for _ in range(rounds):
        decode = _decode_rate(network, images)
        forward = _forward_rate(name, workers, 4 if quick else 8)
        whole = mining_rate(network, images, executor)
        print(f"{name}, {workers} × 1 thread: decode {decode:.0f}, forward {forward:.1f}, JPEG to study {whole:.1f} /s")
        ratios.append(min(decode, forward) / whole)
    where = "serially" if workers == 1 else f"in {workers} processes"
    how = f"the slower of decoding alone on {cores()} cores and the network alone, {workers} × {THREADS} thread"
    return Row(f"JPEG to study, {name} {where}: time", median(ratios), "×", END_TO_END_GOAL, how)


def _decode_rate(network: Network, images: cs.ImageSet) -> float:
    with torch_threads(THREADS):
        start = time.perf_counter()
        count = sum(1 for _ in read_ahead(images, network.preprocessing.prepare))
        return count / (time.perf_counter() - start)


def _forward_rate(name: str, workers: int, seconds: float) -> float:
    command = [sys.executable, "-W", "ignore", "-c", FORWARD, name, str(BATCH), str(seconds)]
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS)}
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(workers)
    ]
    for each in running:
        assert each.stdout is not None  # noqa: S101
        each.stdout.readline()
    return sum(float(answer) for answer in _answers(running))


def _answers(running: list[subprocess.Popen[str]]) -> list[str]:
    for each in running:
        assert each.stdin is not None  # noqa: S101
        each.stdin.write("\n")
        each.stdin.flush()
    return [each.communicate()[0] for each in running]


def mining_rate(network: Network, images: object, executor: Executor, shard_size: int | None = None) -> float:
    """Images a second between the first and the last batch: a worker's start is the same however many images follow."""
    seen: list[tuple[float, int]] = []

    def listen(progress: Progress) -> None:
        if progress.done and (not seen or progress.done != seen[-1][1]):
            seen.append((time.perf_counter(), progress.done))

    with tempfile.TemporaryDirectory(prefix="convscope-benchmark-") as folder, watch(listen):
        study = cs.mine(
            network,
            images,
            layers=convolutions(network),
            k=K,
            study=folder,
            executor=executor,
            batch_size=BATCH,
            threads=THREADS,
            shard_size=shard_size,
        )
        ended = time.perf_counter()
        study.store.close()
    (begun, first) = seen[0]
    return (seen[-1][1] - first) / (ended - begun)


def measure_workers(quick: bool) -> list[Row]:
    """Rows for two one-thread processes beside one."""
    if cores() < 2:
        print("one core: no comparison of two processes with one")
        return []
    network = seeded_resnet18()
    pictures = cs.load_images(Pictures(256 if quick else 768, *network.image_size))
    ratios = []
    for turn in range(1 if quick else 3):
        order = (1, 2) if turn % 2 else (2, 1)
        rates = {workers: mining_rate(network, pictures, ProcessExecutor(workers), 64) for workers in order}
        print(f"one process {rates[1]:.1f}, two {rates[2]:.1f} images/s")
        ratios.append(rates[1] / rates[2])
    how = f"one process of one thread; ResNet-18, k = {K}, pictures that need no decoding; goal is 1 / 1.7"
    return [Row("mining in two processes of one thread: time", median(ratios), "×", WORKERS_GOAL, how)]
