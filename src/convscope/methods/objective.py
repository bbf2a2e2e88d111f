"""Objective: the one number per image whose gradient is shown. A loss, a class score, a unit, or a function of your
own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F

from convscope.errors import ConvscopeError, Refused, UnknownName, suggest
from convscope.methods.ranges import finite
from convscope.network.unit import split_address

if TYPE_CHECKING:
    from convscope.network.batch import Batch
    from convscope.network.network import Network
    from convscope.trace import Trace

HELP = (
    "what to differentiate: loss (cross-entropy; true labels if every image has one, else the predicted class), "
    "loss:predicted, loss:true, loss:CLASS, score (of the predicted class, before softmax), score:CLASS, unit:ADDRESS"
)
ObjectiveLike = str | Callable[..., Any]
Kind = Literal["loss", "score", "unit", "function"]


@dataclass(frozen=True)
class Objective:
    """What to differentiate, as it was asked for; :meth:`bind` checks it against a network and images.

    >>> Objective.parse("score:281")
    Objective(kind='score', of='281', function=None)
    >>> Objective.parse("unit:layer4.1.relu@1:37").of
    'layer4.1.relu@1:37'
    """

    kind: Kind
    of: str = ""
    function: Callable[[torch.Tensor, Batch], torch.Tensor] | None = None

    @classmethod
    def parse(cls, value: ObjectiveLike) -> Objective:
        """Read an objective's text, or take a function ``(scores, batch) -> scalar``, a mean over the images."""
        if callable(value):
            return cls("function", getattr(value, "__name__", "function"), value)
        kind, _, of = value.strip().partition(":")
        if kind not in ("loss", "score", "unit") or (kind == "unit" and not of):
            raise ConvscopeError(
                f"{value[:80]!r} isn't an objective",
                next_step=suggest(kind, ["loss", "score", "unit"]) or f"write {HELP.split(': ', 1)[1]}",
            )
        return cls("loss" if kind == "loss" else "score" if kind == "score" else "unit", of)

    def bind(self, network: Network, batch: Batch) -> BoundObjective:
        """The objective for these images: every class, label and unit checked before any forward pass."""
        if self.kind == "function":
            return BoundObjective(self, f"function {self.of}", f"{self.of}(scores, batch)")
        if self.kind == "unit":
            return self._bind_unit(network)
        if network.classes < 1:
            raise Refused(
                "this network's output isn't one score per class", where=network.name, next_step="use unit:ADDRESS"
            )
        if self.kind == "score":
            return self._bind_score(network)
        return self._bind_loss(network, batch)

    def _bind_unit(self, network: Network) -> BoundObjective:
        address, channel, position = split_address(self.of)
        layer = network.layer(address)
        if channel is None:
            raise ConvscopeError(f"{self.of!r} names a layer, not a unit", next_step=f"write unit:{address}:0")
        layer.check_unit(channel, position)
        what = f"the value of {self.of}" if position else f"the mean of {self.of}'s map"
        return BoundObjective(self, f"unit:{self.of}", what, (address,), unit=(channel, position))

    def _bind_score(self, network: Network) -> BoundObjective:
        if not self.of:
            return BoundObjective(self, "score", "the predicted class's score before softmax")
        index = class_index(network, self.of)
        what = f"the score of {_class_words(network, index)} before softmax"
        return BoundObjective(self, f"score:{index}", what, classes=index)

    def _bind_loss(self, network: Network, batch: Batch) -> BoundObjective:
        if network.classes < 2:
            raise Refused(
                "cross-entropy over one output is always zero",
                where=network.name,
                next_step="use score:0 or a function",
            )
        labelled = bool(batch.labels) and None not in batch.labels
        if self.of == "predicted" or (not self.of and not labelled):
            return BoundObjective(self, "loss:predicted", "cross-entropy with the predicted classes as labels")
        if self.of and self.of != "true":
            index = class_index(network, self.of)
            what = f"cross-entropy with {_class_words(network, index)} as every image's label"
            return BoundObjective(self, f"loss:{index}", what, classes=index)
        if not labelled:
            missing = sum(label is None for label in batch.labels)
            raise Refused(
                f"{missing} of {len(batch)} images have no true label",
                next_step="use loss:predicted, loss:CLASS, or one folder per class",
            )
        for name, label in zip(batch.names, batch.labels, strict=True):
            if label is None or not 0 <= label < network.classes:
                raise Refused(
                    f"{name} has label {label}, but the network has classes 0 to {network.classes - 1}",
                    where=network.name,
                    next_step="use loss:predicted, or images labelled with this network's classes",
                )
        return BoundObjective(self, "loss:true", "cross-entropy with the true labels")


