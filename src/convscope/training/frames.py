"""Frames: what every layer held at one training step, for live panels; taken from the step itself.

A frame copies the first images' maps and their gradients, the weights before the update and their gradients as
``loss.backward()`` left them. Everything else (ranges, spatial gradients, Views) is made when somebody asks, in their
thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convscope.errors import Refused, UnknownName, suggest
from convscope.methods.kernels import Arrangement, arrangement
from convscope.methods.ranges import Range, to_array
from convscope.methods.spatial_gradients import differences
from convscope.training.layerwise import INPUT, Layerwise
from convscope.view import Recipe, View, value_range

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from convscope.network.network import Network
    from convscope.training.definition import Definition
    from convscope.view import Array

IMAGES = 4  # of a batch, whose maps a frame keeps
LARGEST_ARRAY = 65_536  # values of one array in a frame that goes over the wire; the range is always of all of them
_MAP_AXES = ("image", "unit", "row", "column")
_KERNEL_AXES = ("unit", "slice", "row", "column")


@dataclass(frozen=True)
class Panel:
    """What is always true of a layer's panel: its name, kind, shape, parameters, and how its weight is read."""

    name: str
    kind: str
    title: str
    details: str
    shape: tuple[int, int, int]
    parameters: int
    count: str
    arrangement: Arrangement | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "kind": self.kind,
            "title": self.title,
            "details": self.details,
            "shape": list(self.shape),
            "parameters": self.parameters,
            "count": self.count,
            "layout": self.arrangement.layout if self.arrangement else None,
        }


def panels_of(definition: Definition, network: Network) -> dict[str, Panel]:
    """The panels of a network's layers in order, the input first."""
    shape = definition.input.shape
    first = Panel(INPUT, INPUT, f"input ({shape})", "", (shape.channels, shape.rows, shape.columns), 0, "")
    found = {INPUT: first}
    for row in definition.rows():
        layer = network.layer(row["name"])
        details = layer.details
        words = [
            f"{word} {'×'.join(map(str, value)) if isinstance(value, tuple | list) else value}"
            for word, key in (("size", "kernel_size"), ("stride", "stride"), ("padding", "padding"))
            if (value := details.get(key)) is not None
        ]
        found[row["name"]] = Panel(
            row["name"],
            row["kind"],
            f"{row['name']} ({row['text']})",
            ", ".join(words),
            tuple(row["shape"]),
            row["parameters"],
            row["count"],
            arrangement(network, layer) if layer.kernel is not None else None,
        )
    return found


