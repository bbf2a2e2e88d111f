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

from convscope.mining.exact import BIN_SHIFT, BITS, EMPTY, FINER, SUM_BITS

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

_TILE = 16  # units whose counts stay in the cache while the block's images are gone through
_INFINITY = np.int32(0x7F800000)  # its bits; those of NaN are above
_SHIFT = np.int32(BIN_SHIFT)
_NO_ENTRY = np.int64(EMPTY)
_PLACE = np.int64(0xFFFFFFFF)
_LIMIT, _FINE_LIMIT = float(1 << BITS), float(1 << SUM_BITS)
_FINE = float(1 << FINER)


@_compiled()
def _whole(value: Any, limit: Any) -> Any:
    """:func:`convscope.mining.exact.on_grid` of a scaled value, in a form that vector instructions can follow."""
    rounded = np.rint(value)
    rounded = rounded if rounded == rounded else 0.0
    return min(max(rounded, -limit), limit)


@_compiled()
def _code(bits: Any) -> Any:
    """:func:`convscope.mining.exact.ordered` of the bits of a float, and back."""
    if bits == _LEAST:  # the zero with a sign
        return np.int32(0)
    return bits ^ ((bits >> _SIGN) & _BITS)


@_compiled()
def _side(bits: Any, which: Any) -> Any:
    """The code that is smaller the better the value: of maxima (``which`` 0) or minima (1)."""
    return _code(bits) if which else ~_code(bits)


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
def _find_bins(high: Any, low: Any, smallest: Any, found: Any) -> None:
    """The bin of each of an image's maxima, by their bits; the smallest int32 where one counts nowhere."""
    least = np.int32(smallest - 1)
    for unit in range(high.shape[0]):
        magnitude = high[unit] & _BITS
        step = max(magnitude >> _SHIFT, least) - least
        step = -step if high[unit] < 0 else step
        finite = (magnitude < _INFINITY) & ((low[unit] & _BITS) < _INFINITY)
        found[unit] = step if finite else _LEAST


@_compiled()
def _add_means(found: Any, mean: Any, scale: Any, pooled: Any, fine: Any, coarse: Any, clipped: Any) -> None:
    """Add an image's means: ``fine`` and ``coarse`` [unit] are their sums on both grids, in float64 and exact."""
    for unit in range(found.shape[0]):
        value = np.float64(mean[unit]) * scale[unit] if found[unit] != _LEAST else 0.0
        whole = _whole(value, _LIMIT)
        pooled[unit] = whole
        coarse[unit] += whole
        fine[unit] += _whole(value * _FINE, _FINE_LIMIT)
        clipped[unit] += 0.0 if abs(np.rint(value * _FINE)) <= _FINE_LIMIT else 1.0


@_compiled()
def _add_spots(
    found: Any, mean: Any, square: Any, zeros: Any, scale: Any, square_scale: Any, sums: Any, totals: Any
) -> None:
    for unit in range(found.shape[0]):
        if found[unit] == _LEAST:
            continue
        value = np.float64(square[unit]) * square_scale[unit]
        totals[2, unit] += 0.0 if abs(np.rint(value)) <= _FINE_LIMIT else 1.0
        sums[5, unit] += np.int64(_whole(np.float64(mean[unit]) * scale[unit] * _FINE, _FINE_LIMIT))
        sums[6, unit] += np.int64(_whole(value, _FINE_LIMIT))
        sums[7, unit] += zeros[unit]
        sums[8, unit] += 1


