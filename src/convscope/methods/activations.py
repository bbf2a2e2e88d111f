"""Activations: the map of every unit of a layer for each image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from convscope.methods.backward import mini_batches
from convscope.methods.base import Method, Target
from convscope.methods.maps import AXES, Maps, map_meta, require_maps, statistics
from convscope.methods.ranges import not_finite
from convscope.view import View

if TYPE_CHECKING:
    from convscope.network.batch import Batch
    from convscope.network.network import Network


@dataclass(frozen=True)
class Activations(Method):
    """What each unit of a layer call computes for each image: its map, and where and how strongly it responds most.

    Arrays: ``map`` [image, unit, row, column] (a vector has one row and column), real values in the network's own
    units; ``maximum`` [image, unit], ``place`` [image, unit, coordinate] (row, column of the maximum, the first of
    equals), ``mean`` [image, unit], ``zero_fraction`` [image, unit] from 0 to 1. Exactly what the network computed in
    evaluation mode, before anything later overwrites it in place.

    Misleads when: one bright map suggests what a unit is for. It shows where this image drives the unit, not what else
    would, and not whether anything later uses it.
    """

    name: ClassVar[str] = "activations"
    title: ClassVar[str] = "Activations"
    papers: ClassVar[tuple[str, ...]] = ("zeiler2014visualizing",)
    needs: ClassVar = ("images",)
    formula: ClassVar[str] = "a[u, p] = the output of the layer call for image x, at unit u and position p"
    caveat: ClassVar[str] = (
        "A map shows where this image drives the unit, not what else would, nor whether any later layer uses it."
    )

    def compute(self, network: Network, target: Target, batch: Batch | None) -> View:
        """Forward passes that stop after the layer."""
        assert batch is not None  # noqa: S101 - `needs` says so
        layer = require_maps(target, len(batch))
        maps = Maps(target, layer)
        for start, stop, part in mini_batches(network, batch, "activations"):
            with network.trace([layer.address]) as trace:
                trace.run(part.tensor)
                output = trace[layer.address]
            maps.add(output, stop - start)
        array = maps.array()
        arrays = {"map": array, **statistics(array)}
        ranges = {"map": maps.range()}
        images = len(batch)
        meta = {
            **map_meta(target, layer),
            "caption": f"Activations of {target} for {images} image{'s' if images != 1 else ''}.",
            "warnings": not_finite(ranges, {"map": "activation"}),
            "ranges": ranges,
        }
        return View("maps", arrays, {name: AXES[name] for name in arrays}, meta)
