"""Forward values and gradients against ConvNetJS itself (npm convnetjs 0.3.0), run in Node on the same numbers.

ConvNetJS computes in double precision, with loops that read like the definition; Views hold float32. Everything is
compared within 1e-5 of the largest value of its tensor, which is stricter than 1e-5 in absolute terms for gradients.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from convscope import Network
from patience import PATIENCE

HERE = Path(__file__).parent
TOLERANCE = 1e-5

Definition = list[dict[str, Any]]

# The network of ConvNetJS's CIFAR-10 page.
CIFAR10: Definition = [
    {"type": "input", "out_sx": 32, "out_sy": 32, "out_depth": 3},
    {"type": "conv", "sx": 5, "filters": 16, "stride": 1, "pad": 2, "activation": "relu"},
    {"type": "pool", "sx": 2, "stride": 2},
    {"type": "conv", "sx": 5, "filters": 20, "stride": 1, "pad": 2, "activation": "relu"},
    {"type": "pool", "sx": 2, "stride": 2},
    {"type": "conv", "sx": 5, "filters": 20, "stride": 1, "pad": 2, "activation": "relu"},
    {"type": "pool", "sx": 2, "stride": 2},
    {"type": "softmax", "num_classes": 10},
]
# Strides that leave a rest, an even kernel that isn't square, an image that isn't, padded and gapped pooling, two
# fully connected layers, other nonlinearities, four channels.
ODD: Definition = [
    {"type": "input", "out_sx": 23, "out_sy": 19, "out_depth": 4},
    {"type": "conv", "sx": 4, "sy": 3, "filters": 6, "stride": 2, "pad": 1, "activation": "relu"},
    {"type": "pool", "sx": 3, "stride": 2, "pad": 1},
    {"type": "conv", "sx": 2, "filters": 7, "stride": 1, "activation": "sigmoid"},
    {"type": "pool", "sx": 2, "stride": 3},
    {"type": "fc", "num_neurons": 9, "activation": "tanh"},
    {"type": "softmax", "num_classes": 5},
]
DEFINITIONS = {"cifar10": CIFAR10, "odd": ODD}


@dataclass(frozen=True)
class Case:
    """One network in both worlds: its definition and weights for torch, and what ConvNetJS answered."""

    definition: Definition
    weights: dict[str, Tensor]
    images: Tensor
    labels: tuple[int, ...]
    layers: dict[str, Any]  # address -> for each image, ConvNetJS's layer
    losses: list[float]
    image_gradients: list[Any]

    def network(self, dtype: torch.dtype) -> Network:
        rows, columns = self.images.shape[2:]
        module = build(self.definition).to(dtype)
        module.load_state_dict(self.weights)
        return Network.from_module(module, image_size=(rows, columns))


def node() -> str:
    """The Node that the Makefile uses: its own in the environment if it had to install one, else the machine's."""
    found = shutil.which("node", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    ready = found is not None and (HERE / "node_modules" / "convnetjs").is_dir()
    if not ready and os.environ.get("CI") == "true":
        pytest.fail("ConvNetJS isn't installed: run `make tests/oracles/node_modules/.installed`")
    if not ready:
        pytest.skip("needs Node and ConvNetJS: `make tests/oracles/node_modules/.installed` installs them")
    assert found is not None
    return found


def build(definition: Definition) -> nn.Sequential:
    """The torch module of a ConvNetJS definition; layers are named like conv1, relu1, pool1, fc1."""
    module = nn.Sequential()
    rows, columns, depth = (definition[0][f"out_{axis}"] for axis in ("sy", "sx", "depth"))
    numbers = dict.fromkeys(("conv", "pool", "fc", "relu", "sigmoid", "tanh"), 0)

    def add(kind: str, layer: nn.Module) -> None:
        numbers[kind] += 1
        module.add_module(f"{kind}{numbers[kind]}", layer)

    for each in definition[1:]:
        kernel, stride = (each.get("sy", each.get("sx")), each.get("sx")), each.get("stride", 2)
        padding = each.get("pad", 0)
        if each["type"] == "conv":
            add("conv", nn.Conv2d(depth, each["filters"], kernel, stride, padding))
            depth = each["filters"]
        elif each["type"] == "pool":
            add("pool", nn.MaxPool2d(kernel, stride, padding))
        else:  # ConvNetJS's softmax layer brings a fully connected layer of its own; torch's scores come before softmax
            if not numbers["fc"]:
                module.add_module("flatten", nn.Flatten())
            neurons = each["num_neurons" if each["type"] == "fc" else "num_classes"]
            add("fc", nn.Linear(rows * columns * depth, neurons))
            rows, columns, depth = 1, 1, neurons
        if each["type"] in ("conv", "pool"):
            rows, columns = (
                (size + 2 * padding - extent) // stride + 1
                for size, extent in zip((rows, columns), kernel, strict=True)
            )
        if "activation" in each:
            add(each["activation"], {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}[each["activation"]]())
    return module


def to_vol(tensor: Tensor) -> list[float]:
    """``[channel, row, column]`` in the order of a ConvNetJS volume: row, column, channel."""
    return tensor.permute(1, 2, 0).flatten().tolist()


def from_vol(numbers: list[float], size: tuple[int, int, int]) -> np.ndarray:
    """A ConvNetJS volume of (rows, columns, channels) as ``[channel, row, column]``."""
    return np.array(numbers).reshape(size).transpose(2, 0, 1)


def map_sizes(definition: Definition) -> dict[str, tuple[int, int, int]]:
    """[channel, row, column] of what each fully connected layer reads."""
    depth, rows, columns = (definition[0][f"out_{axis}"] for axis in ("depth", "sy", "sx"))
    sizes: dict[str, tuple[int, int, int]] = {}
    shape = torch.zeros(1, depth, rows, columns)
    for name, layer in build(definition).named_children():
        if name == "flatten":
            before = tuple(shape.shape[1:])
        shape = layer(shape)
        if isinstance(layer, nn.Linear):
            sizes[name] = before if not sizes else (layer.in_features, 1, 1)  # type: ignore[assignment]
    return sizes


@cache
def case(name: str) -> Case:
    """Random weights, images and labels, through ConvNetJS once. All numbers are float32 ones: no rounding between."""
    definition = DEFINITIONS[name]
    generator = torch.Generator().manual_seed(7)
    module, sizes = build(definition), map_sizes(definition)
    parameters = []
    for address, layer in module.named_children():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            scale = layer.weight[0].numel() ** -0.5
            layer.weight.data = torch.randn(layer.weight.shape, generator=generator) * 1.5 * scale
            layer.bias.data = torch.randn(layer.bias.shape, generator=generator) * 0.2
            kernels = layer.weight.data.unflatten(1, sizes[address]) if address in sizes else layer.weight.data
            parameters.append({"filters": [to_vol(kernel) for kernel in kernels], "biases": layer.bias.tolist()})
    depth, rows, columns = (definition[0][f"out_{axis}"] for axis in ("depth", "sy", "sx"))
    images = torch.rand(3, depth, rows, columns, generator=generator) - 0.5
    labels = (3, 0, 4)
    question = {"definition": definition, "parameters": parameters, "images": [to_vol(each) for each in images]}
    answer = subprocess.run(
        [node(), str(HERE / "convnetjs.cjs")],
        input=json.dumps(question | {"labels": labels}),
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    found = json.loads(answer.stdout)
    # Input and softmax are layers there; here the image comes before the first call and scores are read before softmax.
    addresses = [address for address, _ in module.named_children() if address != "flatten"]
    layers = {address: [image["layers"][1 + index] for image in found] for index, address in enumerate(addresses)} | {
        "softmax": [image["layers"][-1] for image in found]
    }
    return Case(
        definition,
        module.state_dict(),
        images,
        labels,
        layers,
        [image["loss"] for image in found],
        [image["layers"][0] for image in found],
    )


def volumes(layers: list[Any], field: str) -> np.ndarray:
    """ConvNetJS's maps, ``[image, unit, row, column]``."""
    return np.stack([from_vol(layer[field], layer["size"]) for layer in layers])


def filter_gradients(layers: list[Any], shape: tuple[int, ...]) -> np.ndarray:
    """ConvNetJS's dLoss/dfilters, ``[image, unit, channel, row, column]`` for kernels [unit, channel, row, column]."""
    size = (shape[2], shape[3], shape[1])
    return np.array([[from_vol(numbers, size) for numbers in layer["filters"]] for layer in layers])


def natural_order(kernels: np.ndarray, channel: np.ndarray) -> np.ndarray:
    """Slices ``[unit, slice, row, column]``, shown by descending norm, in the order of the input channels again."""
    return np.take_along_axis(kernels, channel.argsort(axis=1)[:, :, None, None], axis=1)


def check(ours: np.ndarray, theirs: np.ndarray, what: str) -> None:
    assert ours.shape == theirs.shape, what
    scale = np.abs(theirs).max()
    assert scale > 1e-6, f"{what}: all zeros would prove nothing"
    worst = np.abs(ours - theirs).max() / scale
    assert worst <= TOLERANCE, f"{what} differs by {worst:.2e} of its largest value"


networks = pytest.mark.parametrize("name", DEFINITIONS)
precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def opened(name: str, dtype: torch.dtype) -> tuple[Case, Network, Any]:
    known = case(name)
    network = known.network(dtype)
    return known, network, replace(network.batch(known.images), labels=known.labels)


@networks
@precisions
def test_every_activation(name: str, dtype: torch.dtype) -> None:
    known, network, batch = opened(name, dtype)
    for address in known.layers.keys() - {"softmax"}:
        view = network.view("activations", address, images=batch)
        check(view.arrays["map"], volumes(known.layers[address], "activation"), address)


@networks
@precisions
def test_probabilities_and_loss(name: str, dtype: torch.dtype) -> None:
    known, network, batch = opened(name, dtype)
    view = network.view("predictions", images=batch, top=network.classes)
    theirs = volumes(known.layers["softmax"], "activation")[:, :, 0, 0]
    order = view.arrays["class"].argsort(axis=1)
    check(np.take_along_axis(view.arrays["probability"], order, axis=1), theirs, "probability")
    gradients = network.view("weight_gradients", "conv1", images=batch)
    assert gradients.meta["objective"] == "loss:true"
    check(np.array(gradients.meta["values"]), np.array(known.losses), "loss of each image")
    check(np.array(gradients.meta["loss"]), np.array(np.mean(known.losses)), "mean loss")


@networks
@precisions
def test_weight_gradients_of_every_kernel(name: str, dtype: torch.dtype) -> None:
    known, network, batch = opened(name, dtype)
    for layer in network.layers:
        if layer.kernel is None:
            continue
        view = network.view("weight_gradients", layer.address, images=batch, slices=0)
        ours = natural_order(view.arrays["gradient"], view.arrays["channel"])
        theirs = filter_gradients(known.layers[layer.address], ours.shape)
        check(ours, theirs.mean(axis=0), layer.address)
        norms = np.sqrt(np.square(theirs).sum(axis=(2, 3, 4)))
        check(view.arrays["image_norm"], norms, f"{layer.address}, norm of each image's own gradient")


@networks
def test_each_images_own_weight_gradient(name: str) -> None:
    known, network, batch = opened(name, torch.float32)
    view = network.view("weight_gradients", "conv2:4", images=batch, per_image=True)
    ours = np.stack([natural_order(one, view.arrays["channel"]) for one in view.arrays["image_gradient"]])
    theirs = filter_gradients(known.layers["conv2"], ours.shape[1:])
    check(ours, theirs[:, 4:5], "conv2:4")


@networks
@precisions
def test_activation_and_bias_gradients(name: str, dtype: torch.dtype) -> None:
    known, network, batch = opened(name, dtype)
    for address in known.layers.keys() - {"softmax"}:
        view = network.view("activation_gradients", address, images=batch)
        ours, theirs = view.arrays["gradient"], volumes(known.layers[address], "gradient")
        if address.startswith("relu"):
            # Where max pooling finds nothing but zeros, which of them is "the" maximum is a matter of reading order,
            # and a ReLU that is off hands nothing back anyway.
            on = volumes(known.layers[address], "activation") > 0
            ours, theirs = ours * on, theirs * on
        check(ours, theirs, address)
        if network.layer(address).kernel is not None:
            biases = np.array([layer["biases"] for layer in known.layers[address]])
            check(ours.sum(axis=(2, 3)), biases, f"bias of {address}")


@networks
@precisions
def test_the_images_own_gradient(name: str, dtype: torch.dtype) -> None:
    known, network, batch = opened(name, dtype)
    with network.trace(["conv1"], gradients=True) as trace:
        scores = network.scores(trace.run(batch.tensor))
        loss = nn.functional.cross_entropy(scores, torch.tensor(known.labels), reduction="sum")
        gradient = trace.gradients(loss, ["input"])["input"]
    check(gradient.numpy(), volumes(known.image_gradients, "gradient"), "image")