@_compiled()
def add_block(
    bits: Any,
    mean: Any,
    mean_square: Any,
    zeros: Any,
    spot: Any,
    scale: Any,
    square_scale: Any,
    smallest: Any,
    sums: Any,
    pooled: Any,
    found: Any,
) -> Any:
    """Add up a block's images; arrays as in :class:`~convscope.mining.reduce.Block` and :mod:`convscope.mining.tally`.

    ``bits`` [2, image, unit] are those of maxima and minima; ``scale`` and ``square_scale`` [unit] bring means and mean
    squares onto their grids. ``pooled`` [image, unit] gets the means there, ``found`` the bin of each maximum, the
    smallest int32 where it counts nowhere. Returns the first and the last bin.
    """
    _, images, units = bits.shape
    first, last = _MOST, _LEAST
    totals = np.zeros((3, units))
    for image in range(images):
        _find_bins(bits[0, image], bits[1, image], smallest, found[image])
        _add_means(found[image], mean[image], scale, pooled[image], totals[0], totals[1], totals[2])
        if spot[image]:
            _add_spots(found[image], mean[image], mean_square[image], zeros[image], scale, square_scale, sums, totals)
        for unit in range(units):
            step = found[image, unit]
            if step == _LEAST:
                sums[2, unit] += 1
            else:
                first, last = min(first, step), max(last, step)
                sums[3, unit] += bits[0, image, unit] > 0
    for unit in range(units):
        sums[0, unit] += np.int64(totals[0, unit])
        sums[1, unit] += np.int64(totals[1, unit])
        sums[4, unit] += np.int64(totals[2, unit])
    return first, last


@_compiled()
def rank_few(
    bits: Any, which: Any, found: Any, candidate: Any, place: Any, identity: Any, key: Any, position: Any
) -> None:
    """Rank a block's maxima (``which`` 0) or minima (1) one by one.

    ``bits``, ``found``, ``candidate`` and ``place`` [image, unit]; ``key`` and ``position`` [unit, rank].
    """
    images, units = bits.shape
    for image in range(images):
        for unit in range(units):
            if candidate[image, unit] and found[image, unit] != _LEAST:
                entry = (np.int64(_side(bits[image, unit], which)) << 32) + identity[image]
                _enter(key[unit], position[unit], entry, place[image, unit])


@_compiled()
def list_entries(bits: Any, which: Any, found: Any, candidate: Any, order: Any, entries: Any) -> None:
    """Write candidates into ``entries`` [unit, image]: a code and the image's place in ``order``, to be sorted."""
    images, units = bits.shape
    for begin in range(0, units, _TILE):
        for place in range(images):
            image = order[place]
            for unit in range(begin, min(begin + _TILE, units)):
                good = candidate[image, unit] and found[image, unit] != _LEAST
                entry = (np.int64(_side(bits[image, unit], which)) << 32) + place
                entries[unit, place] = entry if good else _NO_ENTRY


@_compiled()
def merge_entries(entries: Any, order: Any, identity: Any, place: Any, key: Any, position: Any) -> None:
    """Merge each unit's sorted ``entries`` with its sorted ranks."""
    units, images = entries.shape
    ranks = key.shape[1]
    old_key, old_position = np.empty(ranks, np.int64), np.empty(ranks, np.int32)
    for unit in range(units):
        if entries[unit, 0] == _NO_ENTRY:
            continue
        old_key[:], old_position[:] = key[unit], position[unit]
        old = new = 0
        entry, image = _NO_ENTRY, 0
        for rank in range(ranks):
            if entry == _NO_ENTRY and new < images and entries[unit, new] != _NO_ENTRY:
                image = order[entries[unit, new] & _PLACE]
                entry = ((entries[unit, new] >> 32) << 32) + identity[image]
            if entry < old_key[old]:
                key[unit, rank], position[unit, rank] = entry, place[image, unit]
                entry, new = _NO_ENTRY, new + 1
            else:
                key[unit, rank], position[unit, rank] = old_key[old], old_position[old]
                old += 1


@_compiled()
def count_bins(found: Any, first: Any, count: Any) -> None:
    """Add the bins ``found`` [image, unit] to ``count`` [unit, bin], whose bins begin at ``first``."""
    images, units = found.shape
    for begin in range(0, units, _TILE):
        for image in range(images):
            for unit in range(begin, min(begin + _TILE, units)):
                if found[image, unit] != _LEAST:
                    count[unit, found[image, unit] - first] += 1


__all__ = ["add_block", "count_bins", "list_entries", "merge_entries", "rank_few", "reduce_maps"]
