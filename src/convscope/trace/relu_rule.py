"""The two published ways of sending a gradient backwards through ReLU that are not its derivative."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

ReluRule = Literal["deconvnet", "guided"]
RELU = frozenset({"relu", "relu_"})
# Nonlinearities whose backward pass is not a gate of ones and zeros: a ReLU rule has no meaning for them.
OTHER_RECTIFIERS = frozenset(
    "relu6 hardtanh hardswish silu gelu elu celu selu leaky_relu prelu rrelu softplus mish hardsigmoid".split()
)


class RuledRelu(torch.autograd.Function):
    """ReLU whose backward pass follows Zeiler & Fergus (deconvnet) or Springenberg et al. (guided)."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, rule: ReluRule) -> Tensor:  # noqa: A002
        """ReLU itself."""
        ctx.rule = rule
        # The mask, not the input: an in-place ReLU writes over the input right after.
        ctx.save_for_backward(input > 0)
        return torch.relu(input)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Rectify the gradient instead of, or as well as, the activation."""
        (positive,) = ctx.saved_tensors
        rectified = gradients[0].clamp(min=0)
        return (rectified if ctx.rule == "deconvnet" else rectified * positive), None
