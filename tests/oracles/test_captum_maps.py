"""Grad-CAM and occlusion are Captum's, on the architectures that everybody knows; random weights, small images."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from convscope.network.network import Network

attr = pytest.importorskip("captum.attr", reason="captum isn't installed; `make test` installs it")
models = pytest.importorskip("torchvision.models", reason="torchvision isn't installed; `make test` installs it")
SIZES = {"alexnet": (72, 64), "vgg16": (48, 40), "resnet18": (48, 64)}
LAYERS = {
    "alexnet": ("features.8", "features.11"),
    "vgg16": ("features.16", "features.29"),
    "resnet18": ("layer2.0.conv1", "layer4"),
}
CLASS = 3


@cache
def built(name: str) -> tuple[Network, torch.Tensor]:
    torch.manual_seed(0)
    module = models.get_model(name, weights=None, num_classes=6).eval()
    return Network.from_module(module, image_size=SIZES[name]), torch.randn(2, 3, *SIZES[name])


@pytest.mark.parametrize("name", SIZES)
def test_grad_cam(name):
    network, images = built(name)
    for layer in LAYERS[name]:
        captum = attr.LayerGradCam(network.module, network.module.get_submodule(layer))
        expected = captum.attribute(images, CLASS)[:, 0].detach().numpy()
        view = network.view("grad_cam", layer, images, objective=f"score:{CLASS}", rectify=False)
        assert np.abs(view["coarse"] - expected).max() <= 1e-5 * max(1, np.abs(expected).max())
        assert expected.any()


@pytest.mark.parametrize("name", SIZES)
def test_occlusion(name):
    network, images = built(name)
    expected = attr.Occlusion(network.module).attribute(
        images, sliding_window_shapes=(3, 24, 24), strides=(3, 18, 18), target=CLASS, perturbations_per_eval=8
    )
    view = network.view(
        "occlusion", "", images, objective=f"score:{CLASS}", window=24, stride=18, fill="mean", layer=LAYERS[name][0]
    )
    assert np.abs(view["attribution"] - expected[:, :1].numpy()).max() <= 1e-5
    assert expected.any()
