"""What is recorded of a layer's weights: measured where they lie, made into Views elsewhere.

Each quantity has two halves. ``measure_…`` runs between two steps of training and launches a few operations on the
device; ``…_view`` runs on the writer's thread with what has arrived. The first never writes to anything of the user's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from convscope.training.histogram import ExponentCounts, count, shared_exponents
from convscope.training.watched import matches
from convscope.view import View

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from convscope.training.watched import Watched
    from convscope.view import Array

FILTERS, HISTOGRAMS, KERNELS, MAPS = "filters", "histograms", "kernels", "maps"
KINDS = (FILTERS, HISTOGRAMS, KERNELS, MAPS)
# Outside of this range the squares of single-precision numbers may have left the format.
_SAFE_NORMS = (1e-15, 1e15)
# A layer up to this size is recorded with all its slices, a larger one with this many of each unit.
_SMALL_LAYER, _SLICES = 2**16, 9


def unit_norms(by_unit: torch.Tensor) -> torch.Tensor:
    """The L2 norm of each entry of the first axis, float32; right also where the squares leave the format.

    >>> unit_norms(torch.tensor([[3e-30, 4e-30], [0.0, 0.0]])).tolist()
    [5.000000015855384e-30, 0.0]
    """
    axes = tuple(range(1, by_unit.dim()))
    if by_unit.device.type == "cuda":
        exact: torch.Tensor = torch.linalg.vector_norm(by_unit, dim=axes, dtype=torch.float64)
        return exact.float()
    wide = torch.float64 if by_unit.dtype == torch.float64 else torch.float32
    norms: torch.Tensor = torch.linalg.vector_norm(by_unit, dim=axes, dtype=wide)
    low, high = _SAFE_NORMS
    doubtful = ~((norms > low) & (norms < high))
    if bool(doubtful.any()):
        rows = by_unit[doubtful].to(wide)
        largest = torch.linalg.vector_norm(rows, ord=math.inf, dim=axes, keepdim=True)
        scale = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
        norms[doubtful] = torch.linalg.vector_norm(rows / scale, dim=axes) * scale.flatten()
    return norms.float()


def sparse_unit_norms(gradient: torch.Tensor) -> torch.Tensor:
    """The same of a sparse gradient, such as an embedding's: rows that aren't held are zero."""
    held = gradient.coalesce()
    if held.sparse_dim() != 1:
        return unit_norms(gradient.to_dense())
    norms = torch.zeros(gradient.shape[0], device=gradient.device)
    return norms.index_copy(0, held.indices()[0], unit_norms(held.values()))


def finite_range(tensor: torch.Tensor) -> torch.Tensor:
    """The smallest and the largest finite value, float64 [2]; (inf, -inf) when there is none."""
    if not tensor.numel():
        return torch.tensor([math.inf, -math.inf], dtype=torch.float64)
    if tensor.device.type == "cpu":
        ends = torch.stack(torch.aminmax(tensor))
        if bool(ends.isfinite().all()):
            return ends.double()
    finite = tensor.isfinite()
    low = torch.where(finite, tensor, math.inf).min()
    high = torch.where(finite, tensor, -math.inf).max()
    return torch.stack([low, high]).double()


# ---- filters ---------------------------------------------------------------------------------------------------


def measure_filters(watched: Watched, gradient: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """The norms of weight and gradient of each filter."""
    found = {"weight_norm": unit_norms(watched.by_unit(watched.parameter.detach()))}
    if gradient is not None:
        sparse = gradient.is_sparse
        found["gradient_norm"] = (
            sparse_unit_norms(gradient) if sparse else unit_norms(watched.by_unit(gradient.detach()))
        )
    return found


def measure_update(watched: Watched, before: torch.Tensor) -> dict[str, torch.Tensor]:
    """The norm of what the step changed of each filter; ``before`` is written over."""
    return {"update_norm": unit_norms(watched.by_unit(before.sub_(watched.parameter.detach())))}


def filters_view(watched: Watched, arrays: dict[str, Array], without: str = "") -> View:
    """Per filter norms of weight, final gradient and update, and update / weight.

    ``without`` says why gradient and update are missing where they are.
    """
    arrays = dict(arrays)
    if "update_norm" in arrays:
        arrays["ratio"] = ratio(arrays["update_norm"], arrays["weight_norm"])
    warnings = [f"{without[0].upper()}{without[1:]}."] if without else []
    for name, array in arrays.items():
        bad = int((~np.isfinite(array)).sum())
        if bad and name != "ratio":
            warnings.append(f"{name.replace('_', ' ')}: {bad} of {len(array)} filters hold NaN or infinite values.")
    meta = {
        "caption": f"Each filter of {watched.layer}: L2 norms of its weight, of the gradient as the optimizer saw it "
        "and of the step it took, and step / weight.",
        "warnings": warnings,
        **_of(watched),
        "without": without,
    }
    return View("training_filters", arrays, dict.fromkeys(arrays, ("unit",)), meta)


def ratio(update: Array, weight: Array) -> Array:
    """Update / weight; 0 where both are 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        divided = update / weight
    return np.where((update == 0) & (weight == 0), 0, divided).astype(np.float32)


