"""Feature visualization's claims: beside torch-lucent, until the first preview, and above natural images.

Run it on a machine that does nothing else: `python benchmarks/visualization.py [--quick] [--json FILE] [--only PART]`.
Everything is measured beside what it is compared with, in the same run. A goal that doesn't hold is said in its row;
where more is better, the row is the inverse, so that a goal is always the largest value that is good enough.
"""

from __future__ import annotations

from measuring import visualization_natural, visualization_peers
from measuring.rows import main

PARTS = {
    "lucent": visualization_peers.measure,
    "preview": visualization_natural.measure_preview,
    "natural": visualization_natural.measure,
}

if __name__ == "__main__":
    main("visualization", __doc__, PARTS)
