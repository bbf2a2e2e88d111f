"""Inversion: the image that gives a layer the same code as a photo. What differs between the two, the layer forgot."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from convscope.errors import Refused
from convscope.methods.backward import mini_batches
from convscope.methods.base import Method, Target, parameter
from convscope.methods.ranges import check_size, finite, tensor_range, to_array
from convscope.synthesis.ascent import KEPT, Watch, ascend
from convscope.synthesis.optimizers import Optimizer
from convscope.synthesis.parameterization import to_pixels, to_prepared
from convscope.synthesis.presets import Preset
from convscope.synthesis.recipe_text import REGULARIZERS_HELP, parse_regularizers, parse_transforms
from convscope.synthesis.regularizers import AMPLITUDE
from convscope.view import View, value_range

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convscope.errors import ConvscopeError
    from convscope.network.batch import Batch
    from convscope.network.layer import Layer
    from convscope.network.network import Network
    from convscope.synthesis.ascent import Ascended
    from convscope.synthesis.goal import Captured
    from convscope.view import Array

AXES = {
    "picture": ("image", "row", "column", "color"),
    "original": ("image", "row", "column", "color"),
    "prepared": ("image", "channel", "row", "column"),
    "error": ("image",),
    "pixel_error": ("image",),
    "history": ("image", "step"),
}
# Learning rates that served on several networks: in each parameterization's own units, and for momentum as said below.
_RATES = {
    ("adam", "pixels"): 4.0,
    ("adam", "fourier"): 0.1,
    ("momentum", "pixels"): 0.01,
    ("momentum", "fourier"): 1.0,
}


@dataclass(frozen=True)
class Code:
    """A goal: each image's code should be this one. ``target`` [image, unit, row, column]; values are minus the error,
    ‖Φ(x) − Φ₀‖² / ‖Φ₀‖².
    """

    place: Target
    target: torch.Tensor
    group: ClassVar[int] = 1
    needs_output: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.target)

    @property
    def layers(self) -> tuple[str, ...]:
        """The one layer."""
        return (_layer(self.place).address,)

    def values(self, captured: Captured) -> torch.Tensor:
        """Minus each image's error."""
        return -errors(_part(captured[self.layers[0]], self.place), self.target)

    def part(self, indices: Sequence[int]) -> Code:
        """The codes of some images."""
        return Code(self.place, self.target[list(indices)])


