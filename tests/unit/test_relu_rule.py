"""ReLU rules by operation: however ReLU is spelled, and never where something else rectifies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convscope.errors import Refused
from convscope.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Callable

# Each takes a tensor that nothing else needs.
RELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
    "functional": F.relu,
    "functional in place": lambda x: F.relu(x, inplace=True),
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "method": lambda x: x.relu(),
    "method in place": lambda x: x.relu_(),
    "in place, the result thrown away": lambda x: (F.relu_(x), x)[1],
    "threshold": lambda x: F.threshold(x, 0, 0),
    "threshold module in place": nn.Threshold(0.0, 0.0, inplace=True),
    "torch.threshold": lambda x: torch.threshold(x, 0.0, 0.0),
    "clamp": lambda x: x.clamp(min=0),
    "clamp of a tensor": lambda x: x.clamp(min=torch.tensor(0.0)),
    "clamp in place": lambda x: torch.clamp_(x, 0),
    "clip": lambda x: torch.clip(x, 0.0),
    "clamp_min": lambda x: x.clamp_min(0),
    "clamp_min_": lambda x: x.clamp_min_(0.0),
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "maximum the other way around": lambda x: torch.maximum(torch.zeros(()).to(x), x),
    "max of two": lambda x: torch.max(x, other=torch.zeros(1).to(x)),
}
RELU6: dict[str, Callable[[Tensor], Tensor]] = {
    "module": nn.ReLU6(),
    "module in place": nn.ReLU6(inplace=True),
    "functional": F.relu6,
    "functional in place": lambda x: F.relu6(x, inplace=True),
    "hardtanh": lambda x: F.hardtanh(x, 0.0, 6.0),
    "hardtanh module": nn.Hardtanh(0, 6),
    "hardtanh_": lambda x: F.hardtanh_(x, 0.0, 6.0),
    "clamp": lambda x: x.clamp(0, 6),
    "clamp in place": lambda x: x.clamp_(min=0.0, max=6.0),
}


class Around(nn.Module):
    """A convolution, something in the middle, another convolution; the mean of each map."""

    def __init__(self, middle: Callable[[Tensor], Tensor], last: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 2, 3, padding=1)
        self.middle, self.last = middle, last
        self.double()
        with torch.no_grad():
            self.first.weight.mul_(20)  # so that ReLU6 is cut off, too

    def forward(self, image: Tensor) -> Tensor:
        return self.last(self.second(self.middle(self.first(image)))).mean((2, 3))


def image() -> Tensor:
    return torch.randn(2, 1, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def attributed(module: nn.Module, rule: Any, layers: tuple[str, ...] = ()) -> tuple[Tensor, Tensor]:
    """The rule's result at the image, and the output: of score 0, or of one layer's unit 0."""
    with Trace(module, layers, gradients=True, relu_rule=rule) as trace:
        output = trace.run(image(), stop=bool(layers))
        value = trace[layers[0]][:, 0] if layers else output[:, 0]
        return trace.gradients(value.sum(), ["input"])["input"], value.detach()


def by_hand(module: Around, rule: str, high: float) -> Tensor:
    first = module.first(image())
    second = module.second(first.clamp(0, high))
    gradient = torch.zeros_like(second)
    gradient[:, 0] = 1 / (6 * 7)
    gradient = gradient.clamp(min=0) * ((second > 0) if rule == "guided" else 1)
    gradient = F.conv_transpose2d(gradient, module.second.weight, padding=1).clamp(min=0)
    gradient = gradient * ((first > 0) & (first < high) if rule == "guided" else 1)
    return F.conv_transpose2d(gradient, module.first.weight, padding=1).detach()


@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
@pytest.mark.parametrize("spelling", RELUS)
def test_a_rule_holds_for_every_spelling_of_relu(spelling: str, rule: str) -> None:
    module = Around(RELUS[spelling])
    found, value = attributed(module, rule)
    torch.testing.assert_close(found, by_hand(module, rule, float("inf")), rtol=1e-12, atol=1e-15)
    assert torch.equal(value, module(image())[:, 0])
    plain, _ = attributed(module, None)
    assert not torch.allclose(found, plain)


@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
@pytest.mark.parametrize("spelling", RELU6)
def test_a_rule_holds_for_a_relu_that_is_cut_off(spelling: str, rule: str) -> None:
    module = Around(RELU6[spelling])
    found, value = attributed(module, rule)
    assert (module.first(image()) > 6).any()
    torch.testing.assert_close(found, by_hand(module, rule, 6.0), rtol=1e-12, atol=1e-15)
    assert torch.equal(value, module(image())[:, 0])


def test_a_rule_meets_the_sum_of_what_comes_back_where_a_tensor_is_used_twice() -> None:
    class Skip(nn.Module):
        def forward(self, value: Tensor) -> Tensor:
            before = value * 2
            return before - 3 * before.relu()

    with Trace(Skip(), gradients=True, relu_rule="guided") as trace:
        output = trace.run(torch.tensor([-1.0, 1.0]))
        gradient = trace.gradients(output.sum(), ["input"])["input"]
    # The skip sends 1, the branch −3: the rule stops the branch's −3 alone, where hooks on tensors stop both.
    assert gradient.tolist() == [2.0, 2.0]


class Swish(torch.autograd.Function):
    """SiLU as memory-saving implementations spell it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        ctx.save_for_backward(value)
        return value * value.sigmoid()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (value,) = ctx.saved_tensors
        gate = value.sigmoid()
        return gradient * (gate * (1 + value * (1 - gate)))


OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "SiLU": nn.SiLU(),
    "GELU": F.gelu,
    "leaky ReLU": nn.LeakyReLU(),
    "ELU": nn.ELU(),
    "PReLU": nn.PReLU(dtype=torch.float64),
    "RReLU": nn.RReLU(),
    "Mish": F.mish,
    "hardswish": nn.Hardswish(),
    "hardtanh": nn.Hardtanh(),
    "softplus": F.softplus,
    "abs": torch.abs,
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "clamp": lambda x: x.clamp(max=1),
    "clamp (of both sides)": lambda x: x.clamp(-1, 1),
    "threshold": lambda x: F.threshold(x, 0.5, 0.0),
    "mask": lambda x: x * (x > 0),
    "mask (of numbers)": lambda x: (x > 0).to(x.dtype) * x,
    "gate of its own": lambda x: x * torch.sigmoid(x),
    "gate of its own (scaled)": lambda x: torch.sigmoid(1.7 * x) * x,
    "gate of its own (hardswish)": lambda x: x * F.relu6(x + 3) / 6,
    "hard sigmoid": lambda x: F.relu6(x + 3) / 6,
    "Swish (an operation with a backward pass of its own)": Swish.apply,
}


@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
@pytest.mark.parametrize("name", OTHERS)
def test_a_rule_is_refused_by_name_where_something_else_rectifies(name: str, rule: str) -> None:
    with pytest.raises(Refused) as refusal:
        attributed(Around(OTHERS[name]), rule)
    assert name.split(" (of")[0].split(" (scaled")[0].split(" (hardswish")[0] in refusal.value.what
    assert refusal.value.next_step


FINE: dict[str, Callable[[Tensor], Tensor]] = {
    "a sigmoid gate of the means": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "normalization": lambda x: F.normalize(x, dim=1),
    "a generalized mean": lambda x: F.relu(x).clamp(min=1e-6).pow(3),
    "a constant factor": lambda x: x * 0.5,
    "layer scale": lambda x: x * torch.full((1, 3, 1, 1), 0.3, dtype=x.dtype),
    "max pooling": lambda x: F.max_pool2d(x, 3, 1, 1),
    "a square": lambda x: x * x,
    "tanh": torch.tanh,
}


@pytest.mark.parametrize("name", FINE)
def test_what_rectifies_nothing_is_differentiated_as_usual(name: str) -> None:
    found, _ = attributed(Around(FINE[name]), "guided")
    assert found.abs().sum() > 0


class Branched(nn.Module):
    """ReLU in one branch, SiLU in another, neither in the third; all of them run before any of them is asked about."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.convs = nn.ModuleList(nn.Conv2d(1, 2, 3) for _ in range(3))
        self.after = nn.ModuleList(nn.Conv2d(2, 2, 1) for _ in range(3))
        self.scale = nn.Parameter(torch.ones(1))
        self.double()

    def forward(self, value: Tensor) -> Tensor:
        begun = [conv(value) for conv in self.convs]
        rectified, silu, plain = begun[0].relu(), F.silu(begun[1]), begun[2] * F.softplus(self.scale)
        ended = [conv(each) for conv, each in zip(self.after, (rectified, silu, plain), strict=True)]
        return torch.cat(ended, dim=1).mean((2, 3))


def test_only_what_a_unit_depends_on_counts() -> None:
    module = Branched()
    found, _ = attributed(module, "guided", ("after.0",))
    assert found.abs().sum() > 0
    with pytest.raises(Refused, match="SiLU"):
        attributed(module, "guided", ("after.1",))
    # A softplus that is applied to a weight, not to the image, is no matter; but there is no ReLU either.
    with pytest.raises(Refused, match="no ReLU lies between"):
        attributed(module, "guided", ("after.2",))
    with pytest.raises(Refused, match="SiLU"):
        attributed(module, "deconvnet")


@pytest.mark.parametrize("other", [torch.tanh, nn.Identity()], ids=["tanh", "linear"])
def test_a_rule_without_any_relu_is_refused(other: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(Refused, match="no ReLU") as refusal:
        attributed(Around(other, last=nn.Identity()), "deconvnet")
    assert "plain gradient" in refusal.value.next_step


def test_a_relu_that_python_never_calls_is_refused() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.RNNCell(42, 2, nonlinearity="relu", dtype=torch.float64)

        def forward(self, value: Tensor) -> Tensor:
            return self.cell(value.flatten(1).relu())

    with pytest.raises(Refused, match="a ReLU that no Python code calls"):
        attributed(Recurrent(), "guided")


@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
def test_a_rule_leaves_frozen_weights_and_functional_layers_alone(rule: str) -> None:
    module = Around(F.relu)
    expected, _ = attributed(module, rule)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    assert torch.equal(attributed(module, rule)[0], expected)
    # A functional call is asked for: both of the trace's modes are entered.
    with Trace(module, ["relu@1"], gradients=True, relu_rule=rule) as trace:
        output = trace.run(image(), stop=False)
        assert torch.equal(trace.gradients(output[:, 0].sum(), ["input"])["input"], expected)
        assert torch.equal(trace["relu@1"].mean((2, 3)), output)
