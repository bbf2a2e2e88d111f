"""Inversion: a code that loses nothing gives the image back; the error is what it says; nothing is silent."""

from __future__ import annotations

from threading import Event

import numpy as np
import pytest
import torch
from torch import nn

from convscope.errors import Cancelled, ConvscopeError, Refused
from convscope.methods.base import Target
from convscope.network.network import Network
from convscope.progress import watch
from convscope.synthesis.inversion import Code, Inversion, errors

SIZE = (12, 10)


def invertible(channels: int = 3) -> Network:
    """A linear layer that forgets nothing: an orthogonal mixture of the channels, then a convolution close to 1."""
    generator = torch.Generator().manual_seed(2)
    mix = nn.Conv2d(channels, channels, 1, bias=False)
    spread = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
    with torch.no_grad():
        mix.weight.copy_(torch.linalg.qr(torch.randn(channels, channels, generator=generator))[0][:, :, None, None])
        spread.weight.copy_(0.04 * torch.randn(spread.weight.shape, generator=generator))
        spread.weight[:, :, 1, 1] = 1.0
    module = nn.Sequential(mix, spread, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 2))
    return Network.from_module(module, image_size=SIZE, mean=0.45, std=0.25)


def photos(network: Network, count: int = 2) -> torch.Tensor:
    """Smooth pictures within the valid range, prepared."""
    generator = torch.Generator().manual_seed(7)
    small = torch.rand(count, network.channels, 3, 3, generator=generator)
    pixels = nn.functional.interpolate(small, size=SIZE, mode="bicubic", align_corners=False).clamp(0, 1) * 0.7 + 0.15
    return (pixels - 0.45) / 0.25


@pytest.mark.parametrize(
    ("parameterization", "optimizer", "channels"),
    [("pixels", "momentum", 3), ("pixels", "adam", 1), ("fourier", "adam", 3), ("fourier", "momentum", 4)],
)
def test_a_linear_invertible_layer_gives_the_image_back(parameterization, optimizer, channels):
    network = invertible(channels)
    images = photos(network)
    method = Inversion(parameterization=parameterization, optimizer=optimizer, regularizers="none", steps=300, jitter=0)
    view = method.run(network, "1", images)
    assert (view["error"] < 0.01).all()
    assert (view["pixel_error"] < 0.02).all()
    assert np.abs(view["picture"].astype(int) - view["original"]).mean() < 4


def test_the_error_is_the_relative_squared_distance_of_the_codes():
    network = invertible()
    images = photos(network)
    view = Inversion(steps=3).run(network, "1", images)
    with torch.no_grad():
        original = network.module[:2](images).double()
        found = network.module[:2](torch.from_numpy(view["prepared"].copy())).double()
    for index in range(2):
        distance = sum(
            float((a - b) ** 2) for a, b in zip(found[index].flatten(), original[index].flatten(), strict=True)
        )
        assert view["error"][index] == pytest.approx(distance / float((original[index] ** 2).sum()), rel=1e-4)
        pixels = np.square((view["prepared"][index] - images[index].numpy()) * 0.25).mean() ** 0.5
        assert view["pixel_error"][index] == pytest.approx(pixels, rel=1e-3)
    assert view["history"].shape == (2, 3)
    assert (view["history"][:, -1] < view["history"][:, 0]).all()


def test_regularizers_smooth_what_the_code_leaves_open():
    """Global averages say nothing of where: without a price the start's noise stays, with one it goes."""
    network = invertible()
    images = photos(network, 1)
    rough, smooth = (
        Inversion(parameterization="pixels", regularizers=text, steps=40).run(network, "2", images)
        for text in ("none", "tv:1/2")
    )
    variation = [np.abs(np.diff(view["prepared"], axis=3)).mean() for view in (rough, smooth)]
    assert variation[1] < variation[0] / 3
    assert smooth["error"][0] < 0.5


@pytest.mark.parametrize("target", ["1:2", "1:2:5,4"])
def test_a_unit_or_a_neuron_alone(target):
    network = invertible()
    view = Inversion(steps=40, regularizers="none").run(network, target, photos(network))
    assert (view["error"] < 0.05).all()
    assert view.meta["units"] == [2]
    assert target in view.meta["caption"]


def test_every_image_starts_alike_and_ends_the_same_alone():
    network = invertible()
    images = photos(network, 3)
    together = Inversion(steps=8).run(network, "1", images)
    alone = Inversion(steps=8).run(network, "1", images[2:])
    assert np.allclose(together["prepared"][2:], alone["prepared"], atol=1e-4)
    other = Inversion(steps=8, seed=1).run(network, "1", images[2:])
    assert not np.allclose(other["prepared"], alone["prepared"], atol=1e-3)


def test_the_same_bytes_whoever_looks_on():
    network = invertible()
    method = Inversion(steps=6, jitter=2)
    shown: list = []
    told: list = []
    with watch(told.append, previews=shown.append):
        seen = method.run(network, "1", photos(network))
    assert seen.to_bytes() == method.run(network, "1", photos(network)).to_bytes()
    assert shown
    assert shown[0].kind == "inversion"
    assert dict(shown[0].axes) == dict(seen.axes)
    assert shown[0]["picture"].shape == seen["picture"].shape
    assert (6, 6) in [(progress.done, progress.total) for progress in told]


def test_cancelling_ends_it():
    network = invertible()
    cancel = Event()
    with watch(lambda progress: cancel.set() if progress.done == 2 else None, cancel), pytest.raises(Cancelled):
        Inversion(steps=1000).run(network, "1", photos(network))


def test_a_code_of_zeros_is_refused():
    network = Network.from_module(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), image_size=SIZE)
    with torch.no_grad():
        network.module[0].bias.fill_(-100.0)
    with pytest.raises(Refused, match="zero everywhere for image 0"):
        Inversion(steps=2).run(network, "1", torch.rand(1, 1, *SIZE))


def test_a_code_that_is_not_finite_is_refused():
    network = Network.from_module(nn.Sequential(nn.Conv2d(1, 2, 3)), image_size=SIZE)
    with torch.no_grad():
        network.module[0].bias.fill_(torch.inf)
    with pytest.raises(Refused, match="isn't finite for image 0"):
        Inversion(steps=2).run(network, "0", torch.rand(1, 1, *SIZE))


class Constant(nn.Module):
    """A layer that doesn't look at its input."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(image) + 0 * image.detach()


def test_a_gradient_of_zero_is_said():
    network = Network.from_module(nn.Sequential(nn.Conv2d(1, 1, 3), Constant()), image_size=SIZE)
    view = Inversion(steps=3).run(network, "1", torch.rand(1, 1, *SIZE))
    assert any("gradient was zero at every step" in warning for warning in view.meta["warnings"])


def test_a_wrong_parameter_is_refused_before_anything_runs():
    with pytest.raises(ConvscopeError, match="isn't a regularizer"):
        Inversion(regularizers="smooth")
    with pytest.raises(ConvscopeError, match="changes the image itself"):
        Inversion(regularizers="blur:1/4")
    assert Inversion(regularizers="blur:1/4", parameterization="pixels").steps == 256


def test_goals_can_be_cut():
    codes = torch.rand(3, 2, 4, 4)
    place = Target(invertible().layer("1"))
    code = Code(place, codes)
    assert len(code) == 3
    assert code.layers == ("1",)
    assert torch.equal(code.part([2, 0]).target, codes[[2, 0]])
    assert torch.allclose(errors(torch.zeros_like(codes), codes), torch.ones(3))
