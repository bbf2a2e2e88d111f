"""Feature visualization: images made to excite units, beside the natural patches that excite them most."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from convscope.errors import ConvscopeError, Refused
from convscope.images import ImageSet
from convscope.methods.base import Method, Target, parameter
from convscope.methods.ranges import check_size
from convscope.mining.pictures import open_study
from convscope.mining.study import METHOD, Study
from convscope.network.unit import channel_numbers
from convscope.store import Store
from convscope.synthesis.aims import Aims
from convscope.synthesis.ascent import KEPT, PRECISIONS
from convscope.synthesis.natural import mined_responses, natural_responses, no_evidence
from convscope.synthesis.objective import HELP, layer_aim, parse_aims, unit_aim
from convscope.synthesis.parameterization import NAMES
from convscope.synthesis.presets import PRESETS, preset
from convscope.synthesis.recipe_text import REGULARIZERS_HELP, TRANSFORMS_HELP
from convscope.synthesis.visualization import Visualization

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convscope.network.batch import Batch, ImagesLike
    from convscope.network.network import Network
    from convscope.network.unit import Unit
    from convscope.synthesis.objective import Aim
    from convscope.synthesis.presets import Preset
    from convscope.view import Recipe, View

MOST_IMAGES = 256


@dataclass(frozen=True)
class FeatureVisualization(Method):
    """Images made, by gradient ascent from noise, to excite a unit, a neuron, a class, a direction, a whole layer or a
    sum of those; each beside the natural images that excite it most, and with the activation that both reach.

    A target that is a unit or a neuron is optimized itself; a layer with ``units`` gives one image for each of them,
    all in one batch; a layer alone is optimized as a whole. ``objective`` says what a target can't.

    Arrays: ``picture`` uint8 [unit, row, column, color], what was made; along "unit" there is one image per objective
    and copy. ``image`` float32 [unit, channel, row, column]: the same picture at the network's own input size,
    prepared; all that follows is measured on it, without transforms, after rounding to 256 levels. ``score`` [unit],
    in the objective's own units: a unit counts where its map is largest, as ``natural_score`` [unit] of the best
    natural image does. ``value`` [unit]: the objective as it was raised, units by the mean of their map (where negative
    values count a tenth). ``box`` [unit, side] (row, column, rows, columns): what the unit sees there.
    ``natural_value``, ``natural_image`` [unit, rank], ``natural_box`` [unit, rank, side], ``natural_picture`` uint8
    [unit, rank, row, column, color]: the images or patches that please it most. ``history`` [unit, step]: the objective
    as optimized, through the transforms; NaN after an image was finished. ``importance`` [unit, row, column]: the mean
    size of the gradient, MACO only.

    Misleads when: it is shown alone, or taken for what a unit responds to. It is one image among many that the unit
    likes, chosen as much by the parameterization and its priors as by the unit; networks process such images along
    other paths than photos, and they can be made to show anything (Geirhos et al. 2024). People predict units better
    from natural patches (Borowski et al. 2021): so without images= or study= it is refused.
    """

    name: ClassVar[str] = "feature_visualization"
    title: ClassVar[str] = "Feature visualization"
    papers: ClassVar[tuple[str, ...]] = (
        "simonyan2013deep",
        "yosinski2015understanding",
        "olah2017feature",
        "carter2019activation",
        "fel2023unlocking",
        "borowski2021exemplary",
        "geirhos2024dont",
    )
    long: ClassVar[bool] = True
    formula: ClassVar[str] = (
        "x* = argmax over θ of E over τ of objective(τ(x(θ)));  τ: random transforms, x(θ): the image"
    )
    caveat: ClassVar[str] = (
        "One image among many that the unit likes, shaped by the recipe's priors as much as by the unit; look at the "
        "natural patches first."
    )

    objective: str = parameter("", f"what to please, where a target can't say it: {HELP}")
    units: str = parameter(
        "", "of a layer: which units, one image each, like 0-15 or 3,7,20-25; empty: the whole layer"
    )
    preset: str = parameter("default", "the recipe that the settings below start from", choices=tuple(PRESETS))
    steps: int = parameter(0, "steps of the optimizer; 0: the preset's", minimum=0, maximum=100_000)
    seed: int = parameter(0, "of the start and the transforms; the same seed gives the same bytes", minimum=0)
    copies: int = parameter(1, "images of each objective, from different starts", minimum=1, maximum=16)
    diversity: float = parameter(
        0.0,
        "how much copies are made to differ: the price of their similarity, as a share of the objective",
        minimum=0.0,
    )
    parameterization: str = parameter("", "how the image is made; empty: the preset's", choices=("", *NAMES))
    transforms: str = parameter("", f"what it must please its unit through: {TRANSFORMS_HELP}; empty: the preset's")
    regularizers: str = parameter("", f"what holds it in check: {REGULARIZERS_HELP}; empty: the preset's")
    optimizer: str = parameter(
        "", "what moves it; empty: the preset's", choices=("", "adam", "nadam", "momentum", "ascent")
    )
    learning_rate: float = parameter(0.0, "the optimizer's; 0: the preset's", minimum=0.0)
    policy: str = parameter(
        "",
        "how its rate changes: constant, cosine:END, warmup:N, progress:GAIN, progress01:EARLY,LATE",
    )
    start: str = parameter(
        "noise", "what to begin with: noise, or each objective's best natural image", choices=("noise", "natural")
    )
    until: float = parameter(
        0.0, "stop an image when it scores so many times its best natural image; 0: do all steps", minimum=0.0
    )
    further: int = parameter(
        -1,
        "an image that ends below its best natural one goes on until it is above, for so many times the steps at most, "
        "raised where it is strongest, without transforms, as both are measured; if that isn't enough, it begins again "
        "from that natural image. 0: never, -1: the preset's",
        minimum=-1,
        maximum=100,
    )
    statistics: str = parameter(
        "",
        "colors and spectrum: known (ImageNet's), images (of those given); empty: images for maco, else known",
        choices=("", "known", "images"),
    )
    precision: str = parameter(
        "auto",
        "the network's arithmetic while optimizing (scores are always measured in full): mixed is bfloat16, auto takes "
        "it where that is faster and the first gradient comes out alike",
        choices=PRECISIONS,
    )
    ranks: int = parameter(4, "how many natural images are shown beside each", minimum=1, maximum=25)
    study: str = parameter("", "the folder that `convscope mine` filled, for the natural patches")

    # ---- what it looks at --------------------------------------------------------------------------------------

    @classmethod
    def make(cls, parameters: Mapping[str, Any]) -> Method:
        """As every method; ``study`` may also be a path, an open Store or a Study."""
        given = dict(parameters)
        place = given.get("study", "")
        if isinstance(place, Study):
            place = place.store
        if isinstance(place, Store):
            place = place.path
        if isinstance(place, os.PathLike):
            given["study"] = os.fspath(place)
        return super().make(given)

    def resolve(self, network: Network, target: str | Unit = "") -> Target:
        """A layer, a unit or a neuron; or nothing, where the objective says what to please."""
        if self.objective and str(target):
            raise ConvscopeError(
                f"there are two objectives: the target {target} and {self.objective[:80]!r}",
                next_step="leave out one of them",
            )
        if not self.objective and not str(target):
            raise ConvscopeError(
                "nothing to please was named",
                next_step="name a unit, like layer1.0.conv1:3, a layer with units=0-15, or an objective= like class:0",
            )
        found = Target() if self.objective else super().resolve(network, target)
        self.aims(network, found)
        return found

    def aims(self, network: Network, target: Target) -> tuple[Aim, ...]:
        """The objectives, one image each."""
        if self.units and (target.layer is None or target.channel is not None):
            raise ConvscopeError(
                "units are those of a layer",
                where=str(target) or self.objective,
                next_step="name a layer alone as target",
            )
        if target.layer is None:
            aims = parse_aims(self.objective, network)
        elif target.channel is not None:
            aims = (unit_aim(network, target.layer.address, target.channel, target.position),)
        elif self.units:
            target.layer.check_unit(0)
            numbers = channel_numbers(self.units, target.layer.units, target.layer.address)
            aims = tuple(unit_aim(network, target.layer.address, number) for number in numbers)
        else:
            aims = (layer_aim(network, target.layer.address),)
        if len(aims) * self.copies > MOST_IMAGES:
            raise Refused(
                f"{len(aims) * self.copies} images at once",
                next_step=f"ask for {MOST_IMAGES} at most, one part after another",
            )
        return aims

    def recipe(self, network: Network, target: str | Unit = "", batch: Batch | None = None) -> Recipe:
        """What decides the numbers: of a study, what was mined of these layers so far, wherever it lies."""
        found = super().recipe(network, target, batch)
        if not self.study:
            return found
        layers = dict.fromkeys(
            layer for aim in self.aims(network, self.resolve(network, target)) for layer in aim.layers
        )
        store = open_study(self.study).study.store
        entries = [store.query(method=METHOD, target=layer, network=network.fingerprint) for layer in layers]
        mined = " ".join(each[-1].blob for each in entries if each)
        return replace(found, parameters={**found.parameters, "study": mined})

    def run(self, network: Network, target: str | Unit = "", images: ImagesLike | None = None) -> View:
        """Compute the View; with a study, ``images`` (an ImageSet) only say where its pictures are now."""
        if self.study and isinstance(images, ImageSet):
            open_study(self.study, images)
            images = None
        return super().run(network, target, images)

    # ---- the work ----------------------------------------------------------------------------------------------

    def compute(self, network: Network, target: Target, batch: Batch | None) -> View:
        """Natural images first, then the ascent."""
        if batch is None and not self.study:
            raise no_evidence()
        single = self.aims(network, target)
        preset, images = self.recipe_used(), len(single) * self.copies
        rows, columns = preset.image_size(network)
        check_size(
            images * (KEPT * network.channels * rows * columns + preset.steps),
            f"optimizing {images} images of {rows} × {columns}, with what the optimizer keeps of each,",
            "ask for fewer units or copies at once",
        )
        natural = (
            mined_responses(network, single, self.study, self.ranks)
            if self.study
            else natural_responses(network, single, _given(batch), self.ranks)
        ).repeated(self.copies)
        aims = Aims(tuple(aim for aim in single for _ in range(self.copies)), self.copies, self.diversity)
        return Visualization(self, network, target, aims, natural, preset, batch).view()

    def recipe_used(self) -> Preset:
        """The preset with what was changed of it."""
        return preset(self.preset).changed(
            parameterization=self.parameterization,
            transforms=self.transforms,
            regularizers=self.regularizers,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            policy=self.policy,
            steps=self.steps,
            further=self.further,
        )


def _given(batch: Batch | None) -> Batch:
    if batch is None:
        raise no_evidence()
    return batch


__all__ = ["MOST_IMAGES", "FeatureVisualization"]
