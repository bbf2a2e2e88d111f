"""Maps of a layer call: what activations and their gradients have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from convscope.errors import Refused
from convscope.methods.ranges import Range, check_size, merge_ranges, tensor_range, to_array

if TYPE_CHECKING:
    import torch

    from convscope.methods.base import Target
    from convscope.network.layer import Layer
    from convscope.view import Array

AXES: dict[str, tuple[str, ...]] = {
    "map": ("image", "unit", "row", "column"),
    "gradient": ("image", "unit", "row", "column"),
    "maximum": ("image", "unit"),
    "place": ("image", "unit", "coordinate"),
    "mean": ("image", "unit"),
    "zero_fraction": ("image", "unit"),
    "gradient_norm": ("image", "unit"),
}


def require_maps(target: Target, images: int) -> Layer:
    """The target's layer; refuses one whose output isn't units, or a View too large to look at."""
    layer = target.layer
    assert layer is not None  # noqa: S101 - the methods that call this have a layer target
    if layer.opaque:
        raise Refused(f"{layer.address} has no maps: {layer.opaque}", next_step="choose a layer before or after it")
    units = layer.units if target.channel is None else 1
    check_size(
        images * units * layer.rows * layer.columns,
        f"the maps of {images} images",
        f"pass fewer images, or one unit, like {layer.address}:0",
    )
    return layer


class Maps:
    """Collects the maps of a target mini-batch by mini-batch, and the true range of the whole layer's."""

    def __init__(self, target: Target, layer: Layer) -> None:
        self._layer = layer
        self._units = slice(None) if target.channel is None else slice(target.channel, target.channel + 1)
        self._parts: list[Array] = []
        self._ranges: list[Range] = []

    def add(self, output: torch.Tensor, images: int) -> None:
        """Keep the target's units of one mini-batch's output."""
        units = self._layer.to_units(output.detach())
        if len(units) != images:
            raise Refused(
                f"{self._layer.address} returned {len(units)} maps for {images} images: it mixes images",
                next_step="pass one image, or choose a layer before or after it",
            )
        self._ranges.append(tensor_range(units))
        self._parts.append(to_array(units[:, self._units]))

    def array(self) -> Array:
        """All images' maps, ``[image, unit, row, column]``."""
        return np.concatenate(self._parts)

    def range(self) -> Range:
        """The range of all the layer's units, also those not kept."""
        return merge_ranges(self._ranges)


def statistics(maps: Array) -> dict[str, Array]:
    """Maximum and its place (the first in reading order), mean and fraction of exact zeros of each map."""
    images, units, _, columns = maps.shape
    flat = maps.reshape(images, units, -1)
    index = flat.argmax(axis=2)
    with np.errstate(invalid="ignore", over="ignore"):
        return {
            "maximum": np.take_along_axis(flat, index[:, :, None], axis=2)[:, :, 0],
            "place": np.stack([index // columns, index % columns], axis=2).astype(np.int32),
            "mean": flat.mean(axis=2, dtype=np.float64).astype(np.float32),
            "zero_fraction": (flat == 0).mean(axis=2).astype(np.float32),
        }


def map_meta(target: Target, layer: Layer) -> dict[str, Any]:
    """What every View of maps says about its layer."""
    return {
        "layer": layer.address,
        "units": None if target.channel is None else [target.channel],
        "position": None if target.position is None else list(target.position),
    }
