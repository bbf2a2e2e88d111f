"""How the part of the image that a value depends on passes through each elementary operation.

Every tensor of a forward pass carries its *footprint*: for each of its elements, the first and last image row and
the first and last image column that can influence it. Four tensors, shaped (or broadcastable to) the tensor itself.
An elementwise operation takes the smallest first and largest last of its operands, a convolution or pooling takes
them over its window, a reduction over the reduced axes, and whatever only moves elements moves the footprint in the
same way. So skips, concatenations, shuffles, patches and attention need no special case, and every element of every
tensor has its own exact field.

Beyond a padded border a footprint is continued linearly, as if the image went on: so a receptive field has one size
everywhere, and intersecting it with the image gives the pixels that are really there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from convscope.network.footprint import Footprint, Step, compact, of_image
from convscope.network.rules import CONSTANTS, RULES, elementwise

if TYPE_CHECKING:
    from collections.abc import Mapping


class Propagation:
    """Follows footprints through the elementary operations of one forward pass with one image."""

    def __init__(self, image: Tensor) -> None:
        self._footprints: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._footprints[image] = of_image(image)

    def of(self, tensor: Tensor) -> Footprint | None:
        """The tensor's footprint; None when it doesn't depend on the image."""
        found: Footprint | None = self._footprints.get(tensor)
        return found

    def operation(self, function: Any, arguments: tuple[Any, ...], options: Mapping[str, Any], output: Any) -> None:
        """Give every output of one elementary operation its footprint."""
        outputs = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        tracked = [leaf for leaf in tree_leaves((arguments, options)) if isinstance(leaf, Tensor) and self.of(leaf)]
        if not outputs or not tracked:
            return
        name = function._overloadpacket.__name__
        if name in CONSTANTS:
            for each in outputs:
                self._footprints.pop(each, None)
            return
        rule = RULES.get(name) or RULES.get(name.removesuffix("_"))
        if rule is None and torch.Tag.pointwise in function.tags:
            rule = elementwise
        footprints: list[Footprint | None]
        if rule is None:
            footprints = [
                self._anything(tracked, each, f"`{name}` mixes positions in a way not followed") for each in outputs
            ]
        else:
            try:
                footprints = rule(Step(self.of, function, arguments, options, outputs))
            except (RuntimeError, IndexError, ValueError, TypeError) as error:
                # A rule that fails on unusual arguments must not decide whether the network opens.
                reason = f"`{name}` could not be followed here ({type(error).__name__})"
                footprints = [self._anything(tracked, each, reason) for each in outputs]
        reasons = [footprint.reason for each in tracked if (footprint := self.of(each)) and footprint.reason]
        for each, footprint in zip(outputs, footprints, strict=False):
            if footprint is None:
                continue
            if reasons and not footprint.reason:
                footprint.reason = reasons[0]
            self._write(each, footprint, in_place=any(each is argument for argument in tracked))

    def _write(self, tensor: Tensor, footprint: Footprint, *, in_place: bool) -> None:
        self._footprints[tensor] = footprint
        base = tensor._base
        if in_place and base is not None and self.of(base) is not None:
            whole = self._anything([base, tensor], base, "an in-place operation wrote through a view")
            self._footprints[base] = whole

    def _anything(self, tracked: list[Tensor], output: Tensor, reason: str) -> Footprint:
        """Every output element may depend on everything any operand depends on."""
        found = [footprint for each in tracked if (footprint := self.of(each)) is not None]
        parts = [
            torch.stack([compact(footprint.parts[index]).amin() for footprint in found]).amin().expand(output.shape)
            for index in range(4)
        ]
        return Footprint((parts[0], parts[1], parts[2], parts[3]), reason)
