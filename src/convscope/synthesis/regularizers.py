"""Regularizers: what keeps an optimized image from being noise, each as its paper has it.

Two kinds: a :class:`Penalty` is a smooth number per image that is subtracted from the objective; a :class:`Projection`
changes the image itself after a step, as Yosinski and his colleagues do. Both see the image as *centered pixels*: on
the scale 0 … 255, minus the network's mean color, so that 0 is what an average photo has there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float

from convscope.errors import ConvscopeError

# The amplitude of a photo's pixels about their mean, and of the steps between neighbors, on the scale 0 … 255: with
# them a penalty means the same for every size of image (Mahendran and Vedaldi 2016, B and V = B / 6.5).
AMPLITUDE = 80.0
STEP = AMPLITUDE / 6.5


class Penalty(ABC):
    """A smooth price of an image, subtracted from its objective; per pixel, so that size doesn't matter."""

    @abstractmethod
    def __call__(self, centered: Float[torch.Tensor, "image channel row column"]) -> Float[torch.Tensor, " image"]:
        """The price of each image, its weight included."""


@dataclass(frozen=True)
class AlphaNorm(Penalty):
    """λ ‖x‖_α^α: keeps colors within a photo's range. A large α hardly minds small values and forbids large ones.

    The mean over pixels of (‖color‖ / 80)^α, ‖color‖ Euclidean over channels (Mahendran and Vedaldi 2016); with one
    channel it is the α-norm itself, to its power, per pixel. ``alpha=2`` is L2 decay as a penalty.
    """

    weight: float
    alpha: float = 6.0

    def __call__(self, centered: Float[torch.Tensor, "image channel row column"]) -> Float[torch.Tensor, " image"]:
        """The weighted mean of powers of every pixel's color."""
        # A power of the square, not of the root, whose slope at 0 is infinite.
        square = (centered / AMPLITUDE).square().sum(dim=1)
        return self.weight * square.pow(self.alpha / 2).mean(dim=(1, 2))


@dataclass(frozen=True)
class TotalVariation(Penalty):
    """λ Σ (Δrow² + Δcolumn²)^(β/2): prices differences between neighbors, so that areas become even.

    The mean over pixels of ((Δrow² + Δcolumn²) / V²)^(β/2), summed over channels, V = 80 / 6.5 (Mahendran and Vedaldi
    2016). A difference beyond the last row or column is 0. β = 1 draws sharp edges, β = 2 smooths them.
    """

    weight: float
    beta: float = 2.0

    def __call__(self, centered: Float[torch.Tensor, "image channel row column"]) -> Float[torch.Tensor, " image"]:
        """The weighted mean of powers of the step at every pixel."""
        scaled = centered / STEP
        down = F.pad(scaled.diff(dim=2), (0, 0, 0, 1))
        right = F.pad(scaled.diff(dim=3), (0, 1, 0, 0))
        square = down.square() + right.square()
        # Below β = 2 the slope at an even place is infinite: a step of a millionth is taken as none.
        steps = square if self.beta == 2 else (square + 1e-12).pow(self.beta / 2)
        return self.weight * steps.sum(dim=1).mean(dim=(1, 2))


class Projection(ABC):
    """A change of the image itself after a step."""

    @abstractmethod
    def __call__(
        self,
        centered: Float[torch.Tensor, "image channel row column"],
        gradient: Float[torch.Tensor, "image channel row column"],
        step: int,
    ) -> Float[torch.Tensor, "image channel row column"]:
        """The changed image. ``gradient`` is the objective's at the image before the step; steps count from 0."""


@dataclass(frozen=True)
class Decay(Projection):
    """L2 decay: ``x ← (1 − θ) x``. Pulls every pixel toward the mean color."""

    fraction: float

    def __call__(
        self,
        centered: Float[torch.Tensor, "image channel row column"],
        gradient: Float[torch.Tensor, "image channel row column"],  # noqa: ARG002 - not asked for
        step: int,  # noqa: ARG002 - at every step
    ) -> Float[torch.Tensor, "image channel row column"]:
        """A little less of the image."""
        return centered * (1 - self.fraction)


