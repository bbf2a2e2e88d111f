"""Weights: the kernels of a convolution or linear layer, as they are now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from convscope.methods.base import Method, Target, parameter
from convscope.methods.kernels import Arrangement, arrangement, norms, require_kernel, take
from convscope.methods.ranges import not_finite, tensor_range, to_array
from convscope.view import Array, View

if TYPE_CHECKING:
    from convscope.network.batch import Batch
    from convscope.network.network import Network

SLICES_HELP = "how many of each unit's slices to keep, largest norm first; 0 keeps all"


@dataclass(frozen=True)
class Weights(Method):
    """The kernel of every unit: what the layer multiplies its input with. A first layer in color, others slice by
    slice.

    Arrays: ``kernel`` [unit, slice, row, column]; ``channel`` [unit, slice], the input channel each slice is applied
    to; ``bias`` [unit]; ``norm`` [unit] and ``slice_norm`` [unit, slice], L2. All in the network's own units, any real
    value. Slices run from the largest norm to the smallest, so the same place in two units is two different channels.

    Misleads when: only the first layer's kernels act on pixels. A deeper kernel acts on maps that are themselves
    mixtures, and a batch normalization behind the layer rescales it, so neither its look nor its norm says what a unit
    responds to.
    """

    name: ClassVar[str] = "weights"
    title: ClassVar[str] = "Weights"
    papers: ClassVar[tuple[str, ...]] = ("krizhevsky2012imagenet", "lecun1998gradient")
    formula: ClassVar[str] = (
        "y[u, p] = b[u] + Σ over c, r, k of w[u, c, r, k] · x[c, p·stride + (r, k)·dilation − padding]"
    )
    caveat: ClassVar[str] = (
        "Only first-layer kernels act on pixels. Deeper slices act on maps that are mixtures themselves, and a "
        "normalization behind the layer rescales them: compare within a layer, not between layers."
    )

    slices: int = parameter(9, SLICES_HELP, minimum=0)

    def compute(self, network: Network, target: Target, batch: Batch | None) -> View:  # noqa: ARG002 - needs no images
        """The weight as it is now; no image and no forward pass beyond the layer table's."""
        chosen = ChosenKernels.of(network, target, self.slices)
        return View("kernels", chosen.arrays, chosen.axes, chosen.meta)


@dataclass(frozen=True, eq=False)
class ChosenKernels:
    """The units and slices of a layer that a View keeps, with the arrays that describe them; shared with the
    gradients.
    """

    arrangement: Arrangement
    kernels: torch.Tensor  # all of them, [unit, slice, row, column]
    units: torch.Tensor  # those kept
    order: torch.Tensor  # [unit kept, slice kept]
    arrays: dict[str, Array]
    axes: dict[str, tuple[str, ...]]
    meta: dict[str, Any]

    @classmethod
    def of(cls, network: Network, target: Target, count: int) -> ChosenKernels:
        """Choose ``count`` slices of each unit of the target; a single unit keeps all of them."""
        kernel = require_kernel(network, target.layer)
        assert target.layer is not None  # noqa: S101 - require_kernel refuses it
        layout = arrangement(network, target.layer)
        kernels = layout.arrange(kernel.weight.detach())
        norm, slice_norm = norms(kernels)
        units = torch.arange(layout.units) if target.channel is None else torch.tensor([target.channel])
        order = layout.choose(slice_norm[units], 0 if target.channel is not None else count)
        arrays = {
            "kernel": to_array(take(kernels, units, order)),
            "channel": layout.channels(units, order),
            "norm": to_array(norm[units]),
            "slice_norm": to_array(slice_norm[units].gather(1, order)),
        }
        axes: dict[str, tuple[str, ...]] = {
            "kernel": ("unit", "slice", "row", "column"),
            "channel": ("unit", "slice"),
            "norm": ("unit",),
            "slice_norm": ("unit", "slice"),
        }
        ranges = {"kernel": tensor_range(kernels), "norm": tensor_range(norm), "slice_norm": tensor_range(slice_norm)}
        if kernel.bias is not None:
            arrays["bias"], axes["bias"] = to_array(kernel.bias.detach()[units.to(kernel.bias.device)]), ("unit",)
            ranges["bias"] = tensor_range(kernel.bias)
        shown = order.shape[1]
        meta = {
            "caption": _caption(str(target), layout, shown),
            "warnings": not_finite(ranges, {"kernel": "weight", "bias": "bias"}) + _computed(kernel.parameter),
            "ranges": ranges,
            "layer": target.layer.address,
            "units": None if target.channel is None else [target.channel],
            "layout": layout.layout,
            "input_channels": layout.input_channels,
            "kernel_size": [layout.rows, layout.columns],
            "groups": layout.groups,
            "slices": {"shown": shown, "of": layout.slices},
        }
        return cls(layout, kernels, units, order, arrays, axes, meta)


def _caption(target: str, layout: Arrangement, shown: int) -> str:
    what = {
        "color": f"Kernels of {target} in color, as they act on the image's red, green and blue",
        "slices": f"Kernels of {target}, one slice per input channel",
        "templates": f"Weights of {target} as templates over the map that was flattened",
        "vector": f"Kernels of {target}, one number per input channel",
    }[layout.layout]
    part = "" if shown == layout.slices else f"; the {shown} slices of largest norm of {layout.slices}"
    return f"{what}{part}."


def _computed(name: str | None) -> list[str]:
    if name is not None:
        return []
    return [
        "This weight is computed during the forward pass; shown is what the layer was applied with, not a parameter."
    ]
