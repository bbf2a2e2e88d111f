"""Definition: a small network as text, one layer per line; checked, built, and written again.

    - input: {rows: 28, columns: 28, channels: 1}
    - convolution: {units: 8, size: 5, padding: 2}
    - relu
    - pool: {size: 2}
    - fully_connected: {units: 10}
    - softmax

docs/reference/definition-format.md lists every layer and option.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from convscope.network.network import Network
from convscope.training.definition_text import DefinitionError, Node, read
from convscope.training.layers import BatchNormalization, FullyConnected
from convscope.training.modules import Chain, Maxout
from convscope.training.placing import Entry, Placed, build, place
from convscope.training.spelling import LOSSES, Input, Loss, Softmax, Svm, entry_of, input_of, made, word_of, written

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MOST_LAYERS = 256
MOST_PARAMETERS = 50_000_000


@dataclass(frozen=True)
class Definition:
    r"""A network as its layers: input, layers in order, loss.

    >>> text = "- input: {rows: 8, columns: 8, channels: 1}\n- fully_connected: {units: 10}\n- softmax\n"
    >>> definition = Definition.parse(text)
    >>> [(each.name, str(each.after)) for each in definition.placed], definition.parameters
    ([('flatten', '64'), ('fc1', '10')], 650)
    >>> Definition.parse(definition.text()) == definition
    True
    """

    input: Input
    entries: tuple[Entry, ...]
    loss: Loss
    placed: tuple[Placed, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name, values in (("mean", self.input.mean), ("std", self.input.std)):
            if isinstance(values, tuple) and len(values) != self.input.channels:
                raise DefinitionError(
                    f"{len(values)} numbers of {name} for {self.input.channels} channels",
                    line=1,
                    layer="input",
                    next_step="write one for each channel, or a single one",
                )
        object.__setattr__(self, "placed", place(self.entries, self.input.shape))
        if not self.placed:
            raise DefinitionError("there is no layer between input and loss", next_step="add fully_connected")
        if self.parameters > MOST_PARAMETERS:
            raise DefinitionError(
                f"{self.parameters:,} parameters; {MOST_PARAMETERS:,} is the limit",
                next_step="use fewer units, or pool before the first fully connected layer",
            )
        last = self.placed[-1]
        if last.after.rows * last.after.columns != 1:
            raise DefinitionError(
                f"the loss needs one score for each class, but gets {last.after}",
                line=last.line,
                layer=last.name,
                next_step="end with fully_connected: {units: number of classes}",
            )
        if self.classes < 2:
            raise DefinitionError(
                "a loss needs at least two classes", line=last.line, layer=last.name, next_step="give it more units"
            )

    # ---- text --------------------------------------------------------------------------------------------------

    @classmethod
    def parse(cls, text: str) -> Definition:
        """The definition that a text says; raises :class:`DefinitionError` with line, layer, what and next step."""
        return _parse(read(text))

    def text(self) -> str:
        """The definition as text, each option that isn't the default written out; :meth:`parse` is the inverse."""
        lines = [written(Input.word, self.input)]
        lines += [written(each.layer.word, each.layer) for each in self.entries]
        lines.append(written(self.loss.word, self.loss))
        return "\n".join(lines) + "\n"

    # ---- what it is --------------------------------------------------------------------------------------------

    @property
    def classes(self) -> int:
        """How many scores the last layer gives."""
        return self.placed[-1].after.channels

    @property
    def parameters(self) -> int:
        """How many numbers it learns."""
        return sum(each.parameters for each in self.placed)

    def rows(self) -> list[dict[str, Any]]:
        """The table of its layers as plain values: name, kind, line, shape, parameters, how they come about."""
        return [_row(each) for each in _all(self.placed)]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the text as :meth:`text` writes it: of the architecture, whatever its weights."""
        return hashlib.sha256(self.text().encode()).hexdigest()

    def flat_normalizations(self) -> list[str]:
        """The batch normalizations that see one number per image and channel, so that one image is no batch."""
        flat = [each for each in _all(self.placed) if isinstance(each.layer, BatchNormalization)]
        return [each.name for each in flat if each.before.rows * each.before.columns == 1]

    def with_classes(self, classes: int) -> Definition:
        """The same network with another number of scores; its last layer must be fully connected."""
        if classes == self.classes:
            return self
        last = self.entries[-1]
        if not isinstance(last.layer, FullyConnected):
            raise DefinitionError(
                f"{self.classes} scores, but the data have {classes} classes",
                line=last.line,
                layer=self.placed[-1].name,
                next_step="end with fully_connected: {units: " + str(classes) + "}",
            )
        return replace(self, entries=(*self.entries[:-1], Entry(replace(last.layer, units=classes), last.line)))

    def with_channels(self, channels: int) -> Definition:
        """The same network for images of so many channels; means of its own for each channel become their average."""
        if channels == self.input.channels:
            return self
        mean, std = (
            sum(each) / len(each) if isinstance(each, tuple) else each for each in (self.input.mean, self.input.std)
        )
        return replace(self, input=replace(self.input, channels=channels, mean=mean, std=std))

    # ---- torch -------------------------------------------------------------------------------------------------

    def build(self, seed: int = 0) -> Chain:
        """The torch module with initial weights that depend on ``seed`` alone.

        Weights are normal with standard deviation √(2 / inputs of a unit) where a ReLU or maxout follows (He et al.
        2015), √(1 / inputs) elsewhere; biases are zero.
        """
        chain = self.build_shapes()
        chain.to_empty(device="cpu")
        initialize(chain, seed)
        return chain

    def build_shapes(self) -> Chain:
        """The torch module without memory for its weights: names and shapes only."""
        with torch.device("meta"):
            return build(self.placed).train()

    def network(
        self, seed: int = 0, *, class_names: Sequence[str] = (), name: str = "", resize: int | None = None
    ) -> Network:
        """The module as a :class:`Network`, with the input's preprocessing; ``resize`` is a picture's shorter side."""
        mean, std = (list(each) if isinstance(each, tuple) else each for each in (self.input.mean, self.input.std))
        return Network.from_module(
            self.build(seed),
            image_size=(self.input.rows, self.input.columns),
            channels=self.input.channels,
            mean=mean,
            std=std,
            resize=resize,
            class_names=class_names,
            name=name,
        )


@dataclass(frozen=True)
class Checked:
    """A text as it was checked while it is being written: the layers as far as they are right, and what is wrong."""

    rows: tuple[dict[str, Any], ...]
    parameters: int
    error: DefinitionError | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values for a page."""
        error = self.error
        said = error and {"what": error.what, "line": error.line, "layer": error.layer, "next_step": error.next_step}
        return {"rows": list(self.rows), "parameters": self.parameters, "error": said}


