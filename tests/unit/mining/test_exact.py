"""The integer arithmetic that makes sums independent of order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convscope.mining.exact import (
    BITS,
    bin_edges,
    bins,
    exponents,
    from_ordered,
    hashed,
    on_grid,
    ordered,
    smallest_bin,
)

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(floats, min_size=2, max_size=50))
def test_codes_are_in_the_order_of_the_values_and_give_them_back(values: list[float]) -> None:
    array = np.array(values, np.float32)
    codes = ordered(torch.from_numpy(array)).numpy()
    for i in range(len(array)):
        for j in range(len(array)):
            assert (codes[i] < codes[j]) == (array[i] < array[j])
    assert (from_ordered(codes) == array).all()


@given(st.lists(floats, min_size=1, max_size=50), st.integers(1, 2000))
def test_every_value_lies_between_the_edges_of_its_bin(values: list[float], smallest: int) -> None:
    array = np.array(values, np.float32)
    found = bins(torch.from_numpy(array), smallest).numpy()
    first, last = int(found.min()), int(found.max())
    edges = bin_edges(first, last - first + 1, smallest)
    assert (np.diff(edges) >= 0).all()
    lower, upper = edges[found - first], edges[found - first + 1]
    # A positive bin holds its lower edge, a negative one its upper; the one around 0 neither.
    assert ((array >= lower) & (array <= upper)).all()
    inside = np.abs(array) < np.float32(3e38)
    assert ((array < upper) | (found < 0) | ~inside).all()
    assert ((array > lower) | (found > 0) | ~inside).all()


def test_bins_are_symmetric() -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(bins(values, 1000), -bins(-values, 1000))


@given(st.lists(st.floats(0, 2.0**100, width=32), min_size=1, max_size=20))
def test_the_grid_holds_many_times_what_it_was_made_for(magnitudes: list[float]) -> None:
    magnitude = np.array(magnitudes)
    exponent = torch.from_numpy(exponents(magnitude, BITS))
    whole, clipped = on_grid(torch.from_numpy(128 * magnitude), exponent, BITS)
    assert not clipped.any()
    assert (whole == whole.round()).all()
    back = torch.ldexp(whole, exponent.double()).numpy()
    assert (np.abs(back - 128 * magnitude) <= np.ldexp(0.5, exponent.numpy())).all()


def test_what_does_not_fit_on_the_grid_is_clipped_and_said() -> None:
    exponent = torch.from_numpy(exponents(np.array([1.0, 1.0]), BITS))
    whole, clipped = on_grid(torch.tensor([1.0, -1000.0]), exponent, BITS)
    assert clipped.tolist() == [False, True]
    assert float(torch.ldexp(whole, exponent.double())[1]) == -128.0


def test_a_sum_on_the_grid_does_not_depend_on_the_order() -> None:
    values = torch.randn(10_000, 1, generator=torch.Generator().manual_seed(1)) ** 5
    exponent = torch.from_numpy(exponents(values.abs().amax(0).numpy(), BITS))
    whole, _ = on_grid(values, exponent, BITS)
    totals = {float(whole[torch.randperm(len(whole))].cumsum(0)[-1]) for _ in range(5)}
    assert len(totals) == 1
    error = abs(float(torch.ldexp(torch.tensor(totals.pop()), exponent.double())) - float(values.double().sum()))
    assert error <= len(values) * 2.0 ** (float(exponent) - 1)


def test_hashes_are_a_permutation_and_never_change() -> None:
    assert hashed(np.arange(3)).tolist() == [16294208416658607535, 10451216379200822465, 10905525725756348110]
    assert len(np.unique(hashed(np.arange(100_000)))) == 100_000


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_bins_begin_where_the_values_do(scale: float) -> None:
    smallest = smallest_bin(exponents(np.array([scale]), BITS))
    found = bins(torch.tensor([scale, scale / 1e4], dtype=torch.float32), smallest)
    assert 1 <= int(found[0]) <= 100
    assert int(found[1]) == 0
