"""Attribution against Captum where its hooks see everything, against TorchLens where they don't, and by hand.

Equal means within 1e-5 of the largest value. In float32 where both take the same images at once; in float64 where
they don't: another number of images is another order of sums in a convolution, whose last digit can close a ReLU.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import captum.attr as captum
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from architectures import architecture, noise, size
from torch import Tensor, nn

from convscope.network.network import Network

CAPTUM = ("vgg16", "alexnet", "resnet18")
HOOKS_MISS = ("googlenet", "densenet121")
# A unit in the middle of each, at a place that isn't on a border, as convscope and as Captum write it.
UNITS = {
    "vgg16": ("features.19", (37, 2, 3)),
    "alexnet": ("features.8", (5, 1, 1)),
    "resnet18": ("layer2.1.conv2", (9, 2, 3)),
}


@cache
def network(name: str, double: bool = False) -> Network:
    module = architecture(name)
    return Network.from_module(module.double() if double else module, image_size=size(name), name=name)


@pytest.fixture(scope="module", autouse=True)
def _forget():
    yield
    network.cache_clear()


def check(found: Any, expected: Any) -> None:
    found, expected = (torch.as_tensor(each).detach() for each in (found, expected))
    largest = float(expected.abs().max())
    assert largest > 0
    assert float((found - expected).abs().max()) <= 1e-5 * largest


def quietly(method: Any, *arguments: Any, **options: Any) -> Tensor:
    """Captum warns of the hooks that it sets."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: Tensor = method.attribute(*arguments, **options)
    return found


@pytest.mark.parametrize("name", CAPTUM)
def test_class_scores_agree_with_captum(name: str) -> None:
    module, images = network(name).module, noise(name)
    asked = {"images": images, "objective": "score:3"}
    saliency = quietly(captum.Saliency(module), images.clone(), target=3)
    view = network(name).view("gradient", reduce="maximum", **asked)
    check(np.abs(view["attribution"]), saliency)
    check(view["map"], saliency.amax(dim=1))
    check(
        network(name).view("gradient", times_input=True, **asked)["attribution"],
        quietly(captum.InputXGradient(module), images.clone(), target=3),
    )
    check(
        network(name).view("deconvnet", **asked)["attribution"],
        quietly(captum.Deconvolution(module), images.clone(), target=3),
    )
    check(
        network(name).view("guided_backprop", **asked)["attribution"],
        quietly(captum.GuidedBackprop(module), images.clone(), target=3),
    )


@pytest.mark.parametrize("name", CAPTUM)
def test_integrated_gradients_agree_with_captum(name: str) -> None:
    made, images = network(name, double=True), noise(name).double()
    expected, delta = quietly(
        captum.IntegratedGradients(made.module),
        images,
        baselines=0,
        target=3,
        n_steps=5,
        return_convergence_delta=True,
    )
    given = {"objective": "score:3", "baseline": "mean", "steps": 5, "tolerance": 0.0}
    view = made.view("integrated_gradients", images=images, **given)
    check(view["attribution"], expected)
    # Captum tells the same error as a difference.
    difference = np.array(view.meta["values"]) - view["baseline_objective"]
    missed = view["completeness_error"] * np.abs(difference)
    assert np.allclose(missed, np.abs(delta.numpy()), atol=1e-3 * np.abs(difference).max())


@pytest.mark.parametrize("name", CAPTUM)
def test_units_agree_with_captum(name: str) -> None:
    layer, (channel, row, column) = UNITS[name]
    module, images = network(name).module, noise(name)
    target = f"{layer}:{channel}:{row},{column}"
    methods = {
        "gradient": captum.NeuronGradient,
        "deconvnet": captum.NeuronDeconvolution,
        "guided_backprop": captum.NeuronGuidedBackprop,
    }
    for rule, method in methods.items():
        made = method(module, module.get_submodule(layer))
        expected = quietly(made, images.clone(), neuron_selector=(channel, row, column))
        check(network(name).view(rule, target, images)["attribution"], expected)


