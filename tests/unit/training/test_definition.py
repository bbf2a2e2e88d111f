from __future__ import annotations

import re
from dataclasses import fields

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from convscope.errors import UnknownName
from convscope.training.definition import Definition, DefinitionError, check
from convscope.training.layers import Convolution, Pool, Shape
from convscope.training.modules import Chain, Dropout, Maxout, Residual
from convscope.training.presets import PRESETS, preset
from convscope.training.spelling import LAYERS

HEAD = "- input: {rows: 8, columns: 8, channels: 2}\n"
TAIL = "\n- fully_connected: {units: 3}\n- softmax\n"
EVERYTHING = (
    HEAD
    + """\
- convolution: {units: 4, size: [3, 5], padding: [1, 2], groups: 2, bias: false}
- batch_normalization: {momentum: 0.2}
- relu
- residual:
    shortcut: projection
    layers:
      - convolution: {units: 6, size: 3, stride: 2, padding: 1}
      - tanh
      - residual:
          layers: [sigmoid, {dropout: {probability: 0.25}}]
- local_response_normalization: {size: 3, alpha: 0.5}
- maxout: {group: 2}
- pool: {size: 3, stride: 1, padding: 1, of: mean}
- flatten
- dropout: {scale_at: evaluation}"""
    + TAIL
)


def test_every_kind_of_layer_has_the_shape_that_torch_computes():
    definition = Definition.parse(EVERYTHING)
    module = definition.build()
    module.recording = recorded = {}
    module.record(recorded)
    output = module(torch.rand(5, 2, 8, 8))
    shapes = {row["name"]: row for row in definition.rows()}
    assert set(recorded) == set(shapes) | {"block1.shortcut.conv", "block1.shortcut.norm"}
    for name, row in shapes.items():
        assert list(recorded[name].shape[1:]) + [1] * (4 - recorded[name].ndim) == row["shape"], name
        held = module.get_submodule(name)
        assert sum(each.numel() for each in held.parameters()) == row["parameters"], name
    assert definition.parameters == sum(each.numel() for each in module.parameters())
    assert output.shape == (5, 3)


def test_the_calls_of_the_network_have_the_names_of_the_definition():
    definition = Definition.parse(EVERYTHING)
    network = definition.network()
    assert {row["name"] for row in definition.rows()} <= {layer.address for layer in network.layers}
    assert network.image_size == (8, 8)
    assert network.classes == 3


@pytest.mark.parametrize("text", [EVERYTHING, *(each.text for each in PRESETS.values())])
def test_a_definition_is_the_same_after_being_written_and_read(text):
    definition = Definition.parse(text)
    assert Definition.parse(definition.text()) == definition
    assert definition.text() == Definition.parse(definition.text()).text()


@pytest.mark.parametrize("name", PRESETS)
def test_presets_run_forward_and_backward(name):
    definition = preset(name).definition()
    module = definition.build(seed=3)
    given_shape = definition.input.shape
    scores = module(torch.rand(2, given_shape.channels, given_shape.rows, given_shape.columns))
    scores.square().sum().backward()
    assert scores.shape == (2, 10)
    assert all(each.grad is not None and each.grad.isfinite().all() for each in module.parameters())


def test_the_first_layers_of_alexnet_and_zfnet_are_the_papers():
    alexnet, zfnet = (PRESETS[name].definition().placed[0].layer for name in ("alexnet", "zfnet"))
    assert (alexnet.units, alexnet.size, alexnet.stride) == (96, (11, 11), (4, 4))
    assert (zfnet.units, zfnet.size, zfnet.stride) == (96, (7, 7), (2, 2))


def test_an_unknown_preset_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="did you mean resnet"):
        preset("resnett")


