"""Spatial gradients: how a kernel, a weight gradient, a map or the image changes along its rows and columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from convscope.errors import ConvscopeError, Refused
from convscope.methods.backward import mini_batches
from convscope.methods.base import Method, Target, parameter
from convscope.methods.kernels import require_kernel, take, unit_chunks
from convscope.methods.maps import map_meta, require_maps
from convscope.methods.objective import HELP, Objective
from convscope.methods.ranges import Range, merge_ranges, not_finite, tensor_range, to_array
from convscope.methods.weight_gradients import ImageGradients
from convscope.methods.weights import SLICES_HELP, ChosenKernels
from convscope.view import Array, View

if TYPE_CHECKING:
    from convscope.methods.objective import ObjectiveLike
    from convscope.network.batch import Batch
    from convscope.network.network import Network
    from convscope.network.unit import Unit

_AXES = ("unit", "slice", "row", "column")


@dataclass(frozen=True)
class SpatialGradients(Method):
    """Row and column differences, and their magnitude, of a kernel, a weight gradient, a map or an image: where it has
    edges. This is the gradient of a picture along its rows and columns, not dLoss/dWeight: that is
    ``weight_gradients``.

    Arrays: ``row``, ``column`` and ``magnitude`` [unit, slice, row, column] in source units per step of one row or
    column, central differences inside and one-sided ones at the border (as numpy.gradient). Kernels keep the slices of
    ``weights``, with ``channel`` [unit, slice]; maps and images have one slice per image, and of an image the units
    are its channels.

    Misleads when: kernels are small. In a 3×3 kernel eight of nine values touch a border and are one-sided.
    """

    name: ClassVar[str] = "spatial_gradients"
    title: ClassVar[str] = "Spatial gradients"
    papers: ClassVar[tuple[str, ...]] = ("gonzalez2018digital",)
    formula: ClassVar[str] = "row[r, c] = (v[r+1, c] − v[r−1, c]) / 2, column likewise; magnitude = √(row² + column²)"
    caveat: ClassVar[str] = (
        "The derivative along rows and columns of what is drawn, not dLoss/dWeight. In a 3×3 kernel eight of the nine "
        "values touch a border, where differences are one-sided."
    )

    of: str = parameter(
        "weights",
        "what to differentiate along rows and columns",
        choices=("weights", "weight_gradients", "activations", "image"),
    )
    objective: ObjectiveLike = parameter("loss", f"for weight gradients, {HELP}")  # noqa: RUF009 - parameter() is a field()
    slices: int = parameter(9, SLICES_HELP, minimum=0)

    def resolve(self, network: Network, target: str | Unit = "") -> Target:
        """As any method's; the image itself needs no target."""
        return Target() if self.of == "image" and not str(target) else super().resolve(network, target)

    def compute(self, network: Network, target: Target, batch: Batch | None) -> View:
        """Differences of what the parameter ``of`` names."""
        if self.of != "weights" and batch is None:
            raise ConvscopeError(
                f"spatial_gradients of {self.of} needs images",
                next_step="pass images=, or --images on the command line",
            )
        if self.of == "image":
            assert batch is not None  # noqa: S101 - asked above
            meta = {"units": None, "layer": None, "caption": "Row and column differences of the prepared image."}
            return self._of_maps(batch.tensor.transpose(0, 1), slice(None), meta)
        if self.of == "activations":
            return self._of_activations(network, target, batch)
        return self._of_kernels(network, target, batch)

    def _of_activations(self, network: Network, target: Target, batch: Batch | None) -> View:
        assert batch is not None  # noqa: S101 - compute asks first
        layer = require_maps(target, 3 * len(batch))
        parts = []
        for _, _, part in mini_batches(network, batch, "activations"):
            with network.trace([layer.address]) as trace:
                trace.run(part.tensor)
                parts.append(layer.to_units(trace[layer.address]).transpose(0, 1))
        maps = torch.cat(parts, dim=1)
        units = slice(None) if target.channel is None else slice(target.channel, target.channel + 1)
        caption = f"Row and column differences of the maps of {target}."
        return self._of_maps(maps, units, map_meta(target, layer) | {"caption": caption})

    def _of_maps(self, maps: torch.Tensor, units: slice, meta: dict[str, Any]) -> View:
        """Of maps ``[unit, image, row, column]``."""
        arrays: dict[str, Array] = {}
        ranges: dict[str, Range] = {}
        for name, tensor in differences(maps.detach(), str(meta["layer"] or "the image")).items():
            arrays[name] = to_array(tensor[units])
            ranges[name] = tensor_range(tensor)
        return self._view(arrays, dict.fromkeys(arrays, _AXES), meta | {"ranges": ranges, "warnings": []})

    def _of_kernels(self, network: Network, target: Target, batch: Batch | None) -> View:
        require_kernel(network, target.layer)
        assert target.layer is not None  # noqa: S101 - require_kernel refuses it
        chosen = ChosenKernels.of(network, target, self.slices)
        source, what, more = chosen.kernels, "the kernels", {}
        check_axes(source, target.layer.address)
        if self.of == "weight_gradients":
            assert batch is not None  # noqa: S101 - compute asks first
            objective = Objective.parse(self.objective).bind(network, batch)
            found = ImageGradients.collect(network, objective, batch, target.layer)
            source = chosen.arrangement.arrange(found.mean)
            what, more = (
                f"the weight gradients (of {objective.caption})",
                objective.meta(found.values, found.labels, len(batch)),
            )
        arrays: dict[str, Array] = {"channel": chosen.arrays["channel"]}
        axes: dict[str, tuple[str, ...]] = {"channel": ("unit", "slice")}
        ranges: dict[str, list[Range]] = {"row": [], "column": [], "magnitude": []}
        for _, some in unit_chunks(source):
            for name, tensor in differences(some, target.layer.address).items():
                ranges[name].append(tensor_range(tensor))
        kept = take(source, chosen.units, chosen.order)
        for name, tensor in differences(kept, target.layer.address).items():
            arrays[name], axes[name] = to_array(tensor), _AXES
        meta = chosen.meta | {
            "caption": f"Row and column differences of {what} of {target}: not dLoss/dWeight.",
            "ranges": {name: merge_ranges(parts) for name, parts in ranges.items()},
            **more,
        }
        return self._view(arrays, axes, meta)

    def _view(self, arrays: dict[str, Array], axes: dict[str, tuple[str, ...]], meta: dict[str, Any]) -> View:
        warnings = [*meta["warnings"], *not_finite(meta["ranges"], {"magnitude": "magnitude"})]
        return View("spatial_gradients", arrays, axes, meta | {"of": self.of, "warnings": warnings})


def check_axes(values: torch.Tensor, where: str) -> None:
    """Refuse a row or column axis of size 1: there is no neighbor to differ from."""
    for axis, size in zip(("row", "column"), values.shape[-2:], strict=True):
        if size < 2:
            raise Refused(
                f"a {values.shape[-2]}×{values.shape[-1]} array has no {axis} differences: one {axis} has no neighbor",
                where=where,
                next_step="choose a layer with larger kernels or maps",
            )


def differences(values: torch.Tensor, where: str) -> dict[str, torch.Tensor]:
    """Differences along the last two axes: central inside, one-sided at the borders."""
    check_axes(values, where)
    values = values if values.is_floating_point() else values.float()
    row, column = torch.gradient(values, dim=(-2, -1))
    return {"row": row, "column": column, "magnitude": torch.hypot(row, column)}