@dataclass(frozen=True, eq=False)
class Frame:
    """Every layer at one step. Names are those of the network's layers; "input" is the prepared image.

    ``maps`` and ``map_gradients`` are of the first images of the mini-batch, each gradient of that image's own loss;
    ``weights`` are those the forward pass used, ``weight_gradients`` exactly what ``loss.backward()`` left: of the mean
    loss over the mini-batch, before penalties and momentum.
    """

    step: int
    examples: int
    panels: Mapping[str, Panel]
    maps: Mapping[str, Tensor]
    map_gradients: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    weight_gradients: Mapping[str, Tensor]
    labels: tuple[int, ...]
    milliseconds: Mapping[str, tuple[float, float]]
    batch: int
    network: str = ""

    @classmethod
    def take(
        cls,
        step: int,
        examples: int,
        panels: Mapping[str, Panel],
        module: nn.Module,
        passed: Layerwise,
        labels: Tensor,
        batch: int,
        network: str,
    ) -> Frame:
        """After ``backward()`` and before the update; the mean's gradient times ``batch`` is one image's own."""
        shown = slice(0, IMAGES)
        outputs = {name: passed.outputs[name] for name in panels}
        maps = {name: _kept(output, shown) for name, output in outputs.items()}
        gradients = {
            name: _kept(output.grad, shown) * batch for name, output in outputs.items() if output.grad is not None
        }
        parameters = dict(module.named_parameters())
        return cls(
            step,
            examples,
            panels,
            maps,
            gradients,
            {name: each.detach().clone() for name, each in parameters.items()},
            {name: each.grad.detach().clone() for name, each in parameters.items() if each.grad is not None},
            tuple(labels[shown].tolist()),
            passed.milliseconds(),
            batch,
            network,
        )

    def totals(self) -> tuple[float, float]:
        """Milliseconds of the whole forward and backward pass of the mini-batch."""
        times = [pair for name, pair in self.milliseconds.items() if "." not in name]
        return sum(forward for forward, _ in times), sum(backward for _, backward in times)

    def _panel(self, layer: str) -> Panel:
        if layer not in self.panels:
            raise UnknownName(
                f"no layer {layer[:80]!r}", next_step=suggest(layer, self.panels) or "list them with frame.panels"
            )
        return self.panels[layer]

    # ---- one layer, all of it ----------------------------------------------------------------------------------

    def activations(self, layer: str) -> View:
        """A layer's maps and their gradients: a View of kind "maps" like ``activation_gradients``."""
        arrays, ranges = self._maps(self._panel(layer).name)
        meta = {
            "caption": f"Activations of {layer} at step {self.step} and the gradient of each image's own loss.",
            "ranges": ranges,
            "layer": layer,
            "units": None,
            "labels": list(self.labels),
        }
        return View("maps", arrays, dict.fromkeys(arrays, _MAP_AXES), meta, self._recipe("maps", layer))

    def weights_of(self, layer: str) -> View:
        """A layer's kernels and their gradients, all slices in the order of the input's channels: kind "kernels"."""
        panel = self._panel(layer)
        arrays, ranges = self._kernels(panel)
        axes = {name: _KERNEL_AXES if array.ndim == 4 else ("unit",) for name, array in arrays.items()}
        layout = self._arranged(panel)
        meta = {
            "caption": f"Kernels of {layer} before the update of step {self.step}, and dLoss/dWeight of its batch.",
            "ranges": ranges,
            "layer": layer,
            "units": None,
            "layout": layout.layout,
            "kernel_size": [layout.rows, layout.columns],
            "input_channels": layout.input_channels,
            "groups": layout.groups,
        }
        return View("kernels", arrays, axes, meta, self._recipe("kernels", layer))

    def spatial_gradients(self, layer: str, of: str = "kernel") -> View:
        """Row and column differences of a layer's kernels, or of their gradients: kind "spatial_gradients"."""
        panel = self._panel(layer)
        layout = self._arranged(panel)
        source = (self.weight_gradients if of == "gradient" else self.weights)[f"{layer}.weight"]
        found = differences(layout.arrange(source), layer)
        meta = {
            "caption": f"Row and column differences of the {of}s of {layer} at step {self.step}: not dLoss/dWeight.",
            "layer": layer,
            "units": None,
            "of": of,
            "layout": layout.layout,
        }
        arrays = {name: to_array(tensor) for name, tensor in found.items()}
        axes = dict.fromkeys(arrays, _KERNEL_AXES)
        return View("spatial_gradients", arrays, axes, meta, self._recipe("spatial_gradients", layer))

    def _arranged(self, panel: Panel) -> Arrangement:
        if panel.arrangement is None:
            with_kernels = [name for name, each in self.panels.items() if each.arrangement is not None]
            raise Refused(f"{panel.name} has no kernels", next_step=f"look at {' or '.join(with_kernels[:3])}")
        return panel.arrangement

    def _recipe(self, name: str, layer: str) -> Recipe:
        return Recipe("training", {"name": name, "step": self.step}, target=layer, network=self.network)

    def _maps(self, layer: str, limit: int = 0, images: int = 0) -> tuple[dict[str, Array], dict[str, Any]]:
        """The arrays "map" and "gradient" of a layer, and their ranges over all units."""
        found = {"map": _as_maps(self.maps[layer])}
        if layer in self.map_gradients:
            found["gradient"] = _as_maps(self.map_gradients[layer])
        shown = {name: tensor[:images] if images else tensor for name, tensor in found.items()}
        kept = {name: _first_units(tensor, 1, limit) for name, tensor in shown.items()}
        return {n: to_array(each) for n, each in kept.items()}, {n: _range(each) for n, each in found.items()}

    def _kernels(self, panel: Panel, limit: int = 0) -> tuple[dict[str, Array], dict[str, Any]]:
        """The arrays "kernel", "gradient", "bias", "bias_gradient" of a layer, and their ranges over all units."""
        layout = self._arranged(panel)
        found: dict[str, Tensor] = {}
        for source, kernel, bias in (
            (self.weights, "kernel", "bias"),
            (self.weight_gradients, "gradient", "bias_gradient"),
        ):
            if f"{panel.name}.weight" in source:
                found[kernel] = layout.arrange(source[f"{panel.name}.weight"])
            if f"{panel.name}.bias" in source:
                found[bias] = source[f"{panel.name}.bias"]
        kept = {
            name: _first_units(_first_units(tensor, 0, limit), 1, limit) if tensor.ndim == 4 else tensor
            for name, tensor in found.items()
        }
        return {n: to_array(each) for n, each in kept.items()}, {n: _range(each) for n, each in found.items()}

    # ---- all layers, for the wire ------------------------------------------------------------------------------

    def to_view(self, images: int = 1) -> View:
        """All panels at once, with the maps of the first ``images``: kind "training_frame".

        Arrays ``LAYER.map``, ``LAYER.map_gradient`` [image, unit, row, column] and ``LAYER.kernel``,
        ``LAYER.kernel_gradient`` [unit, slice, row, column], ``LAYER.bias``, ``LAYER.bias_gradient`` [unit]; of a large
        layer only the first units. ``meta["layers"]`` has every panel's name, kind, shape, parameters, milliseconds;
        ``meta["ranges"]`` the true ranges of all units.
        """
        arrays: dict[str, Array] = {}
        axes: dict[str, tuple[str, ...]] = {}
        ranges: dict[str, Any] = {}
        for name, panel in self.panels.items():
            parts = [(self._maps(name, LARGEST_ARRAY, images), _WIRE_MAPS)]
            if panel.arrangement is not None:
                parts.append((self._kernels(panel, LARGEST_ARRAY), _WIRE_KERNELS))
            for (found, spans), wire in parts:
                for each, array in found.items():
                    key = f"{name}.{wire[each][0]}"
                    arrays[key], axes[key], ranges[key] = array, wire[each][1], spans[each]
        meta = {
            "caption": f"Every layer at step {self.step}, after {self.examples:,} examples.",
            "step": self.step,
            "examples": self.examples,
            "batch": self.batch,
            "labels": list(self.labels),
            "layers": [self._described(panel) for panel in self.panels.values()],
            "ranges": ranges,
        }
        return View("training_frame", arrays, axes, meta, self._recipe("frame", ""))

    def _described(self, panel: Panel) -> dict[str, Any]:
        forward, backward = self.milliseconds.get(panel.name, (None, None))
        return panel.to_json() | {"forward_milliseconds": forward, "backward_milliseconds": backward}


