"""Seed: the one number per image that an attribution explains, and what of it the image itself decides.

A class score, a loss or a function of one's own (:mod:`convscope.methods.objective`), or a unit: one neuron, the whole
map, or the strongest place of it in each image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from convscope.errors import Refused
from convscope.methods.objective import Objective
from convscope.methods.ranges import finite

if TYPE_CHECKING:
    from convscope.methods.base import Target
    from convscope.methods.objective import BoundObjective, ObjectiveLike
    from convscope.network.batch import Batch
    from convscope.network.layer import Layer
    from convscope.network.network import Network
    from convscope.trace import Entrance, ReluRule, Trace

SEEDS = ("maximum", "map", "mean")
HELP = (
    "what of a unit without a position is explained: maximum (its strongest place in each image, the first of equals), "
    "map (the whole map is sent backwards: half the sum of its squares), mean (of its map)"
)


@dataclass(frozen=True, eq=False)
class Choice:
    """What the images decide by themselves: the class each is about, the place in a unit's map; None where nothing is.

    It is made once, on the images as they are, and kept while they are blurred, occluded or moved towards a baseline:
    what is explained must not change on the way.
    """

    labels: torch.Tensor | None = None  # [image]
    places: torch.Tensor | None = None  # [image, coordinate]: row and column

    def __getitem__(self, part: slice) -> Choice:
        return Choice(*(None if each is None else each[part] for each in (self.labels, self.places)))

    def repeated(self, times: int) -> Choice:
        """Each image's choice ``times`` times in a row."""
        return Choice(*(None if e is None else e.repeat_interleave(times, dim=0) for e in (self.labels, self.places)))


@dataclass(frozen=True, eq=False)
class Explained:
    """One pass over images: what was explained, and its gradient at the images if one was asked for."""

    values: torch.Tensor  # [image]; one number in all for a function of one's own
    labels: list[int]
    choice: Choice
    gradient: torch.Tensor  # like the images; empty without a backward pass


