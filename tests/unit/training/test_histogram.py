"""Histograms count every value exactly: against a count of one value after the other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convscope.errors import Refused
from convscope.training.histogram import ExponentCounts, shared_exponents

FORMATS = {torch.float64: -1022, torch.float32: -126, torch.bfloat16: -126, torch.float16: -14}


def one_by_one(tensor: torch.Tensor) -> dict[str, object]:
    """The same counts, slowly, by what the numbers are and not by their bits."""
    found: dict[str, object] = {"zero": 0, "nan": 0, "inf": 0, "-inf": 0}
    for value in tensor.double().flatten().tolist():
        if math.isnan(value):
            key: object = "nan"
        elif math.isinf(value):
            key = "inf" if value > 0 else "-inf"
        elif value == 0:
            key = "zero"
        else:
            exponent = max(math.frexp(value)[1] - 1, FORMATS[tensor.dtype] - 1)
            key = (value > 0, exponent)
        found[key] = found.get(key, 0) + 1  # type: ignore[operator]
    return found


def as_found(counts: ExponentCounts) -> dict[str, object]:
    found: dict[object, object] = {
        "zero": counts.zero,
        "nan": counts.nan,
        "inf": counts.positive_infinity,
        "-inf": counts.negative_infinity,
    }
    for sign, values in ((True, counts.positive), (False, counts.negative)):
        for index, value in enumerate(values.tolist()):
            if value:
                found[(sign, counts.first + index)] = value
    return found  # type: ignore[return-value]


SPECIAL = [0.0, -0.0, math.inf, -math.inf, math.nan, -math.nan, 1.0, -1.0, 5e-324, -1e-310, 1e-40, -1e-40, 6e-8, 3e38]


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_special_values(dtype: torch.dtype) -> None:
    tensor = torch.tensor(SPECIAL, dtype=torch.float64).to(dtype)
    counts = ExponentCounts.of(tensor)
    assert as_found(counts) == one_by_one(tensor)
    assert counts.total == len(SPECIAL)
    assert counts.not_finite >= 4


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=32), max_size=60), st.sampled_from(sorted(FORMATS, key=str)))
def test_any_values(values: list[float], dtype: torch.dtype) -> None:
    tensor = torch.tensor(values, dtype=torch.float64).to(dtype)
    assert as_found(ExponentCounts.of(tensor)) == one_by_one(tensor)


def test_many_values_and_any_memory_layout() -> None:
    tensor = torch.randn(9, 7, 80, 80, generator=torch.Generator().manual_seed(0)) ** 9
    expected = one_by_one(tensor)
    assert tensor.numel() > 2**18
    for each in (tensor, tensor.to(memory_format=torch.channels_last), tensor.transpose(0, 3), tensor.flip(1)):
        assert as_found(ExponentCounts.of(each)) == expected


def test_small_numbers_are_counted_where_the_processor_flushes_them() -> None:
    tensor = torch.tensor([1e-40, 0.0, -1e-40])
    torch.set_flush_denormal(True)
    try:
        counts = ExponentCounts.of(tensor)
    finally:
        torch.set_flush_denormal(False)
    assert (counts.zero, counts.first, counts.positive.tolist(), counts.negative.tolist()) == (1, -127, [1], [1])


def test_nothing_and_nothing_but_zeros() -> None:
    assert ExponentCounts.of(torch.zeros(0)).total == 0
    zeros = ExponentCounts.of(torch.zeros(3), zeros=4)
    assert (zeros.zero, len(zeros.positive), shared_exponents([zeros])) == (7, 0, (0, 0))


def test_two_histograms_over_the_same_exponents() -> None:
    one, two = ExponentCounts.of(torch.tensor([1.0, -4.0])), ExponentCounts.of(torch.tensor([0.25, 0.3]))
    first, bins = shared_exponents([one, two])
    assert (first, bins) == (-2, 5)
    assert one.over(first, bins)[0].tolist() == [0, 0, 1, 0, 0]
    assert one.over(first, bins)[1].tolist() == [0, 0, 0, 0, 1]
    assert two.over(first, bins)[0].tolist() == [2, 0, 0, 0, 0]


def test_the_way_of_other_devices_counts_the_same() -> None:
    from convscope.training import histogram

    tensor = torch.tensor(SPECIAL).float()
    layout = histogram._layout(torch.float32)
    bits = tensor.view(torch.int32)
    # torch.histc counts integers on accelerators only: stand in for that one function.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "histc", lambda index, bins, **_: torch.bincount(index, minlength=bins))
        counted = histogram._count_on_device(bits, layout)
    np.testing.assert_array_equal(counted.numpy(), histogram._count_on_cpu(bits, layout).numpy())


def test_other_types_are_refused() -> None:
    with pytest.raises(Refused, match="complex64 values have no histogram"):
        ExponentCounts.of(torch.zeros(2, dtype=torch.complex64))
