"""zennit-crp's activation maximization of the same network, layers and images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from measuring.mining_work import PLANNED, THREADS, K, networks, work
from measuring.pictures import prepared
from measuring.rows import Row
from torch import Tensor

from convscope.cli.memory import keep_freed_memory
from convscope.mining.shard import Miner, Shard, _Pass, torch_threads

if TYPE_CHECKING:
    from convscope.network.network import Network

GOAL = 1 / 3
BATCHES = (8, 32)
BENCHMARKS = Path(__file__).parents[1]
# Its activation maximization can't be had alone: this replaces two of its functions, which its users don't.
LEAN = "made to leave out its relevance half and class statistics"


def measure(quick: bool) -> list[Row]:
    """Rows for both networks, from a process of its own; none where zennit-crp isn't installed."""
    # It may live in an environment of its own, which sees this one's packages.
    done = subprocess.run(
        [
            os.environ.get("CONVSCOPE_PEERS", sys.executable),
            "-c",
            "from measuring import mining_peers as m; m.measure_here()",
            str(int(quick)),
        ],
        env={**os.environ, "PYTHONPATH": str(BENCHMARKS)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    *notes, answer = done.stdout.splitlines()
    print(*notes, sep="\n")
    return [Row(**row) for row in json.loads(answer)]


def measure_here() -> None:
    """Measure, and print the rows as JSON on the last line."""
    crp, quick = _import(), bool(int(sys.argv[1]))
    keep_freed_memory()
    found = networks() if crp is not None else {}
    print(json.dumps([asdict(row) for name, each in found.items() for row in _measure(name, each, crp, quick)]))


def _import() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _torchvision()
            import crp.attribution
            import crp.concepts
            import crp.visualization
        except ImportError:
            print("zennit-crp isn't installed (pip install zennit-crp): no comparison with it")
            return None
    return crp


def _torchvision() -> None:
    """zennit imports torchvision; one built for another torch still has its Python parts, given two schemas."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        global _schemas
        _schemas = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            _schemas.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


_schemas: Any = None


class _Dataset:
    """Prepared images, each with a class to explain, which only the backward pass wants to know."""

    def __init__(self, images: list[Tensor]) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._images[index], 0


def _measure(name: str, network: Network, crp: Any, quick: bool) -> list[Row]:
    count, rounds = (64, 1) if quick else (256, 3)
    images = prepared(0, count, *network.image_size)
    for parameter in network.module.parameters():
        parameter.requires_grad_(False)  # or its backward pass would compute gradients of the weights, too
    miner = Miner(work(network, PLANNED, 8, 1024), reading_threads=0)
    layers = list(miner.work.settings.layers)
    theirs, leanest = [], []
    with torch_threads(THREADS), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(rounds):
            ours = _ours(miner, images)
            theirs.append(ours / min(_theirs(crp, network, layers, images, batch, lean=False) for batch in BATCHES))
            leanest.append(ours / min(_theirs(crp, network, layers, images, batch, lean=True) for batch in BATCHES))
            print(f"{name}: mined {count / ours:.1f} images/s; zennit-crp's {count / ours * leanest[-1]:.1f} at best")
    how = (
        f"zennit-crp {version('zennit-crp')}, ActMax by maximum, {K} samples, no composite, weights frozen, the better "
        f"batch of {BATCHES}; {count} prepared images, {len(layers)} convolutions, {THREADS} thread"
    )
    return [
        Row(f"mine {name}: our time beside zennit-crp's", median(theirs), "×", GOAL, f"{how}; as published"),
        Row(f"mine {name}: our time beside zennit-crp's", median(leanest), "×", None, f"{how}; {LEAN}"),
    ]


def _ours(miner: Miner, images: list[Tensor]) -> float:
    """Seconds of one thread, from nothing: no place was found before."""
    fresh = Miner(miner.work, reading_threads=0)
    start = time.process_time()
    each = _Pass(fresh, Shard(0, 0, len(images)), lambda _: None, lambda: False)
    each.take(enumerate(images))
    return time.process_time() - start


def _theirs(
    crp: Any, network: Network, layers: list[str], images: list[Tensor], batch_size: int, *, lean: bool
) -> float:
    from tqdm import tqdm

    attribution = crp.attribution.CondAttribution(network.module, device="cpu")
    concepts = {layer: crp.concepts.ChannelConcept() for layer in layers}
    with tempfile.TemporaryDirectory(prefix="convscope-benchmark-") as folder:
        visualization = crp.visualization.FeatureVisualization(
            attribution, _Dataset(images), concepts, max_target="max", abs_norm=False, path=folder, device="cpu"
        )
        crp.visualization.tqdm = partial(tqdm, disable=True)
        visualization.ActMax.SAMPLE_SIZE = K
        if lean:
            visualization.analyze_relevance = lambda *_: None
            visualization.ActStats.analyze_layer = lambda *_: None
        start = time.process_time()
        visualization.run_distributed(None, 0, len(images), batch_size=batch_size, checkpoint=10**6)
        return time.process_time() - start
