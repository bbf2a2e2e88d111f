"""How alike two maps are: rank correlation (Spearman) and structural similarity (SSIM), each defined by its paper."""

from __future__ import annotations

import numpy as np

from convscope.view import Array  # noqa: TC001 - types are checked in tests

_WINDOW, _SIGMA = 11, 1.5  # Wang et al. 2004, section III-B
_LEVELS = 65536
_C1, _C2 = 0.01**2, 0.03**2  # their K1, K2, for values from 0 to 1


def average_ranks(values: Array) -> Array:
    """Each value's rank from 1, in float64; equal values share the mean of their ranks.

    >>> average_ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist()
    [3.5, 1.0, 3.5, 2.0]
    """
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    ranks: Array = (last - (count - 1) / 2)[place.reshape(-1)]
    return ranks


def spearman(one: Array, other: Array) -> float:
    """Spearman's rank correlation of two maps of the same shape, from -1 to 1, ties by their mean rank.

    NaN where it isn't defined: one of the maps is the same everywhere or isn't finite.

    >>> spearman(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 4.0], [9.0, 16.0]]))
    1.0
    """
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return float("nan")
    first, second = (ranks - ranks.mean() for ranks in (average_ranks(one), average_ranks(other)))
    norm = float(np.sqrt((first @ first) * (second @ second)))
    return float(np.clip(first @ second / norm, -1, 1)) if norm > 0 else float("nan")


def structural_similarity(one: Array, other: Array) -> float:
    """Mean SSIM of two maps ``[row, column]`` with values from 0 to 1; 1 for equal maps.

    Wang et al. 2004: Gaussian window of 11 × 11 with deviation 1.5 (the largest odd one that fits a smaller map),
    averaged over the places where it fits whole. NaN where a map isn't finite.

    >>> ramp = np.linspace(0, 1, 64).reshape(8, 8)
    >>> structural_similarity(ramp, ramp)
    1.0
    """
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return float("nan")
    first, second = one.astype(np.float64), other.astype(np.float64)
    side = min(_WINDOW, *one.shape)
    window = _gaussian(side - 1 + side % 2)
    mean_1, mean_2 = _windowed(first, window), _windowed(second, window)
    variance_1 = _windowed(first * first, window) - mean_1**2
    variance_2 = _windowed(second * second, window) - mean_2**2
    covariance = _windowed(first * second, window) - mean_1 * mean_2
    luminance = (2 * mean_1 * mean_2 + _C1) / (mean_1**2 + mean_2**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_1 + variance_2 + _C2)
    return float((luminance * structure).mean())


def settled(values: Array) -> Array:
    """A map in whole steps of 1/65536 of its largest magnitude, in float64.

    What differs by less is equal: float32 sums differ in their last digits with the batch they are computed in, and
    order shouldn't be made of that.

    >>> settled(np.array([1.0, 0.5, 0.5000001])).tolist()
    [65536.0, 32768.0, 32768.0]
    """
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max(initial=0.0))
    steps: Array = (
        np.round(values.astype(np.float64) * (_LEVELS / largest)) if largest > 0 else values.astype(np.float64)
    )
    return steps


def brightness(values: Array) -> Array:
    """A map's magnitude on the scale from 0 to 1 on which it is drawn: divided by its largest; zeros stay zeros.

    >>> brightness(np.array([[-2.0, 1.0]])).tolist()
    [[1.0, 0.5]]
    """
    magnitude = np.abs(values)
    largest = magnitude.max(initial=0.0)
    return magnitude / largest if largest > 0 else magnitude


def _gaussian(size: int) -> Array:
    offsets = np.arange(size) - size // 2
    weights = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    normalized: Array = weights / weights.sum()
    return normalized


def _windowed(values: Array, window: Array) -> Array:
    """The weighted mean under the window at every place where it fits: along rows, then along columns."""
    for axis in (0, 1):
        values = np.lib.stride_tricks.sliding_window_view(values, len(window), axis=axis) @ window
    return values
