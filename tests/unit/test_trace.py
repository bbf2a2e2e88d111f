"""Trace: every spelling of an operation has its own address and correct values, and nothing is left behind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convscope.errors import ConvscopeError, Refused, UnknownName
from convscope.trace import Trace


class Spellings(nn.Module):
    """One convolution after the other, each followed by ReLU spelled differently; one ReLU module is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(2 if index else 1, 2, 3, padding=1) for index in range(7))
        self.norm = nn.BatchNorm2d(2)
        self.reused = nn.ReLU()
        self.inplace = nn.ReLU(inplace=True)

    def forward(self, image: Tensor) -> dict[str, Any]:
        a = self.reused(self.convs[0](image))
        b = self.reused(self.norm(self.convs[1](a)))
        c = self.inplace(self.convs[2](b))
        d = F.relu(self.convs[3](c))
        e = torch.relu(self.convs[4](d))
        f = F.relu(self.convs[5](e), inplace=True)
        g = self.convs[6](f).relu_()
        g = g + a
        g += 0.5
        return {"scores": g.mean((2, 3)), "features": (g, b)}


RELUS = ["reused", "reused@1", "inplace", "relu", "relu@1", "relu@2", "relu@3"]


def network() -> Spellings:
    torch.manual_seed(0)
    module = Spellings().double()
    with torch.no_grad():
        for buffer in (module.norm.running_mean, module.norm.running_var):
            assert buffer is not None
            buffer.add_(torch.rand(2))
    return module


def reference(module: Spellings, image: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """The same computation out of place, each intermediate kept: convolutions, rectified, scores."""
    convolved, rectified = [], []
    value = image
    norm = module.norm
    for index, conv in enumerate(module.convs):
        made = F.conv2d(value, conv.weight, conv.bias, padding=1)  # type: ignore[arg-type]
        convolved.append(made)
        if index == 1:
            made = F.batch_norm(made, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        value = made.clamp(min=0)
        rectified.append(value)
    return convolved, rectified, (value + rectified[0] + 0.5).mean((2, 3))


def images() -> Tensor:
    return torch.rand(2, 1, 6, 5, generator=torch.Generator().manual_seed(1)).double()


CONVS = [f"convs.{index}" for index in range(7)]


@pytest.mark.parametrize("clone_all", [True, False], ids=["clones everything", "is told nothing is overwritten"])
def test_every_spelling_has_its_address_and_its_value(clone_all: bool) -> None:
    module, image = network(), images()
    convolved, rectified, _ = reference(module, image)
    # An empty set is a wrong promise: the trace must notice and answer with right values.
    with Trace(module, CONVS + RELUS, overwritten=None if clone_all else frozenset()) as trace:
        trace.run(image)
    for name, expected in zip(CONVS + RELUS, convolved + rectified, strict=True):
        assert torch.equal(trace[name], expected), name


def test_gradients_arrive_at_the_version_that_was_captured() -> None:
    module, image = network(), images()
    convolved, rectified, scores = reference(module, image)
    expected = torch.autograd.grad(scores[:, 1].sum(), convolved + rectified)
    with Trace(module, CONVS + RELUS, gradients=True) as trace:
        output = trace.run(image)
        found = trace.gradients(output["scores"][:, 1].sum(), CONVS + RELUS)
    for (name, gradient), wanted in zip(found.items(), expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-12, atol=1e-15, msg=name)


def test_gradients_do_not_need_parameters_that_ask_for_them() -> None:
    module, image = network().requires_grad_(False), images()
    with Trace(module, ["convs.3"], gradients=True) as trace:
        score = trace.run(image)["scores"].sum()
        frozen = trace.gradients(score, ["convs.3", "input"])
    module.requires_grad_(True)
    with Trace(module, ["convs.3"], gradients=True) as trace:
        score = trace.run(image)["scores"].sum()
        free = trace.gradients(score, ["convs.3", "input"])
    assert all(torch.equal(frozen[name], free[name]) for name in frozen)
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not image.requires_grad


def test_a_gradient_of_one_layer_by_another_and_zeros_where_independent() -> None:
    module, image = network(), images()
    with Trace(module, ["convs.1", "convs.5"], gradients=True) as trace:
        trace.run(image, stop=True)
        found = trace.gradients(trace["convs.1"][:, 0].sum(), ["convs.1", "convs.5"])
    assert torch.equal(found["convs.1"][:, 0], torch.ones(2, 6, 5).double())
    assert found["convs.1"][:, 1].abs().sum() == 0
    assert found["convs.5"].abs().sum() == 0


def test_it_stops_after_the_last_layer_asked_for() -> None:
    module = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3), nn.Linear(99, 1))  # the last would fail
    with Trace(module, ["1"]) as trace:
        assert trace.run(torch.ones(1, 1, 6, 6)) is None
    assert trace["1"].shape == (1, 1, 2, 2)


def snapshot(module: nn.Module) -> dict[str, Any]:
    return {
        "state": {name: tensor.clone() for name, tensor in module.state_dict().items()},
        "training": [each.training for each in module.modules()],
        "requires_grad": [parameter.requires_grad for parameter in module.parameters()],
        "gradients": [parameter.grad for parameter in module.parameters()],
        "hooks": [
            len(hooks)
            for each in module.modules()
            for hooks in (each._forward_hooks, each._forward_pre_hooks, each._backward_hooks)
        ],
        "random": torch.get_rng_state(),
        "numpy": np.random.get_state()[1],
    }


def same(before: Any, after: Any) -> bool:
    if isinstance(before, Tensor):
        return torch.equal(before, after)
    if isinstance(before, np.ndarray):
        return bool((before == after).all())
    if isinstance(before, dict):
        return all(same(before[key], after[key]) for key in before)
    return bool(before == after)


