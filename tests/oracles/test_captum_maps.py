"""Grad-CAM and occlusion are Captum's, on the architectures that everybody knows."""

from __future__ import annotations

from functools import cache

import captum.attr as captum
import numpy as np
import pytest
from architectures import architecture, noise, size

from convscope.network.network import Network

LAYERS = {
    "alexnet": ("features.8", "features.11"),
    "vgg16": ("features.16", "features.29"),
    "resnet18": ("layer2.0.conv1", "layer4"),
}
CLASS = 3


@cache
def network(name: str) -> Network:
    return Network.from_module(architecture(name), image_size=size(name), name=name)


@pytest.fixture(scope="module", autouse=True)
def _forget():
    yield
    network.cache_clear()


@pytest.mark.parametrize("name", LAYERS)
def test_grad_cam(name):
    opened = network(name)
    for layer in LAYERS[name]:
        found = captum.LayerGradCam(opened.module, opened.module.get_submodule(layer)).attribute(noise(name), CLASS)
        expected = found[:, 0].detach().numpy()
        view = opened.view("grad_cam", layer, noise(name), objective=f"score:{CLASS}", rectify=False)
        assert np.abs(view["coarse"] - expected).max() <= 1e-5 * np.abs(expected).max()
        assert expected.any()


@pytest.mark.parametrize("name", LAYERS)
def test_occlusion(name):
    opened = network(name)
    found = captum.Occlusion(opened.module).attribute(
        noise(name), sliding_window_shapes=(3, 24, 24), strides=(3, 18, 18), target=CLASS, perturbations_per_eval=8
    )
    expected = found[:, :1].numpy()
    view = opened.view("occlusion", "", noise(name), objective=f"score:{CLASS}", window=24, stride=18, fill="mean")
    assert np.abs(view["attribution"] - expected).max() <= 1e-5 * np.abs(expected).max()
    assert expected.any()
