"""Invariance: how far features and predictions follow an image that is shifted, enlarged or turned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from convscope.errors import ConvscopeError
from convscope.methods.backward import images_per_pass
from convscope.methods.base import Method, Target, parameter
from convscope.methods.chosen_layers import chosen_layers, first_and_last
from convscope.methods.fill import FILLS, filling
from convscope.methods.fill import HELP as FILL_HELP
from convscope.methods.moves import Moves, parse_moves
from convscope.methods.objective import log_probabilities
from convscope.methods.ranges import check_size, not_finite
from convscope.progress import preview, report
from convscope.view import View, value_range

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from convscope.network.batch import Batch
    from convscope.network.layer import Layer
    from convscope.network.network import Network
    from convscope.view import Array

AXES: dict[str, tuple[str, ...]] = {
    "amount": ("transform", "step"),
    "distance": ("image", "layer", "transform", "step"),
    "relative": ("image", "layer", "transform", "step"),
    "probability": ("image", "transform", "step"),
    "most_probable": ("image", "transform", "step"),
    "example": ("image", "transform", "example", "row", "column", "color"),
    "picture": ("image", "row", "column", "color"),
}
_EXAMPLES = 3
_MOST_AT_ONCE = 8


@dataclass(frozen=True)
class Invariance(Method):
    """How far an image's features move away when it is shifted, enlarged or turned, and how the probability of its
    class follows: the curves of figure 5 of Zeiler & Fergus, for any network and any layers.

    Arrays: ``amount`` [transform, step], in pixels (shifts: down and to the right are positive), times (scale) or
    degrees (rotation, counterclockwise); ``distance`` [image, layer, transform, step], Euclidean, between the layer's
    values for the moved image and for the image as it is, in activation; ``relative`` [image, layer, transform, step],
    the same divided by the length of the features of the image as it is; ``probability`` [image, transform, step], 0 to
    1, of the image's true class where every image has one, otherwise of the class predicted for the image as it is;
    ``most_probable`` [image, transform, step], a class; ``example`` [image, transform, example, row, column, color],
    the image at the first, middle and last amount; ``picture`` [image, row, column, color]. Those of classes are there
    where the network gives scores.

    Misleads when: the border is forgotten. What a shift or a turn brings in from beyond the image is made up, and the
    features notice it as well as the move; small moves and a second filling tell. Distances of layers of different size
    can't be compared, and a relative distance above 1.4 says no more than 1.4: that of unrelated directions.
    """

    name: ClassVar[str] = "invariance"
    title: ClassVar[str] = "Invariance"
    papers: ClassVar[tuple[str, ...]] = ("zeiler2014visualizing",)
    target: ClassVar = "network"
    needs: ClassVar = ("images",)
    long: ClassVar[bool] = True
    formula: ClassVar[str] = "distance = ‖f(move(x)) − f(x)‖₂;  relative = distance / ‖f(x)‖₂"
    caveat: ClassVar[str] = (
        "What comes in from beyond the border is made up, and features notice it as well as the move itself."
    )

    layers: str = parameter(
        "", "layers, separated by commas; empty: the first rectified maps and what the scores are computed from"
    )
    transforms: str = parameter("vertical,horizontal,scale,rotation", "which moves, separated by commas")
    steps: int = parameter(13, "amounts of each move", minimum=2, maximum=1000)
    translation: float = parameter(
        0.25, "the largest shift, both ways, as a share of the side", minimum=0.0, maximum=1.0
    )
    scale: float = parameter(
        1.8, "the largest enlargement (below 1: the smallest reduction)", minimum=0.1, maximum=10.0
    )
    rotation: float = parameter(360.0, "the largest turn in degrees, counterclockwise", minimum=-360.0, maximum=360.0)
    fill: str = parameter("border", f"{FILL_HELP}; border (the image's own border goes on)", choices=("border", *FILLS))

    def compute(self, network: Network, target: Target, batch: Batch | None) -> View:  # noqa: ARG002 - the whole network
        """One forward pass per image and amount, in mini-batches."""
        assert batch is not None  # noqa: S101 - `needs` says so
        layers = chosen_layers(network, self.layers, first_and_last(network))
        moves = self._moves(network)
        examples = len(batch) * len(moves) * _EXAMPLES * batch.tensor[0].numel()
        check_size(examples // 4, f"the examples of {len(batch)} images", "pass fewer images")
        found = _Curves(network, layers, moves, batch)
        fillings = None if self.fill == "border" else filling(network, batch.tensor, self.fill)
        total = len(batch) * len(moves) * self.steps
        done = 0
        for image, pixels in enumerate(batch.tensor):
            found.look_at(image, pixels)
            for transform, move in enumerate(moves):
                beyond = None if fillings is None else fillings[image]
                for start in range(0, self.steps, found.images_at_once):
                    report(done, total, "invariance")
                    preview(lambda: self._view(network, batch, layers, moves, found))
                    steps = range(start, min(start + found.images_at_once, self.steps))
                    found.add(image, transform, steps, move.of(pixels, beyond, steps))
                    done += len(steps)
                found.show(image, transform, move.of(pixels, beyond, found.example_steps))
        report(total, total, "invariance")
        return self._view(network, batch, layers, moves, found)

    def refusal(self, network: Network, target: Target) -> ConvscopeError | None:  # noqa: ARG002 - the whole network
        """A layer or a transform that isn't there."""
        try:
            chosen_layers(network, self.layers, first_and_last(network))
            parse_moves(self.transforms)
        except ConvscopeError as refused:
            return refused
        return None

    def _moves(self, network: Network) -> tuple[Moves, ...]:
        reach = {"scale": self.scale, "rotation": self.rotation}
        return tuple(
            Moves.make(name, self.steps, network.image_size, reach.get(name, self.translation))
            for name in parse_moves(self.transforms)
        )

    def _view(
        self, network: Network, batch: Batch, layers: tuple[Layer, ...], moves: tuple[Moves, ...], found: _Curves
    ) -> View:
        arrays = found.arrays()
        ranges = {name: value_range(array) for name, array in arrays.items() if array.dtype.kind == "f"}
        images = len(batch)
        labels = [int(label) for label in found.labels] if found.classes else []
        names = sorted(set(arrays["most_probable"].flatten().tolist())) if found.classes else []
        meta: dict[str, Any] = {
            "caption": f"How far features move away when {images} image{'s are' if images != 1 else ' is'} moved, at "
            f"{', '.join(layer.address for layer in layers)}.",
            "warnings": not_finite(ranges, {"distance": "distance"}) + found.warnings(layers, batch.names),
            "ranges": ranges,
            "layer": None,
            "units": None,
            "layers": [layer.address for layer in layers],
            "transforms": [move.name for move in moves],
            "amount_units": [move.unit for move in moves],
            "labels": labels,
            "label_names": [network.class_name(label) for label in labels],
            "true_labels": found.true_labels,
            "class_names": {str(each): network.class_name(each) for each in names},
            "fill": self.fill,
        }
        return View("invariance", arrays, {name: AXES[name] for name in arrays}, meta)


