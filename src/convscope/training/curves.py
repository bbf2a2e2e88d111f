"""Curves: numbers over steps for a page to draw, in bounded memory however long a run is."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from threading import Lock

import numpy as np

from convscope.view import Array  # noqa: TC001 - types are checked in tests

LARGEST = 2048


@dataclass
class _Curve:
    """Means over ``width`` numbers each; once there are too many points, neighbors are joined."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    width: int = 1
    _sum: float = 0.0
    _count: int = 0

    def add(self, step: int, value: float) -> None:
        self._sum += value
        self._count += 1
        if self._count < self.width:
            return
        self.steps.append(step)
        self.values.append(self._sum / self._count)
        self._sum, self._count = 0.0, 0
        if len(self.steps) >= LARGEST:
            self.values = [(a + b) / 2 for a, b in zip(self.values[::2], self.values[1::2], strict=True)]
            self.steps = self.steps[1::2]
            self.width *= 2


class Curves:
    """Named curves; any thread may read while one adds.

    >>> curves = Curves()
    >>> for step in range(3):
    ...     curves.add(step, loss=1.0 / (step + 1))
    >>> curves.read()["loss"][1].round(2).tolist()
    [1.0, 0.5, 0.33]
    """

    def __init__(self) -> None:
        self._curves: dict[str, _Curve] = {}
        self._lock = Lock()

    def add(self, step: int, **values: float) -> None:
        """Numbers of a step; those that aren't finite leave a gap."""
        with self._lock:
            for name, value in values.items():
                self._curves.setdefault(name, _Curve()).add(step, value if math.isfinite(value) else math.nan)

    def read(self) -> dict[str, tuple[Array, Array]]:
        """Each curve's steps (int64) and values (float64); of a long run, means over neighboring steps."""
        with self._lock:
            return {
                name: (np.array(curve.steps, np.int64), np.array(curve.values, np.float64))
                for name, curve in self._curves.items()
            }

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._curves.clear()


__all__ = ["Curves"]
