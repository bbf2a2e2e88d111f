"""Attribution's speed claims: each method beside Captum's in one process, integrated gradients, memory, checks.

Run it on a machine that does nothing else: `python benchmarks/attribution.py [--quick] [--json FILE] [--only PART]`.
Everything is measured beside what it is compared with, in the same run, after the values were found to be the same. A
goal that doesn't hold is said in its row; where more is better, the row is the inverse, so that a goal is always the
largest value that is good enough.
"""

from __future__ import annotations

from measuring import attribution_captum, attribution_memory, attribution_steps
from measuring.rows import main

PARTS = {
    "methods": attribution_captum.measure,
    "steps": attribution_steps.measure,
    "memory": attribution_memory.measure,
    "checks": attribution_steps.measure_checks,
}

if __name__ == "__main__":
    main("attribution", __doc__, PARTS)
