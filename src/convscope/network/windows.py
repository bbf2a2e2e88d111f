"""Footprints through windows: convolution, pooling, padding and resizing."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convscope.network.footprint import INFINITY, Footprint, Step, compact, extend


def _window(
    part: Tensor,
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    shape: tuple[int, int],
) -> Tensor:
    """The minimum over each window of a ``[image, channel, row, column]`` part."""
    reach = [(shape[k] - 1) * stride[k] + dilation[k] * (size[k] - 1) + 1 for k in (0, 1)]
    after = (reach[0] - padding[0] - part.shape[-2], reach[1] - padding[1] - part.shape[-1])
    wide = extend(part, padding, (max(after[0], 0), max(after[1], 0)))
    wide = wide[..., : reach[0], : reach[1]]
    return -F.max_pool2d(-wide, size, stride, 0, dilation)


def _pair(value: Any, default: tuple[int, int]) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value or [])
    if not values:
        return default
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


def convolution(step: Step) -> list[Footprint | None]:
    """Each output position depends on the inputs under its kernel, in its group of channels."""
    values = step.values()
    image, weight, output = values["input"], values["weight"], step.outputs[0]
    footprint = step.of(image)
    if footprint is None or image.dim() != 4:
        raise ValueError("only images with rows and columns")
    stride, padding = _pair(values.get("stride"), (1, 1)), _pair(values.get("padding"), (0, 0))
    dilation, groups = _pair(values.get("dilation"), (1, 1)), values.get("groups", 1)
    size = (weight.shape[2], weight.shape[3])
    shape = (output.shape[2], output.shape[3])

    def per_part(part: Tensor) -> Tensor:
        narrow = compact(part)
        narrow = narrow.expand(*narrow.shape[:2], *image.shape[2:])
        if narrow.shape[1] > 1:
            narrow = narrow.reshape(narrow.shape[0], groups, -1, *image.shape[2:]).amin(2)
        if values.get("transposed"):
            spread = _transposed_window(narrow, size, stride, padding, dilation, shape)
        else:
            spread = _window(narrow, size, stride, padding, dilation, shape)
        if spread.shape[1] > 1:
            spread = spread.repeat_interleave(output.shape[1] // groups, dim=1)
        return spread.expand(output.shape)

    return [footprint.map(per_part)]


def _transposed_window(
    part: Tensor,
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    shape: tuple[int, int],
) -> Tensor:
    """Output position o takes input i wherever o = i*stride - padding + k*dilation for a tap k."""
    for axis, k in ((-2, 0), (-1, 1)):
        places = torch.arange(shape[k])[:, None] + padding[k] - torch.arange(size[k])[None, :] * dilation[k]
        taken = (places % stride[k] == 0) & (places >= 0) & (places // stride[k] < part.shape[axis])
        index = (places // stride[k]).clamp(0, part.shape[axis] - 1)
        gathered = part.index_select(axis, index.flatten()).unflatten(axis, index.shape)
        fits = taken if axis == -1 else taken[..., None]
        part = torch.where(fits, gathered, INFINITY).amin(axis if axis == -1 else -2)
    return part


def pool(step: Step) -> list[Footprint | None]:
    """Each output position depends on the inputs in its window, channel by channel."""
    values = step.values()
    footprint = step.of(step.arguments[0])
    if footprint is None:
        return [None] * len(step.outputs)
    size = _pair(values["kernel_size"], (1, 1))
    stride, padding = _pair(values.get("stride"), size), _pair(values.get("padding"), (0, 0))
    dilation = _pair(values.get("dilation"), (1, 1))
    shape = (step.outputs[0].shape[-2], step.outputs[0].shape[-1])
    repeat = step.arguments[0].shape

    def per_part(part: Tensor) -> Tensor:
        narrow = compact(part)
        narrow = narrow.expand(*narrow.shape[:-2], *repeat[-2:])
        pooled = _window(narrow, size, stride, padding, dilation, shape)
        return pooled.expand(*repeat[:-2], *shape)

    return [footprint.map(per_part), *[None] * (len(step.outputs) - 1)]


def adaptive_pool(step: Step) -> list[Footprint | None]:
    """Each bin depends on the inputs it covers."""
    footprint = step.of(step.arguments[0])
    if footprint is None:
        return [None] * len(step.outputs)

    def per_part(part: Tensor) -> Tensor:
        full = step.outputs[0].shape
        part = compact(part)
        part = part.expand(*part.shape[:-2], *step.arguments[0].shape[-2:])
        for axis in (-2, -1):
            size, bins = part.shape[axis], full[axis]
            edges = [(index * size // bins, math.ceil((index + 1) * size / bins)) for index in range(bins)]
            part = torch.cat([part.narrow(axis, a, b - a).amin(axis, keepdim=True) for a, b in edges], dim=axis)
        return part.expand(full)

    return [footprint.map(per_part), *[None] * (len(step.outputs) - 1)]


def resize(step: Step) -> list[Footprint | None]:
    """Interpolated resizing reads up to two (bilinear) or four (bicubic) neighbours along each axis."""
    footprint = step.of(step.arguments[0])
    if footprint is None:
        return [None]
    name = step.name
    if "_aa" in name:
        raise ValueError("antialiased resizing reads a window that depends on the scale")
    taps = (-1, 2) if "bicubic" in name else (0, 1)
    align = bool(step.arguments[2])

    def per_part(part: Tensor) -> Tensor:
        for axis in (-2, -1):
            size, new = part.shape[axis], step.outputs[0].shape[axis]
            places = torch.arange(new, dtype=torch.float64)
            source = places * ((size - 1) / max(new - 1, 1)) if align else ((places + 0.5) * size / new - 0.5)
            source = source.clamp(min=0) if "bilinear" in name else source
            low = source.floor().long()
            exact = source == low
            neighbours = [
                part.index_select(axis, torch.where(exact, low, low + tap).clamp(0, size - 1))
                for tap in range(taps[0], taps[1] + 1)
            ]
            part = torch.stack(neighbours).amin(0)
        return part

    return [footprint.map(per_part)]


def padded(step: Step) -> list[Footprint | None]:
    """Constant padding of rows and columns continues the image; padding of other axes depends on nothing."""
    footprint = step.of(step.arguments[0])
    if footprint is None:
        return [None]
    amounts = list(step.arguments[1])
    if len(amounts) > 4 and any(amounts[4:]):
        return [footprint.map(lambda part: F.pad(part, amounts, value=INFINITY))]
    left, right, top, bottom = [*amounts, 0, 0, 0, 0][:4]

    def per_part(part: Tensor) -> Tensor:
        kept = part[
            ...,
            max(-top, 0) : part.shape[-2] - max(-bottom, 0) if part.dim() > 1 else None,
            max(-left, 0) : part.shape[-1] - max(-right, 0),
        ]
        return extend(kept, (max(top, 0), max(left, 0)), (max(bottom, 0), max(right, 0)))

    return [footprint.map(per_part)]
