"""A run that many pages watch for long: errors, frames, and whether the server's memory grows."""

from __future__ import annotations

import sys
import tempfile
from statistics import median

from measuring.page import browse, convscope
from measuring.rows import Row

PAGES = 8
GROWTH_GOAL = 50.0
_SETTLING = 60.0  # seconds: all that is used at all has been used once


def measure(quick: bool) -> list[Row]:
    """Rows for a network on the embedded digits, trained without end while eight pages show it live."""
    if not sys.platform.startswith("linux"):
        print("a process's memory is read from /proc: no soak here")
        return []
    seconds = 120 if quick else 600
    with tempfile.TemporaryDirectory(prefix="convscope-benchmark-") as folder:
        command = [*convscope(), "train", "convnetjs-mnist", "--run", f"{folder}/soak"]
        found = browse({"journey": "soak", "command": command, "pages": PAGES, "seconds": seconds})
    for error in found["errors"][:10]:
        print(error)
    early = median(size for at, size in found["memory"] if _SETTLING <= at < _SETTLING + 30)
    late = median(size for at, size in found["memory"] if at >= seconds - 30)
    frames = [count / seconds for count in found["frames"]]
    how = f"{PAGES} pages in Chromium, on the same machine, watch a run for {seconds // 60} minutes"
    return [
        Row("soak: answers of 500 and above, and errors in a page", len(found["errors"]), "", 0.0, how),
        Row(
            "soak: the server's memory grows",
            late - early,
            "MB",
            GROWTH_GOAL,
            f"{how}; from {early:.0f} MB, medians of 30 s",
        ),
        Row("soak: frames each page gets", median(frames), "/s", None, f"{how}; the slowest page {min(frames):.2f}"),
    ]