# ---- histograms ------------------------------------------------------------------------------------------------


def measure_histogram(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """Exact counts and the finite range of one tensor."""
    held = tensor.coalesce().values() if tensor.is_sparse else tensor
    return {f"{name}_counts": count(held), f"{name}_range": finite_range(held)}


def histograms_view(
    watched: Watched, measured: dict[str, Array], dtypes: dict[str, torch.dtype], zeros: dict[str, int]
) -> View:
    """Exact counts of weight and gradient by sign and exponent; ``zeros`` are those that sparse tensors don't hold."""
    counts = {name: ExponentCounts.read(measured[f"{name}_counts"], dtypes[name], zeros[name]) for name in dtypes}
    first, bins = shared_exponents(list(counts.values()))
    arrays: dict[str, Array] = {"exponent": np.arange(first, first + bins, dtype=np.int32)}
    ranges, tallies, warnings = {}, {}, []
    for name, each in counts.items():
        arrays[f"{name}_positive"], arrays[f"{name}_negative"] = each.over(first, bins)
        low, high = measured[f"{name}_range"].tolist()
        if zeros[name]:
            low, high = min(low, 0.0), max(high, 0.0)
        bad = {"nan": each.nan, "positive_infinity": each.positive_infinity}
        bad["negative_infinity"] = each.negative_infinity
        empty = low > high
        ranges[name] = {
            "minimum": None if empty else low,
            "maximum": None if empty else high,
            "count": each.total,
            **bad,
        }
        tallies[name] = {"zero": each.zero, **bad, "total": each.total}
        if each.not_finite:
            warnings.append(f"{each.nan} NaN and {each.not_finite - each.nan} infinite of {each.total} {name} values.")
    meta = {
        "caption": f"How many weights and gradients of {watched.layer} lie between neighboring powers of two: exact "
        "counts.",
        "warnings": warnings,
        "ranges": ranges,
        "counts": tallies,
        **_of(watched),
    }
    return View("training_histograms", arrays, dict.fromkeys(arrays, ("exponent",)), meta)


# ---- kernels ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ChosenSlices:
    """Which slices of a layer's kernels are recorded, fixed for the whole run, and the kernels as they began."""

    order: torch.Tensor  # [unit, slice]
    initial: torch.Tensor  # [unit, slice, row, column]
    since: int  # the step they are from

    @classmethod
    def of(cls, watched: Watched, step: int, count: int) -> ChosenSlices:
        """Now: all slices of a small layer, in channel order; otherwise the ``count`` of largest norm."""
        assert watched.arrangement is not None  # noqa: S101 - layers without one are never chosen
        kernels = watched.arrangement.arrange(watched.parameter.detach())
        slice_norm = torch.linalg.vector_norm(kernels.float(), dim=(2, 3))
        if count >= watched.arrangement.slices:
            order = torch.arange(watched.arrangement.slices).expand(len(kernels), -1)
        else:
            order = watched.arrangement.choose(slice_norm, count)
        return cls(order, _take(kernels, order), step)


class KernelChoice:
    """The layers whose kernels are recorded, each with its slices; chosen when first seen, then fixed.

    ``patterns`` choose among the addresses; without them layers are taken in order while one recording of all their
    kernels stays below ``most_values`` numbers.
    """

    def __init__(self, patterns: Sequence[str] | None, most_values: int = 2**18) -> None:
        self._patterns = patterns
        self._left = most_values
        self.chosen: dict[int, ChosenSlices] = {}

    def add(self, several: Iterable[Watched], step: int) -> dict[int, ChosenSlices]:
        """Choose among what is new; all that are chosen, by the identity of the parameter."""
        for each in several:
            layout = each.arrangement
            if layout is None or id(each.parameter) in self.chosen:
                continue
            count = layout.slices if each.parameter.numel() <= _SMALL_LAYER else min(_SLICES, layout.slices)
            size = layout.units * count * layout.rows * layout.columns
            if size <= self._left if self._patterns is None else matches(each.layer, self._patterns):
                self.chosen[id(each.parameter)] = ChosenSlices.of(each, step, count)
                self._left -= size
        return self.chosen


def measure_kernels(watched: Watched, chosen: ChosenSlices, gradient: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """The chosen slices of weight, gradient and displacement, with the norms and ranges of all of them."""
    assert watched.arrangement is not None  # noqa: S101 - layers without one are never chosen
    kernels = watched.arrangement.arrange(watched.parameter.detach())
    kept = _take(kernels, chosen.order)
    found = {
        "kernel": kept,
        "displacement": kept - chosen.initial,
        "norm": unit_norms(kernels),
        "kernel_range": finite_range(kernels),
    }
    if gradient is not None:
        arranged = watched.arrangement.arrange(gradient.to_dense() if gradient.is_sparse else gradient.detach())
        found["gradient"] = _take(arranged, chosen.order)
        found["gradient_norm"] = unit_norms(arranged)
        found["gradient_range"] = finite_range(arranged)
    return {name: tensor.float() if not name.endswith("range") else tensor for name, tensor in found.items()}


def _take(kernels: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """A copy of the chosen slices, ``[unit, slice kept, row, column]``."""
    if order.shape[1] == kernels.shape[1] and bool((order[0] == torch.arange(order.shape[1])).all()):
        return kernels.clone(memory_format=torch.contiguous_format)
    units = torch.arange(len(kernels), device=kernels.device)[:, None]
    return kernels[units, order.to(kernels.device)]


def kernels_view(watched: Watched, chosen: ChosenSlices, measured: dict[str, Array], without: str = "") -> View:
    """The kernels as ``weights`` shows them, with the final gradient and the displacement since training began."""
    layout = watched.arrangement
    assert layout is not None  # noqa: S101 - layers without one are never chosen
    axes: dict[str, tuple[str, ...]] = dict.fromkeys(
        ("kernel", "gradient", "displacement"), ("unit", "slice", "row", "column")
    )
    arrays = {name: array for name, array in measured.items() if not name.endswith("_range")}
    arrays["channel"] = layout.channels(torch.arange(layout.units), chosen.order)
    with np.errstate(over="ignore", invalid="ignore"):
        arrays["slice_norm"] = np.sqrt(np.square(arrays["kernel"].astype(np.float64)).sum(axis=(2, 3))).astype(
            np.float32
        )
    axes |= {
        "channel": ("unit", "slice"),
        "slice_norm": ("unit", "slice"),
        "norm": ("unit",),
        "gradient_norm": ("unit",),
    }
    if "gradient_norm" in arrays:
        arrays["ratio"], axes["ratio"] = ratio(arrays["gradient_norm"], arrays["norm"]), ("unit",)
    ranges = {}
    for name in ("kernel", "gradient"):
        if f"{name}_range" in measured:
            low, high = measured[f"{name}_range"].tolist()
            if low <= high and np.isfinite(arrays[name]).all():
                total = layout.units * layout.slices * layout.rows * layout.columns
                nothing = {"nan": 0, "positive_infinity": 0, "negative_infinity": 0}
                ranges[name] = {"minimum": low, "maximum": high, "count": total, **nothing}
    bad = {name: int((~np.isfinite(arrays[name])).sum()) for name in ("kernel", "gradient") if name in arrays}
    shown = chosen.order.shape[1]
    meta = {
        "caption": f"Kernels of {watched.layer}, their gradient as the optimizer saw it, and how far they moved since "
        f"step {chosen.since}.",
        "warnings": ([f"{without[0].upper()}{without[1:]}."] if without else [])
        + [f"{n} of {arrays[name].size} {name} values are NaN or infinite." for name, n in bad.items() if n],
        "ranges": ranges,
        **_of(watched),
        "layout": layout.layout,
        "input_channels": layout.input_channels,
        "kernel_size": [layout.rows, layout.columns],
        "groups": layout.groups,
        "slices": {"shown": shown, "of": layout.slices},
        "since": chosen.since,
        "without": without,
    }
    return View("kernels", arrays, {name: axes[name] for name in arrays}, meta)


def _of(watched: Watched) -> dict[str, Any]:
    return {
        "layer": watched.layer,
        "units": None,
        "parameter": watched.name,
        "shared_with": list(watched.shared_with),
    }


__all__ = [
    "FILTERS",
    "HISTOGRAMS",
    "KERNELS",
    "KINDS",
    "MAPS",
    "ChosenSlices",
    "KernelChoice",
    "filters_view",
    "histograms_view",
    "kernels_view",
    "measure_filters",
    "measure_histogram",
    "measure_kernels",
    "measure_update",
]
