"""Path: the mean gradient on the straight way between two images, finer where the objective turns sharply.

The objective itself is known wherever the gradient is, so each interval between two nodes tells how far its trapezoid
is from the truth: the worst ones are halved first. Deep networks need it. From a black image on, most of what happens
happens in the first hundredth of the way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from convscope.methods.attribution.seed import changed

if TYPE_CHECKING:
    from collections.abc import Callable

    from convscope.methods.attribution.seed import BoundSeed
    from convscope.network.batch import Batch
    from convscope.network.network import Network
    from convscope.view import Array

_FIRST = 17  # nodes to begin with, evenly spaced
_SHORTEST = 1e-6  # intervals are not halved below this: float32 can't tell the images apart

_MATTERS = 0.1  # intervals whose error is below this share of the worst one's wait


@dataclass(eq=False)
class Path:
    """One image's nodes on the way from ``start`` (0) to the image (1), in order, and what is known at each."""

    network: Network
    seed: BoundSeed  # with its choice made
    batch: Batch  # one image
    start: torch.Tensor
    nodes: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)  # of the objective
    slopes: list[float] = field(default_factory=list)  # of the objective along the way
    gradients: list[torch.Tensor] = field(default_factory=list)

    def refine(self, tolerance: float, limit: int, at_once: int, told: Callable[[], None]) -> None:
        """Take nodes until the trapezoids add up to the objective's difference within ``tolerance`` of it."""
        self._take(np.linspace(0, 1, min(_FIRST, max(2, limit))), at_once, told)
        while len(self.nodes) < limit and self.error() > tolerance:
            errors = np.where(np.diff(self.nodes) > _SHORTEST, np.abs(self._errors()), 0)
            if not errors.any():
                break
            worst = np.argsort(-errors, kind="stable")[: min(at_once, limit - len(self.nodes))]
            # A pass has room for more than are bad; halving those that are right already would only cost time.
            worst = worst[errors[worst] >= _MATTERS * errors.max()]
            self._take((np.array(self.nodes)[worst] + np.array(self.nodes)[worst + 1]) / 2, at_once, told)

    def mean_gradient(self) -> torch.Tensor:
        """The trapezoids' mean of the gradients, ``[1, channel, row, column]``."""
        length = np.diff(self.nodes)
        weights = (np.append(length, 0) + np.insert(length, 0, 0)) / 2
        mean = torch.zeros_like(self.gradients[0])
        for weight, gradient in zip(weights, self.gradients, strict=True):
            mean.add_(gradient, alpha=float(weight))
        return mean[None]

    def error(self) -> float:
        """How far the trapezoids together are from the objective's difference, as a fraction of it."""
        difference = abs(self.values[-1] - self.values[0])
        missed = abs(float(self._errors().sum()))
        return missed / difference if missed else 0.0

    def _errors(self) -> Array:
        slopes = np.array(self.slopes)
        errors: Array = np.diff(self.nodes) * (slopes[1:] + slopes[:-1]) / 2 - np.diff(self.values)
        return errors

    def _take(self, nodes: Array, at_once: int, told: Callable[[], None]) -> None:
        difference = self.batch.tensor - self.start
        for first in range(0, len(nodes), at_once):
            told()
            some = np.sort(nodes[first : first + at_once])
            on_the_way = self.start + difference * torch.from_numpy(some).to(difference)[:, None, None, None]
            found = self.seed.repeated(len(some)).differentiate(self.network, changed(self.batch, on_the_way))
            slopes = (found.gradient.double() * difference.double()).sum(dim=(1, 2, 3))
            self.nodes += some.tolist()
            self.values += found.values.double().tolist()
            self.slopes += slopes.tolist()
            self.gradients += found.gradient.unbind()
        order = np.argsort(self.nodes, kind="stable").tolist()
        self.nodes = [self.nodes[index] for index in order]
        self.values = [self.values[index] for index in order]
        self.slopes = [self.slopes[index] for index in order]
        self.gradients = [self.gradients[index] for index in order]
