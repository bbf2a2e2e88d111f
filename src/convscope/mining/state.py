"""LayerState: what mining knows about every unit of one layer after some images, exact in any order of merging."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from math import log
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from convscope.errors import ConvscopeError
from convscope.mining.exact import FINER, bin_edges, hashed, smallest_bin
from convscope.mining.ranks import Ranks
from convscope.view import Array, View

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convscope.view import Recipe

KIND = "responses"
CONFIDENCE = 0.95


@dataclass(frozen=True, eq=False)
class Sample:
    """The maxima of every unit on a few images chosen at random once and for all: those of the smallest hashed id.

    ``image`` [sample] in the order of the hashes, ``value`` and ``position`` [unit, sample]. A value is NaN where the
    image's map held a number that isn't finite.
    """

    image: Array
    value: Array
    position: Array

    def merge(self, other: Sample, size: int) -> Sample:
        """The ``size`` images of the smallest hashes of both."""
        image = np.concatenate([self.image, other.image])
        _, first = np.unique(image, return_index=True)
        chosen = first[np.argsort(hashed(image[first]), kind="stable")][:size]
        return Sample(
            image[chosen],
            np.concatenate([self.value, other.value], axis=1)[:, chosen],
            np.concatenate([self.position, other.position], axis=1)[:, chosen],
        )


@dataclass(frozen=True, eq=False)
class Counts:
    """What is added up for each unit, all integers: see docs/concepts/top-patches.md for what each one is for.

    ``pooled_sum`` is in multiples of 2**exponent, ``product`` is the packed upper triangle of the sum of pooled·pooled
    in multiples of the product of two of these, empty where it isn't kept; ``sum`` (the same sum) and ``spot_sum`` are
    on the finer grid of 2**(exponent − 20), ``spot_square_sum`` on that of 2**square_exponent. Every n-th image is a
    spot image: its squares and its zeros cost another pass over the map each.
    """

    sum: Array
    pooled_sum: Array
    product: Array
    spot_sum: Array  # as sum, on the images looked at closely
    spot_square_sum: Array
    spot_zeros: Array  # exact zeros, on the same images
    spot_images: Array  # how many these are
    not_finite: Array  # images whose map holds NaN or an infinity; they count nowhere else
    positive: Array  # images whose maximum is above 0
    clipped: Array  # images whose contribution to a sum didn't fit on the grid

    def merge(self, other: Counts) -> Counts:
        """The sums of both."""
        return Counts(*(mine + theirs for mine, theirs in zip(self.all(), other.all(), strict=True)))

    def all(self) -> tuple[Array, ...]:
        """The fields in order."""
        return tuple(getattr(self, name) for name in _COUNTS)


_COUNTS = tuple(each.name for each in fields(Counts))


@dataclass(frozen=True, eq=False)
class Histogram:
    """How many images have their maximum in each logarithmic bin: ``count`` [unit, bin], bins from ``first`` on."""

    first: int
    count: Array

    def merge(self, other: Histogram) -> Histogram:
        """The sums of both, over the bins of either."""
        if not other.count.shape[1]:
            return self
        total = self.widened(other.first, other.first + other.count.shape[1] - 1)
        if total is self:
            total = Histogram(self.first, self.count.copy())
        start = other.first - total.first
        total.count[:, start : start + other.count.shape[1]] += other.count
        return total

    def widened(self, first: int, last: int) -> Histogram:
        """The same counts over bins that include ``first`` to ``last``; itself where they are included."""
        if self.count.shape[1]:
            first, last = min(first, self.first), max(last, self.first + self.count.shape[1] - 1)
        if last - first + 1 == self.count.shape[1]:
            return self
        total = np.zeros((len(self.count), last - first + 1), np.int64)
        start = self.first - first
        total[:, start : start + self.count.shape[1]] = self.count
        return Histogram(first, total)


@dataclass(frozen=True, eq=False)
class LayerState:
    """One layer after ``images`` images: ranks, a random sample, a histogram of maxima, and sums, per unit.

    ``exponent`` and ``square_exponent`` [unit] are the study's grids; ``rows`` and ``columns`` those of the maps.
    """

    rows: int
    columns: int
    images: int
    top: Ranks
    bottom: Ranks
    sample: Sample
    maxima: Histogram
    counts: Counts
    exponent: Array
    square_exponent: Array
    sample_size: int

    @property
    def units(self) -> int:
        """How many units the layer has."""
        return len(self.exponent)

    def merge(self, other: LayerState) -> LayerState:
        """The state after the images of both, which must be of different shards of one study."""
        same = (self.exponent == other.exponent).all() and (self.square_exponent == other.square_exponent).all()
        if not same or (self.rows, self.columns) != (other.rows, other.columns):
            raise ConvscopeError(
                "states of different studies can't be merged", next_step="mine all images in one study"
            )
        return replace(
            self,
            images=self.images + other.images,
            top=self.top.merge(other.top),
            bottom=self.bottom.merge(other.bottom),
            sample=self.sample.merge(other.sample, self.sample_size),
            maxima=self.maxima.merge(other.maxima),
            counts=self.counts.merge(other.counts),
        )

    # ---- what it says ------------------------------------------------------------------------------------------

    @cached_property
    def counted(self) -> Int[np.ndarray, " unit"]:
        """Images that count for each unit."""
        counted: Array = self.images - self.counts.not_finite
        return counted

    def statistics(self) -> dict[str, Float[np.ndarray, " unit"]]:
        """Per unit, float64; NaN where there was nothing to count.

        ``mean`` over all images and positions; ``variance`` over all positions of the ``spot_images``;
        ``pooled_variance`` of the image means; ``maximum`` and ``minimum`` over all; ``zero_fraction`` of exact zeros
        with ``zero_bound``, the half width of its 95 % interval (Hoeffding's inequality over the spot images, whose
        positions may depend on each other in any way); ``positive_fraction`` of images that excite the unit anywhere,
        with ``positive_bound``, a 95 % upper limit for images like these (:func:`upper_bound`); ``not_finite`` and
        ``clipped`` images.
        """
        images = np.where(self.counted > 0, self.counted, np.nan).astype(np.float64)
        mean = np.ldexp(self.counts.sum.astype(np.float64), self.exponent - FINER) / images
        spots = np.where(self.counts.spot_images > 0, self.counts.spot_images, np.nan).astype(np.float64)
        spot_mean = np.ldexp(self.counts.spot_sum.astype(np.float64), self.exponent - FINER) / spots
        spot_square = np.ldexp(self.counts.spot_square_sum.astype(np.float64), self.square_exponent) / spots
        return {
            "mean": mean,
            "variance": np.maximum(spot_square - spot_mean**2, 0.0),
            "pooled_variance": self._pooled_variance(images),
            "maximum": self.top.value[:, 0].astype(np.float64),
            "minimum": self.bottom.value[:, 0].astype(np.float64),
            "zero_fraction": self.counts.spot_zeros / (spots * self.rows * self.columns),
            "zero_bound": np.sqrt(log(2.0 / (1.0 - CONFIDENCE)) / (2.0 * spots)),
            "spot_images": self.counts.spot_images.astype(np.float64),
            "positive_fraction": self.counts.positive / images,
            "positive_bound": upper_bound(self.counts.positive, self.counted),
            "not_finite": self.counts.not_finite.astype(np.float64),
            "clipped": self.counts.clipped.astype(np.float64),
        }

    def _pooled_variance(self, images: Array) -> Array:
        if not self.counts.product.size:
            return np.full(self.units, np.nan)
        diagonal = self.counts.product[_diagonal(self.units)].astype(np.float64)
        mean = self.counts.pooled_sum / images
        variance: Array = np.ldexp(np.maximum(diagonal / images - mean**2, 0.0), 2 * self.exponent)
        return variance

    def covariance(self) -> Float[np.ndarray, "unit unit"]:
        """Covariance of the pooled activations (each image's mean over positions) over the images."""
        if not self.counts.product.size:
            raise ConvscopeError(
                f"no covariance is kept for a layer of {self.units} units", next_step="mine fewer units at once"
            )
        scaled = np.zeros((self.units, self.units))
        upper = np.triu_indices(self.units)
        scaled[upper] = self.counts.product
        scaled += np.triu(scaled, 1).T
        mean = self.counts.pooled_sum / max(self.images, 1)
        whole = scaled / max(self.images, 1) - mean[:, None] * mean[None, :]
        covariance: Array = np.ldexp(whole, self.exponent[:, None] + self.exponent[None, :])
        return covariance

    def histogram(self) -> tuple[Int[np.ndarray, "unit bin"], Float[np.ndarray, " edge"]]:
        """How many images have their maximum in each bin, and the bins' edges."""
        first, width = self.maxima.first, self.maxima.count.shape[1]
        return self.maxima.count, bin_edges(first, width, smallest_bin(self.exponent))

    # ---- on disk -----------------------------------------------------------------------------------------------

    def to_view(self, recipe: Recipe | None = None) -> View:
        """The state as a View of kind "responses", in the smallest integers that hold it; equal states, equal bytes."""
        arrays: dict[str, Array] = {}
        axes: dict[str, tuple[str, ...]] = {}
        for name, ranks in (("top", self.top), ("bottom", self.bottom)):
            used = max(int(ranks.filled.sum(axis=1).max(initial=0)), 1)
            image = np.where(ranks.filled, ranks.image, -1)[:, :used]
            arrays[f"{name}_value"] = ranks.value[:, :used]
            arrays[f"{name}_image"] = smallest(image)
            arrays[f"{name}_position"] = smallest(ranks.position[:, :used])
            axes |= {f"{name}_{part}": ("unit", "rank") for part in ("value", "image", "position")}
        arrays |= {
            "sample_image": self.sample.image.astype(np.int64),
            "sample_value": self.sample.value.astype(np.float32),
            "sample_position": smallest(self.sample.position),
            "bin_count": smallest(self.maxima.count),
            "exponent": self.exponent.astype(np.int16),
            "square_exponent": self.square_exponent.astype(np.int16),
        }
        axes |= {"sample_image": ("sample",), "sample_value": ("unit", "sample"), "sample_position": ("unit", "sample")}
        axes |= {"bin_count": ("unit", "bin"), "exponent": ("unit",), "square_exponent": ("unit",)}
        for name in _COUNTS:
            counted = getattr(self.counts, name)
            arrays[name] = counted.astype(np.int64) if name == "product" else smallest(counted)
            axes[name] = ("pair",) if name == "product" else ("unit",)
        meta = {
            "caption": f"What every unit responded to, over {self.images:,} images.",
            "images": self.images,
            "rows": self.rows,
            "columns": self.columns,
            "k": self.top.key.shape[1],
            "sample_size": self.sample_size,
            "first_bin": self.maxima.first,
        }
        return View(KIND, arrays, axes, meta, recipe)

    @classmethod
    def from_view(cls, view: View) -> LayerState:
        """The inverse of :meth:`to_view`; raises :class:`ConvscopeError` for anything else."""
        try:
            return _from(view.arrays, view.meta)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ConvscopeError("not the state of a mined layer", next_step="mine the images again") from error


def _from(arrays: Mapping[str, Array], meta: Mapping[str, Any]) -> LayerState:
    def ranks(name: str, *, descending: bool) -> Ranks:
        value, image, position = (arrays[f"{name}_{part}"] for part in ("value", "image", "position"))
        return Ranks.of(
            np.nan_to_num(value, nan=0.0), image.astype(np.int64), position, k=int(meta["k"]), descending=descending
        )

    return LayerState(
        rows=int(meta["rows"]),
        columns=int(meta["columns"]),
        images=int(meta["images"]),
        top=ranks("top", descending=True),
        bottom=ranks("bottom", descending=False),
        sample=Sample(arrays["sample_image"], arrays["sample_value"], arrays["sample_position"].astype(np.int64)),
        maxima=Histogram(int(meta["first_bin"]), arrays["bin_count"].astype(np.int64)),
        counts=Counts(*(arrays[name].astype(np.int64) for name in _COUNTS)),
        exponent=arrays["exponent"].astype(np.int64),
        square_exponent=arrays["square_exponent"].astype(np.int64),
        sample_size=int(meta["sample_size"]),
    )


def smallest(values: Array) -> Array:
    """Integers in the smallest type that holds them all: which one depends on the values alone.

    >>> smallest(np.array([0, 255])).dtype, smallest(np.array([-1, 255])).dtype
    (dtype('uint8'), dtype('int16'))
    """
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    for kind in (np.uint8, np.int16, np.uint16, np.int32, np.uint32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return values.astype(kind)
    return values.astype(np.int64)


def _diagonal(units: int) -> Array:
    """Where the diagonal lies in a packed upper triangle."""
    index = np.arange(units, dtype=np.int64)
    return index * units - index * (index - 1) // 2


def upper_bound(successes: Array, trials: Array) -> Float[np.ndarray, " unit"]:
    """A 95 % upper confidence limit of a fraction, from ``successes`` of ``trials``; NaN for no trials.

    The p above the observed fraction q at which trials · KL(q ‖ p) = −log 0.05 (Chernoff's bound). For no success this
    is the exact limit 1 − 0.05^(1/trials), about 3/trials; otherwise a little wider than the exact one.

    >>> upper_bound(np.array([0, 100]), np.array([100, 100])).round(4).tolist()
    [0.0295, 1.0]
    """
    count = np.where(trials > 0, trials, np.nan).astype(np.float64)
    seen = successes / count
    low, high = seen.copy(), np.ones(len(seen))
    allowed = -log(1.0 - CONFIDENCE) / count
    for _ in range(60):
        middle = (low + high) / 2
        inside = _divergence(seen, middle) <= allowed
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return np.where(np.isnan(count), np.nan, high)


def _divergence(seen: Array, assumed: Array) -> Array:
    """Kullback–Leibler divergence of two coins."""
    with np.errstate(divide="ignore", invalid="ignore"):
        heads = np.where(seen > 0, seen * np.log(seen / assumed), 0.0)
        tails = np.where(seen < 1, (1 - seen) * np.log((1 - seen) / (1 - assumed)), 0.0)
    total: Array = heads + tails
    return total
