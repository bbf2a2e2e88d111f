from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from references import double

from convscope.errors import ConvscopeError, Refused, UnknownName
from convscope.methods.attribution.grad_cam import VARIANTS, GradCam
from convscope.methods.base import Target
from convscope.network.network import Network
from convscope.testing import tiny_network


def by_hand(maps: np.ndarray, gradient: np.ndarray, variant: str) -> np.ndarray:
    """The weighted sum, value by value: one image's ``[unit, row, column]`` as ``[row, column]``."""
    units, rows, columns = maps.shape
    result = np.zeros((rows, columns))
    for unit, row, column in np.ndindex(units, rows, columns):
        if variant == "grad_cam":
            weight = sum(gradient[unit, r, c] for r in range(rows) for c in range(columns)) / (rows * columns)
        else:
            weight = gradient[unit, row, column]
        if variant == "layer_cam":
            weight = max(weight, 0.0)
        result[row, column] += weight * maps[unit, row, column]
    return result


def stretched(coarse: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Bilinear, by the definition: a pixel's center lies at a place between the centers of four coarse values."""
    result = np.zeros((rows, columns))
    for row, column in np.ndindex(rows, columns):
        for axis_weight, r in corners(row, rows, coarse.shape[0]):
            for weight, c in corners(column, columns, coarse.shape[1]):
                result[row, column] += axis_weight * weight * coarse[r, c]
    return result


def corners(place: int, size: int, coarse: int) -> list[tuple[float, int]]:
    at = max((place + 0.5) * coarse / size - 0.5, 0)
    low = int(at)
    return [(1 - (at - low), low), (at - low, min(low + 1, coarse - 1))]


@pytest.mark.parametrize("rectify", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_equal_to_autograd_and_loops(variant, rectify):
    network, batch = double(tiny_network("in_place"), generic=True)
    module = network.module.eval()
    maps = F.relu(module.first(batch.tensor)).detach().requires_grad_()
    score = module.linear(F.relu(module.second(maps)).mean((2, 3)))[:, 2]
    (gradient,) = torch.autograd.grad(score.sum(), maps)
    view = network.view("grad_cam", "relu", batch, objective="score:2", variant=variant, rectify=rectify)
    assert view.meta["values"] == pytest.approx(score.tolist(), rel=1e-6)
    for image in range(3):
        expected = by_hand(maps[image].detach().numpy(), gradient[image].numpy(), variant)
        expected = np.maximum(expected, 0) if rectify else expected
        assert np.allclose(view["coarse"][image], expected, atol=1e-6)
        assert np.allclose(view["map"][image], stretched(expected, 8, 11), atol=1e-6)
    assert view.meta["signed"] is not rectify
    assert view.meta["layer"] == "relu"
    if variant == "grad_cam":
        assert np.allclose(view["weight"], gradient.mean((2, 3)), atol=1e-6)


def test_hires_cam_hands_out_the_whole_score_where_a_linear_layer_follows():
    network, batch = double(tiny_network("edges"))
    view = network.view("grad_cam", "relu", batch, objective="score:1", variant="hires_cam", rectify=False)
    bias = network.module.linear.bias[1].item()
    assert view["coarse"].sum(axis=(1, 2)) == pytest.approx(np.array(view.meta["values"]) - bias, abs=1e-5)


def test_of_a_unit_by_the_maps_before_it():
    network, batch = double(tiny_network("in_place"), generic=True)
    module = network.module.eval()
    maps = F.relu(module.first(batch.tensor)).detach().requires_grad_()
    unit = module.second(maps)[:, 4]
    (gradient,) = torch.autograd.grad(unit.flatten(1).amax(dim=1).sum(), maps)
    target = network.view("grad_cam", "second:4", batch)
    text = network.view("grad_cam", "", batch, objective="unit:second:4")
    named = network.view("grad_cam", "relu", batch, objective="unit:second:4")
    for view in (target, named):
        for image in range(3):
            expected = by_hand(maps[image].detach().numpy(), gradient[image].numpy(), "grad_cam")
            assert np.allclose(view["coarse"][image], np.maximum(expected, 0), atol=1e-6)
    assert target.meta["facts"]["layer"] == "relu"
    assert text.meta["facts"] == target.meta["facts"]
    assert text["coarse"].tobytes() == target["coarse"].tobytes()


def test_the_layer_is_told_from_the_unit():
    network = tiny_network("in_place").network()
    with pytest.raises(ConvscopeError, match="adds up one layer's maps"):
        GradCam(layer="first").resolve(network, "second")
    with pytest.raises(ConvscopeError, match="explains one thing"):
        GradCam(objective="score:1").resolve(network, "second:1")
    with pytest.raises(UnknownName):
        GradCam().resolve(network, "third")
    assert GradCam(layer="first").resolve(network, "first").layer is network.layer("first")


def test_no_maps_are_refused_before_anything_is_computed():
    network = tiny_network("pixels").network()
    refusal = GradCam().refusal(network, Target())
    assert isinstance(refusal, Refused)
    assert "maps" in refusal.what
    network = tiny_network("in_place").network()
    assert GradCam().refusal(network, Target()) is None
    with pytest.raises(Refused, match="upstream of first"):
        network.view("grad_cam", "first:0", tiny_network("in_place").images(1))


def test_what_says_nothing_says_why():
    network, batch = double(tiny_network("in_place"))
    view = network.view("grad_cam", "linear", batch, objective="score:0")
    assert any("one position" in warning for warning in view.meta["warnings"])
    # A unit doesn't depend on what comes after it.
    view = network.view("grad_cam", "second", batch, objective="unit:first:0")
    assert any("doesn't depend on second" in warning for warning in view.meta["warnings"])
    assert not view["map"].any()


def test_an_empty_map_may_mean_that_all_speaks_against():
    network = tiny_network("edges").network()
    ramp = torch.arange(9.0)[None, None, :, None].expand(1, 1, 9, 7).contiguous()
    view = network.view("grad_cam", "", ramp, objective="score:1")
    assert not view["map"].any()
    assert any("speaks against" in warning for warning in view.meta["warnings"])
    against = network.view("grad_cam", "", ramp, objective="score:1", rectify=False)
    assert (against["map"] < 0).all()
    assert against.meta["warnings"] == []


def test_each_value_at_the_center_of_its_receptive_field():
    # 3 × 3 windows without padding: 7 × 5 values of a 9 × 7 image have their centers at rows and columns 1, 2, 3, …
    network, batch = double(tiny_network("edges"), generic=True)
    view = network.view("grad_cam", "relu", batch, objective="score:0", placement="centers")
    assert np.allclose(view["map"][:, 1:8, 1:6], view["coarse"], atol=1e-6)
    assert np.allclose(view["map"][:, 0], view["map"][:, 1])
    assert np.allclose(view["map"][:, :, 6], view["map"][:, :, 5])


def test_between_centers_it_is_linear():
    # Stride 2, 3 × 3, padding 1: centers at 0, 2, 4, … pixels.
    network, batch = double(tiny_network("in_place"), generic=True)
    view = network.view("grad_cam", "relu", batch, objective="score:0", placement="centers")
    coarse = view["coarse"]
    assert np.allclose(view["map"][:, 0:7:2, 0:11:2], coarse, atol=1e-6)
    assert np.allclose(view["map"][:, 1:6:2, 0:11:2], (coarse[:, :-1] + coarse[:, 1:]) / 2, atol=1e-6)
    assert np.allclose(view["map"][:, 7, 0:11:2], coarse[:, 3], atol=1e-6)


def test_where_the_centers_are_not_known_they_are_not_made_up():
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.AdaptiveAvgPool2d(3), torch.nn.Flatten(), torch.nn.Linear(18, 2)
    )
    network = Network.from_module(module, image_size=(9, 7))
    with pytest.raises(Refused, match="evenly spaced"):
        network.view("grad_cam", "1", torch.randn(1, 1, 9, 7), placement="centers")
    network.view("grad_cam", "1", torch.randn(1, 1, 9, 7))
