"""Small networks and a loop like anyone's."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Loop = "Callable[..., list[float]]"


def small() -> nn.Sequential:
    """Everything that uses random numbers or keeps statistics, and layers of every kind that is watched."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Dropout2d(0.2),
        nn.Conv2d(4, 6, 3, stride=2, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(6 * 3 * 3, 5),
    )


def data(count: int = 8, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 8, 8, generator=generator), torch.randint(0, 5, (count,), generator=generator)


def step(module: nn.Module, optimizer: torch.optim.Optimizer, seed: int = 0, **options: Any) -> torch.Tensor:
    """One step of an ordinary loop; the loss."""
    images, labels = data(seed=seed)
    optimizer.zero_grad(**options)
    loss = F.cross_entropy(module(images), labels)
    loss.backward()
    optimizer.step()
    return loss.detach()
