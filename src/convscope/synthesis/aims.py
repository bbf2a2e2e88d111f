"""Aims: the objectives of a batch of images, computed together. Each image has its own; one forward pass serves all."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from convscope.errors import Refused
from convscope.methods.objective import are_probabilities

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from convscope.synthesis.goal import Captured
    from convscope.synthesis.objective import Aim, Term


# What negative values of a rising unit's map count, and the least cosine of a direction.
_NEGATIVE = 0.1


@dataclass(frozen=True)
class Aims:
    """A :class:`Goal` of one :class:`Aim` for each image; ``copies`` images in a row have the same.

    A unit's value is the mean of its map, a neuron's is its own, a layer's the mean of its squares, a class's its score
    before softmax. In a unit's map that is to rise, negative values count a tenth: before its ReLU an edge detector's
    map sums to nothing whatever the image, because its kernel does; after a ReLU there are none. A direction v of
    length 1 gives (v · a) · max(0.1, cos(v, a)) of the activations a at each position, and the mean over positions: how
    far along the direction, times how little across it (Carter et al. 2019).

    ``diversity`` makes copies differ: from an image's value, as a fraction of its size, goes ``diversity`` times the
    mean similarity with the other copies, the cosine of the Gram matrices of the layers it is about (Olah et al. 2017).

    With ``strongest``, what is raised is what is measured: :meth:`peaks`.
    """

    aims: tuple[Aim, ...]
    copies: int = 1
    diversity: float = 0.0
    strongest: bool = False

    def __post_init__(self) -> None:
        if self.diversity and any(not aim.layers for aim in self.aims):
            raise Refused(
                "diversity compares the maps of the layer an objective is about; a class score is about none",
                next_step="leave out diversity: copies of other seeds differ by themselves",
            )

    def __len__(self) -> int:
        return len(self.aims)

    @property
    def group(self) -> int:
        """Copies are compared with each other, so they stay together."""
        return self.copies

    @property
    def layers(self) -> tuple[str, ...]:
        """Addresses of all layers that some image is about."""
        return tuple(dict.fromkeys(layer for aim in self.aims for layer in aim.layers))

    @property
    def needs_output(self) -> bool:
        """Whether some image is about a class."""
        return any(aim.needs_output for aim in self.aims)

    @property
    def fixed(self) -> bool:
        """Whether some image is about one position."""
        return any(aim.fixed for aim in self.aims)

    def part(self, indices: Sequence[int]) -> Aims:
        """The same for some of the images."""
        return replace(self, aims=tuple(self.aims[index] for index in indices))

    def values(self, captured: Captured) -> Tensor:
        """What is raised, ``[image]``."""
        value = self._sum(captured, peak=self.strongest)
        if self.diversity == 0 or self.copies < 2:
            return value
        # As a fraction of the value: layers differ by orders of magnitude in how large their activations are.
        return value - self.diversity * value.detach().abs() * self._similarity(captured)

    def peaks(self, captured: Captured) -> Tensor:
        """As :meth:`values` without diversity, but units and directions count where they are strongest, not on average.

        This is what a natural image's response is measured by: one place of it excites a unit.
        """
        return self._sum(captured, peak=True)

    def _sum(self, captured: Captured, *, peak: bool) -> Tensor:
        grouped: defaultdict[tuple[str, str, bool], list[tuple[int, Term]]] = defaultdict(list)
        for image, aim in enumerate(self.aims):
            for term in aim.terms:
                grouped[term.kind, term.layer, term.position is None].append((image, term))
        total: Tensor | None = None
        for (kind, layer, everywhere), chosen in grouped.items():
            maps = captured.scores if kind == "class" else captured[layer]
            images = torch.tensor([image for image, _ in chosen], device=maps.device)
            weights = torch.tensor([term.weight for _, term in chosen], device=maps.device, dtype=maps.dtype)
            value = _VALUES[kind](maps, images, [term for _, term in chosen], everywhere, peak)
            if total is None:
                total = torch.zeros(len(self.aims), device=maps.device, dtype=maps.dtype)
            total = total.to(torch.promote_types(total.dtype, maps.dtype)).index_add(0, images, weights * value)
        assert total is not None  # noqa: S101 - an aim has a term
        return total

    def _similarity(self, captured: Captured) -> Tensor:
        """Each image's mean similarity with the other copies of its aim, ``[image]``, 0 to 1."""
        found = []
        for start in range(0, len(self.aims), self.copies):
            layers = self.aims[start].layers
            similar = torch.stack([similarity(captured[layer][start : start + self.copies]) for layer in layers])
            found.append(similar.mean(dim=0))
        return torch.cat(found)


