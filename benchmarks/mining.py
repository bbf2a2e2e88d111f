"""Mining's speed claims: beside a plain forward pass, from JPEG to study, beside zennit-crp; memory and size.

Run it on a machine that does nothing else: `python benchmarks/mining.py [--quick] [--json FILE] [--only PART]`.
Everything is measured beside what it is compared with, in the same run. A goal that doesn't hold is said in its row;
where more is better, the row is the inverse, so that a goal is always the largest value that is good enough.
"""

from __future__ import annotations

from measuring import mining_end_to_end, mining_memory, mining_overhead, mining_peers
from measuring.rows import main

PARTS = {
    "overhead": mining_overhead.measure,
    "end-to-end": mining_end_to_end.measure,
    "workers": mining_end_to_end.measure_workers,
    "peers": mining_peers.measure,
    "memory": mining_memory.measure,
    "size": mining_memory.measure_size,
    "parts": mining_memory.measure_parts,
}

if __name__ == "__main__":
    main("mining", __doc__, PARTS)
