"""Activation gradients: equal to autograd on an out-of-place copy of the network, and to finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from references import LABELS, double, objective_value
from torch import nn

from convscope.errors import Refused
from convscope.network.network import Network
from convscope.testing import TINY_NETWORKS, tiny_network

OBJECTIVES = ["loss:true", "score"]


class _AddOnce:
    """Adds a change to what one call of a module returns: the perturbation of a finite difference."""

    def __init__(self, call: int, change: torch.Tensor) -> None:
        self.call, self.change, self.seen = call, change, 0

    def __call__(self, module: nn.Module, arguments: object, output: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        return output + self.change if self.seen == self.call + 1 else output


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", sorted(TINY_NETWORKS))
def test_equal_to_central_finite_differences(name, objective):
    network, batch = double(tiny_network(name), generic=True)
    draw = np.random.default_rng(0)
    module = network.module.eval()
    for layer in network.layers:
        if layer.operation != "module":
            continue
        view = network.view("activation_gradients", layer.address, batch, objective=objective)
        for _ in range(2):
            index = tuple(int(draw.integers(size)) for size in (3, *layer.output_shape[1:]))
            ends = []
            for step in (1e-6, -1e-6):
                change = torch.zeros(3, *layer.output_shape[1:], dtype=torch.float64)
                change[index] = step
                handle = module.get_submodule(layer.path).register_forward_hook(_AddOnce(layer.call, change))
                with torch.no_grad():
                    # Three times the mean: the gradient is of each image's own objective.
                    ends.append(3 * float(objective_value(network, module(batch.tensor), objective, LABELS)))
                handle.remove()
            mask = torch.zeros(3, *layer.output_shape[1:])
            mask[index] = 1
            found = view["gradient"][layer.to_units(mask).numpy() == 1]
            assert np.allclose(found, (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-7), (layer.address, index)


def test_equal_to_autograd_on_a_network_written_without_in_place_operations():
    network, batch = double(tiny_network("in_place"))
    module = network.module.eval()
    first = module.first(batch.tensor).detach().requires_grad_()
    relu = F.relu(first)
    second = module.second(relu)
    after = F.relu(second)
    loss = F.cross_entropy(module.linear(after.mean((2, 3))), torch.tensor(LABELS), reduction="sum")
    expected = torch.autograd.grad(loss, [first, relu, second, after])
    for address, gradient in zip(("first", "relu", "second", "relu_function"), expected, strict=True):
        view = network.view("activation_gradients", address, batch)
        assert np.allclose(view["gradient"], gradient.numpy(), rtol=1e-5, atol=1e-9), address
        norm = gradient.square().sum((2, 3)).sqrt().numpy()
        assert np.allclose(view["gradient_norm"], norm, rtol=1e-5, atol=1e-9)


def test_each_call_of_a_reused_relu_has_its_own_gradient():
    network, batch = double(tiny_network("reused"))
    gradients = [network.view("activation_gradients", f"relu@{call}", batch)["gradient"] for call in (1, 2)]
    positive = network.view("activations", "relu@1", batch)["map"] > 0
    assert np.allclose(gradients[0], gradients[1] * positive, atol=1e-7)
    first = network.view("activation_gradients", "relu", batch)["gradient"]
    assert not np.allclose(first, gradients[0], atol=1e-3)


def test_of_a_unit_and_of_one_neuron():
    network, batch = double(tiny_network("in_place"))
    mean = network.view("activation_gradients", "relu_function", batch, objective="unit:relu_function:3")
    rows, columns = mean["gradient"].shape[2:]
    assert np.allclose(mean["gradient"][:, 3], 1 / (rows * columns))
    assert not mean["gradient"][:, [0, 1, 2, 4, 5]].any()
    neuron = network.view("activation_gradients", "first", batch, objective="unit:second:1:0,2")
    weight = network.module.second.weight.detach().numpy()
    positive = network.view("activations", "first", batch)["map"] > 0
    expected = np.zeros(neuron["gradient"].shape)
    expected[:, :, 0:2, 2:4] = weight[1]
    assert np.allclose(neuron["gradient"], expected * positive)
    assert neuron.meta["value"] is not None
    assert "second:1:0,2" in neuron.meta["caption"]


def test_maps_and_statistics_are_those_of_activations():
    network, batch = double(tiny_network("normalized"))
    one = network.view("activations", "relu", batch)
    both = network.view("activation_gradients", "relu", batch)
    for name in one.arrays:
        assert np.array_equal(one[name], both[name])


def test_an_objective_that_does_not_depend_on_the_layer_gives_zero_and_says_so():
    network, batch = double(tiny_network("normalized"))
    view = network.view("activation_gradients", "auxiliary", batch)
    assert not view["gradient"].any()
    assert any("exactly zero" in warning for warning in view.meta["warnings"])


def test_nan_weights_give_nan_gradients_and_a_warning():
    network, batch = double(tiny_network("in_place"))
    network.module.second.weight.data[0, 0, 0, 0] = torch.nan
    view = network.view("activation_gradients", "first", batch)
    assert view.meta["ranges"]["gradient"]["nan"] == int(np.isnan(view["gradient"]).sum()) > 0
    assert view.meta["loss"] is None
    assert any("NaN" in warning for warning in view.meta["warnings"])
    view.to_bytes()


def test_too_many_maps_are_refused(monkeypatch):
    network, batch = double(tiny_network("edges"))
    monkeypatch.setattr("convscope.methods.ranges.LARGEST_VIEW", 1000)
    with pytest.raises(Refused, match="pass fewer images"):
        network.view("activation_gradients", "relu", batch)


class Views(nn.Module):
    """In-place ReLUs on views: of a linear layer's rows and columns, of half the channels, of a flattened map."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 4, 2)
        self.mix = nn.Linear(4, 6)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(6 * 3 * 4, 3)
        self.in_place = in_place

    def forward(self, images):
        maps = self.mix(self.convolution(images).permute(0, 2, 3, 1))
        maps = F.relu(maps, inplace=self.in_place).permute(0, 3, 1, 2) + 0.05
        first, second = maps[:, :3], maps[:, 3:]
        first = F.relu(first - 0.1, inplace=self.in_place)
        second = torch.sigmoid_(second) if self.in_place else torch.sigmoid(second)
        flat = self.flatten(torch.cat([first, second], dim=1).contiguous())
        return self.linear(F.relu(flat - 0.2, inplace=self.in_place))


