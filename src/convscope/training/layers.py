"""The layers that a text definition may be made of: an allow-list, each with its options, its shape rule, its module.

Nothing in a definition is ever evaluated: a word chooses one of these classes, numbers become its fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from convscope.errors import ConvscopeError
from convscope.training.modules import Dropout, Maxout
from convscope.training.options import option

LARGEST_MAPS = 2**24  # values of one layer's output for one image


@dataclass(frozen=True)
class Shape:
    """What one image is at some point of the network: maps, or a vector once it is flattened.

    >>> str(Shape(16, 32, 32)), str(Shape(10, is_map=False))
    ('16 × 32 × 32', '10')
    """

    channels: int
    rows: int = 1
    columns: int = 1
    is_map: bool = True

    def __str__(self) -> str:
        return f"{self.channels} × {self.rows} × {self.columns}" if self.is_map else str(self.channels)

    @property
    def values(self) -> int:
        """How many numbers that is."""
        return self.channels * self.rows * self.columns


class Layer:
    """One layer of a definition. ``word`` is what stands in the text, ``short`` what its name begins with."""

    word: ClassVar[str]
    short: ClassVar[str]
    explanation: ClassVar[str]

    def output(self, shape: Shape) -> Shape:
        """The shape it makes of ``shape``; raises where it can't."""
        return shape

    def build(self, shape: Shape) -> nn.Module:
        """The torch module for an input of ``shape``."""
        raise NotImplementedError

    def parameters(self, shape: Shape) -> int:  # noqa: ARG002 - most layers have none, whatever they get
        """How many numbers it learns."""
        return 0

    def count(self, shape: Shape) -> str:  # noqa: ARG002
        """How the number of parameters comes about, like ``16×5×5×3+16``."""
        return ""


