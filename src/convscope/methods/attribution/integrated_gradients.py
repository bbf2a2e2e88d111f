"""Integrated gradients: what each pixel adds on the straight way from a baseline image to this one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from convscope.methods.attribution.attribution import AXES, Attributed, Attribution, Told, each_image, nobody, places
from convscope.methods.attribution.path import Path
from convscope.methods.attribution.seed import changed
from convscope.methods.backward import even_parts, images_per_pass, part_of
from convscope.methods.base import parameter
from convscope.methods.fill import FILLS, filling
from convscope.trace import Entrance

if TYPE_CHECKING:
    from convscope.methods.attribution.seed import BoundSeed
    from convscope.network.batch import Batch
    from convscope.network.network import Network
    from convscope.view import Array

BASELINES = (*FILLS, "noise")
LARGEST_ERROR = 0.01
LARGEST_GROWTH = 10  # times as many gradients as steps, where the completeness error asks for more


@dataclass(frozen=True)
class IntegratedGradients(Attribution):
    """What each pixel adds to the objective on the straight way from a baseline, an image that stands for nothing, to
    this image: the difference times the mean gradient on the way (Sundararajan et al.). Summed over all pixels it is
    the objective here minus the objective at the baseline; by how much a sum of ``steps`` terms misses that is
    reported. The class and the place in a unit's map are those of the image itself.

    Arrays: ``attribution`` [image, channel, row, column], in objective; ``map`` [image, row, column], its channels
    reduced; ``picture`` [image, row, column, color], what the network saw, 0 to 255; ``place`` [image, coordinate], the
    row and column in the unit's map that is explained, -1 where it is no single place; ``baseline_objective`` [image];
    ``completeness_error`` [image], |sum of the attribution - difference of the objectives| / |that difference|, 0 where
    only rounding is left; ``gradients`` [image], how many were taken.

    The steps are Gauss-Legendre nodes. An image whose completeness error is above ``tolerance`` is done again, by
    trapezoids that are halved where they miss the objective most: deep networks change so fast near the baseline that
    no even spacing follows them.

    Misleads when: the baseline is forgotten. A black baseline can't attribute anything to black pixels; every baseline
    has its own blind spot, so compare several.
    """

    name: ClassVar[str] = "integrated_gradients"
    title: ClassVar[str] = "Integrated gradients"
    papers: ClassVar[tuple[str, ...]] = ("sundararajan2017axiomatic", "sturmfels2020visualizing")
    formula: ClassVar[str] = "A[c, p] = (x − x₀)[c, p] · ∫₀¹ ∂objective / ∂x[c, p] at x₀ + t · (x − x₀) dt"
    caveat: ClassVar[str] = (
        "Always against a baseline: pixels that look like it (black ones, with black) get nothing, however much they "
        "matter. Compare several."
    )
    long: ClassVar[bool] = True
    rounding: ClassVar[tuple[str, ...]] = ("completeness_error", "gradients")

    steps: int = parameter(50, "how many images on the way the gradient is taken at", minimum=1, maximum=10_000)
    tolerance: float = parameter(
        LARGEST_ERROR,
        "where the completeness error is above this, more gradients are taken where the objective turns most sharply, "
        "up to 10 times as many; 0 takes just these steps",
        minimum=0.0,
        maximum=1.0,
    )
    baseline: str = parameter(
        "black",
        "what stands for nothing: black, white, gray, mean (0 after preparation: the mean color that preprocessing "
        "subtracts), image (each image's own mean color), blur (the image without its detail), noise (random pixels)",
        choices=BASELINES,
    )
    noise_seed: int = parameter(0, "which random pixels, for the baseline noise", minimum=0, maximum=2**31 - 1)

    def attribute(self, network: Network, bound: BoundSeed, batch: Batch, told: Told = nobody) -> Attributed:
        """A forward and backward pass at every step, some at a time."""
        images = batch.tensor
        start = baseline_images(network, images, self.baseline, self.noise_seed)
        there = bound.measure(network, batch)
        fixed = bound.fixed(there.choice)
        values = fixed.measure(network, changed(batch, start)).values
        difference = images - start
        mean = self._mean_gradient(network, fixed, batch, start, difference, told)
        error = _error(difference * mean, there.values, values)
        taken = np.full(len(batch), self.steps, np.int32)
        if self.tolerance and not bound.whole_batch:
            for index in np.flatnonzero(~(error <= self.tolerance)).tolist():
                one = slice(index, index + 1)
                path = Path(network, fixed.part(one), part_of(batch, index, index + 1), start[one])
                path.refine(
                    self.tolerance,
                    LARGEST_GROWTH * self.steps,
                    images_per_pass(network),
                    lambda: told(self.steps, self.steps),
                )
                taken[index] += len(path.nodes)
                better = path.mean_gradient()
                found = _error(difference[one] * better, there.values[one], values[one])
                if found[0] < error[index]:
                    mean[one], error[index] = better, found[0]
        attribution = difference * mean
        return Attributed(
            attribution.to("cpu", torch.float32),
            each_image(there.values, len(batch)),
            there.labels,
            {
                "place": places(there.choice, len(batch)),
                "baseline_objective": np.array(each_image(values, len(batch)), np.float32),
                "completeness_error": error,
                "gradients": taken,
            },
            {
                "place": AXES["place"],
                **dict.fromkeys(("baseline_objective", "completeness_error", "gradients"), ("image",)),
            },
            _incomplete(error, taken),
            {"steps": self.steps, "baseline": self.baseline},
        )

    def _mean_gradient(
        self,
        network: Network,
        fixed: BoundSeed,
        batch: Batch,
        start: torch.Tensor,
        difference: torch.Tensor,
        told: Told,
    ) -> torch.Tensor:
        nodes, weights = (torch.from_numpy(each).to(start) for each in nodes_and_weights(self.steps))
        total, entrance = torch.zeros_like(start), Entrance()
        at_once = 1 if fixed.whole_batch else max(1, images_per_pass(network) // len(batch))
        for some in even_parts(self.steps, at_once):
            told(some.start, self.steps)
            count = some.stop - some.start
            on_the_way = torch.addcmul(start[:, None], difference[:, None], nodes[None, some, None, None, None])
            entrance.weights = weights[some]
            there = changed(batch, on_the_way.flatten(0, 1))
            found = fixed.repeated(count).differentiate(network, there, entrance=entrance)
            gradient = found.gradient.unflatten(0, (len(start), count))
            total += torch.matmul(weights[some], gradient.flatten(2)).view_as(total)
        told(self.steps, self.steps)
        return total + entrance.to_pixels(total)


def nodes_and_weights(steps: int) -> tuple[Array, Array]:
    """Gauss-Legendre on [0, 1], in float64: exact for polynomials up to degree 2 · steps - 1.

    >>> nodes, weights = nodes_and_weights(2)
    >>> round(float((weights * nodes**3).sum()), 12)
    0.25
    """
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return (nodes + 1) / 2, weights / 2


def baseline_images(network: Network, images: torch.Tensor, baseline: str, noise_seed: int = 0) -> torch.Tensor:
    """For each prepared image the one that stands for nothing, prepared too, ``[image, channel, row, column]``.

    Random pixels are uniform from black to white, and the same for every image.
    """
    if baseline != "noise":
        return filling(network, images, baseline).contiguous()
    black, white = (filling(network, images[:1], fill) for fill in ("black", "white"))
    random = torch.rand(images.shape[1:], generator=torch.Generator().manual_seed(noise_seed)).to(images)
    return torch.lerp(black, white, random[None]).expand_as(images).contiguous()


def _error(attribution: torch.Tensor, here: torch.Tensor, there: torch.Tensor) -> Array:
    """How far each image's sum is from the objective's difference; over all together for a function of one's own."""
    values = attribution.detach().double().flatten(1).cpu()
    ends = [end.detach().double().cpu() for end in (here, there)]
    expected = ends[0] - ends[1]
    if len(expected) != len(values):
        values = values.reshape(1, -1)
    # What float32 itself rounds away is no error of the sum.
    rounding = 8 * torch.finfo(torch.float32).eps * (values.abs().sum(dim=1) + ends[0].abs() + ends[1].abs())
    missed = ((values.sum(dim=1) - expected).abs() - rounding).clamp(min=0)
    error = torch.where(missed == 0, missed, missed / expected.abs()).expand(len(attribution))
    found: Array = error.numpy().astype(np.float32)
    return found


def _incomplete(error: Array, taken: Array) -> tuple[str, ...]:
    worst = int(np.nan_to_num(error, nan=np.inf).argmax())
    if error[worst] <= LARGEST_ERROR:
        return ()
    return (
        f"{taken[worst]} gradients weren't enough for every image: what the pixels add up to misses the objective's "
        f"difference by more than {LARGEST_ERROR:.0%} (see completeness_error).",
    )