WRONG = {
    "- input: {rows: 8, columns: 8}\n- conv: {units: 3, size: 3}\n- softmax": (2, "no layer 'conv'", "convolution"),
    "- relu\n- softmax": (1, "first layer must be input", "input"),
    HEAD + "- relu": (2, "must say the loss", "softmax"),
    HEAD + "- softmax\n- softmax": (2, "only be the last", "move"),
    HEAD + "- input: {rows: 3, columns: 3}" + TAIL: (2, "only be the first", "move"),
    HEAD + "- convolution: {units: 4}" + TAIL: (2, "needs size", "whole number"),
    HEAD + "- convolution: {units: 4, sise: 3}" + TAIL: (2, "no option 'sise'", "size"),
    HEAD + "- convolution: {units: 4.5, size: 3}" + TAIL: (2, "units can't be 4.5", "whole number"),
    HEAD + "- convolution: {units: 0, size: 3}" + TAIL: (2, "units 0 is outside", "1 to 4096"),
    HEAD + "- convolution: {units: 4, size: [1, 2, 3]}" + TAIL: (2, "size can't be a list", "rows, columns"),
    HEAD + "- convolution: {units: 4, size: true}" + TAIL: (2, "size can't be True", "whole number"),
    HEAD + "- convolution: {units: 4, size: 9}" + TAIL: (2, "larger than its input", "at most 8"),
    HEAD + "- convolution: {units: 5, size: 3, groups: 2}" + TAIL: (2, "2 groups don't divide 5", "both"),
    HEAD + "- convolution: 16" + TAIL: (2, "must have names", "units"),
    HEAD + "- pool: {size: 2, padding: 2}" + TAIL: (2, "more than half", "less padding"),
    HEAD + "- pool: {size: 2, of: median}" + TAIL: (2, "of 'median'", "did you mean mean"),
    HEAD + "- flatten\n- pool: {size: 2}" + TAIL: (3, "needs maps", "before flatten"),
    HEAD + "- maxout: {group: 3}" + TAIL: (2, "don't divide 2", "divides"),
    HEAD + "- local_response_normalization: {size: 4}" + TAIL: (2, "no middle", "odd"),
    HEAD + "- residual: {layers: []}" + TAIL: (2, "needs layers", "layers:"),
    HEAD + "- residual:\n    layers:\n      - relu\n      - convolution: {units: 9, size: 3}" + TAIL: (
        2,
        "can't be added",
        "projection",
    ),
    HEAD + "- residual:\n    layers:\n      - relu\n      - convolution: {units: 9, size: 20}" + TAIL: (
        5,
        "larger than its input",
        "size",
    ),
    HEAD + "- residual: {shortcut: projection, layers: [{convolution: {units: 3, size: 2}}]}" + TAIL: (
        2,
        "no stride",
        "pad",
    ),
    HEAD + "- relu\n- softmax": (2, "one score for each class", "fully_connected"),
    HEAD + "- fully_connected: {units: 1}\n- softmax": (2, "two classes", "units"),
    HEAD + "- fully_connected: {units: 65536}\n- fully_connected: {units: 65536}" + TAIL: (
        0,
        "parameters",
        "fewer units",
    ),
    HEAD + "- dropout: {probability: .nan}" + TAIL: (2, "plain decimal", "0.5"),
    HEAD + "- dropout: {probability: 1e99}" + TAIL: (2, "outside", "0 to 0.99"),
    "- input: {rows: 8, columns: 010}" + TAIL: (1, "plain decimal", "16"),
    "- input: {rows: 8, columns: 0x10}" + TAIL: (1, "plain decimal", "16"),
    "- input: {rows: 8, columns: 1:30}" + TAIL: (1, "plain decimal", "16"),
    "- input: {rows: 8, columns: 8, columns: 9}" + TAIL: (1, "there twice", "remove"),
    "- input: {rows: 8, columns: 8, mean: [0.5, 0.5]}" + TAIL: (1, "2 numbers of mean for 3", "each channel"),
    "- input: {rows: 8, columns: 8, yes: no}" + TAIL: (1, "no option 'yes'", "rows"),
    "- [relu]": (1, "a word", "- relu"),
    "input: {}": (1, "a list of layers", "- "),
    "": (0, "empty", "input"),
    "- relu\n---\n- relu": (2, "second document", "---"),
    "%YAML 1.1\n---\n- relu": (1, "directives", "remove"),
    "- {relu: {}, tanh: {}}": (1, "a word", "- relu"),
    "- ? [a]\n  : b": (1, "must be a word", "name: value"),
    "\t- x": (1, "can't be read", "- convolution"),
}


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_said_with_line_and_next_step(text):
    line, what, step = WRONG[text]
    with pytest.raises(DefinitionError) as caught:
        Definition.parse(text)
    assert caught.value.line == line, caught.value
    assert what in caught.value.what
    assert step in caught.value.next_step, caught.value.next_step


@pytest.mark.parametrize(
    "text",
    [
        "- !!python/object/apply:os.system ['echo harm']",
        "- !!python/name:os.system",
        "- !include /etc/passwd",
        "- &a relu\n- *a",
        "a: &a [x, x]\nb: &b [*a, *a]",
        "- <<: {relu: 1}",
        "[" * 20_000,
        "{a: " * 5_000,
        "- " * 5_000 + "x",
        "- relu\n" * 5_000,
        "- relu\n" * 400,
        "# " + "x" * 40_000,
        "- input: {rows: 99999999999999999999999999999, columns: 8}" + TAIL,
        "- input: {rows: 512, columns: 512, channels: 16}\n- convolution: {units: 4096, size: 1}" + TAIL,
        "- \ud800",
        "\x00",
        "\ufeff- \x07",
    ],
    ids=range(17),
)
def test_hostile_texts_are_refused(text):
    with pytest.raises(DefinitionError):
        Definition.parse(text)
    assert check(text).error is not None


