"""Projections: the figure of Zeiler and Fergus for any network. Each unit's top patches, and what in each drove it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from convscope.errors import BadImage, ConvscopeError, Refused, UnknownName
from convscope.images.thumbnails import in_color
from convscope.methods.backward import mini_batch_size
from convscope.methods.base import method_class, parameter
from convscope.methods.ranges import check_size
from convscope.mining.from_study import FromStudy
from convscope.mining.patches import NEUTRAL, window_of
from convscope.mining.top_patches import ranked
from convscope.network.unit import channel_numbers
from convscope.progress import report
from convscope.view import Array, View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convscope.methods.base import Target
    from convscope.mining.pictures import StudyPictures
    from convscope.network.batch import Batch
    from convscope.network.layer import Layer
    from convscope.network.network import Network
    from convscope.trace import ReluRule

RULES: dict[str, ReluRule | None] = {"deconvnet": "deconvnet", "guided_backprop": "guided", "gradient": None}
MESSAGE = "projections"
# Backward passes through one forward pass; more than these, and the pass is made again.
_MOST_ROUNDS = 8
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Projections(FromStudy):
    """Each unit's top patches and, beside each, the projection of the unit's activation back onto the pixels of that
    image: the gradient of the one neuron that was found strongest, through the ReLU rule ``rule``, cropped by the
    same box as the patch.

    Arrays: ``value``, ``image``, ``row``, ``column`` [unit, rank] and ``box`` [unit, rank, side] as in ``top_patches``;
    ``window`` [unit, rank, side] (row, column, rows, columns in prepared pixels: what part of the image, and of what
    lies beyond its border, the two pictures show); ``projection`` [unit, rank, row, column, channel] (real, activation
    per prepared-input unit; 0 beyond the border, and behind the window where windows differ in size); ``patch`` uint8
    [unit, rank, row, column, color] (what the network saw there; gray beyond the border); ``reached`` [unit, rank] (the
    neuron's value as computed now, which must be the study's ``value``; NaN where there is no picture).

    Misleads when: it is read as what the unit detects. The deconvnet and guided backpropagation sharpen whatever edges
    are there, and look almost the same for other units and for random weights in the layers above (Nie et al. 2018,
    Adebayo et al. 2018): compare with ``rule="gradient"``. Each projection belongs to its own image: through max
    pooling and ReLU the same unit's projection is another one in another image. It is drawn on a scale of its own.

    Raises :class:`Refused` when nothing was mined, with another network, when the images are gone, and where the ReLU
    rule has no meaning.
    """

    name: ClassVar[str] = "projections"
    title: ClassVar[str] = "Projections of top patches"
    papers: ClassVar[tuple[str, ...]] = (
        "zeiler2014visualizing",
        "springenberg2014striving",
        "yosinski2015understanding",
        "nie2018theoretical",
        "adebayo2018sanity",
    )
    formula: ClassVar[str] = (
        "P[u, r] = ∂a[u, p] / ∂image through the ReLU rule, at the place p of u's maximum on its image of rank r"
    )
    caveat: ClassVar[str] = (
        "It sharpens whatever edges are in the patch, and by deconvnet or guided backpropagation other units look much "
        "the same: what is drawn was seen, but need not be why the unit answers."
    )
    long: ClassVar[bool] = True

    rule: str = parameter("deconvnet", "how ReLU passes the signal back", choices=tuple(RULES))
    ranks: int = parameter(9, "how many patches of each unit; 0 is all that were kept", minimum=0)
    units: str = parameter("", "which units of a layer: 0-15 or 3,7,20-25; empty is all")

    def compute(self, network: Network, target: Target, batch: Batch | None) -> View:  # noqa: ARG002 - from a study
        """Look up the top patches, then go back from each through its own image."""
        pictures, state = self.opened(network, target)
        layer = target.layer
        assert layer is not None  # noqa: S101 - opened() asks first
        chosen = self._channels(target, layer)
        top = ranked(network, layer.address, state, "top", self.ranks)
        arrays = {name: array[chosen] for name, array in top.items()}
        run = _Run(network, pictures, layer, chosen, self.rule, arrays)
        run.project()
        return self._view(target, run)

    def refusal(self, network: Network, target: Target) -> ConvscopeError | None:
        """What the attribution method of that rule refuses."""
        return None if self.rule == "gradient" else method_class(self.rule).make({}).refusal(network, target)

    def _channels(self, target: Target, layer: Layer) -> list[int]:
        if target.channel is None:
            return channel_numbers(self.units, layer.units, layer.address)
        if self.units:
            raise ConvscopeError(
                f"{target} is one unit already", next_step=f"name the layer, {layer.address}, or leave out units"
            )
        return [target.channel]

    def _view(self, target: Target, run: _Run) -> View:
        layer, ranks = run.layer, run.arrays["value"].shape[1]
        named = str(target) if target.channel is not None else f"each unit of {layer.address}"
        if self.units:
            named = f"units {self.units} of {layer.address}"
        shown = np.unique(run.arrays["image"])
        ids = shown[shown >= 0].tolist()
        words = {"deconvnet": "deconvnet", "guided_backprop": "guided backpropagation", "gradient": "gradient"}
        meta = {
            "layer": layer.address,
            "units": run.channels if len(run.channels) != layer.units or target.channel is not None else None,
            "caption": f"The {ranks} strongest patches of {named}, each beside the {words[self.rule]} projection "
            "of its one strongest neuron onto its own image.",
            "warnings": run.warnings(),
            "rule": self.rule,
            "study": {"name": run.pictures.name, "images": run.pictures.study.count, "done": run.pictures.study.done},
            "image_names": dict(zip(map(str, ids), run.pictures.study.names(ids), strict=True)),
            "image_size": list(run.network.image_size),
            "missing": {str(number): reason for number, reason in sorted(run.missing.items())},
        }
        return View("projections", run.arrays, {name: _axes(name) for name in run.arrays}, meta)


@dataclass(frozen=True)
class _Job:
    """One neuron to project: its place in the arrays, and on the layer's maps."""

    unit: int
    rank: int
    channel: int
    row: int
    column: int