def similarity(maps: Tensor) -> Tensor:
    """Mean cosine of each image's Gram matrix with the others', ``[image]``, of maps ``[image, unit, row, column]``.

    >>> similarity(torch.ones(2, 3, 4, 4)).round(decimals=3)
    tensor([1., 1.])
    """
    flat = maps.flatten(2)
    gram = (flat @ flat.transpose(1, 2)).flatten(1)
    gram = gram / gram.norm(dim=1, keepdim=True).clamp_min(torch.finfo(gram.dtype).tiny)
    cosine = gram @ gram.T
    mean: Tensor = (cosine.sum(dim=1) - cosine.diagonal()) / max(1, len(maps) - 1)
    return mean


def _units(maps: Tensor, images: Tensor, terms: list[Term], everywhere: bool, peak: bool) -> Tensor:
    channels = torch.tensor([term.channel for term in terms], device=maps.device)
    if everywhere:
        chosen = maps[images, channels]
        if not peak and chosen[0].numel() > 1:
            rising = torch.tensor([term.weight > 0 for term in terms], device=maps.device)[:, None, None]
            chosen = torch.where(rising & (chosen < 0), _NEGATIVE * chosen, chosen)
        return _over_positions(chosen, peak)
    rows, columns = _positions(terms, maps)
    return maps[images, channels, rows, columns]


def _layers(maps: Tensor, images: Tensor, terms: list[Term], everywhere: bool, peak: bool) -> Tensor:  # noqa: ARG001
    return maps.square().mean(dim=(1, 2, 3))[images]


def _classes(scores: Tensor, images: Tensor, terms: list[Term], everywhere: bool, peak: bool) -> Tensor:  # noqa: ARG001
    if scores.shape[1] > 1 and are_probabilities(scores):
        raise Refused(
            "this network returns probabilities, and the scores before them can't be told",
            next_step="name the unit of the layer before the softmax",
        )
    return scores[images, torch.tensor([term.channel for term in terms], device=scores.device)]


def _directions(maps: Tensor, images: Tensor, terms: list[Term], everywhere: bool, peak: bool) -> Tensor:
    vectors = torch.zeros(len(terms), maps.shape[1], dtype=maps.dtype)
    for vector, term in zip(vectors, terms, strict=True):
        for channel, weight in term.direction:
            vector[channel] = weight
    chosen = maps[images]
    if not everywhere:
        rows, columns = _positions(terms, maps)
        chosen = chosen[torch.arange(len(terms), device=maps.device), :, rows, columns][:, :, None, None]
    along = (chosen * vectors.to(maps.device)[:, :, None, None]).sum(dim=1)
    # Not divided by 0 where the layer is silent: there the direction's own slope is what counts.
    cosine = along / (chosen.square().sum(dim=1) + 1e-12).sqrt()
    return _over_positions(along * cosine.clamp_min(_NEGATIVE), peak)


def _over_positions(maps: Tensor, peak: bool) -> Tensor:
    return maps.amax(dim=(1, 2)) if peak else maps.mean(dim=(1, 2))


def _positions(terms: list[Term], maps: Tensor) -> tuple[Tensor, Tensor]:
    places = torch.tensor([term.position or (0, 0) for term in terms], device=maps.device)
    return places[:, 0], places[:, 1]


_VALUES = {"unit": _units, "layer": _layers, "class": _classes, "direction": _directions}

__all__ = ["Aims", "similarity"]