@dataclass(frozen=True, eq=False)
class BoundSeed:
    """A seed that fits a network and images.

    ``layers`` are the calls that a trace must record for it; with ``needs_output`` the forward pass must run to its
    end, otherwise it stops at the unit's layer. ``choice`` is None while each pass decides anew.
    """

    objective: BoundObjective
    text: str
    caption: str
    layer: Layer | None = None
    seed: str = ""
    choice: Choice | None = None

    @classmethod
    def bind(cls, network: Network, target: Target, objective: ObjectiveLike, seed: str, batch: Batch) -> BoundSeed:
        """From a method's target and parameters; the objective ``unit:ADDRESS`` means what the target would."""
        asked = Objective("unit", str(target)) if target.layer is not None else Objective.parse(objective)
        bound = asked.bind(network, batch)
        if bound.unit is None:
            return cls(bound, bound.text, bound.caption)
        layer = network.layer(bound.layers[0])
        if bound.unit[1] is not None:
            return cls(bound, bound.text, bound.caption, layer)
        words = {
            "maximum": f"the strongest value of {asked.of}'s map",
            "map": f"the whole map of {asked.of}",
            "mean": f"the mean of {asked.of}'s map",
        }
        return cls(bound, f"{bound.text}, {seed}", words[seed], layer, seed)

    @property
    def layers(self) -> tuple[str, ...]:
        """The calls that a trace must record."""
        return self.objective.layers

    @property
    def needs_output(self) -> bool:
        """Whether the forward pass must run to its end."""
        return self.objective.needs_output

    @property
    def whole_batch(self) -> bool:
        """A function of one's own sees all images at once: they can't be cut into mini-batches."""
        return self.objective.whole_batch

    def fixed(self, choice: Choice) -> BoundSeed:
        """The same for images whose classes and places are decided."""
        return replace(self, choice=choice)

    def part(self, part: slice) -> BoundSeed:
        """The same for some of the images."""
        return self if self.choice is None else self.fixed(self.choice[part])

    def repeated(self, times: int) -> BoundSeed:
        """The same for each image ``times`` times in a row."""
        return self if self.choice is None else self.fixed(self.choice.repeated(times))

    # ---- in a trace --------------------------------------------------------------------------------------------

    def choose(self, network: Network, trace: Trace, output: Any, batch: Batch) -> Choice:
        """What these images decide."""
        if self.choice is not None:
            return self.choice
        with torch.no_grad():
            if self.layer is None:
                return Choice(labels=self.objective.labels(network.scores(output), batch))
            assert self.objective.unit is not None  # noqa: S101 - a layer comes with a unit
            position = self.objective.unit[1]
            if position is not None:
                return Choice(places=torch.tensor(position).expand(len(batch), 2))
            if self.seed != "maximum":
                return Choice()
            maps = self.maps(trace, batch)
            strongest = maps.flatten(1).argmax(dim=1)
            return Choice(places=torch.stack([strongest // maps.shape[2], strongest % maps.shape[2]], dim=1))

    def maps(self, trace: Trace, batch: Batch) -> torch.Tensor:
        """The unit's maps ``[image, row, column]``."""
        assert self.layer is not None  # noqa: S101 - only asked of a unit
        assert self.objective.unit is not None  # noqa: S101 - a layer comes with a unit
        units = self.layer.to_units(trace[self.layer.address])
        if len(units) != len(batch):
            raise Refused(
                f"{self.layer.address} returned {len(units)} maps for {len(batch)} images: it mixes images",
                next_step="pass one image, or choose a layer before or after it",
            )
        return units[:, self.objective.unit[0]]

    def values(self, network: Network, trace: Trace, output: Any, batch: Batch) -> tuple[torch.Tensor, list[int]]:
        """One value per image, whose sum is differentiated, and the class each is about (empty for a unit)."""
        choice = self.choose(network, trace, output, batch)
        if self.layer is None:
            return self.objective.values(network, trace, output, batch, choice.labels)
        maps = self.maps(trace, batch)
        if choice.places is not None:
            row, column = choice.places.to(maps.device).unbind(dim=1)
            return maps[torch.arange(len(maps), device=maps.device), row, column], []
        return (maps.mean(dim=(1, 2)) if self.seed == "mean" else maps.square().sum(dim=(1, 2)) / 2), []

    # ---- whole passes ------------------------------------------------------------------------------------------

    def measure(self, network: Network, batch: Batch) -> Explained:
        """One forward pass: the values, and the choice that these images make."""
        with network.trace(self.layers) as trace:
            output = trace.run(batch.tensor, stop=not self.needs_output)
            chosen = self.fixed(self.choose(network, trace, output, batch))
            values, labels = chosen.values(network, trace, output, batch)
        return Explained(values.detach(), labels, chosen.choice or Choice(), torch.empty(0))

    def differentiate(
        self, network: Network, batch: Batch, relu_rule: ReluRule | None = None, entrance: Entrance | None = None
    ) -> Explained:
        """One forward and backward pass: the values, and their gradient at the images, by a ReLU rule if one is given.

        The gradient has the images' device and type. Where an ``entrance`` adds it up over several passes, only what
        it leaves out is here.
        """
        with network.trace(self.layers, gradients=True, relu_rule=relu_rule, entrance=entrance, frozen=True) as trace:
            output = trace.run(batch.tensor, stop=not self.needs_output)
            chosen = self.fixed(self.choose(network, trace, output, batch))
            values, labels = chosen.values(network, trace, output, batch)
            gradient = trace.gradients(values.sum(), ["input"], again=False)["input"]
        return Explained(values.detach(), labels, chosen.choice or Choice(), gradient)

    def meta(self, values: list[float], labels: list[int], images: int) -> dict[str, Any]:
        """What a View says about its seed: the text, the mean, each image's value and class."""
        found = self.objective.meta(values, labels, images)
        return {**found, "objective": self.text, "values": [finite(value) for value in values]}


def changed(batch: Batch, tensor: torch.Tensor) -> Batch:
    """The batch with other pixels: ``tensor`` holds each image one or more times in a row."""
    times = len(tensor) // len(batch)
    if times == 1:
        return replace(batch, tensor=tensor)
    again = [index for index in range(len(batch)) for _ in range(times)]
    return replace(
        batch,
        tensor=tensor,
        fingerprints=tuple(batch.fingerprints[index] for index in again),
        names=tuple(batch.names[index] for index in again),
        labels=tuple(batch.labels[index] for index in again),
    )


__all__ = ["HELP", "SEEDS", "BoundSeed", "Choice", "Explained", "changed"]
