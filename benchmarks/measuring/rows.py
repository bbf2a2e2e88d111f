"""What every benchmark writes: rows of a name, a measured value, its unit, the goal, and what it was compared with."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Row:
    """One measured number. ``goal`` is the largest value that is good enough; a row without one is for comparison."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    compared_with: str = ""

    @property
    def holds(self) -> bool | None:
        return None if self.goal is None else self.value <= self.goal

    def to_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "value": round(self.value, 4),
            "unit": self.unit,
            "goal": self.goal,
            "holds": self.holds,
            "compared_with": self.compared_with,
        }


Measure = Callable[[bool], list[Row]]


def main(title: str, description: str, parts: Mapping[str, Measure]) -> None:
    """Measure every part, or one, and report. A file keeps the rows that it has of the parts that weren't measured."""
    options = _arguments(description)
    if options.only is not None and options.only not in parts:
        sys.exit(f"there is no part {options.only!r}: choose {', '.join(parts)}")
    found: dict[str, list[Row]] = {}
    for name, measure in parts.items():
        if options.only in (None, name):
            found[name] = measure(options.quick)
    _print([row for rows in found.values() for row in rows], title)
    if options.json is not None:
        _write(found, tuple(parts), options.json)


def _arguments(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: minutes become a minute")
    parser.add_argument("--json", metavar="FILE", type=Path, help="where to write the rows")
    parser.add_argument("--only", metavar="PART", help="one part only, by its name")
    return parser.parse_args()


def percentile(values: Sequence[float], fraction: float) -> float:
    """The smallest value that at least this fraction of the values don't exceed: never an interpolation."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(fraction * 1000) * len(ordered) // 1000) - 1)]


def _print(rows: Sequence[Row], title: str) -> None:
    table = Table(
        title=title,
        caption=f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"load average {os.getloadavg()[0]:.1f} at the end",
    )
    table.add_column("what", overflow="fold")
    for heading in ("value", "goal"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("compared with", overflow="fold")
    for row in rows:
        mark = {None: "", True: "[green]holds[/]", False: "[bold red]misses[/]"}[row.holds]
        goal = "" if row.goal is None else f"≤ {row.goal:g}"
        table.add_row(row.name, f"{row.value:.3g} {row.unit}", goal, mark, row.compared_with)
    Console(width=None if os.isatty(1) else 140).print(table)


def _write(found: Mapping[str, Sequence[Row]], order: Sequence[str], file: Path) -> None:
    """One list of rows in the order of the parts; each says when it was measured, and how busy the machine was then."""
    known: list[dict[str, object]] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    state = {"measured": datetime.now(tz=UTC).date().isoformat(), "load_average": round(os.getloadavg()[0], 1)}
    rows = [
        row
        for part in order
        for row in (
            [{"part": part, **row.to_json(), **state} for row in found[part]]
            if part in found
            else [row for row in known if row.get("part") == part]
        )
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written to {file}")
