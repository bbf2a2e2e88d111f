"""Backpropagation, one layer at a time: upstream gradient × local gradient = gradient, with the real numbers.

For one image, from the loss back to the image. Each layer is handed the gradient of the loss with respect to its output
(upstream). How much one number of its input, or one of its weights, changes the output is the local gradient. The
products, added up, are the gradient with respect to that number; of an input it is the upstream of the layer before.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from convscope.errors import ConvscopeError, Refused, UnknownName, suggest
from convscope.methods.ranges import tensor_range, to_array
from convscope.training.evaluation import evaluating
from convscope.training.losses import image_losses, loss_terms
from convscope.training.modules import SHORTCUT, Chain, Residual, dropouts
from convscope.view import View

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from convscope.training.spelling import Loss
    from convscope.view import Array

KIND = "backpropagation"
TERMS_KIND = "backpropagation_terms"
TERMS = 32  # of each sum, the largest; what is left out is given as one number
_MAP_AXES = ("unit", "row", "column")
_FORMULA = "dLoss/dx = Σ over outputs of dLoss/doutput × doutput/dx"


@dataclass(frozen=True, eq=False)
class LayerStep:
    """One layer's part in the backward pass of one image.

    ``given`` and ``result`` are its input and output, ``upstream`` dLoss/doutput and ``gradient`` dLoss/dinput through
    this layer, all ``[unit, row, column]`` (a vector has one row and column).
    """

    name: str
    kind: str
    module: nn.Module
    given: Tensor
    result: Tensor
    upstream: Tensor
    gradient: Tensor
    weight_gradient: Tensor | None
    as_given: torch.Size  # the shape in which the module takes its input

    def strongest(self) -> tuple[int, ...]:
        """Where dLoss/dinput is largest, the first of equals: (unit, row, column)."""
        return _place(self.gradient)

    def strongest_weight(self) -> tuple[int, ...]:
        """Where dLoss/dweight is largest, as an index of the module's own weight."""
        if self.weight_gradient is None:
            raise Refused(f"{self.name} has no weights", next_step="choose a convolution or a fully connected layer")
        return _place(self.weight_gradient)

    def terms(self, place: Sequence[int]) -> View:
        """How dLoss/dinput of the number at (unit, row, column) came about; see :meth:`weight_terms`."""
        where = _check(place, tuple(self.given.shape), f"{self.name}'s input")
        direction = torch.zeros_like(self.given)
        direction[where] = 1.0

        def forward(value: Tensor) -> Tensor:
            return as_map(self.module(value))

        local = _derivative(forward, self.given.reshape(self.as_given), direction.reshape(self.as_given))
        facts = {"of": "input", "place": list(where), "value": float(self.given[where])}
        return self._sum(local, float(self.gradient[where]), facts)

    def weight_terms(self, place: Sequence[int]) -> View:
        """How dLoss/dweight of one number of the weight came about, as a View of kind "backpropagation_terms".

        Arrays over the outputs that the number changes, the largest products first, at most 32: ``upstream``, ``local``
        and ``product`` [term], and ``place`` int32 [term, coordinate] (unit, row, column of the output). ``meta`` has
        the number's ``value``, its ``gradient``, how many ``terms`` there are, and the sum of those ``left_out``. For a
        convolution or linear layer the local gradient of a weight is the input that it met.
        """
        self.strongest_weight()  # refuses a layer without weights
        weight = self.module.get_parameter("weight").detach()
        where = _check(place, tuple(weight.shape), f"{self.name}'s weight")
        direction = torch.zeros_like(weight)
        direction[where] = 1.0

        def forward(value: Tensor) -> Tensor:
            given = self.given.reshape(self.as_given)
            result: Tensor = torch.func.functional_call(self.module, {"weight": value}, (given,))
            return as_map(result)

        local = _derivative(forward, weight, direction)
        assert self.weight_gradient is not None  # noqa: S101 - asked above
        facts = {"of": "weight", "place": list(where), "value": float(weight[where])}
        return self._sum(local, float(self.weight_gradient[where]), facts)

    def _sum(self, local: Tensor, gradient: float, facts: dict[str, Any]) -> View:
        products = self.upstream.double() * local.detach().double()
        reached = (local != 0).flatten().nonzero()[:, 0]
        flat = products.flatten()[reached]
        order = flat.abs().argsort(descending=True, stable=True)[:TERMS]
        kept = reached[order]
        places = torch.stack(torch.unravel_index(kept, products.shape), dim=1)
        arrays: dict[str, Array] = {
            "upstream": to_array(self.upstream.flatten()[kept]),
            "local": to_array(local.flatten()[kept]),
            "product": to_array(flat[order]),
            "place": places.to(torch.int32).cpu().numpy(),
        }
        axes: dict[str, tuple[str, ...]] = dict.fromkeys(arrays, ("term",)) | {"place": ("term", "coordinate")}
        meta = {
            "caption": f"Upstream × local gradient for one number of the {facts['of']} of {self.name}.",
            "layer": self.name,
            "formula": _FORMULA,
            "gradient": gradient,
            "terms": len(reached),
            "left_out": float(flat.sum() - flat[order].sum()),
            **facts,
        }
        return View(TERMS_KIND, arrays, axes, meta)