class _Curves:
    """What is found, image by image and amount by amount."""

    def __init__(self, network: Network, layers: tuple[Layer, ...], moves: tuple[Moves, ...], batch: Batch) -> None:
        self.network = network
        self.layers = layers
        self.moves = moves
        self.classes = network.classes >= 2
        self.images_at_once = min(_MOST_AT_ONCE, images_per_pass(network))
        images, steps = len(batch), len(moves[0].amounts)
        self.amount = np.array([move.amounts for move in moves], np.float32)
        self.distance = np.full((images, len(layers), len(moves), steps), np.nan, np.float32)
        self.length = np.zeros((images, len(layers)))
        self.probability = np.full((images, len(moves), steps), np.nan, np.float32)
        self.most_probable = np.zeros((images, len(moves), steps), np.int32)
        known = [label for label in batch.labels if label is not None and 0 <= label < network.classes]
        self.true_labels = self.classes and len(known) == images
        self.labels = np.array(known if self.true_labels else np.zeros(images), np.int32)
        rows, columns, colors = (pictures := [network.unprepare(image) for image in batch.tensor])[0].shape
        self.picture = np.stack(pictures)
        self.example = np.zeros((images, len(moves), _EXAMPLES, rows, columns, colors), np.uint8)
        self._features: dict[str, torch.Tensor] = {}

    def look_at(self, image: int, pixels: torch.Tensor) -> None:
        """The image as it is: its features, from which distances are counted, and its class."""
        self._features = {}

        def keep(address: str, output: torch.Tensor) -> None:
            self._features[address] = self._units(address, output)[0].detach().double().clone()

        scores = self._pass(pixels[None], keep)
        for index, layer in enumerate(self.layers):
            self.length[image, index] = float(self._features[layer.address].norm())
        if scores is not None and not self.true_labels:
            self.labels[image] = int(scores[0].argmax())

    def add(self, image: int, transform: int, steps: range, moved: torch.Tensor) -> None:
        """The distances and probabilities of some moved copies ``[step, channel, row, column]``."""
        index = {layer.address: number for number, layer in enumerate(self.layers)}
        part = slice(steps.start, steps.stop)

        def measure(address: str, output: torch.Tensor) -> None:
            difference = self._units(address, output).detach().double() - self._features[address]
            norms = difference.flatten(1).norm(dim=1).cpu().numpy()
            self.distance[image, index[address], transform, part] = norms

        scores = self._pass(moved, measure)
        # The image that isn't moved is at no distance, whatever the last digit of another batch says.
        still = [step for step in steps if self.moves[transform].still(step)]
        self.distance[image, :, transform, still] = 0
        if scores is not None:
            self.probability[image, transform, part] = (
                log_probabilities(scores).exp()[:, self.labels[image]].cpu().numpy()
            )
            self.most_probable[image, transform, part] = scores.argmax(dim=1).cpu().numpy()

    @property
    def example_steps(self) -> list[int]:
        """The first, middle and last amount."""
        steps: list[int] = np.linspace(0, self.amount.shape[1] - 1, _EXAMPLES).round().astype(int).tolist()
        return steps

    def show(self, image: int, transform: int, moved: torch.Tensor) -> None:
        """Keep how the image looks at :attr:`example_steps`."""
        self.example[image, transform] = [self.network.unprepare(each) for each in moved]

    def _units(self, address: str, output: torch.Tensor) -> torch.Tensor:
        return next(layer for layer in self.layers if layer.address == address).to_units(output)

    def _pass(self, pixels: torch.Tensor, consume: Callable[[str, torch.Tensor], None]) -> torch.Tensor | None:
        with self.network.trace([layer.address for layer in self.layers], consume=consume) as trace:
            output = trace.run(pixels, stop=not self.classes)
            return self.network.scores(output).detach() if self.classes else None

    def arrays(self) -> dict[str, Array]:
        """All that was found so far; NaN where nothing was yet."""
        length = self.length[:, :, None, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = np.where(self.distance == 0, 0.0, self.distance / length).astype(np.float32)
        arrays: dict[str, Array] = {
            "amount": self.amount,
            "distance": self.distance.copy(),
            "relative": relative,
            "example": self.example.copy(),
            "picture": self.picture,
        }
        if self.classes:
            arrays |= {"probability": self.probability.copy(), "most_probable": self.most_probable.copy()}
        return arrays

    def warnings(self, layers: tuple[Layer, ...], names: tuple[str, ...]) -> list[str]:
        """Images whose features are all zero: they are at no relative distance from anything."""
        found = []
        for index, layer in enumerate(layers):
            empty = [name for name, length in zip(names, self.length[:, index], strict=True) if length == 0]
            if empty:
                found.append(f"All values of {layer.address} are zero for {empty[0]}: it has no relative distance.")
        return found


__all__ = ["Invariance"]
