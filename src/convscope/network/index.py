"""The layer table: one observed forward pass with one image, turned into a Layer per call."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from convscope.errors import ConvscopeError
from convscope.network.axes import axes_of
from convscope.network.kernel import kernel_of
from convscope.network.layer import Axis, Kernel, Layer
from convscope.network.propagation import Propagation
from convscope.network.receptive_field import ReceptiveField, arranged, field_of
from convscope.trace import Call, Trace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from convscope.network.footprint import Parts


# The files that run inside the network's forward pass while it is observed.
OBSERVERS = frozenset(
    f"convscope.{name}"
    for name in "network.index network.axes network.kernel network.propagation network.rules network.windows "
    "network.footprint network.receptive_field trace.trace trace.call".split()
)


@dataclass(frozen=True, eq=False)
class LayerTable:
    """All layers in call order, and each one's footprint for the receptive field of a single neuron."""

    layers: tuple[Layer, ...]
    footprints: Mapping[str, tuple[Parts, str]]
    output: Any  # what the module returned for the observed image

    def overwritten(self) -> frozenset[str]:
        """The calls whose output a later in-place operation writes over."""
        return frozenset(layer.address for layer in self.layers if layer.overwritten)


@dataclass(eq=False)
class _Entry:
    call: Call
    inputs: tuple[str, ...]
    input_axes: tuple[Axis, ...] | None = None
    input_shape: tuple[int, ...] = ()
    kernel: Kernel | None = None
    shape: tuple[int, ...] = ()
    axes: tuple[Axis, ...] = ()
    opaque: str = ""
    depends: bool = False
    parts: Parts | None = None
    reason: str = ""
    output: Tensor | None = None
    version: int = 0