@pytest.mark.parametrize(
    "address", ["convolution", "mix", "relu", "permute@1", "add", "getitem", "getitem@1", "flatten", "cat"]
)
def test_in_place_operations_on_views_lose_no_gradient(address):
    torch.manual_seed(0)
    plain = Network.from_module(Views(in_place=False).double(), image_size=(4, 5))
    written = Network.from_module(Views(in_place=True).double(), image_size=(4, 5))
    written.module.load_state_dict(plain.module.state_dict())
    images = torch.randn(2, 2, 4, 5, dtype=torch.float64)
    expected = plain.view("activation_gradients", address, images, objective="score:1")
    found = written.view("activation_gradients", address, images, objective="score:1")
    assert expected["gradient"].any()
    for name in ("map", "gradient"):
        assert np.allclose(found[name], expected[name], rtol=1e-6, atol=1e-9)


def test_a_linear_layer_on_rows_and_columns_before_an_in_place_relu_has_its_weight_gradient():
    torch.manual_seed(0)
    network = Network.from_module(Views(in_place=True).double(), image_size=(4, 5))
    images = torch.randn(2, 2, 4, 5, dtype=torch.float64)
    network.module.zero_grad()
    network.module(images)[:, 1].mean().backward()
    expected = network.module.mix.weight.grad.numpy()
    view = network.view("weight_gradients", "mix", images, objective="score:1", slices=0)
    for unit, place in np.ndindex(6, 4):
        assert np.isclose(view["gradient"][unit, place, 0, 0], expected[unit, view["channel"][unit, place]], rtol=1e-5)
