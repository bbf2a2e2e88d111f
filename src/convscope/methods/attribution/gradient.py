"""Gradient: how a class score, a loss or a unit would change with each pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from convscope.methods.attribution.attribution import AXES, Attributed, Attribution, Told, each_image, nobody, places
from convscope.methods.base import parameter

if TYPE_CHECKING:
    from convscope.methods.attribution.seed import BoundSeed
    from convscope.network.batch import Batch
    from convscope.network.network import Network


@dataclass(frozen=True)
class Gradient(Attribution):
    """The gradient of a class score, a loss or a unit with respect to every pixel: where it is positive, a slightly
    larger prepared value would raise the objective. With ``reduce="maximum"`` the saliency map of Simonyan et al.;
    with ``times_input`` each pixel's share in the linear model that the network is at this image.

    Arrays: ``attribution`` [image, channel, row, column], in objective per unit of the prepared image (in objective
    with ``times_input``); ``map`` [image, row, column], its channels reduced; ``picture`` [image, row, column, color],
    what the network saw, 0 to 255; ``place`` [image, coordinate], the row and column in the unit's map that the
    gradient is of, -1 where it is of no single place.

    Misleads when: it is read as importance. It is the slope at this image only: a saturated score hardly has one, and
    neighboring pixels differ wildly in deep ReLU networks (see ``smoothgrad``).
    """

    name: ClassVar[str] = "gradient"
    title: ClassVar[str] = "Gradient"
    papers: ClassVar[tuple[str, ...]] = ("simonyan2013deep",)
    formula: ClassVar[str] = "A[c, p] = ∂objective / ∂x[c, p]  (· x[c, p] with times_input)"
    caveat: ClassVar[str] = (
        "The slope at this very image, not importance: what saturates has none, and in deep ReLU networks it is noisy "
        "from pixel to pixel."
    )

    times_input: bool = parameter(False, "multiply by the prepared image: each pixel's share of a linear model")

    def attribute(self, network: Network, bound: BoundSeed, batch: Batch, told: Told = nobody) -> Attributed:
        """One forward and backward pass."""
        found = bound.differentiate(network, batch)
        values = found.gradient * batch.tensor if self.times_input else found.gradient
        told(1, 1)
        return Attributed(
            values.to("cpu", torch.float32),
            each_image(found.values, len(batch)),
            found.labels,
            {"place": places(found.choice, len(batch))},
            {"place": AXES["place"]},
        )
