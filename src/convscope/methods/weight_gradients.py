"""Weight gradients: dLoss/dWeight, which way each weight would move to lower the loss, and whose image pulls how."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from convscope.errors import Refused
from convscope.methods.backward import Step, backward
from convscope.methods.base import Method, Target, parameter
from convscope.methods.kernels import Arrangement, kernel_gradient, norms, sharing_calls, take, unit_chunks
from convscope.methods.objective import HELP, Objective
from convscope.methods.ranges import check_size, not_finite, tensor_range, to_array
from convscope.methods.weights import SLICES_HELP, ChosenKernels
from convscope.progress import report
from convscope.view import View

if TYPE_CHECKING:
    from convscope.methods.objective import BoundObjective, ObjectiveLike
    from convscope.network.batch import Batch
    from convscope.network.layer import Layer
    from convscope.network.network import Network

VANISHING = 1e-7
# Above this many weights the gradient is summed in the weight's own precision, not in double.
_DOUBLE_WEIGHTS = 2**24
# A stored gradient of one image: either itself, or what it can be computed from again, whichever is smaller.
Stored = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class WeightGradients(Method):
    """dLoss/dWeight for every weight of a layer, beside the weights: a step of training moves against it. Not the
    spatial gradient (row and column differences) of a filter or an image: that is ``spatial_gradients``.

    Arrays: those of ``weights`` (same slices, same order), and ``gradient`` [unit, slice, row, column], the mean over
    the images of each image's own gradient; ``gradient_norm`` [unit], L2; ``ratio`` [unit], gradient_norm / norm. For
    whose image pulls how: ``image_norm`` [image, unit], L2 of the image's own gradient; ``image_cosine`` [image,
    unit], its cosine with the batch's, -1 to 1; ``image_share`` [image, unit], its projection onto the batch's
    gradient, summing to 1 over the images; for one unit and ``per_image``, ``image_gradient`` [image, unit, slice,
    row, column]. Units: objective per weight. A weight used in several calls gets the sum over them. Batch
    normalization is in evaluation mode, so images don't influence each other.

    Misleads when: the images are classified confidently, for then the loss is flat and its gradient tiny whatever the
    filter does (ask for the objective "score"); and a gradient's size depends on the scale of its weight, so compare
    ratios.
    """

    name: ClassVar[str] = "weight_gradients"
    title: ClassVar[str] = "Weight gradients"
    papers: ClassVar[tuple[str, ...]] = ("rumelhart1986learning", "lecun1998gradient")
    needs: ClassVar = ("images",)
    formula: ClassVar[str] = (
        "∂L/∂w[u, c, r, k] = mean over images of Σ over positions p of ∂L/∂y[u, p] · "
        "x[c, p·stride + (r, k)·dilation − padding]"
    )
    caveat: ClassVar[str] = (
        "This is dLoss/dWeight, the direction of training; the spatial gradient (edges) of a filter is another thing, "
        "see spatial gradients. On confidently classified images the loss is flat and every gradient tiny: then choose "
        "the score."
    )

    objective: ObjectiveLike = parameter("loss", HELP)  # noqa: RUF009 - parameter() is a field()
    slices: int = parameter(9, SLICES_HELP, minimum=0)
    per_image: bool = parameter(False, "also keep each image's own gradient (one unit only)")

    def compute(self, network: Network, target: Target, batch: Batch | None) -> View:
        """One forward and backward pass over the images, in mini-batches."""
        assert batch is not None  # noqa: S101 - `needs` says so
        chosen = ChosenKernels.of(network, target, self.slices)
        assert target.layer is not None  # noqa: S101 - ChosenKernels refuses it
        if self.per_image and target.channel is None:
            raise Refused(
                "per_image keeps the gradients of one unit", next_step=f"add a channel, like {target.layer.address}:0"
            )
        objective = Objective.parse(self.objective).bind(network, batch)
        gradients = ImageGradients.collect(network, objective, batch, target.layer)
        return self._view(chosen, gradients, objective, len(batch), target)

    def _view(
        self, chosen: ChosenKernels, found: ImageGradients, objective: BoundObjective, images: int, target: Target
    ) -> View:
        gradient = chosen.arrangement.arrange(found.mean)
        gradient_norm, _ = norms(gradient)
        norm, _ = norms(chosen.kernels)
        units, order = chosen.units, chosen.order
        pulls = found.pulls(chosen.arrangement, gradient, units)
        arrays = chosen.arrays | {
            "gradient": to_array(take(gradient, units, order)),
            "gradient_norm": to_array(gradient_norm[units]),
            "ratio": to_array((gradient_norm / norm)[units]),
            **{name: to_array(pull) for name, pull in pulls.items()},
        }
        axes = chosen.axes | {
            "gradient": ("unit", "slice", "row", "column"),
            "gradient_norm": ("unit",),
            "ratio": ("unit",),
            **dict.fromkeys(pulls, ("image", "unit")),
        }
        if self.per_image:
            check_size(images * order.numel() * gradient[0, 0].numel(), "these gradients", "pass fewer images")
            own = [take(chosen.arrangement.arrange(each()), units, order) for each in found.stored]
            arrays["image_gradient"] = to_array(torch.stack(own))
            axes["image_gradient"] = ("image", "unit", "slice", "row", "column")
        ranges = chosen.meta["ranges"] | {
            "gradient": tensor_range(gradient),
            "gradient_norm": tensor_range(gradient_norm),
            "ratio": tensor_range(gradient_norm / norm),
        }
        warnings = (
            chosen.meta["warnings"]
            + not_finite(ranges, {"gradient": "gradient"})
            + _vanishing(float(gradient_norm.norm()), float(norm.norm()), objective.text)
        )
        meta = chosen.meta | {
            "caption": f"Gradient of {objective.caption} with respect to the weights of {target}, mean over {images} "
            f"image{'s' if images != 1 else ''}: dLoss/dWeight, not a spatial gradient.",
            "warnings": warnings,
            "ranges": ranges,
            "images": images,
            "calls": list(found.calls),
            "relative_to_batch": ["image_cosine", "image_share"],
            **objective.meta(found.values, found.labels, images),
        }
        return View("kernels", arrays, axes, meta)


@dataclass(frozen=True, eq=False)
class ImageGradients:
    """The gradient of one weight for every image: their mean, and each one's own, shaped like the weight."""

    mean: torch.Tensor
    stored: list[Stored]
    calls: tuple[str, ...]
    values: list[float]
    labels: list[int]

    @classmethod
    def collect(cls, network: Network, objective: BoundObjective, batch: Batch, layer: Layer) -> ImageGradients:
        """One pass over the images; a weight shared by several calls gets the sum over them."""
        calls = sharing_calls(network, layer)
        # Where the first axis isn't the image (windows, tokens first), only one image at a time tells whose is whose.
        apart = all(not call.opaque and call.output_shape[:1] == (1,) for call in calls)
        try:
            return cls._collect(network, objective, batch, calls, 0 if apart else 1)
        except _MixedImages as mixed:
            if objective.whole_batch and len(batch) > 1:
                raise Refused(
                    f"{mixed} doesn't keep images apart, and a function as objective needs them all at once",
                    next_step="pass one image, or another objective",
                ) from mixed
            return cls._collect(network, objective, batch, calls, 1)

    @classmethod
    def _collect(
        cls, network: Network, objective: BoundObjective, batch: Batch, calls: tuple[Layer, ...], size: int
    ) -> ImageGradients:
        addresses = [call.address for call in calls]
        total: torch.Tensor | None = None
        stored: list[Stored] = []
        values: list[float] = []
        labels: list[int] = []
        steps = backward(network, objective, batch, addresses, message="weight gradients", inputs=True, size=size)
        for step in steps:
            for each in _images(calls, step):
                own = each.gradient()
                if total is None:
                    total = torch.zeros_like(own, dtype=torch.float64 if own.numel() < _DOUBLE_WEIGHTS else own.dtype)
                total += own
                stored.append(each.gradient if each.values() < own.numel() else _Kept(own))
            values += step.values
            labels += step.labels
        assert total is not None  # noqa: S101 - a batch holds at least one image
        return cls(total.div_(len(batch)), stored, tuple(addresses), values, labels)

    def pulls(self, arrangement: Arrangement, mean: torch.Tensor, units: torch.Tensor) -> dict[str, torch.Tensor]:
        """``image_norm``, ``image_cosine``, ``image_share`` [image, unit], in float64; 0 where a gradient is zero."""
        rows, dots, squares = [], [], torch.zeros(len(mean), dtype=torch.float64)
        for part, some in unit_chunks(mean):
            squares[part] = some.double().square().sum(dim=(1, 2, 3)).cpu()
        for done, each in enumerate(self.stored):
            report(done, len(self.stored), "each image's share")
            own = arrangement.arrange(each())
            rows.append(norms(own)[0])
            dot = torch.zeros(len(mean), dtype=torch.float64)
            for part, some in unit_chunks(mean):
                dot[part] = (own[part].double() * some.double()).sum(dim=(1, 2, 3)).cpu()
            dots.append(dot)
        norm, dot = torch.stack(rows)[:, units], torch.stack(dots)[:, units]
        square = squares[units]
        lengths = norm * square.sqrt()
        return {
            "image_norm": norm,
            "image_cosine": torch.where(lengths == 0, 0.0, dot / lengths).clamp(-1.0, 1.0),
            "image_share": torch.where(square == 0, 0.0, dot / (square * len(self.stored))),
        }