class _Run:
    """The state of one computation: the arrays that fill up, and which images can't be had."""

    def __init__(
        self,
        network: Network,
        pictures: StudyPictures,
        layer: Layer,
        channels: list[int],
        rule: str,
        top: dict[str, Array],
    ) -> None:
        self.network, self.pictures, self.layer, self.channels, self.rule = network, pictures, layer, channels, rule
        self.missing: dict[int, str] = {}
        units, ranks = top["value"].shape
        size = network.image_size
        window = np.array([[window_of(tuple(box), size) for box in row] for row in top["box"].tolist()], np.int32)
        window = window.reshape(units, ranks, 4) * (top["image"] >= 0)[:, :, None]
        rows, columns = (int(window[:, :, side].max(initial=0)) for side in (2, 3))
        shape = (units, ranks, rows, columns, network.channels)
        check_size(
            int(np.prod(shape)),
            f"{units} × {ranks} projections of {rows} × {columns} pixels",
            "name fewer units, like --units 0-15, or fewer ranks",
        )
        self.arrays: dict[str, Array] = {
            **{name: top[name] for name in ("value", "image", "row", "column", "box")},
            "window": window.astype(np.int32),
            "projection": np.zeros(shape, np.float32),
            "patch": np.full((*shape[:4], 3), NEUTRAL, np.uint8),
            "reached": np.full((units, ranks), np.nan, np.float32),
        }

    def project(self) -> None:
        """Fill in the projections, image by image: one that several units share goes forward once."""
        jobs = self._jobs()
        total = sum(map(len, jobs.values()))
        self._ask_for_the_images(total)
        done = 0
        report(done, total, MESSAGE)
        for images, lists in self._batches(jobs):
            self._backward(images, lists)
            done += sum(map(len, lists))
            report(done, total, MESSAGE)

    def _jobs(self) -> dict[int, list[_Job]]:
        """What is asked of each image; those of which most is asked come first, so that batches are even."""
        found: dict[int, list[_Job]] = {}
        arrays = self.arrays
        for unit, rank in np.argwhere(arrays["image"] >= 0).tolist():
            row, column = int(arrays["row"][unit, rank]), int(arrays["column"][unit, rank])
            job = _Job(unit, rank, self.channels[unit], row, column)
            found.setdefault(int(arrays["image"][unit, rank]), []).append(job)
        return dict(sorted(found.items(), key=lambda pair: (-len(pair[1]), pair[0])))

    def _ask_for_the_images(self, total: int) -> None:
        if not total:
            return
        try:
            self.pictures.images  # noqa: B018 - whether they can be had at all
        except UnknownName as error:
            raise Refused(
                error.what, where=error.where, next_step=error.next_step or "pass images=, where they are now"
            ) from error

    def _batches(self, jobs: dict[int, list[_Job]]) -> Iterator[tuple[torch.Tensor, list[list[_Job]]]]:
        """Prepared images with at most ``_MOST_ROUNDS`` jobs each."""
        size = mini_batch_size(self.network)
        images: list[torch.Tensor] = []
        lists: list[list[_Job]] = []
        for number, asked in jobs.items():
            try:
                prepared = self._read(number, asked)
            except (BadImage, UnknownName) as error:
                self.missing[number] = error.what
                continue
            for start in range(0, len(asked), _MOST_ROUNDS):
                images.append(prepared)
                lists.append(asked[start : start + _MOST_ROUNDS])
                if len(images) == size:
                    yield torch.cat(images), lists
                    images, lists = [], []
        if images:
            yield torch.cat(images), lists

    def _read(self, number: int, asked: list[_Job]) -> torch.Tensor:
        """One image as the network takes it; its patches are cut on the way."""
        content = self.pictures.read(number)
        with self.pictures.image(number).named():
            prepared = self.network.prepare(content.pixels())
        seen = in_color(self.network.unprepare(prepared))
        for job in asked:
            _cut(seen, self.arrays["window"][job.unit, job.rank], self.arrays["patch"][job.unit, job.rank])
        return prepared

    def _backward(self, images: torch.Tensor, lists: list[list[_Job]]) -> None:
        """One forward pass, then each image's neurons one after the other: a one-hot seed of 1 for each."""
        network, layer, address = self.network, self.layer, self.layer.address
        with network.trace([address], gradients=True, relu_rule=RULES[self.rule]) as trace:
            trace.run(images.to(network.device, network.dtype), stop=True)
            maps = layer.to_units(trace[address])
            if len(maps) != len(images):
                raise Refused(
                    f"{address} returned {len(maps)} maps for {len(images)} images: it mixes images",
                    next_step="choose a layer before or after it",
                )
            for number in range(max(map(len, lists))):
                places, jobs = zip(
                    *((place, asked[number]) for place, asked in enumerate(lists) if number < len(asked)), strict=True
                )
                neurons = [(job.channel, job.row, job.column) for job in jobs]
                channel, row, column = torch.tensor(neurons, device=maps.device).T
                values = maps[torch.tensor(places, device=maps.device), channel, row, column]
                gradient = trace.gradients(values.sum(), ["input"])["input"].to("cpu", torch.float32)
                whole = gradient.permute(0, 2, 3, 1).numpy()
                for place, job, value in zip(places, jobs, values.tolist(), strict=True):
                    self.arrays["reached"][job.unit, job.rank] = value
                    window = self.arrays["window"][job.unit, job.rank]
                    _cut(whole[place], window, self.arrays["projection"][job.unit, job.rank])

    def warnings(self) -> list[str]:
        """What isn't as it was when the study was mined, or isn't exact."""
        found = []
        if not self.pictures.study.finished:
            study = self.pictures.study
            found.append(f"mining isn't finished: these are {study.done:,} of {study.count:,} images")
        if not self.layer.receptive_field.exact:
            found.append(f"the boxes are upper bounds: {self.layer.receptive_field.reason}")
        value, reached = self.arrays["value"].astype(np.float64), self.arrays["reached"].astype(np.float64)
        known = np.isfinite(value) & np.isfinite(reached)
        largest = float(np.abs(value[known]).max(initial=0.0))
        apart = np.abs(value - reached)[known]
        wrong = int((apart > _TOLERANCE * largest).sum())
        if wrong:
            found.append(
                f"{wrong:,} of {apart.size:,} neurons don't have the value that was mined, by up to {apart.max():.3g}: "
                "the network computes otherwise here, on another device or in another precision"
            )
        there = np.isfinite(reached)
        drawn = int(there.sum())
        full = np.asarray((self.arrays["projection"] != 0).any(axis=(2, 3, 4)))
        empty = drawn - int(full[there].sum())
        if empty:
            found.append(f"{empty:,} of {drawn:,} projections are exactly zero: nothing passes back through the ReLUs")
        lost = int((self.arrays["image"] >= 0).sum()) - drawn
        if lost:
            reasons = "; ".join(sorted(set(self.missing.values()))[:3])
            found.append(f"{lost:,} patches have no picture: {reasons}")
        return found


def _cut(whole: Array, window: Array, place: Array) -> None:
    """What of ``whole`` [row, column, …] lies in the window, written to the same place of ``place``."""
    row, column, rows, columns = (int(each) for each in window)
    top, left = max(0, row), max(0, column)
    bottom, right = min(row + rows, whole.shape[0]), min(column + columns, whole.shape[1])
    if top < bottom and left < right:
        place[top - row : bottom - row, left - column : right - column] = whole[top:bottom, left:right]


def _axes(name: str) -> tuple[str, ...]:
    if name in ("projection", "patch"):
        return ("unit", "rank", "row", "column", "channel" if name == "projection" else "color")
    return ("unit", "rank", "side") if name in ("box", "window") else ("unit", "rank")


__all__ = ["RULES", "Projections"]
