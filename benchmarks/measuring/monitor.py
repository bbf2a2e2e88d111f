"""What watching a training loop costs it, beside the same loop unwatched and beside what others use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from measuring.rows import Row

BENCHMARKS = Path(__file__).parents[1]
# Percent of the step's time: the default recording, all of it, with its first steps.
GOALS = {"ResNet-18": 2.0, "ConvNetJS's CIFAR-10 network": 5.0, "LeNet-5": 5.0}
SIZES = {
    "ResNet-18": "batch 64, images of 64 × 64",
    "ConvNetJS's CIFAR-10 network": "batch 32",
    "LeNet-5": "batch 32",
}
EVERY = 10  # steps between two recordings when compared with others


def measure(quick: bool) -> list[Row]:
    """Rows for the default recording, for recording at the same frequency as others, and for equal losses."""
    return [*_default(quick), *_beside_others(quick), *_identical()]


def _default(quick: bool) -> list[Row]:
    rows = []
    seconds, rounds = (25, 1) if quick else (90, 3)
    for network, goal in GOALS.items():
        found = [
            (_run(network, "nothing", seconds=seconds), _run(network, "Monitor", seconds=seconds))
            for _ in range(rounds)
        ]
        plain, watched = found[-1]
        print(f"{network}: {1000 * plain['seconds'] / plain['steps']:.1f} ms a step; {watched['text']}")
        base = f"the same loop without, {SIZES[network]}, {seconds} s each, median of {rounds}"
        rows += [
            Row(f"Monitor as it comes on {network}", _slower(found, "seconds"), "% of step time", goal, base),
            Row(f"Monitor as it comes on {network}: processor time", _slower(found, "processor"), "%", None, base),
            Row(
                f"Monitor as it comes on {network}: by its own account",
                100 * median(each["account"] for _, each in found),
                "%",
                None,
                "what monitor.cost says",
            ),
        ]
    return rows


def _slower(found: list[tuple[dict[str, Any], dict[str, Any]]], clock: str) -> float:
    ratios = [(each[clock] / each["steps"]) / (plain[clock] / plain["steps"]) for plain, each in found]
    return 100 * (median(ratios) - 1)


def _beside_others(quick: bool) -> list[Row]:
    rows = []
    for network, steps in (("ConvNetJS's CIFAR-10 network", 300), ("ResNet-18", 40)):
        rounds = 1 if quick else 3
        cost: dict[str, list[float]] = {}
        for _ in range(rounds):
            plain = _run(network, "nothing", steps=steps)
            for watch in ("Monitor", "TensorBoard", "wandb.watch"):
                other = _run(network, watch, steps=steps, every=EVERY)
                if other:
                    recordings = steps / EVERY
                    cost.setdefault(watch, []).append(1000 * (other["seconds"] - plain["seconds"]) / recordings)
        what = f"weights and gradients of {network} every {EVERY} steps, per recording"
        contents = {
            "Monitor": "exact histograms, and per filter norms and updates",
            "TensorBoard": "add_histogram of every weight and gradient",
            "wandb.watch": 'watch(log="all"), offline; without what it does after the loop',
        }
        rows += [Row(f"{what}: {watch}", median(found), "ms", None, contents[watch]) for watch, found in cost.items()]
        rows += [
            Row(f"{what}: Monitor / {watch}", median(cost["Monitor"]) / median(found), "×", 1.0, "the same loop")
            for watch, found in cost.items()
            if watch != "Monitor" and median(found) > 0
        ]
    return rows


def _identical() -> list[Row]:
    network = "ConvNetJS's CIFAR-10 network"
    plain, watched = _run(network, "nothing", steps=500), _run(network, "Monitor", steps=500)
    different = float(plain["losses"] != watched["losses"])
    return [Row("losses of 500 steps that differ in any bit when watched (1: yes)", different, "", 0.0, "with dropout")]


def _run(network: str, watch: str, **order: Any) -> dict[str, Any]:
    """One loop in a process of its own; nothing where the peer isn't installed."""
    # Peers that drag things along live in an environment of their own, which sees this one's packages.
    python = (
        os.environ.get("CONVSCOPE_PEERS", sys.executable) if watch in ("TensorBoard", "wandb.watch") else sys.executable
    )
    done = subprocess.run(
        [
            python,
            "-W",
            "ignore",
            "-m",
            "measuring.monitor_loops",
            json.dumps({"network": network, "watch": watch, **order}),
        ],
        env={**os.environ, "PYTHONPATH": str(BENCHMARKS)},
        cwd=BENCHMARKS,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        if "ModuleNotFoundError" in done.stderr:
            print(f"{watch} isn't installed: no comparison with it")
            return {}
        raise SystemExit(done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
