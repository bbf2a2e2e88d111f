"""The built-in loop beside ConvNetJS itself: examples per second with every panel live, and what accuracy it reaches in
the time that ConvNetJS's demo needs for its first 20,000 examples.

ConvNetJS runs in Node and ours in Python, one after the other and in turns, on the same images: those of CIFAR-10 where
a folder with them is named in CONVSCOPE_CIFAR10, random ones otherwise (the accuracy is then left out).
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from measuring.rows import Row

from convscope.training.data import Data, Split, load_data
from convscope.training.learner import Learner
from convscope.training.presets import preset
from convscope.training.trainer import Trainer, suitable_threads
from convscope.training.until import Until

HERE = Path(__file__).parent
MODULES = HERE.parent.parent / "tests" / "oracles" / "node_modules"
DEMO_EXAMPLES = 20_000
GOAL_RATIO = 20.0
GOAL_FRAMES = 10.0
GOAL_ACCURACY = 0.8
GOAL_DIGITS = 0.95


def measure(quick: bool) -> list[Row]:
    """Every row; one that can't be measured here says why."""
    rows = digits()
    node = _node()
    if node is None:
        print("ConvNetJS isn't here: run `make tests/oracles/node_modules/.installed`", file=sys.stderr)
        return rows
    data = _cifar10()
    real = data is not None
    data = data or _random_images()
    with tempfile.TemporaryDirectory() as folder:
        records = Path(folder) / "examples.bin"
        _write_records(data, records)
        rows += speed(data, node, records, rounds=2 if quick else 5, seconds=6.0 if quick else 15.0)
        if real and not quick:
            rows += accuracy(data, node, records)
    return rows


def speed(data: Data, node: str, records: Path, *, rounds: int, seconds: float) -> list[Row]:
    """Examples per second of both, in turns; ours with every layer's panels made as a page would get them."""
    ratios, frames, ours, theirs, bare = [], [], [], [], []
    for _ in range(rounds):
        js = _convnetjs(node, records, seconds, 10**9)
        mine = _ours(data, seconds)
        theirs.append(js[0] / js[1])
        ours.append(mine.examples_per_second)
        frames.append(mine.frames_per_second)
        ratios.append(ours[-1] / theirs[-1])
        bare.append(_ours(data, seconds / 2, watched=False).examples_per_second)
    beside = f"ConvNetJS in Node in the same run: {statistics.median(theirs):.1f} examples/s"
    ratio, rate = statistics.median(ratios), statistics.median(frames)
    # A goal is the largest value that is good enough, so what should be large is given as its inverse.
    return [
        Row("ConvNetJS's time per example, over ours with all panels live", ratio, "times"),
        Row(
            f"our time per example as a part of ConvNetJS's ({statistics.median(ours):,.0f} examples/s)",
            1 / ratio,
            "",
            1 / GOAL_RATIO,
            beside,
        ),
        Row(f"seconds between frames ({rate:.1f} frames/s)", 1 / rate if rate else 1e9, "s", 1 / GOAL_FRAMES),
        Row("examples per second with nobody watching", statistics.median(bare), "examples/s", None, beside),
    ]


class _Ours:
    """What came out of one measured run."""

    def __init__(self, examples: int, frames: int, seconds: float) -> None:
        self.examples_per_second = examples / seconds
        self.frames_per_second = frames / seconds


def _ours(data: Data, seconds: float, *, watched: bool = True) -> _Ours:
    """ConvNetJS's network and settings, while a thread takes every frame as a page would get it."""
    chosen = preset("convnetjs-cifar10")
    trainer = Trainer(Learner(chosen.definition(), data, chosen.settings))
    for _ in range(20):
        trainer.learner.step()
    before = trainer.learner.examples
    taken = [0]

    def watch() -> None:
        last = -1
        while trainer.state == "running":
            frame = trainer.frame(last, 1.0)
            if frame is not None:
                last = frame.step
                frame.to_view().to_bytes()
                taken[0] += 1

    trainer.start(Until(seconds=seconds))
    began = time.perf_counter()
    thread = threading.Thread(target=watch, daemon=True)
    if watched:
        thread.start()
    while trainer.state == "running" and time.perf_counter() - began < seconds:
        time.sleep(0.01)
    examples, frames, took = trainer.learner.examples - before, taken[0], time.perf_counter() - began
    trainer.close()
    return _Ours(examples, frames, took)


