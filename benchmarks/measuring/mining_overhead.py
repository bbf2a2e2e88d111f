"""What mining every convolution costs beside a plain forward pass over the same batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch
from measuring.mining_work import PLANNED, THREADS, K, networks, work
from measuring.pictures import prepared
from measuring.rows import Row

from convscope.cli.memory import keep_freed_memory
from convscope.mining.shard import Miner, Shard, _Pass, torch_threads

if TYPE_CHECKING:
    from torch import Tensor

    from convscope.network.network import Network

GOAL = 1.10
BENCHMARKS = Path(__file__).parents[1]


def measure(quick: bool) -> list[Row]:
    """Rows for both networks, in a process that keeps freed memory, as the commands and their workers do."""
    rows = []
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "from measuring import mining_overhead as m; m.measure_here()",
                device,
                str(int(quick)),
            ],
            env={**os.environ, "PYTHONPATH": str(BENCHMARKS)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        *notes, answer = done.stdout.splitlines()
        print(*notes, sep="\n")
        rows += [Row(**row) for row in json.loads(answer)]
    return rows


def measure_here() -> None:
    """In a process of its own: measure, and print the rows as JSON on the last line."""
    device, quick = sys.argv[1], bool(int(sys.argv[2]))
    keep_freed_memory()
    rows = [row for name, network in networks(device).items() for row in _measure(name, network, device, quick)]
    print(json.dumps([asdict(row) for row in rows]))


def _measure(name: str, network: Network, device: str, quick: bool) -> list[Row]:
    batch_size = 8 if device == "cpu" else 64
    size, before, rounds = (128, 1, 1) if quick else (512, 4, 3)
    miner = Miner(work(network, PLANNED, batch_size, size), reading_threads=0)
    shards = [Shard(number, number * size, (number + 1) * size) for number in range(before + rounds + 1)]
    what, ratios = f"mine every convolution of {name} on {device}", []

    def compare(shard: Shard) -> float:
        # In turn, each round beginning with the other one.
        images = prepared(shard.start, size, *network.image_size)
        if shard.index % 2:
            ours, base = _mined(miner, shard, images, device), _plain(network, images, batch_size, device)
        else:
            base, ours = _plain(network, images, batch_size, device), _mined(miner, shard, images, device)
        print(f"{name} on {device}, {shard.start} images before: {size / base:.1f} images/s, mined × {ours / base:.3f}")
        return ours / base

    with torch_threads(THREADS):
        _plain(network, prepared(0, batch_size, *network.image_size), batch_size, device)
        first = compare(shards[0])
        for shard in shards[1:before]:
            _mined(miner, shard, prepared(shard.start, size, *network.image_size), device)
        ratios = [compare(shard) for shard in shards[before:-1]]
        for floor in miner._floors.values():
            floor.top.fill_(torch.inf)
            floor.bottom.fill_(-torch.inf)
        last = compare(shards[-1])
    how = (
        f"a plain forward pass over the same {size} prepared images, batch {batch_size}, {THREADS} thread, {device}; "
        f"{len(miner.work.settings.layers)} layers, k = {K}, all statistics, a study of {PLANNED:,} images"
    )
    spread = f", {min(ratios):.3f} to {max(ratios):.3f} in {rounds} shards" if rounds > 1 else ""
    return [
        Row(what, median(ratios), "×", GOAL, f"{how}; with {before * size:,} images before{spread}"),
        Row(f"{what}, the first shard", first, "×", None, how),
        Row(f"{what}, when nothing enters the ranks any more", last, "×", None, f"{how}; as after very many images"),
    ]


def _plain(network: Network, images: list[Tensor], batch_size: int, device: str) -> float:
    begun = _now(device)
    with torch.inference_mode():
        for first in range(0, len(images), batch_size):
            batch = torch.zeros(batch_size, *images[0].shape)
            for place, image in enumerate(images[first : first + batch_size]):
                batch[place] = image
            network.module(batch.to(device))
    return _now(device) - begun


def _mined(miner: Miner, shard: Shard, images: list[Tensor], device: str) -> float:
    """Seconds for a whole shard: what it sets up, its batches, and its states."""
    begun = _now(device)
    each = _Pass(miner, shard, lambda _: None, lambda: False)
    each.take(enumerate(images, shard.start))
    for accumulator in each.accumulators.values():
        accumulator.state(len(images))
    return _now(device) - begun


def _now(device: str) -> float:
    """Seconds. On a CPU those that this process computed: with one thread they are the time that passes on a machine
    that does nothing else, and on another one they are still that.
    """
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()
