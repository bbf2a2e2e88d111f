"""ConvNetJS's network files and its trainer against ConvNetJS itself (npm convnetjs 0.3.0) in Node."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_convnetjs import CIFAR10, ODD, node
from torch import Tensor

from convscope.errors import ConvscopeError, Refused
from convscope.training.convnetjs import read_convnetjs, write_convnetjs
from convscope.training.definition import Definition
from convscope.training.losses import image_losses
from convscope.training.optimizers import make_optimizer
from convscope.training.presets import PRESETS
from convscope.training.settings import Settings
from patience import PATIENCE

HERE = Path(__file__).parent
TOLERANCE = 1e-5

# Everything its files can hold and that its own gradients are right for.
MANY: list[dict[str, Any]] = [
    {"type": "input", "out_sx": 13, "out_sy": 11, "out_depth": 3},
    {"type": "conv", "sx": 3, "sy": 4, "filters": 6, "stride": 1, "pad": 1, "activation": "tanh"},
    {"type": "lrn", "k": 1.5, "n": 3, "alpha": 0.2, "beta": 0.75},
    {"type": "pool", "sx": 2, "stride": 2},
    {"type": "dropout", "drop_prob": 0.5},
    {"type": "fc", "num_neurons": 8, "activation": "sigmoid"},
    {"type": "fc", "num_neurons": 12, "activation": "maxout", "group_size": 3},
    {"type": "svm", "num_classes": 4},
]
DEFINITIONS = {"cifar10": CIFAR10, "odd": ODD, "many": MANY}


def ask(question: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [node(), str(HERE / "convnetjs_networks.cjs")],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def images_for(definition: Definition, count: int) -> tuple[Tensor, list[list[float]]]:
    shape = definition.input.shape
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(count, shape.channels, shape.rows, shape.columns, generator=generator) - 0.5
    return images, [image.permute(1, 2, 0).flatten().tolist() for image in images]


def dumped(name: str) -> str:
    """A network file as ConvNetJS writes it, with the weights it begins with."""
    text: str = ask({"definition": DEFINITIONS[name], "images": [], "labels": []})["before"]
    return text


def our_gradients(definition: Definition, module: torch.nn.Module) -> list[np.ndarray]:
    """Gradients of each layer's filters and biases, filters in ConvNetJS's order, from the parameters' ``grad``."""
    # The file's own order is the easiest way to it: gradients written as if they were weights.
    gradients = {name: each.grad for name, each in module.named_parameters()}
    layers = json.loads(write_convnetjs(definition, {**module.state_dict(), **gradients}))["layers"]
    return [
        np.concatenate([np.array(volume["w"]) for volume in [*layer["filters"], layer["biases"]]])
        for layer in layers
        if "filters" in layer
    ]


@pytest.mark.parametrize("name", DEFINITIONS)
def test_forward_loss_and_weight_gradients_of_its_files(name: str) -> None:
    found = read_convnetjs(dumped(name))
    images, volumes = images_for(found.definition, 3)
    labels = [3, 0, 2]
    # What ConvNetJS computes of the file that we write: both directions at once.
    question = {"network": write_convnetjs(found.definition, found.weights), "images": volumes, "labels": labels}
    answer = ask(question)
    module = found.definition.build()
    module.load_state_dict(found.weights)
    module.eval()
    for image, label, theirs in zip(images, labels, answer["images"], strict=True):
        module.zero_grad()
        scores = module(image[None])
        softmax = found.definition.loss.word == "softmax"
        ours = scores.softmax(dim=1) if softmax else scores
        assert np.allclose(ours.detach().numpy()[0], theirs["output"], atol=TOLERANCE)
        loss = image_losses(found.definition.loss, scores, torch.tensor([label])).sum()
        # Its hinge loss counts the true class too: a constant of 1.
        assert loss.item() == pytest.approx(theirs["loss"] - (0 if softmax else 1), rel=TOLERANCE)
        if name == "many":  # its maxout can't go backward once loaded, and its lrn's gradient is only nearly right
            continue
        loss.backward()
        for mine, filters in zip(our_gradients(found.definition, module), theirs["filters"], strict=True):
            expected = np.concatenate([np.array(volume) for volume in filters])
            assert np.abs(expected).max() > 1e-6
            assert np.abs(mine - expected).max() <= TOLERANCE * max(1.0, np.abs(expected).max())


