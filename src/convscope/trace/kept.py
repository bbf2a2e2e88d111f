"""Kept: a tensor captured during a forward pass, and where its gradient will arrive."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge


@dataclass(eq=False)
class Kept:
    """A captured tensor: its value, where its gradient arrives, and torch's count of writes to it at that moment."""

    value: Tensor
    source: Tensor
    version: int
    cloned: bool
    edge: GradientEdge | None
    base: _Base | None = None

    @classmethod
    def of(cls, tensor: Tensor, *, clone: bool) -> Kept:
        """Keep a tensor as it is now; ``clone`` where something will write over it."""
        # The edge is where the gradient of this very version of the tensor arrives, even if it is written over later.
        edge = get_gradient_edge(tensor) if tensor.requires_grad else None
        base = _Base.of(tensor) if tensor.requires_grad else None
        return cls(tensor.clone() if clone else tensor, tensor, tensor._version, clone, edge, base)

    @property
    def lost(self) -> bool:
        """True when a tensor that was kept by reference has been written over."""
        return not self.cloned and self.source._version != self.version

    def release(self) -> None:
        """Keep the value and let go of the graph."""
        self.value = self.source = self.value.detach()
        self.edge = self.base = None

    def place(self) -> GradientEdge | Tensor:
        """Where the gradient with respect to the captured value arrives.

        Writing in place to a view (what a linear layer makes of rows and columns, a flatten, a chunk) gives its base a
        new history that passes the view by: the gradient then arrives at the base's old one.
        """
        if self.base is not None and self.source._version != self.version:
            return self.base.edge
        return self.edge or self.value

    def part(self, gradient: Tensor) -> Tensor:
        """The gradient with respect to the captured value, of what arrived at its place."""
        if self.base is None or self.source._version == self.version:
            return gradient
        return self.base.view(gradient)


@dataclass(frozen=True, eq=False)
class _Base:
    """The tensor that a captured view looks at: where its gradient arrives, and which part of it the view is."""

    edge: GradientEdge
    size: torch.Size
    stride: tuple[int, ...]
    part: tuple[torch.Size, tuple[int, ...], int]

    @classmethod
    def of(cls, tensor: Tensor) -> _Base | None:
        base = tensor._base
        if base is None or not base.requires_grad:
            return None
        part = (tensor.shape, tensor.stride(), int(tensor.storage_offset()) - int(base.storage_offset()))
        return cls(get_gradient_edge(base), base.shape, base.stride(), part)

    def view(self, gradient: Tensor) -> Tensor:
        laid_out = torch.empty_strided(self.size, self.stride, dtype=gradient.dtype, device=gradient.device)
        return laid_out.copy_(gradient).as_strided(*self.part).clone()