@dataclass(frozen=True, eq=False)
class Backpropagation:
    """The backward pass of one image: the loss term by term, then every layer from right to left."""

    label: int
    loss: float
    loss_terms: View
    steps: tuple[LayerStep, ...]

    def step(self, layer: str) -> LayerStep:
        """One layer's step; :class:`UnknownName` with the nearest names."""
        found = next((each for each in self.steps if each.name == layer), None)
        if found is None:
            names = [each.name for each in self.steps]
            raise UnknownName(
                f"no layer {layer[:80]!r}", next_step=suggest(layer, names) or f"choose {', '.join(names[:8])}"
            )
        return found

    def to_view(self) -> View:
        """All layers at once: kind "backpropagation".

        Arrays ``LAYER.given``, ``LAYER.result``, ``LAYER.upstream``, ``LAYER.gradient`` [unit, row, column].
        ``meta["layers"]``, from right to left: name, kind, where the gradient is largest (``strongest``), and of that
        number its first term as an example.
        """
        arrays: dict[str, Array] = {}
        ranges: dict[str, Any] = {}
        layers = []
        for each in self.steps:
            for name in ("given", "result", "upstream", "gradient"):
                tensor = getattr(each, name)
                arrays[f"{each.name}.{name}"] = to_array(tensor)
                ranges[f"{each.name}.{name}"] = tensor_range(tensor)
            weighted = each.weight_gradient is not None
            layers.append(
                {
                    "name": each.name,
                    "kind": each.kind,
                    "strongest": list(each.strongest()),
                    "strongest_weight": list(each.strongest_weight()) if weighted else None,
                }
            )
        meta = {
            "caption": "The backward pass of one image: each layer's upstream gradient, and what it hands on.",
            "formula": _FORMULA,
            "label": self.label,
            "loss": self.loss,
            "layers": layers,
            "ranges": ranges,
        }
        return View(KIND, arrays, dict.fromkeys(arrays, _MAP_AXES), meta)


def backpropagation(
    module: Chain, loss: Loss, image: Tensor, label: int, class_names: Sequence[str] = ()
) -> Backpropagation:
    """The backward pass of one prepared image ``[1, channel, row, column]`` whose class is ``label``.

    In evaluation mode: no dropout, and batch normalization by its running statistics. Leaves the module, its gradients
    and its statistics as they were.
    """
    if image.ndim != 4 or len(image) != 1:
        raise ConvscopeError("backpropagation looks at one image", next_step="pass [1, channel, row, column]")
    with evaluating(module), torch.enable_grad():
        start = image.detach().clone().requires_grad_(True)
        walked: list[tuple[str, nn.Module, Tensor, Tensor]] = []
        scores = _walk(module, start, "", walked).flatten(1)
        if not 0 <= label < scores.shape[1]:
            raise UnknownName(f"no class {label}", next_step=f"choose 0 to {scores.shape[1] - 1}")
        target = torch.tensor([label], device=scores.device)
        value = image_losses(loss, scores, target).sum()
        upstreams = torch.autograd.grad(value, [result for *_, result in walked])
        steps = [_step(*each, upstream) for each, upstream in zip(walked, upstreams, strict=True)]
    return Backpropagation(
        label, float(value.detach()), loss_terms(loss, scores, target, class_names), tuple(steps[::-1])
    )