def test_gradients_through_its_svm_loss_tanh_and_sigmoid() -> None:
    definition = [each for each in MANY if each["type"] not in ("lrn", "dropout")]
    definition = [{k: v for k, v in each.items() if v not in ("maxout", 3) or k != "activation"} for each in definition]
    answer = ask({"definition": definition, "images": [], "labels": []})
    found = read_convnetjs(answer["before"])
    images, volumes = images_for(found.definition, 2)
    answer = ask({"network": answer["before"], "images": volumes, "labels": [1, 3]})
    module = found.definition.build()
    module.load_state_dict(found.weights)
    for image, label, theirs in zip(images, [1, 3], answer["images"], strict=True):
        module.zero_grad()
        image_losses(found.definition.loss, module(image[None]), torch.tensor([label])).sum().backward()
        for mine, filters in zip(our_gradients(found.definition, module), theirs["filters"], strict=True):
            expected = np.concatenate([np.array(volume) for volume in filters])
            assert np.abs(mine - expected).max() <= TOLERANCE * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("name", DEFINITIONS)
def test_a_file_comes_back_from_node_as_it_went(name: str) -> None:
    found = read_convnetjs(dumped(name))
    written = write_convnetjs(found.definition, found.weights)
    returned = ask({"network": written, "images": [], "labels": []})["after"]
    again = read_convnetjs(returned)
    assert again.definition == found.definition
    assert again.weights.keys() == found.weights.keys()
    for each, weight in found.weights.items():
        assert torch.equal(weight, again.weights[each])
    assert write_convnetjs(again.definition, again.weights) == written


@pytest.mark.parametrize(
    ("settings", "trainer"),
    [
        (
            Settings(optimizer="adadelta", learning_rate=1.0, batch_size=4, weight_decay=1e-4 / 4),
            {"method": "adadelta", "batch_size": 4, "l2_decay": 1e-4},
        ),
        (
            Settings(learning_rate=0.05, momentum=0.9, batch_size=3, weight_decay=0.01, l1=0.001),
            {
                "method": "sgd",
                "learning_rate": 0.05,
                "momentum": 0.9,
                "batch_size": 3,
                "l2_decay": 0.03,
                "l1_decay": 0.0,
            },
        ),
        (
            Settings(learning_rate=0.1, momentum=0.0, batch_size=1),
            {"method": "sgd", "learning_rate": 0.1, "momentum": 0, "batch_size": 1},
        ),
    ],
    ids=["adadelta", "momentum", "plain"],
)
def test_training_goes_the_way_its_trainer_goes(settings: Settings, trainer: dict[str, Any]) -> None:
    settings = settings.changed({"l1": 0.0})  # its files switch l1 decay off layer by layer
    text = dumped("odd")
    found = read_convnetjs(text)
    images, volumes = images_for(found.definition, 36)
    labels = [index * 7 % 5 for index in range(36)]
    # From the very weights of ours, which are rounded to float32.
    written = write_convnetjs(found.definition, found.weights)
    answer = ask({"network": written, "images": volumes, "labels": labels, "trainer": trainer})
    module = found.definition.build().double()
    module.load_state_dict(found.weights)
    optimizer = make_optimizer(settings, module)
    losses = []
    for start in range(0, 36, settings.batch_size):
        part = slice(start, start + settings.batch_size)
        optimizer.zero_grad()
        each = image_losses(found.definition.loss, module(images[part].double()), torch.tensor(labels[part]))
        each.mean().backward()
        optimizer.step()
        losses += each.tolist()
    assert np.allclose(losses, answer["losses"], rtol=1e-7)
    after = read_convnetjs(answer["after"])
    for name, weight in after.weights.items():
        assert torch.allclose(module.state_dict()[name].float(), weight, atol=1e-6), name
    assert max(losses) - min(losses) > 0.01


