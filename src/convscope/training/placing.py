"""Placing layers one after the other: their names, the shapes between them, and residual blocks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from torch import nn

from convscope.errors import ConvscopeError
from convscope.training.definition_text import DefinitionError
from convscope.training.layers import LARGEST_MAPS, Convolution, Flatten, FullyConnected, Layer, Shape
from convscope.training.modules import SHORTCUT, Chain, Residual
from convscope.training.options import option

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Entry:
    """A layer of a definition and the line it stands on (0 where it was never text)."""

    layer: Layer
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Placed:
    """A layer with its name and shapes; ``inner`` are the layers of a residual block."""

    name: str
    layer: Layer
    before: Shape
    after: Shape
    line: int = field(default=0, compare=False)
    inner: tuple[Placed, ...] = ()

    @property
    def parameters(self) -> int:
        """How many numbers it learns."""
        return self.layer.parameters(self.before)


def place(entries: Sequence[Entry], shape: Shape, *, inside: str = "") -> tuple[Placed, ...]:
    """The layers with names and shapes from an input of ``shape`` on; raises :class:`DefinitionError` with the line."""
    numbers: Counter[str] = Counter()
    placed: list[Placed] = []
    for entry in entries:
        if isinstance(entry.layer, FullyConnected) and shape.is_map:
            placed.append(_place(Entry(Flatten(), entry.line), shape, numbers, inside))
            shape = placed[-1].after
        placed.append(_place(entry, shape, numbers, inside))
        shape = placed[-1].after
    return tuple(placed)


def _place(entry: Entry, shape: Shape, numbers: Counter[str], inside: str) -> Placed:
    layer = entry.layer
    numbers[layer.short] += 1
    once = isinstance(layer, Flatten) and numbers[layer.short] == 1
    name = layer.short if once else f"{layer.short}{numbers[layer.short]}"
    inner: tuple[Placed, ...] = ()
    try:
        if isinstance(layer, ResidualBlock):
            inner = layer.place(shape, inside=f"{inside}{name}.")
        after = layer.output(shape)
        if after.values > LARGEST_MAPS:
            raise ConvscopeError(
                f"its output of {after} is too large", next_step="choose a larger stride or fewer units"
            )
    except DefinitionError:
        raise
    except ConvscopeError as error:
        raise DefinitionError(
            error.what, line=entry.line, layer=f"{inside}{name} ({layer.word})", next_step=error.next_step
        ) from error
    return Placed(name, layer, shape, after, entry.line, inner)


def build(placed: Sequence[Placed], chain: Chain | None = None) -> Chain:
    """The torch modules of placed layers in a chain, with torch's own initial weights."""
    chain = chain if chain is not None else Chain()
    for each in placed:
        module: nn.Module
        if isinstance(each.layer, ResidualBlock):
            module = each.layer.build_block(each, prefix=f"{chain.prefix}{each.name}.")
        else:
            module = each.layer.build(each.before)
        chain.add_module(each.name, module)
    return chain


@dataclass(frozen=True)
class ResidualBlock(Layer):
    """Layers whose output is added to what went in."""

    word: ClassVar[str] = "residual"
    short: ClassVar[str] = "block"
    explanation: ClassVar[str] = "layers(x) + x; with a projection, x goes through a 1×1 convolution first"

    layers: tuple[Entry, ...] = option("layers", "the layers of the block")
    shortcut: str = option(
        "word",
        "how the input reaches the sum: as it is, or through a 1×1 convolution and batch normalization",
        "identity",
        choices=("identity", "projection"),
    )

    def place(self, shape: Shape, inside: str) -> tuple[Placed, ...]:
        """The block's own layers."""
        if not self.layers:
            raise ConvscopeError("a residual block needs layers", next_step="write layers: [...]")
        return place(self.layers, shape, inside=inside)

    def output(self, shape: Shape) -> Shape:
        """What its layers make, if it can be added to what went in."""
        made = place(self.layers, shape)[-1].after
        if self.shortcut == "projection":
            self._projection(shape, made)
        elif made != shape:
            raise ConvscopeError(
                f"its layers make {made} of {shape}, which can't be added",
                next_step="write shortcut: projection, or keep the shape",
            )
        return made

    @staticmethod
    def _projection(shape: Shape, made: Shape) -> Convolution:
        """The 1×1 convolution that makes the input as large as the layers' output."""
        if not (shape.is_map and made.is_map):
            raise ConvscopeError("a projection needs maps", next_step="write shortcut: identity")
        for stride in range(1, 65):
            found = Convolution(units=made.channels, size=(1, 1), stride=(stride, stride), bias=False)
            if found.output(shape) == made:
                return found
        raise ConvscopeError(
            f"no stride of a 1×1 convolution makes {made} of {shape}",
            next_step="pad the block's convolutions so that only their strides change the size",
        )

    def build_block(self, placed: Placed, prefix: str) -> Residual:
        """The torch module."""
        block = Residual()
        block.prefix = prefix
        build(placed.inner, block)
        block.attach(self._shortcut(placed, prefix) if self.shortcut == "projection" else None)
        return block

    def _shortcut(self, placed: Placed, prefix: str) -> Chain:
        shortcut = Chain()
        shortcut.prefix = f"{prefix}{SHORTCUT}."
        shortcut.add_module("conv", self._projection(placed.before, placed.after).build(placed.before))
        shortcut.add_module("norm", nn.BatchNorm2d(placed.after.channels))
        return shortcut

    def parameters(self, shape: Shape) -> int:
        """Those of its layers and of the projection."""
        inner = place(self.layers, shape)
        own = sum(each.parameters for each in inner)
        if self.shortcut == "projection":
            made = inner[-1].after
            own += self._projection(shape, made).parameters(shape) + 2 * made.channels
        return own


__all__ = ["Entry", "Placed", "ResidualBlock", "build", "place"]
