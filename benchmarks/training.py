"""The training claims: what watching a loop costs, how fast the built-in loop is, and whether it lasts.

Run it on a machine that does nothing else: `python benchmarks/training.py [--quick] [--json FILE] [--only PART]`.
Everything is measured beside what it is compared with, in the same run. A goal that doesn't hold is said in its row.
"""

from __future__ import annotations

from measuring import convnetjs, monitor, soak
from measuring.rows import main

PARTS = {"monitor": monitor.measure, "convnetjs": convnetjs.measure, "soak": soak.measure}

if __name__ == "__main__":
    main("training", __doc__, PARTS)
