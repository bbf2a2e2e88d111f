"""Optimizers: how far, and along what, an image moves at each step of an ascent. Every image of a batch on its own.

torch's optimizers are for weights: one tensor, one clock. Here images leave a batch when they are finished and grow to
another size, and Yosinski's policies give each image a learning rate of its own.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from convscope.errors import ConvscopeError, suggest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

Kind = Literal["adam", "nadam", "momentum", "ascent"]
KINDS: tuple[Kind, ...] = ("adam", "nadam", "momentum", "ascent")
# The published defaults of both papers.
_FIRST, _SECOND, _SMALL = 0.9, 0.999, 1e-8
_NADAM_DECAY = 0.004
_HELP = "constant, cosine[:END], warmup:STEPS, progress:GAIN, progress01:EARLY,LATE; joined by spaces"


@dataclass(frozen=True)
class Optimizer:
    """Which rule moves the variables, and how its learning rate changes.

    ``kind``: "adam" (Kingma & Ba 2015), "nadam" (Dozat 2016), "momentum" (heavy ball, factor ``momentum``) or "ascent"
    (plain gradient ascent). ``learning_rate`` is in the variables' own units, per step for Adam and NAdam.

    ``policy`` is one or more of these, joined by spaces. "constant". "cosine:END": down to END times the learning rate
    (0.05 where left out) along half a cosine. "warmup:STEPS": linearly up during the first steps. The two of Yosinski's
    ``optimize_image``, for "ascent": "progress:GAIN": each image's step is as long as to first order raises its
    objective by GAIN, ``GAIN / ‖gradient‖²``, never more than the learning rate; "progress01:EARLY,LATE": GAIN is
    EARLY or LATE · (1 − objective), whichever is less, for objectives that end at 1.

    >>> optimizer = Optimizer("ascent", learning_rate=100.0, policy="progress:2")
    >>> x = torch.zeros(1, 4)
    >>> optimizer.bind([x], steps=1).step([torch.full((1, 4), 0.5)], torch.zeros(1))
    >>> x  # the gradient's squared norm is 1: moving by 2 · 0.5 raises a linear objective by 2
    tensor([[1., 1., 1., 1.]])
    """

    kind: str = "adam"
    learning_rate: float = 0.05
    policy: str = "constant"
    momentum: float = 0.9

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConvscopeError(
                f"no optimizer {self.kind!r}", next_step=suggest(self.kind, KINDS) or f"choose {', '.join(KINDS)}"
            )
        if not self.learning_rate > 0 or not math.isfinite(self.learning_rate):
            raise ConvscopeError(f"a learning rate of {self.learning_rate}", next_step="choose one above 0")
        policy = _Policy.parse(self.policy)
        if policy.by_gradient and self.kind != "ascent":
            raise ConvscopeError(
                f"the policy {self.policy!r} divides by the gradient's squared norm, which {self.kind} rescales anyway",
                next_step="use it with optimizer=ascent",
            )

    def bind(self, variables: Sequence[Tensor], steps: int) -> Update:
        """The rule for these variables (leaves, image axis first) and this many steps in all."""
        makers: dict[str, type[Update]] = {"adam": _Adam, "nadam": _NAdam, "momentum": _Momentum, "ascent": _Ascent}
        return makers[self.kind](self, list(variables), steps)


@dataclass(frozen=True)
class _Policy:
    """A policy's text, read."""

    cosine_end: float | None = None
    warmup: int = 0
    progress: float | None = None
    progress01: tuple[float, float] | None = None

    @property
    def by_gradient(self) -> bool:
        return self.progress is not None or self.progress01 is not None

    @classmethod
    def parse(cls, text: str) -> _Policy:
        found: dict[str, float | int | tuple[float, float]] = {}
        for part in text.split():
            name, _, value = part.partition(":")
            try:
                if name == "cosine":
                    found["cosine_end"] = float(value or 0.05)
                elif name == "warmup":
                    found["warmup"] = int(value)
                elif name == "progress":
                    found["progress"] = float(value)
                elif name == "progress01":
                    early, late = value.split(",")
                    found["progress01"] = (float(early), float(late))
                elif name != "constant":
                    raise ValueError(name)
            except ValueError as error:
                raise ConvscopeError(
                    f"{part!r} isn't a learning-rate policy", where=text, next_step=f"write {_HELP}"
                ) from error
        return cls(**found)  # type: ignore[arg-type]

    def factor(self, step: int, steps: int) -> float:
        """What the learning rate is multiplied by at a step."""
        factor = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.cosine_end is not None:
            share = step / max(1, steps - 1)
            factor *= self.cosine_end + (1 - self.cosine_end) * (1 + math.cos(math.pi * share)) / 2
        return factor


