"""Optimizers: torch's own, made and changed from settings; and the penalty on large weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from convscope.training.settings import Settings

# Those that torch has a single fused operation for, also on the CPU: a small network's step is half as long with it.
_FUSED = {"sgd", "adagrad", "adam", "adamw"}


def kernels(module: nn.Module) -> list[Tensor]:
    """The weights that penalties are on: kernels of convolutions and linear layers, no biases, no normalizations."""
    return [each for each in module.parameters() if each.ndim > 1]


def make_optimizer(settings: Settings, module: nn.Module) -> Optimizer:
    """Torch's optimizer of that name with two groups of parameters: with weight decay, and without."""
    decayed = kernels(module)
    groups: list[dict[str, Any]] = [{"params": decayed}]
    rest = [each for each in module.parameters() if each.ndim <= 1]
    if rest:
        groups.append({"params": rest})
    kind = {
        "sgd": torch.optim.SGD,
        "adagrad": torch.optim.Adagrad,
        "adadelta": torch.optim.Adadelta,
        "rmsprop": torch.optim.RMSprop,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
    }[settings.optimizer]
    options: dict[str, Any] = {"lr": settings.learning_rate}
    if settings.optimizer in _FUSED:
        options["fused"] = True
    if settings.optimizer == "adadelta":
        options |= {"rho": 0.95, "eps": 1e-6}
    if settings.optimizer == "sgd":
        options["momentum"] = settings.momentum
    optimizer: Optimizer = kind(groups, **options)
    adjust(optimizer, settings, settings.learning_rate)
    return optimizer


def adjust(optimizer: Optimizer, settings: Settings, rate: float) -> None:
    """Bring an optimizer to changed settings; what it remembers of earlier gradients stays."""
    for index, group in enumerate(optimizer.param_groups):
        group["lr"] = rate
        group["weight_decay"] = settings.weight_decay if index == 0 else 0.0
        if settings.optimizer == "sgd":
            group["momentum"], group["nesterov"] = settings.momentum, settings.nesterov
        elif settings.optimizer == "rmsprop":
            group["momentum"] = settings.momentum
            _begin_momentum(optimizer, group)
        elif settings.optimizer in ("adam", "adamw"):
            group["betas"] = (settings.momentum, group["betas"][1])


def _begin_momentum(optimizer: Optimizer, group: dict[str, Any]) -> None:
    """RMSprop makes its momentum's memory at the first step only; one that comes later starts at zero."""
    if group["momentum"] > 0:
        for each in group["params"]:
            state = optimizer.state[each]
            if state and "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(each)


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate alone."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def penalty(weights: Iterable[Tensor], settings: Settings) -> float:
    """λ₂/2 · Σ w² + λ₁ · Σ |w|: what the penalties add to the loss. AdamW's decay is no part of any loss.

    >>> from convscope.training.settings import Settings
    >>> penalty([torch.tensor([[3.0, -4.0]])], Settings(weight_decay=0.1, l1=1.0))
    8.25
    """
    weights = list(weights)
    total = 0.0
    with torch.no_grad():
        if settings.weight_decay and settings.optimizer != "adamw":
            squares = sum(float(each.double().square().sum()) for each in weights)
            total += 0.5 * settings.weight_decay * squares
        if settings.l1:
            total += settings.l1 * sum(float(each.double().abs().sum()) for each in weights)
    return total


def add_l1(weights: Iterable[Tensor], settings: Settings) -> None:
    """Add the gradient of λ₁ · Σ |w| to the gradients; torch's optimizers only know λ₂."""
    if settings.l1:
        with torch.no_grad():
            for each in weights:
                if each.grad is not None:
                    each.grad.add_(each.sign(), alpha=settings.l1)


__all__ = ["add_l1", "adjust", "kernels", "make_optimizer", "penalty", "set_rate"]
