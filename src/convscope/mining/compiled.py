"""The inner loops of mining, compiled by Numba; imported only where Numba is installed.

What :mod:`convscope.mining.reduce` and :mod:`convscope.mining.tally` say in torch takes a pass for each number. Here a
map is read once, in pieces that stay in the processor's cache, and the place of an extreme is looked for only in the
piece that it was found in; of a block's numbers each is read once, and ranked only where it beats the worst rank.
"""

from __future__ import annotations

from inspect import unwrap
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from convscope.mining.exact import BITS, EMPTY, FINER, SUM_BITS

if TYPE_CHECKING:
    from collections.abc import Callable

_PIECE = 128
_SIGN = np.int32(31)
_BITS = np.int32(0x7FFFFFFF)
_LEAST, _MOST = np.int32(-(2**31)), np.int32(2**31 - 1)


def _compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def compile_later(function: Callable[..., Any]) -> Callable[..., Any]:
        # The tests' type checks wrap every function, and Numba must see the function itself.
        plain = unwrap(function)
        try:
            return numba.njit(cache=True, nogil=True, error_model="numpy", **options)(plain)  # type: ignore[no-any-return]
        except RuntimeError:  # there is no folder that machine code could be kept in
            return numba.njit(nogil=True, error_model="numpy", **options)(plain)  # type: ignore[no-any-return]

    return compile_later


# Sums may be added in any order, which vector instructions need. Nothing else is relaxed: NaN stays NaN.
_AnyOrder = {"reassoc", "contract"}


@_compiled(fastmath=_AnyOrder)
def _piece(codes: Any, values: Any) -> Any:
    """Largest and smallest code, and the sum, of a piece. As whole numbers, floats compare with vector instructions."""
    largest, smallest, total = _LEAST, _MOST, np.float32(0)
    for i in range(codes.shape[0]):
        code = codes[i]
        code = code ^ ((code >> _SIGN) & _BITS)
        largest = max(largest, code)
        smallest = min(smallest, code)
        total += values[i]
    return largest, smallest, total


@_compiled(fastmath=_AnyOrder)
def _spot(values: Any) -> Any:
    """The sum of squares of a map, and how many of it are exactly zero."""
    square, zeros = np.float32(0), np.int32(0)
    for i in range(values.shape[0]):
        square += values[i] * values[i]
        zeros += np.int32(values[i] == np.float32(0))
    return square, zeros


@_compiled()
def _place(values: Any, value: Any, start: int) -> Any:
    """The first place from ``start`` on that holds ``value``."""
    for i in range(start, values.shape[0]):
        if values[i] == value:
            return i
    return 0  # not a number


@_compiled()
def reduce_maps(
    codes: Any,
    values: Any,
    top: Any,
    bottom: Any,
    placed: Any,
    spots: Any,
    extreme: Any,
    place: Any,
    mean: Any,
    mean_square: Any,
    zeros: Any,
) -> None:
    """Reduce ``values`` [image, unit, position]; ``codes`` are the same bytes as int32.

    ``extreme`` [2, image, unit] gets maxima and minima, ``place`` where the first of equals is: of maxima that are at
    least ``top`` [unit] or whose image is ``placed``, and of minima that are at most ``bottom``; of others −1.
    ``mean_square`` and ``zeros`` are written for images of ``spots``.
    """
    found = np.empty(2, np.int32)
    number = found.view(np.float32)
    images, units, positions = values.shape
    for image in range(images):
        for unit in range(units):
            code, value = codes[image, unit], values[image, unit]
            largest, smallest, total = _LEAST, _MOST, np.float32(0)
            largest_from, smallest_from = 0, 0
            for start in range(0, positions, _PIECE):
                stop = min(start + _PIECE, positions)
                high, low, part = _piece(code[start:stop], value[start:stop])
                if high > largest:
                    largest, largest_from = high, start
                if low < smallest:
                    smallest, smallest_from = low, start
                total += part
            found[0] = largest ^ ((largest >> _SIGN) & _BITS)
            found[1] = smallest ^ ((smallest >> _SIGN) & _BITS)
            extreme[0, image, unit], extreme[1, image, unit] = number[0], number[1]
            mean[image, unit] = total / np.float32(positions)
            place[0, image, unit] = place[1, image, unit] = -1
            if placed[image] or number[0] >= top[unit]:
                # A zero may have been met with the other sign before.
                begin = 0 if number[0] == 0 else largest_from
                place[0, image, unit] = _place(value, number[0], begin)
            if number[1] <= bottom[unit]:
                begin = 0 if number[1] == 0 else smallest_from
                place[1, image, unit] = _place(value, number[1], begin)
            if spots[image]:
                square, count = _spot(value)
                mean_square[image, unit] = square / np.float32(positions)
                zeros[image, unit] = count


# ---- a block of images -----------------------------------------------------------------------------------------

