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

from convscope.images import load_images
from convscope.methods.base import describe, method_class, method_names
from convscope.mining.mine import mine
from convscope.mining.pictures import open_study
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


def _rectified(name: str) -> Callable[[Network], None]:
    """Both rules on what the gradient is on `edges`, and where they part from it."""

    def answer(network: Network) -> None:
        # Score 0 takes the column map with a minus: the rules send none of that on, closed gate or not.
        expected = np.outer([-1, -1, 0, 0, 0, 0, 0, 1, 1], [1, 3, 4, 4, 4, 3, 1]) / 35
        view = network.view(name, images=ramp(), objective="score:0")
        assert np.allclose(view["attribution"][0, 0], expected)
        # Score 1 takes the column map with a plus, but it is 0 everywhere: only deconvnet ignores the closed gate.
        view = network.view(name, images=ramp(), objective="score:1")
        across = np.outer([1, 3, 4, 4, 4, 4, 4, 3, 1], [-1, -1, 0, 0, 0, 1, 1]) / 35
        assert np.allclose(view["attribution"][0, 0], across if name == "deconvnet" else 0, atol=1e-7)
        assert "Not class-sensitive" in view.meta["badge"]

    return answer


def _integrated_gradients(network: Network) -> None:
    # From black to the ramp the row map grows evenly and the column map stays 0: the gradient is the same all the way.
    view = network.view("integrated_gradients", images=ramp(), objective="score:0")
    expected = np.outer([-1, -1, 0, 0, 0, 0, 0, 1, 1], [1, 3, 4, 4, 4, 3, 1]) / 35
    assert np.allclose(view["attribution"][0, 0], expected * np.arange(9)[:, None], atol=1e-6)
    assert view["baseline_objective"].tolist() == [0]
    assert view["attribution"].sum() == pytest.approx(8)
    assert view["completeness_error"][0] < 1e-6


def _smoothgrad(network: Network) -> None:
    # Noise too small to close a gate of the row map; and none at all is the gradient.
    for noise in (0.0, 1e-3):
        view = network.view("smoothgrad", "relu:0:2,3", ramp(), noise=noise, samples=3)
        assert np.allclose(view["attribution"][0, 0, 2:5, 3:6], SOBEL, atol=1e-6)
    squared = network.view("smoothgrad", "relu:0:2,3", ramp(), noise=1e-3, squared=True)
    assert np.allclose(squared["attribution"][0, 0, 2:5, 3:6], SOBEL**2, atol=1e-6)
    assert not squared.meta["signed"]


def _sanity_checks(network: Network) -> None:
    view = network.view("sanity_checks", images=ramp(), objective="score:0", steps=2, fills="mean")
    assert view.meta["stages"] == ["original", "linear", "convolution and later"]
    rows, columns = [-1, -1, 0, 0, 0, 0, 0, 1, 1], [1, 3, 4, 4, 4, 3, 1]
    assert np.allclose(view["randomized"][0, 0], np.outer(rows, columns) / 35)  # Sobel's kernel at all 35 positions
    assert view["spearman"][0].tolist() == view["ssim"][0].tolist() == [1]
    # The scores of the image are 8, -7.75 and 3.5; with all of it of one color the maps are 0, and the biases are left.
    image, nothing = (np.exp(scores[0]) / np.exp(scores).sum() for scores in ([8, -7.75, 3.5], [0, 0.25, -0.5]))
    assert np.allclose(view["deletion"][:, 0, [0, 2]], [image, nothing])
    assert np.allclose(view["insertion"][:, 0, [0, 2]], [nothing, image])


def _grad_cam(network: Network) -> None:
    # The gradient of the mean over 35 places is 1/35 everywhere, so all three ways of weighing agree.
    for variant in ("grad_cam", "hires_cam", "layer_cam"):
        view = network.view("grad_cam", "relu", ramp(), objective="score:0", variant=variant)
        assert np.allclose(view["coarse"], 8 / 35)
        assert np.allclose(view["map"], 8 / 35)
    assert np.allclose(network.view("grad_cam", images=ramp(), objective="score:0")["weight"], [[1 / 35, -1 / 35]])
    assert not network.view("grad_cam", images=ramp(), objective="score:1")["map"].any()
    against = network.view("grad_cam", images=ramp(), objective="score:1", rectify=False)
    assert np.allclose(against["map"], -8 / 35)


def _occlusion(network: Network) -> None:
    # Covered as a whole, the image has no edges: scores are the biases 0, 0.25 and -0.5.
    view = network.view("occlusion", images=ramp(), objective="score:0", window=9)
    assert view["drop"].tolist() == [[[8]]]
    assert (view["map"] == 8).all()
    assert view["activity"].tolist() == [[[0]]]
    assert view["activity_whole"].tolist() == [8 * 35]
    assert view["unit"].tolist() == [0]
    assert view["most_probable"].tolist() == [[[1]]]
    assert view["probability"][0, 0, 0] == pytest.approx(1 / (1 + np.exp(0.25) + np.exp(-0.5)))


