"""Visualization: one computation of a feature visualization, from the start to a View that says how it went."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from convscope.errors import ConvscopeError
from convscope.synthesis.ascent import OPENING_STEPS, Ascended, Watch, ascend
from convscope.synthesis.natural import Natural, images_of, measured_images, responses
from convscope.synthesis.parameterization import to_pixels
from convscope.synthesis.spectrum import ImageStatistics
from convscope.view import Array, View

if TYPE_CHECKING:
    from convscope.methods.base import Target
    from convscope.network.batch import Batch
    from convscope.network.network import Network
    from convscope.synthesis.aims import Aims
    from convscope.synthesis.feature_visualization import FeatureVisualization
    from convscope.synthesis.presets import Preset

_AXES: dict[str, tuple[str, ...]] = {
    "picture": ("unit", "row", "column", "color"),
    "image": ("unit", "channel", "row", "column"),
    "score": ("unit",),
    "value": ("unit",),
    "box": ("unit", "side"),
    "natural_score": ("unit",),
    "natural_value": ("unit", "rank"),
    "natural_image": ("unit", "rank"),
    "natural_box": ("unit", "rank", "side"),
    "natural_picture": ("unit", "rank", "row", "column", "color"),
    "history": ("unit", "step"),
    "importance": ("unit", "row", "column"),
}


@dataclass
class Further:
    """What it took to bring images above their best natural one: how many more ``steps`` [unit], and which of them were
    begun again from that natural image; ``missing`` says why none could be.
    """

    steps: list[int]
    from_natural: list[int]
    missing: str = ""


@dataclass(frozen=True, eq=False)
class Visualization:
    """One computation: natural images known, the ascent to come."""

    method: FeatureVisualization
    network: Network
    target: Target
    aims: Aims
    natural: Natural
    preset: Preset
    batch: Batch | None

    def view(self) -> View:
        """Optimize the images, measure what they do, and say so."""
        method, network = self.method, self.network
        statistics = self._statistics()
        watch = Watch(
            f"optimizing {len(self.aims)} image{'s' if len(self.aims) != 1 else ''}",
            view=self._preview,
            finished=self._finished if method.until else None,
        )
        copy = [index % method.copies for index in range(len(self.aims))]
        found = ascend(
            network,
            self.aims,
            self.preset,
            seeds=[method.seed * 1009 + each for each in copy],
            statistics=statistics,
            start=self._start(),
            precision=method.precision,  # type: ignore[arg-type]
            watch=watch,
        )
        further = self._further(found, statistics)
        picture, image = self._drawn(found.pixels)
        score, value, box = responses(network, self.aims, image)
        arrays = self._arrays(picture, image, found.history, score, value, box)
        if found.importance is not None:
            arrays["importance"] = found.importance.numpy()
        return self._made(arrays, self._warnings(found, score, further), found, further)

    def _further(self, found: Ascended, statistics: ImageStatistics | None) -> Further:
        """Raise on, in ``found``, the images that are below their best natural one: from where they are, and those that
        stay below from that natural image.
        """
        further = Further([0] * len(self.aims), [])
        preset = self.preset.onward
        if preset is None:
            return further
        natural, score = self.natural.best, self._scores(found.pixels)
        for start in ("here", "natural") if self.method.start != "natural" else ("here",):
            below = np.flatnonzero(score < natural).tolist()
            if not below:
                break
            try:
                begun = found.pixels[below] if start == "here" else self._photos(below)
            except ConvscopeError as error:  # a study whose pictures are somewhere else now
                further.missing = str(error)
                break
            more = self._raised(below, begun, preset, found, statistics)
            reached = self._scores(more.pixels, below)
            for index, place in enumerate(below):
                if reached[index] > score[place]:
                    found.pixels[place], score[place] = more.pixels[index], reached[index]
                    further.steps[place] += more.steps[index]
                    if start == "natural":
                        further.from_natural.append(place)
        return further

    def _raised(
        self,
        places: list[int],
        start: torch.Tensor,
        preset: Preset,
        found: Ascended,
        statistics: ImageStatistics | None,
    ) -> Ascended:
        """An ascent of some images, as they are measured, until each is above its best natural one."""
        natural = self.natural.best

        def shown(pixels: torch.Tensor, _: torch.Tensor, steps: int) -> View:
            together = found.pixels.clone()
            together[places] = pixels
            return self._preview(together, found.history, self.preset.steps + steps)

        def above(pixels: torch.Tensor, active: list[int]) -> list[bool]:
            at_work = [places[place] for place in active]
            return [bool(each) for each in self._scores(pixels, at_work) > natural[at_work]]

        what = f"raising {len(places)} image{'s' if len(places) != 1 else ''} above the best natural one"
        return ascend(
            self.network,
            replace(self.aims.part(places), copies=1, diversity=0.0, strongest=True),
            preset,
            seeds=[self.method.seed * 1009 + each for each in places],
            statistics=statistics,
            start=start,
            precision=found.precision,
            watch=Watch(what, view=shown, finished=above),
        )

    def _statistics(self) -> ImageStatistics | None:
        wanted = self.method.statistics or ("images" if self.preset.parameterization == "maco" else "known")
        if wanted == "known":
            return None
        prepared = measured_images(self.network, self.batch, self.method.study)
        pixels = to_pixels(self.network.preprocessing, prepared.float().cpu()).clamp(0, 1)
        return ImageStatistics.measure([pixels], self.preset.image_size(self.network))

    def _start(self) -> torch.Tensor | None:
        if self.method.start == "noise":
            return None
        return self._photos(list(range(len(self.aims))))

    def _photos(self, places: list[int]) -> torch.Tensor:
        """The best natural images of some objectives, as pixels of the optimized image's size."""
        best = images_of(self.network, self.natural.image[places, 0], self.batch, self.method.study)
        pixels = to_pixels(self.network.preprocessing, best.float()).clamp(0, 1)
        return _resized(pixels, self.preset.image_size(self.network))

    def _drawn(self, pixels: torch.Tensor) -> tuple[Array, torch.Tensor]:
        """The pictures, uint8 [unit, row, column, color], and what the network takes of them, at its own size."""
        rounded = (pixels * 255).round().clamp(0, 255)
        picture: Array = rounded.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        own = (_resized(rounded / 255, self.network.image_size) * 255).round().to(torch.uint8)
        # Prepared as the picture's file would be: the same to the last bit.
        prepared = [self.network.prepare(each.permute(1, 2, 0).contiguous().numpy()) for each in own]
        return picture, torch.cat(prepared)

    def _scores(self, pixels: torch.Tensor, places: list[int] | None = None) -> Array:
        """What the pictures of these places, or all, reach."""
        aims = self.aims if places is None else self.aims.part(places)
        score, _, _ = responses(self.network, aims, self._drawn(pixels)[1])
        return score

    def _finished(self, pixels: torch.Tensor, places: list[int]) -> list[bool]:
        score, natural = self._scores(pixels, places), self.natural.best[places]
        wanted = np.where(natural > 0, self.method.until * natural, natural)
        return [bool(each) for each in (score >= wanted) & (score > np.minimum(natural, 0))]

    def _preview(self, pixels: torch.Tensor, history: torch.Tensor, steps: int) -> View:
        picture, image = self._drawn(pixels)
        unknown = np.full(len(self.aims), np.nan, np.float32)
        whole = np.tile(np.array([0, 0, *self.network.image_size], np.int32), (len(self.aims), 1))
        arrays = self._arrays(picture, image, history, unknown, unknown, whole)
        if self.preset.parameterization == "maco":
            arrays["importance"] = np.zeros(picture.shape[:3], np.float32)
        return self._made(arrays, [f"a preview after {steps} of {self.preset.steps} steps"], None)

    def _arrays(
        self, picture: Array, image: torch.Tensor, history: torch.Tensor, score: Array, value: Array, box: Array
    ) -> dict[str, Array]:
        natural = self.natural
        return {
            "picture": picture,
            "image": image.numpy().astype(np.float32),
            "score": score,
            "value": value,
            "box": box,
            "natural_score": natural.best,
            "natural_value": natural.value.astype(np.float32),
            "natural_image": natural.image.astype(np.int32),
            "natural_box": natural.box.astype(np.int32),
            "natural_picture": natural.picture,
            "history": history.numpy().astype(np.float32),
        }

    # ---- what it says ------------------------------------------------------------------------------------------

    def _made(
        self, arrays: dict[str, Array], warnings: list[str], found: Ascended | None, further: Further | None = None
    ) -> View:
        layer, told = self.target.layer, [*warnings, *self.natural.warnings]
        texts = [aim.text for aim in self.aims.aims]
        units = [aim.unit for aim in self.aims.aims]
        what = self.aims.aims[0].caption if len(set(texts)) == 1 else f"each of {len(set(texts))} objectives"
        meta = {
            "layer": layer.address if layer is not None else "",
            "layers": [list(aim.layers) for aim in self.aims.aims],
            "units": [-1 if unit is None else unit.channel for unit in units],
            "names": texts,
            "captions": [aim.caption for aim in self.aims.aims],
            "copy": [index % self.method.copies for index in range(len(texts))],
            "caption": f"Images made to raise {what}, beside {self.natural.source}. {self.preset.caption()}",
            "preset": self.preset.name,
            "recipe_text": self.preset.caption(),
            "steps": found.steps if found is not None else [],
            "further_steps": further.steps if further is not None else [],
            "from_natural": further.from_natural if further is not None else [],
            "steps_planned": self.preset.steps,
            "seed": self.method.seed,
            "precision": found.precision if found is not None else "",
            # The curve and the score are of different quantities; whoever draws both says so.
            "measures": {
                "score": "each unit's maximum over its map, at the network's own input size and without transforms",
                "natural_score": "the same of the best natural image",
                "history": "the objective as optimized: units by the mean of their map, seen through the transforms",
            },
            "natural_source": self.natural.source,
            "natural_names": self.natural.names,
            "image_size": list(self.network.image_size),
            # They are read one after the other.
            "warnings": [each if each.endswith((".", "!", "?")) else f"{each}." for each in told],
        }
        return View("feature_visualization", arrays, {name: _AXES[name] for name in arrays}, meta)

    def _warnings(self, found: Ascended, score: Array, further: Further) -> list[str]:
        warnings = [*self._about_gradients(found, score)]
        raised = [place for place, steps in enumerate(further.steps) if steps and place not in further.from_natural]
        if raised:
            warnings.append(
                f"{self._listed(raised)} excited less by the image after {self.preset.steps} steps than by the best "
                f"natural one: raised on from there, where it is strongest and without transforms, for up to "
                f"{max(further.steps[place] for place in raised)} steps"
            )
        if further.from_natural:
            warnings.append(
                f"{self._listed(further.from_natural)} excited less by all that was made from noise than by the best "
                "natural image: what is shown was begun from that image and raised in the same way"
            )
        if further.missing:
            warnings.append(f"what is still below couldn't begin again from its best natural image: {further.missing}")
        below = [place for place, natural in enumerate(self.natural.best) if score[place] < natural]
        if below:
            warnings.append(
                f"{self._listed(below)} excited less by the optimized image than by the best natural one: more steps, "
                "another seed or preset may do better"
            )
        if self.network.device.type != "cpu":
            warnings.append("made on a GPU, where the same seed may give slightly other pixels each time")
        return warnings

    def _about_gradients(self, found: Ascended, score: Array) -> list[str]:
        warnings = []
        opened = [place for place, count in enumerate(found.opened) if count]
        if opened:
            warnings.append(
                f"{self._listed(opened)} silent at the start, where closed ReLUs pass no gradient: for the first "
                f"{OPENING_STEPS} steps at most they were opened as Lucid does (a redirected gradient)"
            )
        for place, count in enumerate(found.still):
            if count == found.steps[place] and count:
                warnings.append(f"{self.aims.aims[place].text}: {self._why_nothing(place, float(score[place]))}")
        broken = [place for place, count in enumerate(found.broken) if count]
        if broken:
            warnings.append(
                f"{self._listed(broken)} given a gradient that is no number at some steps, which were left out"
            )
        return warnings

    def _why_nothing(self, place: int, score: float) -> str:
        said = "the gradient was exactly zero at every step, so the image is its start"
        best = float(self.natural.best[place])
        if score == 0 and best <= 0:
            return f"{said}; the unit is 0 on every natural image too: it is dead, or nearly"
        if score == 0:
            return f"{said}; the unit is 0 on it, behind closed ReLUs: try another seed, or start=natural"
        return f"{said}: the objective doesn't depend on the pixels there"

    def _listed(self, places: list[int]) -> str:
        names = list(dict.fromkeys(self.aims.aims[place].text for place in places))
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return f"{', '.join(names[:3])}{more} {'is' if len(names) == 1 else 'are'}"


def _resized(pixels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if tuple(pixels.shape[2:]) == size:
        return pixels
    resized = F.interpolate(pixels, size=size, mode="bilinear", antialias=True)
    return (resized.clamp(0, 1) * 255).round() / 255


__all__ = ["Visualization"]
