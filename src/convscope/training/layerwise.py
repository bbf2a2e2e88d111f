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
        return _now(accelerated=self._accelerated)

    def before_backward(self) -> None:
        """Keep the gradient of every output, and note when it is there."""
        for name, output in self.outputs.items():
            output.retain_grad()
            output.register_hook(_noting(name, self._backward, accelerated=self._accelerated))

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


def _now(*, accelerated: bool) -> float:
    if accelerated:  # otherwise the time would be that of asking for the work, not of doing it
        torch.cuda.synchronize()
    return time.perf_counter()


def _noting(name: str, stamps: dict[str, float], *, accelerated: bool) -> Callable[[Tensor], None]:
    """A hook that knows nothing of the outputs: it hangs on their graph, and would keep them, and so itself, for ever.
    That ring goes through torch's own objects, where Python's collector doesn't see it.
    """

    def note(_: Tensor) -> None:
        stamps[name] = _now(accelerated=accelerated)

    return note


def _where_begins(inside: str, latest: dict[str, tuple[str, float]]) -> tuple[str, float]:
    """The first layer of a block begins where the block does: behind what is before it in the chain around it."""
    while inside not in latest:
        inside = inside.rpartition(".")[0]
    return latest[inside]


__all__ = ["INPUT", "Layerwise"]