def _layerwise_relevance(network: Network) -> None:
    # Without biases that count, epsilon hands back exactly the score, each pixel by value times gradient.
    view = network.view("layerwise_relevance", images=ramp(), objective="score:0", composite="epsilon")
    gradient = network.view("gradient", images=ramp(), objective="score:0", times_input=True)
    assert np.allclose(view["attribution"], gradient["attribution"], atol=1e-4)
    assert view["conservation"].tolist() == [pytest.approx(1, abs=1e-5)]


def _attribution_matrix(network: Network) -> None:
    # The second kernel's map is 0 everywhere, so every class's gradient is the first one's, by its weight: 1 and 0.5.
    view = network.view("attribution_matrix", images=ramp(), methods="gradient,occlusion", steps=2)
    assert view["class"].tolist() == [[0, 2]]
    assert view["score"].tolist() == [[8, 3.5]]
    gradient = view["map"][0, 0]
    assert np.allclose(gradient[1], gradient[0] / 2)
    # Each pixel's sum of the kernel over the positions that see it, divided by their number.
    assert np.allclose(gradient[0].sum(axis=1), np.convolve(np.ones(7), [-1, 0, 1]) * 4 * 5 / 35, atol=1e-6)
    assert view["class_similarity"][0, 0] == 1


def _projections(network: Network) -> None:
    # A unit of the first layer leads back to its own kernel; the other kernel's map is nowhere above 0, where ReLU
    # passes nothing on in a gradient, and everything in a deconvnet.
    photos = load_images([ramp()[0] / 16, ramp()[0] / 8])
    with TemporaryDirectory() as folder:
        mine(network, photos, layers="relu", k=1, study=folder, executor="serial")
        gradient, deconvnet = (
            network.view("projections", "relu", photos, study=folder, rule=rule) for rule in ("gradient", "deconvnet")
        )
    assert gradient["image"].tolist() == [[1], [0]]
    assert gradient["reached"].tolist() == [[1], [0]]
    assert gradient["window"][0, 0].tolist() == [0, 0, 3, 3]
    assert np.array_equal(gradient["projection"][:, 0, :, :, 0], [SOBEL, 0 * SOBEL])
    assert np.array_equal(deconvnet["projection"][:, 0, :, :, 0], [SOBEL, SOBEL.T])
    assert gradient["patch"][0, 0, :, 0, 0].tolist() == [0, 32, 64]


def _invariance(network: Network) -> None:
    # Shifted down by 2 pixels with its border going on, value = row is 0, 0, 0, 1, 2, …: of 7 rows of edges the first
    # is gone and the second half as strong, so of 35 values of 8, five are 0 and five are 4.
    view = network.view("invariance", images=ramp(), layers="relu", transforms="vertical", steps=3, translation=2 / 9)
    assert view["amount"].tolist() == [[-2, 0, 2]]
    expected = np.sqrt(5 * 8**2 + 5 * 4**2)
    assert np.allclose(view["distance"], [[[[expected, 0, expected]]]])
    assert np.allclose(view["relative"], view["distance"] / np.sqrt(35 * 8**2))
    scores = np.array([44 / 7, -44 / 7 + 0.25, 22 / 7 - 0.5])
    assert view["probability"][0, 0, 2] == pytest.approx(np.exp(scores[0]) / np.exp(scores).sum(), abs=1e-6)


def _correspondence(network: Network) -> None:
    # Covered by black from the first row on, both images lose the same edges, so their changes have the same signs.
    both = torch.cat([ramp() / 16, ramp() / 8])
    given = {"parts": "top: 0,0,4,7", "layers": "relu", "fill": "black", "draws": 2}
    view = network.view("correspondence", images=both, **given)
    assert view["distance"].tolist() == [[0]]
    assert view["box"].tolist() == [[[0, 0, 4, 7]] * 2]
    opposite = torch.cat([ramp() / 16, 0.5 - ramp() / 16])
    # By rows of the first map, the changes are +, +, -, - where edges were, and 0, 0, -, - where there were none;
    # below, and in the second map, nothing changes: 2 rows of 5 values differ, of 70.
    view = network.view("correspondence", images=opposite, **given)
    assert view["distance"].tolist() == [[pytest.approx(10 / 70)]]
    assert view["pair"][0, 0].tolist() == [[0, view["distance"][0, 0]], [view["distance"][0, 0], 0]]


def _inversion(network: Network) -> None:
    # A sixteenth of the ramp has the maps 1/2 and 0: any image with these maps rises by a sixteenth from row to row.
    view = network.view("inversion", "convolution", 0.25 + ramp() / 16, regularizers="none", steps=64)
    assert view["error"][0] < 0.02
    found = view["prepared"][0, 0]
    assert np.diff(found, axis=0).mean() == pytest.approx(1 / 16, abs=0.01)
    assert abs(np.diff(found, axis=1).mean()) < 0.01


