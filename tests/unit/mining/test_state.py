"""Merging is exact: associative, commutative, and the same entry twice counts once."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convscope.errors import ConvscopeError
from convscope.mining.ranks import Ranks
from convscope.mining.state import Counts, Histogram, LayerState, Sample, smallest, upper_bound
from convscope.view import View

UNITS, K, SAMPLE = 3, 4, 5


def made(images: list[int], seed: int) -> LayerState:
    """The state after these images, computed the slow way from values that depend on the image alone."""
    rows = {image: np.random.default_rng([7, image]).integers(-3, 4, UNITS).astype(np.float32) for image in images}
    value = np.stack([rows[image] for image in images], axis=1)
    ids = np.tile(np.array(images, np.int64), (UNITS, 1))
    nothing = np.zeros((UNITS, 0), np.float32)
    top, bottom = (Ranks.none(UNITS, K, descending=each) for each in (True, False))
    for start in range(len(images)):
        part = slice(start, start + 1)
        position = ids[:, part] % 7
        top = top.merge(Ranks.of(value[:, part], ids[:, part], position, k=K, descending=True))
        bottom = bottom.merge(Ranks.of(value[:, part], ids[:, part], position, k=K, descending=False))
    sample = Sample(np.zeros(0, np.int64), nothing, np.zeros((UNITS, 0), np.int64))
    sample = sample.merge(Sample(ids[0], value, ids % 7), SAMPLE)
    low, high = int(value.min()), int(value.max())
    count = np.stack([[int((row == v).sum()) for v in range(low, high + 1)] for row in value])
    whole = value.astype(np.int64)
    upper = np.triu_indices(UNITS)
    zeros = np.zeros(UNITS, np.int64)
    counts = Counts(
        sum=whole.sum(1) << 20,
        pooled_sum=whole.sum(1),
        product=(whole @ whole.T)[upper],
        spot_sum=whole.sum(1) << 20,
        spot_square_sum=(whole**2).sum(1),
        spot_zeros=(whole == 0).sum(1),
        spot_images=np.full(UNITS, len(images)),
        not_finite=zeros,
        positive=(whole > 0).sum(1),
        clipped=zeros,
    )
    return LayerState(
        rows=1,
        columns=7,
        images=len(images),
        top=top,
        bottom=bottom,
        sample=sample,
        maxima=Histogram(low, count),
        counts=counts,
        exponent=zeros,
        square_exponent=zeros,
        sample_size=SAMPLE,
    )


def same(one: LayerState, other: LayerState) -> bool:
    return one.to_view().to_bytes() == other.to_view().to_bytes()


@st.composite
def partitions(draw: Any) -> list[list[int]]:
    count = draw(st.integers(2, 30))
    images = draw(st.permutations(range(count)))
    cuts = sorted(draw(st.sets(st.integers(1, count - 1), max_size=6)))
    return [images[a:b] for a, b in zip([0, *cuts], [*cuts, count], strict=True)]


@given(partitions())
@settings(deadline=None)
def test_any_partition_in_any_order_is_the_whole(parts: list[list[int]]) -> None:
    states = [made(part, 0) for part in parts]
    whole = made(sorted(image for part in parts for image in part), 0)
    assert same(functools.reduce(LayerState.merge, states), whole)
    assert same(functools.reduce(LayerState.merge, states[::-1]), whole)
    right = functools.reduce(lambda later, earlier: earlier.merge(later), states[::-1])
    assert same(right, whole)


@given(st.lists(st.tuples(st.integers(-2, 2), st.integers(0, 9)), min_size=1, max_size=30))
def test_ranking_is_sorting_by_value_then_image_and_an_entry_counts_once(entries: list[tuple[int, int]]) -> None:
    best: dict[int, int] = {}
    for value, image in entries:
        best.setdefault(image, value)
    for descending in (True, False):
        ranks = Ranks.none(1, K, descending=descending)
        for value, image in [*best_items(best), *best_items(best)]:
            one = Ranks.of(
                np.array([[value]], np.float32), np.array([[image]]), np.array([[image]]), k=K, descending=descending
            )
            ranks = one.merge(ranks)
        sign = -1 if descending else 1
        expected = sorted((sign * value, image) for image, value in best.items())[:K]
        found = ranks.filled[0]
        assert ranks.image[0][found].tolist() == [image for _, image in expected]
        assert ranks.value[0][found].tolist() == [sign * value for value, _ in expected]
        assert ranks.position[0][found].tolist() == [image for _, image in expected]
        assert (ranks.image[0][~found] == -1).all()
        assert np.isnan(ranks.value[0][~found]).all()


def best_items(best: dict[int, int]) -> list[tuple[int, int]]:
    return [(value, image) for image, value in best.items()]


@pytest.mark.parametrize("count", [1, 3, 4, 20])
def test_a_state_survives_its_bytes(count: int) -> None:
    state = made(list(range(count)), 0)
    view = View.from_bytes(state.to_view().to_bytes())
    again = LayerState.from_view(view)
    assert same(again, state)
    assert (again.top.key == state.top.key).all()
    more = made([100, 101], 0)
    assert same(again.merge(more), state.merge(more))


def test_a_view_of_something_else_is_refused() -> None:
    with pytest.raises(ConvscopeError, match="not the state of a mined layer"):
        LayerState.from_view(View("maps", {"map": np.zeros((1, 2))}, {"map": ("unit", "row")}))


def test_states_of_different_studies_are_not_merged() -> None:
    import dataclasses

    other = dataclasses.replace(made([1], 0), exponent=np.ones(UNITS, np.int64))
    with pytest.raises(ConvscopeError, match="different studies"):
        made([0], 0).merge(other)


def test_the_statistics_are_those_of_the_values() -> None:
    state = made(list(range(30)), 0)
    value = np.stack([np.random.default_rng([7, image]).integers(-3, 4, UNITS) for image in range(30)], axis=1)
    found = state.statistics()
    np.testing.assert_allclose(found["mean"], value.mean(1))
    np.testing.assert_allclose(found["variance"], value.var(1))
    np.testing.assert_allclose(found["maximum"], value.max(1))
    np.testing.assert_allclose(found["minimum"], value.min(1))
    np.testing.assert_allclose(found["positive_fraction"], (value > 0).mean(1))
    np.testing.assert_allclose(state.covariance(), np.cov(value, bias=True), atol=1e-12)
    np.testing.assert_allclose(found["pooled_variance"], value.var(1), atol=1e-12)
    np.testing.assert_allclose(found["zero_bound"], np.sqrt(np.log(40) / 60))


def test_the_upper_bound_holds_and_is_the_exact_one_for_none() -> None:
    trials = np.array([1, 10, 1000, 0])
    found = upper_bound(np.zeros(4, np.int64), trials)
    np.testing.assert_allclose(found[:3], 1 - 0.05 ** (1 / trials[:3]), rtol=1e-9)
    assert np.isnan(found[3])
    # What it promises: of many experiments with a coin of chance p, at most 5 % bound p wrongly.
    random = np.random.default_rng(0)
    for chance in (0.01, 0.3, 0.9):
        heads = random.binomial(50, chance, 4000)
        assert (upper_bound(heads, np.full(4000, 50)) < chance).mean() <= 0.05


def test_integers_take_the_smallest_type_that_holds_them() -> None:
    kinds = [smallest(np.array(each)).dtype.name for each in ([0, 256], [-1, 5], [2**31], [-1, 2**40], [])]
    assert kinds == ["int16", "int16", "uint32", "int64", "uint8"]
