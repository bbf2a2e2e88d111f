"""Deletion and insertion against their definition, pixel by pixel, and where the answer is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import sobel as scipy_sobel

from convscope.methods.evidence.comparison import center_map, edge_map, random_map
from convscope.methods.evidence.perturbation import area, perturbation_curves, tile_ranks, tile_side, turns


def slow_curves(image, fill, importance, answer, steps, side, order):
    """One image at a time, one tile after the other; ``order`` gives the tiles of a map as (row, column) of tiles."""
    result = {"deletion": [], "insertion": []}
    for values in importance:
        tiles = order(values)
        for name, start, new in (("deletion", image, fill), ("insertion", fill, image)):
            curve = []
            for step in range(steps + 1):
                changed = start.clone()
                for row, column in tiles[: int(np.floor(step * len(tiles) / steps + 0.5))]:
                    rows, columns = slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side)
                    changed[:, rows, columns] = new[:, rows, columns]
                curve.append(float(answer(changed[None])[0]))
            result[name].append(curve)
    return np.array(result["deletion"]), np.array(result["insertion"])


@pytest.mark.parametrize(("rows", "columns", "side", "steps"), [(8, 6, 2, 4), (9, 7, 2, 5), (5, 5, 1, 7), (7, 9, 3, 1)])
def test_curves_are_those_of_the_definition(rows, columns, side, steps):
    generator = torch.Generator().manual_seed(rows)
    image, fill = torch.rand((2, 3, rows, columns), generator=generator, dtype=torch.float64)
    importance = torch.rand((3, rows, columns), generator=generator, dtype=torch.float64)
    weight = torch.randn((3, rows, columns), generator=generator, dtype=torch.float64)

    def answer(images):
        return torch.tanh((images * weight).sum(dim=(1, 2, 3)))

    def order(values):
        places = [(r, c) for r in range(-(-rows // side)) for c in range(-(-columns // side))]
        means = {(r, c): float(values[r * side : (r + 1) * side, c * side : (c + 1) * side].mean()) for r, c in places}
        return sorted(places, key=lambda place: -means[place])

    found = perturbation_curves(image, fill, importance, answer, steps=steps, side=side, seed=0, batch=5)
    deletion, insertion = slow_curves(image, fill, importance, answer, steps, side, order)
    assert np.allclose(found.deletion, deletion, atol=1e-12)
    assert np.allclose(found.insertion, insertion, atol=1e-12)


def test_the_best_order_in_closed_form():
    # The answer is the sum of the image, its pixels are 4, 3, 2, 1: deleted in that order, 10, 6, 3, 1, 0 are left.
    image = torch.tensor([[[4.0, 3.0], [2.0, 1.0]]])
    maps = torch.stack([image[0], -image[0]])
    found = perturbation_curves(
        image, torch.zeros_like(image), maps, lambda x: x.sum(dim=(1, 2, 3)), steps=4, side=1, seed=0, batch=3
    )
    assert found.deletion.tolist() == [[10, 6, 3, 1, 0], [10, 9, 7, 4, 0]]
    assert found.insertion.tolist() == [[0, 4, 7, 9, 10], [0, 1, 3, 6, 10]]
    assert area(found.deletion).tolist() == [3.75, 6.25]
    assert area(found.insertion).tolist() == [6.25, 3.75]


def test_equal_tiles_come_in_drawn_order_not_in_reading_order():
    nothing = torch.zeros(1, 20, 20)
    ranks, tiles = tile_ranks(nothing, 2, seed=3)
    again, _ = tile_ranks(nothing, 2, seed=3)
    other, _ = tile_ranks(nothing, 2, seed=4)
    assert tiles == 100
    assert torch.equal(ranks, again)
    assert not torch.equal(ranks, other)
    assert sorted(ranks[0, ::2, ::2].flatten().tolist()) == list(range(100))
    upper = ranks[0, :10, ::2].double().mean()
    assert 40 < upper < 60, "the upper half isn't taken first"


def test_all_tiles_are_gone_in_the_end_and_steps_are_even():
    for tiles in (1, 2, 7, 784):
        for steps in (1, 2, 8, 30):
            found = turns(steps, tiles)
            assert (found[0], found[-1], len(found)) == (0, tiles, steps + 1)
            assert max(np.abs(np.diff(found) - tiles / steps)) <= 1
    assert tile_side(224, 300) == 8
    assert tile_side(32, 32) == 1


def test_edges_are_scipys_sobel():
    images = torch.rand((2, 3, 9, 7), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gray = images.mean(dim=1).numpy()
    for found, each in zip(edge_map(images).numpy(), gray, strict=True):
        row, column = (scipy_sobel(each, axis=axis, mode="nearest") for axis in (0, 1))
        assert np.allclose(found, np.hypot(row, column) / 8)


def test_what_knows_nothing_of_the_image():
    assert torch.equal(random_map(5, 6, 7), random_map(5, 6, 7))
    assert not torch.equal(random_map(5, 6, 7), random_map(5, 6, 8))
    blob = center_map(8, 6)
    assert torch.allclose(blob, blob.flip(0))
    assert torch.allclose(blob, blob.flip(1))
    assert blob.argmax() in (3 * 6 + 2, 3 * 6 + 3, 4 * 6 + 2, 4 * 6 + 3)
    # A quarter of the side away from the middle the blob has fallen to exp(-1/2).
    assert float(center_map(5, 401)[2, 200 + 100]) == pytest.approx(np.exp(-0.5), abs=0.01)
