from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from convscope.errors import ConvscopeError, Refused, UnknownName
from convscope.training.backpropagation import backpropagation
from convscope.training.definition import Definition
from convscope.training.losses import image_losses

from .learning import EVERYTHING, PLAIN

MEAN_POOL = EVERYTHING.replace("- pool: {size: 2}", "- sigmoid\n- pool: {size: 3, of: mean, padding: 1}")
STRIDES = PLAIN.replace("units: 4, size: 3", "units: 4, size: [3, 2], stride: 2, padding: 1, groups: 2").replace(
    "softmax", "svm"
)


def made(text, seed=0):
    definition = Definition.parse(text)
    module = definition.build(seed).double()
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.fill_(0.1)
    image = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return definition, module, image, backpropagation(module, definition.loss, image, 1, ["a", "b", "c"])


texts = pytest.mark.parametrize(
    "text", [PLAIN, EVERYTHING, MEAN_POOL, STRIDES], ids=["plain", "all", "mean", "strides"]
)


@texts
def test_what_a_layer_hands_on_is_the_upstream_of_the_one_before(text):
    definition, module, image, found = made(text)
    names = [row["name"] for row in definition.rows()]
    assert {each.name for each in found.steps} == set(names)
    top = [each for each in found.steps if "." not in each.name]
    for later, earlier in pairwise(top):
        assert torch.allclose(later.gradient.flatten(), earlier.upstream.flatten(), atol=1e-12)
    module.eval()
    value = image.clone().requires_grad_(True)
    loss = image_losses(definition.loss, module(value).flatten(1), torch.tensor([1])).sum()
    (expected,) = torch.autograd.grad(loss, value)
    assert torch.allclose(top[-1].gradient, expected[0], atol=1e-12)
    assert found.loss == pytest.approx(loss.detach().item(), rel=1e-12)
    assert found.loss_terms["loss"][0] == pytest.approx(loss.detach().item(), rel=1e-6)
    assert np.allclose(found.loss_terms["gradient"][0], found.steps[0].upstream.flatten(), atol=1e-6)


@texts
def test_every_gradient_is_the_sum_of_its_terms(text, monkeypatch):
    monkeypatch.setattr("convscope.training.backpropagation.TERMS", 10**6)
    _, module, _, found = made(text)
    random = np.random.default_rng(0)
    for each in module.parameters():  # training goes on; what is looked at stays as it was
        each.data.mul_(2)
    for step in found.steps:
        places = [step.strongest(), *([random.integers(0, size) for size in step.given.shape] for _ in range(3))]
        for place in places:
            terms = step.terms([int(each) for each in place])
            assert np.allclose(terms["upstream"] * terms["local"], terms["product"], rtol=1e-5, atol=1e-9)
            expected = float(step.gradient[tuple(place)])
            assert terms["product"].astype(float).sum() == pytest.approx(expected, rel=1e-4, abs=1e-7)
            assert terms.meta["gradient"] == expected
            for row, upstream in zip(terms["place"], terms["upstream"], strict=True):
                assert step.upstream[tuple(row)].item() == pytest.approx(float(upstream), rel=1e-6)


@texts
def test_every_weight_gradient_is_the_sum_of_upstream_times_the_input_met(text, monkeypatch):
    monkeypatch.setattr("convscope.training.backpropagation.TERMS", 10**6)
    definition, module, image, found = made(text)
    module.eval()
    module.zero_grad()
    image_losses(definition.loss, module(image).flatten(1), torch.tensor([1])).sum().backward()
    weighted = [each for each in found.steps if each.weight_gradient is not None]
    assert {each.name for each in weighted} >= {"conv1", "fc1"}
    for step in weighted:
        assert torch.allclose(step.weight_gradient, module.get_submodule(step.name).weight.grad, atol=1e-12)
        terms = step.weight_terms(step.strongest_weight())
        gradient = step.weight_gradient[step.strongest_weight()].item()
        assert terms["product"].astype(float).sum() == pytest.approx(gradient, rel=1e-4, abs=1e-7)
    conv = found.step("conv1")
    layer = module.get_submodule("conv1")
    unit, channel, row, column = conv.strongest_weight()
    terms = conv.weight_terms((unit, channel, row, column))
    group = unit // (layer.out_channels // layer.groups) * (layer.in_channels // layer.groups)
    padded = torch.nn.functional.pad(image[0], [layer.padding[1]] * 2 + [layer.padding[0]] * 2)
    for (of, at_row, at_column), local in zip(terms["place"], terms["local"], strict=True):
        assert of == unit
        met = padded[group + channel, at_row * layer.stride[0] + row, at_column * layer.stride[1] + column]
        assert local == pytest.approx(met.item(), rel=1e-6)


def test_only_the_largest_terms_are_kept_and_the_rest_is_one_number():
    _, _, _, found = made(PLAIN)
    step = found.step("conv1")
    terms = step.weight_terms(step.strongest_weight())
    assert terms.meta["terms"] == 36
    assert terms["product"].shape == (32,)
    assert (np.diff(np.abs(terms["product"])) <= 0).all()
    total = terms["product"].astype(float).sum() + terms.meta["left_out"]
    assert total == pytest.approx(terms.meta["gradient"], rel=1e-5)


def test_a_relu_that_is_off_hands_nothing_back():
    _, _, _, found = made(PLAIN)
    step = found.step("relu1")
    off = (step.given < 0).nonzero()[0].tolist()
    on = (step.given > 0).nonzero()[0].tolist()
    assert step.terms(off)["product"].size == 0
    assert step.terms(on)["local"].tolist() == [1.0]


def test_all_layers_in_one_view():
    _, _, _, found = made(EVERYTHING)
    view = found.to_view()
    assert [each["name"] for each in view.meta["layers"]] == [each.name for each in found.steps]
    assert view.meta["layers"][0]["name"] == "fc2"
    assert view["conv1.upstream"].shape == (4, 8, 8)
    assert view["fc2.given"].shape == (4, 1, 1)
    assert view["conv1.given"].shape == view["conv1.gradient"].shape == (2, 8, 8)
    assert view.meta["loss"] == found.loss


def test_the_module_is_left_as_it_was():
    definition = Definition.parse(EVERYTHING)
    module = definition.build()
    before = {name: each.clone() for name, each in module.state_dict().items()}
    backpropagation(module, definition.loss, torch.zeros(1, 2, 8, 8), 0)
    assert all(torch.equal(each, before[name]) for name, each in module.state_dict().items())
    assert all(each.grad is None for each in module.parameters())
    assert all(each.training for each in module.modules())


def test_what_is_not_there_is_said():
    definition, module, image, found = made(PLAIN)
    with pytest.raises(UnknownName, match="did you mean conv1"):
        found.step("conv")
    with pytest.raises(UnknownName, match="no place"):
        found.step("conv1").terms((2, 0, 0))
    with pytest.raises(UnknownName, match="no place"):
        found.step("conv1").weight_terms((0, 0))
    with pytest.raises(Refused, match="no weights"):
        found.step("relu1").weight_terms((0, 0, 0))
    with pytest.raises(UnknownName, match="no class 3"):
        backpropagation(module, definition.loss, image, 3)
    with pytest.raises(ConvscopeError, match="one image"):
        backpropagation(module, definition.loss, torch.cat([image, image]), 0)