def errors(code: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """‖Φ(x) − Φ₀‖² / ‖Φ₀‖² of each image: 0 the same code, 1 as far away as a code of zeros."""
    wanted = target.to(code.device)
    return (code - wanted).square().flatten(1).sum(dim=1) / wanted.square().flatten(1).sum(dim=1)


def _layer(target: Target) -> Layer:
    assert target.layer is not None  # noqa: S101 - the method's target is a layer
    return target.layer


def _part(units: torch.Tensor, target: Target) -> torch.Tensor:
    """The part of a layer's output that the target names: all of it, one unit's map, or one neuron."""
    if target.channel is None:
        return units
    if target.position is None:
        return units[:, target.channel : target.channel + 1]
    row, column = target.position
    return units[:, target.channel : target.channel + 1, row : row + 1, column : column + 1]


@dataclass(frozen=True)
class Inversion(Method):
    """The image that reproduces what a layer makes of a photo, found from noise by gradient descent on the distance of
    the two codes and on what keeps it an image (Mahendran and Vedaldi 2015). One for each photo. A unit or a neuron may
    be named in place of a layer: then its map or value alone is to be reproduced.

    Arrays: ``picture`` and ``original`` uint8 [image, row, column, color], what was found and what the network saw of
    the photo; ``prepared`` [image, channel, row, column], what was found as the network takes it; ``error`` [image],
    ‖Φ(x) − Φ₀‖² / ‖Φ₀‖² of what was found, without transforms (0: the same code; 1: as far as a code of zeros);
    ``pixel_error`` [image], the root of the mean squared difference to the photo, of pixels 0 … 1; ``history``
    [image, step], the error before each step.

    Regularizers price pixels relative to the amplitude of photos (80 of 255) and per pixel, so that a weight means the
    same at every size (Mahendran and Vedaldi 2016). A momentum's learning rate is relative to the step that would
    suffice if the code were the image itself.

    Misleads when: what is missing in the picture is taken for what the layer ignores, though the optimizer may only not
    have got there (see the error), and when what looks natural is credited to the code: the parameterization and the
    regularizers bring some of it. Another seed shows what the code leaves open.
    """

    name: ClassVar[str] = "inversion"
    title: ClassVar[str] = "Inversion"
    papers: ClassVar[tuple[str, ...]] = ("mahendran2015understanding", "mahendran2016visualizing")
    needs: ClassVar = ("images",)
    long: ClassVar[bool] = True
    formula: ClassVar[str] = "minimize ‖Φ(x) − Φ₀‖² / ‖Φ₀‖² + λα ‖x‖α^α + λV Σ (Δrow² + Δcolumn²)^(β/2)"
    caveat: ClassVar[str] = (
        "One of many images with nearly this code, as the regularizers like it: run it with another seed to see what "
        "the layer leaves open, and mind the error that remains."
    )

    parameterization: str = parameter("fourier", "what the optimizer changes", choices=("fourier", "pixels"))
    regularizers: str = parameter("alpha:0.001/6 tv:0.001/2", REGULARIZERS_HELP)
    optimizer: str = parameter("adam", "what moves the image", choices=("adam", "momentum"))
    learning_rate: float = parameter(0.0, "size of a step; 0 for the optimizer's own", minimum=0.0)
    steps: int = parameter(256, "how many", minimum=1, maximum=100_000)
    jitter: int = parameter(0, "move the image by so many pixels at random before each step", minimum=0, maximum=64)
    seed: int = parameter(0, "of the noise it starts from", minimum=0, maximum=2**31 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._recipe(1)  # the text of the regularizers is checked before anything is computed

    def refusal(self, network: Network, target: Target) -> ConvscopeError | None:  # noqa: ARG002 - the layer says it
        """A layer whose output can't be read as units."""
        layer = _layer(target)
        if layer.opaque:
            return Refused(
                f"{layer.address} has no code: {layer.opaque}", next_step="choose a layer before or after it"
            )
        return None

    def compute(self, network: Network, target: Target, batch: Batch | None) -> View:
        """The photos' codes, then one descent for all of them."""
        assert batch is not None  # noqa: S101 - `needs` says so
        layer = _layer(target)
        check_size(
            len(batch) * (KEPT * batch.tensor[0].numel() + prod(layer.output_shape)),
            f"inverting {len(batch)} images, with what the optimizer keeps of each,",
            "pass fewer images",
        )
        codes = _codes(network, target, batch)
        _check(codes, target, batch)
        original = to_pixels(network.preprocessing, batch.tensor.float()).clamp(0, 1).cpu()
        recipe = self._recipe(original[0].numel())

        def so_far(pixels: torch.Tensor, history: torch.Tensor, step: int) -> View:
            return self._view(network, target, recipe, original, pixels, history, -history[:, step - 1], [])

        found = ascend(
            network,
            Code(target, codes),
            recipe,
            # Every image starts from the same noise: then it doesn't matter which others are there.
            seeds=[self.seed] * len(batch),
            # A code is to be met exactly: what reduced precision rounds away would be taken for what the layer forgot.
            precision="full",
            watch=Watch(f"inverting {target}", so_far),
        )
        error = errors(_codes(network, target, network.batch(to_prepared(network.preprocessing, found.pixels))), codes)
        warnings = _warnings(found, batch)
        return self._view(network, target, recipe, original, found.pixels, found.history, error, warnings)

    def _recipe(self, values: int) -> Preset:
        penalties, projections = parse_regularizers(self.regularizers)
        rate = self.learning_rate or _RATES[self.optimizer, self.parameterization]
        if self.optimizer == "momentum":
            rate *= _momentum_unit(values, self.parameterization)
        return Preset(
            name="inversion",
            title="Inversion",
            papers=self.papers,
            parameterization=self.parameterization,
            optimizer=Optimizer("adam" if self.optimizer == "adam" else "momentum", rate, "cosine:0.05"),
            steps=self.steps,
            transforms=parse_transforms(f"pad:{self.jitter} jitter:{2 * self.jitter}" if self.jitter else "none"),
            penalties=penalties,
            projections=projections,
        )

    def _view(
        self,
        network: Network,
        target: Target,
        recipe: Preset,
        original: torch.Tensor,
        pixels: torch.Tensor,
        history: torch.Tensor,
        error: torch.Tensor,
        warnings: list[str],
    ) -> View:
        arrays: dict[str, Array] = {
            "picture": _pictures(pixels),
            "original": _pictures(original),
            "prepared": to_array(to_prepared(network.preprocessing, pixels)),
            "error": to_array(error),
            "pixel_error": to_array((pixels - original).square().mean(dim=(1, 2, 3)).sqrt()),
            "history": to_array(-history),
        }
        meta: dict[str, Any] = {
            "layer": _layer(target).address,
            "units": None if target.channel is None else [target.channel],
            "position": None if target.position is None else list(target.position),
            "preset": recipe.caption(),
            "caption": f"Images found to give {target} the code of each of {len(original)} "
            f"photo{'s' if len(original) != 1 else ''}: relative squared distance "
            f"{', '.join(f'{each:.3g}' for each in error.tolist()[:8])}{' …' if len(original) > 8 else ''}.",
            "warnings": warnings,
            "values": [finite(each) for each in error.tolist()],
            "ranges": {
                name: tensor_range(torch.from_numpy(array)) if array.dtype == np.float32 else value_range(array)
                for name, array in arrays.items()
            },
        }
        return View("inversion", arrays, {name: AXES[name] for name in arrays}, meta)


def _momentum_unit(values: int, parameterization: str) -> float:
    """The inverse curvature of the error for a code that is the image: ‖x‖² / 2, for photos of this many values.

    In Fourier the longest wave has the largest part in the image, and is what mustn't overshoot.
    """
    unit = values * AMPLITUDE**2 / 2
    # Pixels are the logistic function (slope 1/4) of a quarter of the longest wave's scale, about the side.
    return unit if parameterization == "pixels" else unit * (16 / 255) ** 2 / max(1, values)


def _codes(network: Network, target: Target, batch: Batch) -> torch.Tensor:
    """The photos' codes, float32 on the CPU."""
    layer = _layer(target)
    found = []
    for start, stop, part in mini_batches(network, batch, f"codes of {target}"):
        with network.trace([layer.address]) as trace:
            trace.run(part.tensor)
        units = layer.to_units(trace[layer.address])
        if len(units) != stop - start:
            raise Refused(
                f"{layer.address} returned {len(units)} maps for {stop - start} images: it mixes images",
                next_step="pass one image, or choose a layer before or after it",
            )
        found.append(_part(units, target).detach().to("cpu", torch.float32).clone())
    return torch.cat(found)


def _check(codes: torch.Tensor, target: Target, batch: Batch) -> None:
    for name, code in zip(batch.names, codes, strict=True):
        if not bool(torch.isfinite(code).all()):
            raise Refused(f"{target} isn't finite for {name}", next_step="choose a layer before it, or another image")
        if not bool(code.any()):
            raise Refused(
                f"{target} is zero everywhere for {name}: any image that leaves it silent would do",
                next_step="choose another unit, the whole layer, or an image that excites it",
            )


def _warnings(found: Ascended, batch: Batch) -> list[str]:
    warnings = []
    for name, steps, still, broken in zip(batch.names, found.steps, found.still, found.broken, strict=True):
        if still == steps:
            warnings.append(f"{name}: the gradient was zero at every step; the code doesn't depend on the image there")
        elif still:
            warnings.append(f"{name}: the gradient was zero at {still} of {steps} steps")
        if broken:
            warnings.append(f"{name}: the gradient was not a number at {broken} of {steps} steps, where it stood still")
    return warnings


def _pictures(pixels: torch.Tensor) -> Array:
    """Pixels 0 … 1 as uint8 ``[image, row, column, color]``."""
    rounded = (pixels * 255).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(rounded.permute(0, 2, 3, 1).cpu().numpy())


__all__ = ["Code", "Inversion", "errors"]
