"""What every benchmark writes: rows of a name, a measured value, its unit, the goal, and what it was compared with."""

from __future__ import annotations

import argparse
import json
import os
import platform
from dataclasses import dataclass
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


def arguments(description: str) -> argparse.Namespace:
    """``--quick`` for fewer repetitions, ``--json FILE`` for the rows, ``--only`` for some of the parts."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: minutes become a minute")
    parser.add_argument("--json", metavar="FILE", type=Path, help="where to write the rows")
    parser.add_argument("--only", metavar="PART", help="one part only, by its name")
    return parser.parse_args()


def percentile(values: Sequence[float], fraction: float) -> float:
    """The smallest value that at least this fraction of the values don't exceed: never an interpolation."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(fraction * 1000) * len(ordered) // 1000) - 1)]


def report(rows: Sequence[Row], title: str, file: Path | None) -> None:
    """Print the rows as a table, and write them as JSON where asked for."""
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
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(
            json.dumps([row.to_json() for row in rows], indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        print(f"written to {file}")
