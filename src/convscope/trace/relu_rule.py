"""The published ways of sending a gradient backwards through ReLU that are not its derivative, for every spelling.

A rule replaces the operation, not a module: ``nn.ReLU``, ``F.relu``, ``relu_``, ``clamp(min=0)``, ``threshold(0, 0)``,
``maximum(x, 0)`` are one and the same. A ReLU that is cut off above (ReLU6, ``hardtanh(0, 6)``, ``clamp(0, 6)``) is a
gate of ones and zeros too, so the rules hold for it as they stand: with the gate 0 < x < 6.

Two of them explain an image. The third, "redirected", only helps an ascent to begin: it is asked for nothing but a way
out of where the gradient is zero, so unlike those it is also used in networks that have other nonlinearities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ReluRule = Literal["deconvnet", "guided", "redirected"]

# Torch's own names of the arguments, by the function's name without the marks of in-place forms.
_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "relu": ("input", "inplace"),
    "relu6": ("input", "inplace"),
    "threshold": ("input", "threshold", "value", "inplace"),
    "hardtanh": ("input", "min_val", "max_val", "inplace"),
    "clamp": ("input", "min", "max"),
    "clip": ("input", "min", "max"),
    "clamp_min": ("input", "min"),
    "maximum": ("input", "other"),
    "max": ("input", "other"),
}
SPELLINGS = frozenset(_ARGUMENTS)
"""Names of functions, and in lower case of modules, that may compute ReLU."""


@dataclass(frozen=True, eq=False)
class Rectification:
    """One call that computes ``min(max(input, 0), high)``; ``high`` None is ReLU itself."""

    input: Tensor
    high: float | None = None
    in_place: bool = False

    @classmethod
    def of(cls, name: str, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> Rectification | None:
        """What a torch function of that name computes, if it is one.

        >>> Rectification.of("clamp_", (torch.ones(1), 0.0), {"max": 6}).high
        6.0
        >>> Rectification.of("clamp", (torch.ones(1), -1.0, 1.0), {})
        """
        bare = name.strip("_")
        names = _ARGUMENTS.get(bare)
        if names is None or len(arguments) > len(names):
            return None
        given = {**dict(zip(names, arguments, strict=False)), **options}
        if "self" in given:
            given["input"] = given.pop("self")
        if not set(given) <= set(names) or not isinstance(given.get("input"), Tensor):
            return None
        in_place = (name.endswith("_") and not name.endswith("__")) or bool(given.get("inplace"))
        if bare in ("maximum", "max"):
            return cls._of_two(given["input"], given.get("other"))
        low, high = _bounds(bare, given)
        return cls(given["input"], high, in_place) if low == 0 and (high is None or high > 0) else None

    @classmethod
    def _of_two(cls, one: Tensor, other: Any) -> Rectification | None:
        """The larger of a tensor and zeros, whichever comes first."""
        if not isinstance(other, Tensor):
            return None
        for value, zeros in ((one, other), (other, one)):
            constant = value.requires_grad and not zeros.requires_grad
            if constant and torch.broadcast_shapes(value.shape, zeros.shape) == value.shape and not zeros.any():
                return cls(value)
        return None

    def ruled(self, rule: ReluRule) -> Tensor:
        """The same values, with a backward pass that follows the rule."""
        output: Tensor = RuledRelu.apply(self.input, rule, self.high, self.in_place)  # type: ignore[no-untyped-call]
        return output


def _bounds(name: str, given: Mapping[str, Any]) -> tuple[float | None, float | None]:
    if name == "relu":
        return 0.0, None
    if name == "relu6":
        return 0.0, 6.0
    if name == "threshold":
        zero = _number(given.get("threshold")) == 0 and _number(given.get("value")) == 0
        return (0.0 if zero else None), None
    if name == "hardtanh":
        return _number(given.get("min_val", -1.0)), _number(given.get("max_val", 1.0))
    low, high = given.get("min"), given.get("max")
    if high is not None and _number(high) is None:
        return None, None
    return _number(low), _number(high)


def _number(value: Any) -> float | None:
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 and not value.requires_grad else None
    return float(value) if isinstance(value, int | float) else None


class RuledRelu(torch.autograd.Function):
    """ReLU whose backward pass follows Zeiler & Fergus (deconvnet), Springenberg et al. (guided) or Lucid (redirected).

    With g the gradient that arrives and h where a ReLU is cut off (infinity for ReLU itself), deconvnet sends on
    max(g, 0), whatever the input was; guided sends on max(g, 0) where 0 < input < h, and 0 elsewhere. Redirected is the
    gradient itself; for an image of which nothing gets through, it sends on g where that leads back to where the gate
    is open: g > 0 where input ≤ 0, g < 0 where input ≥ h.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, rule: ReluRule, high: float | None, in_place: bool) -> Tensor:  # noqa: A002
        """ReLU itself, or ReLU cut off."""
        ctx.high = high
        # The mask, not the input: an in-place ReLU writes over the input right after.
        ctx.rule = rule
        if rule != "deconvnet":
            low = input > 0
            ctx.save_for_backward(*([low] if high is None else [low, input < high]))
        if in_place:
            ctx.mark_dirty(input)
            return input.relu_() if high is None else input.clamp_(0, high)
        return input.relu() if high is None else input.clamp(0, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """Rectify the gradient instead of, or as well as, the activation; or lead it back to where it gets through."""
        if ctx.rule == "redirected":
            return _redirected(gradients[0], *ctx.saved_tensors), None, None, None
        rectified = gradients[0].clamp(min=0)
        for open_gate in ctx.saved_tensors:
            rectified *= open_gate
        return rectified, None, None, None


def _redirected(gradient: Tensor, above: Tensor, below: Tensor | None = None) -> Tensor:
    """The gradient where the input is ``above`` 0 and ``below`` the cut; if that is nothing of an image, back there."""
    passed = gradient * above if below is None else gradient * (above & below)
    back = gradient * (above | (gradient > 0))
    if below is not None:
        back = back * (below | (gradient < 0))
    nothing = (passed == 0).flatten(1).all(dim=1).reshape(-1, *[1] * (gradient.dim() - 1))
    return torch.where(nothing, back, passed)


class RuleMode(TorchFunctionMode):
    """While it is entered, every ReLU that Python code calls has a backward pass that follows the rule."""

    def __init__(self, rule: ReluRule) -> None:
        super().__init__()
        self.rule = rule

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        options = kwargs or {}
        found = Rectification.of(getattr(func, "__name__", ""), args, options)
        if found is None or not found.input.requires_grad:
            return func(*args, **options)
        return found.ruled(self.rule)
