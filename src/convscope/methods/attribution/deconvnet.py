"""Deconvnet: a unit's or class's activity sent back to the pixels by Zeiler & Fergus's unpool, rectify, filter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from convscope.methods.attribution.attribution import AXES, Attributed, Attribution, Told, each_image, nobody, places
from convscope.methods.graph import upstream
from convscope.trace.upstream import may_rectify, named_rectifiers, never_rectified, otherwise_rectified

if TYPE_CHECKING:
    from convscope.errors import ConvscopeError
    from convscope.methods.attribution.seed import BoundSeed
    from convscope.methods.base import Target
    from convscope.network.batch import Batch
    from convscope.network.network import Network
    from convscope.trace import ReluRule


@dataclass(frozen=True)
class Rectified(Attribution):
    """Base of the methods that send a seed backwards through the network by a rule for ReLU."""

    class_sensitive: ClassVar[bool] = False
    rule: ClassVar[ReluRule]

    def refusal(self, network: Network, target: Target) -> ConvscopeError | None:
        """What rectifies otherwise on the way, or that nothing does, as far as the layer table tells by name; the graph
        itself is asked later.
        """
        if target.layer is None and isinstance(self.objective, str) and self.objective.strip().startswith("unit:"):
            return None
        kinds = [call.kind for call in upstream(network, target.layer)]
        others = named_rectifiers(kinds)
        if others:
            return otherwise_rectified(self.rule, others)
        return None if may_rectify(kinds) else never_rectified(self.rule)

    def attribute(self, network: Network, bound: BoundSeed, batch: Batch, told: Told = nobody) -> Attributed:
        """One forward pass, and one backward pass by the rule."""
        found = bound.differentiate(network, batch, relu_rule=self.rule)
        told(1, 1)
        return Attributed(
            found.gradient.to("cpu", torch.float32),
            each_image(found.values, len(batch)),
            found.labels,
            {"place": places(found.choice, len(batch))},
            {"place": AXES["place"]},
        )


@dataclass(frozen=True)
class Deconvnet(Rectified):
    """What in each image a unit's strongest place rests on, by the deconvolutional network of Zeiler & Fergus: every
    max pooling is undone at the switches of this image, every ReLU rectifies what comes back, every convolution is
    turned around. A ReLU cut off above (ReLU6) rectifies what comes back in the same way.

    Arrays: ``attribution`` [image, channel, row, column], per unit of the seed, which is 1 at ``place``; ``map``
    [image, row, column], its channels reduced; ``picture`` [image, row, column, color], what the network saw, 0 to 255;
    ``place`` [image, coordinate], the row and column of the seed in the unit's map, -1 where it has no single place.

    Where pools overlap, what returns to one place is added up. Batch normalization, average pooling and skips, which
    the paper has not, are differentiated as usual, and so are gates of sigmoid. Refused where anything else rectifies
    (SiLU, GELU, leaky ReLU …) or no ReLU is on the way.

    Misleads when: it is read as evidence for a class. It recovers much of the image whatever class is asked for, and
    with random weights, too: read it as the pattern in this image that reaches the unit.
    """

    name: ClassVar[str] = "deconvnet"
    title: ClassVar[str] = "Deconvnet"
    papers: ClassVar[tuple[str, ...]] = ("zeiler2014visualizing", "nie2018theoretical", "adebayo2018sanity")
    formula: ClassVar[str] = "backwards through ReLU: g ← max(g, 0)"
    caveat: ClassVar[str] = (
        "Shows the pattern in this image that reaches a unit, not evidence for a class: it hardly depends on the "
        "class, and much of it is there with random weights."
    )
    rule: ClassVar[ReluRule] = "deconvnet"
