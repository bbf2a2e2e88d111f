"""The page in a real browser: from the command to the first grid, and from a key to the unit it asks for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from measuring.rows import Row, percentile

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FIRST_GRID_GOAL = 10.0
CACHED_GOAL, UNCACHED_GOAL = 100.0, 1000.0
# 30 frames per second.
FRAME_GOAL, NODES_GOAL = 1000 / 30, 2000
THUMBNAILS = 10_000


def measure(quick: bool) -> list[Row]:
    """Rows for the first grid of the demonstration, unit switches on ResNet-18, and scrolling a wide layer."""
    return [*_first_grid(2 if quick else 5), *_unit_switches(quick), *_scroll()]


def _first_grid(times: int) -> list[Row]:
    seconds = [browse({"journey": "first-grid", "command": [*convscope(), "demo"]})["seconds"] for _ in range(times)]
    print(f"first grid after {', '.join(f'{each:.2f}' for each in seconds)} s")
    how = "from starting the process to tiles on the canvas; Chromium already runs, nothing is cached"
    return [
        Row("first unit grid after `convscope demo`, worst", max(seconds), "s", FIRST_GRID_GOAL, how),
        Row("first unit grid after `convscope demo`, median", median(seconds), "s", FIRST_GRID_GOAL, how),
    ]


def _unit_switches(quick: bool) -> list[Row]:
    spec = f"{(HERE / 'resnet18.py').relative_to(ROOT)}:resnet18"
    with tempfile.TemporaryDirectory(prefix="convscope-benchmark-") as study:
        found = browse(
            {
                "journey": "unit-switches",
                "command": [*convscope(), "open", spec, "--weights", "random", "--study", f"{study}/study"],
                "layers": 6 if quick else 20,
                "units": 3 if quick else 6,
            }
        )
    milliseconds: dict[str, list[float]] = defaultdict(list)
    for each in found["switches"]:
        milliseconds[each["kind"]].append(each["milliseconds"])
    print("slowest unit switches:")
    for each in sorted(found["switches"], key=lambda each: -float(each["milliseconds"]))[:5]:
        print(f"  {each['milliseconds']:.0f} ms to {each['address']} ({each['kind']})")
    computed = milliseconds["uncached"] + milliseconds["other layer"]
    kinds = {
        "cached": (milliseconds["cached"], CACHED_GOAL, "a unit visited before, by key"),
        "same layer": (milliseconds["same layer"], CACHED_GOAL, "a new unit whose layer's View is in the page, by key"),
        "uncached": (
            computed,
            UNCACHED_GOAL,
            f"a new unit that the server computes something for, {len(milliseconds['other layer'])} of them in "
            "another layer, reached by the address bar, the others by key",
        ),
    }
    rows = []
    for kind, (values, goal, what) in kinds.items():
        how = f"{what}; kernel, gradient and map painted; ResNet-18, {len(values)} switches"
        rows += [
            Row(f"unit switch, {kind}, 95th percentile", percentile(values, 0.95), "ms", goal, how),
            Row(f"unit switch, {kind}, median", median(values), "ms", None, how),
            Row(f"unit switch, {kind}, slowest", max(values), "ms", None, how),
        ]
    return rows


def _scroll() -> list[Row]:
    spec = f"{(HERE / 'wide.py').relative_to(ROOT)}:wide"
    found = browse({"journey": "scroll", "command": [*convscope(), "open", spec, "--images", "demo"]})
    how = f"scrolling 2,048 units by 40 px a frame, {len(found['frames'])} frames"
    return [
        Row("scroll, median frame", median(found["frames"]), "ms", FRAME_GOAL, how),
        Row("scroll, 95th percentile frame", percentile(found["frames"], 0.95), "ms", None, how),
        Row("scroll, elements in the page", found["nodes"], "elements", NODES_GOAL, how),
    ]


def measure_gallery(_quick: bool) -> list[Row]:
    """Rows for the gallery of every patch of 2,048 units, mined from the page over the embedded photos."""
    spec = f"{(HERE / 'wide.py').relative_to(ROOT)}:wide"
    with tempfile.TemporaryDirectory(prefix="convscope-benchmark-") as study:
        command = [*convscope(), "open", spec, "--images", "demo", "--study", f"{study}/study"]
        found = browse({"journey": "gallery", "command": command})
    thumbnails = f"{found['thumbnails']:,} thumbnails"
    if found["thumbnails"] < THUMBNAILS:
        sys.exit(f"the gallery holds {thumbnails} only")
    how = f"scrolling {thumbnails} by 40 px a frame while they are fetched, {len(found['frames'])} frames"
    return [
        Row("gallery, median frame", median(found["frames"]), "ms", FRAME_GOAL, how),
        Row("gallery, 95th percentile frame", percentile(found["frames"], 0.95), "ms", None, how),
        Row("gallery, elements in the page", found["nodes"], "elements", NODES_GOAL, how),
        Row("gallery, a window never seen fills", found["filled"], "ms", None, "from the jump to its last thumbnail"),
    ]


def convscope() -> list[str]:
    """The command, as it is installed beside this Python."""
    command = Path(sys.executable).with_name("convscope")
    return [str(command)] if command.exists() else [sys.executable, "-m", "convscope"]


def browse(task: dict[str, Any]) -> Any:
    """Run page.mjs, which starts the command and drives the browser."""
    # The Makefile's Node: in the environment if it had to be installed, else the machine's.
    node = shutil.which("node", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if node is None or not (ROOT / "web" / "node_modules" / "playwright-core").is_dir():
        sys.exit("the page needs Node and Playwright: run `make page`, then `make bench`")
    task["command"] += ["--no-browser", "--port", "0"]
    done = subprocess.run(
        [node, str(HERE / "page.mjs"), json.dumps(task)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"the page couldn't be measured: {task['journey']} failed")
    return json.loads(done.stdout)