@dataclass(frozen=True)
class Blur(Projection):
    """A Gaussian blur every so many steps, of a radius (standard deviation) in pixels: high frequencies fade.

    Cut off at four radii; beyond the border the image is mirrored. Radii under 0.3 do next to nothing.
    """

    radius: float
    every: int = 1

    def __post_init__(self) -> None:
        if self.radius <= 0 or self.every < 1:
            raise ConvscopeError("a blur needs a radius above 0, every 1 step or more", where=f"{self}")

    def __call__(
        self,
        centered: Float[torch.Tensor, "image channel row column"],
        gradient: Float[torch.Tensor, "image channel row column"],  # noqa: ARG002 - not asked for
        step: int,
    ) -> Float[torch.Tensor, "image channel row column"]:
        """The blurred image at steps 0, ``every``, 2 ``every`` …"""
        return blurred(centered, self.radius) if step % self.every == 0 else centered


@dataclass(frozen=True)
class ClipSmallNorm(Projection):
    """Sets pixels of small norm (over channels) to the mean color: those under a percentile of each image's.

    Leaves the few places that matter to the unit.
    """

    percentile: float

    def __call__(
        self,
        centered: Float[torch.Tensor, "image channel row column"],
        gradient: Float[torch.Tensor, "image channel row column"],  # noqa: ARG002 - not asked for
        step: int,  # noqa: ARG002 - at every step
    ) -> Float[torch.Tensor, "image channel row column"]:
        """The image with its weakest pixels gone."""
        return _without(centered, _below(centered.norm(dim=1), self.percentile))


@dataclass(frozen=True)
class ClipSmallContribution(Projection):
    """Sets pixels to the mean color that hardly change the objective: Σ over channels of x · ∂a/∂x, in absolute value,
    under a percentile of each image's. To first order that is how far the objective would fall without the pixel.
    """

    percentile: float

    def __call__(
        self,
        centered: Float[torch.Tensor, "image channel row column"],
        gradient: Float[torch.Tensor, "image channel row column"],
        step: int,  # noqa: ARG002 - at every step
    ) -> Float[torch.Tensor, "image channel row column"]:
        """The image with the pixels gone that contribute least."""
        contribution = (gradient * centered).sum(dim=1).abs()
        return _without(centered, _below(contribution, self.percentile))


def _below(
    values: Float[torch.Tensor, "image row column"], percentile: float
) -> Bool[torch.Tensor, "image row column"]:
    """Which values lie under a percentile of their image's, interpolated linearly between ranks."""
    limit = torch.quantile(values.flatten(1), percentile / 100, dim=1, interpolation="linear")
    return values < limit[:, None, None]


def _without(
    centered: Float[torch.Tensor, "image channel row column"], gone: Bool[torch.Tensor, "image row column"]
) -> Float[torch.Tensor, "image channel row column"]:
    return centered.masked_fill(gone[:, None], 0.0)


def blurred(
    images: Float[torch.Tensor, "image channel row column"], radius: float
) -> Float[torch.Tensor, "image channel row column"]:
    """Gaussian blur of standard deviation ``radius`` pixels, cut off at four of them, mirrored beyond the border."""
    reach = int(4 * radius + 0.5)
    places = torch.arange(-reach, reach + 1, dtype=torch.float64)
    weights = torch.exp(-places.square() / (2 * radius * radius))
    kernel = (weights / weights.sum()).to(images.device, images.dtype)
    for dimension in (2, 3):
        mirrored = images.index_select(dimension, _mirrored(images.shape[dimension], reach).to(images.device))
        parts = mirrored.unfold(dimension, 2 * reach + 1, 1)
        images = parts @ kernel
    return images


def _mirrored(length: int, reach: int) -> torch.Tensor:
    period = torch.arange(-reach, length + reach).remainder(2 * length)
    return torch.where(period < length, period, 2 * length - 1 - period)


__all__ = [
    "AMPLITUDE",
    "STEP",
    "AlphaNorm",
    "Blur",
    "ClipSmallContribution",
    "ClipSmallNorm",
    "Decay",
    "Penalty",
    "Projection",
    "TotalVariation",
    "blurred",
]
