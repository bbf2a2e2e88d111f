"""A frame as it goes over the wire: the panels that a page looks at, of the layers that it shows, in one View."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convscope.view import View, value_range

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from convscope.training.frames import Frame

_SPATIAL = {"spatial": "kernel", "spatial_gradient": "gradient"}


def frame_view(
    frame: Frame, layers: Sequence[str], panels: Sequence[str], images: int, meta: Mapping[str, Any]
) -> View:
    """Of :meth:`Frame.to_view` the arrays ``LAYER.PANEL``; no ``layers`` are all of them.

    ``spatial`` and ``spatial_gradient`` are ``LAYER.spatial_row`` and so on, [unit, slice, row, column]: row and
    column differences and their magnitude, of kernels and of their gradients.
    """
    whole = frame.to_view(images)
    wanted = layers or list(frame.panels)
    names = [f"{layer}.{panel}" for layer in wanted for panel in panels if f"{layer}.{panel}" in whole.arrays]
    arrays = {name: whole.arrays[name] for name in names}
    axes = {name: whole.axes[name] for name in names}
    ranges = {name: whole.meta["ranges"][name] for name in names}
    for panel, of in _SPATIAL.items():
        for layer in wanted if panel in panels else ():
            if frame.panels[layer].arrangement is None:
                continue
            differences = frame.spatial_gradients(layer, of)
            for part in ("row", "column", "magnitude"):
                name = f"{layer}.{panel}_{part}"
                whole_part = differences[part]
                units, slices = whole.arrays[f"{layer}.kernel"].shape[:2]
                arrays[name], axes[name] = whole_part[:units, :slices], differences.axes[part]
                ranges[name] = value_range(whole_part)
    return View(whole.kind, arrays, axes, {**whole.meta, "ranges": ranges, **meta}, whole.recipe)


__all__ = ["frame_view"]
