"""Integrated gradients at 50 steps beside Captum's default; and what the checks of a map cost beside the map."""

from __future__ import annotations

import time
from importlib.metadata import version
from statistics import median

import torch
from measuring.attribution_work import THREADS, captum, check_equal, images, in_turns, seconds, seeded
from measuring.rows import Row

from convscope.mining.shard import torch_threads

GOAL = 0.5
CLASS, STEPS = 5, 50


def measure(quick: bool) -> list[Row]:
    """Rows for one image on ResNet-18: against Captum's default, and against Captum told to take a few at a time."""
    attr = captum()
    if attr is None:
        return []
    network = seeded("ResNet-18")
    batch = images(network, 1)
    baseline = torch.zeros_like(batch.tensor)
    explainer = attr.IntegratedGradients(network.module)

    def ours() -> torch.Tensor:
        # Without a tolerance: exactly as many steps as there, none added where their sum is not complete.
        settings = {"objective": f"score:{CLASS}", "baseline": "mean", "steps": STEPS, "tolerance": 0}
        return torch.from_numpy(network.view("integrated_gradients", "", batch, **settings)["attribution"])

    def theirs(**options: int) -> torch.Tensor:
        found: torch.Tensor = explainer.attribute(
            batch.tensor.clone(), baselines=baseline, target=CLASS, n_steps=STEPS, **options
        ).detach()
        return found

    rounds = 1 if quick else 5
    with torch_threads(THREADS):
        check_equal("integrated gradients", seconds(ours)[0], seconds(theirs)[0])
        ratio, mine, captums = in_turns(ours, theirs, rounds)
        few, _, captums_few = in_turns(ours, lambda: theirs(internal_batch_size=8), rounds)
    passing, _, _ = in_turns(ours, theirs, rounds, time.perf_counter)
    print(f"{STEPS} steps: {mine:.2f} s, Captum {captums:.2f}, Captum in eights {captums_few:.2f}", flush=True)
    what = f"integrated gradients, {STEPS} steps, ResNet-18, one image"
    base = f"Captum {version('captum')}'s default, the same nodes and baseline"
    how = f"{base}, {THREADS} thread, processor time"
    return [
        Row(what, ratio, "×", GOAL, f"{how}; all steps in one batch there"),
        Row(f"{what}, all cores", passing, "×", GOAL, f"{base}, {torch.get_num_threads()} threads, time that passes"),
        Row(f"{what}, against a few at a time", few, "×", None, f"{how}, but internal_batch_size=8"),
    ]


def measure_checks(quick: bool) -> list[Row]:
    """Rows for the sanity checks of one gradient map of ResNet-18, as they come, in forward passes and seconds."""
    network = seeded("ResNet-18")
    batch = images(network, 1)
    rounds = 1 if quick else 3

    def forward() -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = network.module(batch.tensor)
        return found

    def checks() -> torch.Tensor:
        return torch.from_numpy(network.view("sanity_checks", "", batch, objective=f"score:{CLASS}")["spearman"])

    with torch_threads(THREADS):
        forward()
        checks()
        single = median(seconds(forward)[1] for _ in range(10))
        whole = median(seconds(checks)[1] for _ in range(rounds))
    how = "ResNet-18, one image, gradient: 6 random networks, deletion and insertion in 6 steps by 5 orders, 2 fills"
    return [
        Row("sanity checks of a map", whole, "s", None, f"{how}; {THREADS} thread, processor time"),
        Row("sanity checks of a map, in forward passes", whole / single, "×", None, f"{how}; one pass {single:.3f} s"),
    ]
