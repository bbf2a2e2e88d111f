"""What an optimized image is to please, as text: units, neurons, layers, classes, directions, and sums of them.

>>> from convscope.synthesis.objective import GRAMMAR
>>> print(GRAMMAR.splitlines()[0])
layer3.0:12            a unit: the mean of its map, in which negative values count a tenth
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from convscope.errors import ConvscopeError, Refused
from convscope.methods.objective import class_index
from convscope.network.unit import Unit, split_address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convscope.network.network import Network

GRAMMAR = """\
layer3.0:12            a unit: the mean of its map, in which negative values count a tenth
layer3.0:12:4,5        a neuron: the unit at one position (row, column)
layer3.0               a whole layer: the mean of its squares, as DeepDream
class:tabby            a class by name or index: its score before softmax; quote names that hold + - ; ( )
direction(0.3*layer3.0:4 - 0.7*layer3.0:9)
                       a direction in one layer's space: along it, and little across it
A + 0.5*B - C          sums, weights and differences; spaces around + and -
A; B                   several objectives: one image each"""
HELP = (
    'layer3.0:12, layer3.0:12:4,5, layer3.0, class:tabby, direction(0.3*layer3.0:4 - 0.7*layer3.0:9), "A + 0.5*B - C", '
    '"A; B" for several images'
)
Kind = Literal["unit", "layer", "class", "direction"]
_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_WEIGHTED = re.compile(rf"(?:(?P<number>{_NUMBER})\s*\*\s*)?(?P<what>.+)", re.DOTALL)
_SOFTMAX = frozenset({"softmax", "logsoftmax", "log_softmax", "softmax2d"})
_MOST_TEXT = 4000


@dataclass(frozen=True)
class Term:
    """One part of a sum: a weight, and what it weighs. ``layer`` is empty for a class; ``channel`` is then its index.

    ``direction`` holds (channel, weight) pairs, of length 1 as a vector.
    """

    weight: float
    kind: Kind
    text: str
    caption: str
    layer: str = ""
    channel: int = 0
    position: tuple[int, int] | None = None
    direction: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Aim:
    """What one optimized image is to raise: a weighted sum of terms, checked against a network."""

    terms: tuple[Term, ...]

    @property
    def text(self) -> str:
        """The objective, written so that :func:`parse_aims` reads it back."""
        return self._joined([each.text for each in self.terms], "*")

    @property
    def caption(self) -> str:
        """The objective in words."""
        return self._joined([each.caption for each in self.terms], " × ")

    @property
    def layers(self) -> tuple[str, ...]:
        """Addresses of the layers it is computed from."""
        return tuple(dict.fromkeys(each.layer for each in self.terms if each.layer))

    @property
    def needs_output(self) -> bool:
        """Whether it is about the network's output."""
        return any(each.kind == "class" for each in self.terms)

    @property
    def unit(self) -> Unit | None:
        """The unit or neuron, where the objective is nothing but one."""
        (first, *more) = self.terms
        if more or first.kind != "unit" or first.weight != 1:
            return None
        return Unit(first.layer, first.channel, *(first.position or (None, None)))

    @property
    def fixed(self) -> bool:
        """Whether it names a position: then it has a meaning at one size of the image only."""
        return any(each.position is not None for each in self.terms)

    def _joined(self, parts: list[str], times: str) -> str:
        joined = ""
        for term, part in zip(self.terms, parts, strict=True):
            sign = "-" if term.weight < 0 else "+"
            joined += f" {sign} " if joined else ("-" if sign == "-" else "")
            joined += part if abs(term.weight) == 1 else f"{abs(term.weight):g}{times}{part}"
        return joined


def parse_aims(text: str, network: Network) -> tuple[Aim, ...]:
    """The objectives of a text, one for each image; see :data:`GRAMMAR`.

    Raises :class:`ConvscopeError` with the grammar, and :class:`UnknownName` for a layer, unit or class that the
    network doesn't have.

    >>> from torch import nn
    >>> from convscope import Network
    >>> network = Network.from_module(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), image_size=8)
    >>> [aim.text for aim in parse_aims("0:3 + .5*1:2:0,0; -1", network)]
    ['0:3 + 0.5*1:2:0,0', '-1']
    >>> parse_aims("1:2 - 0:1", network)[0].caption
    "the mean of 1:2's map - the mean of 0:1's map"
    """
    if len(text) > _MOST_TEXT:
        raise ConvscopeError(f"an objective of {len(text):,} characters", next_step=f"at most {_MOST_TEXT:,}")
    found = tuple(_aim(part, network) for part in _split(text, ";") if part.strip())
    if not found:
        raise ConvscopeError("there is no objective", next_step=f"write one of {HELP}")
    return found


def unit_aim(network: Network, layer: str, channel: int, position: tuple[int, int] | None = None) -> Aim:
    """The objective that is one unit, or one neuron."""
    return Aim((_unit(network, str(Unit(layer, channel, *(position or (None, None))))),))


def layer_aim(network: Network, layer: str) -> Aim:
    """The objective that is a whole layer."""
    return Aim((_layer(network, layer),))


def _aim(text: str, network: Network) -> Aim:
    return Aim(tuple(_term(weight, what, network) for weight, what in _weighted(text)))


