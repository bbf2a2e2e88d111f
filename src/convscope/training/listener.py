"""Listening at the optimizers' steps: what happens between a loop's own lines.

Before a step gradients are accumulated, unscaled and clipped, as the optimizer will use them. The first optimizer is
the clock: its steps are counted, and what the others do belongs to its last step.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from convscope.training.host import HostCopy, mark
from convscope.training.ledger import Event
from convscope.training.measurement import Copies, Measurement
from convscope.training.quantities import FILTERS, KERNELS, MAPS, KernelChoice
from convscope.training.recorder import Built, Part, Recording
from convscope.training.run import view_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch
    from torch.optim import Optimizer

    from convscope.training.budget import Budget
    from convscope.training.recorder import Recorder
    from convscope.training.reference import Reference
    from convscope.training.watched import Watchlist


@dataclass(frozen=True, eq=False)
class _Open:
    """A step that is being recorded, and the optimizers that are still to come."""

    step: int
    kinds: Mapping[str, float]
    waiting: set[int]


class Listener:
    """Hooks on the optimizers, and nowhere else. Whatever goes wrong in them goes to ``failed``, never to the loop."""

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        watchlist: Watchlist,
        reference: Reference | None,
        budget: Budget,
        recorder: Recorder,
        kernels: KernelChoice,
        failed: Callable[[str, BaseException], None],
        step: int,
    ) -> None:
        self.step = step
        self.skipped = 0
        self._optimizers = list(optimizers)
        self._watchlist, self._reference, self._kernels = watchlist, reference, kernels
        self._budget, self._recorder, self._failed = budget, recorder, failed
        self._copies = Copies()
        self._open: _Open | None = None
        self._pending: list[Measurement | None] = [None] * len(self._optimizers)
        self._process = os.getpid()
        self._scaler: Any = None
        self._handles = []
        for index, each in enumerate(self._optimizers):
            self._handles.append(each.register_step_pre_hook(_Hook(self._before, index)))
            self._handles.append(each.register_step_post_hook(_Hook(self._after, index)))

    def close(self) -> None:
        """Let go of the optimizers."""
        for handle in self._handles:
            handle.remove()
        if self._scaler is not None:
            self._scaler.__dict__.pop("step", None)

    # ---- around a step -----------------------------------------------------------------------------------------

    def _before(self, index: int, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if index == 0:
            self._open = None  # whoever didn't step since the last recording isn't waited for
            if self.step < self._budget.next:
                return None
        elif self._open is None or index not in self._open.waiting:
            return None
        if os.getpid() != self._process:
            return None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if not callable(closure):
            self._measure(index, optimizer)
            return None
        # The gradient comes into being inside the step: look right after the closure made it.
        watching = _Closure(closure, lambda: self._measure(index, optimizer))
        if len(args) > 1:
            return (args[0], watching, *args[2:]), kwargs
        return args, {**kwargs, "closure": watching}

    def _after(self, index: int, _optimizer: Optimizer, _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
        measurement = self._pending[index]
        if measurement is not None:
            self._pending[index] = None
            started = time.perf_counter()
            try:
                measurement.after(self._failed)
                self._submit(measurement.step, measurement.parts())
            except Exception as error:
                self._failed("recording", error)
            self._budget.measured(time.perf_counter() - started)
        if index == 0:
            self.step += 1

    def _measure(self, index: int, optimizer: Optimizer) -> None:
        started = time.perf_counter()
        try:
            if index == 0:
                self._open = self._begin()
            if self._open is not None:
                self._open.waiting.discard(index)
                if index == 0 and MAPS in self._open.kinds:
                    self._measure_maps(self._open.step, self._open.kinds[MAPS])
                measurement = self._measurement(index, optimizer, self._open)
                measurement.before(self._failed)
                self._pending[index] = measurement
        except Exception as error:
            self._failed("recording", error)
        self._budget.measured(time.perf_counter() - started)

    def _begin(self) -> _Open | None:
        kinds, stretches = self._budget.begin(self.step)
        for each in stretches:
            text = f"To stay in the budget, {each.kind} every {each.every} steps instead of {each.asked}."
            self._recorder.event(Event(self.step, "schedule", each.kind, each.asked, each.every, text))
        if self._recorder.full:
            kinds = {kind: charged for kind, charged in kinds.items() if kind == FILTERS}
        return _Open(self.step, kinds, set(range(len(self._optimizers)))) if kinds else None

    def _measurement(self, index: int, optimizer: Optimizer, opened: _Open) -> Measurement:
        if self._watchlist.look_again():
            count = len(self._watchlist.entries)
            text = f"The module's parameters changed: {count} layers are watched now."
            self._recorder.event(Event(self.step, "layers", new=count, text=text))
        owned, frozen = self._watchlist.of(self._optimizers, index)
        if KERNELS in opened.kinds:
            self._kernels.add([*owned, *frozen], opened.step)
        scale, found_inf = getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None)
        return Measurement(
            opened.step,
            {kind: charged for kind, charged in opened.kinds.items() if kind != MAPS},
            owned,
            frozen,
            self._kernels.chosen,
            self._copies,
            scale,
            found_inf,
            _rates(optimizer, index),
        )

    def _measure_maps(self, step: int, charged: float) -> None:
        reference = self._reference
        assert reference is not None  # noqa: S101 - without one there is no schedule of maps
        started = time.perf_counter()
        try:
            began = mark(reference.network.device)
            measured = reference.measure()
            flat: dict[str, torch.Tensor] = {}
            for what, found in (("outputs", measured.outputs), ("gradients", measured.gradients)):
                for layer, tensors in found.items():
                    flat |= {f"{what}|{layer}|{place}": tensor for place, tensor in enumerate(tensors)}
            copy = HostCopy.of(flat, began)
        except Exception as error:
            self._failed(MAPS, error)
            return

        def build() -> Built:
            arrived: dict[str, dict[str, list[torch.Tensor]]] = {"outputs": {}, "gradients": {}}
            for name, tensor in copy.wait().items():
                what, layer, _ = name.split("|")
                arrived[what].setdefault(layer, []).append(tensor)
            here = replace(measured, outputs=arrived["outputs"], gradients=arrived["gradients"])
            views = {view_name(MAPS, layer.address): reference.view(layer, here) for layer in reference.layers}
            return Built(views, device_seconds=copy.device_seconds)

        size = sum(tensor.nbytes for tensor in copy.tensors.values())
        self._submit(step, [Part(MAPS, build, size, time.perf_counter() - started, charged)])

    def _submit(self, step: int, parts: Sequence[Part]) -> None:
        for part in parts:
            self._budget.foresee(part.kind, part.seconds)
        if parts:
            self._recorder.submit(Recording(step, tuple(parts)))

    # ---- GradScaler --------------------------------------------------------------------------------------------

    def watch_scaler(self, scaler: Any) -> None:
        """A GradScaler that finds infinite gradients doesn't call the optimizer, so only it can say so."""
        original = scaler.step

        def step(optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
            before = self.step
            result = original(optimizer, *args, **kwargs)
            if optimizer is self._optimizers[0] and self.step == before:
                self.skipped += 1
                text = f"The GradScaler found infinite gradients: a step was skipped ({self.skipped} so far)."
                self._recorder.event(Event(self.step, "skipped", new=self.skipped, text=text))
            return result

        self._scaler = scaler
        scaler.step = step


class _Hook:
    """A hook that knows which optimizer it is on."""

    def __init__(self, function: Callable[..., Any], index: int) -> None:
        self.function = function
        self.index = index

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        return self.function(self.index, optimizer, args, kwargs)


class _Closure:
    """The loop's closure, and a look at what it left the first time it is called."""

    def __init__(self, closure: Callable[[], Any], look: Callable[[], None]) -> None:
        self._closure = closure
        self._look: Callable[[], None] | None = look

    def __call__(self) -> Any:
        result = self._closure()
        if self._look is not None:
            look, self._look = self._look, None
            look()
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._closure, name)


def _rates(optimizer: Optimizer, index: int) -> dict[str, float]:
    """The learning rates, as curves."""
    found = {}
    prefix = f"optimizer{index}." if index else ""
    groups = optimizer.param_groups
    for place, group in enumerate(groups):
        rate = group.get("lr")
        # Reading one that lies on a device would wait for it.
        if isinstance(rate, int | float) or (rate is not None and rate.device.type == "cpu"):
            found[f"{prefix}lr" + (f".{place}" if len(groups) > 1 else "")] = float(rate)
    return found


__all__ = ["Listener"]
