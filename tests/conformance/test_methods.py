"""Every registered method × every tiny network × every law, and its answer where there is one in closed form.

A new method needs a row in ROWS: the parameters to try, and what it must answer on the image ``value = row`` of the
network "edges", whose kernels are the two Sobel operators.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from convscope.methods.base import describe, method_class, method_names
from convscope.mining.mine import mine
from convscope.testing import LAWS, TINY_NETWORKS, check_method, targets, tiny_network
from convscope.testing.laws import Subject, accepts

if TYPE_CHECKING:
    from collections.abc import Callable

    from convscope.network.network import Network

SOBEL = np.array([[-1.0, -2, -1], [0, 0, 0], [1, 2, 1]])


def ramp() -> torch.Tensor:
    """The image ``value = row``: its Sobel row map is 8 everywhere, its column map 0."""
    return torch.arange(9.0)[None, None, :, None].expand(1, 1, 9, 7).contiguous()


def _weights(network: Network) -> None:
    view = network.view("weights", "convolution")
    assert np.array_equal(view["kernel"][:, 0], [SOBEL, SOBEL.T])
    assert np.allclose(view["norm"], np.sqrt(12))


def _weight_gradients(network: Network) -> None:
    # score 0 = mean of map 0 - mean of map 1, and the mean of a kernel row's patches over 7 positions is 3, 4 or 5.
    view = network.view("weight_gradients", "convolution", ramp(), objective="score:0")
    rows = np.array([3.0, 4, 5])[:, None].repeat(3, axis=1)
    assert np.allclose(view["gradient"][0, 0], rows)
    assert np.allclose(view["gradient"][1, 0], 0)  # its map is 0 everywhere, where ReLU passes no gradient
    assert view["image_share"].tolist() == [[1, 0]]


def _spatial_gradients(network: Network) -> None:
    view = network.view("spatial_gradients", "convolution")
    assert np.array_equal(view["row"][0, 0], [[1, 2, 1]] * 3)
    assert np.array_equal(view["column"][0, 0], [[-1, 0, 1], [0, 0, 0], [1, 0, -1]])


def _activations(network: Network) -> None:
    view = network.view("activations", "convolution", ramp())
    assert (view["map"][0, 0] == 8).all()
    assert (view["map"][0, 1] == 0).all()


def _activation_gradients(network: Network) -> None:
    view = network.view("activation_gradients", "relu", ramp(), objective="score:0")
    assert np.allclose(view["gradient"][0, 0], 1 / 35)
    assert np.allclose(view["gradient"][0, 1], -1 / 35)


def _convolution(network: Network) -> None:
    view = network.view("convolution", "convolution:0:2,3", ramp(), objective="score:0")
    assert view["patch"][0].tolist() == [[2, 2, 2], [3, 3, 3], [4, 4, 4]]
    assert view["product"][0].tolist() == [[-2, -4, -2], [0, 0, 0], [4, 8, 4]]
    assert view["result"].tolist() == [8]
    assert np.allclose(view["share"][0], view["patch"][0] / 35)
    assert np.allclose(view["weight_gradient"][0], np.array([3.0, 4, 5])[:, None].repeat(3, axis=1))


def _predictions(network: Network) -> None:
    view = network.view("predictions", images=ramp(), top=3)
    assert view["class"].tolist() == [[0, 2, 1]]
    assert view["score"].tolist() == [[8.0, 3.5, -7.75]]
    assert view["contribution"].tolist() == [[8, 0]]
    assert view.meta["contribution_layer"] == "relu"


def _top_patches(network: Network) -> None:
    # The kernels' maps of value = row are 8 and 0 everywhere, those of an 8th of it 1 and 0. Of equal places the first
    # counts, and each sees 3 × 3 pixels.
    ramps = [ramp()[0] / 16, ramp()[0] / 8, ramp()[0] * 0]
    with TemporaryDirectory() as folder:
        mine(network, ramps, layers="convolution", k=2, study=folder, executor="serial")
        view = network.view("top_patches", "convolution", study=folder)
    assert view["image"].tolist() == [[1, 0], [0, 1]]
    assert view["value"].tolist() == [[1, 0.5], [0, 0]]
    assert view["bottom_image"].tolist() == [[2, 0], [0, 1]]
    assert view["box"][0, 0].tolist() == [0, 0, 3, 3]
    assert view["zero_fraction"].tolist() == [pytest.approx(1 / 3), 1]
    assert view["mean"].tolist() == [pytest.approx(0.5, abs=1e-5), 0]


def _gradient(network: Network) -> None:
    # Every one of 7 × 5 places sends 1/35 of the row kernel back; the column map is 0, where ReLU passes nothing.
    view = network.view("gradient", images=ramp(), objective="score:0")
    expected = np.outer([-1, -1, 0, 0, 0, 0, 0, 1, 1], [1, 3, 4, 4, 4, 3, 1]) / 35
    assert np.allclose(view["attribution"][0, 0], expected)
    assert np.allclose(view["map"][0], expected)
    assert view.meta["values"] == [8]
    # Of equal places the first: its kernel, where it lies.
    view = network.view("gradient", "relu:0", ramp())
    assert view["place"].tolist() == [[0, 0]]
    assert np.array_equal(view["attribution"][0, 0, :3, :3], SOBEL)


@dataclass(frozen=True)
class Row:
    """What conformance knows of one method; ``mined``: it is read from a study, which is made first."""

    answer: Callable[[Network], None]
    parameters: list[dict[str, Any]] = field(default_factory=lambda: [{}])
    mined: bool = False


ROWS = {
    "weights": Row(_weights, [{}, {"slices": 0}]),
    "weight_gradients": Row(_weight_gradients, [{}, {"objective": "score", "slices": 1}, {"per_image": True}]),
    "spatial_gradients": Row(
        _spatial_gradients, [{}, {"of": "weight_gradients"}, {"of": "activations"}, {"of": "image"}]
    ),
    "activations": Row(_activations),
    "activation_gradients": Row(_activation_gradients, [{}, {"objective": "score:1"}]),
    "convolution": Row(_convolution),
    "predictions": Row(_predictions, [{}, {"top": 2, "explain_class": 1}]),
    "top_patches": Row(_top_patches, [{}, {"ranks": 1}], mined=True),
    "gradient": Row(_gradient, [{}, {"seed": "map", "times_input": True}, {"seed": "mean", "reduce": "maximum"}]),
}
VARIANTS = [(name, parameters) for name, row in ROWS.items() for parameters in row.parameters]


def test_every_registered_method_has_a_row():
    assert sorted(ROWS) == sorted(method_names()), "give the new method a row in ROWS, with its answer on `edges`"


@pytest.mark.parametrize("name", ROWS)
def test_the_answer_in_closed_form(name):
    ROWS[name].answer(tiny_network("edges").network())


@pytest.mark.parametrize("tiny", TINY_NETWORKS.values(), ids=lambda tiny: tiny.name)
@pytest.mark.parametrize(("name", "parameters"), VARIANTS, ids=[f"{name}{values or ''}" for name, values in VARIANTS])
def test_every_law_on_every_tiny_network(name, parameters, tiny, tmp_path):
    network = tiny.network()
    given = dict(parameters)
    if ROWS[name].mined:
        mine(network, list(tiny.images(3).sigmoid()), layers="*", study=tmp_path, executor="serial")
        given["study"] = str(tmp_path)
    method = method_class(name).make(given)
    looked_at = list(targets(method, network))
    answered = 0
    for target in looked_at if parameters == ROWS[name].parameters[0] else looked_at[:6]:
        for images in (tiny.images(3), tiny.images(1)):
            if accepts(Subject(method, network, target, images)):
                # Every law at the first two targets of a network; at the others those that depend on the target most.
                laws = None if answered < 2 else ["the network is left as it was found", "the view says what it shows"]
                check_method(method, network, target, images, laws=laws)
                answered += 1
                break
    # Spatial gradients have nothing to say where every kernel or map is 1×1; all else answers on every network.
    assert answered or name == "spatial_gradients"


@pytest.mark.parametrize("name", ROWS)
def test_a_method_explains_itself(name):
    found = describe(method_class(name))
    assert found["title"]
    assert found["title"] == found["title"][0].upper() + found["title"][1:].lower(), "sentence case"
    assert found["formula"]
    assert "\n" not in found["formula"]
    assert found["caveat"]
    assert "Misleads when" in found["summary"]
    assert "[unit" in found["summary"] or "[image" in found["summary"]
    assert all(parameter["help"] for parameter in found["parameters"])


def test_every_paper_is_in_the_bibliography(pytestconfig):
    text = (pytestconfig.rootpath / "docs" / "bibliography.bib").read_text()
    for name in method_names():
        papers = method_class(name).papers
        assert papers, f"{name} cites nothing"
        assert all(f"{{{key}," in text for key in papers), f"{name} cites what isn't in docs/bibliography.bib"


def test_there_are_laws():
    assert len(LAWS) >= 10
