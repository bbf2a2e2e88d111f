"""What importing costs, in fresh processes."""

from __future__ import annotations

import subprocess
import sys
from statistics import median

from measuring.rows import Row

GOAL = 1.5
# Inside the process, so that starting Python, which costs both the same, doesn't hide a difference.
PROGRAM = "import time; start = time.perf_counter(); {0}; print(time.perf_counter() - start)"
NUMPY = "import numpy"
TORCH = "import torch"
# What `import convscope` puts off until it is needed; nothing but torch may make it slow.
USED = "import convscope; convscope.Network, convscope.load, convscope.load_images, convscope.Store"


def measure(quick: bool) -> list[Row]:
    """Rows for `import convscope`, and for importing what its names stand for."""
    rounds = 5 if quick else 15
    return [
        _compare("import convscope", "import convscope", NUMPY, rounds, GOAL),
        _compare("import convscope and use its names", USED, TORCH, 3, None),
    ]


def _compare(name: str, program: str, base: str, rounds: int, goal: float | None) -> Row:
    """The median of the ratios of processes started in turn, after one warm-up of both."""
    ratios = [_seconds(program) / _seconds(base) for _ in range(rounds + 1)][1:]
    return Row(name, median(ratios), "×", goal, f"{base}, fresh processes in turn")


def _seconds(program: str) -> float:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM.format(program)], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])