@dataclass(frozen=True)
class BoundObjective:
    """An objective that fits a network and images. ``layers`` are the calls a trace must record for it."""

    objective: Objective
    text: str
    caption: str
    layers: tuple[str, ...] = ()
    classes: int | None = None
    unit: tuple[int, tuple[int, int] | None] | None = None

    @property
    def needs_output(self) -> bool:
        """Whether the forward pass must run to its end."""
        return self.unit is None

    @property
    def whole_batch(self) -> bool:
        """A function of one's own sees all images at once: its value need not be a sum over images."""
        return self.objective.kind == "function"

    def values(
        self, network: Network, trace: Trace, output: Any, batch: Batch, classes: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, list[int]]:
        """One value per image (one in all for a function), and the class each is about (empty for units and
        functions). ``classes`` ``[image]`` where they are decided already, and not by these scores.
        """
        if self.unit is not None:
            return self._unit_values(network, trace), []
        scores = network.scores(output)
        if self.objective.function is not None:
            return self._function_value(self.objective.function, scores, batch), []
        labels = self._labels(scores, batch) if classes is None else classes.to(scores.device)
        if self.objective.kind == "score":
            return scores.gather(1, labels[:, None])[:, 0], labels.tolist()
        # In double: where the softmax is sure, 1 - p is lost in float32 and the gradient would be exactly zero.
        return F.nll_loss(log_probabilities(scores.double()), labels, reduction="none"), labels.tolist()

    def labels(self, scores: torch.Tensor, batch: Batch) -> torch.Tensor | None:
        """The class that each image's value is about; None for units and functions."""
        return None if self.objective.kind in ("unit", "function") else self._labels(scores, batch)

    def _labels(self, scores: torch.Tensor, batch: Batch) -> torch.Tensor:
        if self.classes is not None:
            return torch.full((len(scores),), self.classes, device=scores.device)
        if self.text == "loss:true":
            return torch.tensor(batch.labels, device=scores.device)
        return scores.detach().argmax(dim=1)

    def _unit_values(self, network: Network, trace: Trace) -> torch.Tensor:
        assert self.unit is not None  # noqa: S101 - for the type checker; values() asks first
        channel, position = self.unit
        units = network.layer(self.layers[0]).to_units(trace[self.layers[0]])
        return units[:, channel, position[0], position[1]] if position else units[:, channel].mean(dim=(1, 2))

    def _function_value(self, function: Callable[..., Any], scores: torch.Tensor, batch: Batch) -> torch.Tensor:
        value = function(scores, batch)
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            raise ConvscopeError(
                f"the objective {self.objective.of} returned {type(value).__name__}, not one number in a tensor",
                next_step="return a mean over the images, like torch.nn.functional.cross_entropy does",
            )
        return value.reshape(1) * len(batch)

    def meta(self, values: list[float], labels: list[int], images: int) -> dict[str, Any]:
        """What a View with a gradient says about its objective: the text, its mean, each image's value and class."""
        mean = finite(sum(values) / images)
        known = {"loss": "loss", "score": "score"}.get(self.objective.kind, "value")
        return {
            "objective": self.text,
            "value": mean,
            known: mean,
            "values": [finite(v) for v in values],
            "labels": labels,
        }


def log_probabilities(scores: torch.Tensor) -> torch.Tensor:
    """Log softmax of scores; the logarithm alone where a network already returns probabilities."""
    if are_probabilities(scores):
        return scores.clamp_min(torch.finfo(scores.dtype).tiny).log()
    return scores.log_softmax(dim=1)


def are_probabilities(scores: torch.Tensor) -> bool:
    """Whether every row is non-negative and sums to one: the network ends in a softmax of its own."""
    values = scores.detach().double()
    return bool((values >= 0).all() and ((values.sum(dim=1) - 1).abs() < 1e-4).all())


def class_index(network: Network, text: str) -> int:
    """A class by index or by name; raises with the range or the nearest names."""
    if text in network.class_names:
        return network.class_names.index(text)
    if not text.isdecimal():
        raise UnknownName(
            f"no class {text[:80]!r}",
            next_step=suggest(text, network.class_names) or f"choose 0 to {network.classes - 1}",
        )
    if int(text) >= network.classes:
        raise UnknownName(f"no class {text}", where=network.name, next_step=f"choose 0 to {network.classes - 1}")
    return int(text)


def _class_words(network: Network, index: int) -> str:
    return f"class {index} ({network.class_names[index]})" if index < len(network.class_names) else f"class {index}"