def _weighted(text: str) -> Iterator[tuple[float, str]]:
    """The (weight, what) of each term of a sum."""
    for index, part in enumerate(_split(text, "+-")):
        stripped = part.strip()
        sign = -1.0 if stripped.startswith("-") else 1.0
        match = _WEIGHTED.fullmatch(stripped.lstrip("+-").strip())
        if match is None:
            if index == 0 and not stripped:  # before a leading sign
                continue
            raise _unreadable(text)
        yield sign * float(match["number"] or 1), match["what"].strip()


def _split(text: str, at: str) -> list[str]:
    """Cut a text outside of quotes and parentheses: at ";", or before a + or - that stands between spaces."""
    parts, quoted, depth = [""], False, 0
    for index, letter in enumerate(text):
        quoted ^= letter == '"'
        depth += 0 if quoted else (letter == "(") - (letter == ")")
        alone = at == ";" or (text[index - 1 : index] in ("", " ") and text[index + 1 : index + 2] == " ")
        if letter in at and not quoted and depth == 0 and alone:
            parts.append("" if at == ";" else letter)
        else:
            parts[-1] += letter
    if quoted or depth:
        raise ConvscopeError(f"a {'quote' if quoted else 'parenthesis'} in {text[:80]!r} isn't closed", next_step=HELP)
    return parts


def _term(weight: float, what: str, network: Network) -> Term:
    if what.startswith("class:"):
        term = _class(network, what.removeprefix("class:").strip().strip('"'))
    elif what.startswith("direction(") and what.endswith(")"):
        term = _direction(network, what.removeprefix("direction(").removesuffix(")"))
    elif re.search(r"[\s*+()\"]", what):
        raise _unreadable(what)
    elif split_address(what)[1] is None:
        term = _layer(network, what)
    else:
        term = _unit(network, what)
    return Term(weight, term.kind, term.text, term.caption, term.layer, term.channel, term.position, term.direction)


def _unreadable(text: str) -> ConvscopeError:
    return ConvscopeError(f"{text.strip()[:80]!r} isn't an objective", next_step=f"write {HELP}")


def _unit(network: Network, text: str) -> Term:
    address, channel, position = split_address(text)
    layer = network.layer(address)
    assert channel is not None  # noqa: S101 - for the type checker: whoever calls this looked
    layer.check_unit(channel, position)
    name = str(Unit(layer.address, channel, *(position or (None, None))))
    caption = f"the value of {name}" if position or layer.rows == layer.columns == 1 else f"the mean of {name}'s map"
    return Term(1.0, "unit", name, caption, layer.address, channel, position)


def _layer(network: Network, text: str) -> Term:
    layer = network.layer(split_address(text)[0])
    layer.check_unit(0)
    return Term(1.0, "layer", layer.address, f"the mean square of {layer.address}", layer.address)


def _class(network: Network, text: str) -> Term:
    if network.classes < 1:
        raise Refused(
            "this network's output isn't one score per class", where=network.name, next_step="write layer:unit instead"
        )
    index = class_index(network, text)
    name = network.class_name(index)
    caption = f"the score of class {index} ({name}) before softmax" if network.class_names else f"the score of {name}"
    last = network.layers[-1]
    if last.kind.lower() in _SOFTMAX:
        # Raising a probability mostly lowers the other scores; the score itself is what the softmax was given.
        (before,) = last.inputs if len(last.inputs) == 1 else ("input",)
        if before != "input" and network.layer(before).units == network.classes:
            return Term(1.0, "unit", f"class:{index}", caption, network.layer(before).address, index)
        raise Refused(
            "this network ends in a softmax, and what it was given can't be told",
            where=network.name,
            next_step="name the unit of the layer before it",
        )
    return Term(1.0, "class", f"class:{index}", caption, "", index)


def _direction(network: Network, text: str) -> Term:
    units = [(weight, _unit(network, what)) for weight, what in _weighted(text) if _is_unit(what)]
    if not units or len(units) != len(list(_weighted(text))):
        raise ConvscopeError(f"{text[:80]!r} isn't a direction", next_step="write direction(0.3*layer:4 - 0.7*layer:9)")
    places = {(unit.layer, unit.position) for _, unit in units}
    if len(places) > 1:
        raise ConvscopeError(
            "a direction lies in one layer, everywhere or at one position",
            where=text[:80],
            next_step="for several layers write a sum of units",
        )
    ((layer, position),) = places
    vector: dict[int, float] = {}
    for weight, unit in units:
        vector[unit.channel] = vector.get(unit.channel, 0.0) + weight
    length = sum(weight * weight for weight in vector.values()) ** 0.5
    if length == 0:
        raise ConvscopeError("a direction of length 0", where=text[:80], next_step="give a weight that isn't 0")
    pairs = tuple((channel, weight / length) for channel, weight in vector.items())
    named = Aim(tuple(Term(weight, "unit", unit.text, "") for weight, unit in units)).text
    return Term(1.0, "direction", f"direction({named})", f"the direction {named}", layer, 0, position, pairs)


def _is_unit(what: str) -> bool:
    return re.search(r"[\s*+()\"]", what) is None and split_address(what)[1] is not None


__all__ = ["GRAMMAR", "HELP", "Aim", "Term", "layer_aim", "parse_aims", "unit_aim"]
