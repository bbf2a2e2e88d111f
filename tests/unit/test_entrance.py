"""What comes back to convolutions of the images is added up there, and goes to the pixels once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convscope.trace import Entrance, Trace

if TYPE_CHECKING:
    from collections.abc import Callable

WEIGHTS = torch.tensor([0.5, 2.0, -1.0], dtype=torch.float64)


class Several(nn.Module):
    """The image goes into two convolutions, one of them twice and in place, one with a computed weight, and a skip."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(2, 3, 3, stride=2, padding=1)
        self.second = nn.Conv2d(2, 3, 5, stride=2, padding=2, dilation=1, groups=1, bias=False)
        self.weight = nn.Parameter(torch.randn(3, 2, 1, 1))
        self.double()

    def forward(self, image: Tensor) -> Tensor:
        one = F.relu_(self.first(image))
        two = self.second(image).sigmoid() * self.first(image)
        three = F.conv2d(image, self.weight * 2, None, 2)
        four = F.conv2d(input=image, weight=self.first.weight, stride=2, padding=1)
        return (one * two + three + four.tanh()).mean((2, 3)) + image.square().mean((1, 2, 3))[:, None]


def passes() -> list[Tensor]:
    """Two images, each three times in a row, at two passes."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(6, 2, 7, 8, dtype=torch.float64, generator=generator) for _ in range(2)]


def added_up(module: nn.Module, weigh: Callable[[Tensor], Tensor]) -> Tensor:
    total = torch.zeros(2, 2, 7, 8, dtype=torch.float64)
    for images in passes():
        leaf = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(module(leaf)[:, 1].sum(), [leaf])
        total += weigh(gradient)
    return total


def weighed(gradient: Tensor) -> Tensor:
    return (WEIGHTS[None, :, None, None, None] * gradient.unflatten(0, (2, 3))).sum(dim=1)


def test_a_weighted_sum_over_passes_is_the_same() -> None:
    module, entrance = Several(), Entrance()
    total = torch.zeros(2, 2, 7, 8, dtype=torch.float64)
    for images in passes():
        entrance.weights = WEIGHTS
        with Trace(module, gradients=True, entrance=entrance) as trace:
            output = trace.run(images)
            assert torch.equal(output, module(images))
            total += weighed(trace.gradients(output[:, 1].sum(), ["input"])["input"])
    left = total.clone()
    total += entrance.to_pixels(total)
    expected = added_up(module, weighed)
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(left, expected)


def test_nothing_comes_through_the_first_convolution_but_once() -> None:
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True), nn.Flatten()).double()
    entrance = Entrance()
    for images in passes():
        entrance.weights = WEIGHTS
        with Trace(module, ["1"], gradients=True, entrance=entrance) as trace:
            trace.run(images, stop=True)
            assert not trace.gradients(trace["1"].sum(), ["input"])["input"].any()
    assert entrance.to_pixels(torch.zeros(2, 2, 7, 8, dtype=torch.float64)).any()
    assert len(entrance._convolutions) == 1


def test_without_passes_nothing_came() -> None:
    assert not Entrance().to_pixels(torch.ones(1, 1, 2, 2)).any()
