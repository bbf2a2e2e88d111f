"""ConvNetJS's own network files: the JSON that its pages show, load and save.

A volume's numbers run over rows, then columns, then channels; torch's run over channels first. Nothing of a file is
evaluated: it is read as JSON, and every size in it is checked against the network it describes.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from convscope.errors import ConvscopeError, Refused, UnsafeFile
from convscope.training.definition import Definition
from convscope.training.layers import (
    Convolution,
    DropoutLayer,
    Flatten,
    FullyConnected,
    Layer,
    LocalResponseNormalization,
    MaxoutLayer,
    Pool,
    Relu,
    Shape,
    Sigmoid,
    Tanh,
)
from convscope.training.placing import Entry, Placed
from convscope.training.snapshot import check_weights
from convscope.training.spelling import Input, Loss, Softmax, Svm

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

LARGEST = 64 * 2**20
MEAN, STD = 0.5, 1.0  # its pages give a network pixels / 255 − 0.5


@dataclass(frozen=True, eq=False)
class ConvNetJSNetwork:
    """A network as ConvNetJS keeps it: our definition and weights, and what a person should know about them."""

    definition: Definition
    weights: Mapping[str, Tensor] = field(repr=False)
    notes: tuple[str, ...] = ()


# ---- reading -----------------------------------------------------------------------------------------------------


def read_convnetjs(text: str) -> ConvNetJSNetwork:
    """A network from ConvNetJS's JSON (``net.toJSON()``); raises :class:`ConvscopeError` for what can't be read."""
    if len(text) > LARGEST:
        raise UnsafeFile("too large for a network of ConvNetJS", next_step="choose another file")
    try:
        layers = json.loads(text)["layers"]
        return _network(layers)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError) as error:
        raise ConvscopeError(
            "this isn't a network of ConvNetJS", next_step="give what its page shows after “dump network”"
        ) from error


def _network(layers: Sequence[Mapping[str, Any]]) -> ConvNetJSNetwork:
    if not isinstance(layers, list) or len(layers) < 3 or layers[0]["layer_type"] != "input":
        raise ValueError("layers")
    first = layers[0]
    given = Input(
        rows=_whole(first["out_sy"]),
        columns=_whole(first["out_sx"]),
        channels=_whole(first["out_depth"]),
        mean=MEAN,
        std=STD,
    )
    loss: Loss = {"softmax": Softmax, "svm": Svm}[layers[-1]["layer_type"]]()
    entries = tuple(Entry(_layer(each, index)) for index, each in enumerate(layers[1:-1], 1))
    definition = Definition(given, entries, loss)
    placed = [each for each in definition.placed if not isinstance(each.layer, Flatten)]
    weights: dict[str, Tensor] = {}
    for found, each in zip(layers[1:-1], placed, strict=True):
        _check_shape(found, each)
        if isinstance(each.layer, Convolution | FullyConnected):
            shape = _read_by(each, definition.placed)
            weights |= _weights(found, each, shape)
    check_weights(definition, weights)
    return ConvNetJSNetwork(definition, weights, _notes(definition))


def _layer(found: Mapping[str, Any], index: int) -> Layer:
    kind = found["layer_type"]
    if kind == "conv":
        size, stride, padding = _windows(found)
        return Convolution(_whole(found["out_depth"]), size, stride, padding)
    if kind == "pool":
        return Pool(*_windows(found))
    if kind == "fc":
        return FullyConnected(_whole(found["out_depth"]))
    if kind == "maxout":
        return MaxoutLayer(_whole(found["group_size"]))
    if kind == "dropout":
        return DropoutLayer(_number(found["drop_prob"], 0.0, 0.99), "evaluation")
    if kind == "lrn":
        numbers = [_number(found[name], 0.0, 1e3) for name in ("alpha", "beta", "k")]
        return LocalResponseNormalization(_whole(found["n"]), *numbers)
    plain: dict[str, type[Layer]] = {"relu": Relu, "sigmoid": Sigmoid, "tanh": Tanh}
    if kind in plain:
        return plain[kind]()
    if kind in ("regression", "quadtransform"):
        raise Refused(
            f"ConvNetJS's {kind} layer has no counterpart here", where=f"layer {index}", next_step="remove it there"
        )
    raise ValueError(kind)


def _windows(found: Mapping[str, Any]) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    stride, padding = _whole(found["stride"]), _whole(found.get("pad", 0), lowest=0)
    return (_whole(found["sy"]), _whole(found["sx"])), (stride, stride), (padding, padding)


def _whole(value: Any, lowest: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= 65_536:
        raise ValueError(value)
    return value


def _number(value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(value)
    return float(value)


def _check_shape(found: Mapping[str, Any], placed: Placed) -> None:
    said = tuple(_whole(found[name]) for name in ("out_depth", "out_sy", "out_sx"))
    made = (placed.after.channels, placed.after.rows, placed.after.columns)
    if said != made:
        raise ConvscopeError(
            f"the file says {' × '.join(map(str, said))}, but the layer makes {placed.after}",
            where=placed.name,
            next_step="save the network anew in ConvNetJS",
        )


def _read_by(placed: Placed, everything: Sequence[Placed]) -> Shape:
    """The map that a fully connected layer reads: that before it was flattened. Of a convolution, its kernel."""
    if isinstance(placed.layer, Convolution):
        return Shape(placed.before.channels, *placed.layer.size)
    for each in reversed(everything[: everything.index(placed)]):
        if isinstance(each.layer, Flatten):
            return each.before
        if isinstance(each.layer, FullyConnected | MaxoutLayer):
            break
    return Shape(placed.before.channels, 1, 1)


def _weights(found: Mapping[str, Any], placed: Placed, shape: Shape) -> Iterator[tuple[str, Tensor]]:
    """Pairs of name and tensor, from volumes [row, column, channel]."""
    filters = found["filters"]
    units = placed.after.channels
    if not isinstance(filters, list) or len(filters) != units:
        raise ValueError("filters")
    rows = torch.stack([_volume(each, shape.values) for each in filters])
    kernels = rows.reshape(units, shape.rows, shape.columns, shape.channels).permute(0, 3, 1, 2)
    weight = kernels if isinstance(placed.layer, Convolution) else kernels.flatten(1)
    yield f"{placed.name}.weight", weight.to(torch.float32).contiguous()
    yield f"{placed.name}.bias", _volume(found["biases"], units).to(torch.float32)


def _volume(found: Mapping[str, Any], count: int) -> Tensor:
    numbers = found["w"]
    if isinstance(numbers, dict):  # typed arrays become {"0": …} in JSON
        if len(numbers) != count:
            raise ValueError("volume")
        numbers = [numbers[str(index)] for index in range(count)]
    if not isinstance(numbers, list) or len(numbers) != count:
        raise ValueError("volume")
    for each in numbers:
        if isinstance(each, bool) or not isinstance(each, int | float) or not math.isfinite(each):
            raise ConvscopeError(
                "a weight isn't a number", where="the file", next_step="save the network before it diverges"
            )
    return torch.tensor(numbers, dtype=torch.float64)


def _notes(definition: Definition) -> tuple[str, ...]:
    notes = []
    for each in definition.placed:
        if isinstance(each.layer, DropoutLayer) and each.layer.probability != 0.5:
            kept, dropped = 1 - each.layer.probability, each.layer.probability
            notes.append(
                f"{each.name}: outside training ConvNetJS multiplies by the probability of dropping, {dropped:g}; here "
                f"it is multiplied by that of keeping, {kept:g}, so its predictions differ."
            )
    return tuple(notes)


# ---- writing -----------------------------------------------------------------------------------------------------


def write_convnetjs(definition: Definition, weights: Mapping[str, Tensor]) -> str:
    """A network as ConvNetJS's JSON, for ``net.fromJSON``; refuses layers that ConvNetJS doesn't have."""
    check_weights(definition, weights)
    shape = definition.input.shape
    layers: list[dict[str, Any]] = [{**_sizes(shape), "layer_type": "input"}]
    if (definition.input.mean, definition.input.std) != (MEAN, STD):
        raise Refused(
            "ConvNetJS gives a network pixels / 255 − 0.5, and this one was trained on others",
            where="input",
            next_step="train it with mean: 0.5, std: 1.0",
        )
    flattened = False
    for each in definition.placed:
        if isinstance(each.layer, Flatten):
            flattened = each.before.rows * each.before.columns > 1
            continue
        if isinstance(each.layer, MaxoutLayer) and flattened:
            raise Refused(
                "maxout of a flattened map groups other values in ConvNetJS", where=each.name, next_step="move it"
            )
        layers.append(_written(each, definition, weights))
        flattened = flattened and not isinstance(each.layer, FullyConnected)
    end = {"out_depth": definition.classes, "out_sx": 1, "out_sy": 1, "num_inputs": definition.classes}
    layers.append({**end, "layer_type": definition.loss.word})
    if isinstance(definition.loss, Svm) and definition.loss.margin != 1.0:
        raise Refused("ConvNetJS's margin is 1", where="svm", next_step="train it with margin: 1")
    return json.dumps({"layers": layers}, allow_nan=False)


def _sizes(shape: Shape) -> dict[str, int]:
    return {"out_depth": shape.channels, "out_sx": shape.columns, "out_sy": shape.rows}


def _written(placed: Placed, definition: Definition, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    layer = placed.layer
    after = placed.after if placed.after.is_map else _map_after(placed, definition)
    plain = {Relu: "relu", Sigmoid: "sigmoid", Tanh: "tanh"}
    if type(layer) in plain:
        return {**_sizes(after), "layer_type": plain[type(layer)]}
    if isinstance(layer, MaxoutLayer):
        return {**_sizes(after), "layer_type": "maxout", "group_size": layer.group}
    if isinstance(layer, DropoutLayer) and (layer.scale_at == "evaluation" and layer.probability == 0.5):
        return {**_sizes(after), "layer_type": "dropout", "drop_prob": layer.probability}
    if isinstance(layer, LocalResponseNormalization):
        numbers = {"k": layer.k, "n": layer.size, "alpha": layer.alpha, "beta": layer.beta}
        return {**numbers, **_sizes(after), "layer_type": "lrn"}
    if isinstance(layer, Pool) and layer.of == "max":
        return {**_written_windows(placed), **_sizes(after), "in_depth": placed.before.channels, "layer_type": "pool"}
    if isinstance(layer, Convolution) and layer.groups == 1:
        sizes = {**_written_windows(placed), "in_depth": placed.before.channels}
        return {**sizes, **_sizes(after), "layer_type": "conv", **_written_weights(placed, definition, weights)}
    if isinstance(layer, FullyConnected):
        kernels = _written_weights(placed, definition, weights)
        return {**_sizes(placed.after), "layer_type": "fc", "num_inputs": placed.before.values, **kernels}
    raise Refused(
        f"ConvNetJS has no such {layer.word} layer",
        where=placed.name,
        next_step="it has convolution, max pooling, relu, tanh, sigmoid, maxout, local response normalization, "
        "dropout of 0.5 scaled at evaluation, and fully connected",
    )


def _map_after(placed: Placed, definition: Definition) -> Shape:
    """The shape that a vector has in ConvNetJS, which never flattens."""
    for each in reversed(definition.placed[: definition.placed.index(placed) + 1]):
        if isinstance(each.layer, Flatten):
            return each.before
        if isinstance(each.layer, FullyConnected | MaxoutLayer):
            break
    return Shape(placed.after.channels, 1, 1)


def _written_windows(placed: Placed) -> dict[str, int]:
    layer = placed.layer
    assert isinstance(layer, Convolution | Pool)  # noqa: S101 - these are asked for
    for name, pair in (("stride", layer.stride), ("padding", layer.padding)):
        if pair[0] != pair[1]:
            raise Refused(f"ConvNetJS has one {name} for rows and columns", where=placed.name, next_step="use one")
    return {"sx": layer.size[1], "sy": layer.size[0], "stride": layer.stride[0], "pad": layer.padding[0]}


def _written_weights(placed: Placed, definition: Definition, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    shape = _read_by(placed, definition.placed)
    weight = weights[f"{placed.name}.weight"].detach().double().cpu()
    units = len(weight)
    volumes = weight.reshape(units, shape.channels, shape.rows, shape.columns).permute(0, 2, 3, 1).flatten(1)
    whole = isinstance(placed.layer, FullyConnected)
    sizes = {
        "sx": 1 if whole else shape.columns,
        "sy": 1 if whole else shape.rows,
        "depth": shape.values if whole else shape.channels,
    }
    bias = weights.get(f"{placed.name}.bias", torch.zeros(units)).detach().double().cpu()
    return {
        "l1_decay_mul": 0,
        "l2_decay_mul": 1,
        "filters": [{**sizes, "w": each.tolist()} for each in volumes],
        "biases": {"sx": 1, "sy": 1, "depth": units, "w": bias.tolist()},
    }


__all__ = ["ConvNetJSNetwork", "read_convnetjs", "write_convnetjs"]
