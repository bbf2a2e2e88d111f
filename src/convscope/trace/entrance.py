"""Entrance: where images enter a network, so that what comes back there is added up before it goes to the pixels.

Going back through a convolution is linear. A mean over many passes (the steps of a path, noisy copies) is therefore the
same whether each pass goes back to the pixels or their weighted sum does once. With few channels and many pixels the
first convolution is the slowest one to go back through: a sixth of a whole pass in ResNet-18.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(eq=False)
class _Convolution:
    """One call of a convolution on the images: how it was made, and what has come back to its output so far."""

    function: Callable[..., Tensor]
    arguments: tuple[Any, ...]  # all but the image
    options: dict[str, Any]
    total: Tensor | None = None

    def made_by(self, function: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> bool:
        return (
            function is self.function
            and options.keys() == self.options.keys()
            and len(arguments) == len(self.arguments)
            and all(_same(one, other) for one, other in zip(arguments, self.arguments, strict=True))
            and all(_same(options[name], self.options[name]) for name in options)
        )

    def add(self, gradient: Tensor, weights: Tensor) -> None:
        """``gradient`` holds each image ``len(weights)`` times in a row."""
        times = gradient.reshape(-1, len(weights), *gradient.shape[1:])
        summed = torch.matmul(weights, times.flatten(2)).view(len(times), *gradient.shape[1:])
        self.total = summed if self.total is None else self.total.add_(summed)

    def to_pixels(self, like: Tensor) -> Tensor:
        """The sum of all that came back, at the images."""
        with torch.enable_grad():
            image = torch.zeros_like(like, requires_grad=True)
            output = self.function(image, *self.arguments, **self.options)
            (gradient,) = torch.autograd.grad(output, image, self.total)
        return gradient


def _same(one: Any, other: Any) -> bool:
    return one is other or (not isinstance(one, Tensor) and not isinstance(other, Tensor) and bool(one == other))


class Entrance:
    """Adds up ``weights[k]`` · the gradient of each image's ``k``-th copy, over any number of passes.

    Used by :class:`convscope.trace.Trace`, whose gradients with respect to the images then leave out what went through
    a convolution on the images themselves: that is here, and :meth:`to_pixels` adds it.
    """

    def __init__(self) -> None:
        self.weights = torch.ones(1)  # of the pass at hand
        self._convolutions: list[_Convolution] = []

    def convolve(
        self, function: Callable[..., Tensor], image: Tensor, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> Tensor:
        """The convolution of the images, as it is; its gradient comes here."""
        known = (each for each in self._convolutions if each.made_by(function, arguments, options))
        found = next(known, None)
        if found is None:
            found = _Convolution(function, arguments, options)
            self._convolutions.append(found)
        output: Tensor = _Diverted.apply(image, found, self.weights)  # type: ignore[no-untyped-call]
        return output

    def to_pixels(self, like: Tensor) -> Tensor:
        """What came here, at the pixels: ``[image, channel, row, column]`` as ``like`` has them."""
        total = torch.zeros_like(like)
        for each in self._convolutions:
            if each.total is not None:
                total += each.to_pixels(like)
        return total


class _Diverted(torch.autograd.Function):
    """A convolution whose gradient is kept, and goes no further."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, convolution: _Convolution, weights: Tensor) -> Tensor:
        ctx.convolution, ctx.weights = convolution, weights
        return convolution.function(image, *convolution.arguments, **convolution.options)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
        ctx.convolution.add(gradients[0], ctx.weights)
        return None, None, None


class EntranceMode(TorchFunctionMode):
    """While it is entered, convolutions of the images themselves have their gradients diverted."""

    def __init__(self, entrance: Entrance, image: Tensor) -> None:
        super().__init__()
        self.entrance = entrance
        self.image = image
        self.version = image._version

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        options = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "conv2d" and args and args[0] is self.image and self.image._version == self.version:
            weight = args[1] if len(args) > 1 else options.get("weight")
            # A weight that is computed anew in each pass would be another convolution each time.
            if isinstance(weight, Tensor) and weight.is_leaf:
                return self.entrance.convolve(func, self.image, args[1:], options)
        return func(*args, **options)
