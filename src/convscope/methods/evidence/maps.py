"""One attribution method asked for the same thing again: of other weights, of other settings, of changed images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from convscope.errors import Refused
from convscope.methods.attribution.seed import Choice, changed
from convscope.methods.backward import mini_batches, part_of
from convscope.methods.objective import log_probabilities
from convscope.progress import report

if TYPE_CHECKING:
    from convscope.methods.attribution.attribution import Attribution
    from convscope.methods.attribution.seed import BoundSeed
    from convscope.methods.base import Target
    from convscope.network.batch import Batch
    from convscope.network.network import Network


@dataclass(frozen=True, eq=False)
class Question:
    """What is explained, decided once: each image's class, or its place in the unit's map, stays the one that the
    trained network chose for the whole image, whatever is then done to weights or pixels.
    """

    network: Network
    bound: BoundSeed
    batch: Batch
    values: list[float]  # of the objective, one for each image
    labels: list[int]  # the classes; empty for a unit

    @classmethod
    def ask(cls, method: Attribution, network: Network, target: Target, batch: Batch) -> Question:
        """Run the images through the network once and keep what they choose."""
        bound = method.bind(network, target, batch)
        if bound.whole_batch:
            raise Refused(
                "a function of one's own has one value for all images, so no image's answer can be followed",
                where=bound.text,
                next_step="choose a score, a loss or a unit",
            )
        values: list[float] = []
        labels: list[int] = []
        choices = []
        for _, _, part in mini_batches(network, batch, "what is explained"):
            found = bound.measure(network, part)
            values += found.values.double().flatten().tolist()
            labels += found.labels
            choices.append(found.choice)
        classes = [each.labels for each in choices if each.labels is not None]
        places = [each.places for each in choices if each.places is not None]
        choice = Choice(torch.cat(classes) if classes else None, torch.cat(places) if places else None)
        return cls(network, bound.fixed(choice), batch, values, labels)

    def maps(self, method: Attribution, network: Network, message: str) -> Float[Tensor, "image row column"]:
        """The method's maps of this question, of this network or of a copy with other weights."""
        parts = []
        for start, stop, part in mini_batches(network, self.batch, message, method.images_at_once(network)):

            def told(done: int, total: int, start: int = start, images: int = stop - start) -> None:
                report(start * total + done * images, len(self.batch) * total, message)

            found = method.attribute(network, self.bound.part(slice(start, stop)), part, told)
            parts.append(method.reduced(found.values))
        return torch.cat(parts)

    @property
    def measure(self) -> str:
        """What :meth:`answer` gives, in words."""
        if self.bound.layer is not None:
            return self.bound.caption
        return "probability of the class" if self.network.classes > 1 else "score"

    def answer(self, image: int, images: Float[Tensor, "variant channel row column"]) -> Float[Tensor, " variant"]:
        """What the network says to variants of one of the images: its class's probability, or the unit's value.

        A loss is followed by its class's probability, too; the score of a network's only output is taken as it is.
        """
        count = len(images)
        bound = self.bound.part(slice(image, image + 1)).repeated(count)
        batch = changed(part_of(self.batch, image, image + 1), images)
        with self.network.trace(bound.layers) as trace:
            output = trace.run(images, stop=not bound.needs_output)
            if bound.layer is not None:
                return bound.values(self.network, trace, output, batch)[0].detach()
            scores = self.network.scores(output).detach().double()
            labels = bound.choose(self.network, trace, output, batch).labels
            assert labels is not None  # noqa: S101 - only units and functions have none
            told = log_probabilities(scores).exp() if self.network.classes > 1 else scores
            return told.gather(1, labels.to(scores.device)[:, None])[:, 0]
