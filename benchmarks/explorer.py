"""The explorer's speed claims: capturing, importing, the first page, and going from unit to unit.

Run it on a machine that does nothing else: `python benchmarks/explorer.py [--quick] [--json FILE] [--only PART]`.
Everything is measured beside what it is compared with, in the same run. A goal that doesn't hold is said in its row.
"""

from __future__ import annotations

from measuring import capture, imports, page
from measuring.rows import main

PARTS = {
    "capture": capture.measure,
    "imports": imports.measure,
    "page": page.measure,
    "gallery": page.measure_gallery,
}

if __name__ == "__main__":
    main("explorer", __doc__, PARTS)