@dataclass(eq=False)
class _Indexer:
    """Observes the forward pass; an entry that never ended (it returned no tensor) is left out of the table."""

    module: nn.Module
    image: Tensor
    propagation: Propagation
    entries: dict[int, _Entry] = field(default_factory=dict)
    producers: WeakIdKeyDictionary = field(default_factory=WeakIdKeyDictionary)
    axes: WeakIdKeyDictionary = field(default_factory=WeakIdKeyDictionary)
    current: str = ""

    def __post_init__(self) -> None:
        self.names = {id(parameter): name for name, parameter in self.module.named_parameters()}
        self.producers[self.image] = "input"
        self.axes[self.image] = ("image", "channel", "row", "column")

    def begin(self, call: Call) -> None:
        tensors = [leaf for leaf in tree_leaves((call.arguments, dict(call.options))) if isinstance(leaf, Tensor)]
        sources = dict.fromkeys(self.producers[each] for each in tensors if each in self.producers)
        entry = _Entry(call, tuple(sources))
        first = next((each for each in tensors if each in self.axes), None)
        if first is not None:
            entry.input_axes, entry.input_shape = self.axes[first], tuple(first.shape)
        self.entries[call.order] = entry
        self.current = call.address

    def kernel(self, call: Call, name: str, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> None:
        if self.entries[call.order].kernel is None:
            self.entries[call.order].kernel = kernel_of(name, arguments, options, self.names)

    def end(self, call: Call, output: Tensor) -> None:
        entry = self.entries[call.order]
        entry.output, entry.version, entry.shape = output, output._version, tuple(output.shape)
        footprint = self.propagation.of(output)
        entry.depends = footprint is not None
        known = self.axes.get(output) if call.operation == "block" else None
        entry.axes, entry.opaque = axes_of(
            entry.shape,
            call,
            kernel=entry.kernel,
            known=known if known is not None and len(known) == len(entry.shape) else None,
            input_axes=entry.input_axes,
            input_shape=entry.input_shape,
            footprint=footprint,
        )
        if not output.is_floating_point():
            entry.opaque = f"its values are {str(output.dtype).removeprefix('torch.')}, not real numbers"
        if footprint is None:
            entry.opaque = entry.opaque or "it doesn't depend on the image"
        elif not entry.opaque:
            order = [entry.axes.index(axis) for axis in ("image", "channel", "row", "column") if axis in entry.axes]
            entry.parts, entry.reason = arranged(footprint, order, entry.shape), footprint.reason
        if entry.axes:
            self.axes[output] = entry.axes
        if call.operation != "block" and footprint is not None:
            self.producers[output] = call.address

    def elementary(self, function: Any, arguments: tuple[Any, ...], options: Mapping[str, Any], output: Any) -> None:
        self.propagation.operation(function, arguments, options, output)

    def layers(self) -> tuple[Layer, ...]:
        ended = [entry for _, entry in sorted(self.entries.items()) if entry.output is not None]
        # Functions of weights alone are no part of what happens to the image.
        shown = [entry for entry in ended if entry.depends or entry.call.operation != "function"]
        return tuple(self._layer(index, entry) for index, entry in enumerate(shown))

    def _layer(self, index: int, entry: _Entry) -> Layer:
        call = entry.call
        if entry.parts is None:
            field_ = ReceptiveField(None, None, False, entry.opaque)
        else:
            field_ = field_of(entry.parts, entry.reason)
        return Layer(
            index=index,
            address=call.address,
            path=call.path,
            call=call.index,
            kind=call.kind,
            operation=call.operation,
            depth=call.path.count("."),
            output_shape=entry.shape,
            axes=entry.axes,
            parameters=sum(parameter.numel() for parameter in call.module.parameters()) if call.module else 0,
            inputs=entry.inputs,
            receptive_field=field_,
            kernel=entry.kernel if call.operation != "block" else None,
            overwritten=entry.output is not None and entry.output._version != entry.version,
            opaque=entry.opaque,
            warnings=_warnings(call, entry.kernel),
            details=_details(call, entry.kernel),
        )


def _warnings(call: Call, kernel: Kernel | None) -> tuple[str, ...]:
    if call.operation == "block":
        return ()
    tensors = dict(call.module.named_parameters(recurse=False)) if call.module is not None else {}
    if kernel is not None and not tensors:
        tensors = {"weight": nn.Parameter(kernel.weight.detach(), requires_grad=False)}
    found = []
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            found.append(f"{name}: {bad} of {tensor.numel()} values are NaN or infinite")
    return tuple(found)


def _details(call: Call, kernel: Kernel | None) -> dict[str, Any]:
    if kernel is not None and kernel.weight.dim() == 4:
        return {
            "kernel_size": list(kernel.weight.shape[2:]),
            "stride": list(kernel.stride),
            "padding": list(kernel.padding),
            "dilation": list(kernel.dilation),
            "groups": kernel.groups,
        }
    details: dict[str, Any] = {}
    for name in ("kernel_size", "stride", "padding", "output_size", "normalized_shape", "num_groups", "p"):
        value = getattr(call.module, name, None)
        if isinstance(value, int | float | str) or (
            isinstance(value, tuple | list) and all(isinstance(v, int) for v in value)
        ):
            details[name] = list(value) if isinstance(value, tuple | list) else value
    return details


def _raised_here(error: BaseException) -> bool:
    """Whether our own code failed, not the network's."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and frame.tb_frame.f_globals.get("__name__", "") in OBSERVERS


@contextmanager
def _one_thread() -> Iterator[None]:
    """For thousands of tiny operations: handing each to other threads takes longer than doing it, ten times on a busy
    machine.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def build_layer_table(module: nn.Module, image: Tensor) -> LayerTable:
    """Observe one forward pass with one prepared image ``[1, channel, row, column]``."""
    indexer = _Indexer(module, image, Propagation(image))
    with torch.no_grad(), _one_thread(), Trace(module, observer=indexer) as trace:
        try:
            output = trace.run(image, stop=False)
        except ConvscopeError:
            raise
        except Exception as error:
            if _raised_here(error):
                raise
            size = " × ".join(map(str, image.shape[1:]))
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ConvscopeError(
                f"the network can't take an image of {size}: {reason[:300]}",
                where=f"in {indexer.current}" if indexer.current else type(module).__name__,
                next_step="set the image size or the number of channels (--image-size, --channels) it was made for",
            ) from error
    layers = indexer.layers()
    parts = {entry.call.address: (entry.parts, entry.reason) for entry in indexer.entries.values() if entry.parts}
    return LayerTable(layers, {address: (each, reason) for address, (each, reason) in parts.items() if each}, output)
