"""Activation gradients: how a loss, a class score or a unit would change with each value of a layer's maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from convscope.methods.backward import backward
from convscope.methods.base import Method, Target, parameter
from convscope.methods.maps import AXES, Maps, map_meta, require_maps, statistics
from convscope.methods.objective import HELP, Objective
from convscope.methods.ranges import not_finite
from convscope.view import View

if TYPE_CHECKING:
    from convscope.methods.objective import ObjectiveLike
    from convscope.network.batch import Batch
    from convscope.network.network import Network


@dataclass(frozen=True)
class ActivationGradients(Method):
    """The maps of a layer call and, beside them, the gradient of an objective with respect to every value of them.
    Where it is positive, a little more activation would raise the objective.

    Arrays: those of ``activations``, and ``gradient`` [image, unit, row, column], of each image's own objective (not
    divided by the number of images), in objective per activation; ``gradient_norm`` [image, unit], L2. Backward through
    ReLU and batch normalization as in evaluation mode.

    Misleads when: it is read as importance. It is the slope at this image only: a saturated unit can matter and have no
    slope, and a loss of a confidently classified image has hardly any anywhere.
    """

    name: ClassVar[str] = "activation_gradients"
    title: ClassVar[str] = "Activation gradients"
    papers: ClassVar[tuple[str, ...]] = ("simonyan2013deep", "rumelhart1986learning")
    needs: ClassVar = ("images",)
    formula: ClassVar[str] = "g[u, p] = ∂objective / ∂a[u, p]"
    caveat: ClassVar[str] = (
        "A slope at this very image, not importance: saturated units can matter without one, and the loss of a "
        "confidently classified image is flat everywhere (then choose the score)."
    )

    objective: ObjectiveLike = parameter("loss", HELP)  # noqa: RUF009 - parameter() is a field()

    def compute(self, network: Network, target: Target, batch: Batch | None) -> View:
        """One forward and backward pass over the images, in mini-batches."""
        assert batch is not None  # noqa: S101 - `needs` says so
        layer = require_maps(target, 2 * len(batch))
        objective = Objective.parse(self.objective).bind(network, batch)
        maps, gradients = Maps(target, layer), Maps(target, layer)
        values: list[float] = []
        labels: list[int] = []
        for step in backward(network, objective, batch, [layer.address], message="activation gradients"):
            maps.add(step.outputs[layer.address], step.stop - step.start)
            gradients.add(step.gradients[layer.address], step.stop - step.start)
            values += step.values
            labels += step.labels
        array, gradient = maps.array(), gradients.array()
        norm = np.sqrt(np.square(gradient.astype(np.float64)).sum(axis=(2, 3))).astype(np.float32)
        arrays = {"map": array, "gradient": gradient, **statistics(array), "gradient_norm": norm}
        ranges = {"map": maps.range(), "gradient": gradients.range()}
        independent = ranges["gradient"]["minimum"] == ranges["gradient"]["maximum"] == 0
        meta = {
            **map_meta(target, layer),
            "caption": f"Activations of {target} and the gradient of {objective.caption} with respect to them, "
            f"each of {len(batch)} image{'s' if len(batch) != 1 else ''} on its own.",
            "warnings": not_finite(ranges, {"map": "activation", "gradient": "gradient"})
            + ([f"The gradient is exactly zero: {objective.text} doesn't depend on this layer here."] * independent),
            "ranges": ranges,
            **objective.meta(values, labels, len(batch)),
        }
        return View("maps", arrays, {name: AXES[name] for name in arrays}, meta)
