"""The torch modules of a defined network that torch itself doesn't have, and the chain that holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator


SHORTCUT = "shortcut"


class Chain(nn.Sequential):
    """Layers one after the other, by name; while ``recording`` is a dict, each layer's output is kept in it.

    Recording this way needs no hook and changes nothing: the tensors kept are those the forward pass made.

    >>> chain = Chain()
    >>> chain.add_module("relu1", nn.ReLU())
    >>> chain.recording = {}
    >>> output = chain(torch.tensor([-1.0, 2.0]))
    >>> chain.recording["relu1"] is output
    True
    """

    recording: dict[str, Tensor] | None = None
    prefix = ""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """All layers in order."""
        result = input
        for name, layer in self._modules.items():
            if layer is not None and name != SHORTCUT:
                result = layer(result)
                if self.recording is not None:
                    self.recording[self.prefix + name] = result
        return result

    def record(self, into: dict[str, Tensor] | None) -> None:
        """Keep the outputs of this chain's layers, and of those in its residual blocks, in ``into``; None to stop."""
        for module in self.modules():
            if isinstance(module, Chain):
                module.recording = into


class Residual(Chain):
    """The sum of what its layers make of the input, and of the input itself (He et al. 2016).

    With a ``shortcut`` the input goes through that first.
    """

    def attach(self, shortcut: Chain | None) -> None:
        """Set what the input goes through on its way to the sum; after all layers were added."""
        self.add_module(SHORTCUT, shortcut)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """The sum of both paths."""
        shortcut = self._modules[SHORTCUT]
        result: Tensor = super().forward(input) + (input if shortcut is None else shortcut(input))
        return result


class Maxout(nn.Module):
    """The largest of every ``group`` neighboring channels (Goodfellow et al. 2013).

    >>> Maxout(2)(torch.tensor([[1.0, 3.0, -2.0, -5.0]]))
    tensor([[ 3., -2.]])
    """

    def __init__(self, group: int) -> None:
        super().__init__()
        self.group = group

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """One channel for each group."""
        grouped: Tensor = input.unflatten(1, (-1, self.group))
        return grouped.max(dim=2).values

    def extra_repr(self) -> str:
        """Shown in the module's text."""
        return f"group={self.group}"


class Dropout(nn.Dropout):
    """Dropout whose mask comes from a generator of its own, so that a step can be repeated bit by bit.

    ``scale_at`` "training" divides what is kept by the probability of keeping it (torch's way); "evaluation"
    multiplies everything by that probability in evaluation mode instead (the way of the paper, and of ConvNetJS at a
    probability of one half).
    """

    generator: torch.Generator | None = None

    def __init__(self, p: float = 0.5, scale_at: str = "training") -> None:
        super().__init__(p)
        self.scale_at = scale_at

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """In training mode a random part of the values is zero."""
        keep = 1.0 - self.p
        late = self.scale_at == "evaluation"
        if not self.training:
            return input * keep if late else input
        if self.generator is None:
            dropped = F.dropout(input, self.p, training=True)
            return dropped * keep if late else dropped
        # Drawn on the CPU, so that a step is the same on any device.
        mask = torch.rand(input.shape, generator=self.generator).to(input.device) < keep
        kept = torch.where(mask, input, torch.zeros((), dtype=input.dtype, device=input.device))
        return kept if late or keep == 0.0 else kept / keep

    def extra_repr(self) -> str:
        """Shown in the module's text."""
        return super().extra_repr() + (", scale_at='evaluation'" if self.scale_at == "evaluation" else "")


def dropouts(module: nn.Module) -> Iterator[Dropout]:
    """Every dropout layer in a module."""
    for each in module.modules():
        if isinstance(each, Dropout):
            yield each


__all__ = ["SHORTCUT", "Chain", "Dropout", "Maxout", "Residual", "dropouts"]
