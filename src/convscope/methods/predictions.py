"""Predictions: the most probable classes of each image, and each unit's part in a class's score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from convscope.errors import Refused, UnknownName
from convscope.methods.backward import mini_batches
from convscope.methods.base import Method, Target, parameter
from convscope.methods.kernels import layer_at
from convscope.methods.objective import log_probabilities
from convscope.methods.ranges import not_finite, tensor_range, to_array
from convscope.network.outputs import find_output
from convscope.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convscope.network.batch import Batch
    from convscope.network.layer import Layer
    from convscope.network.network import Network
    from convscope.view import Array

_AXES: dict[str, tuple[str, ...]] = {
    "probability": ("image", "rank"),
    "score": ("image", "rank"),
    "class": ("image", "rank"),
    "explained": ("image",),
    "contribution": ("image", "unit"),
    "bias": ("image",),
}

_NO_SUM = (
    "the score isn't a weighted sum of averaged maps: the network doesn't end in global average pooling and one linear "
    "layer"
)


@dataclass(frozen=True)
class Predictions(Method):
    """The most probable classes of each image; for networks that end in global average pooling and a linear layer, also
    how much each unit of the last maps adds to a class's score.

    Arrays: ``probability`` [image, rank] from 0 to 1 (softmax of the scores), ``score`` [image, rank] before softmax,
    ``class`` [image, rank]; ``explained`` [image], the class explained; ``contribution`` [image, unit] = weight ×
    pooled value, in score; ``bias`` [image]. Contributions and bias sum to the explained class's score, which is
    checked: where they don't, there are none and ``meta["contribution_layer"]`` is None.

    Misleads when: a probability is read as a chance of being right; networks are usually too confident, and softmax
    spreads one whole over the known classes even for a picture of none of them. A contribution has no counterpart:
    that a unit adds much to this class doesn't say that it adds less to others.
    """

    name: ClassVar[str] = "predictions"
    title: ClassVar[str] = "Predictions"
    papers: ClassVar[tuple[str, ...]] = ("zhou2016learning", "lin2013network")
    target: ClassVar = "network"
    needs: ClassVar = ("images",)
    formula: ClassVar[str] = (
        "probability = softmax(score);  score[k] = bias[k] + Σ over u of w[k, u] · mean over p of a[u, p]"
    )
    caveat: ClassVar[str] = (
        "A softmax probability isn't the chance of being right: it shares one whole among the known classes, whatever "
        "the picture shows."
    )

    top: int = parameter(5, "how many classes to list for each image", minimum=1)
    explain_class: int = parameter(
        -1, "the class whose score is split into units; -1 is each image's top class", minimum=-1
    )

    def compute(self, network: Network, target: Target, batch: Batch | None) -> View:  # noqa: ARG002 - the whole network
        """One forward pass over the images, in mini-batches."""
        assert batch is not None  # noqa: S101 - `needs` says so
        if network.classes < 2:
            raise Refused(
                "this network's output isn't a score for each of several classes",
                where=network.name,
                next_step="look at the activations of its last layer",
            )
        if self.explain_class >= network.classes:
            raise UnknownName(f"no class {self.explain_class}", next_step=f"choose 0 to {network.classes - 1}, or -1")
        endings = list(_endings(network))
        recorded = list(dict.fromkeys(layer.address for ending in endings for layer in ending))
        scores, tensors = [], {name: [] for name in recorded}  # type: ignore[var-annotated]
        for _, _, part in mini_batches(network, batch, "predictions"):
            with network.trace(recorded) as trace:
                output = trace.run(part.tensor, stop=False)
                positions = _positions(network, output)
                scores.append(network.scores(output).detach())
                for linear, maps in endings:
                    tensors[linear.address].append(trace[linear.address])
                    tensors[maps.address].append(maps.to_units(trace[maps.address]).double().mean(dim=(2, 3)))
        found = {name: torch.cat(parts) for name, parts in tensors.items()}
        view = self._view(network, batch, torch.cat(scores), endings, found)
        if positions == 1:
            return view
        averaged = f"The network's output has {positions} positions; a score is the average over them."
        return View(view.kind, view.arrays, view.axes, {**view.meta, "warnings": [*view.meta["warnings"], averaged]})

    def _view(
        self,
        network: Network,
        batch: Batch,
        scores: torch.Tensor,
        endings: list[tuple[Layer, Layer]],
        found: dict[str, torch.Tensor],
    ) -> View:
        probability = log_probabilities(scores).exp()
        # A stable order: equal scores by class, so that the same images give the same ranks everywhere.
        ranks = scores.argsort(dim=1, descending=True, stable=True)[:, : self.top]
        explained = ranks[:, 0] if self.explain_class < 0 else torch.full_like(ranks[:, 0], self.explain_class)
        arrays: dict[str, Array] = {
            "probability": to_array(probability.gather(1, ranks)),
            "score": to_array(scores.gather(1, ranks)),
            "class": ranks.cpu().numpy().astype(np.int32),
            "explained": explained.cpu().numpy().astype(np.int32),
        }
        ranges: dict[str, Any] = {"score": tensor_range(scores), "probability": tensor_range(probability)}
        ending = next((each for each in endings if _sums_to_score(each, scores, found)), None)
        if ending is not None:
            weight, bias = _readout(ending[0])
            contribution = weight[explained] * found[ending[1].address]
            arrays["contribution"], arrays["bias"] = to_array(contribution), to_array(bias[explained])
            ranges["contribution"] = tensor_range(contribution)
        occurring = sorted({*arrays["class"].flatten().tolist(), *arrays["explained"].tolist()})
        names = {str(index): network.class_names[index] for index in occurring if index < len(network.class_names)}
        images = len(batch)
        meta = {
            "caption": f"The {ranks.shape[1]} most probable classes of {images} image{'s' if images != 1 else ''}.",
            "warnings": not_finite(ranges, {"score": "score"}),
            "ranges": ranges,
            "layer": None,
            "units": None,
            "class_names": names,
            "labels": list(batch.labels),
            "classes": network.classes,
            "contribution_layer": None if ending is None else ending[1].address,
            "contribution_reason": "" if ending is not None else _NO_SUM,
        }
        return View("predictions", arrays, {name: _AXES[name] for name in arrays}, meta)


def _positions(network: Network, output: Any) -> int:
    """How many positions the chosen output has; refuses one for each pixel, which isn't about the image as a whole."""
    shape = find_output(output, network.output).shape
    if tuple(shape[2:]) == network.image_size and shape[2:].numel() > 1:
        raise Refused(
            f"this network's output has one value per position of the image ({shape[2]} × {shape[3]}), not per class",
            where=network.name,
            next_step="look at the activations of its last layer",
        )
    return shape[2:].numel()


