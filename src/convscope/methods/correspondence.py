"""Correspondence: whether hiding the same part in different images changes a layer's features in the same way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from convscope.errors import ConvscopeError
from convscope.methods.backward import images_per_pass
from convscope.methods.base import Method, Target, parameter
from convscope.methods.chosen_layers import chosen_layers, last_two
from convscope.methods.fill import FILLS, filling
from convscope.methods.fill import HELP as FILL_HELP
from convscope.methods.parts import HELP as PARTS_HELP
from convscope.methods.parts import Part, parse_parts
from convscope.methods.ranges import check_size
from convscope.progress import preview, report
from convscope.view import View, value_range

if TYPE_CHECKING:
    from convscope.network.batch import Batch
    from convscope.network.layer import Layer
    from convscope.network.network import Network
    from convscope.view import Array

AXES: dict[str, tuple[str, ...]] = {
    "distance": ("part", "layer"),
    "random": ("part", "layer", "draw"),
    "pair": ("part", "layer", "image", "other"),
    "smaller": ("part", "layer"),
    "box": ("part", "image", "side"),
    "picture": ("part", "image", "row", "column", "color"),
}
# Two passes over the same image differ in the last digits where the images beside it do: below this share of a layer's
# largest value a difference is none.
_NOTHING = 1e-5
_MOST_AT_ONCE = 8


@dataclass(frozen=True)
class Correspondence(Method):
    """Whether a layer knows that the left eye of one dog is the left eye of another: the same part is hidden in several
    images, and the signs of the changes that this makes to a layer's features are compared between every two images.
    Beside it the same for places drawn at random: figure 8 and table 1 of Zeiler & Fergus.

    Arrays: ``distance`` [part, layer], 0 to 1, the share of a layer's values whose change has another sign in two
    images, mean over all pairs of images; ``random`` [part, layer, draw], the same with a box of the same size at a
    random place of each image; ``smaller`` [part, layer], how many of the draws were as low; ``pair``
    [part, layer, image, other], the distance of every two images; ``box`` [part, image, side], row, column, rows and
    columns in prepared pixels; ``picture`` [part, image, row, column, color], what the network saw. A change of less
    than a hundred thousandth of the layer's largest value counts as none; none and none agree.

    Misleads when: most values don't change at all. Two small changes agree nearly everywhere because nothing happened,
    so only the comparison with random places of the same size means something, not the distance by itself. A part that
    is at the same place in every image is compared with draws whose places differ from image to image: then position
    alone can make the difference, which ``control="shared"`` rules out. Few images are few pairs.
    """

    name: ClassVar[str] = "correspondence"
    title: ClassVar[str] = "Correspondence"
    papers: ClassVar[tuple[str, ...]] = ("zeiler2014visualizing",)
    target: ClassVar = "network"
    needs: ClassVar = ("images",)
    long: ClassVar[bool] = True
    formula: ClassVar[str] = (
        "ε[i] = f(x[i]) − f(x[i] with the part hidden);  distance = mean over i ≠ j of the share of values where "
        "sign ε[i] ≠ sign ε[j]"
    )
    caveat: ClassVar[str] = (
        "Only the comparison with random places of the same size means something: where little changes, signs agree "
        "because nothing happened."
    )

    parts: str = parameter("", PARTS_HELP)
    layers: str = parameter(
        "", "layers, separated by commas; empty: the last maps and what the scores are computed from"
    )
    draws: int = parameter(10, "how often every image gets a box at a random place instead", minimum=1, maximum=10000)
    fill: str = parameter("gray", FILL_HELP, choices=FILLS)
    control: str = parameter(
        "independent",
        "random places: independent (each image's own, as published) or shared (one for all images, which tells the "
        "part from its position)",
        choices=("independent", "shared"),
    )
    noise_seed: int = parameter(0, "decides the random places", minimum=0)

    def compute(self, network: Network, target: Target, batch: Batch | None) -> View:  # noqa: ARG002 - the whole network
        """Passes over all images: one as they are, and one more for every part and every draw of it."""
        assert batch is not None  # noqa: S101 - `needs` says so
        if len(batch) < 2:
            raise ConvscopeError(
                "correspondence compares images, and there is one",
                next_step="pass two or more of the same kind of object",
            )
        layers = chosen_layers(network, self.layers, last_two(network))
        parts = parse_parts(self.parts, len(batch), network.image_size)
        values = sum(layer.units * layer.rows * layer.columns for layer in layers)
        check_size(2 * len(batch) * values, f"the features of {len(batch)} images", "pass fewer images or one layer")
        changes = _Changes(network, batch, layers, filling(network, batch.tensor, self.fill))
        found = _Found(parts, layers, len(batch), self.draws)
        generator = np.random.default_rng(self.noise_seed)
        total, done = len(parts) * (1 + self.draws), 0
        for number, part in enumerate(parts):
            found.add(number, None, changes.of(part.boxes))
            done += 1
            for draw in range(self.draws):
                report(done, total, "correspondence")
                preview(lambda: self._view(network, batch, layers, parts, found, changes))
                found.add(number, draw, changes.of(self._elsewhere(part.boxes, network.image_size, generator)))
                done += 1
        report(total, total, "correspondence")
        return self._view(network, batch, layers, parts, found, changes)

    def _elsewhere(self, boxes: Array, image_size: tuple[int, int], generator: np.random.Generator) -> Array:
        """A box of the same size in each image, at any place where it fits, all equally likely."""
        moved = boxes.copy()
        for axis in (0, 1):
            room = image_size[axis] - boxes[:, 2 + axis] + 1
            moved[:, axis] = generator.integers(0, room) if self.control == "independent" else generator.random() * room
        return moved

    def refusal(self, network: Network, target: Target) -> ConvscopeError | None:  # noqa: ARG002 - the whole network
        """A layer that isn't there."""
        try:
            chosen_layers(network, self.layers, last_two(network))
        except ConvscopeError as refused:
            return refused
        return None

    def _view(
        self,
        network: Network,
        batch: Batch,
        layers: tuple[Layer, ...],
        parts: tuple[Part, ...],
        found: _Found,
        changes: _Changes,
    ) -> View:
        hidden = [[network.unprepare(image) for image in changes.covered(part.boxes)] for part in parts]
        arrays: dict[str, Array] = {
            **found.arrays(),
            "box": np.stack([part.boxes for part in parts]).astype(np.int32),
            "picture": np.array(hidden, np.uint8),
        }
        meta: dict[str, Any] = {
            "caption": f"How differently hiding {_listed(parts)} changes the features of {len(batch)} images, beside "
            f"{self.draws} draws of random places.",
            "warnings": found.warnings(layers, parts),
            "ranges": {name: value_range(array) for name, array in arrays.items() if array.dtype.kind == "f"},
            "layer": None,
            "units": None,
            "layers": [layer.address for layer in layers],
            "parts": [part.name for part in parts],
            "fill": self.fill,
            "image_names": list(batch.names),
        }
        return View("correspondence", arrays, {name: AXES[name] for name in arrays}, meta)


