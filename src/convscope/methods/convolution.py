"""Convolution: how one number came to be, and how every position's share makes up the kernel's weight gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from convscope.errors import Refused
from convscope.methods.backward import Step, backward
from convscope.methods.base import Method, Target, parameter
from convscope.methods.kernels import Arrangement, arrangement, extra_padding, require_kernel, sharing_calls
from convscope.methods.objective import HELP, Objective
from convscope.methods.ranges import finite, not_finite, tensor_range, to_array
from convscope.view import View

if TYPE_CHECKING:
    from convscope.methods.objective import ObjectiveLike
    from convscope.network.batch import Batch
    from convscope.network.layer import Kernel, Layer
    from convscope.network.network import Network
    from convscope.view import Array

_AXES: dict[str, tuple[str, ...]] = {
    "input": ("channel", "row", "column"),
    "channel": ("channel",),
    "kernel": ("channel", "row", "column"),
    "bias": ("unit",),
    "output": ("row", "column"),
    "upstream": ("row", "column"),
    "weight_gradient": ("channel", "row", "column"),
    "share_norm": ("row", "column"),
    "patch": ("channel", "row", "column"),
    "patch_row": ("row",),
    "patch_column": ("column",),
    "product": ("channel", "row", "column"),
    "channel_sum": ("channel",),
    "result": ("unit",),
    "share": ("channel", "row", "column"),
}


@dataclass(frozen=True)
class Convolution(Method):
    """How one number of one unit's map came to be: the input patch, the kernel, their products, the sum per channel,
    the bias, the result. And the way back: every position's share of the kernel's gradient, which add up because all
    positions use the same weights.

    Arrays: ``input`` [channel, row, column], the unit's group only; ``channel`` [channel], its absolute input
    channels; ``kernel`` [channel, row, column]; ``bias`` [unit], of this one unit; ``output`` and ``upstream`` [row,
    column], what the network computed and d objective / d output; ``share_norm`` [row, column], L2 of each position's
    share; ``weight_gradient`` [channel, row, column], the sum of all shares, of this call only. With a position also
    ``patch``, ``product``, ``share`` [channel, row, column], ``channel_sum`` [channel], ``result`` [unit], and
    ``patch_row`` [row], ``patch_column`` [column]: the input row and column of each of the patch's, -1 where it is
    padding.

    Misleads when: a module is called several times. Training sums the gradient over the calls; this is one call's.
    """

    name: ClassVar[str] = "convolution"
    title: ClassVar[str] = "Convolution, step by step"
    papers: ClassVar[tuple[str, ...]] = ("lecun1998gradient",)
    target: ClassVar = "unit"
    needs: ClassVar = ("images",)
    formula: ClassVar[str] = "y[p] = b + Σ w · patch(p);  ∂L/∂w = Σ over p of ∂L/∂y[p] · patch(p)"
    caveat: ClassVar[str] = (
        "One image and one call of the layer: training adds up all images, and all calls where a module is used again."
    )

    objective: ObjectiveLike = parameter("loss", HELP)  # noqa: RUF009 - parameter() is a field()

    def compute(self, network: Network, target: Target, batch: Batch | None) -> View:
        """One forward and backward pass with one image; products and sums in float64."""
        assert batch is not None  # noqa: S101 - `needs` says so
        layer = target.layer
        kernel = require_kernel(network, layer)
        assert layer is not None  # noqa: S101 - require_kernel refuses it
        assert target.channel is not None  # noqa: S101 - a unit method always has one
        if len(batch) != 1:
            raise Refused(f"the step-through follows one image, not {len(batch)}", next_step="choose one image")
        objective = Objective.parse(self.objective).bind(network, batch)
        (step,) = backward(network, objective, batch, [layer.address], message="convolution", inputs=True)
        window = Window.of(network, layer, kernel, target.channel, step)
        arrays = window.arrays()
        if target.position is not None:
            arrays |= window.at(*target.position)
        ranges: dict[str, Any] = {
            "output": tensor_range(layer.to_units(step.outputs[layer.address])),
            "upstream": tensor_range(layer.to_units(step.gradients[layer.address])),
        }
        calls = [call.address for call in sharing_calls(network, layer)]
        meta = {
            "caption": f"How {target} came to be for {batch.names[0]}, and how each position pulls on its kernel "
            f"through {objective.caption}.",
            "warnings": not_finite(ranges, {"output": "output", "upstream": "upstream gradient"})
            + _shared(calls)
            + window.disagreement(),
            "ranges": ranges,
            "layer": layer.address,
            "units": [target.channel],
            "position": None if target.position is None else list(target.position),
            "operation": kernel.operation,
            "layout": window.arrangement.layout,
            "kernel_size": list(window.kernel.shape[1:]),
            "stride": list(kernel.stride),
            "padding": list(kernel.padding),
            "dilation": list(kernel.dilation),
            "groups": kernel.groups,
            "padding_value": 0.0,
            "calls": calls,
            **objective.meta(step.values, step.labels, 1),
        }
        return View("convolution", arrays, {name: _AXES[name] for name in arrays}, meta)


def _shared(calls: list[str]) -> list[str]:
    if len(calls) < 2:
        return []
    return [
        f"This kernel is used in {len(calls)} calls ({', '.join(calls)}); the shares here are those of one of them."
    ]


@dataclass(frozen=True, eq=False)
class Window:
    """One unit's kernel sliding over its group's input, whatever the layer: all in float64.

    A transposed convolution is the same sliding sum over its input with ``stride - 1`` zeros put between the pixels,
    with the kernel turned around; a linear layer is one window that covers the whole input, or a 1×1 kernel at each
    position.
    """

    arrangement: Arrangement
    given: torch.Tensor  # [channel, row, column]
    canvas: torch.Tensor  # given with zeros around (and between) it
    rows: torch.Tensor  # the input row that each canvas row is, -1 where it is a zero put there
    columns: torch.Tensor
    kernel: torch.Tensor  # [channel, row, column], as stored
    bias: torch.Tensor | None
    stride: tuple[int, int]
    dilation: tuple[int, int]
    turned: bool
    output: torch.Tensor
    upstream: torch.Tensor
    channels: Array

    @classmethod
    def of(cls, network: Network, layer: Layer, kernel: Kernel, unit: int, step: Step) -> Window:
        """The window of one unit, from what was recorded of one image."""
        layout = arrangement(network, layer)
        output = layer.to_units(step.outputs[layer.address])[0, unit].double().cpu()
        upstream = layer.to_units(step.gradients[layer.address])[0, unit].double().cpu()
        first = layout.group(unit) * layout.slices
        given = _given(layer, layout, step.inputs[layer.address])[first : first + layout.slices].double().cpu()
        spread, before, after = (1, 1), (0, 0), (0, 0)
        turned = kernel.operation == "transposed convolution"
        if kernel.operation != "linear":
            extra = extra_padding(layer, kernel, step.inputs[layer.address], step.outputs[layer.address])
            before = kernel.padding
            if turned:
                size = kernel.weight.shape[2:]
                before = (
                    kernel.dilation[0] * (size[0] - 1) - kernel.padding[0],
                    kernel.dilation[1] * (size[1] - 1) - kernel.padding[1],
                )
                spread = kernel.stride
            after = (before[0] + extra[0], before[1] + extra[1])
        rows = _places(given.shape[1], spread[0], before[0], after[0])
        columns = _places(given.shape[2], spread[1], before[1], after[1])
        canvas = given[:, rows.clamp(min=0)][:, :, columns.clamp(min=0)]
        # Zeros are put there, not multiplied in: NaN times zero would be NaN.
        canvas = canvas.masked_fill((rows < 0)[:, None] | (columns < 0), 0.0)
        return cls(
            layout,
            given,
            canvas,
            rows,
            columns,
            layout.arrange(kernel.weight.detach())[unit].double().cpu(),
            None if kernel.bias is None else kernel.bias.detach()[unit].double().cpu(),
            (1, 1) if turned or kernel.operation == "linear" else kernel.stride,
            (1, 1) if kernel.operation == "linear" else kernel.dilation,
            turned,
            output,
            upstream,
            np.arange(first, first + layout.slices, dtype=np.int32),
        )

    def _patches(self) -> torch.Tensor:
        """Every position's patch, ``[row, column, channel, row, column]``; a view of the canvas."""
        rows, columns = self.output.shape
        _, kernel_rows, kernel_columns = self.kernel.shape
        channel, row, column = self.canvas.stride()
        return self.canvas.as_strided(
            (rows, columns, len(self.canvas), kernel_rows, kernel_columns),
            (
                row * self.stride[0],
                column * self.stride[1],
                channel,
                row * self.dilation[0],
                column * self.dilation[1],
            ),
        )

    def _turn(self, patch: torch.Tensor) -> torch.Tensor:
        return patch.flip(-2, -1) if self.turned else patch

    def arrays(self) -> dict[str, Array]:
        """What doesn't depend on a position."""
        gradient = torch.zeros_like(self.kernel)
        square = torch.empty_like(self.output)
        patches = self._patches()
        for row in range(len(self.output)):
            gradient += torch.einsum("q,qcij->cij", self.upstream[row], patches[row])
            square[row] = patches[row].square().sum(dim=(1, 2, 3))
        found = {
            "input": self.given,
            "kernel": self.kernel,
            "output": self.output,
            "upstream": self.upstream,
            "weight_gradient": self._turn(gradient),
            "share_norm": self.upstream.abs() * square.sqrt(),
        }
        arrays = {name: to_array(tensor) for name, tensor in found.items()}
        arrays["channel"] = self.channels
        if self.bias is not None:
            arrays["bias"] = to_array(self.bias.reshape(1))
        return arrays

    def at(self, row: int, column: int) -> dict[str, Array]:
        """How the value at one position came to be, and this position's share of the weight gradient."""
        patch = self._turn(self._patches()[row, column])
        product = patch * self.kernel
        channel_sum = product.sum(dim=(1, 2))
        found = {
            "patch": patch,
            "product": product,
            "channel_sum": channel_sum,
            "result": (channel_sum.sum() + (0.0 if self.bias is None else self.bias)).reshape(1),
            "share": self.upstream[row, column] * patch,
        }
        _, kernel_rows, kernel_columns = self.kernel.shape
        across = self.rows[row * self.stride[0] + torch.arange(kernel_rows) * self.dilation[0]]
        along = self.columns[column * self.stride[1] + torch.arange(kernel_columns) * self.dilation[1]]
        return {name: to_array(tensor) for name, tensor in found.items()} | {
            "patch_row": (across.flip(0) if self.turned else across).numpy().astype(np.int32),
            "patch_column": (along.flip(0) if self.turned else along).numpy().astype(np.int32),
        }

    def disagreement(self) -> list[str]:
        """A warning when the recorded output isn't the sum shown: then the layer does more than its kernel says."""
        kernel = self.kernel.flip(-2, -1) if self.turned else self.kernel
        result = F.conv2d(self.canvas[None], kernel[None], stride=self.stride, dilation=self.dilation)[0, 0]
        result = result if self.bias is None else result + self.bias
        both = torch.isfinite(result) & torch.isfinite(self.output)
        if not both.any():
            return []
        error = float((result - self.output)[both].abs().max())
        scale = float(self.output[both].abs().max()) + float(self.kernel.abs().sum() * self.canvas.abs().max()) * 1e-3
        if error <= 1e-3 * scale or finite(error) is None:
            return []
        return [
            f"The recorded output differs from the sum shown by up to {error:.2g}: the layer does more than its kernel."
        ]


def _given(layer: Layer, layout: Arrangement, given: torch.Tensor) -> torch.Tensor:
    """The first image's input as ``[channel, row, column]``."""
    if layout.operation != "linear":
        return given[0]
    if layout.flattened:
        template: torch.Tensor = given[:1].unflatten(1, layout.sizes)
        return template.permute(0, *[1 + layout.flattened.index(axis) for axis in ("channel", "row", "column")])[0]
    return layer.to_units(given)[0]


def _places(size: int, spread: int, before: int, after: int) -> torch.Tensor:
    """Which input row (or column) each canvas row is: -1 for zeros around and between. Negative padding cuts off."""
    places = torch.full(((size - 1) * spread + 1,), -1)
    places[::spread] = torch.arange(size)
    return F.pad(places, (before, after), value=-1)
