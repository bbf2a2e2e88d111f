"""Settings: everything that decides a study's numbers, fixed when it begins and the same in every worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np

from convscope.errors import ConvscopeError, Refused, UnknownName, suggest
from convscope.mining.reduce import Reduction  # noqa: TC001 - types are checked in tests
from convscope.view import Array  # noqa: TC001 - types are checked in tests

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from convscope.network.layer import Layer
    from convscope.network.network import Network

SAMPLE = 64
SPOT_IMAGES = 256
COVARIANCE_UNITS = 4096
LARGEST_K = 1000


@dataclass(frozen=True, eq=False)
class Grid:
    """A layer's integer grids, one power of two for each unit (:mod:`convscope.mining.exact`)."""

    exponent: Array
    square_exponent: Array


@dataclass(frozen=True, eq=False)
class Settings:
    """``k`` ranks of ``layers``; ``sample`` random images; every ``spot_stride``-th image is looked at more closely.

    ``batch_size`` is the number of images in every forward pass, the last one filled up, and ``threads`` the number of
    torch's threads in it: with others an activation can have other last bits. ``grids`` are measured on the first
    images. ``reduction`` computes the means, see :mod:`convscope.mining.reduce`.
    """

    layers: tuple[str, ...]
    k: int = 9
    batch_size: int = 8
    threads: int = 1
    shard_size: int = 256
    sample: int = SAMPLE
    spot_stride: int = 1
    reduction: Reduction = "torch"
    grids: Mapping[str, Grid] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """All but the grids, as plain JSON values."""
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        return {"layers": list(self.layers), **numbers, "reduction": self.reduction}

    def arrays(self) -> dict[str, Array]:
        """The grids, as arrays of one View."""
        found: dict[str, Array] = {}
        for number, layer in enumerate(self.layers):
            if layer in self.grids:
                found[f"exponent_{number}"] = self.grids[layer].exponent.astype(np.int16)
                found[f"square_exponent_{number}"] = self.grids[layer].square_exponent.astype(np.int16)
        return found

    @classmethod
    def restore(cls, values: Mapping[str, Any], arrays: Mapping[str, Array]) -> Settings:
        """The inverse of :meth:`to_json` and :meth:`arrays`."""
        layers = tuple(str(each) for each in values["layers"])
        grids = {
            layer: Grid(
                arrays[f"exponent_{number}"].astype(np.int64), arrays[f"square_exponent_{number}"].astype(np.int64)
            )
            for number, layer in enumerate(layers)
        }
        numbers = {name: int(values[name]) for name in _NUMBERS}
        return cls(layers=layers, grids=grids, reduction=values.get("reduction", "torch"), **numbers)


_NUMBERS = ("k", "batch_size", "threads", "shard_size", "sample", "spot_stride")


def choose_layers(network: Network, patterns: Sequence[str] | str | None) -> tuple[str, ...]:
    """Addresses by glob; None is every convolution and linear call, ``*`` every call whose output has units.

    Raises :class:`UnknownName` for a pattern that fits nothing.
    """
    usable = [layer for layer in network.layers if not layer.opaque]
    if patterns is None or not patterns:
        chosen = {layer.address for layer in usable if layer.kernel is not None}
        if not chosen:
            raise Refused("this network has no convolution and no linear layer", next_step="choose layers by name")
        return tuple(layer.address for layer in usable if layer.address in chosen)
    wanted = [patterns] if isinstance(patterns, str) else list(patterns)
    chosen = set()
    for pattern in wanted:
        fitting = _fitting(usable, pattern)
        if not fitting:
            known = {layer.address: layer for layer in network.layers}
            if pattern in known:
                raise Refused(f"{pattern} has no units: {known[pattern].opaque}", next_step="choose another layer")
            raise UnknownName(
                f"no layer fits {pattern[:80]!r}", next_step=suggest(pattern, known) or "list them: convscope layers"
            )
        chosen.update(fitting)
    return tuple(layer.address for layer in usable if layer.address in chosen)


def _fitting(layers: Sequence[Layer], pattern: str) -> list[str]:
    return [layer.address for layer in layers if layer.address == pattern or fnmatchcase(layer.address, pattern)]


def check_k(k: int) -> int:
    """``k`` within its limits."""
    if not 1 <= k <= LARGEST_K:
        raise ConvscopeError(f"k is {k}", next_step=f"choose 1 to {LARGEST_K} patches for each unit")
    return k


__all__ = ["COVARIANCE_UNITS", "SAMPLE", "SPOT_IMAGES", "Grid", "Settings", "check_k", "choose_layers"]