_TILE = 16  # units whose ranks and sums stay in the cache while the block's images are gone through
_NEITHER = np.int32(0x7F800000)  # the bits of infinity; NaN's are above
_BIN_SHIFT = np.int32(20)
_NO_ENTRY = np.int64(EMPTY)
_LIMIT, _FINE_LIMIT = float(1 << BITS), float(1 << SUM_BITS)
_FINE = float(1 << FINER)


@_compiled()
def _grid(value: Any, limit: Any) -> Any:
    """:func:`convscope.mining.exact.on_grid` of one scaled value."""
    rounded = np.rint(value)
    if abs(rounded) <= limit:
        return rounded, False
    return (0.0 if np.isnan(rounded) else limit if rounded > 0 else -limit), True


@_compiled()
def _code(bits: Any) -> Any:
    """:func:`convscope.mining.exact.ordered` of the bits of a float, and back."""
    if bits == _LEAST:  # the zero with a sign
        return np.int32(0)
    return bits ^ ((bits >> _SIGN) & _BITS)


@_compiled()
def _enter(key: Any, position: Any, entry: Any, place: Any) -> None:
    """Put an entry into its rank, if it is better than the last."""
    rank = key.shape[0] - 1
    if entry >= key[rank]:
        return
    while rank > 0 and key[rank - 1] > entry:
        key[rank], position[rank] = key[rank - 1], position[rank - 1]
        rank -= 1
    key[rank], position[rank] = entry, place


@_compiled()
def tally_block(
    bits: Any,
    extreme: Any,
    place: Any,
    mean: Any,
    mean_square: Any,
    zeros: Any,
    identity: Any,
    spot: Any,
    scale: Any,
    square_scale: Any,
    smallest: Any,
    key: Any,
    position: Any,
    sums: Any,
    top: Any,
    bottom: Any,
    pooled: Any,
    found: Any,
) -> Any:
    """Count a block's images; arrays as in :class:`~convscope.mining.reduce.Block` and :mod:`convscope.mining.tally`.

    ``bits`` are those of ``extreme`` [2, image, unit]; ``scale`` and ``square_scale`` [unit] bring means and mean
    squares onto their grids. ``pooled`` [image, unit] gets the means there, ``found`` the bin of each maximum, the
    smallest int32 where it counts nowhere. Returns the first and the last bin.
    """
    _, images, units = bits.shape
    first, last = _MOST, _LEAST
    worst = np.empty(1, np.int32)
    number = worst.view(np.float32)
    for begin in range(0, units, _TILE):
        end = min(begin + _TILE, units)
        for image in range(images):
            for unit in range(begin, end):
                high, low = bits[0, image, unit], bits[1, image, unit]
                if (high & _BITS) >= _NEITHER or (low & _BITS) >= _NEITHER:
                    pooled[image, unit] = 0.0
                    found[image, unit] = _LEAST
                    sums[2, unit] += 1
                    continue
                if extreme[0, image, unit] >= top[unit]:
                    entry = (np.int64(~_code(high)) << 32) + identity[image]
                    _enter(key[0, unit], position[0, unit], entry, place[0, image, unit])
                if extreme[1, image, unit] <= bottom[unit]:
                    entry = (np.int64(_code(low)) << 32) + identity[image]
                    _enter(key[1, unit], position[1, unit], entry, place[1, image, unit])
                value = np.float64(mean[image, unit]) * scale[unit]
                coarse, _ = _grid(value, _LIMIT)
                fine, clipped = _grid(value * _FINE, _FINE_LIMIT)
                pooled[image, unit] = coarse
                sums[0, unit] += np.int64(fine)
                sums[1, unit] += np.int64(coarse)
                sums[3, unit] += high > 0
                sums[4, unit] += clipped
                if spot[image]:
                    square, clipped = _grid(np.float64(mean_square[image, unit]) * square_scale[unit], _FINE_LIMIT)
                    sums[4, unit] += clipped
                    sums[5, unit] += np.int64(fine)
                    sums[6, unit] += np.int64(square)
                    sums[7, unit] += zeros[image, unit]
                    sums[8, unit] += 1
                step = max((high & _BITS) >> _BIN_SHIFT, smallest - 1) - (smallest - 1)
                step = np.int32(-step if high < 0 else step)
                found[image, unit] = step
                first, last = min(first, step), max(last, step)
        for unit in range(begin, end):
            best, least = key[0, unit, -1], key[1, unit, -1]
            if best != _NO_ENTRY:
                worst[0] = _code(np.int32(~(best >> 32)))
                top[unit] = max(top[unit], number[0])
            if least != _NO_ENTRY:
                worst[0] = _code(np.int32(least >> 32))
                bottom[unit] = min(bottom[unit], number[0])
    return first, last


@_compiled()
def count_bins(found: Any, first: Any, count: Any) -> None:
    """Add the bins ``found`` [image, unit] to ``count`` [unit, bin], whose bins begin at ``first``."""
    images, units = found.shape
    for begin in range(0, units, _TILE):
        for image in range(images):
            for unit in range(begin, min(begin + _TILE, units)):
                if found[image, unit] != _LEAST:
                    count[unit, found[image, unit] - first] += 1


__all__ = ["count_bins", "reduce_maps", "tally_block"]
