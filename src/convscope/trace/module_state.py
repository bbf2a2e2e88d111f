"""Putting a module into evaluation mode and everything back afterwards."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn


def evaluation_mode(module: nn.Module) -> Callable[[], None]:
    """Put the module into evaluation mode; returns what puts everything back as it was."""
    # Written past Module.__setattr__, which costs more than all the rest of this function.
    training = [each for each in module.modules() if each.training]
    buffers = [
        (each, name, buffer, None if buffer is None else buffer.clone(), None if buffer is None else buffer._version)
        for each in module.modules()
        for name, buffer in each._buffers.items()
    ]
    cpu_state = torch.get_rng_state()
    device_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    for each in training:
        each.__dict__["training"] = False

    def restore() -> None:
        for each in training:
            each.__dict__["training"] = True
        with torch.no_grad():
            for each, name, buffer, copy, version in buffers:
                each._buffers[name] = buffer
                if buffer is not None and copy is not None and buffer._version != version:
                    buffer.copy_(copy)
        torch.set_rng_state(cpu_state)
        if device_states:
            torch.cuda.set_rng_state_all(device_states)

    return restore


@contextmanager
def frozen_weights(module: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient inside the block: nothing is kept for one, where only the image's is wanted."""
    asking = [each for each in module.parameters() if each.requires_grad and each.is_leaf]
    try:
        for each in asking:
            each.requires_grad_(False)
        yield
    finally:
        for each in asking:
            each.requires_grad_(True)
