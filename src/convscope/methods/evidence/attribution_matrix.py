"""Attribution matrix: several methods beside each other, each for several classes, and what speaks against each.

The picture of one image that a person should see before believing any single map of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from convscope.errors import ConvscopeError, Refused
from convscope.methods.attribution.attribution import Attribution
from convscope.methods.attribution.seed import Choice
from convscope.methods.backward import mini_batch_size, mini_batches
from convscope.methods.base import Method, Target, method_class, parameter
from convscope.methods.evidence import verdict
from convscope.methods.evidence.comparison import edge_map, random_map
from convscope.methods.evidence.maps import Question
from convscope.methods.evidence.perturbation import area, perturbation_curves, tile_side
from convscope.methods.evidence.randomization import cascade, copy_of, forget
from convscope.methods.evidence.similarity import settled, spearman
from convscope.methods.fill import filling
from convscope.methods.objective import class_index, log_probabilities
from convscope.methods.ranges import check_size, to_array
from convscope.progress import report
from convscope.view import View

if TYPE_CHECKING:
    from convscope.network.batch import Batch
    from convscope.network.network import Network
    from convscope.view import Array

MOST_CLASSES = 8
ORDERS = ("random", "edges")  # orders that know no network, behind the methods'
AXES: dict[str, tuple[str, ...]] = {
    "picture": ("image", "row", "column", "color"),
    "class": ("image", "class"),
    "score": ("image", "class"),
    "probability": ("image", "class"),
    "map": ("image", "method", "class", "row", "column"),
    "random_map": ("image", "method", "row", "column"),
    "class_similarity": ("image", "method"),
    "random_similarity": ("image", "method"),
    "edge_similarity": ("image", "method"),
    "deletion_area": ("image", "curve"),
    "insertion_area": ("image", "curve"),
}


@dataclass(frozen=True)
class AttributionMatrix(Method):
    """Maps of several attribution methods for the same images and the same classes, with the checks that any of them
    can fail: whether the map changes with the class, with the weights, and whether erasing what it marks lowers the
    class's probability sooner than erasing anything.

    Arrays: ``picture`` [image, row, column, color]; ``class``, ``score`` (before softmax) and ``probability`` (0 to 1)
    [image, class]; ``map`` [image, method, class, row, column], each method's of each class's score. With ``checks``,
    of the first class: ``random_map`` [image, method, row, column], of a copy of the network in which every layer has
    forgotten what it learned; rank correlations of magnitudes from -1 to 1, NaN where a map is the same everywhere:
    ``class_similarity`` [image, method] with the map of the second class, ``random_similarity`` with ``random_map``,
    ``edge_similarity`` with an edge detector's; ``deletion_area`` (lower is better) and ``insertion_area`` (higher is
    better) [image, curve], the mean probability as tiles are blurred away or put back, first in each method's order,
    then in a random one and in that of edges.

    Misleads when: the best row is taken to be right. Every check can only show that something is wrong with a map, they
    disagree with each other, and methods differ in resolution, which alone changes every number here.
    """

    name: ClassVar[str] = "attribution_matrix"
    title: ClassVar[str] = "Attribution matrix"
    papers: ClassVar[tuple[str, ...]] = (
        "adebayo2018sanity",
        "petsiuk2018rise",
        "nie2018theoretical",
        "tomsett2020sanity",
    )
    target: ClassVar = "network"
    needs: ClassVar = ("images",)
    long: ClassVar[bool] = True
    formula: ClassVar[str] = "map[m, c] = A_m(score of class c);  similarity = Spearman(|map|, |other map|)"
    caveat: ClassVar[str] = (
        "No row is right because its numbers are the best: each check can only show that something is wrong, and they "
        "disagree with each other."
    )

    methods: str = parameter(
        "gradient,guided_backprop,integrated_gradients,grad_cam", "attribution methods, a comma between them"
    )
    classes: str = parameter("", "classes by name or index, a comma between them; empty: the most probable ones")
    top: int = parameter(2, "how many classes, where none are named", minimum=1, maximum=MOST_CLASSES)
    checks: bool = parameter(True, "compare with other classes, random weights, edges and erased tiles")
    steps: int = parameter(8, "steps of deletion and insertion", minimum=1, maximum=1000)
    noise_seed: int = parameter(0, "what random weights and the random order are drawn from", minimum=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.made()

    def made(self) -> dict[str, Attribution]:
        """The methods by name, each once."""
        found: dict[str, Attribution] = {}
        for name in (each.strip() for each in self.methods.split(",") if each.strip()):
            each = method_class(name)
            if not issubclass(each, Attribution):
                raise ConvscopeError(
                    f"{name} makes no maps of importance",
                    where=f"{self.name}, parameter methods",
                    next_step="choose attribution methods, like gradient,grad_cam",
                )
            made = each.make({})
            assert isinstance(made, Attribution)  # noqa: S101 - for the type checker
            found[name] = made
        if not found:
            raise ConvscopeError(
                "no method is named", where=f"{self.name}, parameter methods", next_step="write gradient,grad_cam"
            )
        return found

    def compute(self, network: Network, target: Target, batch: Batch | None) -> View:  # noqa: ARG002 - the network
        """Every method's maps of every class; then the checks of the first class's."""
        assert batch is not None  # noqa: S101 - `needs` says so
        if network.classes < 1:
            raise Refused(
                "this network's output isn't one score per class",
                where=network.name,
                next_step="look at one unit with one method, like gradient",
            )
        run = _Run(self, network, batch)
        run.choose_classes()
        run.explain()
        if self.checks:
            run.check()
        return run.view()


class _Run:
    """The state of one computation."""

    def __init__(self, asked: AttributionMatrix, network: Network, batch: Batch) -> None:
        self.asked, self.network, self.batch = asked, network, batch
        self.methods = asked.made()
        self.refused: dict[str, str] = {}
        self.arrays: dict[str, Array] = {}
        for name, method in list(self.methods.items()):
            refusal = method.refusal(network, Target())
            if refusal is not None:
                self._leave_out(name, refusal)

    def _leave_out(self, name: str, refusal: ConvscopeError) -> None:
        self.refused[name] = refusal.what
        del self.methods[name]
        if not self.methods:
            raise refusal

    def choose_classes(self) -> None:
        """The classes that are named, or each image's most probable ones."""
        scores = []
        for _, _, part in mini_batches(self.network, self.batch, "classes"):
            with self.network.trace([]) as trace:
                scores.append(self.network.scores(trace.run(part.tensor, stop=False)).detach().double().cpu())
        found = torch.cat(scores)
        named = [each.strip() for each in self.asked.classes.split(",") if each.strip()]
        if len(named) > MOST_CLASSES:
            raise ConvscopeError(f"{len(named)} classes", next_step=f"name {MOST_CLASSES} at most")
        if named:
            numbers = [class_index(self.network, each) for each in named]
            classes = torch.tensor(numbers).expand(len(found), len(numbers))
        else:
            # Stable, so that of equal scores the first class comes first on every machine.
            order = found.argsort(dim=1, descending=True, stable=True)
            classes = order[:, : self.asked.top]
        probability = log_probabilities(found).exp() if self.network.classes > 1 else found
        rows, columns = self.batch.tensor.shape[2:]
        check_size(
            len(found) * len(self.methods) * (classes.shape[1] + 2) * rows * columns,
            f"a matrix of {len(found)} images",
            "pass fewer images, or name fewer methods and classes",
        )
        self.classes = classes.contiguous()
        self.arrays |= {
            "picture": np.stack([self.network.unprepare(image) for image in self.batch.tensor]),
            "class": self.classes.numpy().astype(np.int32),
            "score": to_array(found.gather(1, classes)),
            "probability": to_array(probability.gather(1, classes)),
        }

    def _question(self, method: Attribution, place: int) -> Question:
        """What is explained: each image's class number ``place``."""
        bound = method.bind(self.network, Target(), self.batch)
        labels = self.classes[:, place].to(self.network.device)
        values = self.arrays["score"][:, place].tolist()
        return Question(self.network, bound.fixed(Choice(labels=labels)), self.batch, values, labels.tolist())

    def explain(self) -> None:
        """``map`` [image, method, class, row, column]; a method that refuses is left out, with its reason."""
        maps: dict[str, list[Array]] = {}
        for name, method in list(self.methods.items()):
            try:
                maps[name] = [
                    to_array(self._question(method, place).maps(method, self.network, f"{name} of class {place + 1}"))
                    for place in range(self.classes.shape[1])
                ]
            except Refused as refusal:
                self._leave_out(name, refusal)
        self.arrays["map"] = np.stack([np.stack(maps[name], axis=1) for name in self.methods], axis=1)

    def check(self) -> None:
        """What the maps of the first class are compared with."""
        maps = self.arrays["map"].astype(np.float64)
        forgetful = self.network.with_module(copy_of(self.network.module))
        for stage in cascade(forgetful, None, 2):  # the last layer, then all others
            forget(forgetful.module, stage.paths, self.asked.noise_seed)
        random = np.stack(
            [
                to_array(self._question(each, 0).maps(each, forgetful, f"{name} with every layer random"))
                for name, each in self.methods.items()
            ],
            axis=1,
        )
        edges = edge_map(self.batch.tensor.float()).double().cpu().numpy()
        shape = maps.shape[:2]
        found = {name: np.full(shape, np.nan) for name in ("class_similarity", "random_similarity", "edge_similarity")}
        for image, number in np.ndindex(shape):
            first = settled(np.abs(maps[image, number, 0]))
            if maps.shape[2] > 1:
                found["class_similarity"][image, number] = spearman(first, settled(np.abs(maps[image, number, 1])))
            other = settled(np.abs(random[image, number].astype(np.float64)))
            found["random_similarity"][image, number] = spearman(first, other)
            found["edge_similarity"][image, number] = spearman(first, settled(edges[image]))
        self.arrays |= {"random_map": random, **{name: each.astype(np.float32) for name, each in found.items()}}
        self._erase(maps[:, :, 0], edges)

    def _erase(self, maps: Array, edges: Array) -> None:
        """The areas under deletion and insertion, by each method's order and by those that know no network."""
        images = self.batch.tensor
        rows, columns = images.shape[2:]
        drawn = random_map(rows, columns, self.asked.noise_seed).double().numpy()
        replaced = filling(self.network, images, "blur")
        question = self._question(next(iter(self.methods.values())), 0)
        shape = (len(images), len(self.methods) + len(ORDERS))
        deletion, insertion = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        for image in range(len(images)):
            orders = [settled(np.abs(each)) for each in (*maps[image], drawn, edges[image])]

            def answer(variants: torch.Tensor, image: int = image) -> torch.Tensor:
                report(image, len(images), "deletion and insertion")
                return question.answer(image, variants)

            curves = perturbation_curves(
                images[image],
                replaced[image],
                torch.from_numpy(np.stack(orders)),
                answer,
                steps=self.asked.steps,
                side=tile_side(rows, columns),
                seed=self.asked.noise_seed,
                batch=mini_batch_size(self.network),
            )
            deletion[image], insertion[image] = area(curves.deletion), area(curves.insertion)
        self.arrays |= {"deletion_area": deletion, "insertion_area": insertion}

    def view(self) -> View:
        """All of it as a View."""
        numbers = sorted(set(self.arrays["class"].ravel().tolist()))
        images = len(self.batch)
        meta = {
            "layer": "",
            "units": None,
            "caption": f"{len(self.methods)} attribution methods × {self.classes.shape[1]} classes of "
            f"{images} image{'s' if images != 1 else ''}"
            f"{', and what speaks for and against each map of the first class' if self.asked.checks else ''}.",
            "warnings": [f"{name} is left out: {reason}" for name, reason in self.refused.items()],
            "methods": list(self.methods),
            "titles": [each.title for each in self.methods.values()],
            "badges": ["" if each.class_sensitive else "not class-sensitive" for each in self.methods.values()],
            "signed": [each.signed_map() for each in self.methods.values()],
            "refused": self.refused,
            "curves": [*self.methods, *ORDERS] if self.asked.checks else [],
            "class_names": {str(number): self.network.class_name(number) for number in numbers},
            "measure": "probability" if self.network.classes > 1 else "score",
            "cautions": [verdict.RANDOMIZATION, verdict.PERTURBATION, verdict.TOGETHER] if self.asked.checks else [],
        }
        return View("attribution_matrix", self.arrays, {name: AXES[name] for name in self.arrays}, meta)


__all__ = ["AttributionMatrix"]
