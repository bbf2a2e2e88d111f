"""Learner: a network, its data and its optimizer, one step at a time. No threads, no clock: the trainer has those.

Everything a step does is decided by the state before it: weights, buffers, what the optimizer remembers, the settings,
the seed, and how many images were drawn. :mod:`convscope.training.snapshot` keeps exactly that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from convscope.errors import Cancelled, Refused
from convscope.methods.backward import multiplications
from convscope.training.batches import Batches, derived_seed
from convscope.training.data import resized_side
from convscope.training.evaluation import Evaluation, Prediction, evaluate, part_size, predict
from convscope.training.frames import Frame, panels_of
from convscope.training.layerwise import Layerwise
from convscope.training.losses import image_losses
from convscope.training.modules import Chain, dropouts
from convscope.training.optimizers import add_l1, adjust, kernels, make_optimizer, penalty, set_rate
from convscope.training.settings import Settings
from convscope.training.watched import architecture_fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from convscope.training.data import Data, Split
    from convscope.training.definition import Definition
    from convscope.view import Array

# Multiplications of one forward pass while training; a larger batch is cut into equal parts whose gradients add up.
_WORK = 4e9
_SMALLEST_PART = 32  # so that batch normalization still has a batch to speak of


def never() -> bool:
    """Not cancelled."""
    return False


@dataclass(frozen=True)
class Step:
    """One update: its number from 0, the mean loss and right answers of its batch before it, and a frame if wanted."""

    step: int
    size: int
    loss: float
    correct: int
    rate: float
    frame: Frame | None = None


class Learner:
    """Trains a defined network.

    >>> from convscope.training.data import load_data
    >>> from convscope.training.presets import preset
    >>> learner = Learner(preset("linear").definition(), load_data("mnist", train=200, held_out=50))
    >>> [learner.step().size for _ in range(2)], learner.steps, learner.examples
    ([32, 32], 2, 64)
    """

    def __init__(
        self,
        definition: Definition,
        data: Data,
        settings: Settings | None = None,
        *,
        seed: int = 0,
        device: str = "cpu",
        name: str = "",
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.definition = definition.with_classes(data.classes)
        self.given = data
        self.data = data.fitted(self.definition.input)
        self.seed = seed
        self.device = torch.device(device)
        side = resized_side(self.data, self.definition.input)
        self.network = self.definition.network(seed, class_names=data.class_names, name=name, resize=side)
        if weights is not None:
            self.network.module.load_state_dict(weights)
        self._check_batch_size(self.settings)
        self.architecture = architecture_fingerprint(self.network.module)
        self.panels = panels_of(self.definition, self.network)
        self.multiplications = multiplications(self.network)
        # Color images lie channels last in memory, and kernels with them: convolutions of a few channels take half the
        # time. The numbers are the same.
        self._layout = torch.channels_last if self.definition.input.channels > 1 else torch.contiguous_format
        module = self.network.module.train().to(self.device)
        for each in module.parameters():
            if each.ndim == 4:
                each.data = each.data.contiguous(memory_format=self._layout)
        assert isinstance(module, Chain)  # noqa: S101 - that is what definitions build
        self.module = module
        self._dropouts = list(dropouts(self.module))
        self._probabilities = [each.p for each in self._dropouts]
        self.batches = Batches(self.data.train, self.definition.input, seed)
        self.optimizer = make_optimizer(self.settings, self.module)
        self.steps = 0
        self.examples = 0
        self.position = 0
        self._set_dropout()

    @property
    def epoch(self) -> float:
        """How many times the training set was gone through."""
        return self.position / len(self.data.train)

    # ---- one step ----------------------------------------------------------------------------------------------

    def step(self, *, frame: bool = False, cancelled: Callable[[], bool] = never) -> Step:
        """Forward, backward, update on the next batch. Raises :class:`Cancelled`, with everything as it was before."""
        rate = self.settings.rate(self.examples, len(self.data.train))
        indexes, after = self.batches.indexes(self.position, self.settings.batch_size)
        loss, correct, taken = self._gradients(indexes, frame=frame, cancelled=cancelled)
        add_l1(kernels(self.module), self.settings)
        set_rate(self.optimizer, rate)
        self.optimizer.step()
        done = Step(self.steps, len(indexes), loss, correct, rate, taken)
        self.steps += 1
        self.examples += len(indexes)
        self.position = after
        return done

    def frame(self) -> Frame:
        """What the next step will compute, without taking it: a frame of the weights as they are now."""
        buffers = [(each, each.clone()) for each in self.module.buffers()]
        indexes, _ = self.batches.indexes(self.position, self.settings.batch_size)
        try:
            _, _, taken = self._gradients(indexes, frame=True, cancelled=never)
        finally:
            self.optimizer.zero_grad()
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
        assert taken is not None  # noqa: S101 - it was asked for
        return taken

    def _gradients(
        self, indexes: Tensor, *, frame: bool, cancelled: Callable[[], bool]
    ) -> tuple[float, int, Frame | None]:
        """Leave the gradient of the batch's mean loss in the parameters; its loss, right answers, and a frame."""
        self.optimizer.zero_grad()
        self._seed_dropout()
        count = len(indexes)
        parts = self._parts(indexes)
        buffers = [(each, each.clone()) for each in self.module.buffers()] if len(parts) > 1 else []
        total, correct, done = 0.0, 0, 0
        kept: tuple[Layerwise, Tensor] | None = None
        for part in parts:
            if len(parts) > 1 and cancelled():
                self._take_back(buffers)
                raise Cancelled
            labels = self.data.train.labels[part].to(self.device)
            images = self._placed(self.batches.images(part, self.settings, self.position + done))
            passed = Layerwise(images) if frame and kept is None else None
            scores = self._forward(images, passed)
            losses = image_losses(self.definition.loss, scores, labels)
            mean = losses.sum() / count
            if passed is not None:
                passed.before_backward()
                kept = (passed, labels)
            mean.backward()
            total += float(losses.detach().sum())
            correct += int((scores.detach().argmax(dim=1) == labels).sum())
            done += len(part)
        taken = None
        if kept is not None:
            taken = Frame.take(
                self.steps,
                self.examples,
                self.panels,
                self.module,
                *kept,
                batch=count,
                network=self.architecture,
            )
        return total / count, correct, taken

    def _placed(self, images: Tensor) -> Tensor:
        """Images where, and in the order in which, the network takes them fastest."""
        return images.to(self.device).contiguous(memory_format=self._layout)

    def _forward(self, images: Tensor, passed: Layerwise | None) -> Tensor:
        if passed is None:
            scores: Tensor = self.module(images)
            return scores.flatten(1)
        self.module.record(passed)
        try:
            scores = self.module(images)
        finally:
            self.module.record(None)
        return scores.flatten(1)

    def _parts(self, indexes: Tensor) -> Sequence[Tensor]:
        largest = max(_SMALLEST_PART, int(_WORK / max(1, self.multiplications)))
        return indexes.chunk(-(-len(indexes) // largest))

    def _take_back(self, buffers: list[tuple[Tensor, Tensor]]) -> None:
        self.optimizer.zero_grad()
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)

    # ---- settings ----------------------------------------------------------------------------------------------

    def change(self, values: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Change settings from the next step on; what changed, with old and new values. Nothing is half changed."""
        changed = self.settings.changed(values)
        self._check_batch_size(changed)
        differences = self.settings.differences(changed)
        self.settings = changed
        if "optimizer" in differences:
            self.optimizer = make_optimizer(changed, self.module)
        else:
            adjust(self.optimizer, changed, changed.learning_rate)
        self._set_dropout()
        return differences

    def _check_batch_size(self, settings: Settings) -> None:
        size = min(settings.batch_size or len(self.data.train), len(self.data.train))
        if size > 1:
            return
        for each in self.definition.flat_normalizations():
            raise Refused(
                "batch normalization of single numbers needs at least two images in a batch",
                where=each,
                next_step="choose a batch size of 2 or more",
            )

    def _set_dropout(self) -> None:
        for each, own in zip(self._dropouts, self._probabilities, strict=True):
            each.p = own if self.settings.dropout is None else self.settings.dropout

    def _seed_dropout(self) -> None:
        if self._dropouts:
            generator = torch.Generator().manual_seed(derived_seed(self.seed, "dropout", self.steps))
            for each in self._dropouts:
                each.generator = generator

    # ---- looking at it -----------------------------------------------------------------------------------------

    def penalty(self) -> float:
        """What the penalties on large weights add to the loss."""
        return penalty(kernels(self.module), self.settings)

    def evaluate(self, limit: int = 0, cancelled: Callable[[], bool] = never) -> Evaluation | None:
        """Loss, accuracy and confusion on the held-out images, or the first ``limit``; None when cancelled."""
        part = self.data.held_out
        labels = part.labels[:limit] if limit else part.labels
        return evaluate(
            self.module,
            self.definition.loss,
            lambda run: self._placed(self.batches.normalized(part.images[run])),
            labels,
            step=self.steps,
            size=part_size(self.multiplications),
            whole=len(labels) == len(part),
            cancelled=cancelled,
        )

    def samples(self, indexes: Sequence[int], top: int = 3) -> list[Prediction]:
        """The classes ranked highest for these held-out images."""
        part: Split = self.data.held_out.part(torch.tensor(indexes, dtype=torch.int64))
        images = self._placed(self.batches.normalized(part.images))
        return predict(self.module, self.definition.loss, images, part.labels.tolist(), list(indexes), top)

    def predict(self, pixels: Array, top: int = 3) -> Prediction:
        """The classes ranked highest for a picture of one's own, ``[row, column, channel]``."""
        image = self.network.prepare(pixels).to(self.device)
        return predict(self.module, self.definition.loss, image, [None], [None], top)[0]


__all__ = ["Learner", "Step"]