def _feature_visualization(network: Network) -> None:
    # Black where the kernel is negative, white where it is positive: of the pixels that exist, nothing excites more.
    view = network.view(
        "feature_visualization", "convolution:0:2,3", ramp() / 8, preset="pixels", steps=16, learning_rate=20.0
    )
    assert view["picture"][0, 2, 3:6, 0].tolist() == [0, 0, 0]
    assert view["picture"][0, 4, 3:6, 0].tolist() == [255, 255, 255]
    assert view["score"].tolist() == view["value"].tolist() == [4]
    assert view["natural_score"].tolist() == [1]
    assert view["box"].tolist() == view["natural_box"][0].tolist() == [[2, 3, 3, 3]]


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
    "attribution_matrix": Row(
        _attribution_matrix, [{"methods": "gradient", "steps": 1}, {"methods": "grad_cam,gradient", "checks": False}]
    ),
    "projections": Row(_projections, [{}, {"rule": "gradient", "ranks": 1}], mined=True),
    "gradient": Row(_gradient, [{}, {"seed": "map", "times_input": True}, {"seed": "mean", "reduce": "maximum"}]),
    "deconvnet": Row(_rectified("deconvnet"), [{}, {"seed": "map", "reduce": "norm"}]),
    "guided_backprop": Row(_rectified("guided_backprop")),
    "integrated_gradients": Row(
        _integrated_gradients, [{"steps": 2, "tolerance": 0.0}, {"steps": 1, "baseline": "blur"}]
    ),
    "smoothgrad": Row(_smoothgrad, [{"samples": 2}, {"samples": 1, "squared": True}]),
    "sanity_checks": Row(
        _sanity_checks,
        [{"of_parameters": '{"reduce": "norm"}', "stages": 1, "steps": 2, "fills": "mean"}],
    ),
    "grad_cam": Row(_grad_cam),
    "occlusion": Row(_occlusion, [{"fill": "blur", "window": 5, "stride": 5}]),
    "layerwise_relevance": Row(_layerwise_relevance),
    "invariance": Row(_invariance, [{"steps": 2, "transforms": "horizontal,rotation", "rotation": 20.0}]),
    "correspondence": Row(_correspondence, [{"parts": "0,0,2,3", "draws": 1}]),
    "feature_visualization": Row(_feature_visualization, [{"steps": 1}, {"steps": 1, "preset": "maco", "copies": 2}]),
    "inversion": Row(_inversion, [{"steps": 1}, {"steps": 2, "parameterization": "pixels", "optimizer": "momentum"}]),
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
        photos = load_images(list(tiny.images(3).sigmoid()))
        mine(network, photos, layers="*", study=tmp_path, executor="serial")
        open_study(str(tmp_path), photos)  # where the pictures are
        given["study"] = str(tmp_path)
    method = method_class(name).make(given)
    looked_at = list(targets(method, network))
    if method.target == "objective":
        looked_at = looked_at[::3]  # no target, then a unit of one layer and a neuron of the next
    answered = 0
    enough = len(looked_at) if parameters == ROWS[name].parameters[0] else 2
    for target in looked_at:
        if answered >= enough:
            break
        for images in (tiny.images(3), tiny.images(1)):
            if accepts(Subject(method, network, target, images)):
                # Every law at the first two targets of a network; at the others those that depend on the target most.
                laws = None if answered < 2 else ["the network is left as it was found", "the view says what it shows"]
                check_method(method, network, target, images, laws=laws)
                answered += 1
                break
    # Spatial gradients have nothing to say where every kernel or map is 1×1, ReLU rules where there is no ReLU; all
    # else answers on every network.
    no_relu = tiny.name == "pixels"
    silent = {"spatial_gradients": True, "deconvnet": no_relu, "guided_backprop": no_relu, "projections": no_relu}
    # Grad-CAM needs maps, and zennit's rules hang on modules: a convolution's weights can't be computed on the way.
    silent |= {"grad_cam": tiny.name == "pixels", "layerwise_relevance": tiny.name == "computed"}
    assert answered or silent.get(name, False)


@pytest.mark.parametrize("name", ROWS)
def test_a_method_explains_itself(name):
    found = describe(method_class(name))
    assert found["title"]
    first, *others = found["title"].split()
    assert first[0].isupper(), "sentence case"
    assert all(word == word.lower() for word in others), "sentence case"
    assert found["formula"]
    assert "\n" not in found["formula"]
    assert found["caveat"]
    assert "Misleads when" in found["summary"]
    assert any(f"[{axis}" in found["summary"] for axis in ("unit", "image", "part"))
    assert all(parameter["help"] for parameter in found["parameters"])


def test_every_paper_is_in_the_bibliography(pytestconfig):
    text = (pytestconfig.rootpath / "docs" / "bibliography.bib").read_text()
    for name in method_names():
        papers = method_class(name).papers
        assert papers, f"{name} cites nothing"
        assert all(f"{{{key}," in text for key in papers), f"{name} cites what isn't in docs/bibliography.bib"


def test_there_are_laws():
    assert len(LAWS) >= 10
