"""Occlusion: a square slides over the image, and what the network loses at each place is recorded."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from convscope.errors import ConvscopeError, Refused
from convscope.methods.attribution.attribution import Attributed, Attribution, Told, nobody
from convscope.methods.attribution.seed import Choice
from convscope.methods.backward import images_per_pass
from convscope.methods.base import Target, parameter
from convscope.methods.fill import FILLS, filling
from convscope.methods.fill import HELP as FILL_HELP
from convscope.methods.graph import last_maps
from convscope.methods.objective import log_probabilities
from convscope.methods.ranges import check_size, to_array

if TYPE_CHECKING:
    from convscope.methods.attribution.seed import BoundSeed
    from convscope.network.batch import Batch
    from convscope.network.layer import Layer
    from convscope.network.network import Network
    from convscope.view import Array

_COARSE = ("image", "row", "column")
_MOST_AT_ONCE = 8


@dataclass(frozen=True)
class Occlusion(Attribution):
    """What is lost where: a square covers one place of the image after the other, and the drop of the objective is
    recorded by the square's place. No gradient is involved: the network is asked again for every place. Beside it the
    three maps of Zeiler & Fergus: the activity of one unit, the probability of the class, and the most probable class.

    Arrays, by the place of the square (coarse row and column; ``facts`` holds the pixels): ``drop``
    [image, row, column], objective without minus with the square; ``activity`` [image, row, column], the sum of one
    unit's map: the target's unit, or of ``layer`` the one with the largest value without the square; ``unit`` [image],
    which one; ``activity_whole`` [image], without the square; ``probability`` [image, row, column], 0 to 1, of the
    class that the objective is about; ``most_probable`` [image, row, column], a class; ``probability_whole`` [image].
    Those of classes are there when the objective needs the network's answer, those of a unit where there is one.
    ``map`` [image, row, column] and ``attribution`` [image, channel, row, column] (one channel) give every pixel the
    mean drop of the squares that cover it; ``picture`` [image, row, column, color].

    Misleads when: the filling is something to the network, too: a gray square has edges and a color, and may add
    evidence as well as take it away. Try others. What is there twice drops nowhere, as each square leaves the other;
    and nothing smaller than the square can be told apart.
    """

    name: ClassVar[str] = "occlusion"
    title: ClassVar[str] = "Occlusion"
    papers: ClassVar[tuple[str, ...]] = ("zeiler2014visualizing",)
    long: ClassVar[bool] = True
    formula: ClassVar[str] = (
        "drop[s] = objective(x) − objective(x with square s filled);  A[p] = mean of drop over s ∋ p"
    )
    caveat: ClassVar[str] = (
        "The filled square is something to the network, too, and what is there twice drops nowhere. Try other fillings "
        "and sizes."
    )

    window: int = parameter(
        0, "side of the square in pixels of the prepared image; 0 takes a fifth of the shorter side", minimum=0
    )
    stride: int = parameter(0, "pixels from one place to the next; 0 takes half the square's side", minimum=0)
    fill: str = parameter("gray", FILL_HELP, choices=FILLS)
    layer: str = parameter(
        "", "whose strongest unit's activity is recorded; empty: the target's unit, or the last maps before the answer"
    )

    def attribute(self, network: Network, bound: BoundSeed, batch: Batch, told: Told = nobody) -> Attributed:
        """One forward pass per image and place, in mini-batches across images."""
        places = self.places(network)
        looker = _Looker(network, bound, self._unit_of(network, bound))
        whole = looker.look(batch, torch.arange(len(batch)), batch.tensor, None)
        total = len(batch) * len(places)
        check_size(4 * total, f"occluding {total} places", "choose a larger stride")
        fillings = filling(network, batch.tensor, self.fill)
        size = looker.images_at_once
        parts: list[_Looked] = []
        for start in range(0, total, size):
            index = torch.arange(start, min(start + size, total))
            images = index // len(places)
            covered = batch.tensor[images].clone()
            for one, image, place in zip(covered, images.tolist(), (index % len(places)).tolist(), strict=True):
                at = places.window(place)
                one[at] = fillings[image][at]
            parts.append(looker.look(batch, images, covered, whole))
            told(min(start + size, total), total)
        return self._attributed(network, looker, whole, _Looked.joined(parts), places)

    def places(self, network: Network) -> Places:
        """Where the square goes, for images of this network's size."""
        rows, columns = network.image_size
        window = self.window or max(1, round(min(rows, columns) / 5))
        stride = self.stride or max(1, window // 2)
        if stride > window:
            raise ConvscopeError(
                f"a square of {window} pixels with a stride of {stride} leaves pixels that it never covers",
                next_step=f"choose a stride of at most {window}",
            )
        return Places((rows, columns), (min(window, rows), min(window, columns)), stride)

    def _unit_of(self, network: Network, bound: BoundSeed) -> tuple[Layer, int | None] | None:
        """The layer, and the unit if it is given, whose activity is recorded; None if there are no maps."""
        if self.layer:
            layer = network.layer(self.layer)
            if layer.opaque:
                raise Refused(f"{layer.address} has no maps: {layer.opaque}", next_step="choose another layer")
            return layer, None
        if bound.layer is not None and bound.objective.unit is not None:
            return bound.layer, bound.objective.unit[0]
        last = last_maps(network) if bound.needs_output else None
        return (last, None) if last is not None else None

    def refusal(self, network: Network, target: Target) -> ConvscopeError | None:  # noqa: ARG002 - holds for any
        """A stride that is too large."""
        try:
            self.places(network)
        except ConvscopeError as refused:
            return refused
        return None

    def _attributed(
        self, network: Network, looker: _Looker, whole: _Looked, looked: _Looked, places: Places
    ) -> Attributed:
        shape = (len(whole.values), *places.shape)
        drop = whole.values[:, None, None] - looked.values.reshape(shape)
        extra: dict[str, Array] = {"drop": to_array(drop)}
        if whole.activity is not None and looked.activity is not None and whole.unit is not None:
            extra["activity"] = to_array(looked.activity.reshape(shape))
            extra["activity_whole"] = to_array(whole.activity)
            extra["unit"] = whole.unit.cpu().numpy().astype(np.int32)
        if whole.probability is not None and looked.probability is not None and looked.most_probable is not None:
            extra["probability"] = to_array(looked.probability.reshape(shape))
            extra["probability_whole"] = to_array(whole.probability)
            extra["most_probable"] = looked.most_probable.reshape(shape).cpu().numpy().astype(np.int32)
        names = sorted(set(extra.get("most_probable", np.empty(0, int)).flatten().tolist()))
        return Attributed(
            places.spread(drop)[:, None].to("cpu", torch.float32),
            whole.values.double().tolist(),
            whole.labels,
            extra,
            {name: _COARSE if array.ndim == 3 else ("image",) for name, array in extra.items()},
            (),
            {
                "window": list(places.window_size),
                "stride": places.stride,
                "tops": places.tops,
                "lefts": places.lefts,
                "fill": self.fill,
                "layer": looker.layer.address if looker.layer is not None else "",
                "class_names": {str(each): network.class_name(each) for each in names},
            },
        )

    def explanation(self, bound: BoundSeed, images: int) -> str:
        """The caption behind the title."""
        of = f"each of {images} images" if images > 1 else "the image"
        return f"how far {bound.caption} drops when a square covers each place of {of} (filled with: {self.fill})"


@dataclass(frozen=True)
class Places:
    """Where a square is put on an image: from the upper left corner on in equal steps, so that every pixel is covered;
    the last one may reach beyond the border.

    >>> places = Places((5, 4), (2, 2), 2)
    >>> places.tops, places.lefts
    ([0, 2, 4], [0, 2])
    >>> places.spread(torch.arange(6.0).reshape(1, 3, 2))[0, 4].tolist()
    [4.0, 4.0, 5.0, 5.0]
    """

    image_size: tuple[int, int]
    window_size: tuple[int, int]
    stride: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of places."""
        rows, columns = (
            ceil((size - window) / self.stride) + 1
            for size, window in zip(self.image_size, self.window_size, strict=True)
        )
        return rows, columns

    def __len__(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def tops(self) -> list[int]:
        """Each row of places' first pixel row."""
        return [index * self.stride for index in range(self.shape[0])]

    @property
    def lefts(self) -> list[int]:
        """Each column of places' first pixel column."""
        return [index * self.stride for index in range(self.shape[1])]

    def window(self, place: int) -> tuple[slice, slice, slice]:
        """The pixels of one place, to index ``[channel, row, column]``."""
        top, left = (index * self.stride for index in divmod(place, self.shape[1]))
        rows, columns = self.window_size
        return slice(None), slice(top, top + rows), slice(left, left + columns)

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """``[image, row, column]`` of places as pixels: of each, the mean over the squares that cover it."""
        stamp = torch.ones((1, 1, *self.window_size), dtype=torch.float64, device=values.device)
        both = torch.stack([values.double(), torch.ones_like(values, dtype=torch.float64)]).flatten(0, 1)[:, None]
        sums = F.conv_transpose2d(both, stamp, stride=self.stride)[:, 0, : self.image_size[0], : self.image_size[1]]
        mean: torch.Tensor = sums[: len(values)] / sums[len(values) :]
        return mean


@dataclass(frozen=True, eq=False)
class _Looked:
    """What the network said to some images."""

    values: torch.Tensor
    labels: list[int] = field(default_factory=list)
    choice: Choice = field(default_factory=Choice)
    unit: torch.Tensor | None = None
    activity: torch.Tensor | None = None
    probability: torch.Tensor | None = None
    most_probable: torch.Tensor | None = None
    classes: torch.Tensor | None = None

    @classmethod
    def joined(cls, parts: list[_Looked]) -> _Looked:
        def of(name: str) -> torch.Tensor | None:
            found = [getattr(part, name) for part in parts]
            return None if found[0] is None else torch.cat(found)

        values = torch.cat([part.values for part in parts])
        labels = [label for part in parts for label in part.labels]
        named: dict[str, Any] = {
            name: of(name) for name in ("unit", "activity", "probability", "most_probable", "classes")
        }
        choice = Choice(*(_cat([getattr(part.choice, each) for part in parts]) for each in ("labels", "places")))
        return cls(values, labels, choice, **named)


def _cat(parts: list[torch.Tensor | None]) -> torch.Tensor | None:
    found = [each for each in parts if each is not None]
    return torch.cat(found) if found else None


class _Looker:
    """Asks the network about images, one forward pass at a time: the objective, a unit's activity, the classes."""

    def __init__(self, network: Network, bound: BoundSeed, unit: tuple[Layer, int | None] | None) -> None:
        self.network = network
        self.bound = bound
        self.layer: Layer | None = None if unit is None else unit[0]
        self.unit: int | None = None if unit is None else unit[1]
        recorded = (*bound.layers, *((self.layer.address,) if self.layer is not None else ()))
        self.layers = tuple(dict.fromkeys(recorded))
        # A function of one's own gives one number for all images it is shown, so it is shown one at a time.
        # Otherwise as many as pay (more images at once cost hardly less each), so that cancelling is felt at once.
        self.images_at_once = 1 if bound.whole_batch else min(_MOST_AT_ONCE, images_per_pass(network))

    def look(self, batch: Batch, images: torch.Tensor, pixels: torch.Tensor, whole: _Looked | None) -> _Looked:
        """What is said to ``pixels``, made of the batch's ``images``; classes, places and units are those of ``whole``,
        once it is known.
        """
        parts = []
        for start in range(0, len(images), self.images_at_once):
            index = images[start : start + self.images_at_once]
            part = _picked(batch, index.tolist(), pixels[start : start + self.images_at_once])
            parts.append(self._pass(part, index, whole))
        return _Looked.joined(parts)

    def _pass(self, batch: Batch, images: torch.Tensor, whole: _Looked | None) -> _Looked:
        bound = self.bound
        if whole is not None:
            kept = (None if each is None else each[images] for each in (whole.choice.labels, whole.choice.places))
            bound = bound.fixed(Choice(*kept))
        elif bound.choice is not None:
            kept = (None if each is None else each[images] for each in (bound.choice.labels, bound.choice.places))
            bound = bound.fixed(Choice(*kept))
        with self.network.trace(self.layers) as trace:
            output = trace.run(batch.tensor, stop=not bound.needs_output)
            bound = bound.fixed(bound.choose(self.network, trace, output, batch))
            values, labels = bound.values(self.network, trace, output, batch)
            maps = None if self.layer is None else self.layer.to_units(trace[self.layer.address])
        if maps is not None and len(maps) != len(batch):
            raise Refused(
                f"{self.layer.address if self.layer else ''} returned {len(maps)} maps for {len(batch)} images: it "
                "mixes images",
                next_step="choose another layer",
            )
        looked = _Looked(values.detach(), labels, bound.choice or Choice(), **self._activity(maps, images, whole))
        if not bound.needs_output or self.network.classes < 2:
            return looked
        return replace(looked, **self._classes(output, labels, images, whole))

    def _activity(self, maps: torch.Tensor | None, images: torch.Tensor, whole: _Looked | None) -> dict[str, Any]:
        if maps is None:
            return {}
        if self.unit is not None:
            unit = torch.full((len(maps),), self.unit, device=maps.device)
        elif whole is not None and whole.unit is not None:
            unit = whole.unit[images]
        else:
            unit = maps.amax(dim=(2, 3)).argmax(dim=1)
        chosen = maps[torch.arange(len(maps), device=maps.device), unit]
        return {"unit": unit, "activity": chosen.sum(dim=(1, 2))}

    def _classes(self, output: Any, labels: list[int], images: torch.Tensor, whole: _Looked | None) -> dict[str, Any]:
        scores = self.network.scores(output).detach()
        probability = log_probabilities(scores).exp()
        most_probable = scores.argmax(dim=1)
        if whole is not None and whole.classes is not None:
            classes = whole.classes[images]
        else:
            classes = torch.tensor(labels, device=scores.device) if labels else most_probable
        of_class = probability.gather(1, classes[:, None])[:, 0]
        return {"probability": of_class, "most_probable": most_probable, "classes": classes}


def _picked(batch: Batch, images: list[int], pixels: torch.Tensor) -> Batch:
    return replace(
        batch,
        tensor=pixels,
        fingerprints=tuple(batch.fingerprints[image] for image in images),
        names=tuple(batch.names[image] for image in images),
        labels=tuple(batch.labels[image] for image in images),
    )


__all__ = ["Occlusion", "Places"]