class Restless(nn.Module):
    """Counts its calls in a buffer, draws random numbers, and fails when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.register_buffer("calls", torch.zeros(()))
        self.fail = False

    def forward(self, image: Tensor) -> Tensor:
        self.calls = self.calls + 1
        self.norm.num_batches_tracked.add_(1)  # type: ignore[union-attr, operator]
        made = F.dropout(self.norm(self.conv(image)))
        if self.fail:
            raise RuntimeError("as told")
        return made


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fail", [True, False])
def test_nothing_is_left_behind(training: bool, fail: bool) -> None:
    module = Restless().train(training)
    module.norm.eval()
    module.fail = fail
    before = snapshot(module)
    with Trace(module, ["conv", "dropout"], gradients=True, inputs=True) as trace:
        if fail:
            with pytest.raises(RuntimeError, match="as told"):
                trace.run(torch.ones(1, 1, 5, 5), stop=False)
        else:
            output = trace.run(torch.ones(1, 1, 5, 5))
            trace.gradients(output.sum(), ["conv"])
    assert same(before, snapshot(module))


def test_a_stochastic_network_gives_the_same_values_twice() -> None:
    module = Restless()
    values = []
    for _ in range(2):
        with Trace(module, ["dropout"]) as trace:
            trace.run(torch.ones(1, 1, 9, 9))
        values.append(trace["dropout"])
    assert torch.equal(*values)


def test_the_input_of_a_kernel_is_what_it_was_applied_to() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.ReLU(), nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), nn.ReLU(inplace=True))
    image = torch.randn(1, 1, 5, 5)
    with Trace(module, ["1"], inputs=True) as trace:
        trace.run(image)
    assert torch.equal(trace.input("1"), F.pad(image.relu(), (1, 1, 1, 1), mode="reflect"))
    conv = module[1]
    assert isinstance(conv, nn.Conv2d)
    assert torch.equal(trace["1"], F.conv2d(trace.input("1"), conv.weight, conv.bias))


def test_it_works_inside_inference_mode_and_with_images_made_there() -> None:
    module = network()
    with torch.inference_mode():
        image = images()
        with Trace(module, ["convs.0"], gradients=True) as trace:
            score = trace.run(image)["scores"].sum()
            assert trace.gradients(score, ["convs.0"])["convs.0"].abs().sum() > 0


# ---- ReLU rules ----------------------------------------------------------------------------------------------------


def backward_by_hand(module: Spellings, image: Tensor, rule: str) -> Tensor:
    """d score / d image through the chain of convolutions, the rectification of each gradient written out."""
    convolved, _, _ = reference(module, image)
    positive = [made > 0 for made in convolved]
    norm = module.norm
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None, None]
    shift = norm.bias[:, None, None] - norm.running_mean[:, None, None] * scale
    positive[1] = convolved[1] * scale + shift > 0
    count = image.shape[2] * image.shape[3]
    top = torch.zeros_like(convolved[-1])
    top[:, 1] = 1 / count

    def rectify(gradient: Tensor, index: int) -> Tensor:
        gradient = gradient.clamp(min=0)
        return gradient if rule == "deconvnet" else gradient * positive[index]

    gradient = top
    for index in range(6, -1, -1):
        if index == 0:
            gradient = gradient + top  # the skip adds to the first ReLU's output
        gradient = rectify(gradient, index)
        if index == 1:
            gradient = gradient * scale
        gradient = F.conv_transpose2d(gradient, module.convs[index].weight, padding=1)  # type: ignore[arg-type]
    return gradient


@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
def test_a_relu_rule_reaches_every_spelling(rule: Any) -> None:
    module, image = network(), images()
    with Trace(module, ["convs.0"], gradients=True, relu_rule=rule) as trace:
        output = trace.run(image)
        found = trace.gradients(output["scores"][:, 1].sum(), ["input"])["input"]
    torch.testing.assert_close(found, backward_by_hand(module, image, rule), rtol=1e-10, atol=1e-14)
    _, _, scores = reference(module, image)
    torch.testing.assert_close(output["scores"].detach(), scores.detach(), rtol=0, atol=1e-15)


class Untrainable(nn.Module):
    """Adds in place to what ReLU's own gradient needs."""

    def forward(self, image: Tensor) -> Tensor:
        rectified = image.mul(2).relu()
        rectified += 1
        return rectified


def test_a_network_that_destroys_its_own_gradient_is_refused_in_words() -> None:
    with Trace(Untrainable(), ["mul"], gradients=True) as trace:
        score = trace.run(images()).sum()
        with pytest.raises(Refused, match="in-place operation"):
            trace.gradients(score, ["mul"])


# ---- errors --------------------------------------------------------------------------------------------------------


def test_an_unknown_call_is_named_with_its_neighbors() -> None:
    with Trace(network(), ["convs.9"]) as trace, pytest.raises(UnknownName, match=r"did you mean convs\.\d"):
        trace.run(images(), stop=False)


def test_values_need_to_have_been_recorded_and_gradients_the_block() -> None:
    with Trace(network(), ["convs.0"], gradients=True) as trace:
        score = trace.run(images())["scores"].sum()
        with pytest.raises(UnknownName, match="wasn't recorded"):
            _ = trace["convs.1"]
    with pytest.raises(ConvscopeError, match="inside the with block"):
        trace.gradients(score, ["convs.0"])
    with pytest.raises(ConvscopeError, match="inside its with block"):
        trace.run(images())
    assert not trace["convs.0"].requires_grad
