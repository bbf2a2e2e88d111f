"""Reading a convolution or linear layer's kernel off the arguments that torch was called with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from convscope.network.layer import Kernel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_LINEAR = ("input", "weight", "bias")


def kernel_of(
    name: str, arguments: tuple[Any, ...], options: Mapping[str, Any], parameter_names: Mapping[int, str]
) -> Kernel | None:
    """The kernel of one call of `conv2d`, `conv_transpose2d` or `linear`; None for one and three dimensions."""
    order = {"linear": _LINEAR, "conv2d": _CONVOLUTION, "conv_transpose2d": _TRANSPOSED}.get(name)
    if order is None:
        return None
    given = {**dict(zip(order, arguments, strict=False)), **options}
    weight: Tensor = given["weight"]
    parameter = parameter_names.get(id(weight))
    if name == "linear":
        return Kernel("linear", weight, given.get("bias"), parameter=parameter)
    dilation = _pair(given.get("dilation", 1))
    size = (weight.shape[2], weight.shape[3])
    operation: Literal["convolution", "transposed convolution"] = (
        "convolution" if name == "conv2d" else "transposed convolution"
    )
    return Kernel(
        operation,
        weight,
        given.get("bias"),
        stride=_pair(given.get("stride", 1)),
        padding=_padding(given.get("padding", 0), size, dilation),
        dilation=dilation,
        groups=given.get("groups", 1),
        parameter=parameter,
    )


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    values = list(value)
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


def _padding(value: Any, size: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, int]:
    """Rows above and columns to the left; what torch adds below and right follows from the output's size."""
    if value == "valid":
        return 0, 0
    if value == "same":
        return dilation[0] * (size[0] - 1) // 2, dilation[1] * (size[1] - 1) // 2
    return _pair(value)
