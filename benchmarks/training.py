"""The training claims: what watching a loop costs, and how fast the built-in loop is.

Run it on a machine that does nothing else: `python benchmarks/training.py [--quick] [--json FILE] [--only PART]`.
Everything is measured beside what it is compared with, in the same run. A goal that doesn't hold is said in its row.
"""

from __future__ import annotations

import sys

from measuring import convnetjs, monitor
from measuring.rows import Row, arguments, report

PARTS = {"monitor": monitor.measure, "convnetjs": convnetjs.measure}


def main() -> None:
    """Measure every part, or one, and report."""
    options = arguments(__doc__.splitlines()[0])
    if options.only is not None and options.only not in PARTS:
        sys.exit(f"there is no part {options.only!r}: choose {', '.join(PARTS)}")
    rows: list[Row] = []
    for name, measure in PARTS.items():
        if options.only in (None, name):
            rows += measure(options.quick)
    report(rows, "training", options.json)


if __name__ == "__main__":
    main()