@pytest.fixture(scope="module")
def torchlens(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    path = tmp_path_factory.mktemp("torchlens") / "found.npz"
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
    script = [sys.executable, str(here / "torchlens_rules.py"), str(path), *HOOKS_MISS]
    done = subprocess.run(script, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    with np.load(path) as found:
        return dict(found)


@pytest.mark.parametrize("name", HOOKS_MISS)
def test_rules_agree_with_torchlens_where_hooks_on_modules_miss_relus(name: str, torchlens: Any) -> None:
    made, images = network(name, double=True), noise(name).double()
    hooked = {"deconvnet": captum.Deconvolution, "guided_backprop": captum.GuidedBackprop}
    for rule, method in hooked.items():
        found = made.view(rule, images=made.batch(images), objective="score:3")["attribution"]
        check(found, torchlens[f"{name} {rule}"])
        with pytest.raises(AssertionError):
            check(quietly(method(made.module), images.clone(), target=3), found)


# ---- unpool, rectify, filter: the pass of Zeiler & Fergus, written out in float64 ------------------------------------


class Chain(nn.Module):
    """As in their network: strided convolutions, ReLU, max pools that overlap."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 6, 5, stride=2, padding=1)
        self.second = nn.Conv2d(6, 8, 3, padding=1)
        self.third = nn.Conv2d(8, 5, 3)
        nn.init.constant_(self.third.bias, 0.5)  # no unit is dead
        self.double()

    def forward(self, image: Tensor) -> Tensor:
        maps = F.max_pool2d(F.relu(self.first(image)), 3, 2)
        maps = F.max_pool2d(F.relu(self.second(maps)), 3, 2, padding=1)
        return F.relu(self.third(maps))


def unpooled(values: np.ndarray, before: np.ndarray, kernel: int, stride: int, padding: int) -> np.ndarray:
    """Each value goes back to its window's switch, the first of the strongest; what meets at one place is added."""
    result = np.zeros_like(before)
    for channel, row, column in np.ndindex(*values.shape):
        top, left = row * stride - padding, column * stride - padding
        rows = range(max(top, 0), min(top + kernel, before.shape[1]))
        columns = range(max(left, 0), min(left + kernel, before.shape[2]))
        switch = max(((r, c) for r in rows for c in columns), key=lambda place: before[channel, place[0], place[1]])
        result[channel, switch[0], switch[1]] += values[channel, row, column]
    return result


def filtered(values: np.ndarray, layer: nn.Conv2d, size: tuple[int, ...]) -> np.ndarray:
    """Every value stamps its unit's kernel on the maps before."""
    kernel, padding, stride = layer.weight.detach().numpy(), int(layer.padding[0]), layer.stride[0]
    canvas = np.zeros((kernel.shape[1], size[0] + 2 * padding, size[1] + 2 * padding))
    side = kernel.shape[2]
    for unit, row, column in np.ndindex(*values.shape):
        place = np.s_[:, row * stride : row * stride + side, column * stride : column * stride + side]
        canvas[place] += values[unit, row, column] * kernel[unit]
    return canvas[:, padding : padding + size[0], padding : padding + size[1]]


@pytest.mark.parametrize("seed", ["maximum", "map"])
def test_deconvnet_agrees_with_the_pass_written_out(seed: str) -> None:
    module = Chain()
    images = torch.randn(2, 3, 35, 39, dtype=torch.float64)
    made = Network.from_module(module, image_size=(35, 39), name="chain")
    view = made.view("deconvnet", "relu@2:3", images, seed=seed)
    for image, found, place in zip(images, view["attribution"], view["place"], strict=True):
        with torch.no_grad():
            first = F.relu(module.first(image[None]))
            second = F.relu(module.second(F.max_pool2d(first, 3, 2)))
            third = F.relu(module.third(F.max_pool2d(second, 3, 2, padding=1)))[0].numpy()
        values = np.zeros_like(third)
        if seed == "map":
            values[3] = third[3]
        else:
            assert third[3, place[0], place[1]] == third[3].max()
            values[3, place[0], place[1]] = 1
        second, first = second[0].numpy(), first[0].numpy()
        values = filtered(np.maximum(values, 0), module.third, (values.shape[1] + 2, values.shape[2] + 2))
        values = unpooled(values, second, 3, 2, 1)
        values = filtered(np.maximum(values, 0), module.second, second.shape[1:])
        values = unpooled(values, first, 3, 2, 0)
        values = filtered(np.maximum(values, 0), module.first, tuple(images.shape[2:]))
        check(torch.from_numpy(found).double(), values)
