"""Blocks of images counted in torch and by the compiled kernel: the same bytes, and those of a loop over all images."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convscope.mining.exact import BITS, FINER, SUM_BITS, bins, hashed
from convscope.mining.reduce import Block
from convscope.mining.settings import Grid
from convscope.mining.tally import Floor, Tally, tallying

CPU = torch.device("cpu")
NAMES = ("torch", "numba")


def _block(rng: np.random.Generator, images: int, units: int) -> Block:
    """What a reduction could have written: few different values, so that many are equal; some of them not finite."""
    block = Block(images + 3, units, CPU)
    some = np.array([0.0, -0.0, 0.5, 1.0, -1.0, 2.5, 1e-40, -3.0, 1e6, -1e6, 3e38], np.float32)
    pair = np.sort(rng.choice(some, (2, images, units)), axis=0)[::-1].copy()
    odd = rng.random((2, images, units)) < 0.03
    pair[odd] = rng.choice(np.array([np.nan, np.inf, -np.inf], np.float32), odd.sum())
    block.extreme[:, :images] = torch.from_numpy(pair)
    block.place[:, :images] = torch.from_numpy(rng.integers(0, 50, pair.shape, dtype=np.int32))
    mean = rng.normal(size=(2, images, units)).astype(np.float32)
    mean[rng.random(mean.shape) < 0.05] *= np.float32(1e30)
    mean[0][rng.random(mean[0].shape) < 0.01] = np.nan  # parts of the sum of finite numbers were infinite
    block.mean[:images], block.mean_square[:images] = torch.from_numpy(mean[0]), torch.from_numpy(np.abs(mean[1]))
    block.zeros[:images] = torch.from_numpy(rng.integers(0, 50, (images, units), dtype=np.int32))
    for each in vars(block).values():
        each[..., images:, :] = 77  # of other blocks
    return block


def _told(tally: Tally) -> dict[str, np.ndarray]:
    filled = tally.maxima.count.any(0)
    return {
        "key": tally.key.numpy(),
        "position": tally.position.numpy(),
        "sums": tally.sums.numpy(),
        "bins": tally.maxima.first + np.flatnonzero(filled),
        "histogram": tally.maxima.count[:, filled],
        "top": tally.floor.top.numpy(),
        "bottom": tally.floor.bottom.numpy(),
    }


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 9), st.integers(1, 12))
def test_both_give_the_same_bytes_over_blocks_and_shards(seed: int, units: int, k: int, images: int) -> None:
    grid = Grid(np.arange(units) % 7 - 20, np.arange(units) % 5 - 44)
    floors = {name: Floor(units, k, CPU) for name in NAMES}
    for shard in range(2):
        rng = np.random.default_rng([seed, shard])
        tallies = {name: Tally(units, k, grid, floors[name], CPU) for name in NAMES}
        for number in range(3):
            block = _block(rng, images, units)
            identity = torch.from_numpy(hashed(np.arange(images) + 100 * number + 1000 * shard).view(np.int64) % 2**31)
            spots = torch.from_numpy(np.flatnonzero(rng.random(images) < 0.4))
            pooled = [tallying(name)(tallies[name], block, identity, spots) for name in NAMES]
            assert torch.equal(*pooled)
            ours, theirs = (_told(tallies[name]) for name in NAMES)
            for name, value in ours.items():
                assert value.tobytes() == theirs[name].tobytes(), name
        for name in NAMES:
            floors[name].keep(tallies[name].key)


def _sum_on_grid(values: np.ndarray, exponent: int, bits: int) -> int:
    """Python's whole numbers; its ``round`` takes halves to even, as IEEE does."""
    limit, total = 1 << bits, 0
    for value in values.tolist():
        whole = 0 if np.isnan(value) else round(Fraction(value) / Fraction(2) ** exponent)
        total += max(-limit, min(limit, whole))
    return total


@pytest.mark.parametrize("name", NAMES)
def test_every_number_is_that_of_a_loop(name: str) -> None:
    units, k, images = 19, 4, 50
    grid = Grid(np.full(units, -18), np.full(units, -41))
    tally = Tally(units, k, grid, Floor(units, k, CPU), CPU)
    block = _block(np.random.default_rng(5), images, units)
    identity, spots = torch.arange(images) * 3, torch.arange(0, images, 7)
    tallying(name)(tally, block, identity, spots)  # type: ignore[arg-type]
    extreme, mean = block.extreme[:, :images].numpy(), block.mean[:images].numpy()
    for unit in range(units):
        good = np.isfinite(extreme[:, :, unit]).all(0)
        looked = good & np.isin(np.arange(images), spots.numpy())
        for which, sign in ((0, -1), (1, 1)):
            best = sorted((sign * extreme[which, i, unit], 3 * i) for i in np.flatnonzero(good))[:k]
            assert (tally.key[which, unit].numpy() & (2**32 - 1)).tolist() == [image for _, image in best]
            places = [int(block.place[which, image // 3, unit]) for _, image in best]
            assert tally.position[which, unit].tolist() == places
        expected = {
            0: _sum_on_grid(mean[good, unit], -18 - FINER, SUM_BITS),
            1: _sum_on_grid(mean[good, unit], -18, BITS),
            2: int((~good).sum()),
            3: int((extreme[0, good, unit] > 0).sum()),
            5: _sum_on_grid(mean[looked, unit], -18 - FINER, SUM_BITS),
            6: _sum_on_grid(block.mean_square[:images].numpy()[looked, unit], -41, SUM_BITS),
            7: int(block.zeros[:images].numpy()[looked, unit].sum()),
            8: int(looked.sum()),
        }
        assert {row: int(tally.sums[row, unit]) for row in expected} == expected
        found = bins(torch.from_numpy(extreme[0, good, unit].copy()), tally.smallest_bin).tolist()
        counted = {tally.maxima.first + int(i): int(n) for i, n in enumerate(tally.maxima.count[unit]) if n}
        assert counted == {bin_: found.count(bin_) for bin_ in set(found)}


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_enter_the_ranks_is_counted_all_the_same(name: str) -> None:
    floor = Floor(1, 1, CPU)
    floor.top.fill_(5.0)
    floor.bottom.fill_(-5.0)
    tally = Tally(1, 1, Grid(np.array([-18]), np.array([-41])), floor, CPU)
    block = Block(2, 1, CPU)
    for each in vars(block).values():
        each.zero_()
    block.extreme[0, :, 0] = torch.tensor([4.0, 5.0])
    tallying(name)(tally, block, torch.tensor([8, 9]), torch.tensor([], dtype=torch.int64))  # type: ignore[arg-type]
    assert int(tally.key[0, 0, 0]) & (2**32 - 1) == 9
    assert int(tally.key[1, 0, 0]) == 2**63 - 1
    assert int(tally.maxima.count.sum()) == 2