_WIRE_MAPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "map": ("map", _MAP_AXES),
    "gradient": ("map_gradient", _MAP_AXES),
}
_WIRE_KERNELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "kernel": ("kernel", _KERNEL_AXES),
    "gradient": ("kernel_gradient", _KERNEL_AXES),
    "bias": ("bias", ("unit",)),
    "bias_gradient": ("bias_gradient", ("unit",)),
}


def _kept(tensor: Tensor, images: slice) -> Tensor:
    """A copy on the CPU of the images shown: it must not keep the whole mini-batch in memory."""
    return tensor.detach()[images].clone().cpu()


def _range(tensor: Tensor) -> Range:
    # By numpy: torch would wake several threads for it, which the training thread then waits for.
    return value_range(to_array(tensor))


def _as_maps(tensor: Tensor) -> Tensor:
    """``[image, unit, row, column]``; a vector has one row and column."""
    return tensor if tensor.ndim == 4 else tensor.flatten(1)[:, :, None, None]


def _first_units(tensor: Tensor, axis: int, limit: int) -> Tensor:
    """As many entries of an axis as fit into ``limit`` values, at least one; 0 keeps all."""
    if not limit or tensor.numel() <= limit:
        return tensor
    each = max(1, tensor.numel() // tensor.shape[axis])
    return tensor.narrow(axis, 0, max(1, min(tensor.shape[axis], limit // each)))


__all__ = ["Frame", "Panel", "panels_of"]
