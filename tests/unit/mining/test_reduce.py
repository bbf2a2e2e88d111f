"""One layer's output reduced in torch and by the compiled kernel, against loops over every value."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convscope.errors import Refused
from convscope.mining import reduce
from convscope.mining.reduce import Block, Wanted, reduce_with_numba, reduce_with_torch, reduction

REDUCTIONS = {"torch": reduce_with_torch, "numba": reduce_with_numba}
SHAPES = ((1, 1, 1, 1), (3, 5, 7, 4), (2, 3, 1, 129), (2, 2, 16, 16), (4, 96, 112, 112))


def _wanted(images: int, units: int, *, all_places: bool = True) -> Wanted:
    worst = -torch.inf if all_places else torch.inf
    return Wanted(
        torch.full((units,), worst),
        torch.full((units,), -worst),
        torch.zeros(images, dtype=torch.bool),
        torch.ones(images, dtype=torch.bool),
    )


def _reduced(name: str, maps: torch.Tensor, wanted: Wanted) -> Block:
    block = Block(len(maps) + 3, maps.shape[1], torch.device("cpu"))
    for each in vars(block).values():
        each.fill_(77)
    REDUCTIONS[name](maps, wanted, block, 2)
    for each in (block.mean, block.mean_square, block.zeros, *block.extreme, *block.place):
        assert (each[:2] == 77).all(), "what lies before belongs to other batches"
        assert (each[2 + len(maps) :] == 77).all(), "and so does what lies behind"
    return block


def _check(maps: torch.Tensor, block: Block) -> None:
    images, units, _, _ = maps.shape
    for image in range(images):
        for unit in range(units):
            values = maps[image, unit].flatten().numpy()
            at = (2 + image, unit)
            if not np.isfinite(values).all():
                assert not (block.extreme[0][at].isfinite() and block.extreme[1][at].isfinite())
                continue
            assert block.extreme[0][at] == values.max()
            assert block.extreme[1][at] == values.min()
            assert block.place[0][at] == int(np.flatnonzero(values == values.max())[0])
            assert block.place[1][at] == int(np.flatnonzero(values == values.min())[0])
            assert block.mean[at].item() == pytest.approx(values.mean(dtype=np.float64), rel=1e-5, abs=1e-6)
            square = np.square(values.astype(np.float64)).mean()
            assert block.mean_square[at].item() == pytest.approx(square, rel=1e-5)
            assert block.zeros[at] == (values == 0).sum()


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("shape", SHAPES[:-1])
def test_every_number_is_that_of_a_loop_over_the_map(name: str, shape: tuple[int, ...]) -> None:
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(0)).relu() - 0.25
    _check(maps, _reduced(name, maps, _wanted(*shape[:2])))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(REDUCTIONS)),
    st.lists(
        st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3e38, -3e38, np.nan, -np.nan, np.inf, -np.inf, 0.5]),
        min_size=1,
        max_size=300,
    ),
)
def test_equal_values_zeros_of_both_signs_and_what_is_not_finite(name: str, values: list[float]) -> None:
    maps = torch.tensor(values, dtype=torch.float32)[None, None, None]
    block = _reduced(name, maps, _wanted(1, 1))
    finite = bool(maps.isfinite().all())
    assert finite == bool(block.extreme[0][2, 0].isfinite() and block.extreme[1][2, 0].isfinite())
    if finite:
        flat = maps.flatten().numpy()
        assert block.place[0][2, 0] == int(np.flatnonzero(flat == flat.max())[0])
        assert block.place[1][2, 0] == int(np.flatnonzero(flat == flat.min())[0])


def test_both_find_the_same_extremes_and_places_in_large_outputs_of_any_layout() -> None:
    maps = torch.randn(SHAPES[-1], generator=torch.Generator().manual_seed(1)).round(decimals=1)
    maps = maps.contiguous(memory_format=torch.channels_last)
    blocks = [_reduced(name, maps, _wanted(*maps.shape[:2])) for name in REDUCTIONS]
    for name in ("extreme", "place", "zeros"):
        ours, theirs = (getattr(block, name) for block in blocks)
        assert torch.equal(ours, theirs)
    for name in ("mean", "mean_square"):
        ours, theirs = (getattr(block, name)[2:-1] for block in blocks)
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_only_places_that_may_matter_are_looked_for() -> None:
    maps = torch.tensor([[[[1.0, 5.0, -3.0]], [[2.0, 1.0, 0.0]]], [[[1.0, 4.0, -1.0]], [[9.0, 1.0, 0.0]]]])
    wanted = Wanted(
        torch.tensor([5.0, 9.0]),
        torch.tensor([-2.0, -1.0]),
        torch.tensor([False, True]),
        torch.zeros(2, dtype=torch.bool),
    )
    block = _reduced("numba", maps, wanted)
    assert block.place[0, 2:4].tolist() == [[1, -1], [1, 0]]  # the second image's are wanted all
    assert block.place[1, 2:4].tolist() == [[2, -1], [-1, -1]]
    assert (block.zeros[2:4] == 77).all()  # no spot images


def test_a_study_that_needs_numba_says_so_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reduce, "numba_is_there", lambda: False)
    with pytest.raises(Refused, match="Numba, which isn't installed") as refusal:
        reduction("numba")
    assert "convscope[fast]" in refusal.value.next_step
    assert reduction("torch") is reduce_with_torch


def test_mining_imports_numba_only_for_studies_that_use_it() -> None:
    seen = subprocess.run(
        [sys.executable, "-c", "import sys, convscope.mining.mine; print('numba' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert seen.stdout.strip() == "False"
