"""The training claims: what watching a loop costs, and how fast the built-in loop is.

Run it on a machine that does nothing else: `python benchmarks/training.py [--quick] [--json FILE] [--only PART]`.
Everything is measured beside what it is compared with, in the same run. A goal that doesn't hold is said in its row.
"""

from __future__ import annotations

from measuring import convnetjs, monitor
from measuring.rows import main

PARTS = {"monitor": monitor.measure, "convnetjs": convnetjs.measure}

if __name__ == "__main__":
    main("training", __doc__, PARTS)
