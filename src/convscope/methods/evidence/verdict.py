"""What the checks of a map say, in words that claim no more than was measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convscope.view import Array

Level = Literal["good", "neutral", "doubt"]

# There is no value that is right by itself: these only decide which of three sentences is written.
UNLIKE, ALIKE = 0.3, 0.5
STEADY, UNSTEADY = 0.8, 0.5
# Areas that differ by less than this part of the largest are those of an answer that no erased tile moves.
FLAT = 0.01

_ORDERS = {
    "map": "the map",
    "random": "a random order",
    "center": "a blob in the center",
    "edges": "edges",
    "moved": "the map moved elsewhere",
}

RANDOMIZATION = (
    "A map that changes with the weights can still be wrong; and from the end backwards, random layers keep much of "
    "what the trained ones below them pass on, and noisy maps seem to change most (Binder et al. 2023)."
)
PERTURBATION = (
    "Images with erased tiles are unlike any the network was trained on, so its answer may fall for that alone, "
    "soonest where the tiles are scattered (Hooker et al. 2019); how the curves rank methods depends on the fill, the "
    "order and the size of the tiles, and such measures disagree with each other (Tomsett et al. 2020)."
)
SENSITIVITY = "A steady map isn't a right one: an edge detector is perfectly steady."
TOGETHER = "None of these checks can show that a map is right; each can only show that something is wrong."


@dataclass(frozen=True)
class Finding:
    """One sentence about one check. ``level``: nothing against the map, undecided, or something against it."""

    check: Literal["randomization", "edges", "deletion and insertion", "fill", "sensitivity"]
    level: Level
    text: str

    def to_json(self) -> dict[str, Any]:
        """The finding as plain JSON values."""
        return asdict(self)


def on_randomization(spearman: Array, stages: Sequence[str]) -> list[Finding]:
    """From the similarity ``[stage, image]`` of each stage's map to the trained network's."""
    middle = [_median(each) for each in spearman]
    first, last = middle[1], middle[-1]
    undefined = int(np.isnan(spearman[-1]).sum())
    if last is None:
        return [
            Finding(
                "randomization",
                "neutral",
                "The map of the wholly random network is the same everywhere (or not finite): it can't be compared.",
            )
        ]
    told = f"With every layer random, the map's rank correlation with the trained network's is {_number(last)}"
    if len(stages) > 2 and first is not None:
        told += f" (with {stages[1]} alone random {_number(first)})"
    told += "" if spearman.shape[1] == 1 else f", median over {spearman.shape[1] - undefined} images"
    if undefined:
        told += f" ({undefined} more have a map that is the same everywhere)"
    if abs(last) >= ALIKE:
        return [Finding("randomization", "doubt", f"{told}: it shows much the same whatever the network learned.")]
    if first is not None and len(stages) > 2 and first >= STEADY:
        return [
            Finding(
                "randomization",
                "doubt",
                f"{told}: it hardly minds what decides in the end, so it can't say why this answer and not another.",
            )
        ]
    if abs(last) <= UNLIKE:
        return [Finding("randomization", "good", f"{told}: it depends on what the network learned.")]
    return [Finding("randomization", "neutral", f"{told}: part of it would be there without any training.")]


def on_edges(similarity: Array) -> list[Finding]:
    """From each image's rank correlation of the map's magnitude with an edge detector's."""
    middle = _median(similarity)
    if middle is None or middle < ALIKE:
        return []
    told = f"The map resembles an edge detector's, which knows no network: rank correlation {_number(middle)}"
    return [Finding("edges", "doubt" if middle >= STEADY else "neutral", f"{told}.")]


def on_curves(deletion: Array, insertion: Array, curves: Sequence[str]) -> list[Finding]:
    """From the areas ``[curve, image]`` under the curves of the first fill; curve 0 is the map's.

    Images whose answer is much the same in whatever order tiles go and come are told, and not judged by.
    """
    moving = _moving(deletion) | _moving(insertion)
    still, images = int((~moving).sum()), int(moving.sum())
    if not images:
        return [
            Finding(
                "deletion and insertion",
                "neutral",
                "The answer hardly depends on the order in which tiles are deleted or inserted, so the curves say "
                "nothing about this map.",
            )
        ]
    deletion, insertion = deletion[:, moving], insertion[:, moving]
    wins = {
        name: (int((deletion[0] < deletion[index]).sum()), int((insertion[0] > insertion[index]).sum()))
        for index, name in enumerate(curves)
        if index
    }
    told = ", ".join(f"{_ORDERS[name]} ({lower} and {higher})" for name, (lower, higher) in wins.items())
    level: Level = "neutral"
    # A random order scatters holes all over the image, which by itself lowers an answer soon: it's told, not judged by.
    if all(2 * lower > images and 2 * higher > images for name, (lower, higher) in wins.items() if name != "random"):
        level = "good"
    elif all(2 * each < images for each in wins["moved"]):
        level = "doubt"
    return [
        Finding(
            "deletion and insertion",
            level,
            f"Deleting by the map lowers the answer sooner, and inserting by it raises it sooner, than by {told} of "
            f"{images} image{'s' if images > 1 else ''}"
            + (f" (for {still} more the order hardly matters)." if still else "."),
        )
    ]


def _moving(areas: Array) -> Array:
    """Which images' areas ``[curve, image]`` differ between the orders."""
    spread = areas.max(axis=0) - areas.min(axis=0)
    moving: Array = spread > FLAT * np.abs(areas).max(axis=0)
    return moving


def on_fills(deletion: Array, insertion: Array, fills: Sequence[str], curves: Sequence[str]) -> list[Finding]:
    """From the areas ``[fill, curve, image]``: whether another fill would tell another story."""
    if len(fills) < 2:
        return []
    orders = {
        (
            tuple(np.argsort(deletion[index].mean(axis=1), kind="stable")),
            tuple(np.argsort(-insertion[index].mean(axis=1), kind="stable")),
        )
        for index in range(len(fills))
    }
    best = [
        f"{fill}: {_ORDERS[curves[int(deletion[index].mean(axis=1).argmin())]]} and "
        f"{_ORDERS[curves[int(insertion[index].mean(axis=1).argmax())]]}"
        for index, fill in enumerate(fills)
    ]
    same = len(orders) == 1
    told = "Every fill ranks the orders the same" if same else "How the orders rank depends on the fill"
    text = f"{told}; best at deletion and at insertion, {'; '.join(best)}."
    return [Finding("fill", "good" if same else "neutral", text)]


def on_sensitivity(similarity: Array, variants: Sequence[str]) -> list[Finding]:
    """From each variant's rank correlation ``[variant, image]`` with the map as it was asked for."""
    middle = [_median(each) for each in similarity]
    known = [each for each in middle if each is not None]
    if not known:
        return []
    told = ", ".join(
        f"{name} {'–' if each is None else _number(each)}" for name, each in zip(variants, middle, strict=True)
    )
    lowest = min(known)
    level: Level = "good" if lowest >= STEADY else "doubt" if lowest < UNSTEADY else "neutral"
    return [Finding("sensitivity", level, f"Rank correlation with the same map under another choice: {told}.")]


def _median(values: Array) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else None


def _number(value: float) -> str:
    return f"{value:.2f}"
