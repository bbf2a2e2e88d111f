"""Weights: every value is the parameter's own, in the place that `channel` says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from convscope.errors import Refused
from convscope.network.network import Network
from convscope.testing import TINY_NETWORKS, tiny_network


def slow_weight(layer, unit: int, channel: int, row: int, column: int) -> float:
    """One weight by its definition: from input channel ``channel`` (absolute) to ``unit``."""
    kernel, weight = layer.kernel, layer.kernel.weight.detach().double()
    if kernel.operation == "convolution":
        per_group = weight.shape[1]
        group = unit // (weight.shape[0] // kernel.groups)
        return float(weight[unit, channel - group * per_group, row, column])
    if kernel.operation == "transposed convolution":
        return float(weight[channel, unit % weight.shape[1], row, column])
    return float(weight[unit, channel])


@pytest.mark.parametrize("name", sorted(set(TINY_NETWORKS) - {"pixels"}))
def test_every_value_is_the_parameters_own(name):
    network = tiny_network(name).network()
    for layer in network.layers:
        if layer.kernel is None or layer.address == "features.2":
            continue
        view = network.view("weights", layer.address, slices=0)
        kernel = view["kernel"]
        for index in np.ndindex(kernel.shape):
            unit, place, row, column = index
            channel = int(view["channel"][unit, place])
            assert kernel[index] == np.float32(slow_weight(layer, unit, channel, row, column)), (layer.address, index)
        norms = np.sqrt((kernel.astype(np.float64) ** 2).sum(axis=(2, 3)))
        assert np.allclose(view["slice_norm"], norms, rtol=1e-6)
        assert np.allclose(view["norm"], np.sqrt((norms**2).sum(axis=1)), rtol=1e-6)
        if layer.kernel.bias is not None:
            assert np.array_equal(view["bias"], layer.kernel.bias.detach().numpy())


def test_slices_run_from_the_largest_norm_and_the_range_is_the_whole_tensors():
    network = tiny_network("grouped").network()
    view = network.view("weights", "depthwise", slices=1)
    assert view["kernel"].shape == (8, 1, 3, 3)
    assert view["channel"][:, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    few = network.view("weights", "grouped", slices=2)
    every = network.view("weights", "grouped", slices=0)
    assert (np.diff(every["slice_norm"], axis=1) <= 0).all()
    assert np.array_equal(few["kernel"], every["kernel"][:, :2])
    assert few.meta["ranges"]["kernel"] == every.meta["ranges"]["kernel"]
    assert few.meta["slices"] == {"shown": 2, "of": 3}
    assert few.meta["input_channels"] == 6
    assert few.meta["groups"] == 2


def test_a_unit_keeps_all_slices_and_states_the_layers_range():
    network = tiny_network("grouped").network()
    view = network.view("weights", "grouped:3", slices=1)
    assert view["kernel"].shape == (1, 3, 3, 3)
    assert view.meta["units"] == [3]
    assert sorted(view["channel"][0].tolist()) == [3, 4, 5]
    assert view.meta["ranges"] == network.view("weights", "grouped").meta["ranges"]


def test_equal_norms_stay_in_channel_order_and_nan_comes_first():
    module = nn.Sequential(nn.Conv2d(4, 2, 3))
    module[0].weight.data.fill_(0.5)
    module[0].weight.data[1, 2, 0, 0] = torch.nan
    module[0].weight.data[1, 1, 0, 0] = -torch.inf
    network = Network.from_module(module, image_size=5)
    view = network.view("weights", "0")
    assert view["channel"].tolist() == [[0, 1, 2, 3], [1, 2, 0, 3]]
    stated = view.meta["ranges"]["kernel"]
    assert (stated["nan"], stated["negative_infinity"], stated["positive_infinity"]) == (1, 1, 0)
    assert (stated["minimum"], stated["maximum"], stated["count"]) == (0.5, 0.5, 72)
    assert view.meta["warnings"] == ["1 NaN and 1 infinite of 72 weight values"]


@pytest.mark.parametrize(
    ("name", "layer", "layout"),
    [
        ("in_place", "first", "color"),
        ("in_place", "second", "slices"),
        ("branches", "wide", "color"),
        ("branches", "narrow", "color"),
        ("branches", "classifier", "vector"),
        ("computed", "conv2d", "color"),
        ("reused", "convolution@1", "slices"),
        ("edges", "convolution", "slices"),
        ("edges", "linear", "vector"),
        ("channels_last", "wide", "vector"),
        ("flattened", "features.2", "templates"),
        ("flattened", "classifier", "vector"),
        ("pixels", "linear", "color"),
        ("transposed", "up", "slices"),
    ],
)
def test_layouts(name, layer, layout):
    view = tiny_network(name).network().view("weights", layer)
    assert view.meta["layout"] == layout
    if layout == "color":
        assert view["channel"].tolist() == [[0, 1, 2]] * len(view["channel"])


def test_a_linear_layer_behind_a_flattened_map_has_spatial_templates():
    network = tiny_network("flattened").network()
    weight = network.module.features[2].weight.detach().numpy()
    view = network.view("weights", "features.2", slices=0)
    assert view["kernel"].shape == (5, 3, 3, 4)
    for unit, place in np.ndindex(5, 3):
        channel = view["channel"][unit, place]
        for row, column in np.ndindex(3, 4):
            assert view["kernel"][unit, place, row, column] == weight[unit, channel * 12 + row * 4 + column]


def test_a_linear_classifier_on_pixels_has_class_templates_in_color():
    network = tiny_network("pixels").network()
    view = network.view("weights", "linear")
    assert np.array_equal(view["kernel"], network.module.linear.weight.detach().numpy().reshape(5, 3, 4, 6))


def test_a_channels_last_map_flattens_row_by_row():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(1, 2, 2)
            self.linear = nn.Linear(24, 2)

        def forward(self, images):
            return self.linear(self.convolution(images).permute(0, 2, 3, 1).flatten(1))

    network = Network.from_module(Last(), image_size=(4, 5))
    view = network.view("weights", "linear:1")
    weight = network.module.linear.weight.detach().numpy()[1].reshape(3, 4, 2)
    for place, channel in enumerate(view["channel"][0]):
        assert np.array_equal(view["kernel"][0, place], weight[:, :, channel])


def test_a_vector_keeps_at_least_256_slices_and_all_when_asked():
    network = Network.from_module(nn.Sequential(nn.Conv2d(300, 2, 1)), image_size=2)
    assert network.view("weights", "0")["kernel"].shape == (2, 256, 1, 1)
    assert network.view("weights", "0", slices=280)["kernel"].shape == (2, 280, 1, 1)
    assert network.view("weights", "0", slices=0)["kernel"].shape == (2, 300, 1, 1)
    assert network.view("weights", "0:1")["kernel"].shape == (1, 300, 1, 1)


def test_a_layer_without_a_kernel_is_refused_with_the_nearest_that_have_one():
    network = tiny_network("edges").network()
    with pytest.raises(Refused, match=r"ReLU has no kernel.*look at convolution or linear"):
        network.view("weights", "relu")


def test_kernels_of_one_and_three_axes_are_refused():
    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv1d(1, 2, 3)

        def forward(self, images):
            return self.convolution(images.flatten(2)).mean(2)

    network = Network.from_module(Line(), image_size=4, channels=1)
    with pytest.raises(Refused, match="Conv1d slides along 1 axes"):
        network.view("weights", "convolution")


def test_a_computed_weight_says_so():
    view = tiny_network("computed").network().view("weights", "conv2d")
    assert any("computed during the forward pass" in warning for warning in view.meta["warnings"])
    assert np.allclose(view["kernel"].sum(axis=(1, 2, 3)), 0, atol=1e-5)


def test_a_large_layer_is_normed_in_parts():
    module = nn.Sequential(nn.Flatten(), nn.Linear(1200, 4000, bias=False))
    network = Network.from_module(module, image_size=20)
    view = network.view("weights", "1")
    assert np.allclose(view["norm"], module[1].weight.detach().double().norm(dim=1).numpy(), rtol=1e-6)
