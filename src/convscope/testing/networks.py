"""Tiny networks, each awkward in its own way, and their forward passes a second time: slowly, in float64, by its
definition.
"""

# ruff: noqa: D102
# What forward and expected return is said once, in TinyModule.

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convscope.errors import UnknownName, suggest
from convscope.network.network import Network

if TYPE_CHECKING:
    from convscope.view import Array


def convolve(
    images: Array,
    kernel: Array,
    bias: Array | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Array:
    """Convolution by its definition: ``[image, channel, row, column]`` with ``[unit, channel in group, row, column]``.

    >>> convolve(np.ones((1, 1, 3, 3)), np.ones((1, 1, 3, 3)), padding=1)[0, 0].tolist()
    [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]
    """
    padded = np.pad(images.astype(np.float64), ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    units, channels, rows, columns = kernel.shape
    reach = (dilation * (rows - 1) + 1, dilation * (columns - 1) + 1)
    size = ((padded.shape[2] - reach[0]) // stride + 1, (padded.shape[3] - reach[1]) // stride + 1)
    result = np.zeros((len(images), units, *size))
    for unit, row, column in product(range(units), range(size[0]), range(size[1])):
        first = unit // (units // groups) * channels
        patch = padded[
            :,
            first : first + channels,
            row * stride : row * stride + reach[0] : dilation,
            column * stride : column * stride + reach[1] : dilation,
        ]
        result[:, unit, row, column] = (patch * kernel[unit]).sum(axis=(1, 2, 3))
    return result if bias is None else result + np.asarray(bias, np.float64)[:, None, None]


def _relu(values: Array) -> Array:
    return np.maximum(values, 0)


def _linear(values: Array, layer: nn.Linear) -> Array:
    return values @ _array(layer.weight).T + (0 if layer.bias is None else _array(layer.bias))


def _array(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def _by_layer(images: Array, layer: nn.Conv2d) -> Array:
    return convolve(
        images,
        _array(layer.weight),
        None if layer.bias is None else _array(layer.bias),
        stride=layer.stride[0],
        padding=int(layer.padding[0]),
        dilation=layer.dilation[0],
        groups=layer.groups,
    )


class TinyModule(nn.Module):
    """A module that also knows its answer by other means."""

    @abstractmethod
    def expected(self, images: Array) -> Array:
        """Class scores ``[image, class]`` in float64 without torch."""


class Edges(TinyModule):
    """Two Sobel kernels, ReLU, global average, linear: on the image ``value = row`` the maps are 8 and 0 everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 3)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(2, 3)
        sobel = torch.tensor([[-1.0, -2, -1], [0, 0, 0], [1, 2, 1]])
        with torch.no_grad():
            self.convolution.weight.copy_(torch.stack([sobel, sobel.T])[:, None])
            self.convolution.bias.copy_(torch.zeros(2))  # type: ignore[union-attr]
            self.linear.weight.copy_(torch.tensor([[1.0, -1], [-1, 1], [0.5, 0.5]]))
            self.linear.bias.copy_(torch.tensor([0.0, 0.25, -0.5]))

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.linear(self.relu(self.convolution(images)).mean(dim=(2, 3)))
        return scores

    def expected(self, images: Array) -> Array:
        return _linear(_relu(_by_layer(images, self.convolution)).mean(axis=(2, 3)), self.linear)


class InPlace(TinyModule):
    """In-place ReLUs, as a module and as a function, right behind strided convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(4, 6, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.second(self.relu(self.first(images)))
        F.relu_(maps)
        scores: Tensor = self.linear(torch.flatten(self.pool(maps), 1))
        return scores

    def expected(self, images: Array) -> Array:
        maps = _relu(_by_layer(_relu(_by_layer(images, self.first)), self.second))
        return _linear(maps.mean(axis=(2, 3)), self.linear)


class Reused(TinyModule):
    """One ReLU called three times, one convolution called twice, a skip that is added in place; four channels."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.relu(self.convolution(images))
        more = self.convolution(maps)
        more += maps
        scores: Tensor = self.linear(self.relu(self.relu(more)).mean((2, 3)))
        return scores

    def expected(self, images: Array) -> Array:
        maps = _relu(_by_layer(images, self.convolution))
        return _linear(_relu(_by_layer(maps, self.convolution) + maps).mean(axis=(2, 3)), self.linear)


class Normalized(TinyModule):
    """Batch normalization with statistics of its own, functional ReLU, and a dictionary of two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 3, 3, bias=False)
        self.normalization = nn.BatchNorm2d(3)
        self.linear = nn.Linear(3, 4)
        self.auxiliary = nn.Linear(3, 2)
        with torch.no_grad():
            self.normalization.running_mean.copy_(torch.tensor([0.5, -0.25, 0.0]))  # type: ignore[union-attr]
            self.normalization.running_var.copy_(torch.tensor([0.25, 4.0, 1.0]))  # type: ignore[union-attr]
            self.normalization.weight.copy_(torch.tensor([1.0, -2.0, 0.5]))
            self.normalization.bias.copy_(torch.tensor([0.125, 0.5, -0.25]))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        pooled = F.relu(self.normalization(self.convolution(images))).mean(dim=(2, 3))
        return {"scores": self.linear(pooled), "auxiliary": self.auxiliary(pooled)}

    def expected(self, images: Array) -> Array:
        maps = _by_layer(images, self.convolution)
        each = self.normalization
        mean, variance, scale, shift = (
            _array(part)[:, None, None]
            for part in (each.running_mean, each.running_var, each.weight, each.bias)
            if part is not None
        )
        maps = _relu((maps - mean) / np.sqrt(variance + each.eps) * scale + shift)
        return _linear(maps.mean(axis=(2, 3)), self.linear)


class Grouped(TinyModule):
    """Grouped, depthwise, dilated and pointwise convolutions on six channels; a tuple of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(6, 4, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(4, 8, 3, groups=4)
        self.dilated = nn.Conv2d(8, 4, (2, 3), dilation=2, bias=False)
        self.pointwise = nn.Conv2d(4, 3, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = torch.relu(self.depthwise(self.grouped(images).relu()))
        maps = self.dilated(maps).relu_()
        scores = self.pointwise(maps)
        return scores.mean((2, 3)), scores

    def expected(self, images: Array) -> Array:
        maps = _relu(_by_layer(_relu(_by_layer(images, self.grouped)), self.depthwise))
        scores: Array = _by_layer(_relu(_by_layer(maps, self.dilated)), self.pointwise).mean(axis=(2, 3))
        return scores


class Branches(TinyModule):
    """Two branches of different kernels, concatenated, with max pooling; fully convolutional, its output has
    positions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(3, 2, 1)
        self.wide = nn.Conv2d(3, 3, 3, padding=1)
        self.classifier = nn.Conv2d(5, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(torch.cat([self.narrow(images), self.wide(images)], dim=1))
        scores: Tensor = self.classifier(F.max_pool2d(maps, 2))
        return scores

    def expected(self, images: Array) -> Array:
        maps = _relu(np.concatenate([_by_layer(images, self.narrow), _by_layer(images, self.wide)], axis=1))
        rows, columns = maps.shape[2] // 2, maps.shape[3] // 2
        cells = maps[:, :, : 2 * rows, : 2 * columns].reshape(*maps.shape[:2], rows, 2, columns, 2)
        scores: Array = _by_layer(cells.max(axis=(3, 5)), self.classifier).mean(axis=(2, 3))
        return scores


class Transposed(TinyModule):
    """A strided, grouped, dilated transposed convolution with output padding between two others."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 4, 3, stride=2)
        self.up = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, dilation=1)
        self.linear = nn.Linear(6, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.up(F.relu(self.down(images))))
        scores: Tensor = self.linear(maps.mean((2, 3)))
        return scores

    def expected(self, images: Array) -> Array:
        maps = _relu(_by_layer(images, self.down))
        kernel = _array(self.up.weight)
        rows, columns = maps.shape[2] * 2, maps.shape[3] * 2
        # Every input value stamps its kernel on the output, two steps apart; one row and column are cut off in front.
        canvas = np.zeros((len(images), 6, rows + 2, columns + 2))
        for channel, unit, row, column in product(range(4), range(3), range(maps.shape[2]), range(maps.shape[3])):
            stamp = maps[:, channel, row, column][:, None, None] * kernel[channel, unit]
            canvas[:, channel // 2 * 3 + unit, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3] += stamp
        bias = 0 if self.up.bias is None else _array(self.up.bias)[:, None, None]
        return _linear(_relu(canvas[:, :, 1 : rows + 1, 1 : columns + 1] + bias).mean(axis=(2, 3)), self.linear)


class ChannelsLast(TinyModule):
    """Linear layers on ``[image, row, column, channel]``, as in ConvNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 2, stride=2)
        self.wide = nn.Linear(4, 6)
        self.narrow = nn.Linear(6, 4)
        self.linear = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.convolution(images)
        inner = self.narrow(F.relu(self.wide(maps.permute(0, 2, 3, 1))))
        scores: Tensor = self.linear((maps + inner.permute(0, 3, 1, 2)).mean((-2, -1)))
        return scores

    def expected(self, images: Array) -> Array:
        maps = _by_layer(images, self.convolution)
        inner = _linear(_relu(_linear(maps.transpose(0, 2, 3, 1), self.wide)), self.narrow)
        return _linear((maps + inner.transpose(0, 3, 1, 2)).mean(axis=(2, 3)), self.linear)


class Computed(TinyModule):
    """A functional convolution whose weight is computed from a parameter, and one with reflected borders."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 3, 3, 3))
        self.reflected = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
        self.linear = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        maps = F.relu(F.conv2d(images, weight, stride=1, padding=1))
        scores: Tensor = self.linear(F.relu(self.reflected(maps)).mean((2, 3)))
        return scores

    def expected(self, images: Array) -> Array:
        weight = _array(self.weight)
        maps = _relu(convolve(images, weight - weight.mean(axis=(1, 2, 3), keepdims=True), padding=1))
        padded = np.pad(maps, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
        bias = None if self.reflected.bias is None else _array(self.reflected.bias)
        maps = _relu(convolve(padded, _array(self.reflected.weight), bias))
        return _linear(maps.mean(axis=(2, 3)), self.linear)


class Flattened(TinyModule):
    """Linear layers behind a flattened map, with dropout; padding given as "same"."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 3, (3, 5), padding="same")
        self.pool = nn.AvgPool2d(2)
        self.features = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 5), nn.Sigmoid())
        self.classifier = nn.Linear(5, 3, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.classifier(self.features(self.pool(F.relu(self.convolution(images)))))
        return scores

    def expected(self, images: Array) -> Array:
        padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (2, 2)))
        bias = None if self.convolution.bias is None else _array(self.convolution.bias)
        maps = _relu(convolve(padded, _array(self.convolution.weight), bias))
        pooled = maps.reshape(len(images), 3, 3, 2, 4, 2).mean(axis=(3, 5))
        hidden = self.features[2]
        assert isinstance(hidden, nn.Linear)  # noqa: S101 - for the type checker
        values = 1 / (1 + np.exp(-_linear(pooled.reshape(len(images), -1), hidden)))
        return values @ _array(self.classifier.weight).T


class Pixels(TinyModule):
    """A linear classifier on pixels: each class has a template in color."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 4 * 6, 5)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.linear(images.flatten(1))
        return scores

    def expected(self, images: Array) -> Array:
        return _linear(images.reshape(len(images), -1), self.linear)


@dataclass(frozen=True)
class TinyNetwork:
    """One tiny network: how to make it, what its input is, and its answer by other means."""

    name: str
    module_type: type[TinyModule]
    channels: int
    rows: int
    columns: int

    def module(self) -> TinyModule:
        """The module with its weights: hand-set ones, and eighths from a fixed sequence where zero or random."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = self.module_type()
            if not isinstance(made, Edges):
                for parameter in made.parameters():
                    if parameter.dim() > 1 or not isinstance(made, Normalized):
                        # Eighths are exact in float32, so the second implementation meets the very same weights.
                        parameter.data.copy_(torch.randint(-8, 9, parameter.shape) / 8)
        return made

    def network(self, **options: Any) -> Network:
        """A Network over a fresh module."""
        size = (self.rows, self.columns)
        return Network.from_module(self.module(), image_size=size, channels=self.channels, name=self.name, **options)

    def images(self, count: int = 1, seed: int = 1) -> Tensor:
        """Prepared images ``[image, channel, row, column]`` in eighths, from -2 to 2; the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        size = (count, self.channels, self.rows, self.columns)
        return torch.randint(-16, 17, size, generator=generator) / 8


TINY_NETWORKS: dict[str, TinyNetwork] = {
    each.name: each
    for each in (
        TinyNetwork("edges", Edges, 1, 9, 7),
        TinyNetwork("in_place", InPlace, 3, 8, 11),
        TinyNetwork("reused", Reused, 4, 6, 5),
        TinyNetwork("normalized", Normalized, 1, 6, 8),
        TinyNetwork("grouped", Grouped, 6, 7, 9),
        TinyNetwork("branches", Branches, 3, 6, 9),
        TinyNetwork("transposed", Transposed, 1, 9, 7),
        TinyNetwork("channels_last", ChannelsLast, 3, 6, 8),
        TinyNetwork("computed", Computed, 3, 5, 6),
        TinyNetwork("flattened", Flattened, 1, 6, 8),
        TinyNetwork("pixels", Pixels, 3, 4, 6),
    )
}


def tiny_network(name: str) -> TinyNetwork:
    """A tiny network by its name; raises :class:`UnknownName` with the nearest names."""
    if name not in TINY_NETWORKS:
        raise UnknownName(
            f"no tiny network {name!r}", next_step=suggest(name, TINY_NETWORKS) or ", ".join(TINY_NETWORKS)
        )
    return TINY_NETWORKS[name]
