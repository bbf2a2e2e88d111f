"""Batch normalization in evaluation mode, gone back through as what it is: one factor per channel.

Torch's own backward pass reads the maps once more for the sums that its parameters' gradients need, and keeps them for
that all the while.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_NAMES = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")


class NormalizationMode(TorchFunctionMode):
    """While it is entered, ``F.batch_norm`` with kept statistics passes gradients to its input alone.

    It does so where its parameters ask for no gradients, and with ``frozen`` also where they do: nobody wants them.
    """

    def __init__(self, *, frozen: bool) -> None:
        super().__init__()
        self.frozen = frozen

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        # By name: a library that wraps torch's functions hands us the one it wrapped, which is no longer F's own.
        if (getattr(func, "__module__", ""), getattr(func, "__name__", "")) == ("torch.nn.functional", "batch_norm"):
            given = {**dict(zip(_NAMES, args, strict=False)), **options}
            wanted = any(
                isinstance(each, Tensor) and each.requires_grad for name, each in given.items() if name != "input"
            )
            if (self.frozen or not wanted) and _fixed(given):
                output: Tensor = _Normalized.apply(given.pop("input"), given)  # type: ignore[no-untyped-call]
                return output
        return func(*args, **options)


def _fixed(given: Mapping[str, Any]) -> bool:
    """Whether it is a fixed factor and shift of each channel, and a gradient is asked for."""
    maps = given.get("input")
    if not isinstance(maps, Tensor) or not (maps.requires_grad and torch.is_grad_enabled()):
        return False
    if given.get("training", False) or given.keys() - set(_NAMES) or torch._C._are_functorch_transforms_active():
        return False
    parts = [given.get(name) for name in ("running_mean", "running_var", "weight", "bias")]
    same = all(part is None or (isinstance(part, Tensor) and part.dtype == maps.dtype) for part in parts)
    return same and parts[0] is not None and parts[1] is not None and maps.dtype in (torch.float32, torch.float64)


class _Normalized(torch.autograd.Function):
    """Forwards as torch does it; backwards, each channel times its factor."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, given: dict[str, Any]) -> Tensor:
        factor = (given["running_var"] + given.get("eps", 1e-5)).rsqrt()
        if given.get("weight") is not None:
            factor = factor * given["weight"]
        ctx.save_for_backward(factor)
        return F.batch_norm(maps, **given)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return gradients[0] * factor.reshape(-1, *[1] * (gradients[0].dim() - 2)), None
