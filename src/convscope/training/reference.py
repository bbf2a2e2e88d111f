"""What every layer makes of the same few images, again and again while the network trains.

The pass runs in evaluation mode between two steps and leaves everything as it found it: the state of every random
number generator, BatchNorm's statistics, training flags, gradients.
"""

from __future__ import annotations

import random
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import Context
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from convscope.errors import ConvscopeError, Refused, UnknownName
from convscope.methods.backward import backward, mini_batches
from convscope.methods.base import Target
from convscope.methods.maps import AXES, Maps, map_meta, statistics
from convscope.methods.objective import Objective
from convscope.methods.ranges import not_finite
from convscope.training.watched import matches
from convscope.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn

    from convscope.methods.objective import BoundObjective, ObjectiveLike
    from convscope.network.batch import Batch
    from convscope.network.layer import Layer
    from convscope.network.network import Network

COMPILED = (
    "Computed without the compiler, in evaluation mode: the compiled network's own values may differ in their last "
    "digits."
)


@dataclass(eq=False)
class Measured:
    """One pass over the reference images: each layer's outputs and their gradients, and the loss of each image."""

    outputs: dict[str, list[torch.Tensor]]
    gradients: dict[str, list[torch.Tensor]]
    sizes: list[int]
    values: list[float]
    labels: list[int]


@dataclass(frozen=True, eq=False)
class Reference:
    """The images, the layers whose maps are recorded, and the loss whose gradient is shown beside them.

    ``without`` says why there are no gradients, or is empty; ``left_out`` are layers too large to record.
    """

    network: Network
    batch: Batch
    layers: tuple[Layer, ...]
    objective: BoundObjective | None
    without: str
    left_out: tuple[str, ...]

    @classmethod
    def of(
        cls,
        network: Network,
        batch: Batch,
        *,
        patterns: Sequence[str] | None = None,
        objective: ObjectiveLike = "loss",
        most_values: int = 2**20,
    ) -> Reference:
        """Check the images and the objective against the network, and choose the layers.

        Without ``patterns`` these are all calls of modules that have units, as long as all their maps together hold at
        most ``most_values`` numbers; layers with weights first, small ones before large ones.
        """
        with plainly(network.module):
            layers, left_out = _choose(network, len(batch), patterns, most_values)
            try:
                bound, without = Objective.parse(objective).bind(network, batch), ""
            except Refused as error:
                bound, without = None, error.what
        return cls(network, batch, layers, bound, without, left_out)

    def measure(self) -> Measured:
        """One forward and one backward pass over the images, leaving no trace of itself."""
        # In a context of its own: whoever watches the training's progress isn't told of this, and can't cancel it.
        with plainly(self.network.module):
            return Context().run(self._measure)

    def _measure(self) -> Measured:
        addresses = [layer.address for layer in self.layers]
        found = Measured({name: [] for name in addresses}, {name: [] for name in addresses}, [], [], [])
        batch = replace(self.batch, tensor=self.batch.tensor.to(self.network.device, self.network.dtype))
        if self.objective is None:
            for start, stop, part in mini_batches(self.network, batch, "maps"):
                with self.network.trace(addresses) as trace:
                    trace.run(part.tensor)
                    for name in addresses:
                        found.outputs[name].append(trace[name])
                found.sizes.append(stop - start)
            return found
        for step in backward(self.network, self.objective, batch, addresses, message="maps"):
            for name in addresses:
                found.outputs[name].append(step.outputs[name])
                found.gradients[name].append(step.gradients[name])
            found.sizes.append(step.stop - step.start)
            found.values += step.values
            found.labels += step.labels
        return found

    def view(self, layer: Layer, measured: Measured) -> View:
        """The maps of one layer as ``activation_gradients`` shows them, and each unit's statistics."""
        target = Target(layer)
        maps, gradients = Maps(target, layer), Maps(target, layer)
        for size, output in zip(measured.sizes, measured.outputs[layer.address], strict=True):
            maps.add(output, size)
        array = maps.array()
        arrays = {"map": array, **statistics(array)}
        ranges = {"map": maps.range()}
        if self.objective is not None:
            for size, gradient in zip(measured.sizes, measured.gradients[layer.address], strict=True):
                gradients.add(gradient, size)
            arrays["gradient"] = gradients.array()
            with np.errstate(over="ignore", invalid="ignore"):
                squares = np.square(arrays["gradient"].astype(np.float64)).sum(axis=(2, 3))
                arrays["gradient_norm"] = np.sqrt(squares).astype(np.float32)
            ranges["gradient"] = gradients.range()
        images = len(self.batch)
        what = f" and the gradient of {self.objective.caption} with respect to them" if self.objective else ""
        compiled = [COMPILED] if is_compiled(self.network.module) else []
        meta = {
            **map_meta(target, layer),
            "caption": f"Activations of {layer.address}{what}, for {images} fixed image{'s' if images != 1 else ''}.",
            "warnings": not_finite(ranges, {"map": "activation", "gradient": "gradient"}) + compiled,
            "ranges": ranges,
            "images": list(self.batch.names),
            "without": self.without,
            **(self.objective.meta(measured.values, measured.labels, images) if self.objective else {}),
        }
        return View("maps", arrays, {name: AXES[name] for name in arrays}, meta)