def _walk(chain: Chain, value: Tensor, prefix: str, walked: list[tuple[str, nn.Module, Tensor, Tensor]]) -> Tensor:
    """The forward pass layer by layer, those of residual blocks too: name, module, input, output of each."""
    for name, layer in chain.named_children():
        if name == SHORTCUT:
            continue
        if isinstance(layer, Residual):
            shortcut = layer.get_submodule(SHORTCUT) if layer._modules[SHORTCUT] is not None else None
            inner = _walk(layer, value, f"{prefix}{name}.", walked)
            result = inner + (value if shortcut is None else shortcut(value))
        else:
            result = layer(value)
        walked.append((prefix + name, layer, value, result))
        value = result
    return value


def _step(name: str, module: nn.Module, given: Tensor, result: Tensor, upstream: Tensor) -> LayerStep:
    """The layer on its own: its vector-Jacobian product with the upstream gradient."""
    alone = given.detach().clone().requires_grad_(True)
    weight = dict(module.named_parameters(recurse=False)).get("weight")
    wanted = [alone] if weight is None else [alone, weight]
    gradient, *of_weight = torch.autograd.grad(module(alone), wanted, upstream)
    return LayerStep(
        name,
        type(module).__name__,
        _copied(module),
        given=as_map(given.detach()),
        result=as_map(result.detach()),
        upstream=as_map(upstream.detach()),
        gradient=as_map(gradient.detach()),
        weight_gradient=of_weight[0].detach() if of_weight else None,
        as_given=given.shape,
    )


def _derivative(function: Callable[[Tensor], Tensor], value: Tensor, direction: Tensor) -> Tensor:
    """How every output changes with ``value`` in one direction.

    The vector-Jacobian product is linear in the vector, so its own backward pass gives the Jacobian times a direction.
    """
    with torch.enable_grad():
        start = value.detach().clone().requires_grad_(True)
        result = function(start)
        vector = torch.zeros_like(result, requires_grad=True)
        (product,) = torch.autograd.grad(result, start, vector, create_graph=True)
        (along,) = torch.autograd.grad(product, vector, direction)
    return along.detach()


def _copied(module: nn.Module) -> nn.Module:
    """The layer as it is now, in evaluation mode: training goes on while somebody looks at its numbers."""
    generators = [(each, each.generator) for each in dropouts(module)]
    for each, _ in generators:
        each.generator = None
    try:
        return copy.deepcopy(module).eval()
    finally:
        for each, generator in generators:
            each.generator = generator


def as_map(tensor: Tensor) -> Tensor:
    """One image's ``[unit, row, column]``; a vector has one row and column."""
    return tensor[0] if tensor.ndim == 4 else tensor.flatten()[:, None, None]


def _place(tensor: Tensor) -> tuple[int, ...]:
    index = torch.unravel_index(tensor.abs().flatten().argmax(), tensor.shape)
    return tuple(int(each) for each in index)


def _check(place: Sequence[int], shape: tuple[int, ...], what: str) -> tuple[int, ...]:
    inside = len(place) == len(shape) and all(0 <= index < size for index, size in zip(place, shape, strict=True))
    if not inside:
        last = ", ".join(str(size - 1) for size in shape)
        raise UnknownName(f"{what} has no place {tuple(place)}", next_step=f"choose (0, …) to ({last})")
    return tuple(int(index) for index in place)


__all__ = ["Backpropagation", "LayerStep", "backpropagation"]
