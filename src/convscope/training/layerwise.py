"""Recording one training step: every layer's output, its gradient, and when each was there. No hook on any module."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

INPUT = "input"


class Layerwise(dict[str, "Tensor"]):
    """What a :class:`~convscope.training.modules.Chain` records into; each output is stamped as it arrives.

    ``outputs`` are all of them, the prepared images under "input" first.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.outputs: dict[str, Tensor] = {INPUT: images.requires_grad_(True)}
        self._accelerated = images.is_cuda
        self._forward: list[tuple[str, float]] = []
        self._backward: dict[str, float] = {}
        self._started = self._now()

    def __setitem__(self, name: str, output: Tensor) -> None:
        self._forward.append((name, self._now()))
        self.outputs[name] = output

    def _now(self) -> float:
        if self._accelerated:  # otherwise the time would be that of asking for the work, not of doing it
            torch.cuda.synchronize()
        return time.perf_counter()

    def before_backward(self) -> None:
        """Keep the gradient of every output, and note when it is there."""
        for name, output in self.outputs.items():
            output.retain_grad()
            output.register_hook(self._noting(name))

    def _noting(self, name: str) -> Callable[[Tensor], None]:
        def note(_: Tensor) -> None:
            self._backward[name] = self._now()

        return note

    def milliseconds(self) -> dict[str, tuple[float, float]]:
        """(forward, backward) of each layer for the whole mini-batch; a residual block's include what is in it."""
        times: dict[str, tuple[float, float]] = {}
        latest: dict[str, tuple[str, float]] = {"": (INPUT, self._started)}
        for name, stamp in self._forward:
            inside = name.rpartition(".")[0]
            if inside not in latest:
                latest[inside] = _where_begins(inside, latest)
            before, begun = latest[inside]
            ready, done = self._backward.get(name), self._backward.get(before)
            back = max(0.0, done - ready) if ready is not None and done is not None else 0.0
            times[name] = ((stamp - begun) * 1e3, back * 1e3)
            latest[inside] = (name, stamp)
        return times


def _where_begins(inside: str, latest: dict[str, tuple[str, float]]) -> tuple[str, float]:
    """The first layer of a block begins where the block does: behind what is before it in the chain around it."""
    while inside not in latest:
        inside = inside.rpartition(".")[0]
    return latest[inside]


__all__ = ["INPUT", "Layerwise"]