def _endings(network: Network) -> Iterator[tuple[Layer, Layer]]:
    """Candidates (linear layer, layer whose averaged maps it may read): the last linear layer and nearest maps first.

    Whether the sum is exact is decided by numbers, not by the names of layers. Maps of one position come last: of a
    pooled value and what was pooled, the maps are meant.
    """
    for linear in reversed(network.layers):
        kernel = linear.kernel
        if kernel is None or linear.opaque or kernel.groups != 1 or linear.units != network.classes:
            continue
        if linear.rows * linear.columns != 1 or kernel.weight[0].numel() != kernel.weight.shape[1]:
            continue
        candidates = _maps_before(network, linear, kernel.weight.shape[1])
        yield from ((linear, maps) for maps in sorted(candidates, key=lambda each: each.rows * each.columns == 1))


def _maps_before(network: Network, linear: Layer, units: int) -> list[Layer]:
    """Calls with ``units`` maps on the way back from a linear layer, until one with a kernel or with several inputs."""
    found: list[Layer] = []
    inputs = linear.inputs
    while len(inputs) == 1 and inputs[0] != "input":
        before = layer_at(network, inputs[0])
        if before is None or before.opaque:
            break
        if before.units == units and "row" in before.axes:
            found.append(before)
        if before.kernel is not None or len(found) == 8:
            break
        inputs = before.inputs
    return found


def _readout(linear: Layer) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight ``[class, unit]`` and bias ``[class]`` of the last layer, in float64."""
    kernel = linear.kernel
    assert kernel is not None  # noqa: S101 - _endings gives no others
    weight = kernel.weight.detach().double().flatten(1)
    bias = weight.new_zeros(len(weight)) if kernel.bias is None else kernel.bias.detach().double()
    return weight, bias


def _sums_to_score(ending: tuple[Layer, Layer], scores: torch.Tensor, found: dict[str, torch.Tensor]) -> bool:
    """Whether weight × averaged map + bias is the network's score, for every image and class."""
    linear, maps = ending
    weight, bias = _readout(linear)
    expected = found[maps.address] @ weight.T + bias
    scale = float(scores.double().abs().max()) + 1e-6
    return scores.shape == expected.shape and bool(((expected - scores.double()).abs() <= 1e-4 * scale).all())
