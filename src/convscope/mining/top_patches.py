"""Top patches: the part of each image that excites a unit most, least and usually, from a study that was mined."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from convscope.methods.base import Target, parameter
from convscope.mining.from_study import FromStudy
from convscope.view import Array, View, value_range

if TYPE_CHECKING:
    from convscope.mining.pictures import StudyPictures
    from convscope.mining.state import LayerState
    from convscope.network.batch import Batch
    from convscope.network.network import Network

MOST_NAMES = 50_000
WHICH = ("top", "bottom", "quantile")
STATISTICS = (
    "mean",
    "variance",
    "pooled_variance",
    "maximum",
    "minimum",
    "zero_fraction",
    "zero_bound",
    "positive_fraction",
    "positive_bound",
    "not_finite",
    "clipped",
)


@dataclass(frozen=True)
class TopPatches(FromStudy):
    """The images that excite each unit most, where their maximum is, and the box of pixels that the unit sees there.

    Arrays: ``value`` [unit, rank] (the maximum of the unit's map over the image, real, in the network's own units;
    largest first, NaN where fewer images than ranks count), ``image`` [unit, rank] (the study's image ids, −1 for
    none), ``row`` and ``column`` [unit, rank] (of the maximum on the unit's map, the first of equals), ``box`` [unit,
    rank, side] (row, column, rows, columns in pixels of the prepared image, not clipped: what lies beyond the image is
    padding). ``bottom_…`` are the same for the images whose minimum is lowest; ``quantile_…`` for images spread evenly
    from the highest to the lowest maximum over a random sample of the images, where ``quantile`` [unit, rank] is the
    fraction of the sample (0 to 1) whose maximum is no larger.

    Per unit, float32 [unit]: ``mean`` and ``variance`` over all images and positions, ``pooled_variance`` of each
    image's mean, ``maximum``, ``minimum``, ``zero_fraction`` of exact zeros with the half width ``zero_bound`` of its
    95 % interval, ``positive_fraction`` of images that excite the unit anywhere with a 95 % upper limit
    ``positive_bound`` (for a unit that no image excited, how rare it may still be), ``not_finite`` and ``clipped``
    (numbers of images). ``class_index`` and ``class_count`` [unit, class_rank] count the classes of the top images,
    most frequent first (−1 and 0 for none), by the images' own labels, or by the network's top class where they have
    none. ``selectivity`` [unit] is the most frequent class's share of the top images, 0 to 1: the precision of Zhou et
    al. (2015). ``histogram`` [unit, bin] counts images by their maximum, between ``meta["histogram_edges"]``.

    Misleads when: nine patches with something in common suggest that it is what the unit detects. They are the extremes
    of this image set, without the many images that excite it half as much (look at the quantiles), and what they share
    may be another thing than what drives the unit. Precision overstates how selective a unit is (Gale et al. 2020): it
    says nothing of the images of that class that don't excite it. A box holds all that the unit sees, not what in it
    matters.

    Raises :class:`Refused` when nothing was mined, or with another network.
    """

    name: ClassVar[str] = "top_patches"
    title: ClassVar[str] = "Top patches"
    papers: ClassVar[tuple[str, ...]] = (
        "girshick2014rich",
        "zeiler2014visualizing",
        "yosinski2015understanding",
        "zhou2015object",
        "borowski2021exemplary",
        "gale2020are",
    )
    formula: ClassVar[str] = (
        "value[u, x] = max over p of a[u, p] on image x;  images ranked by value, one p each;  box = what u sees at p"
    )
    caveat: ClassVar[str] = (
        "These are the extremes of this image set, not the cause: what the patches share need not be what drives the "
        "unit, and the images that excite it half as much may show something else."
    )
    kept: ClassVar[bool] = False

    ranks: int = parameter(0, "how many patches of each unit; 0 is all that were kept", minimum=0)

    def compute(self, network: Network, target: Target, batch: Batch | None) -> View:  # noqa: ARG002 - from a study
        """Read the layer's state, and look up the boxes and classes of the images it names."""
        pictures, state = self.opened(network, target)
        layer = target.layer
        assert layer is not None  # noqa: S101 - opened() asks first
        return _Described(network, pictures, layer.address, state, self.ranks or state.top.key.shape[1]).view(target)