class _MixedImages(Exception):
    """A call whose tensors have no axis with one entry per image."""


@dataclass(frozen=True, eq=False)
class _Kept:
    """An image's gradient, kept as it is."""

    tensor: torch.Tensor

    def __call__(self) -> torch.Tensor:
        return self.tensor


@dataclass(frozen=True, eq=False)
class _OneImage:
    """What one image gave each call that shares the weight, and the gradient that came back."""

    calls: tuple[Layer, ...]
    given: tuple[torch.Tensor, ...]
    upstream: tuple[torch.Tensor, ...]

    def values(self) -> int:
        """How many numbers this keeps."""
        return sum(each.numel() for each in (*self.given, *self.upstream))

    def gradient(self) -> torch.Tensor:
        """dObjective/dweight of this image, summed over the calls."""
        parts: list[torch.Tensor] = []
        for call, given, upstream in zip(self.calls, self.given, self.upstream, strict=True):
            assert call.kernel is not None  # noqa: S101 - sharing_calls gives no others
            parts.append(kernel_gradient(call, call.kernel, given, upstream))
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total


def _images(calls: tuple[Layer, ...], step: Step) -> Iterator[_OneImage]:
    count = step.stop - step.start
    for call in calls:
        if count > 1 and not len(step.inputs[call.address]) == len(step.gradients[call.address]) == count:
            raise _MixedImages(call.address)
    for index in range(count):
        part: Any = slice(index, index + 1) if count > 1 else slice(None)
        yield _OneImage(
            calls,
            tuple(step.inputs[call.address][part] for call in calls),
            tuple(step.gradients[call.address][part] for call in calls),
        )


def _vanishing(gradient_norm: float, norm: float, objective: str) -> list[str]:
    advice = (
        "" if objective.startswith("score") else ' Try the objective "score": a confident softmax doesn\'t flatten it.'
    )
    if gradient_norm == 0:
        return [f"The gradient is exactly zero: to the last digit {objective} doesn't depend on this layer.{advice}"]
    if not norm or gradient_norm / norm >= VANISHING:
        return []
    return [f"The gradient is {gradient_norm / norm:.1e} of the weights: vanishingly small.{advice}"]
