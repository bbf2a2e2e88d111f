"""Any layer's weight as kernels ``[unit, slice, row, column]``: which input channel a slice is, and which slices to
keep.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F

from convscope.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convscope.network.layer import Axis, Kernel, Layer
    from convscope.network.network import Network
    from convscope.view import Array

Layout = Literal["color", "slices", "templates", "vector"]

# What may stand between a map and the linear layer that reads it position by position: these move or mask nothing.
_ELEMENTWISE = frozenset(
    "Dropout dropout Dropout2d dropout2d Flatten flatten view reshape Identity contiguous ReLU relu ReLU6 relu6 "
    "LeakyReLU leaky_relu Sigmoid sigmoid Tanh tanh GELU gelu SiLU silu Hardswish hardswish BatchNorm1d".split()
)
_VECTOR_SLICES = 256
_CHUNK = 2**22


@dataclass(frozen=True)
class Arrangement:
    """How one layer's weight is read as kernels.

    ``layout``: "color" (the slices are the image's red, green and blue), "slices" (one slice per input channel),
    "templates" (a linear layer behind a flattened map: one spatial template per channel of that map), "vector" (kernels
    of one number per input channel).
    """

    operation: str
    layout: Layout
    units: int
    slices: int
    rows: int
    columns: int
    groups: int = 1
    flattened: tuple[Axis, ...] = ()
    sizes: tuple[int, ...] = ()

    @property
    def input_channels(self) -> int:
        """Channels of the layer's input, over all groups."""
        return self.slices * self.groups

    def arrange(self, weight: torch.Tensor) -> torch.Tensor:
        """A weight, or a tensor shaped like it (its gradient), as ``[unit, slice, row, column]``."""
        if self.operation == "convolution":
            return weight
        if self.operation == "transposed convolution":
            # torch keeps [channel, unit in group, row, column], the groups one after the other along channel.
            grouped: torch.Tensor = weight.unflatten(0, (self.groups, self.slices))
            return grouped.transpose(1, 2).flatten(0, 1)
        if not self.flattened:
            return weight[:, :, None, None]
        template: torch.Tensor = weight.unflatten(1, self.sizes)
        order = [1 + self.flattened.index(axis) for axis in ("channel", "row", "column")]
        return template.permute(0, *order)

    def group(self, unit: int) -> int:
        """The group that a unit belongs to."""
        return unit // (self.units // self.groups)

    def channels(self, units: torch.Tensor, order: torch.Tensor) -> Array:
        """Absolute input channels ``[unit, slice]`` of the slices ``order`` that are kept of ``units``."""
        first = torch.div(units, self.units // self.groups, rounding_mode="floor") * self.slices
        return (order + first[:, None]).to("cpu", torch.int32).numpy()

    def choose(self, slice_norm: torch.Tensor, count: int) -> torch.Tensor:
        """The slices to keep, in the order shown: ``[unit, slice]``; ``count`` 0 keeps all.

        Color stays red, green, blue. All else runs from the largest norm to the smallest, NaN as infinite because it
        is what one must see, equal norms by channel. A vector's slices are single numbers: at least 256 are kept.
        """
        if self.layout == "color":
            return torch.arange(self.slices).expand(len(slice_norm), -1)
        if self.layout == "vector" and count:
            count = max(count, _VECTOR_SLICES)
        slice_norm = slice_norm.cpu()
        infinite = torch.full_like(slice_norm, torch.inf)
        order = torch.where(slice_norm.isnan(), infinite, slice_norm).argsort(dim=1, descending=True, stable=True)
        return order[:, : count or self.slices]


def require_kernel(network: Network, layer: Layer | None) -> Kernel:
    """The layer's kernel; refuses with the nearest layers that have one."""
    if layer is None:
        raise Refused("the image has no kernel", next_step="name a layer, like layer1.0.conv1")
    if layer.kernel is not None and (layer.kernel.weight.ndim == 4 or layer.kernel.operation == "linear"):
        return layer.kernel
    near = sorted((each for each in network.layers if each.kernel), key=lambda each: abs(each.index - layer.index))
    names = " or ".join(each.address for each in near[:2])
    one_or_three = next(
        (size for size in ("1d", "3d") if size in layer.kind.lower() and "conv" in layer.kind.lower()), ""
    )
    if one_or_three:
        reason = f"a {layer.kind} slides along {one_or_three[0]} axes; kernels are shown for images, which have two"
    else:
        reason = f"{layer.kind} has no kernel: its output isn't a weighted sum with trained weights of its own"
    raise Refused(reason, where=layer.address, next_step=f"look at {names}" if names else "look at its activations")


def arrangement(network: Network, layer: Layer) -> Arrangement:
    """How the layer's weight is read as kernels; refuses a layer without a kernel."""
    kernel = require_kernel(network, layer)
    shape = tuple(kernel.weight.shape)
    if kernel.operation == "linear":
        axes, sizes = _flattened_map(network, layer, shape[1])
        if not axes:
            return Arrangement("linear", "vector", shape[0], shape[1], 1, 1)
        size = dict(zip(axes, sizes, strict=True))
        rgb = size["channel"] == 3 and _reads_image(network, layer)
        return Arrangement(
            "linear",
            "color" if rgb else "templates",
            shape[0],
            size["channel"],
            size["row"],
            size["column"],
            flattened=axes,
            sizes=sizes,
        )
    if kernel.operation == "transposed convolution":
        units, slices = shape[1] * kernel.groups, shape[0] // kernel.groups
    else:
        units, slices = shape[:2]
    color = kernel.operation == "convolution" and slices == 3 and kernel.groups == 1 and _reads_image(network, layer)
    layout: Layout = "color" if color else "vector" if shape[2:] == (1, 1) else "slices"
    return Arrangement(kernel.operation, layout, units, slices, shape[2], shape[3], kernel.groups)


def _chain(network: Network, layer: Layer) -> Iterator[Layer | None]:
    """The calls before a layer as long as each has one input, nearest first; None stands for the image."""
    inputs = layer.inputs
    while len(inputs) == 1:
        if inputs[0] == "input":
            yield None
            return
        before = layer_at(network, inputs[0])
        if before is None:
            return
        yield before
        inputs = before.inputs


def layer_at(network: Network, address: str) -> Layer | None:
    """The layer at an address; None for a call whose output has no units, which the layer table leaves out."""
    return next((layer for layer in network.layers if layer.address == address), None)


def _flattened_map(network: Network, layer: Layer, features: int) -> tuple[tuple[Axis, ...], tuple[int, ...]]:
    """Axes and sizes of the map that was flattened into a linear layer's input, in the order of flattening; or
    nothing.
    """
    if "row" in layer.axes:
        return (), ()
    for before in _chain(network, layer):
        axes: tuple[Axis, ...] = ("channel", "row", "column")
        if before is None:
            sizes: tuple[int, ...] = (network.channels, *network.image_size)
        elif before.opaque:
            return (), ()
        elif "row" in before.axes and "column" in before.axes:
            axes, sizes = tuple(before.axes[1:]), tuple(before.output_shape[1:])
        elif before.kind in _ELEMENTWISE and before.output_shape[1:] == (features,):
            continue
        else:
            return (), ()
        size = dict(zip(axes, sizes, strict=True))
        return (axes, sizes) if _product(sizes) == features and size["row"] * size["column"] > 1 else ((), ())
    return (), ()


def _reads_image(network: Network, layer: Layer) -> bool:
    """Whether the layer's input is the image, possibly normalised or rearranged: nothing with a kernel came before."""
    first = next((each for each in network.layers if each.kernel is not None), None)
    return network.channels == 3 and ("input" in layer.inputs or layer is first)


def _product(sizes: tuple[int, ...]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result


def unit_chunks(kernels: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Kernels in runs of units small enough to be copied in double precision."""
    step = max(1, _CHUNK // max(1, kernels[0].numel())) if len(kernels) else 1
    for start in range(0, len(kernels), step):
        part = slice(start, start + step)
        yield part, kernels[part]


def norms(kernels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """L2 norms, computed in float64: ``[unit]`` of whole kernels and ``[unit, slice]`` of their slices."""
    slices = torch.empty(kernels.shape[:2], dtype=torch.float64)
    for part, kernel in unit_chunks(kernels.detach()):
        slices[part] = kernel.double().square().sum(dim=(2, 3)).sqrt().cpu()
    return slices.square().sum(dim=1).sqrt(), slices


def take(kernels: torch.Tensor, units: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """``kernels[units, order]``: the chosen slices of the chosen units, as a copy."""
    return kernels.detach()[units.to(kernels.device)[:, None], order.to(kernels.device)]


def extra_padding(layer: Layer, kernel: Kernel, given: torch.Tensor, result: torch.Tensor) -> tuple[int, int]:
    """Rows and columns that torch put below and to the right beyond the kernel's own padding, from the sizes met.

    Of a convolution's input (padding "same" of an even kernel), or of a transposed convolution's output (output
    padding). Refuses an input and output that don't fit the kernel: the numbers would be those of other pixels.
    """
    extra = []
    for axis in (0, 1):
        size, found = given.shape[-2 + axis], result.shape[-2 + axis]
        stride, padding = kernel.stride[axis], kernel.padding[axis]
        reach = kernel.dilation[axis] * (kernel.weight.shape[2 + axis] - 1) + 1
        if kernel.operation == "transposed convolution":
            more = found - ((size - 1) * stride - 2 * padding + reach)
            fits = 0 <= more < max(stride, kernel.dilation[axis])
        else:
            more = (found - 1) * stride + reach - (size + 2 * padding)
            fits = -stride < more <= 1
        if not fits:
            raise Refused(
                f"an input of {tuple(given.shape[-2:])} and an output of {tuple(result.shape[-2:])} don't fit a kernel "
                f"of stride {kernel.stride}, padding {kernel.padding} and dilation {kernel.dilation}",
                where=layer.address,
                next_step="look at the activations instead",
            )
        extra.append(max(0, more))
    return extra[0], extra[1]


def kernel_gradient(layer: Layer, kernel: Kernel, given: torch.Tensor, upstream: torch.Tensor) -> torch.Tensor:
    """dObjective/dweight from one call, shaped like the weight: what it was given, and dObjective/doutput.

    convolution: ∂/∂w[u, c, r, k] = Σ over images and positions p of
    upstream[u, p] · input[c, p·stride + (r, k)·dilation − padding]
    """
    if kernel.operation == "linear":
        return upstream.reshape(-1, upstream.shape[-1]).T @ given.reshape(-1, given.shape[-1])
    transposed = kernel.operation == "transposed convolution"
    extra = extra_padding(layer, kernel, given, upstream)
    if not transposed and any(extra):
        given = F.pad(given, (0, extra[1], 0, extra[0]))
    _, gradient, _ = torch.ops.aten.convolution_backward(
        upstream,
        given,
        kernel.weight.detach(),
        None,
        kernel.stride,
        kernel.padding,
        kernel.dilation,
        transposed,
        extra if transposed else (0, 0),
        kernel.groups,
        (False, True, False),
    )
    result: torch.Tensor = gradient
    return result


def sharing_calls(network: Network, layer: Layer) -> tuple[Layer, ...]:
    """Every call that applies the same weight: the gradient of a reused kernel is the sum over all of them."""
    kernel = require_kernel(network, layer)
    if kernel.parameter is not None:
        return tuple(each for each in network.layers if each.kernel and each.kernel.parameter == kernel.parameter)
    if layer.operation == "function":
        return (layer,)
    return tuple(each for each in network.layers if each.kernel and each.path == layer.path)
