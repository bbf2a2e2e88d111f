"""Sanity checks: whether a map of importance depends on what the network learned, and whether the network minds."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from convscope.errors import ConvscopeError, UnknownName, suggest
from convscope.methods.attribution.attribution import NOT_CLASS_SENSITIVE, Attribution
from convscope.methods.attribution.seed import HELP as SEED_HELP
from convscope.methods.attribution.seed import SEEDS
from convscope.methods.backward import mini_batch_size, part_of
from convscope.methods.base import Method, Target, method_class, parameter
from convscope.methods.evidence import verdict
from convscope.methods.evidence.comparison import CURVES, center_map, edge_map, moved_map, random_map
from convscope.methods.evidence.maps import Question
from convscope.methods.evidence.perturbation import area, perturbation_curves, tile_side
from convscope.methods.evidence.randomization import cascade, copy_of, forget, relevant_parameters
from convscope.methods.evidence.sensitivity import other_choices
from convscope.methods.evidence.similarity import brightness, settled, spearman, structural_similarity
from convscope.methods.fill import FILLS, filling
from convscope.methods.fill import HELP as FILL_HELP
from convscope.methods.objective import HELP
from convscope.methods.ranges import check_size, not_finite
from convscope.progress import preview, report
from convscope.view import View, value_range

if TYPE_CHECKING:
    from convscope.methods.objective import ObjectiveLike
    from convscope.network.batch import Batch
    from convscope.network.network import Network
    from convscope.network.unit import Unit
    from convscope.view import Array

AXES: dict[str, tuple[str, ...]] = {
    "picture": ("image", "row", "column", "color"),
    "randomized": ("stage", "image", "row", "column"),
    "spearman": ("stage", "image"),
    "spearman_signed": ("stage", "image"),
    "ssim": ("stage", "image"),
    "compared": ("curve", "image", "row", "column"),
    "edge_similarity": ("image",),
    "fraction": ("step",),
    "deletion": ("curve", "image", "step"),
    "insertion": ("curve", "image", "step"),
    "deletion_area": ("fill", "curve", "image"),
    "insertion_area": ("fill", "curve", "image"),
    "varied": ("variant", "image", "row", "column"),
    "sensitivity": ("variant", "image"),
}


@dataclass(eq=False)
class _Found:
    """What is known so far; a View can be made of it at any time."""

    maps: list[Array]  # [image, row, column] for each stage
    stages: list[str]
    compared: Array
    curves: dict[str, Array] = field(default_factory=dict)
    varied: dict[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class SanityChecks(Method):
    """Whether to believe a map of importance: three checks that any attribution method (``of``) can fail.

    Randomization (Adebayo et al. 2018): the same map of a copy of the network whose layers forget what they learned,
    from the last one down; a map that stays the same doesn't show what was learned. Kernels are drawn anew from
    N(0, 2 / fan-in) with biases 0, normalizations become as new, all else is shuffled; what is explained (class, place)
    stays. Deletion and insertion (Petsiuk et al. 2018): the network's answer as tiles of the image are replaced by a
    fill, or put back, in the order of the map's mean magnitude in them, beside a random order, a blob in the center,
    an edge detector, and the map itself moved by half the image. Sensitivity: the map's similarity to itself under
    another baseline, fill or noise seed.

    Arrays: ``picture`` [image, row, column, color]; ``randomized`` [stage, image, row, column], stage 0 the map itself;
    its similarity to stage 0, all [stage, image]: ``spearman`` (rank correlation of magnitudes) and
    ``spearman_signed`` from -1 to 1, ``ssim`` (of magnitudes, each map divided by its largest) up to 1, NaN for a map
    that is the same everywhere; ``compared`` [curve, image, row, column], what orders the tiles; ``edge_similarity``
    [image], rank correlation of the map's magnitude with the edges; ``fraction`` [step] of tiles from 0 to 1;
    ``deletion`` and ``insertion`` [curve, image, step] with the first fill, as probability of the class or value of
    the unit; ``deletion_area`` (small is good) and ``insertion_area`` (large is good) [fill, curve, image]; ``varied``
    [variant, image, row, column] and ``sensitivity`` [variant, image], its rank correlation with the map. What was
    left out or isn't defined for the method is absent.

    Misleads when: a map that passes is taken for a right one. Erased images are unlike any the network was trained on,
    and such measures disagree with each other.
    """

    name: ClassVar[str] = "sanity_checks"
    title: ClassVar[str] = "Sanity checks"
    papers: ClassVar[tuple[str, ...]] = (
        "adebayo2018sanity",
        "petsiuk2018rise",
        "wang2004image",
        "he2015delving",
        "hooker2019benchmark",
        "tomsett2020sanity",
        "binder2023shortcomings",
        "sturmfels2020visualizing",
    )
    target: ClassVar = "objective"
    needs: ClassVar = ("images",)
    long: ClassVar[bool] = True
    formula: ClassVar[str] = (
        "spearman[s] = corr(rank |map of weights random from layer s on|, rank |map|);  "
        "deletion[k] = answer(image without its k most important tiles)"
    )
    caveat: ClassVar[str] = verdict.TOGETHER

    of: str = parameter("gradient", "the attribution method whose maps are checked, like gradient or grad_cam")
    objective: ObjectiveLike = parameter("score", HELP)  # noqa: RUF009 - parameter() is a field()
    seed: str = parameter("maximum", SEED_HELP, choices=SEEDS)
    of_parameters: str = parameter("", 'the checked method\'s own parameters as JSON, like {"reduce": "maximum"}')
    stages: int = parameter(
        6, "how many random networks, from the last layer alone to all; 0 leaves them out", minimum=0
    )
    steps: int = parameter(6, "steps of deletion and insertion; 0 leaves them out", minimum=0, maximum=1000)
    fills: str = parameter("blur,image", f"one or more (a comma between them; the first one is drawn) of {FILL_HELP}")
    tile: int = parameter(
        0, "side in pixels of what is erased at once; 0 is a 28th of the image's shorter side", minimum=0
    )
    order: str = parameter(
        "magnitude",
        "what counts as important: magnitude (either sign), value (what speaks for it)",
        choices=("magnitude", "value"),
    )
    variants: int = parameter(2, "other baselines, fills or noise seeds to compare with; 0 leaves them out", minimum=0)
    noise_seed: int = parameter(0, "what random weights, the random order and ties are drawn from", minimum=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.method()
        self.fill_names()

    def method(self) -> Attribution:
        """The method that is checked, with its parameters."""
        where = f"{self.name}, parameter of_parameters"
        try:
            given = json.loads(self.of_parameters or "{}")
        except ValueError as error:
            raise ConvscopeError(f"not JSON: {error}", where=where, next_step='write {"reduce": "norm"}') from error
        if not isinstance(given, dict):
            raise ConvscopeError("not a JSON object", where=where, next_step='write {"reduce": "norm"}')
        own = sorted({"objective", "seed"} & given.keys())
        if own:
            raise ConvscopeError(
                f"{own[0]} is a parameter of {self.name} itself", where=where, next_step="give it there"
            )
        found = method_class(self.of)
        if not issubclass(found, Attribution):
            raise ConvscopeError(
                f"{self.of} makes no maps of importance",
                where=f"{self.name}, parameter of",
                next_step="choose an attribution method, like gradient",
            )
        made = found.make({"objective": self.objective, "seed": self.seed, **given})
        assert isinstance(made, Attribution)  # noqa: S101 - for the type checker
        return made

    def fill_names(self) -> tuple[str, ...]:
        """The fills asked for, each once."""
        names = tuple(dict.fromkeys(each.strip() for each in self.fills.split(",") if each.strip()))
        unknown = [each for each in names if each not in FILLS]
        if unknown or not names:
            raise UnknownName(
                f"no fill {unknown[0]!r}" if unknown else "no fill is named",
                where=f"{self.name}, parameter fills",
                next_step=suggest(unknown[0] if unknown else "", FILLS) or f"choose of {', '.join(FILLS)}",
            )
        return names

    def resolve(self, network: Network, target: str | Unit = "") -> Target:
        """What the checked method takes as its target."""
        return self.method().resolve(network, target)

    def refusal(self, network: Network, target: Target) -> ConvscopeError | None:
        """What the checked method refuses."""
        return self.method().refusal(network, target)

    def compute(self, network: Network, target: Target, batch: Batch | None) -> View:
        """The map, then what is left of it in networks that forget; deletion and insertion; other choices."""
        assert batch is not None  # noqa: S101 - `needs` says so
        check_size(
            (len(CURVES) + 5 + self.stages) * len(batch) * batch.tensor[0, 0].numel(),
            f"the checks of {len(batch)} images",
            "pass fewer images",
        )
        method = self.method()
        explained = target
        if target.layer is not None and target.channel is None:
            # A method that looks at a layer's maps: which one is its parameter, what it explains the objective.
            maps: dict[str, Any] = {"layer": target.layer.address}
            method, explained = replace(method, **maps), Target()
        question = Question.ask(method, network, explained, batch)
        original = question.maps(method, network, self.of).double().numpy()
        found = _Found([original], ["original"], self._compared(batch, original))

        def show() -> None:
            preview(lambda: self._view(target, method, question, found))

        show()
        if self.stages:
            self._randomize(method, question, found, show)
        if self.steps:
            self._perturb(question, found, show)
        for name, variant in other_choices(method, self.variants).items():
            found.varied[name] = question.maps(variant, network, f"{self.of} with {name}").double().numpy()
            show()
        return self._view(target, method, question, found)

    def _randomize(self, method: Attribution, question: Question, found: _Found, show: Any) -> None:
        copied = question.network.with_module(copy_of(question.network.module))
        first = part_of(question.batch, 0, 1)
        relevant = relevant_parameters(copied, question.bound.part(slice(0, 1)), first)
        for stage in cascade(copied, relevant, self.stages):
            forget(copied.module, stage.paths, self.noise_seed)
            maps = question.maps(method, copied, f"{self.of} with {stage.name} random")
            found.maps.append(maps.double().numpy())
            found.stages.append(stage.name)
            show()

    def _compared(self, batch: Batch, original: Array) -> Array:
        rows, columns = batch.tensor.shape[2:]
        edges = edge_map(batch.tensor.float()).double().cpu().numpy()
        same = [random_map(rows, columns, self.noise_seed), center_map(rows, columns)]
        moved = moved_map(torch.from_numpy(original)).numpy()
        maps = {"map": original, "edges": edges, "moved": moved}
        maps |= {
            name: np.broadcast_to(each.double().numpy(), original.shape)
            for name, each in zip(("random", "center"), same, strict=True)
        }
        return np.stack([maps[name] for name in CURVES])

    def _perturb(self, question: Question, found: _Found, show: Any) -> None:
        images, network = question.batch.tensor, question.network
        exact = np.abs(found.compared) if self.order == "magnitude" else found.compared
        importance = torch.from_numpy(np.stack([np.stack([settled(each) for each in maps]) for maps in exact]))
        fills = self.fill_names()
        shape = (len(fills), len(CURVES), len(images), self.steps + 1)
        deletion, insertion = np.full(shape, np.nan), np.full(shape, np.nan)
        found.curves |= {"deletion": deletion, "insertion": insertion}
        for number, fill in enumerate(fills):
            replaced = filling(network, images, fill)
            for image in range(len(images)):
                done = number * len(images) + image

                def answer(variants: torch.Tensor, image: int = image, done: int = done) -> torch.Tensor:
                    report(done, len(fills) * len(images), "deletion and insertion")
                    return question.answer(image, variants)

                curves = perturbation_curves(
                    images[image],
                    replaced[image],
                    importance[:, image],
                    answer,
                    steps=self.steps,
                    side=self.tile or tile_side(*images.shape[2:]),
                    seed=self.noise_seed,
                    batch=max(1, mini_batch_size(network) // 2),
                )
                deletion[number, :, image], insertion[number, :, image] = curves.deletion, curves.insertion
            show()

    # ---- the View ----------------------------------------------------------------------------------------------

    def _view(self, target: Target, method: Attribution, question: Question, found: _Found) -> View:
        network, batch = question.network, question.batch
        exact = _arrays(found, self.steps)
        arrays = {name: array.astype(np.float32) for name, array in exact.items()}
        arrays["picture"] = np.stack([network.unprepare(image) for image in batch.tensor])
        ranges = {name: value_range(array) for name, array in arrays.items() if array.dtype.kind == "f"}
        findings, cautions = self._findings(found, exact)
        images = len(batch)
        meta = {
            "layer": target.layer.address if target.layer is not None else "",
            "units": None if target.channel is None else [target.channel],
            "position": None if target.position is None else list(target.position),
            "caption": f"Sanity checks of {method.title.lower()}: whether the maps of {question.bound.caption} "
            f"in {images} image{'s' if images != 1 else ''} depend on the network, and the network on what they mark.",
            "warnings": not_finite({"map": value_range(found.maps[0])}, {"map": "map"}),
            "ranges": ranges,
            "of": self.of,
            "of_parameters": method.values(),
            "stages": found.stages,
            "curves": list(CURVES),
            "fills": list(self.fill_names()) if found.curves else [],
            "tile": self.tile or tile_side(*batch.tensor.shape[2:]),
            "variants": list(found.varied),
            "measure": question.measure,
            "findings": [each.to_json() for each in findings],
            "cautions": cautions,
            "signed": method.signed_map(),
            "badge": "" if method.class_sensitive else NOT_CLASS_SENSITIVE,
            "label_names": [network.class_name(label) for label in question.labels],
            **question.bound.meta(question.values, question.labels, images),
        }
        return View("sanity_checks", arrays, {name: AXES[name] for name in arrays}, meta)

    def _findings(self, found: _Found, arrays: dict[str, Array]) -> tuple[list[verdict.Finding], list[str]]:
        findings: list[verdict.Finding] = []
        cautions: list[str] = []
        if len(found.stages) > 1:
            findings += verdict.on_randomization(arrays["spearman"], found.stages)
            cautions.append(verdict.RANDOMIZATION)
        findings += verdict.on_edges(arrays["edge_similarity"])
        if found.curves and not np.isnan(found.curves["deletion"]).any():
            deletion, insertion = arrays["deletion_area"], arrays["insertion_area"]
            findings += verdict.on_curves(deletion[0], insertion[0], CURVES)
            findings += verdict.on_fills(deletion, insertion, self.fill_names(), CURVES)
            cautions.append(verdict.PERTURBATION)
        if found.varied:
            findings += verdict.on_sensitivity(arrays["sensitivity"], list(found.varied))
            cautions.append(verdict.SENSITIVITY)
        return findings, [*cautions, verdict.TOGETHER]


def _arrays(found: _Found, steps: int) -> dict[str, Array]:
    """All numbers of a View in float64."""
    original = found.maps[0]
    arrays: dict[str, Array] = {
        "randomized": np.stack(found.maps),
        "spearman": np.array([_each(_magnitude_correlation, maps, original) for maps in found.maps]),
        "spearman_signed": np.array([_each(_correlation, maps, original) for maps in found.maps]),
        "ssim": np.array([_each(_likeness, maps, original) for maps in found.maps]),
        "compared": found.compared,
        "edge_similarity": np.array(_each(_magnitude_correlation, original, found.compared[CURVES.index("edges")])),
    }
    if found.curves:
        arrays["fraction"] = np.linspace(0, 1, steps + 1)
        for name, curves in found.curves.items():
            arrays[name], arrays[f"{name}_area"] = curves[0], area(curves)
    if found.varied:
        arrays["varied"] = np.stack(list(found.varied.values()))
        arrays["sensitivity"] = np.array([_each(_magnitude_correlation, maps, original) for maps in arrays["varied"]])
    return arrays


def _each(measure: Any, maps: Array, others: Array) -> list[float]:
    return [measure(one, other) for one, other in zip(maps, others, strict=True)]


def _magnitude_correlation(one: Array, other: Array) -> float:
    return _correlation(np.abs(one), np.abs(other))


def _correlation(one: Array, other: Array) -> float:
    return spearman(settled(one), settled(other))


def _likeness(one: Array, other: Array) -> float:
    return structural_similarity(brightness(one), brightness(other))
