"""The explorer's speed claims: capturing, importing, the first page, and going from unit to unit.

Run it on a machine that does nothing else: `python benchmarks/explorer.py [--quick] [--json FILE] [--only PART]`.
Everything is measured beside what it is compared with, in the same run. A goal that doesn't hold is said in its row.
"""

from __future__ import annotations

import sys

from measuring import capture, imports, page
from measuring.rows import Row, arguments, report

PARTS = {
    "capture": capture.measure,
    "imports": imports.measure,
    "page": page.measure,
    "gallery": page.measure_gallery,
}


def main() -> None:
    """Measure every part, or one, and report."""
    options = arguments(__doc__.splitlines()[0])
    if options.only is not None and options.only not in PARTS:
        sys.exit(f"there is no part {options.only!r}: choose {', '.join(PARTS)}")
    rows: list[Row] = []
    for name, measure in PARTS.items():
        if options.only in (None, name):
            rows += measure(options.quick)
    report(rows, "explorer", options.json)


if __name__ == "__main__":
    main()
