"""Layer: one call of a module or operation during the forward pass, with everything known about it before any image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from convscope.errors import Refused, UnknownName

if TYPE_CHECKING:
    import torch

    from convscope.network.receptive_field import ReceptiveField

Axis = Literal["image", "channel", "row", "column"]


@dataclass(frozen=True, eq=False)
class Kernel:
    """The weight of a convolution or linear layer as the forward pass applied it, and the geometry of its application.

    ``weight`` is what torch was called with (a parameter, or what a parametrization made of parameters):
    convolution ``[unit, channel_in_group, row, column]``, transposed convolution
    ``[channel, unit_in_group, row, column]``, linear ``[unit, channel]``. Never written to.
    """

    operation: Literal["convolution", "transposed convolution", "linear"]
    weight: torch.Tensor
    bias: torch.Tensor | None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    parameter: str | None = None  # its dotted name in module.named_parameters(), None for a computed weight


@dataclass(frozen=True, eq=False)
class Layer:
    """One call: `layer4.1.relu@1` is the second call of that module. See docs/concepts/layers.md."""

    index: int
    address: str
    path: str
    call: int
    kind: str  # torch's word: "Conv2d", "ReLU", "add", "cat", "BasicBlock"
    operation: Literal["module", "block", "function"]  # block: a module with children; function: a functional op
    depth: int
    output_shape: tuple[int, ...]  # as torch returned it for one image, image axis first
    axes: tuple[Axis, ...]  # the meaning of output_shape's axes
    parameters: int  # the module's own, with its children's for a block; 0 for a function
    inputs: tuple[str, ...]  # addresses of the calls its input came from; "input" is the image
    receptive_field: ReceptiveField
    kernel: Kernel | None = None
    overwritten: bool = False  # a later in-place operation writes over its output
    opaque: str = ""  # why its output can't be read as units, or ""
    warnings: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)  # kernel_size, stride, padding, dilation, groups …

    def _size(self, axis: Axis) -> int:
        return self.output_shape[self.axes.index(axis)] if axis in self.axes else 1

    @property
    def units(self) -> int:
        """How many channels its output has."""
        return 0 if self.opaque else self._size("channel")

    @property
    def rows(self) -> int:
        """Rows of one unit's map; 1 for a vector."""
        return self._size("row")

    @property
    def columns(self) -> int:
        """Columns of one unit's map; 1 for a vector."""
        return self._size("column")

    def check_unit(self, channel: int, position: tuple[int, int] | None = None) -> None:
        """Raise with the valid range when this layer has no such unit or neuron."""
        if self.opaque:
            raise Refused(f"{self.address} has no units: {self.opaque}", next_step="choose another layer")
        if not 0 <= channel < self.units:
            raise UnknownName(f"{self.address} has no unit {channel}", next_step=f"choose 0 to {self.units - 1}")
        if position is not None and not (0 <= position[0] < self.rows and 0 <= position[1] < self.columns):
            raise UnknownName(
                f"{self.address}:{channel} has no position {position[0]},{position[1]}",
                next_step=f"choose rows 0 to {self.rows - 1} and columns 0 to {self.columns - 1}",
            )

    def to_units(self, output: torch.Tensor) -> torch.Tensor:
        """Any output of this call as ``[image, unit, row, column]`` (a view where torch can make one)."""
        if self.opaque:
            raise Refused(f"{self.address} has no units: {self.opaque}", next_step="choose another layer")
        order = [self.axes.index(axis) for axis in ("image", "channel", "row", "column") if axis in self.axes]
        arranged = output.permute(order)
        if "row" not in self.axes:
            arranged = arranged.unsqueeze(2)
        return arranged if "column" in self.axes else arranged.unsqueeze(3)