@dataclass(frozen=True, eq=False)
class _Described:
    """One layer's state, on its way to a View."""

    network: Network
    pictures: StudyPictures
    layer: str
    state: LayerState
    ranks: int

    def view(self, target: Target) -> View:
        study, state = self.pictures.study, self.state
        found = {which: ranked(self.network, self.layer, state, which, self.ranks) for which in WHICH}
        arrays: dict[str, Array] = {
            ("" if which == "top" else f"{which}_") + name: array
            for which, part in found.items()
            for name, array in part.items()
            if name != "fraction"
        }
        arrays |= {"quantile": found["quantile"]["fraction"], **self._statistics()}
        classes, names, source = self._classes(arrays["image"])
        counts, edges = state.histogram()
        arrays |= {**classes, "histogram": counts.astype(np.int32)}
        ranges = {name: value_range(array) for name, array in arrays.items() if array.dtype.kind == "f"}
        if target.channel is not None:
            arrays = {name: array[target.channel : target.channel + 1] for name, array in arrays.items()}
        shown = np.unique(
            np.concatenate([arrays[name].ravel() for name in ("image", "bottom_image", "quantile_image")])
        )
        ids = shown[shown >= 0][:MOST_NAMES].tolist()
        units = str(target) if target.channel is not None else f"each unit of {self.layer}"
        done = state.images
        meta = {
            "layer": self.layer,
            "units": None if target.channel is None else [target.channel],
            "caption": f"The {arrays['image'].shape[1]} of {done:,} images that excite {units} most.",
            "warnings": self._warnings(),
            "ranges": ranges,
            "study": {
                "name": self.pictures.name,
                "images": study.count,
                "done": study.done,
                "mined": done,
                "skipped": len(study.skipped),
                "sample": len(state.sample.image),
                "k": state.top.key.shape[1],
                "rows": state.rows,
                "columns": state.columns,
            },
            "classes_from": source,
            "class_names": names,
            "histogram_edges": edges.tolist(),
            "image_names": dict(zip(map(str, ids), study.names(ids), strict=True)),
            "image_size": list(self.network.image_size),
        }
        return View("top_patches", arrays, {name: _axes(name) for name in arrays}, meta)

    def _statistics(self) -> dict[str, Array]:
        found = self.state.statistics()
        return {name: found[name].astype(np.float32) for name in STATISTICS}

    def _classes(self, image: Array) -> tuple[dict[str, Array], dict[str, str], str]:
        """Class counts of the top images, the names of the classes, and what they were taken from."""
        study, network = self.pictures.study, self.network
        ids = np.unique(image[image >= 0])
        labels = study.class_names(ids.tolist())
        names: dict[int, str] = {}
        if any(label is not None for label in labels):
            source, class_of = "labels", _numbered([label for label in labels if label is not None], network, names)
            found = [-1 if label is None else class_of[label] for label in labels]
        else:
            found = [int(each) for each in study.predicted(ids.tolist())]
            source = "predicted" if any(each >= 0 for each in found) else "none"
            names = {each: network.class_name(each) for each in found if each >= 0}
        of_image = dict(zip(ids.tolist(), found, strict=True))
        counted = [
            Counter(of_image[each] for each in row if each >= 0 and of_image[each] >= 0) for row in image.tolist()
        ]
        widest = max((len(each) for each in counted), default=0) or 1
        index = np.full((len(image), widest), -1, np.int32)
        count = np.zeros((len(image), widest), np.int32)
        for unit, each in enumerate(counted):
            ordered = sorted(each.items(), key=lambda pair: (-pair[1], pair[0]))
            for rank, (number, times) in enumerate(ordered):
                index[unit, rank], count[unit, rank] = number, times
        total = count.sum(axis=1)
        with np.errstate(invalid="ignore"):
            selectivity = np.where(total > 0, count[:, 0] / total, np.nan).astype(np.float32)
        arrays = {"class_index": index, "class_count": count, "selectivity": selectivity}
        return arrays, {str(number): name for number, name in sorted(names.items())}, source

    def _warnings(self) -> list[str]:
        study, state = self.pictures.study, self.state
        field = self.network.layer(self.layer).receptive_field
        warnings = []
        if not study.finished:
            warnings.append(f"mining isn't finished: these are {study.done:,} of {study.count:,} images")
        if not field.exact:
            warnings.append(f"the boxes are upper bounds: {field.reason}")
        skipped = len(study.skipped)
        if skipped:
            warnings.append(f"{skipped:,} image{'s' if skipped != 1 else ''} couldn't be read and count nowhere")
        lost = int((state.counts.not_finite > 0).sum())
        if lost:
            units = "unit" if lost == 1 else "units"
            warnings.append(f"{lost} {units} had NaN or infinite values on some images, which don't count for them")
        clipped = int((state.counts.clipped > 0).sum())
        if clipped:
            units = "unit" if clipped == 1 else "units"
            warnings.append(f"mean and variance of {clipped} {units} are too low: values outgrew what they began with")
        return warnings


