"""Attribution: what in each image drove a unit, a class score or a loss. What all methods of this kind share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from convscope.methods.attribution.seed import HELP as SEED_HELP
from convscope.methods.attribution.seed import SEEDS, BoundSeed, Choice
from convscope.methods.backward import images_per_pass, part_of
from convscope.methods.base import Method, Target, parameter
from convscope.methods.objective import HELP
from convscope.methods.ranges import check_size, not_finite, to_array
from convscope.progress import report
from convscope.view import View, value_range

if TYPE_CHECKING:
    from convscope.methods.objective import ObjectiveLike
    from convscope.network.batch import Batch
    from convscope.network.network import Network
    from convscope.view import Array

Told = Callable[[int, int], None]
"""Who is told that ``done`` of ``total`` passes over the images at hand are finished."""

AXES: dict[str, tuple[str, ...]] = {
    "attribution": ("image", "channel", "row", "column"),
    "map": ("image", "row", "column"),
    "picture": ("image", "row", "column", "color"),
    "place": ("image", "coordinate"),
}
NOT_CLASS_SENSITIVE = (
    "Not class-sensitive: it shows much the same for every class and for random weights "
    "(Nie et al. 2018, Adebayo et al. 2018)."
)


def nobody(_done: int, _total: int) -> None:
    """Nobody is told."""


@dataclass(frozen=True, eq=False)
class Attributed:
    """What a method found in some images. ``extra`` arrays begin with the image axis; ``axes`` names theirs."""

    values: torch.Tensor  # float32 on the CPU [image, channel, row, column]; one channel where a method makes maps
    objective: list[float]  # one for each image
    labels: list[int] = field(default_factory=list)  # the class each image's objective is about; empty for a unit
    extra: Mapping[str, Array] = field(default_factory=dict)
    axes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)  # of the method and network, the same for every mini-batch


@dataclass(frozen=True)
class Attribution(Method):
    """Base of every attribution method; a subclass writes :meth:`attribute`.

    ``class_sensitive`` is False where a map hardly depends on the class that it is said to explain; ``signed`` where
    values are on both sides of 0.
    """

    target: ClassVar = "objective"
    needs: ClassVar = ("images",)
    class_sensitive: ClassVar[bool] = True
    signed: ClassVar[bool] = True
    # Extra arrays that are hardly more than rounding where all is well, and so change with the size of a mini-batch.
    rounding: ClassVar[tuple[str, ...]] = ()

    objective: ObjectiveLike = parameter("score", HELP)  # noqa: RUF009 - parameter() is a field()
    seed: str = parameter("maximum", SEED_HELP, choices=SEEDS)
    reduce: str = parameter(
        "sum",
        "how the channels become one map: sum, maximum (of the absolute values), norm (L2)",
        choices=("sum", "maximum", "norm"),
    )

    @abstractmethod
    def attribute(self, network: Network, bound: BoundSeed, batch: Batch, told: Told = nobody) -> Attributed:
        """What is found in these images, all at once; whoever has many cuts them into mini-batches first.

        Where ``bound`` has its choice made, that is kept; otherwise each image makes its own.
        """

    def bind(self, network: Network, target: Target, batch: Batch) -> BoundSeed:
        """What is explained: the target where there is one, otherwise the objective."""
        return BoundSeed.bind(network, target, self.objective, self.seed, batch)

    def images_at_once(self, network: Network) -> int:
        """How many images :meth:`attribute` should be given at a time."""
        return images_per_pass(network)

    def signed_values(self) -> bool:
        """Whether the attribution has values on both sides of 0."""
        return self.signed

    def signed_map(self) -> bool:
        """Whether the map has."""
        return self.signed_values() and self.reduce == "sum"

    def reduced(self, values: torch.Tensor) -> torch.Tensor:
        """``[image, row, column]`` of ``[image, channel, row, column]``."""
        if self.reduce == "maximum":
            return values.abs().amax(dim=1)
        return values.norm(dim=1) if self.reduce == "norm" else values.sum(dim=1)

    def compute(self, network: Network, target: Target, batch: Batch | None) -> View:
        """Every image's attribution, in mini-batches."""
        assert batch is not None  # noqa: S101 - `needs` says so
        check_size(
            2 * len(batch) * batch.tensor[0].numel(), f"the attribution of {len(batch)} images", "pass fewer images"
        )
        bound = self.bind(network, target, batch)
        message = self.title.lower()
        size = len(batch) if bound.whole_batch else self.images_at_once(network)
        parts: list[Attributed] = []
        report(0, len(batch), message)
        for start in range(0, len(batch), size):
            stop = min(start + size, len(batch))
            told = _telling(start, stop - start, len(batch), message)
            parts.append(self.attribute(network, bound.part(slice(start, stop)), part_of(batch, start, stop), told))
        return self._view(network, target, bound, batch, parts)

    def _view(self, network: Network, target: Target, bound: BoundSeed, batch: Batch, parts: list[Attributed]) -> View:
        values = torch.cat([part.values for part in parts])
        extra = {name: np.concatenate([part.extra[name] for part in parts]) for name in parts[0].extra}
        arrays: dict[str, Array] = {
            "attribution": to_array(values),
            "map": to_array(self.reduced(values)),
            "picture": np.stack([network.unprepare(image) for image in batch.tensor]),
            **extra,
        }
        axes = {**AXES, **{name: tuple(each) for part in parts[:1] for name, each in part.axes.items()}}
        labels = [label for part in parts for label in part.labels]
        objective = [value for part in parts for value in part.objective]
        ranges = {name: value_range(array) for name, array in arrays.items() if array.dtype.kind == "f"}
        meta = {
            "layer": target.layer.address if target.layer is not None else "",
            "units": None if target.channel is None else [target.channel],
            "position": None if target.position is None else list(target.position),
            "caption": f"{self.title}: {self.explanation(bound, len(batch))}.",
            "warnings": not_finite(ranges, {"attribution": "attribution"})
            + nothing_found(arrays["attribution"], batch.names, self.reason_for_nothing(bound))
            + list(dict.fromkeys(warning for part in parts for warning in part.warnings)),
            "ranges": ranges,
            "signed": self.signed_map(),
            "signed_attribution": self.signed_values(),
            "reduce": self.reduce,
            **({"relative_to_batch": list(self.rounding)} if self.rounding else {}),
            "badge": "" if self.class_sensitive else NOT_CLASS_SENSITIVE,
            "facts": dict(parts[0].facts),
            "label_names": [network.class_name(label) for label in labels],
            **bound.meta(objective, labels, len(batch)),
        }
        return View("attribution", arrays, {name: axes[name] for name in arrays}, meta)

    def explanation(self, bound: BoundSeed, images: int) -> str:
        """The caption behind the title."""
        return (
            f"what in each of {images} images drives {bound.caption}" if images > 1 else f"what drives {bound.caption}"
        )

    def reason_for_nothing(self, bound: BoundSeed) -> str:
        """Why an image's attribution is zero at every pixel, where it is."""
        return f"{bound.text} doesn't change with any of them there"


