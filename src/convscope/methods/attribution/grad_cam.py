"""Grad-CAM, HiResCAM and LayerCAM: where in a layer's maps an objective has its reasons."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F

from convscope.errors import ConvscopeError, Refused
from convscope.methods.attribution.attribution import Attributed, Attribution, Told, each_image, nobody
from convscope.methods.base import Target, parameter
from convscope.methods.graph import last_maps
from convscope.methods.ranges import to_array
from convscope.network.unit import split_address
from convscope.view import View

if TYPE_CHECKING:
    from convscope.methods.attribution.seed import BoundSeed
    from convscope.network.batch import Batch
    from convscope.network.layer import Layer
    from convscope.network.network import Network
    from convscope.network.unit import Unit
    from convscope.view import Array

VARIANTS = ("grad_cam", "hires_cam", "layer_cam")


@dataclass(frozen=True)
class GradCam(Attribution):
    """Where a layer's maps speak for the objective: the maps, added up with the objective's gradient as their weights
    and stretched over the image. Three ways to weigh: ``grad_cam`` gives each map one weight, the mean of its gradient;
    ``hires_cam`` weighs every place by its own gradient; ``layer_cam`` does so with the positive gradients alone.

    The target is the layer whose maps are added up (by default the last maps that everything passes through), or the
    unit to be explained: then the maps are those of ``layer``.

    Arrays: ``coarse`` [image, row, column], the weighted sum at the layer's own resolution, in objective; ``map``
    [image, row, column] and ``attribution`` [image, channel, row, column] (one channel), the same, bilinearly laid over
    the image; ``weight`` [image, unit], each map's weight (``grad_cam`` only); ``picture``
    [image, row, column, color]. With ``rectify``, as published, what speaks against the objective is cut off.

    Misleads when: it is taken for exact. A value of the layer stands for its whole receptive field, which is often
    most of the image, and stretching the maps over the image is only roughly where they look (``placement="centers"``
    puts each where its receptive field has its center). ``grad_cam`` averages
    the gradient, so it may point at places that the objective doesn't use; only ``hires_cam`` can't, where nothing but
    linear layers and pooling follow. Rectified, it hides what speaks against, so an empty map may mean much evidence
    against and none for.
    """

    name: ClassVar[str] = "grad_cam"
    title: ClassVar[str] = "Grad-CAM"
    papers: ClassVar[tuple[str, ...]] = ("selvaraju2017gradcam", "draelos2020hirescam", "jiang2021layercam")
    signed: ClassVar[bool] = False
    formula: ClassVar[str] = (
        "grad_cam: relu(Σ over u of (mean over q of g[u, q]) · a[u, p]);  hires_cam: relu(Σ over u of g[u, p] · "
        "a[u, p]);  layer_cam: relu(Σ over u of relu(g[u, p]) · a[u, p]);  g = ∂objective / ∂a"
    )
    caveat: ClassVar[str] = (
        "Coarse: each value stands for a whole receptive field, stretched over the image. Rectified, it hides what "
        "speaks against."
    )

    variant: str = parameter(
        "grad_cam",
        "how the maps are weighed: grad_cam (one weight per map), hires_cam (one per place), layer_cam (the positive)",
        choices=VARIANTS,
    )
    layer: str = parameter("", "whose maps are added up; empty chooses the last maps that everything passes through")
    placement: str = parameter(
        "stretched",
        "how the layer's values lie over the image: stretched (over all of it, as published) or centers (each at the "
        "center of its receptive field)",
        choices=("stretched", "centers"),
    )
    rectify: bool = parameter(True, "cut off what speaks against the objective, as published; otherwise keep the sign")

    def resolve(self, network: Network, target: str | Unit = "") -> Target:
        """As for every attribution, and a layer too: the one whose maps are added up."""
        text = str(target)
        if not text or split_address(text)[1] is not None:
            return super().resolve(network, target)
        layer = network.layer(text)
        if self.layer and network.layer(self.layer) is not layer:
            raise ConvscopeError(
                f"{self.name} adds up one layer's maps, but was given {text} and {self.layer}",
                next_step="leave one of them out",
            )
        return Target(layer)

    def refusal(self, network: Network, target: Target) -> ConvscopeError | None:
        """No layer with maps, or one that holds none."""
        try:
            if target.layer is not None and target.channel is None:
                _with_maps(target.layer)
            else:
                self._maps_of(network, target.layer)
        except ConvscopeError as refused:
            return refused
        return None

    def bind(self, network: Network, target: Target, batch: Batch) -> BoundSeed:
        """What is explained: the target where it is a unit, otherwise the objective."""
        return super().bind(network, target if target.channel is not None else Target(), batch)

    def signed_values(self) -> bool:
        """Whether what speaks against the objective is kept."""
        return not self.rectify

    def compute(self, network: Network, target: Target, batch: Batch | None) -> View:
        """Every image's map, in mini-batches."""
        if target.layer is None or target.channel is not None:
            return super().compute(network, target, batch)
        view = replace(self, layer=target.layer.address).compute(network, Target(), batch)
        return View(view.kind, view.arrays, view.axes, {**view.meta, "layer": target.layer.address})

    def attribute(self, network: Network, bound: BoundSeed, batch: Batch, told: Told = nobody) -> Attributed:
        """One forward pass, and one backward as far as the layer."""
        layer = self._maps_of(network, bound.layer)
        with network.trace((layer.address, *bound.layers), gradients=True) as trace:
            output = trace.run(batch.tensor, stop=not bound.needs_output)
            values, labels = bound.values(network, trace, output, batch)
            gradient = layer.to_units(trace.gradients(values.sum(), [layer.address])[layer.address])
            maps = layer.to_units(trace[layer.address].detach())
        if len(maps) != len(batch):
            raise Refused(
                f"{layer.address} returned {len(maps)} maps for {len(batch)} images: it mixes images",
                next_step="pass one image, or choose another layer",
            )
        weight = gradient.mean(dim=(2, 3))
        coarse = self._weighed(maps, gradient, weight)
        if self.rectify:
            coarse = coarse.clamp(min=0)
        size = network.image_size
        if self.placement == "centers":
            over_image = at_centers(coarse, layer, size)
        else:
            over_image = F.interpolate(coarse[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
        extra: dict[str, Array] = {"coarse": to_array(coarse)}
        if self.variant == "grad_cam":
            extra["weight"] = to_array(weight)
        told(1, 1)
        return Attributed(
            over_image[:, None].to("cpu", torch.float32),
            each_image(values, len(batch)),
            labels,
            extra,
            {"coarse": ("image", "row", "column"), "weight": ("image", "unit")},
            self._warnings(layer, gradient),
            {"layer": layer.address, "variant": self.variant, "positions": [layer.rows, layer.columns]},
        )

    def _weighed(self, maps: torch.Tensor, gradient: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if self.variant == "grad_cam":
            return torch.einsum("iu,iurc->irc", weight, maps)
        weights = gradient if self.variant == "hires_cam" else gradient.clamp(min=0)
        return (weights * maps).sum(dim=1)

    def _warnings(self, layer: Layer, gradient: torch.Tensor) -> tuple[str, ...]:
        found = []
        if layer.rows * layer.columns == 1:
            found.append(f"{layer.address} has one position, so the map is the same everywhere.")
        if not gradient.any():
            found.append(f"The gradient is exactly zero: the objective doesn't depend on {layer.address} here.")
        return tuple(found)

    def _maps_of(self, network: Network, explained: Layer | None) -> Layer:
        """The layer whose maps are added up to explain something at a layer (the scores, for None)."""
        if self.layer:
            return _with_maps(network.layer(self.layer))
        found = last_maps(network, explained)
        if found is None:
            where = f"upstream of {explained.address}" if explained is not None else f"in {network.name}"
            raise Refused(
                f"there is no layer {where} with maps of more than one position that everything passes through",
                next_step="name one by the parameter layer, or look at the gradient",
            )
        return found

    def reason_for_nothing(self, bound: BoundSeed) -> str:
        """Why a map is zero everywhere, where it is."""
        if not self.rectify:
            return super().reason_for_nothing(bound)
        return f"nothing in the layer's maps speaks for {bound.text} there (rectify=False shows what speaks against it)"

    def explanation(self, bound: BoundSeed, images: int) -> str:
        """The caption behind the title."""
        sign = "for" if self.rectify else "for (above 0) and against (below 0)"
        way = {"grad_cam": "", "hires_cam": ", place by place (HiResCAM)", "layer_cam": ", place by place (LayerCAM)"}
        where = f", in each of {images} images" if images > 1 else ""
        return f"where the maps speak {sign} {bound.caption}{way[self.variant]}{where}"


def at_centers(coarse: torch.Tensor, layer: Layer, size: tuple[int, int]) -> torch.Tensor:
    """A layer's ``[image, row, column]`` as pixels of an image: each value at the center of its receptive field, linear
    in between, and the outermost values on to the border.

    Raises :class:`Refused` where the layer's receptive fields aren't evenly spaced.
    """
    field = layer.receptive_field
    weights = []
    for extent, count, pixels in zip((field.rows, field.columns), coarse.shape[1:], size, strict=True):
        if extent is None or not field.exact or (extent.stride is None and count > 1):
            raise Refused(
                f"the receptive fields of {layer.address} aren't at known, evenly spaced places",
                next_step="use placement=stretched, or another layer",
            )
        first = extent.offset + (extent.size - 1) / 2
        at = ((torch.arange(pixels, dtype=torch.float64) - first) / (extent.stride or 1.0)).clamp(0, count - 1)
        # A hat over each center: 1 there, 0 at its neighbors'.
        weights.append((1 - (at[:, None] - torch.arange(count)).abs()).clamp(min=0).to(coarse))
    return torch.einsum("irc,Rr,Cc->iRC", coarse, *weights)


def _with_maps(layer: Layer) -> Layer:
    if layer.opaque:
        raise Refused(f"{layer.address} has no maps: {layer.opaque}", next_step="choose a layer before or after it")
    return layer


__all__ = ["VARIANTS", "GradCam", "at_centers"]
