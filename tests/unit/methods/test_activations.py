"""Activations: the second forward pass of the tiny networks, and what the statistics say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from convscope.errors import Refused
from convscope.network.network import Network
from convscope.testing import TINY_NETWORKS, convolve, tiny_network


@pytest.mark.parametrize("name", sorted(TINY_NETWORKS))
def test_the_last_layer_is_the_second_forward_pass(name):
    tiny = tiny_network(name)
    network = tiny.network()
    images = tiny.images(3)
    expected = network.module.expected(images.double().numpy())
    last = [layer for layer in network.layers if layer.address not in ("auxiliary",)][-1]
    maps = network.view("activations", last.address, images)["map"]
    assert np.allclose(maps.mean(axis=(2, 3)), expected, rtol=1e-5, atol=1e-5)


def test_values_before_an_in_place_relu_keep_their_sign():
    tiny = tiny_network("in_place")
    network, images = tiny.network(), tiny.images(2)
    layer = network.module.first
    expected = convolve(
        images.double().numpy(), layer.weight.detach().numpy(), layer.bias.detach().numpy(), stride=2, padding=1
    )
    before = network.view("activations", "first", images)["map"]
    after = network.view("activations", "relu", images)["map"]
    assert (before < 0).any()
    assert np.allclose(before, expected, atol=1e-5)
    assert np.allclose(after, np.maximum(expected, 0), atol=1e-5)


def test_the_edges_of_a_ramp():
    network = tiny_network("edges").network()
    ramp = torch.arange(9.0)[None, None, :, None].expand(1, 1, 9, 7)
    view = network.view("activations", "relu", ramp)
    assert (view["map"][0, 0] == 8).all()
    assert (view["map"][0, 1] == 0).all()
    assert view["zero_fraction"].tolist() == [[0, 1]]
    assert view["mean"].tolist() == [[8, 0]]
    assert view["maximum"].tolist() == [[8, 0]]
    assert view["place"].tolist() == [[[0, 0], [0, 0]]]  # the first of equals, in reading order


@pytest.mark.parametrize("name", sorted(TINY_NETWORKS))
def test_the_maximum_is_where_it_says(name):
    tiny = tiny_network(name)
    network = tiny.network()
    for layer in network.layers:
        view = network.view("activations", layer.address, tiny.images(2))
        for image, unit in np.ndindex(2, layer.units):
            row, column = view["place"][image, unit]
            values = view["map"][image, unit]
            assert values[row, column] == values.max() == view["maximum"][image, unit]
            assert np.isclose(view["mean"][image, unit], values.astype(np.float64).mean(), atol=1e-6)
            assert np.isclose(view["zero_fraction"][image, unit], (values == 0).mean())


def test_a_unit_states_the_layers_range():
    tiny = tiny_network("in_place")
    layer = tiny.network().view("activations", "second", tiny.images(2))
    unit = tiny.network().view("activations", "second:4:1,2", tiny.images(2))
    assert unit["map"].shape == (2, 1, *layer["map"].shape[2:])
    assert np.array_equal(unit["map"][:, 0], layer["map"][:, 4])
    assert unit.meta["ranges"]["map"] == layer.meta["ranges"]["map"]
    assert unit.meta["units"] == [4]
    assert unit.meta["position"] == [1, 2]


def test_rows_and_columns_of_a_channels_last_layer_are_not_mixed_up():
    tiny = tiny_network("channels_last")
    network, images = tiny.network(), tiny.images(1)
    module = network.module
    with torch.no_grad():
        expected = module.wide(module.convolution(images).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    assert np.allclose(network.view("activations", "wide", images)["map"], expected.numpy(), atol=1e-6)


def test_nan_and_infinity_are_counted_and_nothing_breaks():
    tiny = tiny_network("edges")
    images = tiny.images(2)
    images[0, 0, 4, 3] = torch.nan
    images[1, 0, 0, 0] = torch.inf
    view = tiny.network().view("activations", "convolution", images)
    stated = view.meta["ranges"]["map"]
    assert stated["nan"] == int(np.isnan(view["map"]).sum()) > 0
    assert stated["positive_infinity"] + stated["negative_infinity"] == int(np.isinf(view["map"]).sum()) > 0
    assert any("NaN" in warning for warning in view.meta["warnings"])
    assert view.from_bytes(view.to_bytes()).meta["ranges"]["map"] == stated


def test_too_many_maps_are_refused_before_they_are_computed(monkeypatch):
    tiny = tiny_network("edges")
    monkeypatch.setattr("convscope.methods.ranges.LARGEST_VIEW", 1000)
    with pytest.raises(Refused, match=r"maps of 9 images would take .* one unit, like relu:0"):
        tiny.network().view("activations", "relu", tiny.images(9))


def test_maps_that_mix_images_are_refused():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(1, 2, 3)
            self.mean = nn.Identity()

        def forward(self, images):
            maps = self.convolution(images)
            return self.mean(maps.mean(dim=0, keepdim=True)).mean((2, 3)).expand(len(images), -1)

    network = Network.from_module(Mixed(), image_size=5)
    with pytest.raises(Refused, match="mixes images"):
        network.view("activations", "mean", torch.zeros(3, 1, 5, 5))
