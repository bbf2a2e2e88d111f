"""One step of one optimizer, measured: before the step weights and final gradients, after it what the step changed."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from convscope.training.host import HostCopy, mark
from convscope.training.ledger import Event
from convscope.training.quantities import (
    FILTERS,
    HISTOGRAMS,
    KERNELS,
    ChosenSlices,
    filters_view,
    histograms_view,
    kernels_view,
    measure_filters,
    measure_histogram,
    measure_kernels,
    measure_update,
)
from convscope.training.recorder import Built, Part
from convscope.training.run import view_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from convscope.training.watched import Watched
    from convscope.view import Array, View

LARGEST_COPY = 2 * 2**30
NO_OPTIMIZER = "frozen: no watched optimizer has it"
NO_GRADIENT = "it had no gradient at this step"
NO_COPY = "the update isn't shown: copies of the weights would take more than 2 GiB"


class Copies:
    """Room for the weights as they were before a step; kept on a processor, where new memory is slow."""

    def __init__(self) -> None:
        self._kept: dict[int, torch.Tensor] = {}

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy of the tensor as it is now, good until the next copy of it."""
        if tensor.device.type != "cpu":
            return tensor.detach().clone()
        room = self._kept.get(id(tensor))
        if room is None or room.shape != tensor.shape or room.dtype != tensor.dtype:
            room = self._kept[id(tensor)] = torch.empty_like(tensor)
        return room.copy_(tensor.detach())


