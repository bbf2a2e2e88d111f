"""Objective: what it accepts, what it refuses, and that its words say what it did."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convscope.errors import ConvscopeError, Refused, UnknownName
from convscope.methods.objective import Objective, log_probabilities
from convscope.network.batch import Batch
from convscope.network.network import Network
from convscope.testing import tiny_network


def batch(*labels: int | None) -> Batch:
    images = tiny_network("edges").images(len(labels))
    return Batch.from_tensor(images, labels)


@pytest.fixture
def network() -> Network:
    return tiny_network("edges").network(class_names=["cat", "dog", "eel"])


@pytest.mark.parametrize(
    ("text", "labels", "resolved", "words"),
    [
        ("loss", (1, 0), "loss:true", "true labels"),
        ("loss", (1, None), "loss:predicted", "predicted classes"),
        ("loss:predicted", (1, 0), "loss:predicted", "predicted classes"),
        ("loss:true", (1, 0), "loss:true", "true labels"),
        ("loss:2", (None,), "loss:2", "class 2 (eel)"),
        ("loss:dog", (None,), "loss:1", "class 1 (dog)"),
        ("score", (None,), "score", "predicted class's score before softmax"),
        ("score:cat", (None,), "score:0", "class 0 (cat)"),
        ("unit:relu:1", (None,), "unit:relu:1", "mean of relu:1's map"),
        ("unit:relu:1:2,3", (None,), "unit:relu:1:2,3", "value of relu:1:2,3"),
    ],
)
def test_resolves_to(network, text, labels, resolved, words):
    bound = Objective.parse(text).bind(network, batch(*labels))
    assert bound.text == resolved
    assert words in bound.caption


@pytest.mark.parametrize(
    ("text", "labels", "kind", "message"),
    [
        ("lost", (1,), ConvscopeError, "'lost' isn't an objective.*did you mean loss"),
        ("", (1,), ConvscopeError, "isn't an objective"),
        ("unit:", (1,), ConvscopeError, "isn't an objective"),
        ("unit:relu", (1,), ConvscopeError, "names a layer, not a unit.*unit:relu:0"),
        ("unit:relo:1", (1,), UnknownName, "did you mean relu"),
        ("unit:relu:9", (1,), UnknownName, "no unit 9"),
        ("score:3", (1,), UnknownName, "no class 3.*choose 0 to 2"),
        ("loss:-1", (1,), UnknownName, "no class '-1'"),
        ("loss:dgo", (1,), UnknownName, "did you mean dog"),
        ("loss:true", (1, None), Refused, "1 of 2 images have no true label.*loss:predicted"),
        ("loss:true", (1, 3), Refused, "image 1 has label 3, but the network has classes 0 to 2"),
        ("loss", (1, -1), Refused, "label -1"),
    ],
)
def test_refuses(network, text, labels, kind, message):
    with pytest.raises(kind, match=message):
        Objective.parse(text).bind(network, batch(*labels))


def test_cross_entropy_over_one_output_is_refused():
    one = Network.from_module(nn.Sequential(nn.Flatten(), nn.Linear(63, 1)), image_size=(9, 7), channels=1)
    with pytest.raises(Refused, match=r"always zero.*score:0"):
        Objective.parse("loss").bind(one, batch(None))
    assert Objective.parse("score:0").bind(one, batch(None)).text == "score:0"


def test_a_function_must_return_one_number(network):
    def each(scores, batch):
        return scores

    with pytest.raises(ConvscopeError, match="objective each returned Tensor, not one number"):
        network.view("activation_gradients", "relu", batch(0, 1), objective=each)


def test_a_function_sees_all_images_at_once(network, monkeypatch):
    monkeypatch.setattr("convscope.methods.backward._WORK", 1)
    seen = []

    def spread(scores, batch):
        seen.append((len(scores), len(batch)))
        return scores.std()

    network.view("activation_gradients", "relu", batch(0, 1, 2), objective=spread)
    assert seen == [(3, 3)]


def test_log_probabilities_of_probabilities_are_their_logarithm():
    probabilities = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    assert log_probabilities(probabilities).exp().tolist() == [[0.25, 0.75], [1.0, pytest.approx(0)]]
    scores = torch.tensor([[0.25, 0.70]])
    assert torch.equal(log_probabilities(scores), scores.log_softmax(1))
