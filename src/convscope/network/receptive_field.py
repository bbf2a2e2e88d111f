"""placeholder, being written"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Extent:
    """Along one image axis: unit position i sees pixels ``offset + stride*i … + size - 1``, before clipping to the image."""

    size: int
    stride: float | None
    offset: float | None


@dataclass(frozen=True)
class ReceptiveField:
    """What part of the image a unit can see, as if the image went on beyond its border."""

    rows: Extent | None
    columns: Extent | None
    exact: bool
    reason: str = ""
