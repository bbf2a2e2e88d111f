"""Max pooling on a processor in a third of the time, with the same values and gradients to the last bit.

Where maps lie one after the other, torch's kernel looks at one number at a time; where channels lie beside each other,
at as many as the processor takes at once. So maps are turned for the pooling alone and turned back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_NAMES = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_FEWEST_CHANNELS = 8  # as many float32 numbers as a processor takes at once, at least


class PoolingMode(TorchFunctionMode):
    """While it is entered, two-dimensional max pooling that Python code calls takes the faster way."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if getattr(func, "__name__", "") == "max_pool2d":
            given = {**dict(zip(_NAMES, args, strict=False)), **options}
            if _pays(given):
                return max_pooled(**{name: value for name, value in given.items() if name != "return_indices"})
        return func(*args, **options)


def _pays(given: Mapping[str, Any]) -> bool:
    """Whether it can be done the faster way, and is."""
    maps = given.get("input")
    if not isinstance(maps, Tensor) or given.get("return_indices", False) or given.keys() - set(_NAMES):
        return False
    if not maps.is_cpu or maps.dim() != 4 or maps.dtype not in (torch.float32, torch.float64):
        return False
    if maps.shape[1] < _FEWEST_CHANNELS or not maps.is_contiguous() or not maps.numel():
        return False
    return not torch._C._are_functorch_transforms_active()


def max_pooled(
    input: Tensor,  # noqa: A002 - torch's own argument name
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """What torch's ``max_pool2d`` returns for contiguous maps ``[image, channel, row, column]``.

    >>> max_pooled(torch.arange(16.0).reshape(1, 1, 4, 4), 2)
    tensor([[[[ 5.,  7.],
              [13., 15.]]]])
    """
    window = (_pair(kernel_size), _pair(kernel_size if stride is None or stride == [] else stride))
    pooled: Tensor = _Pooled.apply(input, (*window, _pair(padding), _pair(dilation), ceil_mode))  # type: ignore[no-untyped-call]
    return pooled


class _Pooled(torch.autograd.Function):
    """Forwards with channels last, backwards as torch does it with channels first, where that is the faster one."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, settings: tuple[Any, ...]) -> Tensor:
        turned = maps.contiguous(memory_format=torch.channels_last)
        values, places = torch.ops.aten.max_pool2d_with_indices(turned, *settings)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(maps, places.contiguous())
            ctx.settings = settings
        pooled: Tensor = values.contiguous()
        return pooled

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        maps, places = ctx.saved_tensors
        found = torch.ops.aten.max_pool2d_with_indices_backward(gradients[0].contiguous(), maps, *ctx.settings, places)
        return found, None


def _pair(value: Any) -> list[int]:
    return [int(value)] * 2 if isinstance(value, int) else [int(each) for each in value]