def check(text: str) -> Checked:
    r"""Check a text without building anything; never raises.

    >>> found = check("- input: {rows: 8, columns: 8}\n- relu\n- convolution: {units: 4, size: 9}\n- softmax")
    >>> [row["name"] for row in found.rows], found.error.line
    (['relu1'], 3)
    """
    try:
        definition = Definition.parse(text)
        return Checked(tuple(definition.rows()), definition.parameters)
    except DefinitionError as error:
        return Checked(*_as_far_as_right(text), error)


def _as_far_as_right(text: str) -> tuple[tuple[dict[str, Any], ...], int]:
    try:
        items = read(text).value
        if not isinstance(items, list):
            return (), 0
        given = input_of(items[0])
    except DefinitionError:
        return (), 0
    entries: list[Entry] = []
    placed: tuple[Placed, ...] = ()
    for item in items[1:]:
        try:
            entries.append(entry_of(item))
            placed = place(entries, given.shape)
        except DefinitionError:
            break
    return tuple(_row(each) for each in _all(placed)), sum(each.parameters for each in placed)


def initialize(module: nn.Module, seed: int) -> None:
    """Fill every weight anew from ``seed``; see :meth:`Definition.build`."""
    generator = torch.Generator().manual_seed(seed)
    modules = list(module.modules())
    with torch.no_grad():
        for index, each in enumerate(modules):
            if isinstance(each, nn.Conv2d | nn.Linear):
                inputs = each.weight[0].numel()
                gain = 2.0 if _rectified(modules[index + 1 :]) else 1.0
                each.weight.normal_(0.0, (gain / inputs) ** 0.5, generator=generator)
                if each.bias is not None:
                    each.bias.zero_()
            elif isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d):
                each.reset_parameters()


def _rectified(following: list[nn.Module]) -> bool:
    """Whether the next layer that isn't a normalization or pooling is a ReLU or maxout."""
    for each in following:
        if isinstance(each, nn.ReLU | Maxout):
            return True
        if isinstance(each, nn.Conv2d | nn.Linear | nn.Tanh | nn.Sigmoid):
            return False
    return False


# ---- from nodes to layers ----------------------------------------------------------------------------------------


def _parse(root: Node) -> Definition:
    if not isinstance(root.value, list):
        raise DefinitionError("a definition is a list of layers", line=root.line, next_step="begin each line with `- `")
    items = root.value
    if len(items) > MOST_LAYERS:
        raise DefinitionError(f"more than {MOST_LAYERS} layers", line=items[MOST_LAYERS].line, next_step="use fewer")
    given = input_of(items[0])
    word, options = word_of(items[-1])
    if len(items) < 2 or word not in LOSSES:
        raise DefinitionError(
            "the last layer must say the loss",
            line=items[-1].line,
            layer=word,
            next_step="end with `- softmax` or `- svm`",
        )
    loss = made(LOSSES[word], word, options, items[-1].line)
    return Definition(given, tuple(entry_of(each) for each in items[1:-1]), loss)


def _all(placed: Sequence[Placed], prefix: str = "") -> Iterator[Placed]:
    for each in placed:
        yield replace(each, name=prefix + each.name)
        yield from _all(each.inner, f"{prefix}{each.name}.")


def _row(placed: Placed) -> dict[str, Any]:
    shape = asdict(placed.after)
    return {
        "name": placed.name,
        "kind": placed.layer.word,
        "line": placed.line,
        "shape": [shape["channels"], shape["rows"], shape["columns"]],
        "text": str(placed.after),
        "parameters": placed.parameters,
        "count": placed.layer.count(placed.before),
    }


__all__ = ["Checked", "Definition", "DefinitionError", "Input", "Loss", "Softmax", "Svm", "check", "initialize"]
