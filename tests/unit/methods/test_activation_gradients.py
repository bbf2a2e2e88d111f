"""Activation gradients: equal to autograd on an out-of-place copy of the network, and to finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from references import LABELS, double, objective_value
from torch import nn

from convscope.errors import Refused
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
