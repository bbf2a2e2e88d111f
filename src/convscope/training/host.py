"""Bringing results from wherever training runs to the processor, without making it wait."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(eq=False)
class HostCopy:
    """Tensors on their way to the processor's memory; :meth:`wait` gives them once they have arrived.

    From a CUDA device they go through pinned memory while it works on; who waits is the writer's thread.
    """

    tensors: dict[str, torch.Tensor]
    event: torch.cuda.Event | None = None
    started: torch.cuda.Event | None = field(default=None)

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor], started: torch.cuda.Event | None = None) -> HostCopy:
        """Begin to copy; nobody may write to the tensors any more. ``started`` marks where the work for them began."""
        copies: dict[str, torch.Tensor] = {}
        event = None
        for name, tensor in tensors.items():
            if tensor.device.type == "cuda":
                pinned = torch.empty_like(tensor, device="cpu", pin_memory=True)
                copies[name] = pinned.copy_(tensor, non_blocking=True)
                event = event or torch.cuda.Event(enable_timing=True)
            else:
                copies[name] = tensor.detach().to("cpu")
        if event is not None:
            event.record()
        return cls(copies, event, started)

    def wait(self) -> dict[str, torch.Tensor]:
        """The tensors, on the processor."""
        if self.event is not None:
            self.event.synchronize()
        return self.tensors

    @property
    def device_seconds(self) -> float:
        """How long the device worked for these tensors; known after :meth:`wait`, 0 on a processor."""
        if self.event is None or self.started is None:
            return 0.0
        return float(self.started.elapsed_time(self.event)) / 1000


def mark(device: torch.device) -> torch.cuda.Event | None:
    """A mark in the device's queue of work, to measure from; None on a processor."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


__all__ = ["HostCopy", "mark"]
