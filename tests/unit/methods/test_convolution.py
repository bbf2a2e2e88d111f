"""Convolution: every number is the sum it claims to be, at every position, and the shares add up to the gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from references import backward_by_torch, double, laid_out
from torch import nn

from convscope.errors import Refused
from convscope.methods.convolution import Convolution
from convscope.network.batch import Batch
from convscope.network.network import Network
from convscope.testing import TINY_NETWORKS, tiny_network


def one(batch: Batch, index: int = 0) -> Batch:
    part = slice(index, index + 1)
    return Batch(batch.tensor[part], batch.fingerprints[part], batch.names[part], batch.labels[part])


def kernel_layers(network: Network):
    return [layer for layer in network.layers if layer.kernel is not None]


@pytest.mark.parametrize("name", sorted(TINY_NETWORKS))
def test_patch_times_kernel_plus_bias_is_the_recorded_value_everywhere(name):
    network, batch = double(tiny_network(name))
    batch = one(batch)
    for layer in kernel_layers(network):
        unit = f"{layer.address}:{layer.units - 1}"
        recorded = network.view("activations", unit, batch)["map"][0, 0]
        for row, column in np.ndindex(layer.rows, layer.columns):
            view = Convolution().run(network, f"{unit}:{row},{column}", batch)
            product = view["patch"].astype(np.float64) * view["kernel"]
            bias = float(view["bias"][0]) if "bias" in view.arrays else 0.0
            assert np.allclose(view["product"], product, rtol=1e-6, atol=1e-9)
            assert np.allclose(view["channel_sum"], product.sum(axis=(1, 2)), rtol=1e-5, atol=1e-6)
            assert np.isclose(view["result"][0], product.sum() + bias, rtol=1e-5, atol=1e-5)
            assert np.isclose(view["result"][0], recorded[row, column], rtol=1e-5, atol=1e-6)
            assert view["output"][row, column] == recorded[row, column]
            assert view.meta["warnings"] == [each for each in view.meta["warnings"] if "calls" in each]


@pytest.mark.parametrize("name", sorted(TINY_NETWORKS))
def test_every_patch_value_comes_from_where_it_says(name):
    network, batch = double(tiny_network(name))
    batch = one(batch)
    for layer in kernel_layers(network):
        for row, column in {(0, 0), (layer.rows - 1, layer.columns - 1), (layer.rows // 2, 0)}:
            view = Convolution().run(network, f"{layer.address}:0:{row},{column}", batch)
            for channel, i, j in np.ndindex(*view["patch"].shape):
                source = (view["patch_row"][i], view["patch_column"][j])
                expected = 0.0 if -1 in source else view["input"][channel, source[0], source[1]]
                assert view["patch"][channel, i, j] == expected


@pytest.mark.parametrize("name", sorted(set(TINY_NETWORKS) - {"reused", "computed"}))
def test_the_shares_of_all_positions_add_up_to_autograds_gradient(name):
    network, batch = double(tiny_network(name))
    batch = one(batch)
    expected = backward_by_torch(network, batch, "loss:true")
    for layer in kernel_layers(network):
        if layer.kernel.parameter not in expected:
            continue
        weights = network.view("weights", layer.address, slices=0)
        gradient = laid_out(layer, expected[layer.kernel.parameter], weights)
        unit = layer.units - 1
        total = 0
        for row, column in np.ndindex(layer.rows, layer.columns):
            view = Convolution().run(network, f"{layer.address}:{unit}:{row},{column}", batch)
            share = view["share"].astype(np.float64)
            total = total + share
            assert np.isclose(view["share_norm"][row, column], np.linalg.norm(share), rtol=1e-5, atol=1e-12)
            assert np.allclose(share, view["upstream"][row, column] * view["patch"], rtol=1e-5, atol=1e-12)
        assert np.allclose(total, view["weight_gradient"], rtol=1e-4, atol=1e-7)
        for place, channel in enumerate(weights["channel"][unit]):
            (own,) = np.flatnonzero(view["channel"] == channel)
            assert np.allclose(view["weight_gradient"][own], gradient[unit, place], rtol=1e-5, atol=1e-9)


def test_the_calls_of_a_reused_kernel_add_up_to_its_weight_gradient():
    network, batch = double(tiny_network("reused"))
    batch = one(batch)
    parts = [network.view("convolution", f"{call}:2", batch) for call in ("convolution", "convolution@1")]
    both = network.view("weight_gradients", "convolution:2", batch)
    order = np.argsort(both["channel"][0])
    summed = parts[0]["weight_gradient"] + parts[1]["weight_gradient"]
    assert np.allclose(summed, both["gradient"][0][order], rtol=1e-5, atol=1e-9)
    assert all(any("2 calls" in warning for warning in part.meta["warnings"]) for part in parts)


@pytest.mark.parametrize("seed", range(30))
def test_any_convolution_that_torch_allows(seed):
    draw = np.random.default_rng(1000 + seed)
    torch.manual_seed(seed)
    groups = int(draw.choice([1, 2, 3]))
    channels, units = groups * int(draw.integers(1, 3)), groups * int(draw.integers(1, 3))
    pairs = {
        name: (int(draw.integers(*ends)), int(draw.integers(*ends)))
        for name, ends in {"kernel_size": (1, 5), "stride": (1, 4), "padding": (0, 4), "dilation": (1, 3)}.items()
    }
    if seed % 2:
        layer: nn.Module = nn.Conv2d(channels, units, groups=groups, **pairs)
    else:
        # Padding beyond the kernel's reach cuts off the output, which the equivalent convolution must do to its input.
        layer = nn.ConvTranspose2d(channels, units, groups=groups, **pairs)
    network = Network.from_module(nn.Sequential(layer, nn.Tanh()).double(), image_size=(9, 10), channels=channels)
    images = torch.randn(1, channels, 9, 10, dtype=torch.float64)
    recorded = network.view("activations", "0", images)["map"][0]
    unit = int(draw.integers(units))
    rows, columns = recorded.shape[1:]
    positions = {(0, 0), (rows - 1, columns - 1), (rows // 2, columns // 3), (int(draw.integers(rows)), 0)}
    for row, column in positions:
        view = Convolution("unit:1:0").run(network, f"0:{unit}:{row},{column}", images)
        assert np.isclose(view["result"][0], recorded[unit, row, column], rtol=1e-5, atol=1e-6)
        for channel, i, j in np.ndindex(*view["patch"].shape):
            source = (view["patch_row"][i], view["patch_column"][j])
            expected = 0.0 if -1 in source else view["input"][channel, source[0], source[1]]
            assert view["patch"][channel, i, j] == expected


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_uneven_same_padding():
    torch.manual_seed(0)
    network = Network.from_module(nn.Sequential(nn.Conv2d(2, 3, (2, 4), padding="same")).double(), image_size=(5, 6))
    images = torch.randn(1, 2, 5, 6, dtype=torch.float64)
    recorded = network.view("activations", "0:1", images)["map"][0, 0]
    for row, column in np.ndindex(5, 6):
        view = network.view("convolution", f"0:1:{row},{column}", images, objective="score:1")
        assert np.isclose(view["result"][0], recorded[row, column], rtol=1e-5)


def test_without_a_position_there_is_no_patch():
    network, batch = double(tiny_network("grouped"))
    view = network.view("convolution", "grouped:3", one(batch))
    assert "patch" not in view.arrays
    assert view["channel"].tolist() == [3, 4, 5]
    assert view["input"].shape == (3, 7, 9)
    assert np.array_equal(view["input"], batch.tensor[0, 3:].float().numpy())
    assert view.meta["padding"] == [1, 1]
    assert view.meta["padding_value"] == 0.0


def test_padding_put_there_by_another_operation_belongs_to_the_input():
    network, batch = double(tiny_network("computed"))
    view = network.view("convolution", "reflected:0:0,0", one(batch))
    assert view.meta["padding"] == [0, 0]
    assert view["input"].shape == (4, 7, 8)
    assert -1 not in view["patch_row"]
    assert np.array_equal(view["patch"][:, 0], view["patch"][:, 2])


def test_one_image_at_a_time():
    network, batch = double(tiny_network("grouped"))
    with pytest.raises(Refused, match="follows one image, not 3"):
        network.view("convolution", "grouped:0", batch)


def test_a_layer_without_a_kernel_is_refused():
    network, batch = double(tiny_network("edges"))
    with pytest.raises(Refused, match="no kernel"):
        network.view("convolution", "relu:0", one(batch))


def test_nan_in_the_image_reaches_only_the_patches_that_see_it():
    network, batch = double(tiny_network("edges"))
    images = batch.tensor[:1].clone()
    images[0, 0, 0, 0] = torch.nan
    near = network.view("convolution", "convolution:0:0,0", images, objective="unit:convolution:0")
    far = network.view("convolution", "convolution:0:5,4", images, objective="unit:convolution:0")
    assert np.isnan(near["result"][0])
    assert np.isfinite(far["result"][0])
    assert far.meta["ranges"]["output"]["nan"] == 2  # one position of each of the two units
    assert any("NaN" in warning for warning in far.meta["warnings"])


def test_an_output_that_something_changed_afterwards_is_named():
    layer = nn.Conv2d(1, 2, 3)
    layer.register_forward_hook(lambda module, arguments, output: 2 * output)
    network = Network.from_module(nn.Sequential(layer), image_size=6)
    view = network.view("convolution", "0:1:2,2", torch.ones(1, 1, 6, 6), objective="score:0")
    assert any("does more than its kernel" in warning for warning in view.meta["warnings"])