def places(choice: Choice, images: int) -> Array:
    """Where in the unit's map each image's seed lies, int32 ``[image, coordinate]``; -1 where it has no one place."""
    if choice.places is None:
        return np.full((images, 2), -1, np.int32)
    found: Array = choice.places.cpu().numpy().astype(np.int32)
    return found


def each_image(values: torch.Tensor, images: int) -> list[float]:
    """An objective's values as numbers, one for each image: a function of one's own has one for all, their sum."""
    numbers: list[float] = values.detach().double().flatten().tolist()
    return numbers if len(numbers) == images else [numbers[0] / images] * images


def nothing_found(attribution: Array, names: tuple[str, ...], reason: str) -> list[str]:
    """A warning where an image's attribution is zero at every pixel: a black picture has a reason, too."""
    empty = [name for name, values in zip(names, attribution, strict=True) if not values.any()]
    if not empty:
        return []
    more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
    return [f"Exactly zero at every pixel of {empty[0]}{more}: {reason}."]


def _telling(start: int, images: int, of: int, message: str) -> Told:
    def told(done: int, total: int) -> None:
        report(start * total + done * images, of * total, message)

    return told


__all__ = ["AXES", "NOT_CLASS_SENSITIVE", "Attributed", "Attribution", "Told", "each_image", "nobody", "places"]
