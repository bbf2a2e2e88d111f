"""Peak memory of integrated gradients and of a gradient, beside Captum's, in fresh processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from measuring.attribution_work import captum
from measuring.rows import Row

BENCHMARKS = Path(__file__).parents[1]
PROGRAM = """
import resource, sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
import torch
from measuring.attribution_work import images, seeded
import captum.attr as attr
who, what, count = sys.argv[2], sys.argv[3], int(sys.argv[4])
torch.set_num_threads(1)
network = seeded("ResNet-18")
batch = images(network, count)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
zeros = torch.zeros_like(batch.tensor)
if who == "ours":
    parameters = {"baseline": "mean"} if what == "integrated_gradients" else {}
    network.view(what, "", batch, objective="score:5", **parameters)
elif what == "integrated_gradients":
    attr.IntegratedGradients(network.module).attribute(batch.tensor, baselines=zeros, target=5)
else:
    attr.Saliency(network.module).attribute(batch.tensor, target=5, abs=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def measure(_: bool) -> list[Row]:
    """Rows for what each adds to a process's peak memory, in MB."""
    if captum() is None:
        return []
    rows = []
    for what, count, goal in (("integrated_gradients", 1, 1.0), ("gradient", 8, None)):
        ours, theirs = (_peak(who, what, count) for who in ("ours", "Captum"))
        print(f"{what}, {count} images: {ours:.0f} MB, Captum {theirs:.0f} MB", flush=True)
        words = "integrated gradients, 50 steps, one image" if count == 1 else f"a gradient of {count} images"
        how = f"what Captum's default adds to the peak of a fresh process, {theirs:.0f} MB; ours {ours:.0f} MB"
        rows.append(Row(f"peak memory of {words}, ResNet-18", ours / theirs, "×", goal, how))
    return rows


def _peak(who: str, what: str, count: int) -> float:
    command = [sys.executable, "-c", PROGRAM, str(BENCHMARKS), who, what, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"measuring the memory of {what} failed: {done.stderr[-500:]}")
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes elsewhere
    return float(done.stdout.split()[-1]) / unit
