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
OTHERS = {
    "Monitor": "exact histograms, and per filter norms and updates",
    "TensorBoard": "add_histogram of every weight and gradient",
    "wandb.watch": 'watch(log="all"), offline; without what it does after the loop',
}


def measure(quick: bool) -> list[Row]:
    """Rows for the default recording, for recording at the same frequency as others, and for equal losses."""
    return [*_default(quick), *_beside_others(quick), *_identical()]


def _default(quick: bool) -> list[Row]:
    rows = []
    seconds = 55 if quick else 120
    for network, goal in GOALS.items():
        found = _run(network, seconds=seconds)
        print(f"{network}: {1000 * found['step']:.1f} ms a step; {found['text']}")
        base = f"the same loop without, {SIZES[network]}, {seconds} s of each in turns"
        what = f"Monitor as it comes on {network}"
        account = 100 * found["account"]
        rows += [
            Row(what, 100 * found["wall"], "% of step time", goal, base),
            Row(f"{what}: processor time", 100 * found["processor"], "%", None, f"{base}, all threads"),
            Row(f"{what}: by its own account", account, "%", None, "what monitor.cost says"),
        ]
    return rows


def _beside_others(quick: bool) -> list[Row]:
    rows = []
    for network, every, steps in (("ConvNetJS's CIFAR-10 network", 20, 400), ("ResNet-18", 6, 60)):
        steps = steps // 2 if quick else steps
        cost: dict[str, float] = {}
        what = f"weights and gradients of {network}, per recording"
        for watch, contents in OTHERS.items():
            found = _run(network, watch, steps=steps, every=every)
            if found:
                cost[watch] = 1000 * _per_recording(
                    found["clock"], every, at=every - 1 if watch == "wandb.watch" else 0
                )
                rows.append(Row(f"{what}: {watch}", cost[watch], "ms", None, f"processor time; {contents}"))
            if watch == "Monitor":
                account = 1000 * found["spent"] / found["recordings"]
                base = "the difference is what its budget doesn't see"
                rows.append(Row(f"{what}: Monitor, by its own account", account, "ms", None, base))
        rows += [
            Row(f"{what}: Monitor / {watch}", cost["Monitor"] / each, "×", 1.0, "the same loop")
            for watch, each in cost.items()
            if watch != "Monitor"
        ]
    return rows


def _per_recording(clock: list[float], every: int, at: int) -> float:
    """Seconds of processor time of the half of each period that begins with a recording, more than of the other half.

    Both halves are of one process and seconds apart, so that what the machine does besides falls on both alike.
    """
    half = every // 2
    starts = range(at + every, len(clock) - every, every)  # the first period is warming up
    return median(2 * clock[each + half] - clock[each] - clock[each + 2 * half] for each in starts)


def _identical() -> list[Row]:
    network = "ConvNetJS's CIFAR-10 network"
    plain, watched = _run(network, "nothing", steps=500), _run(network, "Monitor", steps=500)
    different = float(plain["losses"] != watched["losses"])
    return [Row("losses of 500 steps that differ in any bit when watched (1: yes)", different, "", 0.0, "with dropout")]


def _run(network: str, watch: str = "", **order: Any) -> dict[str, Any]:
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
            json.dumps({"network": network, **({"watch": watch} if watch else {}), **order}),
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