def _choose(
    network: Network, images: int, patterns: Sequence[str] | None, most_values: int
) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    layers = [layer for layer in network.layers if not layer.opaque and layer.output_shape[:1] == (1,)]
    if patterns is not None:
        for pattern in patterns:
            if not any(matches(layer.address, [pattern]) for layer in layers):
                raise UnknownName(
                    f"no layer with units matches {pattern!r}", next_step="list the layers with `convscope layers`"
                )
        return tuple(layer for layer in layers if matches(layer.address, patterns)), ()
    layers = [layer for layer in layers if layer.operation == "module"]
    size = {layer.address: images * layer.units * layer.rows * layer.columns for layer in layers}
    chosen: set[str] = set()
    left = most_values
    for layer in sorted(layers, key=lambda each: (each.kernel is None, size[each.address], each.index)):
        if size[layer.address] <= left:
            chosen.add(layer.address)
            left -= size[layer.address]
    return (
        tuple(layer for layer in layers if layer.address in chosen),
        tuple(layer.address for layer in layers if layer.address not in chosen),
    )


def is_compiled(module: nn.Module) -> bool:
    """Whether the module, or one inside it, was given to torch.compile."""
    return any(
        type(each).__name__ == "OptimizedModule" or getattr(each, "_compiled_call_impl", None) is not None
        for each in module.modules()
    )


@contextmanager
def plainly(module: nn.Module) -> Iterator[None]:
    """Run a module as it is written: not compiled, in its own precision, and without using up any random numbers."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = {each.device.type for each in module.parameters()} | {"cpu"}
    with ExitStack() as stack:
        for device in sorted(devices - {"meta"}):
            stack.enter_context(torch.autocast(device, enabled=False))
        if is_compiled(module):
            stack.enter_context(_uncompiled())
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def _uncompiled() -> AbstractContextManager[Any]:
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def images_of(network: Network, images: Any, labels: Sequence[int | None] | None) -> Batch:
    """Reference images as people give them: a tensor, pictures, or a pair of images and labels."""
    if isinstance(images, tuple | list) and len(images) == 2 and labels is None and _are_labels(images[1]):
        images, labels = images
    if not len(images):
        raise ConvscopeError("there are no reference images", next_step="pass at least one, or leave out images=")
    batch = network.batch(images)
    if labels is None:
        return batch
    given = tuple(None if label is None else int(label) for label in labels)
    if len(given) != len(batch):
        raise ConvscopeError(f"{len(given)} labels for {len(batch)} images", next_step="pass one for each, or None")
    return replace(batch, labels=given)


def _are_labels(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.dim() == 1 and not value.is_floating_point()
    return isinstance(value, list | tuple) and all(each is None or isinstance(each, int) for each in value)


__all__ = ["Measured", "Reference", "images_of", "is_compiled", "plainly"]
