"""The call written out: it runs as it stands, whatever is in the names."""

from __future__ import annotations

import ast
import shlex

import pytest

from convscope.methods.activation_gradients import ActivationGradients
from convscope.methods.call_text import Written
from convscope.methods.predictions import Predictions
from convscope.methods.spatial_gradients import SpatialGradients
from convscope.methods.weight_gradients import WeightGradients
from convscope.methods.weights import Weights

HOSTILE = ["it's", 'say "hi"', "a b;rm -rf ~", "$(id)", "`id`", "new\nline", "back\\slash", "#comment", "é中"]


def python_text(spec, method, target="", names=()):
    return Written(spec, {}, method, target, names=tuple(names)).python()


def command_text(spec, method, target="", names=()):
    return Written(spec, {}, method, target, names=tuple(names)).command()


def test_what_was_said_at_loading_is_said_again():
    beside = {"weights": "my weights.pt", "image_size": 227, "mean": (123.0, 117.0, 104.0), "trust": True}
    call = Written("nets.py:make", beside, Weights(), "conv1", "my photos", (0, 4), ("a", "b"))
    assert (
        'cs.load("nets.py:make", weights="my weights.pt", image_size=227, mean=(123.0, 117.0, 104.0), trust=True)'
        in (call.python())
    )
    assert 'cs.load_images("my photos")[[0, 4]]  # a, b' in call.python()
    assert call.command() == (
        "convscope view weights nets.py:make conv1 --weights 'my weights.pt' --image-size 227 --mean 123.0,117.0,104.0 "
        "--trust --images 'my photos' --pick 0,4"
    )


def test_default_parameters_are_left_out():
    assert python_text("demo", Weights(), "conv1").endswith('network.view("weights", "conv1")')
    assert command_text("demo", Weights(), "conv1") == "convscope view weights demo conv1"


def test_parameters_images_and_no_target():
    text = python_text("demo", Predictions(top=3), "", ["a.png", "b.png", "c.png", "d.png"])
    assert 'images = cs.load_images("photos/")  # a.png, b.png, c.png and 1 more' in text
    assert text.endswith('network.view("predictions", images=images, top=3)')
    command = command_text("demo", WeightGradients(per_image=True, objective="score:1"), "conv1:2", ["a.png"])
    assert command == "convscope view weight_gradients demo conv1:2 --objective score:1 --per-image --images photos/"
    assert python_text("demo", SpatialGradients(of="image"), "", ["a"]).endswith('images=images, of="image")')


def test_a_network_made_in_python_has_no_command():
    assert command_text("", Weights(), "conv1") == ""
    assert "from_module(module" in python_text("", Weights(), "conv1")


def test_a_function_is_named_and_has_no_command():
    def own(scores, batch):
        return scores.mean()

    assert "objective=own)" in python_text("demo", ActivationGradients(objective=own), "conv1")
    assert command_text("demo", ActivationGradients(objective=own), "conv1") == ""


@pytest.mark.parametrize("text", HOSTILE)
def test_every_word_survives_its_quoting(text):
    python = python_text(text, ActivationGradients(objective=f"unit:{text}:0"), text, [text])
    found = [node.value for node in ast.walk(ast.parse(python)) if isinstance(node, ast.Constant)]
    assert found.count(text) == 2
    assert f"unit:{text}:0" in found
    assert len(python.splitlines()) == 4
    words = shlex.split(command_text(text, ActivationGradients(objective=f"unit:{text}:0"), text, [text]))
    assert words[3:7] == [text, text, "--objective", f"unit:{text}:0"]
