"""Batch normalization in evaluation mode: torch's own values to the bit, and its own gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope.trace import Trace
from convscope.trace.normalization import NormalizationMode


def layer(kind: type[nn.Module], **options) -> nn.Module:
    torch.manual_seed(0)
    made = kind(4, **options).double().eval()
    with torch.no_grad():
        for name, each in [*made.named_parameters(), *made.named_buffers()]:
            if each.is_floating_point():
                each.copy_(torch.rand_like(each) + 0.5 if "var" in name else torch.randn_like(each))
    return made


CASES = {
    "maps": (nn.BatchNorm2d, {}, (3, 4, 5, 6)),
    "vectors": (nn.BatchNorm1d, {"eps": 0.3}, (3, 4)),
    "rows": (nn.BatchNorm1d, {"affine": False}, (3, 4, 7)),
    "volumes": (nn.BatchNorm3d, {}, (2, 4, 2, 3, 2)),
    "of the batch itself": (nn.BatchNorm2d, {"track_running_stats": False}, (3, 4, 5, 6)),
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_torchs_own(case):
    kind, options, shape = CASES[case]
    made = layer(kind, **options)
    images = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weights = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    plain, ours = images.clone().requires_grad_(), images.clone().requires_grad_()
    expected = made(plain)
    with NormalizationMode(frozen=True):
        found = made(ours)
    assert (type(found.grad_fn).__name__ == "_NormalizedBackward") is (case != "of the batch itself")
    assert torch.equal(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, ours, weights)[0],
        torch.autograd.grad(expected, plain, weights)[0],
        rtol=1e-12,
        atol=1e-14,
    )


def test_where_no_gradient_is_asked_for_it_is_torchs():
    made, images = layer(nn.BatchNorm2d), torch.randn(2, 4, 3, 3, dtype=torch.float64)
    with NormalizationMode(frozen=True), torch.no_grad():
        assert torch.equal(made(images.requires_grad_()), made(images))
    with NormalizationMode(frozen=True):
        assert made(images.detach()).grad_fn.name() == "NativeBatchNormBackward0"  # the parameters ask for one


def test_parameters_that_ask_for_gradients_get_them_unless_nobody_wants_them():
    made, images = layer(nn.BatchNorm2d), torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    with NormalizationMode(frozen=False):
        assert torch.autograd.grad(made(images).sum(), [made.weight])[0].abs().sum() > 0
        for parameter in made.parameters():
            parameter.requires_grad_(False)
        assert type(made(images).grad_fn).__name__ == "_NormalizedBackward"


@pytest.mark.parametrize("rule", [None, "guided", "deconvnet"])
def test_a_trace_uses_it_and_follows_its_rules(rule):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), layer(nn.BatchNorm2d), nn.ReLU(inplace=True), nn.Flatten()).double()
    module[0].weight.requires_grad_(False)
    images = torch.randn(2, 1, 6, 6, dtype=torch.float64)
    with Trace(module, ["1"], gradients=True, relu_rule=rule, frozen=True) as trace:
        output = trace.run(images, stop=False)
        assert torch.equal(output, module(images))
        found = trace.gradients(output.sum(), ["1", "input"])
    convolved = module[0](images)
    normal = module[1]
    factor = (normal.weight / (normal.running_var + normal.eps).sqrt())[None, :, None, None]
    gate = torch.ones_like(convolved) if rule == "deconvnet" else (module[1](convolved) > 0).double()
    torch.testing.assert_close(found["1"], gate)
    torch.testing.assert_close(found["input"], F.conv_transpose2d(gate * factor, module[0].weight).detach())
