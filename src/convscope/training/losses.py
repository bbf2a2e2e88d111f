"""The losses of a defined network, image by image and term by term."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from convscope.methods.ranges import to_array
from convscope.training.spelling import Loss, Softmax, Svm
from convscope.view import View

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convscope.view import Array

KIND = "loss_terms"


def image_losses(
    loss: Loss, scores: Float[Tensor, "image class"], labels: Int[Tensor, " image"]
) -> Float[Tensor, " image"]:
    """Each image's own loss; a mini-batch's is their mean.

    softmax: −log p of the true class, p = exp(score) / Σ exp(scores). svm: Σ over the other classes of
    max(0, score − true class's score + margin), as ConvNetJS has it but without the constant that the true class itself
    adds there.

    >>> scores, labels = torch.tensor([[1.0, 2.5, 0.0]]), torch.tensor([0])
    >>> image_losses(Svm(), scores, labels)
    tensor([2.5000])
    """
    if isinstance(loss, Softmax):
        return F.cross_entropy(scores, labels, reduction="none")
    return svm_margins(loss, scores, labels).sum(dim=1)


def svm_margins(
    loss: Svm, scores: Float[Tensor, "image class"], labels: Int[Tensor, " image"]
) -> Float[Tensor, "image class"]:
    """What each class adds to the hinge loss; the true class adds nothing."""
    true = scores.gather(1, labels[:, None])
    others = F.one_hot(labels, scores.shape[1]) == 0
    return torch.clamp(scores - true + loss.margin, min=0.0) * others


def loss_terms(loss: Loss, scores: Tensor, labels: Tensor, class_names: Sequence[str] = ()) -> View:
    """The loss of each image term by term, as a View of kind "loss_terms".

    Arrays, all ``[image, class]``: ``score``; for softmax ``exponential`` (of the score minus the largest score) and
    ``probability``; for svm ``margin`` (score − true class's score + margin, 0 for the true class); ``term``, what the
    class adds to the loss; ``gradient``, dLoss/dscore. And ``loss`` [image], ``label`` [image] int32.
    """
    scores, labels = scores.detach().double().cpu(), labels.detach().cpu()
    true = F.one_hot(labels, scores.shape[1]).double()
    arrays: dict[str, Array] = {"score": to_array(scores), "label": labels.to(torch.int32).numpy()}
    if isinstance(loss, Softmax):
        exponential = (scores - scores.amax(dim=1, keepdim=True)).exp()
        probability = exponential / exponential.sum(dim=1, keepdim=True)
        terms = -scores.log_softmax(dim=1) * true
        gradient = probability - true
        arrays |= {"exponential": to_array(exponential), "probability": to_array(probability)}
        formula = "loss = −log p[true]; p = exponential / Σ exponential; dLoss/dscore = p − [class is true]"
    else:
        terms = svm_margins(loss, scores, labels)
        violated = (terms > 0).double()
        gradient = violated - true * violated.sum(dim=1, keepdim=True)
        margin = (scores - scores.gather(1, labels[:, None]) + loss.margin) * (1 - true)
        arrays |= {"margin": to_array(margin)}
        formula = (
            f"loss = Σ over other classes of max(0, score − score[true] + {loss.margin:g}); "
            "dLoss/dscore = 1 where that is above 0, and minus their number for the true class"
        )
    arrays |= {"term": to_array(terms), "gradient": to_array(gradient), "loss": to_array(terms.sum(dim=1))}
    axes = {name: ("image", "class")[: array.ndim] for name, array in arrays.items()}
    count = len(labels)
    meta = {
        "caption": f"The {loss.word} loss of {count} image{'s' if count != 1 else ''}, term by term.",
        "loss": loss.word,
        "formula": formula,
        "class_names": list(class_names),
    }
    return View(KIND, arrays, axes, meta)


__all__ = ["image_losses", "loss_terms", "svm_margins"]