def ranked(network: Network, layer: str, state: LayerState, which: str, ranks: int = 0) -> dict[str, Array]:
    """``value``, ``image``, ``row``, ``column`` [unit, rank] and ``box`` [unit, rank, side] of one kind of ranks.

    ``which`` is one of :data:`WHICH`; for "quantile" there is a ``fraction`` too. ``ranks`` 0 is all that were kept.
    """
    shown = ranks or state.top.key.shape[1]
    extra: dict[str, Array] = {}
    if which == "quantile":
        value, image, position, fraction = quantiles(state, shown)
        extra = {"fraction": fraction}
    else:
        entries = state.top if which == "top" else state.bottom
        value, image, position = (each[:, :shown] for each in (entries.value, entries.image, entries.position))
    row, column = position // state.columns, position % state.columns
    unit = np.broadcast_to(np.arange(len(image))[:, None], image.shape)
    box = network.boxes(layer, unit, row, column) * (image >= 0)[:, :, None]
    whole = {"image": image, "row": row, "column": column, "box": box}
    return {"value": value.astype(np.float32), **{name: each.astype(np.int32) for name, each in whole.items()}, **extra}


def quantiles(state: LayerState, ranks: int) -> tuple[Array, Array, Array, Array]:
    """Value, image, position and fraction [unit, rank] of sample images spread evenly from highest to lowest."""
    value, image = state.sample.value, state.sample.image
    units, size = value.shape
    shown = min(ranks, size)
    if not shown:
        nothing = np.zeros((units, 0), np.int64)
        return nothing.astype(np.float32), nothing, nothing, nothing.astype(np.float32)
    # By the study's total order: −value, then image id; what isn't finite comes last and isn't shown.
    order = np.lexsort((np.broadcast_to(image, value.shape), -value), axis=1)
    ordered = np.take_along_axis(value, order, axis=1)
    finite = np.isfinite(ordered).sum(axis=1, keepdims=True)
    step = np.arange(shown)[None, :]
    kept = np.minimum(shown, finite)
    chosen = np.where(step < kept, np.rint(step * (finite - 1) / np.maximum(kept - 1, 1)), 0).astype(np.int64)
    there = step < kept
    picked = np.take_along_axis(ordered, chosen, axis=1)
    no_larger = (ordered[:, None, :] <= picked[:, :, None]).sum(axis=2)
    place = np.take_along_axis(order, chosen, axis=1)
    return (
        np.where(there, picked, np.float32(np.nan)),
        np.where(there, image[place], -1),
        np.where(there, np.take_along_axis(state.sample.position, place, axis=1), 0),
        np.where(there, no_larger / np.maximum(finite, 1), np.nan).astype(np.float32),
    )


def _numbered(labels: list[str], network: Network, names: dict[int, str]) -> dict[str, int]:
    """A number for each class: the network's own where it has one of that name, others behind those."""
    own = {name.replace("_", " ").strip().lower(): number for number, name in enumerate(network.class_names)}
    found: dict[str, int] = {}
    for label in sorted(set(labels)):
        number = own.get(label.replace("_", " ").strip().lower())
        found[label] = network.classes + sum(each >= network.classes for each in names) if number is None else number
        names[found[label]] = label
    return found


def _axes(name: str) -> tuple[str, ...]:
    if name == "histogram":
        return ("unit", "bin")
    if name in ("class_index", "class_count"):
        return ("unit", "class_rank")
    if name.endswith("box"):
        return ("unit", "rank", "side")
    return ("unit",) if name in (*STATISTICS, "selectivity") else ("unit", "rank")


__all__ = ["STATISTICS", "WHICH", "TopPatches", "quantiles", "ranked"]
