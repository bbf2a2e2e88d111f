"""Presets: whole recipes for an optimized image, as their authors published them, by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch  # noqa: TC002 - types are checked in tests
from jaxtyping import Float

from convscope.errors import ConvscopeError, UnknownName, suggest
from convscope.synthesis.optimizers import Optimizer, Update
from convscope.synthesis.parameterization import Parameterization, Pixels, mean_color, parameterize
from convscope.synthesis.recipe_text import (
    ROBUST,
    parse_regularizers,
    parse_transforms,
    regularizers_text,
    transforms_text,
)
from convscope.synthesis.regularizers import Blur, ClipSmallContribution, ClipSmallNorm, Decay
from convscope.synthesis.transforms import RandomCrop, Transforms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convscope.network.network import Network
    from convscope.synthesis.regularizers import Penalty, Projection
    from convscope.synthesis.spectrum import ImageStatistics


NOTHING = Transforms()
_SLOWER = 6  # how much smaller the steps are with which an image goes on


@dataclass(frozen=True)
class Preset:
    """One recipe: how an image is made, what it goes through, what holds it in check, and who moves it.

    ``copies`` is how many differently changed views of each image are averaged at each step. ``size`` is the image's
    side relative to the network's input. ``further`` is how many times its steps an image goes on that ends below its
    best natural one.
    """

    name: str
    title: str
    papers: tuple[str, ...]
    parameterization: str
    optimizer: Optimizer
    steps: int
    transforms: Transforms = NOTHING
    penalties: tuple[Penalty, ...] = ()
    projections: tuple[Projection, ...] = ()
    copies: int = 1
    size: float = 1.0
    further: int = 0

    def __post_init__(self) -> None:
        if self.projections and self.parameterization != "pixels":
            raise ConvscopeError(
                f"{regularizers_text(self.projections)} changes the image itself, which {self.parameterization} can't "
                "follow",
                next_step="use parameterization=pixels, or regularizers tv and alpha",
            )

    def image_size(self, network: Network) -> tuple[int, int]:
        """Rows and columns of the optimized image."""
        rows, columns = network.image_size
        return max(1, round(rows * self.size)), max(1, round(columns * self.size))

    def parameterize(
        self,
        network: Network,
        seeds: Sequence[int],
        size: tuple[int, int] | None = None,
        statistics: ImageStatistics | None = None,
        start: Float[torch.Tensor, "image channel row column"] | None = None,
    ) -> Parameterization:
        """One image per seed, where the network's weights are."""
        return parameterize(
            self.parameterization,
            preprocessing=network.preprocessing,
            seeds=seeds,
            size=size or self.image_size(network),
            statistics=statistics,
            start=start,
            device=network.device,
        )

    @property
    def onward(self) -> Preset | None:
        """The recipe for going on from an image that is there already, as it is measured: without transforms, in small
        steps. None where it doesn't.
        """
        if not self.further or self.parameterization == "maco":  # whose spectrum is not the image's
            return None
        slower = replace(self.optimizer, learning_rate=self.optimizer.learning_rate / _SLOWER)
        return replace(self, optimizer=slower, steps=self.steps * self.further, transforms=NOTHING, copies=1, further=0)

    def update(self, parameterization: Parameterization, steps: int | None = None) -> Painter:
        """The optimizer, bound to these images, with the recipe's projections after every step."""
        bound = self.optimizer.bind(parameterization.variables, self.steps if steps is None else steps)
        return Painter(parameterization, bound, self.projections)

    def price(
        self, network: Network, pixels: Float[torch.Tensor, "image channel row column"]
    ) -> Float[torch.Tensor, " image"]:
        """What the penalties take off each image's objective; pixels are 0 … 1, differentiable."""
        center = pixels.new_tensor(mean_color(network.preprocessing))[:, None, None]
        centered = 255 * (pixels - center)
        return sum((each(centered) for each in self.penalties), pixels.new_zeros(len(pixels)))

    def changed(
        self,
        *,
        parameterization: str = "",
        transforms: str = "",
        regularizers: str = "",
        optimizer: str = "",
        learning_rate: float = 0.0,
        policy: str = "",
        steps: int = 0,
        further: int = -1,
    ) -> Preset:
        """The recipe with some parts replaced; an empty text, 0, or -1 of ``further``, leaves a part as it is."""
        penalties, projections = self.penalties, self.projections
        if regularizers:
            penalties, projections = parse_regularizers(regularizers)
        elif parameterization and parameterization != "pixels":
            projections = ()
        kind = {"kind": optimizer} if optimizer else {}
        rate = {"learning_rate": learning_rate} if learning_rate else {}
        paced = {"policy": policy} if policy else {}
        return replace(
            self,
            parameterization=parameterization or self.parameterization,
            transforms=parse_transforms(transforms) if transforms else self.transforms,
            penalties=penalties,
            projections=projections,
            optimizer=replace(self.optimizer, **kind, **rate, **paced),  # type: ignore[arg-type]
            steps=steps or self.steps,
            further=self.further if further < 0 else further,
        )

    def caption(self) -> str:
        """The whole recipe in a sentence."""
        parts = [
            f"{self.parameterization} parameterization",
            f"{self.optimizer.kind} at {self.optimizer.learning_rate:g} ({self.optimizer.policy})",
            f"{self.steps} steps{self._onward_text()}",
            f"transforms {transforms_text(self.transforms)}",
            f"regularizers {regularizers_text((*self.penalties, *self.projections))}",
        ]
        return f"{self.title}: {', '.join(parts)}."

    def _onward_text(self) -> str:
        onward = self.onward
        return "" if onward is None else f" (below the best natural image up to {onward.steps} more)"


