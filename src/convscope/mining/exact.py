"""Numbers that add up the same in any order: floats ranked and binned by their bits, and sums on an integer grid.

Adding floats in another order gives other last bits, so a sum over workers would depend on who was faster. Here every
image's contribution is first rounded to a whole multiple of a power of two, chosen once per unit; integers then add up
exactly, whatever the order. The rounding is at most 2⁻²¹ of the largest value the grid can hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor

if TYPE_CHECKING:
    from convscope.view import Array

# A pooled activation has at most 20 bits and a sign: the product of two, summed over 2²³ images, still fits in 64 bits,
# and summed over 2¹³ images it is exact in float64, which matrix products are fast in.
BITS = 20
SUM_BITS = 40  # what is only summed can be on a finer grid
FINER = SUM_BITS - BITS
EXACT_IMAGES = 1 << 13
HEADROOM_BITS = 7  # how much larger than what was seen first a value may become before it is clipped (and counted)
_OCTAVES = 8
_SMALLEST_SHARE = 64.0  # a unit that was silent at first gets the grid of this share of its layer's largest unit

BINS_PER_OCTAVE = 8
BIN_SHIFT = 20  # a float32's sign, exponent and first three bits of its fraction
EMPTY = np.iinfo(np.int64).max


def ordered(values: Float[Tensor, "*axes"]) -> Int32[Tensor, "*axes"]:
    """Float32 values as integers in the same order; −0 counts as 0.

    >>> ordered(torch.tensor([-1.0, -0.0, 0.0, 2.0])).tolist()
    [-1065353217, 0, 0, 1073741824]
    """
    bits = (values + 0.0).view(torch.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def from_ordered(codes: Array) -> Array:
    """The inverse of :func:`ordered`, in NumPy."""
    bits = codes.astype(np.int32)
    return (bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))).view(np.float32)


def smallest_bin(exponent: Array) -> int:
    """Where the logarithmic bins of a layer begin: at 1/256 of what its largest unit's mean was at first.

    As the code of a magnitude without its last bits; smaller magnitudes all lie in the bin around 0.
    """
    largest = int(exponent.max(initial=-126)) + BITS - HEADROOM_BITS
    return max((127 + largest - _OCTAVES) * BINS_PER_OCTAVE, 1)


def bins(values: Float[Tensor, "*axes"], smallest: int) -> Int32[Tensor, "*axes"]:
    """The histogram bin of each value: logarithmic, eight for each factor of two; negative bins for negative values.

    >>> bins(torch.tensor([0.0, 1.0, 1.12, 1.13, 2.0, -1.13, 1e-9]), smallest=1016).tolist()
    [0, 1, 1, 2, 9, -2, 0]
    """
    magnitude = (values.abs().view(torch.int32) >> BIN_SHIFT).sub_(smallest - 1).clamp_(min=0)
    return magnitude.mul_(values.sign().int())


def bin_edges(first: int, count: int, smallest: int) -> Float[np.ndarray, " edge"]:
    """The ``count + 1`` edges of ``count`` bins from bin ``first`` on.

    >>> bin_edges(-1, 4, smallest=1016).tolist()
    [-1.125, -1.0, 1.0, 1.125, 1.25]
    """
    lower = np.arange(first, first + count + 1, dtype=np.int64)
    steps = np.where(lower > 0, lower, 1 - lower) + (smallest - 1)
    codes = np.minimum(steps << BIN_SHIFT, 0x7F7FFFFF)
    edges: Array = np.where(lower > 0, 1.0, -1.0) * from_ordered(codes).astype(np.float64)
    return edges


def exponents(magnitude: Array, bits: int, headroom: int = HEADROOM_BITS) -> Int[np.ndarray, " unit"]:
    """For each unit, the power of two whose multiples of up to ``bits`` bits hold 2**headroom times its ``magnitude``.

    A square needs twice the headroom.

    >>> exponents(np.array([1.0, 0.0, 3.0]), 20).tolist()
    [-13, -17, -11]
    """
    finite = np.where(np.isfinite(magnitude), magnitude, 0.0)
    largest = finite.max(initial=0.0) or 1.0
    wanted = np.maximum(finite, largest / _SMALLEST_SHARE) * 2.0**headroom
    return (np.ceil(np.log2(wanted)).astype(np.int64) - bits).astype(np.int64)


def on_grid(values: Tensor, exponent: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Values as whole multiples of 2**exponent, in float64, and where they had to be clipped."""
    # A power of two, so that multiplying is exact.
    scaled = (values * torch.exp2(-exponent.double())).round_()
    limit = float(1 << bits)
    # Not "greater": the mean of finite numbers can be NaN, where parts of their sum are infinite.
    clipped = ~(scaled.abs() <= limit)
    return scaled.nan_to_num_(0.0, limit, -limit).clamp_(-limit, limit), clipped


def hashed(identity: Array) -> Array:
    """A fixed, well mixed 64-bit number for each image id: a random order of the images that never changes.

    The finalizer of SplitMix64 (Steele et al. 2014).
    """
    with np.errstate(over="ignore"):
        mixed = identity.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))
