"""Reducing a batch of maps in one pass over memory, compiled by Numba; imported only where Numba is installed.

What :mod:`convscope.mining.reduce` says in torch takes a pass for each number. Here a map is read once, in pieces that
stay in the processor's cache, and the place of an extreme is looked for only in the piece that it was found in.
"""

from __future__ import annotations

from inspect import unwrap
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

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


__all__ = ["reduce_maps"]