def _listed(parts: tuple[Part, ...]) -> str:
    names = [part.name for part in parts]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


class _Changes:
    """What hiding boxes changes in the features of all images."""

    def __init__(self, network: Network, batch: Batch, layers: tuple[Layer, ...], fillings: torch.Tensor) -> None:
        self.network = network
        self.images = batch.tensor
        self.layers = layers
        self.fillings = fillings
        self.size = min(_MOST_AT_ONCE, images_per_pass(network))
        self.whole = self._features(batch.tensor)

    def covered(self, boxes: Array) -> torch.Tensor:
        """The images with a box each filled."""
        covered = self.images.clone()
        for one, instead, (row, column, rows, columns) in zip(covered, self.fillings, boxes.tolist(), strict=True):
            at = (slice(None), slice(row, row + rows), slice(column, column + columns))
            one[at] = instead[at]
        return covered

    def of(self, boxes: Array) -> list[torch.Tensor]:
        """For each layer the signs of ε, int8 ``[image, value]``: -1, 0 or 1."""
        hidden = self._features(self.covered(boxes))
        signs = []
        for whole, instead in zip(self.whole, hidden, strict=True):
            change = whole - instead
            least = _NOTHING * torch.maximum(whole.abs().amax(dim=1), instead.abs().amax(dim=1))[:, None]
            signs.append(torch.where(change.abs() <= least, 0.0, change).sign().to(torch.int8))
        return signs

    def _features(self, images: torch.Tensor) -> list[torch.Tensor]:
        found: list[list[torch.Tensor]] = [[] for _ in self.layers]
        for start in range(0, len(images), self.size):
            with self.network.trace([layer.address for layer in self.layers]) as trace:
                trace.run(images[start : start + self.size])
                for kept, layer in zip(found, self.layers, strict=True):
                    kept.append(layer.to_units(trace[layer.address]).detach().flatten(1).cpu())
            if start + self.size < len(images):
                report(start, len(images), "correspondence: features")
        return [torch.cat(parts) for parts in found]


class _Found:
    """The distances that were found so far; NaN for those that weren't."""

    def __init__(self, parts: tuple[Part, ...], layers: tuple[Layer, ...], images: int, draws: int) -> None:
        shape = (len(parts), len(layers))
        self.distance = np.full(shape, np.nan, np.float32)
        self.random = np.full((*shape, draws), np.nan, np.float32)
        self.pair = np.full((*shape, images, images), np.nan, np.float32)
        self.unchanged = np.zeros(shape, bool)

    def add(self, part: int, draw: int | None, signs: list[torch.Tensor]) -> None:
        """The distances for one set of boxes: the part's own, or those of a draw."""
        for layer, sign in enumerate(signs):
            pairs = disagreement(sign)
            mean = pairs[~np.eye(len(pairs), dtype=bool)].mean()
            if draw is None:
                self.distance[part, layer], self.pair[part, layer] = mean, pairs
                self.unchanged[part, layer] = not sign.any()
            else:
                self.random[part, layer, draw] = mean

    def arrays(self) -> dict[str, Array]:
        """Copies of them all."""
        smaller = (self.random <= self.distance[:, :, None]).sum(axis=2).astype(np.int32)
        found = {"distance": self.distance, "random": self.random, "pair": self.pair}
        return {**{name: array.copy() for name, array in found.items()}, "smaller": smaller}

    def warnings(self, layers: tuple[Layer, ...], parts: tuple[Part, ...]) -> list[str]:
        """Parts whose hiding changes nothing."""
        return [
            f"Hiding {parts[part].name} changes nothing at {layers[layer].address}: the distance 0 says nothing."
            for part, layer in zip(*np.nonzero(self.unchanged), strict=True)
        ]


def disagreement(signs: torch.Tensor) -> Array:
    """The share of values in which every two rows of int8 ``[image, value]`` differ, float64 ``[image, other]``.

    >>> disagreement(torch.tensor([[1, 0, -1, 1], [1, 1, -1, -1]], dtype=torch.int8)).tolist()
    [[0.0, 0.5], [0.5, 0.0]]
    """
    count = len(signs)
    found = np.zeros((count, count))
    for image in range(count):
        found[image] = (signs != signs[image]).double().mean(dim=1).numpy()
    return found


__all__ = ["Correspondence", "disagreement"]
