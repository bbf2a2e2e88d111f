"""Spelling: from the nodes of a text to layers and losses, and from layers to text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from convscope.errors import ConvscopeError, suggest
from convscope.training import layers as kinds
from convscope.training.definition_text import DefinitionError
from convscope.training.layers import Layer, Shape
from convscope.training.options import check_options, option, options_of
from convscope.training.placing import Entry, ResidualBlock

if TYPE_CHECKING:
    from convscope.training.definition_text import Node


@dataclass(frozen=True)
class Input:
    """What the network takes: pixels / 255, minus the mean, over the standard deviation."""

    word: ClassVar[str] = "input"
    explanation: ClassVar[str] = "the image: (pixels / 255 − mean) / std"

    rows: int = option("integer", "rows of the image", minimum=1, maximum=512)
    columns: int = option("integer", "columns of the image", minimum=1, maximum=512)
    channels: int = option("integer", "1 for grey, 3 for color, 4 with transparency", 3, minimum=1, maximum=16)
    mean: float | tuple[float, ...] = option("numbers", "subtracted from pixels / 255", 0.5, minimum=0.0, maximum=1.0)
    std: float | tuple[float, ...] = option("numbers", "what the rest is divided by", 0.5, minimum=1e-3, maximum=10.0)

    @property
    def shape(self) -> Shape:
        """One prepared image."""
        return Shape(self.channels, self.rows, self.columns)


@dataclass(frozen=True)
class Softmax:
    """Cross-entropy of the softmax of the scores."""

    word: ClassVar[str] = "softmax"
    explanation: ClassVar[str] = "loss: −log of the true class's probability, exp(score) / Σ exp(scores)"


@dataclass(frozen=True)
class Svm:
    """Multi-class hinge loss (Weston and Watkins 1999)."""

    word: ClassVar[str] = "svm"
    explanation: ClassVar[str] = "loss: Σ over the other classes of max(0, score − true class's score + margin)"

    margin: float = option("number", "how far the true class's score should be ahead", 1.0, minimum=1e-6, maximum=1e6)


Loss = Softmax | Svm
LAYERS: dict[str, type[Layer]] = {
    kind.word: kind
    for kind in (
        kinds.Convolution,
        kinds.Pool,
        kinds.Relu,
        kinds.Tanh,
        kinds.Sigmoid,
        kinds.MaxoutLayer,
        kinds.DropoutLayer,
        kinds.BatchNormalization,
        kinds.LocalResponseNormalization,
        kinds.Flatten,
        kinds.FullyConnected,
        ResidualBlock,
    )
}
LOSSES: dict[str, type[Softmax] | type[Svm]] = {kind.word: kind for kind in get_args(Loss)}
_WORDS = (Input.word, *LAYERS, *LOSSES)


# ---- from nodes to layers ------------------------------------------------------------------------------------------


def word_of(node: Node) -> tuple[str, dict[str, Any]]:
    """The word of a layer and its options as nodes."""
    if isinstance(node.value, str):
        return node.value, {}
    if isinstance(node.value, dict) and len(node.value) == 1:
        ((word, options),) = node.value.items()
        if options.value is None:
            return word, {}
        if isinstance(options.value, dict):
            return word, options.value
        raise DefinitionError(
            f"the options of {word[:40]} must have names", line=node.line, next_step=f"write {_example(word)}"
        )
    raise DefinitionError(
        "a layer is a word, or a word with options",
        line=node.line,
        next_step="write it like `- relu` or `- pool: {size: 2}`",
    )


def _example(word: str) -> str:
    kind = LAYERS.get(word)
    names = list(options_of(kind)) if kind else []
    return f"`- {word}: {{{names[0]}: …}}`" if names else f"`- {word}`"


def input_of(node: Node) -> Input:
    """The first layer of a definition."""
    word, options = word_of(node)
    if word != Input.word:
        raise DefinitionError(
            "the first layer must be input",
            line=node.line,
            layer=word[:40],
            next_step="add `- input: {rows: 32, columns: 32}`",
        )
    found: Input = made(Input, word, options, node.line)
    return found


def entry_of(node: Node) -> Entry:
    """One layer between input and loss."""
    word, options = word_of(node)
    if word in (Input.word, *LOSSES):
        place_of = "first" if word == Input.word else "last"
        raise DefinitionError(
            f"{word} can only be the {place_of} layer", line=node.line, layer=word, next_step="move or remove it"
        )
    if word not in LAYERS:
        step = suggest(word, _WORDS) or f"the layers are {', '.join(LAYERS)}"
        raise DefinitionError(f"there is no layer {word[:40]!r}", line=node.line, next_step=step)
    return Entry(made(LAYERS[word], word, options, node.line), node.line)


def made(kind: Any, word: str, options: dict[str, Node], line: int) -> Any:
    """A layer or loss of this kind with the options that were given, each checked."""
    values: dict[str, Any] = {}
    known = options_of(kind)
    for name, node in options.items():
        if name in known and known[name].kind == "layers" and isinstance(node.value, list):
            values[name] = tuple(entry_of(each) for each in node.value)
        else:
            values[name] = node.plain()
    try:
        return kind(**check_options(kind, word, values))
    except DefinitionError:
        raise
    except ConvscopeError as error:
        raise DefinitionError(error.what, line=line, layer=word, next_step=error.next_step) from error


# ---- from layers to text -----------------------------------------------------------------------------------------


def written(word: str, layer: Any, indent: str = "") -> str:
    """One layer as a line of text; a residual block as several."""
    given = {
        name: getattr(layer, name)
        for name, declared in options_of(type(layer)).items()
        if declared.required or getattr(layer, name) != declared.default
    }
    inner = given.pop("layers", None)
    options = ", ".join(f"{name}: {_value(value)}" for name, value in given.items())
    if inner is None:
        return f"{indent}- {word}: {{{options}}}" if options else f"{indent}- {word}"
    lines = [f"{indent}- {word}:", *(f"{indent}    {name}: {_value(value)}" for name, value in given.items())]
    lines.append(f"{indent}    layers:")
    return "\n".join([*lines, *(written(each.layer.word, each.layer, f"{indent}      ") for each in inner)])


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        pair = len(value) == 2 and value[0] == value[1] and isinstance(value[0], int)
        return str(value[0]) if pair else f"[{', '.join(_value(each) for each in value)}]"
    return repr(value) if isinstance(value, float) else str(value)


__all__ = ["LAYERS", "LOSSES", "Input", "Loss", "Softmax", "Svm", "entry_of", "input_of", "made", "word_of", "written"]