@dataclass(eq=False)
class Measurement:
    """What is measured around one step; :meth:`parts` hands it to the writer.

    ``kinds`` say what is wanted and what it was charged in advance. ``owned`` are the parameters this optimizer steps,
    ``frozen`` those nobody does. ``scale`` is what gradients are still multiplied with (a fused optimizer under a
    GradScaler); ``found_inf`` tells whether it will skip the step for that.
    """

    step: int
    kinds: Mapping[str, float]
    owned: list[Watched]
    frozen: list[Watched]
    chosen: dict[int, ChosenSlices]
    copies: Copies
    scale: torch.Tensor | None = None
    found_inf: torch.Tensor | None = None
    settings: dict[str, float] = field(default_factory=dict)
    _tensors: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    _before: dict[int, torch.Tensor] = field(default_factory=dict)
    _without: dict[int, str] = field(default_factory=dict)
    _facts: dict[str, Any] = field(default_factory=dict)
    _seconds: dict[str, float] = field(default_factory=dict)
    _started: torch.cuda.Event | None = None

    # ---- on the thread that trains -----------------------------------------------------------------------------

    @torch.no_grad()
    def before(self, failed: Callable[[str, BaseException], None]) -> None:
        """Weights and gradients as they are now, each kind by itself so that one's failure isn't another's."""
        if self.owned:
            self._started = mark(self.owned[0].parameter.device)
        gradients = {id(each): self._gradient(each) for each in self.owned}
        for kind, measure in ((FILTERS, self._filters), (HISTOGRAMS, self._histograms), (KERNELS, self._kernels)):
            if kind in self.kinds:
                with self._timed(kind), _kept_apart(kind, failed):
                    self._tensors[kind] = {}
                    measure(gradients)

    @torch.no_grad()
    def after(self, failed: Callable[[str, BaseException], None]) -> None:
        """What the step changed."""
        if FILTERS in self._tensors:
            with self._timed(FILTERS), _kept_apart(FILTERS, failed):
                for index, watched in enumerate(self.owned):
                    if index in self._before:
                        self._keep(FILTERS, index, measure_update(watched, self._before.pop(index)))
        self._before.clear()

    def _gradient(self, watched: Watched) -> torch.Tensor | None:
        gradient = watched.parameter.grad
        if gradient is None or self.scale is None:
            return gradient
        return gradient * self.scale.to(gradient.device).reciprocal().to(gradient.dtype)

    def _filters(self, gradients: dict[int, torch.Tensor | None]) -> None:
        copied = 0
        for index, watched in enumerate(self._all()):
            gradient = gradients.get(id(watched))
            self._keep(FILTERS, index, measure_filters(watched, gradient))
            if index >= len(self.owned):
                self._without[index] = NO_OPTIMIZER
            elif gradient is None:
                self._without[index] = NO_GRADIENT
            else:
                copied += watched.parameter.nbytes
                if copied > LARGEST_COPY:
                    self._without[index] = NO_COPY
                else:
                    self._before[index] = self.copies.of(watched.parameter)

    def _histograms(self, gradients: dict[int, torch.Tensor | None]) -> None:
        for index, watched in enumerate(self._all()):
            tensors = {"weight": watched.parameter.detach()}
            gradient = gradients.get(id(watched))
            if gradient is not None:
                tensors["gradient"] = gradient
            dtypes, zeros = {}, {}
            for name, tensor in tensors.items():
                self._keep(HISTOGRAMS, index, measure_histogram(name, tensor))
                dtypes[name] = tensor.dtype
                zeros[name] = tensor.numel() - tensor.coalesce().values().numel() if tensor.is_sparse else 0
            self._facts[f"{HISTOGRAMS}|{index}"] = (dtypes, zeros)

    def _kernels(self, gradients: dict[int, torch.Tensor | None]) -> None:
        for index, watched in enumerate(self._all()):
            chosen = self.chosen.get(id(watched.parameter))
            if chosen is not None:
                self._keep(KERNELS, index, measure_kernels(watched, chosen, gradients.get(id(watched))))

    def _keep(self, kind: str, index: int, tensors: dict[str, torch.Tensor]) -> None:
        self._tensors[kind] |= {f"{index}|{name}": tensor for name, tensor in tensors.items()}

    def _all(self) -> list[Watched]:
        return [*self.owned, *self.frozen]

    @contextmanager
    def _timed(self, kind: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[kind] = self._seconds.get(kind, 0.0) + time.perf_counter() - started

    # ---- on the writer's thread --------------------------------------------------------------------------------

    def parts(self) -> list[Part]:
        """Begin to bring everything over, and say how to build the Views of it."""
        found = []
        if self.found_inf is not None:
            self._tensors.setdefault(FILTERS, {})["|found_inf"] = self.found_inf.detach().clone().reshape(1)
        for kind, tensors in self._tensors.items():
            copy = HostCopy.of(tensors, self._started)
            size = sum(each.nbytes for each in copy.tensors.values())
            seconds = self._seconds.get(kind, 0.0)
            found.append(Part(kind, _Builder(self, kind, copy), size, seconds, self.kinds.get(kind, 0.0)))
        self._tensors = {}
        return found

    def build(self, kind: str, copy: HostCopy) -> Built:
        """The Views of one kind, once its numbers have arrived."""
        grouped: dict[int, dict[str, Array]] = {}
        built = Built()
        for name, tensor in copy.wait().items():
            index, _, quantity = name.partition("|")
            if index:
                grouped.setdefault(int(index), {})[quantity] = tensor.numpy()
            elif float(tensor) != 0:
                text = "The GradScaler found infinite gradients: the optimizer skipped this step."
                built.events.append(Event(self.step, "skipped", text=text))
        built.device_seconds = copy.device_seconds
        for place, measured in grouped.items():
            watched = self._all()[place]
            view = self._view(kind, place, watched, measured)
            built.views[view_name(kind, watched.layer)] = view
            if kind == FILTERS:
                built.scalars |= _totals(watched, measured)
        if kind == FILTERS:
            built.scalars |= self.settings
        return built

    def _view(self, kind: str, index: int, watched: Watched, measured: dict[str, Array]) -> View:
        without = self._without.get(index, NO_OPTIMIZER if index >= len(self.owned) else "")
        if kind == FILTERS:
            return filters_view(watched, measured, without)
        if kind == HISTOGRAMS:
            return histograms_view(watched, measured, *self._facts[f"{HISTOGRAMS}|{index}"])
        missing = "" if "gradient" in measured else without or NO_GRADIENT
        return kernels_view(watched, self.chosen[id(watched.parameter)], measured, missing)


@dataclass(frozen=True, eq=False)
class _Builder:
    measurement: Measurement
    kind: str
    copy: HostCopy

    def __call__(self) -> Built:
        return self.measurement.build(self.kind, self.copy)


def _totals(watched: Watched, measured: dict[str, Array]) -> dict[str, float]:
    """The norms of the whole layer, for curves: the root of the sum of its filters' squares."""
    found = {}
    for name in ("weight_norm", "gradient_norm", "update_norm"):
        if name in measured:
            with np.errstate(over="ignore", invalid="ignore"):
                total = np.sqrt(np.square(measured[name].astype(np.float64)).sum())
            found[f"{name}:{watched.layer}"] = float(total)
    return found


@contextmanager
def _kept_apart(kind: str, failed: Callable[[str, BaseException], None]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        failed(kind, error)


__all__ = ["Copies", "Measurement"]
