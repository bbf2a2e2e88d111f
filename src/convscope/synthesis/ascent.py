"""Ascent: images made, step by step, to raise each its own objective; a whole batch in one forward and backward pass.

The pass goes no further than the deepest layer asked for, and back to the image alone: weights need no gradient, and
none is made. What moves the image (its parameterization, transforms, optimizer, regularizers) is the preset's.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch

from convscope.progress import preview, report
from convscope.synthesis.goal import Captured
from convscope.synthesis.parameterization import to_prepared
from convscope.synthesis.transforms import Draws
from convscope.trace.module_state import frozen_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor

    from convscope.network.layer import Layer
    from convscope.network.network import Network
    from convscope.synthesis.goal import Goal
    from convscope.synthesis.parameterization import Parameterization
    from convscope.synthesis.presets import Preset
    from convscope.synthesis.spectrum import ImageStatistics
    from convscope.view import View

Precision = Literal["auto", "full", "mixed"]
PRECISIONS: tuple[Precision, ...] = ("auto", "full", "mixed")
# How well the first gradient in bfloat16 must point the way of the one in float32, as a cosine, for the first images.
_ALIKE, _COMPARED = 0.9, 4
# Multiplications of one mini-batch's forward pass. Two slow cores do them, and the way back, in well under a second:
# that is how soon a cancellation is felt. A fixed rule and not a stopwatch: the same images must give the same bytes.
_WORK = 2e9
_WORK_ON_A_GPU = 1e12
# Lucid's: for so many steps a closed ReLU may be opened by a gradient that would not get through it.
OPENING_STEPS = 16
# How many numbers an ascent holds for one of an image: its variables and the optimizer's two moments, the gradients of
# both, the pixels so far, what is shown of them and what the network takes.
KEPT = 8


@dataclass(frozen=True, eq=False)
class Ascended:
    """What came of an ascent.

    ``pixels`` [image, channel, row, column], 0 … 1, float32 on the CPU. ``importance`` [image, row, column] where the
    parameterization keeps one. ``history`` [image, step]: the objective as it was optimized, seen through the
    transforms, before each step; NaN after an image was finished. ``steps`` [image]: how many it took. ``opened``
    [image]: at how many steps the gradient was zero but for Lucid's redirected ReLU; ``still`` [image]: at how many it
    was zero all the same; ``broken`` [image]: at how many it was not a number. ``precision``: "full" or "mixed".
    """

    pixels: Tensor
    importance: Tensor | None
    history: Tensor
    steps: list[int]
    opened: list[int]
    still: list[int]
    broken: list[int]
    precision: Precision


@dataclass(frozen=True, eq=False)
class Watch:
    """Who looks on while an ascent goes on, and when an image is good enough.

    ``view`` makes a View of all images' pixels so far, each one's history, and the step. ``finished`` is asked every
    ``every`` steps, with the pixels of the images still at work and their places in the batch; those it answers True
    for go no further.
    """

    message: str = "optimizing images"
    view: Callable[[Tensor, Tensor, int], View] | None = None
    finished: Callable[[Tensor, list[int]], list[bool]] | None = None
    every: int = 8


def ascend(
    network: Network,
    goal: Goal,
    preset: Preset,
    *,
    seeds: Sequence[int],
    size: tuple[int, int] | None = None,
    statistics: ImageStatistics | None = None,
    start: Tensor | None = None,
    precision: Precision = "auto",
    watch: Watch | None = None,
) -> Ascended:
    """Raise each image's objective by the preset's steps, all images at once; ``seeds`` has one for each.

    An image depends on its seed and its objective, not on the others of the batch. ``size`` (rows, columns) is that of
    the picture, the network's own if not given; ``start`` are pixels to start from where the parameterization takes
    some. ``precision`` "mixed" runs the network in bfloat16 where torch's autocast does, "full" as it is, and "auto"
    mixed where the device is made for that and the first gradients come out alike (cosine 0.9, for the first 4 images).

    Progress is reported before every mini-batch; cancelling there leaves the network as it was, and no half image.
    """
    climb = _Climb(network, goal, preset, precision, watch or Watch())
    climb.begin(seeds, size, statistics, start)
    return climb.run()


@dataclass(eq=False)
class _Climb:
    """An ascent at work. ``active`` are the images still being optimized, by their place in the batch."""

    network: Network
    goal: Goal
    preset: Preset
    precision: Precision
    watch: Watch
    active: list[int] = field(default_factory=list)

    def begin(
        self,
        seeds: Sequence[int],
        size: tuple[int, int] | None,
        statistics: ImageStatistics | None,
        start: Tensor | None,
    ) -> None:
        if len(seeds) != len(self.goal):
            raise ValueError(f"{len(seeds)} seeds for {len(self.goal)} images")
        images = len(seeds)
        self.active = list(range(images))
        self.parameterization: Parameterization = self.preset.parameterize(
            self.network, seeds, size=size, statistics=statistics, start=start
        )
        self.update = self.preset.update(self.parameterization)
        # Not the seeds themselves: the start noise is drawn from those.
        self.draws = Draws([seed + 1_000_003 for seed in seeds])
        self.pixels = self.parameterization.pixels().detach().to("cpu", torch.float32)
        self.importance: Tensor | None = None
        self.history = torch.full((images, self.preset.steps), torch.nan, dtype=torch.float64)
        self.counts = {name: [0] * images for name in ("steps", "opened", "still", "broken")}
        self.channels_last = self.network.channels > 1
        if self.precision == "auto" and (self.network.dtype != torch.float32 or not has_bfloat16(self.network)):
            self.precision = "full"
        self.mini_batch = max(1, images_per_pass(self.network, self.goal) // self.goal.group) * self.goal.group

    def run(self) -> Ascended:
        for step in range(self.preset.steps):
            self._step(step)
            self._note()
            if self.watch.view is not None:
                preview(partial(self.watch.view, self.pixels, self.history, step + 1))
            if self.watch.finished is not None and (step + 1) % self.watch.every == 0:
                self._let_go(self.watch.finished(self.pixels[self.active], list(self.active)))
                if not self.active:
                    break
        report(self.preset.steps, self.preset.steps, self.watch.message)
        counts = {name: list(found) for name, found in self.counts.items()}
        return Ascended(self.pixels, self.importance, self.history, precision=self.precision, **counts)

    # ---- one step ----------------------------------------------------------------------------------------------

    def _step(self, step: int) -> None:
        pixels = self.parameterization.pixels()
        gradient, values = self._gradient(pixels.detach(), step)
        self.history[self.active, step] = values.double()
        for image in self.active:
            self.counts["steps"][image] += 1
        self.update.step(pixels, gradient, values)

    def _gradient(self, pixels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """The objective's gradient with respect to the pixels, penalties subtracted; the objective's values [image]."""
        leaf = pixels.requires_grad_(True)
        gradient, values = torch.zeros_like(leaf), torch.zeros(len(leaf), dtype=torch.float64)
        progress = step / max(1, self.preset.steps - 1)
        opened = torch.zeros(len(leaf), dtype=torch.bool)
        nothing, broken = torch.ones_like(opened), torch.zeros_like(opened)
        for _ in range(self.preset.copies):
            shown = self.preset.transforms(leaf, self.draws, self.network.image_size, progress)
            prepared = to_prepared(self.network.preprocessing, shown)
            found = self._passes(prepared.detach(), step)
            values += found.values / self.preset.copies
            # Not by grad_outputs, for which torch imports symbolic algebra the first time: two seconds.
            whole = (prepared * found.gradient).sum()
            gradient += torch.autograd.grad(whole, leaf)[0] / self.preset.copies
            opened, nothing, broken = opened | found.opened, nothing & found.still, broken | found.broken
        for name, flags in (("opened", opened), ("still", nothing), ("broken", broken)):
            for place in flags.nonzero()[:, 0].tolist():
                self.counts[name][self.active[place]] += 1
        if self.preset.penalties:
            gradient -= torch.autograd.grad(self.preset.price(self.network, leaf).sum(), leaf)[0]
        return gradient, values

    def _passes(self, prepared: Tensor, step: int) -> _Found:
        """Forward and backward of all images, in mini-batches."""
        found = []
        for start in range(0, len(prepared), self.mini_batch):
            report(step, self.preset.steps, self.watch.message)
            part = list(range(start, min(start + self.mini_batch, len(prepared))))
            found.append(self._one_pass(prepared[part], self.goal.part(part), opening=step < OPENING_STEPS))
        return _Found.joined(found)

    def _one_pass(self, prepared: Tensor, goal: Goal, *, opening: bool) -> _Found:
        values, gradient = self._forward_backward(prepared, goal, redirected=False)
        broken = ~gradient.flatten(1).isfinite().all(dim=1)
        gradient[broken] = 0
        zero = (gradient == 0).flatten(1).all(dim=1) & ~broken
        opened = torch.zeros_like(zero)
        if opening and bool(zero.any()):
            group = goal.group
            silent = [place for place in range(len(zero)) if zero[place // group * group :][:group].any()]
            redirected = torch.zeros_like(gradient)
            redirected[silent] = self._forward_backward(prepared[silent], goal.part(silent), redirected=True)[1]
            opened = zero & redirected.flatten(1).isfinite().all(dim=1) & (redirected != 0).flatten(1).any(dim=1)
            gradient[opened] = redirected[opened]
        return _Found(values, gradient, opened.cpu(), (zero & ~opened).cpu(), broken.cpu())

    def _forward_backward(self, prepared: Tensor, goal: Goal, *, redirected: bool) -> tuple[Tensor, Tensor]:
        if self.precision == "auto":
            self._choose_precision(prepared, goal)
        if self.channels_last:
            try:
                return self._differentiate(prepared.contiguous(memory_format=torch.channels_last), goal, redirected)
            except RuntimeError as error:
                # Channels last is faster, and all the same to a network, but one that flattens by view() can't take it.
                if "view size is not compatible" not in str(error):
                    raise
                self.channels_last = False
        return self._differentiate(prepared, goal, redirected)

    def _differentiate(self, prepared: Tensor, goal: Goal, redirected: bool) -> tuple[Tensor, Tensor]:
        network = self.network
        rule: Literal["redirected"] | None = "redirected" if redirected else None
        with frozen_weights(network.module), network.trace(goal.layers, gradients=True, relu_rule=rule) as trace:
            with self._arithmetic():
                output = trace.run(prepared.to(network.dtype), stop=not goal.needs_output)
            values = goal.values(Captured(network, trace, output))
            gradient = trace.gradients(values.sum(), ["input"], again=False)["input"]
        return values.detach().double().cpu(), gradient.to(prepared.dtype).contiguous()

    def _choose_precision(self, prepared: Tensor, goal: Goal) -> None:
        """Mixed, if the first images' gradients at the start point the same way."""
        found = []
        few = list(range(max(1, min(len(prepared), _COMPARED) // goal.group) * goal.group))
        prepared, goal = prepared[few], goal.part(few)
        for self.precision in ("full", "mixed"):
            report(0, self.preset.steps, self.watch.message)
            found.append(self._forward_backward(prepared, goal, redirected=False)[1].flatten(1).double())
        cosine = torch.cosine_similarity(found[0], found[1], dim=1)
        silent = (found[0] == 0).all(dim=1) & (found[1] == 0).all(dim=1)
        self.precision = "mixed" if bool(((cosine >= _ALIKE) | silent).all()) else "full"

    def _arithmetic(self) -> AbstractContextManager[object]:
        if self.precision != "mixed":
            return nullcontext()
        return torch.autocast(self.network.device.type, dtype=torch.bfloat16)

    # ---- images that are finished ------------------------------------------------------------------------------

    def _note(self) -> None:
        """Keep the pixels, and the importance, of the images at work."""
        self.pixels[self.active] = self.parameterization.pixels().detach().to("cpu", torch.float32)
        importance = self.parameterization.importance
        if importance is not None:
            if self.importance is None:
                self.importance = torch.zeros(len(self.pixels), *importance.shape[1:])
            self.importance[self.active] = importance.detach().to("cpu", torch.float32)

    def _let_go(self, finished: list[bool]) -> None:
        group = self.goal.group
        groups = [finished[start : start + group] for start in range(0, len(finished), group)]
        stay = [group * index + place for index, each in enumerate(groups) if not all(each) for place in range(group)]
        if len(stay) == len(finished):
            return
        self.active = [self.active[place] for place in stay]
        if not stay:
            return
        self.goal = self.goal.part(stay)
        self.parameterization = self.parameterization.selected(stay)
        self.update = self.update.selected(self.parameterization, stay)
        self.draws = self.draws.selected(stay)


@dataclass(frozen=True, eq=False)
class _Found:
    """What a pass found for each image: objective, gradient, and whether it was redirected, zero or not a number."""

    values: Tensor
    gradient: Tensor
    opened: Tensor
    still: Tensor
    broken: Tensor

    @classmethod
    def joined(cls, parts: list[_Found]) -> _Found:
        names = ("values", "gradient", "opened", "still", "broken")
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def images_per_pass(network: Network, goal: Goal) -> int:
    """How many images go through the network at once, by what it computes for one up to the deepest layer."""
    deepest = max((network.layer(each).index for each in goal.layers), default=-1)
    last = network.layers[-1].index if goal.needs_output else deepest
    work = sum(_multiplications(layer) for layer in network.layers if layer.index <= last)
    most = _WORK if network.device.type == "cpu" else _WORK_ON_A_GPU
    return max(1, int(most / max(1, work)))


def _multiplications(layer: Layer) -> int:
    return 0 if layer.kernel is None else layer.kernel.weight.numel() * layer.rows * layer.columns


def has_bfloat16(network: Network) -> bool:
    """Whether the network's device has arithmetic of its own for bfloat16; without, it is slower than float32."""
    if network.device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if network.device.type != "cpu":
        return False
    known = torch.cpu.get_capabilities()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


__all__ = [
    "KEPT",
    "OPENING_STEPS",
    "PRECISIONS",
    "Ascended",
    "Precision",
    "Watch",
    "ascend",
    "has_bfloat16",
    "images_per_pass",
]
