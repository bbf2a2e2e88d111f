"""SmoothGrad: the gradient averaged over the image with different noise on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from convscope.methods.attribution.attribution import AXES, Attributed, Attribution, Told, each_image, nobody, places
from convscope.methods.attribution.seed import changed
from convscope.methods.backward import even_parts, images_per_pass
from convscope.methods.base import parameter
from convscope.trace import Entrance

if TYPE_CHECKING:
    from convscope.methods.attribution.seed import BoundSeed
    from convscope.network.batch import Batch
    from convscope.network.network import Network


@dataclass(frozen=True)
class Smoothgrad(Attribution):
    """The gradient with respect to every pixel, averaged over copies of the image with normal noise on them. What is
    left is the slope of a smoothed network, without most of the flicker from pixel to pixel. The class and the place
    in a unit's map are those of the image without noise.

    Arrays: ``attribution`` [image, channel, row, column], in objective per unit of the prepared image (its square with
    ``squared``); ``map`` [image, row, column], its channels reduced; ``picture`` [image, row, column, color], what the
    network saw, 0 to 255; ``place`` [image, coordinate], the row and column in the unit's map that is explained, -1
    where it is no single place.

    Every image meets the same noise, scaled by its own range of values.

    Misleads when: its smoothness is taken for certainty. It is still a slope, of a network that never saw such noise;
    compare another ``noise_seed`` and another amount of noise.
    """

    name: ClassVar[str] = "smoothgrad"
    title: ClassVar[str] = "Smoothgrad"
    papers: ClassVar[tuple[str, ...]] = ("smilkov2017smoothgrad", "hooker2019benchmark")
    formula: ClassVar[str] = "A[c, p] = mean over k of ∂objective / ∂x[c, p] at x + noise · (max x − min x) · ε[k]"
    caveat: ClassVar[str] = (
        "Smooth isn't certain: it is the slope of a network with noise at its input, and how much noise is a choice."
    )
    long: ClassVar[bool] = True

    samples: int = parameter(50, "how many noisy copies of each image", minimum=1, maximum=10_000)
    noise: float = parameter(
        0.15, "standard deviation of the noise, as a fraction of the image's range", minimum=0.0, maximum=10.0
    )
    squared: bool = parameter(False, "average the squares of the gradients: their size without their sign")
    noise_seed: int = parameter(0, "which noise", minimum=0, maximum=2**31 - 1)

    def signed_values(self) -> bool:
        """Squares are not."""
        return not self.squared

    def attribute(self, network: Network, bound: BoundSeed, batch: Batch, told: Told = nobody) -> Attributed:
        """A forward and backward pass over every noisy copy, some at a time."""
        clean = bound.measure(network, batch)
        fixed = bound.fixed(clean.choice)
        images = batch.tensor
        spread = (self.noise * (images.amax(dim=(1, 2, 3)) - images.amin(dim=(1, 2, 3))))[:, None, None, None, None]
        total = torch.zeros_like(images, dtype=torch.promote_types(images.dtype, torch.float32))
        # Squares don't add up before they are taken, so these have to go back to the pixels each time.
        entrance = Entrance()
        generator = torch.Generator().manual_seed(self.noise_seed)
        at_once = 1 if bound.whole_batch else max(1, images_per_pass(network) // len(batch))
        for some in even_parts(self.samples, at_once):
            told(some.start, self.samples)
            count = some.stop - some.start
            # Drawn in float32 on the CPU, one copy after the other: the same on every device, however many at a time.
            noise = torch.stack([torch.randn(images.shape[1:], generator=generator) for _ in range(count)])
            noisy = (images[:, None] + spread * noise.to(images)).flatten(0, 1)
            entrance.weights = torch.full((count,), 1.0).to(images)
            there = changed(batch, noisy)
            found = fixed.repeated(count).differentiate(network, there, entrance=None if self.squared else entrance)
            gradient = found.gradient
            gradient = gradient.unflatten(0, (len(images), count))
            total += (gradient.square() if self.squared else gradient).sum(dim=1)
        total += entrance.to_pixels(images)
        told(self.samples, self.samples)
        return Attributed(
            (total / self.samples).to("cpu", torch.float32),
            each_image(clean.values, len(batch)),
            clean.labels,
            {"place": places(clean.choice, len(batch))},
            {"place": AXES["place"]},
        )
