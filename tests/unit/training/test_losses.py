from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from convscope.training.losses import image_losses, loss_terms
from convscope.training.spelling import Softmax, Svm


def slow_softmax(scores, label):
    exponentials = [math.exp(score - max(scores)) for score in scores]
    return -math.log(exponentials[label] / sum(exponentials))


def slow_svm(scores, label, margin):
    terms = [max(0.0, score - scores[label] + margin) for index, score in enumerate(scores) if index != label]
    return sum(terms)


@pytest.mark.parametrize("loss", [Softmax(), Svm(), Svm(margin=0.3)])
def test_each_images_loss_against_a_loop(loss):
    scores = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 4, 0, 2])
    found = image_losses(loss, scores, labels)
    for row, label, value in zip(scores.tolist(), labels.tolist(), found.tolist(), strict=True):
        expected = slow_softmax(row, label) if isinstance(loss, Softmax) else slow_svm(row, label, loss.margin)
        assert value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("loss", [Softmax(), Svm(margin=0.5)])
def test_terms_add_up_and_their_gradients_are_autograds(loss):
    scores = torch.randn(6, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    view = loss_terms(loss, scores, labels, ["a", "b", "c", "d"])
    losses = image_losses(loss, scores, labels)
    (gradient,) = torch.autograd.grad(losses.sum(), scores)
    assert np.allclose(view["loss"], losses.detach().numpy(), rtol=1e-6)
    assert np.allclose(view["term"].sum(axis=1), view["loss"], rtol=1e-6)
    assert np.allclose(view["gradient"], gradient.numpy(), atol=1e-6)
    assert view.axes["term"] == ("image", "class")
    assert view["label"].tolist() == labels.tolist()
    if isinstance(loss, Softmax):
        assert np.allclose(view["probability"].sum(axis=1), 1)
        shares = view["exponential"] / view["exponential"].sum(axis=1, keepdims=True)
        assert np.allclose(shares, view["probability"], atol=1e-7)
    else:
        assert np.allclose(np.maximum(view["margin"], 0), view["term"], atol=1e-6)


def test_enormous_scores_have_finite_terms():
    view = loss_terms(Softmax(), torch.tensor([[1e4, -1e4]]), torch.tensor([1]))
    assert view["loss"].tolist() == [2e4]
    assert view["gradient"].tolist() == [[1.0, -1.0]]
