"""Predictions: softmax again in numpy; contributions and bias sum to the score, or there are none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from convscope.errors import Refused, UnknownName
from convscope.network.network import Network
from convscope.testing import TINY_NETWORKS, tiny_network

# The layer whose units' averages the last layer weighs, by reading each network.
POOLED = {
    "edges": "relu",
    "in_place": "relu_function",
    "reused": "relu@2",
    "normalized": "relu",
    "grouped": None,
    "branches": None,
    "transposed": "relu@1",
    "channels_last": "add",
    "computed": "relu@1",
    "flattened": None,
    "pixels": None,
}


@pytest.mark.parametrize("name", sorted(TINY_NETWORKS))
def test_scores_and_probabilities(name):
    tiny = tiny_network(name)
    network, images = tiny.network(), tiny.images(4)
    expected = network.module.expected(images.double().numpy())
    probability = np.exp(expected - expected.max(axis=1, keepdims=True))
    probability /= probability.sum(axis=1, keepdims=True)
    view = network.view("predictions", images=images, top=2)
    order = np.argsort(-expected, axis=1, kind="stable")[:, :2]
    assert np.array_equal(view["class"], order)
    assert np.allclose(view["score"], np.take_along_axis(expected, order, 1), rtol=1e-5, atol=1e-5)
    assert np.allclose(view["probability"], np.take_along_axis(probability, order, 1), atol=1e-6)


@pytest.mark.parametrize("name", sorted(TINY_NETWORKS))
def test_contributions_and_bias_sum_to_the_score(name):
    tiny = tiny_network(name)
    network, images = tiny.network(), tiny.images(4)
    expected = network.module.expected(images.double().numpy())
    for explain in (-1, 1):
        view = network.view("predictions", images=images, explain_class=explain)
        assert view.meta["contribution_layer"] == POOLED[name]
        if POOLED[name] is None:
            assert "contribution" not in view.arrays
            assert "global average pooling" in view.meta["contribution_reason"]
            continue
        classes = expected.argmax(1) if explain < 0 else np.full(4, explain)
        assert np.array_equal(view["explained"], classes)
        total = view["contribution"].sum(axis=1) + view["bias"]
        assert np.allclose(total, expected[np.arange(4), classes], rtol=1e-5, atol=1e-5)
        maps = network.view("activations", POOLED[name], images)["map"].mean(axis=(2, 3))
        weight = network.module.linear.weight.detach().numpy()[classes]
        assert np.allclose(view["contribution"], maps * weight, atol=1e-5)


def test_a_normalization_behind_the_pooling_leaves_no_contributions():
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(4), nn.Linear(4, 3))
    view = Network.from_module(module, image_size=6).view("predictions", images=torch.randn(2, 1, 6, 6))
    assert view.meta["contribution_layer"] is None


def test_a_network_that_returns_probabilities_gets_no_second_softmax():
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Softmax(1))
    network = Network.from_module(module, image_size=4, channels=1)
    images = torch.randn(2, 1, 4, 4)
    view = network.view("predictions", images=images)
    assert np.allclose(view["probability"], view["score"], atol=1e-6)
    assert np.allclose(view["probability"].sum(axis=1), 1)
    gradients = network.view("weight_gradients", "1", images, objective="loss:1")
    module.zero_grad()
    nn.functional.cross_entropy(module[:2](images), torch.tensor([1, 1])).backward()
    unit, place = 2, gradients["channel"][2].argsort()
    expected = module[1].weight.grad[unit].reshape(-1).numpy()
    assert np.allclose(gradients["gradient"][unit][place].reshape(-1), expected, rtol=1e-4, atol=1e-6)


def test_equal_scores_rank_by_class():
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 6))
    nn.init.zeros_(module[1].weight)
    nn.init.zeros_(module[1].bias)
    view = Network.from_module(module, image_size=2, channels=1).view("predictions", images=torch.ones(1, 1, 2, 2))
    assert view["class"].tolist() == [[0, 1, 2, 3, 4]]


def test_top_is_limited_by_the_classes_and_only_their_names_are_told():
    tiny = tiny_network("edges")
    view = tiny.network(class_names=["cat", "dog", "eel"]).view("predictions", images=tiny.images(1), top=2)
    assert view["class"].shape == (1, 2)
    assert set(view.meta["class_names"]) == {str(index) for index in view["class"][0]}
    assert tiny.network().view("predictions", images=tiny.images(1), top=50)["class"].shape == (1, 3)


def test_one_output_is_not_a_classification():
    network = Network.from_module(nn.Sequential(nn.Flatten(), nn.Linear(4, 1)), image_size=2, channels=1)
    with pytest.raises(Refused, match="isn't a score for each of several classes"):
        network.view("predictions", images=torch.ones(1, 1, 2, 2))


def test_a_map_the_size_of_the_image_is_not_a_classification():
    network = Network.from_module(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1)), image_size=(8, 6))
    with pytest.raises(Refused, match="one value per position"):
        network.view("predictions", images=torch.ones(1, 3, 8, 6))


def test_a_class_that_is_not_there():
    tiny = tiny_network("edges")
    with pytest.raises(UnknownName, match=r"no class 3.*choose 0 to 2"):
        tiny.network().view("predictions", images=tiny.images(1), explain_class=3)


def test_nan_scores_are_shown_as_they_are():
    tiny = tiny_network("edges")
    view = tiny.network().view("predictions", images=torch.full_like(tiny.images(2), torch.nan))
    assert np.isnan(view["probability"]).all()
    assert view.meta["ranges"]["score"]["nan"] == 6
    view.to_bytes()