@given(st.text(max_size=300) | st.text(alphabet="- :{}[]&*!|>%@`relucnvoti0123456789.\n'\"#,", max_size=300))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_text_is_read_or_refused(text):
    check(text)
    check(HEAD + text + TAIL)


def test_a_text_is_checked_while_it_is_written():
    found = check(HEAD + "- convolution: {units: 4, size: 3}\n- relu\n- pol: {size: 2}")
    assert [row["name"] for row in found.rows] == ["conv1", "relu1"]
    assert found.rows[0] == {
        "name": "conv1",
        "kind": "convolution",
        "line": 2,
        "shape": [4, 6, 6],
        "text": "4 × 6 × 6",
        "parameters": 76,
        "count": "4×3×3×2+4",
    }
    assert found.error is not None
    assert found.error.line == 4
    assert found.to_json()["error"]["next_step"]
    assert check(PRESETS["lenet5"].text).error is None


@given(
    rows=st.integers(1, 40),
    size=st.integers(1, 12),
    stride=st.integers(1, 6),
    padding=st.integers(0, 6),
)
@settings(max_examples=150, deadline=None)
def test_shapes_of_windows_are_torchs(rows, size, stride, padding):
    shape = Shape(2, rows, rows + 1)
    image = torch.zeros(1, 2, rows, rows + 1)
    for layer in (
        Convolution(3, (size, 1), (stride, stride), (padding, 0)),
        Pool((size, 1), (stride, stride), (min(padding, size // 2), 0)),
    ):
        try:
            made = layer.output(shape)
        except Exception:
            with pytest.raises(RuntimeError):
                layer.build(shape)(image)
        else:
            assert tuple(layer.build(shape)(image).shape[1:]) == (made.channels, made.rows, made.columns)


def test_initial_weights_depend_on_the_seed_alone_and_have_the_right_scale():
    definition = PRESETS["lenet5"].definition()
    before = torch.get_rng_state()
    first, again, other = definition.build(1), definition.build(1), definition.build(2)
    assert torch.equal(before, torch.get_rng_state())
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
        if name.endswith("weight"):
            assert not torch.equal(weight, other.state_dict()[name])
    hidden, last = first.get_submodule("fc1").weight, first.get_submodule("fc3").weight
    assert hidden.std().item() == pytest.approx((2 / 400) ** 0.5, rel=0.02)
    assert last.std().item() == pytest.approx((1 / 84) ** 0.5, rel=0.1)
    assert not first.get_submodule("fc1").bias.any()


def test_classes_and_channels_follow_the_data():
    definition = PRESETS["resnet"].definition()
    other = definition.with_classes(7).with_channels(1)
    assert other.classes == 7
    assert other.build()(torch.zeros(2, 1, 32, 32)).shape == (2, 7)
    assert other.input.mean == pytest.approx(sum((0.4914, 0.4822, 0.4465)) / 3)
    fixed = Definition.parse(HEAD + "- convolution: {units: 4, size: 8}\n- softmax")
    assert fixed.with_classes(4) is fixed
    with pytest.raises(DefinitionError, match="data have 5"):
        fixed.with_classes(5)


def test_dropout_repeats_with_its_generator_and_keeps_the_mean():
    values = torch.ones(200, 200)
    for scale_at in ("training", "evaluation"):
        layer = Dropout(0.25, scale_at)
        layer.generator = torch.Generator().manual_seed(1)
        first = layer(values)
        layer.generator = torch.Generator().manual_seed(1)
        assert torch.equal(first, layer(values))
        assert (first == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
        layer.generator = None
        plain = layer(values)
        assert sorted(set(plain.flatten().tolist())) == pytest.approx(sorted(set(first.flatten().tolist())))
        layer.eval()
        assert layer(values).mean().item() == pytest.approx(first.mean().item(), abs=0.02)


def test_modules_of_our_own_against_their_definition():
    values = torch.randn(3, 6, 2, 2)
    expected = torch.stack([values[:, first : first + 3].amax(dim=1) for first in (0, 3)], dim=1)
    assert torch.equal(Maxout(3)(values), expected)
    block = Residual()
    block.add_module("relu1", nn.ReLU())
    block.attach(None)
    assert torch.equal(block(values), values.relu() + values)
    assert isinstance(block, Chain)


def test_every_option_of_every_layer_has_a_help_and_a_plain_name():
    for word, kind in LAYERS.items():
        assert re.fullmatch("[a-z_]+", word)
        assert kind.explanation
        for each in fields(kind):
            assert each.metadata["option"]["help"]
