"""Transforms and regularizers as text: what a command line, a link and a caption hold, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convscope.errors import ConvscopeError
from convscope.synthesis.regularizers import (
    AlphaNorm,
    Blur,
    ClipSmallContribution,
    ClipSmallNorm,
    Decay,
    Penalty,
    Projection,
    TotalVariation,
)
from convscope.synthesis.transforms import (
    Jitter,
    Pad,
    RandomCrop,
    RandomRotation,
    RandomScale,
    Transform,
    Transforms,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

# Lucid's list (transform.standard_transforms): so a picture must please its unit in every one of these guises.
ROBUST = (
    Pad(12),
    Jitter(8),
    RandomScale(tuple(1 + (index - 5) / 50 for index in range(11))),
    RandomRotation((*(float(each) for each in range(-10, 11)), 0.0, 0.0, 0.0, 0.0, 0.0)),
    Jitter(4),
)
TRANSFORMS_HELP = (
    "none, robust (Lucid's), or some of pad:PIXELS jitter:PIXELS scale:FROM..TO rotate:DEGREES crop:FROM..TO "
    "noise:DEVIATION, joined by spaces"
)
REGULARIZERS_HELP = (
    "none, or some of decay:FRACTION blur:RADIUS/EVERY norm:PERCENTILE contribution:PERCENTILE tv:WEIGHT/BETA "
    "alpha:WEIGHT/ALPHA, joined by spaces (the first four with parameterization=pixels)"
)


def parse_transforms(text: str) -> Transforms:
    """Transforms from text like ``"pad:12 jitter:8 scale:0.9..1.1 rotate:10"``.

    >>> parse_transforms("jitter:8 scale:0.9..1.1").steps[0]
    Jitter(amount=8)
    """
    if text == "none":
        return Transforms()
    if text == "robust":
        return Transforms(ROBUST)
    steps: list[Transform] = []
    noise = 0.0
    for part in text.split():
        name, _, value = part.partition(":")
        try:
            if name == "noise":
                noise = float(value)
            else:
                steps.append(_transform(name, value))
        except (ValueError, KeyError) as error:
            raise ConvscopeError(
                f"{part[:80]!r} isn't a transform", where=text[:200], next_step=f"write {TRANSFORMS_HELP}"
            ) from error
    return Transforms(tuple(steps), (noise, noise))


def _transform(name: str, value: str) -> Transform:
    if name in ("pad", "jitter"):
        return Pad(_whole(value)) if name == "pad" else Jitter(_whole(value))
    if name == "rotate":
        degrees = _whole(value)
        return RandomRotation(tuple(float(each) for each in range(-degrees, degrees + 1)))
    low, high = (_at_least(float(each), 1e-3) for each in value.split(".."))
    if name == "scale":
        return RandomScale(tuple(low + (high - low) * index / 10 for index in range(11)))
    if name != "crop" or high > 1:
        raise ValueError(name)
    return RandomCrop((low, high), (low, high))


def parse_regularizers(text: str) -> tuple[tuple[Penalty, ...], tuple[Projection, ...]]:
    """Regularizers from text like ``"decay:0.0001 blur:1/4"``: those that price the image, those that change it.

    >>> parse_regularizers("tv:0.01/2 blur:1/4")
    ((TotalVariation(weight=0.01, beta=2.0),), (Blur(radius=1.0, every=4),))
    """
    penalties: list[Penalty] = []
    projections: list[Projection] = []
    for part in text.split() if text != "none" else ():
        name, _, value = part.partition(":")
        try:
            first, *more = (_at_least(float(each), 0.0) for each in value.split("/"))
            found = _regularizer(name, first, more)
        except (ValueError, TypeError, KeyError) as error:
            raise ConvscopeError(
                f"{part[:80]!r} isn't a regularizer", where=text[:200], next_step=f"write {REGULARIZERS_HELP}"
            ) from error
        if isinstance(found, Penalty):
            penalties.append(found)
        else:
            projections.append(found)
    return tuple(penalties), tuple(projections)


def _regularizer(name: str, first: float, more: list[float]) -> Penalty | Projection:
    if name == "tv":
        return TotalVariation(first, *more)
    if name == "alpha":
        return AlphaNorm(first, *more)
    if name == "blur":
        return Blur(first, *(int(each) for each in more))
    if more or (name != "decay" and first > 100) or (name == "decay" and first > 1):
        raise ValueError(name)
    if name == "decay":
        return Decay(first)
    return {"norm": ClipSmallNorm, "contribution": ClipSmallContribution}[name](first)


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(text)
    return int(text)


def _at_least(number: float, least: float) -> float:
    if not number >= least or number == float("inf"):  # also true for NaN
        raise ValueError(number)
    return number


def transforms_text(transforms: Transforms) -> str:
    """What :func:`parse_transforms` reads; ranges stand for the values in them."""
    words = ["robust"] if transforms.steps == ROBUST else [_transform_text(step) for step in transforms.steps]
    if any(transforms.noise):
        words.append(f"noise:{transforms.noise[0]:g}")
    return " ".join(words) or "none"


def _transform_text(step: Transform) -> str:
    if isinstance(step, Pad):
        return f"pad:{step.amount}"
    if isinstance(step, Jitter):
        return f"jitter:{step.amount}"
    if isinstance(step, RandomRotation):
        return f"rotate:{max(map(abs, step.degrees)):g}"
    if isinstance(step, RandomScale):
        return f"scale:{min(step.scales):g}..{max(step.scales):g}"
    if isinstance(step, RandomCrop):
        return f"crop:{min(*step.first, *step.last):g}..{max(*step.first, *step.last):g}"
    return repr(step)


def regularizers_text(regularizers: Sequence[Penalty | Projection]) -> str:
    """What :func:`parse_regularizers` reads.

    >>> regularizers_text([Decay(0.0001), Blur(1.0, 4)])
    'decay:0.0001 blur:1/4'
    """
    return " ".join(_regularizer_text(each) for each in regularizers) or "none"


def _regularizer_text(regularizer: Penalty | Projection) -> str:
    if isinstance(regularizer, AlphaNorm):
        return f"alpha:{regularizer.weight:g}/{regularizer.alpha:g}"
    if isinstance(regularizer, TotalVariation):
        return f"tv:{regularizer.weight:g}/{regularizer.beta:g}"
    if isinstance(regularizer, Decay):
        return f"decay:{regularizer.fraction:g}"
    if isinstance(regularizer, Blur):
        return f"blur:{regularizer.radius:g}/{regularizer.every}"
    if isinstance(regularizer, ClipSmallNorm):
        return f"norm:{regularizer.percentile:g}"
    if isinstance(regularizer, ClipSmallContribution):
        return f"contribution:{regularizer.percentile:g}"
    return repr(regularizer)


__all__ = [
    "REGULARIZERS_HELP",
    "ROBUST",
    "TRANSFORMS_HELP",
    "parse_regularizers",
    "parse_transforms",
    "regularizers_text",
    "transforms_text",
]