def _windows(
    what: str, shape: Shape, size: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> Shape:
    if not shape.is_map:
        raise ConvscopeError(
            f"{what} needs maps, but gets a vector of {shape.channels}", next_step="put it before flatten"
        )
    sides = []
    for name, length, extent, step, margin in zip(
        ("rows", "columns"), (shape.rows, shape.columns), size, stride, padding, strict=True
    ):
        if extent > length + 2 * margin:
            raise ConvscopeError(
                f"{what} of {extent} {name} is larger than its input of {length} {name} with padding {margin}",
                next_step=f"choose a size of at most {length + 2 * margin}, or more padding",
            )
        sides.append((length + 2 * margin - extent) // step + 1)
    return Shape(shape.channels, sides[0], sides[1])


@dataclass(frozen=True)
class Convolution(Layer):
    """A convolution: each unit's kernel slides over the maps."""

    word: ClassVar[str] = "convolution"
    short: ClassVar[str] = "conv"
    explanation: ClassVar[str] = "each unit's kernel slides over all maps"

    units: int = option("integer", "how many kernels, and so maps", minimum=1, maximum=4096)
    size: tuple[int, int] = option("pair", "rows and columns of a kernel", minimum=1, maximum=64)
    stride: tuple[int, int] = option("pair", "how far it moves at a time", (1, 1), minimum=1, maximum=64)
    padding: tuple[int, int] = option("pair", "zeros put around the maps", (0, 0), minimum=0, maximum=64)
    groups: int = option(
        "integer", "cut the channels into groups that don't see each other", 1, minimum=1, maximum=4096
    )
    bias: bool = option("truth", "add a learned number to each map", True)

    def output(self, shape: Shape) -> Shape:
        """Units maps; rows = (rows + 2·padding − size) / stride + 1, rounded down."""
        for name, count in (("units", self.units), ("input channels", shape.channels)):
            if count % self.groups:
                raise ConvscopeError(
                    f"{self.groups} groups don't divide {count} {name}", next_step="choose groups that divide both"
                )
        made = _windows("a convolution", shape, self.size, self.stride, self.padding)
        return Shape(self.units, made.rows, made.columns)

    def build(self, shape: Shape) -> nn.Module:
        """Torch's Conv2d."""
        sizes = (self.size, self.stride, self.padding)
        return nn.Conv2d(shape.channels, self.units, *sizes, groups=self.groups, bias=self.bias)

    def parameters(self, shape: Shape) -> int:
        """Kernels and biases."""
        return self.units * (self.size[0] * self.size[1] * (shape.channels // self.groups) + self.bias)

    def count(self, shape: Shape) -> str:
        """Units × rows × columns × channels + biases."""
        kernels = f"{self.units}×{self.size[0]}×{self.size[1]}×{shape.channels // self.groups}"
        return f"{kernels}+{self.units}" if self.bias else kernels


@dataclass(frozen=True)
class Pool(Layer):
    """The largest value, or the mean, of every window of a map."""

    word: ClassVar[str] = "pool"
    short: ClassVar[str] = "pool"
    explanation: ClassVar[str] = "the largest value, or the mean, of every window of a map"

    size: tuple[int, int] = option("pair", "rows and columns of a window", minimum=1, maximum=512)
    stride: tuple[int, int] = option("pair", "how far the window moves at a time", (2, 2), minimum=1, maximum=512)
    padding: tuple[int, int] = option("pair", "margin around the maps", (0, 0), minimum=0, maximum=64)
    of: str = option("word", "what is taken of a window", "max", choices=("max", "mean"))

    def output(self, shape: Shape) -> Shape:
        """The same channels; rows = (rows + 2·padding − size) / stride + 1, rounded down."""
        if any(2 * margin > extent for margin, extent in zip(self.padding, self.size, strict=True)):
            raise ConvscopeError(
                "padding is more than half the window, so a window could lie outside the map altogether",
                next_step="choose less padding",
            )
        return _windows("a pool window", shape, self.size, self.stride, self.padding)

    def build(self, shape: Shape) -> nn.Module:  # noqa: ARG002 - it takes any number of channels
        """Torch's MaxPool2d or AvgPool2d."""
        if self.of == "max":
            return nn.MaxPool2d(self.size, self.stride, self.padding)
        return nn.AvgPool2d(self.size, self.stride, self.padding)


@dataclass(frozen=True)
class Relu(Layer):
    """max(0, x)."""

    word: ClassVar[str] = "relu"
    short: ClassVar[str] = "relu"
    explanation: ClassVar[str] = "max(0, x)"

    def build(self, shape: Shape) -> nn.Module:  # noqa: ARG002
        """Torch's ReLU, not in place: its input is shown too."""
        return nn.ReLU()


@dataclass(frozen=True)
class Tanh(Layer):
    """tanh(x)."""

    word: ClassVar[str] = "tanh"
    short: ClassVar[str] = "tanh"
    explanation: ClassVar[str] = "tanh(x), between −1 and 1"

    def build(self, shape: Shape) -> nn.Module:  # noqa: ARG002
        """Torch's Tanh."""
        return nn.Tanh()


@dataclass(frozen=True)
class Sigmoid(Layer):
    """1 / (1 + exp(−x))."""

    word: ClassVar[str] = "sigmoid"
    short: ClassVar[str] = "sigmoid"
    explanation: ClassVar[str] = "1 / (1 + exp(−x)), between 0 and 1"

    def build(self, shape: Shape) -> nn.Module:  # noqa: ARG002
        """Torch's Sigmoid."""
        return nn.Sigmoid()


@dataclass(frozen=True)
class MaxoutLayer(Layer):
    """The largest of every few neighboring channels."""

    word: ClassVar[str] = "maxout"
    short: ClassVar[str] = "maxout"
    explanation: ClassVar[str] = "the largest of every few neighboring channels"

    group: int = option("integer", "how many channels compete", 2, minimum=2, maximum=256)

    def output(self, shape: Shape) -> Shape:
        """One channel for each group."""
        if shape.channels % self.group:
            raise ConvscopeError(
                f"maxout groups of {self.group} don't divide {shape.channels} channels",
                next_step="choose a group that divides them",
            )
        return Shape(shape.channels // self.group, shape.rows, shape.columns, shape.is_map)

    def build(self, shape: Shape) -> nn.Module:  # noqa: ARG002
        """A module of our own."""
        return Maxout(self.group)


@dataclass(frozen=True)
class DropoutLayer(Layer):
    """A random part of the values is set to zero while training."""

    word: ClassVar[str] = "dropout"
    short: ClassVar[str] = "dropout"
    explanation: ClassVar[str] = "a random part of the values is zero while training"

    probability: float = option("number", "how likely a value is dropped", 0.5, minimum=0.0, maximum=0.99)
    scale_at: str = option(
        "word", "when values are scaled to make up for it", "training", choices=("training", "evaluation")
    )

    def build(self, shape: Shape) -> nn.Module:  # noqa: ARG002
        """Torch's Dropout with a generator of its own."""
        return Dropout(self.probability, self.scale_at)


@dataclass(frozen=True)
class BatchNormalization(Layer):
    """Each channel to mean 0 and variance 1 over the mini-batch, then scaled and shifted by learned numbers."""

    word: ClassVar[str] = "batch_normalization"
    short: ClassVar[str] = "norm"
    explanation: ClassVar[str] = "each channel to mean 0 and variance 1 over the mini-batch, then scaled and shifted"

    momentum: float = option(
        "number", "weight of the newest mini-batch in the running mean", 0.1, minimum=0.0, maximum=1.0
    )
    epsilon: float = option("number", "added to the variance", 1e-5, minimum=1e-12, maximum=1.0)

    def build(self, shape: Shape) -> nn.Module:
        """Torch's BatchNorm2d, or BatchNorm1d behind a flattened map."""
        kind = nn.BatchNorm2d if shape.is_map else nn.BatchNorm1d
        return kind(shape.channels, eps=self.epsilon, momentum=self.momentum)

    def parameters(self, shape: Shape) -> int:
        """A scale and a shift for each channel."""
        return 2 * shape.channels

    def count(self, shape: Shape) -> str:
        """Scales + shifts."""
        return f"{shape.channels}+{shape.channels}"


@dataclass(frozen=True)
class LocalResponseNormalization(Layer):
    """Each value divided by the strength of its neighbors in other channels (Krizhevsky et al. 2012)."""

    word: ClassVar[str] = "local_response_normalization"
    short: ClassVar[str] = "lrn"
    explanation: ClassVar[str] = "x / (k + alpha · mean of x² over neighboring channels)^beta"

    size: int = option(
        "integer", "how many channels, centered on its own, count as neighbors", 5, minimum=1, maximum=63
    )
    alpha: float = option("number", "how strongly they count", 1e-4, minimum=0.0, maximum=1e3)
    beta: float = option("number", "the exponent", 0.75, minimum=0.0, maximum=10.0)
    k: float = option("number", "added before the power", 2.0, minimum=1e-6, maximum=1e3)

    def output(self, shape: Shape) -> Shape:
        """The same shape."""
        if self.size % 2 == 0:
            raise ConvscopeError(f"size {self.size} has no middle channel", next_step="choose an odd size")
        if not shape.is_map:
            raise ConvscopeError(
                f"it needs maps, but gets a vector of {shape.channels}", next_step="put it before flatten"
            )
        return shape

    def build(self, shape: Shape) -> nn.Module:  # noqa: ARG002
        """Torch's LocalResponseNorm."""
        return nn.LocalResponseNorm(self.size, self.alpha, self.beta, self.k)


@dataclass(frozen=True)
class Flatten(Layer):
    """All maps one after the other as one vector."""

    word: ClassVar[str] = "flatten"
    short: ClassVar[str] = "flatten"
    explanation: ClassVar[str] = "all maps one after the other as one vector; fully_connected does it by itself"

    def output(self, shape: Shape) -> Shape:
        """A vector."""
        return Shape(shape.values, is_map=False)

    def build(self, shape: Shape) -> nn.Module:  # noqa: ARG002
        """Torch's Flatten."""
        return nn.Flatten()


@dataclass(frozen=True)
class FullyConnected(Layer):
    """Each unit sees every value."""

    word: ClassVar[str] = "fully_connected"
    short: ClassVar[str] = "fc"
    explanation: ClassVar[str] = "each unit is a weighted sum of all values"

    units: int = option("integer", "how many units", minimum=1, maximum=65536)
    bias: bool = option("truth", "add a learned number to each unit", True)

    def output(self, shape: Shape) -> Shape:  # noqa: ARG002
        """A vector of the units."""
        return Shape(self.units, is_map=False)

    def build(self, shape: Shape) -> nn.Module:
        """Torch's Linear."""
        return nn.Linear(shape.values, self.units, bias=self.bias)

    def parameters(self, shape: Shape) -> int:
        """Weights and biases."""
        return self.units * (shape.values + self.bias)

    def count(self, shape: Shape) -> str:
        """Units × inputs + biases."""
        return f"{self.units}×{shape.values}+{self.units}" if self.bias else f"{self.units}×{shape.values}"