class Painter:
    """Takes each image one step along its objective's gradient: optimizer, projections, valid range."""

    def __init__(
        self, parameterization: Parameterization, update: Update, projections: tuple[Projection, ...] = ()
    ) -> None:
        self.parameterization = parameterization
        self._update = update
        self._projections = projections

    def step(
        self,
        pixels: Float[torch.Tensor, "image channel row column"],
        gradient: Float[torch.Tensor, "image channel row column"],
        values: Float[torch.Tensor, " image"],
    ) -> None:
        """``gradient`` is the objective's, to ascend, with respect to ``pixels`` (what ``parameterization.pixels()``
        gave); ``values`` are the objectives.
        """
        images = self.parameterization
        images.observe(gradient)
        gradients = images.gradients(pixels, gradient)
        clock = self._update.clock
        self._update.step(gradients, values)
        if isinstance(images, Pixels):
            centered = images.centered
            for projection in self._projections:
                centered = projection(centered, gradients[0], clock)
            images.put(centered)

    def selected(self, parameterization: Parameterization, indices: Sequence[int]) -> Painter:
        """The same for some of the images, which ``parameterization`` holds already."""
        return Painter(parameterization, self._update.selected(parameterization.variables, indices), self._projections)

    def grown(self, parameterization: Parameterization) -> Painter:
        """The same clock for images of another size."""
        return Painter(parameterization, self._update.grown(parameterization.variables), self._projections)


def _yosinski(
    number: int, steps: int, projections: tuple[Projection, ...], rate: float, policy: str = "constant"
) -> Preset:
    return Preset(
        name=f"yosinski_{number}",
        title=f"Yosinski et al. 2015, setting {number}",
        papers=("yosinski2015understanding",),
        parameterization="pixels",
        optimizer=Optimizer("ascent", rate, policy),
        steps=steps,
        projections=projections,
    )


# The settings of Yosinski et al. 2015, Table 1, with the steps and learning rates of their optimize_image.
PRESETS: dict[str, Preset] = {
    each.name: each
    for each in (
        Preset(
            name="default",
            title="Lucid's recipe in fewer and longer steps",
            papers=("olah2017feature",),
            parameterization="fourier",
            optimizer=Optimizer("adam", 0.3, "cosine:0.1"),
            steps=96,
            transforms=Transforms(ROBUST),
            further=2,
        ),
        Preset(
            name="lucid",
            title="Olah, Mordvintsev and Schubert 2017 (Lucid)",
            papers=("olah2017feature",),
            parameterization="fourier",
            optimizer=Optimizer("adam", 0.05),
            steps=512,
            transforms=Transforms(ROBUST),
        ),
        # At the network's own size, not their 1,280 pixels: so crops are larger, and fewer of them do.
        Preset(
            name="maco",
            title="Fel et al. 2023 (MACO)",
            papers=("fel2023unlocking",),
            parameterization="maco",
            optimizer=Optimizer("nadam", 1.0),
            steps=128,
            transforms=Transforms((RandomCrop((0.7, 0.9), (0.5, 0.9)),), noise=(0.05, 0.05)),
            copies=2,
        ),
        _yosinski(1, 500, (Blur(0.5, 4), ClipSmallNorm(50.0)), 100.0, "progress:2"),
        _yosinski(2, 750, (Decay(0.3), ClipSmallNorm(20.0)), 100.0),
        _yosinski(3, 1000, (Decay(0.0001), Blur(1.0, 4)), 100.0),
        _yosinski(4, 1000, (Blur(0.5, 4), ClipSmallContribution(90.0)), 1e8, "progress:2"),
        Preset(
            name="pixels",
            title="Plain gradient ascent on pixels",
            papers=("simonyan2013deep",),
            parameterization="pixels",
            optimizer=Optimizer("adam", 2.0),
            steps=128,
        ),
    )
}


def preset(name: str) -> Preset:
    """A preset by name; raises :class:`UnknownName` with the nearest.

    >>> preset("yosinski_3").projections
    (Decay(fraction=0.0001), Blur(radius=1.0, every=4))
    """
    if name not in PRESETS:
        raise UnknownName(
            f"no preset {name[:80]!r}", next_step=suggest(name, PRESETS) or f"choose {', '.join(PRESETS)}"
        )
    return PRESETS[name]


__all__ = ["PRESETS", "Painter", "Preset", "preset"]
