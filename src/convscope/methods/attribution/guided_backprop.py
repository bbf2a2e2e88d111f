"""Guided backpropagation: the gradient, of which only what is positive passes each ReLU that was open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from convscope.methods.attribution.deconvnet import Rectified

if TYPE_CHECKING:
    from convscope.trace import ReluRule


@dataclass(frozen=True)
class GuidedBackprop(Rectified):
    """The gradient at each image, but at every ReLU only what is positive goes on, and only where the ReLU was open
    (Springenberg et al.): what raised the unit along ways that raise it all the way. For a ReLU cut off above (ReLU6)
    open means 0 < x < 6; that is the rule for its gate of ones and zeros, with nothing approximated.

    Arrays: ``attribution`` [image, channel, row, column], per unit of the seed, which is 1 at ``place``; ``map``
    [image, row, column], its channels reduced; ``picture`` [image, row, column, color], what the network saw, 0 to 255;
    ``place`` [image, coordinate], the row and column of the seed in the unit's map, -1 where it has no single place.

    Everything but ReLU is differentiated as usual. Refused where anything else rectifies (SiLU, GELU, leaky ReLU …) or
    no ReLU is on the way.

    Misleads when: it is read as evidence for a class. Its crisp edges are recovered from the image whatever class is
    asked for, and with random weights, too.
    """

    name: ClassVar[str] = "guided_backprop"
    title: ClassVar[str] = "Guided backpropagation"
    papers: ClassVar[tuple[str, ...]] = ("springenberg2015striving", "nie2018theoretical", "adebayo2018sanity")
    formula: ClassVar[str] = "backwards through ReLU: g ← [x > 0] · max(g, 0)"
    caveat: ClassVar[str] = (
        "Crisp because it recovers edges of the image: it hardly depends on the class, and much of it is there with "
        "random weights."
    )
    rule: ClassVar[ReluRule] = "guided"