class Update(ABC):
    """An optimizer at work: its variables, what it remembers of each, and its clock."""

    def __init__(self, optimizer: Optimizer, variables: list[Tensor], steps: int) -> None:
        self.optimizer = optimizer
        self.variables = variables
        self.steps = steps
        self.clock = 0  # steps since the start: what the policy goes by
        self.age = 0  # steps since the memory began: what bias corrections go by
        self._policy = _Policy.parse(optimizer.policy)
        self._forget()

    def _forget(self) -> None:
        self.age = 0
        self.memory: list[list[Tensor]] = [
            [torch.zeros_like(each, requires_grad=False) for each in self.variables] for _ in range(self._remembered)
        ]

    _remembered = 0

    def step(self, gradients: Sequence[Tensor], values: Tensor) -> None:
        """Move the variables so that the objective rises. ``gradients`` of it; ``values`` [image] is what it was."""
        rates = self._rates(gradients, values)
        with torch.no_grad():
            for index, (variable, gradient) in enumerate(zip(self.variables, gradients, strict=True)):
                memory = [kind[index] for kind in self.memory]
                shape = (-1,) + (1,) * (variable.dim() - 1)
                variable.add_(self._direction(gradient, memory) * rates.to(variable.device).reshape(shape))
        self.clock += 1
        self.age += 1

    def _rates(self, gradients: Sequence[Tensor], values: Tensor) -> Tensor:
        """The learning rate of each image at this step, float32 [image]."""
        largest = self.optimizer.learning_rate * self._policy.factor(self.clock, self.steps)
        constant = torch.full((len(values),), largest)
        if not self._policy.by_gradient:
            return constant
        gain = torch.full((len(values),), self._policy.progress or 0.0)
        if self._policy.progress01 is not None:
            early, late = self._policy.progress01
            gain = (late * (1 - values.detach().float().cpu())).clamp(max=early)
        squares = sum(each.detach().abs().double().square().flatten(1).sum(1).cpu() for each in gradients)
        assert not isinstance(squares, int)  # noqa: S101 - for the type checker: there is a variable
        return torch.where(squares > 0, gain.double() / squares, 0.0).clamp(max=largest).float()

    @abstractmethod
    def _direction(self, gradient: Tensor, memory: list[Tensor]) -> Tensor:
        """Where to move, by what is remembered; changes the memory."""

    def grown(self, variables: Sequence[Tensor]) -> Update:
        """The same rule for variables of another size: the learning rate goes on, the memory begins anew."""
        self.variables = list(variables)
        self._forget()
        return self

    def selected(self, variables: Sequence[Tensor], indices: Sequence[int]) -> Update:
        """The same rule and memory for some of the images; ``variables`` are theirs."""
        self.variables = list(variables)
        chosen = torch.tensor(list(indices))
        self.memory = [[each[chosen.to(each.device)] for each in kind] for kind in self.memory]
        return self


class _Ascent(Update):
    def _direction(self, gradient: Tensor, memory: list[Tensor]) -> Tensor:  # noqa: ARG002 - it remembers nothing
        return gradient


class _Momentum(Update):
    _remembered = 1

    def _direction(self, gradient: Tensor, memory: list[Tensor]) -> Tensor:
        return memory[0].mul_(self.optimizer.momentum).add_(gradient)


class _Adam(Update):
    _remembered = 2

    def _direction(self, gradient: Tensor, memory: list[Tensor]) -> Tensor:
        first, second, age = memory[0], memory[1], self.age + 1
        first.mul_(_FIRST).add_(gradient, alpha=1 - _FIRST)
        second.mul_(_SECOND).addcmul_(gradient, gradient, value=1 - _SECOND)
        scale = (second / (1 - _SECOND**age)).sqrt_().add_(_SMALL)
        return (first / (1 - _FIRST**age)).div_(scale)


class _NAdam(Update):
    """Adam that looks one step ahead along its momentum, whose factor rises slowly."""

    _remembered = 2

    def _forget(self) -> None:
        super()._forget()
        self._product = 1.0

    def step(self, gradients: Sequence[Tensor], values: Tensor) -> None:
        age = self.age + 1
        self._now = _FIRST * (1 - 0.5 * 0.96 ** (age * _NADAM_DECAY))
        self._next = _FIRST * (1 - 0.5 * 0.96 ** ((age + 1) * _NADAM_DECAY))
        self._product *= self._now
        super().step(gradients, values)

    def _direction(self, gradient: Tensor, memory: list[Tensor]) -> Tensor:
        first, second = memory
        first.mul_(_FIRST).add_(gradient, alpha=1 - _FIRST)
        second.mul_(_SECOND).addcmul_(gradient, gradient, value=1 - _SECOND)
        scale = (second / (1 - _SECOND ** (self.age + 1))).sqrt_().add_(_SMALL)
        ahead = gradient * ((1 - self._now) / (1 - self._product))
        ahead.add_(first, alpha=self._next / (1 - self._product * self._next))
        moved: Tensor = ahead.div_(scale)
        return moved


__all__ = ["KINDS", "Kind", "Optimizer", "Update"]
