"""torch-lucent's images of the same network's units: how long ours take to excite them as much."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from measuring.mining_work import seeded_resnet18
from measuring.rows import Row

if TYPE_CHECKING:
    from torch import Tensor

    from convscope.network.network import Network

BENCHMARKS = Path(__file__).parents[1]
LAYER = "layer3.1"  # a block: after its ReLU both sides mean the same by a unit's activation
UNITS = tuple(range(0, 256, 16))
GOAL = 1 / 4
EVERY = 4  # steps between two looks at what the images reach; the looks count as our time


def measure(quick: bool) -> list[Row]:
    """Rows beside torch-lucent, each side in a process of its own; none where its environment isn't named."""
    python = os.environ.get("CONVSCOPE_LUCENT")
    if python is None:
        print("CONVSCOPE_LUCENT doesn't name the Python of an environment with torch-lucent: no comparison with it")
        return []
    units = UNITS[::8] if quick else UNITS
    with tempfile.TemporaryDirectory(prefix="convscope-benchmark-") as folder:
        file = Path(folder) / "images.npy"
        script = str(BENCHMARKS / "measuring" / "visualization_lucent.py")
        theirs = _told([python, script, LAYER, ",".join(map(str, units)), str(file)])
        if "missing" in theirs:
            print(f"torch-lucent can't be imported by {python} (pip install torch-lucent 'kornia<=0.4.1'): left out")
            return []
        here = "from measuring import visualization_peers as m; m.measure_here()"
        ours = _told([sys.executable, "-c", here, str(file), ",".join(map(str, units))])
    return _rows(theirs, ours, units)


def _told(command: list[str]) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def _rows(theirs: dict[str, Any], ours: dict[str, Any], units: tuple[int, ...]) -> list[Row]:
    reached, full = ([inf if each is None else each for each in ours[key]] for key in ("seconds", "full"))
    ratios, in_full = (
        [our / their for our, their in zip(each, theirs["seconds"], strict=True)] for each in (reached, full)
    )
    how = (
        f"torch-lucent {theirs['version']}, its defaults (512 steps, one unit a call); {LAYER} of ResNet-18, random "
        f"weights, {len(units)} units, ours in one batch; processor time of one thread; medians over the units"
    )
    missed = sum(each is None for each in ours["seconds"])
    name = "our time until its activation beside torch-lucent's 512 steps"
    return [
        Row(
            name,
            median(ratios),
            "×",
            GOAL,
            f"{how}; precision {ours['precision']}; {len(units) - missed} units got there",
        ),
        Row(name, median(in_full), "×", None, "the same, precision full"),
        Row("our time per unit", median(reached), "s", None, f"{ours['steps']} steps (median)"),
        Row("torch-lucent's time per unit", median(theirs["seconds"]), "s"),
        Row("what all our steps reach, beside it", median(ours["final"]), "×", None, f"{ours['all']} steps"),
        Row("our time for all steps beside its", ours["whole"] / median(theirs["seconds"]), "×", None, "per unit"),
        Row("our peak memory", ours["peak"], "MiB", None, f"{len(units)} units; {ours['before']:.0f} before"),
        Row("torch-lucent's peak memory", theirs["peak"], "MiB", None, f"1 unit; {theirs['before']:.0f} before"),
    ]


def measure_here() -> None:
    """Our side: prints what it took as JSON on the last line."""
    from convscope.synthesis.aims import Aims
    from convscope.synthesis.ascent import Watch, ascend
    from convscope.synthesis.objective import unit_aim
    from convscope.synthesis.presets import preset

    torch.set_num_threads(1)
    network = seeded_resnet18()
    units = [int(each) for each in sys.argv[2].split(",")]
    goals = _scores(network, _seen(np.load(sys.argv[1])), units)
    network.layer(LAYER)  # the layer table is made once per network
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    aims = Aims(tuple(unit_aim(network, LAYER, unit) for unit in units))
    recipe, seeds = preset("default"), range(len(units))
    races = {}
    for precision in ("auto", "full"):
        race = races[precision] = _Race(network, units, goals)
        watch = Watch(finished=race.finished, every=EVERY)
        race.begin()
        ascend(network, aims, recipe, seeds=seeds, precision=precision, watch=watch)
        race.end(precision)
    race = races["auto"]
    start = time.process_time()
    found = ascend(network, aims, recipe, seeds=seeds)
    whole = (time.process_time() - start) / len(units)
    final = _scores(network, found.pixels, units) / goals
    told = {
        "seconds": [race.reached.get(place) for place in range(len(units))],
        "full": [races["full"].reached.get(place) for place in range(len(units))],
        "precision": found.precision,
        "steps": median(race.steps.values()) if race.steps else 0,
        "final": final.tolist(),
        "all": recipe.steps,
        "whole": whole,
        "before": before,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(told))


@dataclass
class _Race:
    """Each image's share of the batch's processor time until it excites its unit as much as torch-lucent's does."""

    network: Network
    units: list[int]
    goals: Tensor
    reached: dict[int, float] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=dict)
    share: float = 0.0
    step: int = 0

    def begin(self) -> None:
        self.active = len(self.units)
        self.last = time.process_time()

    def finished(self, pixels: Tensor, places: list[int]) -> list[bool]:
        scores = _scores(self.network, pixels, [self.units[place] for place in places])
        now = time.process_time()
        self.share += (now - self.last) / len(places)
        self.step += EVERY
        self.last = now
        done = [bool(score >= self.goals[place]) for score, place in zip(scores, places, strict=True)]
        for place, there in zip(places, done, strict=True):
            if there:
                self.reached[place], self.steps[place] = self.share, self.step
        return done

    def end(self, precision: str) -> None:
        print(
            f"ours, precision {precision}: {len(self.reached)} of {len(self.units)} there after {self.step} steps",
            file=sys.stderr,
        )


def _seen(images: np.ndarray[Any, Any]) -> Tensor:
    """torch-lucent's images at the network's own size, enlarged as it enlarges them itself."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    return F.interpolate(pixels, size=(224, 224), mode="bilinear", align_corners=True)


def _scores(network: Network, pixels: Tensor, units: list[int]) -> Tensor:
    """What each image makes of its unit, the mean of its map, without transforms."""
    from convscope.synthesis.parameterization import to_prepared

    prepared, found = to_prepared(network.preprocessing, pixels), []
    for start in range(0, len(prepared), 4):
        with network.trace([LAYER]) as trace:
            trace.run(prepared[start : start + 4])
        found.append(trace[LAYER].mean(dim=(2, 3)).detach().clone())
    return torch.cat(found)[torch.arange(len(units)), torch.tensor(units)]