def test_the_preset_is_its_cifar_network() -> None:
    theirs, ours = read_convnetjs(dumped("cifar10")).definition, PRESETS["convnetjs-cifar10"].definition()
    assert theirs == ours
    assert json.loads(write_convnetjs(ours, ours.build().state_dict()))["layers"][1]["pad"] == 2


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("- relu", "- batch_normalization", "no such batch_normalization"),
        ("of: max", "of: mean", "no such pool"),
        ("padding: 1", "padding: [1, 0]", "one padding"),
        ("margin: 1.0", "margin: 0.5", "margin is 1"),
        ("- relu", "- dropout", "no such dropout"),
        ("mean: 0.5", "mean: 0.4", "pixels / 255"),
        ("- relu", "- flatten\n- maxout", "groups other values"),
    ],
)
def test_what_it_does_not_have_is_refused(old: str, new: str, what: str) -> None:
    text = (
        "- input: {rows: 8, columns: 8, mean: 0.5, std: 1.0}\n- convolution: {units: 4, size: 3, padding: 1}\n"
        "- pool: {size: 2, of: max}\n- relu\n- fully_connected: {units: 3}\n- svm: {margin: 1.0}"
    )
    plain = Definition.parse(text)
    write_convnetjs(plain, plain.build().state_dict())
    definition = Definition.parse(text.replace(old, new))
    with pytest.raises(Refused, match=what):
        write_convnetjs(definition, definition.build().state_dict())


LAYERS: list[dict[str, Any]] = [
    {"layer_type": "input", "out_sx": 2, "out_sy": 2, "out_depth": 1},
    {
        "layer_type": "fc",
        "out_depth": 2,
        "out_sx": 1,
        "out_sy": 1,
        "num_inputs": 4,
        "filters": [{"sx": 1, "sy": 1, "depth": 4, "w": {"0": 1, "1": 2, "2": 3, "3": 4}}, {"w": [1, 2, 3, 4]}],
        "biases": {"w": [0, 1]},
    },
    {"layer_type": "softmax", "out_depth": 2, "out_sx": 1, "out_sy": 1, "num_inputs": 2},
]


def with_layer(index: int, **changes: Any) -> str:
    layers = [dict(layer) for layer in LAYERS]
    layers[index].update(changes)
    return json.dumps({"layers": layers})


def test_both_ways_to_write_a_volume_are_read() -> None:
    found = read_convnetjs(json.dumps({"layers": LAYERS}))
    assert found.weights["fc1.weight"].tolist() == [[1, 2, 3, 4], [1, 2, 3, 4]]
    assert found.notes == ()
    dropout = {"layer_type": "dropout", "drop_prob": 0.2, "out_depth": 1, "out_sx": 2, "out_sy": 2}
    noted = read_convnetjs(json.dumps({"layers": [LAYERS[0], dropout, *LAYERS[1:]]}))
    assert "its predictions differ" in noted.notes[0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "[" * 100_000,
        '{"layers": 3}',
        '{"layers": []}',
        json.dumps({"layers": LAYERS[:2]}),
        with_layer(0, out_sx=0),
        with_layer(0, out_sx=10**9),
        with_layer(0, out_sx=True),
        with_layer(0, out_sx="2"),
        with_layer(0, out_depth=2.5),
        with_layer(1, layer_type="evil"),
        with_layer(1, layer_type="__proto__"),
        with_layer(1, layer_type="regression"),
        with_layer(1, out_depth=3),
        with_layer(1, out_sx=2),
        with_layer(1, filters=[]),
        with_layer(1, filters=[{"w": [1, 2, 3]}, {"w": [1, 2, 3, 4]}]),
        with_layer(1, filters=[{"w": {"0": 1, "1": 2, "2": 3, "4": 4}}, {"w": [1, 2, 3, 4]}]),
        with_layer(1, biases={"w": [0, None]}),
        with_layer(1, biases={"w": [0, "1"]}),
        with_layer(1, biases={"w": [0, float("nan")]}),
        with_layer(1, biases={"w": [0, 1e999]}),
        with_layer(1, layer_type="conv", sx=10**6, sy=1, stride=1, pad=0),
        with_layer(2, layer_type="sigmoid"),
    ],
    ids=range(26),
)
def test_files_that_are_no_networks_are_refused(text: str) -> None:
    with pytest.raises(ConvscopeError):
        read_convnetjs(text)
