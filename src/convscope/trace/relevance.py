"""Relevance through torch functions: what layer-wise relevance propagation does where there are no weights.

Inside :class:`RelevanceFlow` the backward pass of a torch function hands on *relevance* instead of a gradient. As with
the ReLU rules, the operation counts and not how it is spelled: module, function, in-place, operator.

- A sum of tensors that depend on the image (a skip connection), an average, a scaling: each summand gets relevance in
  proportion to its part in the sum.
- An elementwise nonlinearity or a normalization by fixed numbers hands relevance on as it is.
- What only moves values around (flatten, cat, slices, max pooling) is right as autograd has it, and left alone, as are
  functions with weights: whoever uses the flow has rules for these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from convscope.errors import Refused
from convscope.trace.call import function_name

if TYPE_CHECKING:
    from collections.abc import Callable

_STABILIZER = 1e-6
# Linear in the tensors that depend on the image; shared out in proportion.
PROPORTIONAL = frozenset(
    "add sub rsub mul div neg sum mean avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_avg_pool3d interpolate upsample".split()
)
# Elementwise; relevance passes.
PASSING = frozenset(
    "relu relu6 threshold hardtanh clamp clamp_min clamp_max clip leaky_relu prelu rrelu elu selu celu silu gelu "
    "mish softplus softsign sigmoid logsigmoid hardsigmoid hardswish hardshrink softshrink tanhshrink tanh "
    "batch_norm".split()
)
# Values moved, copied or chosen: autograd's own backward pass is the right one.
ROUTING = frozenset(
    "flatten reshape view view_as permute transpose squeeze unsqueeze unflatten contiguous clone cat concat "
    "concatenate stack chunk split tensor_split unbind getitem narrow select expand expand_as repeat movedim "
    "moveaxis swapaxes swapdims flip roll pad max_pool1d max_pool2d max_pool3d adaptive_max_pool1d "
    "adaptive_max_pool2d adaptive_max_pool3d amax dropout dropout1d dropout2d dropout3d feature_dropout "
    "alpha_dropout feature_alpha_dropout pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle to "
    "float type_as t constant_pad_nd identity".split()
)


class RelevanceFlow(TorchFunctionMode):
    """While it is entered, functions are recorded such that their backward pass hands on relevance.

    >>> a, b = torch.tensor([3.0], requires_grad=True), torch.tensor([1.0], requires_grad=True)
    >>> with RelevanceFlow():
    ...     total = torch.relu(a + b)
    >>> [round(each.item(), 4) for each in torch.autograd.grad(total, [a, b], torch.tensor([8.0]))]
    [6.0, 2.0]
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        name = getattr(func, "__name__", "")
        bare = function_name(name)
        dependent = torch.is_grad_enabled() and any(_depends(leaf) for leaf in tree_flatten((args, options))[0])
        if dependent and bare in ("rdiv", "reciprocal"):
            raise _no_rule("division by values that depend on the image")
        if not dependent or bare not in PROPORTIONAL | PASSING:
            return func(*args, **options)
        if bare in PROPORTIONAL:
            return _proportional(func, name, bare, args, options)
        return _passing(func, args, options)


def stabilized(values: Tensor) -> Tensor:
    """Moved away from 0 by a millionth, so that one can divide by it."""
    return values + _STABILIZER * torch.where(values < 0, -1.0, 1.0).to(values)


def _no_rule(what: str) -> Refused:
    return Refused(
        f"{what} has no relevance rule",
        next_step="choose a unit before it, or another method, such as the gradient",
    )


def _depends(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _proportional(
    func: Callable[..., Any], name: str, bare: str, args: tuple[Any, ...], options: dict[str, Any]
) -> Any:
    leaves, structure = tree_flatten((args, options))
    places = [index for index, leaf in enumerate(leaves) if _depends(leaf)]
    if bare == "div" and places != [0]:
        raise _no_rule("division by values that depend on the image")
    if bare == "mul" and len(places) > 1:
        raise _no_rule("a product of values that depend on the image")
    in_place = name.startswith("__i") or (name.endswith("_") and not name.endswith("__"))
    out_of_place = getattr(torch, bare) if in_place else func

    def call(*tensors: Tensor) -> Tensor:
        filled = list(leaves)
        for index, tensor in zip(places, tensors, strict=True):
            filled[index] = tensor
        given, named = tree_unflatten(filled, structure)
        output: Tensor = out_of_place(*given, **named)
        return output

    output = _Proportional.apply(call, *(leaves[index] for index in places))  # type: ignore[no-untyped-call]
    return args[0].copy_(output) if in_place else output


def _passing(func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    given = args[0] if args else options["input"]
    # On a copy: an in-place form may write to it as it likes.
    copied = given.detach().clone()
    with torch.no_grad():
        values = func(copied, *args[1:], **options) if args else func(**{**options, "input": copied})
    if not isinstance(values, Tensor) or values.shape != given.shape or not given.requires_grad:
        return func(*args, **options)
    output = _Passing.apply(given, values)  # type: ignore[no-untyped-call]
    return given.copy_(output) if values.data_ptr() == copied.data_ptr() else output


class _Proportional(torch.autograd.Function):
    """A linear function whose inputs share the output's relevance in proportion to their part in it."""

    @staticmethod
    def forward(ctx: Any, call: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """The function itself."""
        with torch.enable_grad():
            # Copies: what is written over in place later must not change the parts.
            ctx.leaves = [each.detach().clone().requires_grad_() for each in inputs]
            ctx.output = call(*ctx.leaves)
        output: Tensor = ctx.output.detach().clone()
        return output

    @staticmethod
    def backward(ctx: Any, *relevance: Tensor) -> tuple[None, *tuple[Tensor, ...]]:
        """Each input's part: its value, times how much of each output it is, times that output's relevance."""
        share = relevance[0] / stabilized(ctx.output.detach())
        gradients = torch.autograd.grad(ctx.output, ctx.leaves, share, retain_graph=True)
        return None, *(leaf.detach() * each for leaf, each in zip(ctx.leaves, gradients, strict=True))


class _Passing(torch.autograd.Function):
    """An elementwise function past which relevance goes as it is."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, values: Tensor) -> Tensor:  # noqa: ARG004 - autograd's signature
        """The values, computed before."""
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *relevance: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004 - autograd's signature
        """The relevance as it is."""
        return relevance[0], None


__all__ = ["PASSING", "PROPORTIONAL", "ROUTING", "RelevanceFlow", "stabilized"]