def accuracy(data: Data, node: str, records: Path) -> list[Row]:
    """What the small residual network reaches in the time of ConvNetJS's first 20,000 examples."""
    examples, seconds = _convnetjs(node, records, 3600.0, DEMO_EXAMPLES)
    chosen = preset("resnet")
    learner = Learner(chosen.definition(), data, chosen.settings)
    torch.set_num_threads(suitable_threads(learner))
    # How long an epoch takes here decides how many there is time for; finding that out counts as well.
    began = time.perf_counter()
    for _ in range(10):
        learner.step()
    each = (time.perf_counter() - began) / learner.examples
    left = seconds - (time.perf_counter() - began)
    epochs = max(1.0, 0.97 * left / each / len(data.train))
    learner.change({"epochs": epochs + learner.epoch})
    while time.perf_counter() - began < seconds and learner.epoch < learner.settings.epochs:
        learner.step()
    took = time.perf_counter() - began
    found = learner.evaluate()
    if found is None:
        raise RuntimeError("the evaluation was cancelled")
    return [
        Row(f"ConvNetJS's time for its first {examples:,} examples", seconds, "s"),
        Row(
            f"held-out error of the small residual network after {took:.0f} s and {learner.epoch:.1f} epochs",
            1 - found.accuracy,
            "",
            1 - GOAL_ACCURACY,
            f"accuracy {found.accuracy:.1%} of {found.count:,} images",
        ),
    ]


def digits() -> list[Row]:
    """From a cold start, in a fresh process, until the digits' network is right in 95 of 100 held-out images."""
    with tempfile.TemporaryDirectory() as folder:
        words = [
            sys.executable,
            "-c",
            "import sys; from convscope.cli import main; sys.exit(main())",
            "train",
            "lenet5",
        ]
        began = time.perf_counter()
        done = subprocess.run(
            [*words, "--accuracy", str(GOAL_DIGITS), "--seconds", "120", "--run", f"{folder}/a", "--json"],
            capture_output=True,
            text=True,
            check=True,
        )
        seconds = time.perf_counter() - began
    held = json.loads(done.stdout)["held_out"]
    name = f"a digit network from a cold start to {held['accuracy']:.1%} of {held['count']:,} held-out images, recorded"
    return [Row(name, seconds, "s", 60.0)]


def _convnetjs(node: str, records: Path, seconds: float, most: int) -> tuple[int, float]:
    done = subprocess.run(
        [node, str(HERE / "convnetjs.cjs"), str(seconds), str(most), str(records), str(MODULES)],
        capture_output=True,
        text=True,
        check=True,
    )
    last = json.loads(done.stdout.splitlines()[-1])
    return int(last["examples"]), float(last["seconds"])


def _node() -> str | None:
    found = shutil.which("node", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    return found if found is not None and (MODULES / "convnetjs").is_dir() else None


def _cifar10() -> Data | None:
    folder = os.environ.get("CONVSCOPE_CIFAR10")
    return load_data(folder) if folder else None


def _random_images() -> Data:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2000, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (2000,), generator=generator)
    split = Split(pixels, labels)
    return Data(split, split, tuple("0123456789"), "random images")


def _write_records(data: Data, path: Path) -> None:
    part = data.train.part(torch.arange(min(10_000, len(data.train))))
    rows = torch.cat([part.labels.to(torch.uint8)[:, None], part.images.flatten(1)], dim=1)
    path.write_bytes(rows.numpy().tobytes())
