"""Evaluation: how well a network does on images it doesn't train on, and what it takes them for."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from convscope.training.losses import image_losses
from convscope.training.spelling import Softmax

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

    from convscope.training.spelling import Loss
    from convscope.view import Array

# Multiplications of one forward pass: a small part of a second, so that stopping is felt at once.
_WORK = 4e9
_LARGEST = 512


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside the block; afterwards training mode where it was."""
    training = [each for each in module.modules() if each.training]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for each in training:
            each.training = True


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What came out: mean loss, accuracy, and ``confusion`` int64 ``[true class, predicted class]``."""

    step: int
    count: int
    loss: float
    accuracy: float
    confusion: Array
    whole: bool  # whether these were all held-out images

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "step": self.step,
            "count": self.count,
            "loss": self.loss if np.isfinite(self.loss) else None,
            "accuracy": self.accuracy,
            "confusion": self.confusion.tolist(),
            "whole": self.whole,
        }


def part_size(multiplications: int) -> int:
    """How many images one forward pass takes."""
    return max(1, min(_LARGEST, int(_WORK / max(1, multiplications))))


def evaluate(
    module: nn.Module,
    loss: Loss,
    images: Callable[[slice], Tensor],
    labels: Tensor,
    *,
    step: int,
    size: int,
    whole: bool,
    cancelled: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Loss and predictions over all ``labels``; ``images`` prepares a run of them. None when it was cancelled."""
    losses, predicted = 0.0, []
    classes = 0
    with evaluating(module):
        for start in range(0, len(labels), size):
            if cancelled():
                return None
            part = slice(start, min(start + size, len(labels)))
            given = images(part)
            scores = module(given).flatten(1)
            losses += float(image_losses(loss, scores, labels[part].to(scores.device)).double().sum())
            predicted.append(scores.argmax(dim=1).cpu())
            classes = scores.shape[1]
    found = torch.cat(predicted)
    confusion = torch.bincount(labels * classes + found, minlength=classes * classes).reshape(classes, classes)
    correct = int(confusion.diagonal().sum())
    return Evaluation(step, len(labels), losses / len(labels), correct / len(labels), confusion.numpy(), whole)


@dataclass(frozen=True)
class Prediction:
    """The classes a network ranks highest for one image, best first: (class, score, probability or None).

    Probabilities are the softmax of the scores; scores that a hinge loss was trained with have none.
    """

    index: int | None  # of the held-out image, None for a picture of one's own
    label: int | None
    top: tuple[tuple[int, float, float | None], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        top = [{"class": found, "score": score, "probability": p} for found, score, p in self.top]
        return {"index": self.index, "label": self.label, "top": top}


def predict(
    module: nn.Module, loss: Loss, images: Tensor, labels: list[int | None], indexes: list[int | None], top: int = 3
) -> list[Prediction]:
    """The ``top`` classes of prepared images; equal scores in the order of the classes."""
    with evaluating(module):
        scores = module(images).flatten(1).double().cpu()
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :top]
    probability = scores.softmax(dim=1) if isinstance(loss, Softmax) else None
    found = []
    for row, (index, label) in enumerate(zip(indexes, labels, strict=True)):
        ranked = tuple(
            (int(each), float(scores[row, each]), float(probability[row, each]) if probability is not None else None)
            for each in order[row]
        )
        found.append(Prediction(index, label, ranked))
    return found


__all__ = ["Evaluation", "Prediction", "evaluate", "evaluating", "part_size", "predict"]
