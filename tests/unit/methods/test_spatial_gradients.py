"""Spatial gradients: the differences again, in loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from references import double

from convscope.errors import ConvscopeError, Refused
from convscope.methods.spatial_gradients import SpatialGradients
from convscope.testing import tiny_network


def slow_differences(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column differences of one ``[row, column]`` array: central inside, one-sided at the borders."""
    rows, columns = values.shape
    row, column = np.zeros((rows, columns)), np.zeros((rows, columns))
    for r in range(rows):
        for c in range(columns):
            above, below = max(r - 1, 0), min(r + 1, rows - 1)
            left, right = max(c - 1, 0), min(c + 1, columns - 1)
            row[r, c] = (values[below, c] - values[above, c]) / (below - above)
            column[r, c] = (values[r, right] - values[r, left]) / (right - left)
    return row, column


def holds(view, source: np.ndarray) -> None:
    assert view["row"].shape == source.shape
    for index in np.ndindex(*source.shape[:2]):
        row, column = slow_differences(source[index].astype(np.float64))
        assert np.allclose(view["row"][index], row, atol=1e-6)
        assert np.allclose(view["column"][index], column, atol=1e-6)
        assert np.allclose(view["magnitude"][index], np.hypot(row, column), atol=1e-6)
        assert np.allclose(np.gradient(source[index].astype(np.float64)), [row, column])


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("in_place", "first"),
        ("grouped", "dilated"),
        ("flattened", "features.2"),
        ("transposed", "up"),
        ("pixels", "linear"),
    ],
)
def test_of_weights_and_weight_gradients(name, layer):
    network, batch = double(tiny_network(name))
    weights = network.view("weights", layer, slices=2)
    view = network.view("spatial_gradients", layer, slices=2)
    assert np.array_equal(view["channel"], weights["channel"])
    holds(view, weights["kernel"])
    gradients = network.view("weight_gradients", layer, batch, slices=2, objective="score:1")
    view = network.view("spatial_gradients", layer, batch, of="weight_gradients", objective="score:1", slices=2)
    holds(view, gradients["gradient"])
    assert view.meta["objective"] == "score:1"


def test_of_maps_and_of_the_image():
    network, batch = double(tiny_network("in_place"))
    maps = network.view("activations", "first", batch)["map"]
    view = network.view("spatial_gradients", "first", batch, of="activations")
    holds(view, maps.transpose(1, 0, 2, 3))
    one = network.view("spatial_gradients", "first:2", batch.tensor[:1], of="activations")
    assert one["row"].shape == (1, 1, *maps.shape[2:])
    assert np.array_equal(one["magnitude"][0, 0], view["magnitude"][2, 0])
    assert one.meta["units"] == [2]
    image = network.view("spatial_gradients", "", batch.tensor[:1], of="image")
    holds(image, batch.tensor[:1].transpose(0, 1).numpy())


def test_of_a_ramp():
    network = tiny_network("edges").network()
    ramp = torch.arange(9.0)[None, None, :, None].expand(1, 1, 9, 7)
    view = network.view("spatial_gradients", "", ramp, of="image")
    assert (view["row"] == 1).all()
    assert (view["column"] == 0).all()
    assert (view["magnitude"] == 1).all()


def test_ranges_are_those_of_all_slices():
    network = tiny_network("grouped").network()
    few = network.view("spatial_gradients", "grouped", slices=1)
    every = network.view("spatial_gradients", "grouped", slices=0)
    assert few.meta["ranges"] == every.meta["ranges"]
    assert every.meta["ranges"]["row"]["maximum"] == pytest.approx(every["row"].max())


def test_one_row_has_no_neighbor():
    network, batch = double(tiny_network("branches"))
    with pytest.raises(Refused, match="1×1 array has no row differences"):
        network.view("spatial_gradients", "narrow")
    with pytest.raises(Refused, match="no row differences"):
        tiny_network("edges").network().view(
            "spatial_gradients", "mean", tiny_network("edges").images(1), of="activations"
        )
    with pytest.raises(Refused, match="no kernel"):
        network.view("spatial_gradients", "cat", batch)


@pytest.mark.parametrize("of", ["weight_gradients", "activations", "image"])
def test_images_are_asked_for_where_needed(of):
    with pytest.raises(ConvscopeError, match=f"spatial_gradients of {of} needs images"):
        tiny_network("in_place").network().view("spatial_gradients", "first", of=of)


def test_only_the_image_needs_no_target():
    network = tiny_network("in_place").network()
    with pytest.raises(ConvscopeError, match="needs a target"):
        network.view("spatial_gradients")
    with pytest.raises(ConvscopeError, match="isn't one of weights, weight_gradients"):
        SpatialGradients(of="nothing")


def test_infinite_values_stay_where_they_are():
    network = tiny_network("in_place").network()
    network.module.first.weight.data[0, 0, 0, 0] = math.inf
    view = network.view("spatial_gradients", "first", slices=0)
    assert not np.isfinite(view["row"][0, 0, :2, 0]).any()
    assert np.isfinite(view["row"][1:]).all()
    stated = view.meta["ranges"]["magnitude"]
    assert stated["nan"] + stated["positive_infinity"] == int((~np.isfinite(view["magnitude"])).sum())
