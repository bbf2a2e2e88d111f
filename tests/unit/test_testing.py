"""The laws themselves: a method that breaks one is caught by its name; both forward passes of a tiny network agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from convscope.errors import UnknownName
from convscope.methods.activations import Activations
from convscope.methods.base import Method, parameter
from convscope.methods.predictions import Predictions
from convscope.methods.weights import Weights
from convscope.testing import LAWS, TINY_NETWORKS, check_method, check_on_tiny_networks, convolve, tiny_network
from convscope.view import View


@pytest.mark.parametrize("name", sorted(TINY_NETWORKS))
def test_both_forward_passes_agree(name):
    tiny = tiny_network(name)
    network, images = tiny.network(), tiny.images(3)
    with torch.no_grad():
        scores = network.scores(network.module.eval()(images)).numpy()
    assert np.allclose(scores, network.module.expected(images.double().numpy()), rtol=1e-5, atol=1e-5)


def test_the_tiny_networks_cover_what_the_laws_promise():
    assert {tiny.channels for tiny in TINY_NETWORKS.values()} == {1, 3, 4, 6}
    assert all(tiny.rows != tiny.columns for tiny in TINY_NETWORKS.values())


def test_the_edges_of_a_ramp_have_a_closed_form():
    network = tiny_network("edges").network()
    ramp = torch.arange(9.0)[None, None, :, None].expand(1, 1, 9, 7)
    assert network.module(ramp).tolist() == [[8.0, -7.75, 3.5]]


def test_convolve_is_torchs():
    images, kernel = torch.randn(2, 4, 7, 8, dtype=torch.float64), torch.randn(6, 2, 3, 2, dtype=torch.float64)
    expected = torch.nn.functional.conv2d(images, kernel, stride=2, padding=1, dilation=2, groups=2)
    found = convolve(images.numpy(), kernel.numpy(), stride=2, padding=1, dilation=2, groups=2)
    assert np.allclose(found, expected.numpy())


def test_an_unknown_tiny_network():
    with pytest.raises(UnknownName, match="did you mean edges"):
        tiny_network("edge")


@dataclass(frozen=True)
class Breaks(Method):
    """Breaks one law, on request."""

    name: ClassVar[str] = "breaks"
    title: ClassVar[str] = "Breaks a law"
    needs: ClassVar = ("images",)

    how: str = parameter("", "which law to break")

    def compute(self, network, target, batch):
        view = Activations().compute(network, target, batch)
        module, arrays, meta = network.module, dict(view.arrays), dict(view.meta)
        parameters = list(module.parameters())
        match self.how:
            case "weights":
                with torch.no_grad():
                    parameters[-1].add_(1e-7 + parameters[-1].abs() * 1e-6)
            case "gradients":
                parameters[1].grad = torch.zeros_like(parameters[1])
            case "requires_grad":
                module.requires_grad_(True)
            case "training":
                module.eval()
            case "hooks":
                module.register_forward_hook(lambda *arguments: None)
            case "torch random state":
                torch.rand(1)
            case "numpy random state":
                np.random.rand()
            case "grad mode":
                torch.set_grad_enabled(not torch.is_grad_enabled())
            case "attributes":
                module.remembered = 1
            case "exception":
                handle = module.register_forward_hook(lambda *arguments: None)
                with network.trace([network.layers[-1].address]) as trace:
                    trace.run(batch.tensor, stop=False)
                handle.remove()
            case "bytes":
                arrays["map"] = arrays["map"] + np.float32(torch.rand(1).item())
            case "other images":
                arrays["mean"] = arrays["mean"] - arrays["mean"].mean()
            case "range":
                meta["ranges"] = {"map": {**meta["ranges"]["map"], "maximum": -100.0, "minimum": -200.0}}
            case "caption":
                meta["caption"] = ""
            case "type":
                arrays["map"] = arrays["map"].astype(np.float64)
        return View(view.kind, arrays, view.axes, meta)


FOUND = "the network is left as it was found"


@pytest.mark.parametrize(
    ("how", "law"),
    [
        ("weights", FOUND),
        ("gradients", FOUND),
        ("requires_grad", FOUND),
        ("training", FOUND),
        ("hooks", FOUND),
        ("torch random state", FOUND),
        ("numpy random state", FOUND),
        ("grad mode", FOUND),
        ("attributes", FOUND),
        ("exception", "the network is left as it was found after an exception"),
        ("bytes", "the same seed gives the same bytes"),
        ("other images", "an images numbers do not depend on the others"),
        ("range", "the view says what it shows"),
        ("caption", "the view says what it shows"),
        ("type", "the view says what it shows"),
    ],
)
def test_a_method_that_breaks_a_law_is_caught(how, law):
    tiny = tiny_network("in_place")
    grad_mode = torch.is_grad_enabled()
    try:
        with pytest.raises(AssertionError, match=f"^{law}: breaks on first"):
            check_method(Breaks(how), tiny.network(), "first", tiny.images(3), laws=[law])
    finally:
        torch.set_grad_enabled(grad_mode)


def test_a_method_that_breaks_none_passes():
    tiny = tiny_network("in_place")
    check_method(Breaks(), tiny.network(), "first", tiny.images(3))
    assert check_on_tiny_networks(Predictions()) == len(TINY_NETWORKS)


def test_a_method_that_never_reports_is_caught():
    @dataclass(frozen=True)
    class Silent(Weights):
        name: ClassVar[str] = "silent"
        needs: ClassVar = ("images",)

    tiny = tiny_network("edges")
    law = "cancelling stops it and leaves the network as it was"
    assert law in LAWS
    with pytest.raises(AssertionError, match=f"^{law}: silent on convolution: it ran to its end"):
        check_method(Silent(), tiny.network(), "convolution", tiny.images(1), laws=[law])


def test_a_view_that_shares_memory_with_a_weight_is_caught():
    @dataclass(frozen=True)
    class Sharing(Method):
        name: ClassVar[str] = "sharing"
        title: ClassVar[str] = "Sharing"

        def compute(self, network, target, batch):
            weight = target.layer.kernel.weight.detach().numpy()
            axes = ("unit", "slice", "row", "column")
            return View("kernels", {"kernel": weight}, {"kernel": axes}, {"caption": "c", "layer": "l", "units": None})

    law = "the view does not change with the network"
    with pytest.raises(AssertionError, match=f"^{law}: .*kernel shares memory with convolution.weight"):
        check_method(Sharing(), tiny_network("edges").network(), "convolution", laws=[law])


def test_laws_have_names_that_read():
    assert next(iter(LAWS)) == FOUND
    assert len(LAWS) >= 10
