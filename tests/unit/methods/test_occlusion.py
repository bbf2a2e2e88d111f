from __future__ import annotations

import numpy as np
import pytest
import torch
from references import LABELS, double

from convscope.errors import ConvscopeError
from convscope.methods.attribution.occlusion import Occlusion, Places
from convscope.methods.base import Target
from convscope.methods.fill import FILLS, blurred, filling
from convscope.network.network import Network
from convscope.testing import tiny_network


def covered_by_hand(image: torch.Tensor, instead: torch.Tensor, top: int, left: int, window: int) -> torch.Tensor:
    """One image with a square filled, pixel by pixel."""
    result = image.clone()
    for row in range(top, min(top + window, image.shape[1])):
        for column in range(left, min(left + window, image.shape[2])):
            result[:, row, column] = instead[:, row, column]
    return result


@pytest.mark.parametrize(("fill", "objective"), [("gray", "score"), ("image", "loss:true"), ("mean", "score:1")])
def test_equal_to_covering_one_place_after_the_other(fill, objective):
    network, batch = double(tiny_network("in_place"), generic=True)
    module = network.module.eval()
    view = network.view("occlusion", "", batch, objective=objective, window=4, stride=3, fill=fill)
    tops, lefts = view.meta["facts"]["tops"], view.meta["facts"]["lefts"]
    assert (tops, lefts) == ([0, 3, 6], [0, 3, 6, 9])
    instead = filling(network, batch.tensor, fill)
    with torch.no_grad():
        for image, pixels in enumerate(batch.tensor):
            scores = module(pixels[None])[0]
            label = {"score": int(scores.argmax()), "loss:true": LABELS[image], "score:1": 1}[objective]
            maps = view_of(module, pixels)
            unit = int(maps.amax(dim=(1, 2)).argmax())
            assert view["unit"][image] == unit
            assert view["activity_whole"][image] == pytest.approx(float(maps[unit].sum()), rel=1e-5)
            total, count = np.zeros((8, 11)), np.zeros((8, 11))
            for place in np.ndindex(3, 4):
                top, left = tops[place[0]], lefts[place[1]]
                hidden = covered_by_hand(pixels, instead[image], top, left, 4)
                after = module(hidden[None])[0]
                drop = float(value(scores, label, objective) - value(after, label, objective))
                at = (image, *place)
                assert view["drop"][at] == pytest.approx(drop, rel=1e-4, abs=1e-6)
                assert view["activity"][at] == pytest.approx(float(view_of(module, hidden)[unit].sum()), abs=1e-5)
                assert view["probability"][at] == pytest.approx(float(after.softmax(0)[label]), rel=1e-4)
                assert view["most_probable"][at] == int(after.argmax())
                total[top : top + 4, left : left + 4] += drop
                count[top : top + 4, left : left + 4] += 1
            assert np.allclose(view["map"][image], total / count, rtol=1e-4, atol=1e-6)
    assert (view["attribution"][:, 0] == view["map"]).all()


def view_of(module, pixels: torch.Tensor) -> torch.Tensor:
    """The maps that are recorded by default: the last rectified ones."""
    return module.second(module.first(pixels[None]).relu()).relu()[0]


def value(scores: torch.Tensor, label: int, objective: str) -> torch.Tensor:
    return -scores.log_softmax(0)[label] if objective.startswith("loss") else scores[label]


def test_the_predicted_class_stays_that_of_the_uncovered_image():
    # Covered, the ramp is predicted as class 1; the drop is still that of class 0, which it was before.
    network = tiny_network("edges").network()
    ramp = torch.arange(9.0)[None, None, :, None].expand(1, 1, 9, 7).contiguous()
    view = network.view("occlusion", "", ramp, window=9)
    assert view["drop"].tolist() == [[[8.0]]]
    assert view["most_probable"].tolist() == [[[1]]]
    assert view.meta["labels"] == [0]


def test_of_a_unit_at_the_place_where_it_was_strongest():
    network, batch = double(tiny_network("in_place"), generic=True)
    view = network.view("occlusion", "first:2", batch, window=5, stride=5)
    assert "probability" not in view.arrays
    assert (view["unit"] == 2).all()
    with torch.no_grad():
        for image, pixels in enumerate(batch.tensor):
            maps = network.module.first(pixels[None])[0, 2]
            strongest = maps.flatten().argmax()
            gray = filling(network, batch.tensor, "gray")[image]
            for place in np.ndindex(2, 3):
                hidden = covered_by_hand(pixels, gray, 5 * place[0], 5 * place[1], 5)
                after = network.module.first(hidden[None])[0, 2]
                drop = float(maps.flatten()[strongest] - after.flatten()[strongest])
                assert view["drop"][(image, *place)] == pytest.approx(drop, abs=1e-6)
                assert view["activity"][(image, *place)] == pytest.approx(float(after.sum()), abs=1e-5)


def test_a_layer_of_ones_own_and_a_function_of_ones_own():
    network, batch = double(tiny_network("in_place"), generic=True)

    def margin(scores, _batch):
        return (scores[:, 0] - scores[:, 1]).mean()

    view = network.view("occlusion", "", batch, objective=margin, layer="first", window=6, stride=6)
    first = network.view("occlusion", "", batch, objective="score:0", window=6, stride=6)
    second = network.view("occlusion", "", batch, objective="score:1", window=6, stride=6)
    assert np.allclose(view["drop"], first["drop"] - second["drop"], atol=1e-6)
    maximum = network.view("activations", "first", batch)["maximum"]
    assert view["unit"].tolist() == maximum.argmax(axis=1).tolist()


def test_places_cover_every_pixel():
    for rows, columns, window, stride in ((9, 7, 3, 2), (5, 5, 5, 1), (8, 3, 2, 2), (7, 7, 3, 3)):
        places = Places((rows, columns), (window, window), stride)
        covered = np.zeros((rows, columns), int)
        for place in range(len(places)):
            covered[places.window(place)[1:]] += 1
        assert covered.min() >= 1
        ones = torch.ones(1, *places.shape)
        assert torch.allclose(places.spread(ones), torch.ones(1, rows, columns, dtype=torch.float64))


def test_pixels_that_are_never_covered_are_refused():
    network = tiny_network("in_place").network()
    assert "never covers" in str(Occlusion(window=2, stride=3).refusal(network, Target()))
    with pytest.raises(ConvscopeError, match="stride of at most 2"):
        network.view("occlusion", "", tiny_network("in_place").images(1), window=2, stride=3)


def test_fillings_by_their_definition():
    module = torch.nn.Conv2d(2, 1, 1)
    network = Network.from_module(module, image_size=(4, 6), mean=[0.25, 0.5], std=[0.5, 2.0])
    images = torch.randn(3, 2, 4, 6, dtype=torch.float64)
    levels = {"black": 0.0, "gray": 0.5, "white": 1.0}
    for fill in FILLS:
        found = filling(network, images, fill)
        assert found.shape == images.shape
        assert found.dtype == images.dtype
        if fill in levels:
            prepared = torch.tensor([(levels[fill] - 0.25) / 0.5, (levels[fill] - 0.5) / 2.0], dtype=torch.float64)
            assert torch.allclose(found, prepared[None, :, None, None].expand_as(images))
    assert not filling(network, images, "mean").any()
    assert torch.allclose(filling(network, images, "image")[1, 1], images[1, 1].mean().expand(4, 6))


def test_blurring_by_its_definition():
    image = torch.randn(1, 1, 6, 9, dtype=torch.float64)
    sigma = 6 / 8
    reach = round(3 * sigma)
    weights = {offset: np.exp(-(offset**2) / (2 * sigma**2)) for offset in range(-reach, reach + 1)}
    total = sum(weights.values())
    expected = np.zeros((6, 9))
    for row, column in np.ndindex(6, 9):
        for down, right in np.ndindex(2 * reach + 1, 2 * reach + 1):
            r, c = min(max(row + down - reach, 0), 5), min(max(column + right - reach, 0), 8)
            share = weights[down - reach] * weights[right - reach] / total**2
            expected[row, column] += share * float(image[0, 0, r, c])
    assert np.allclose(blurred(image)[0, 0].numpy(), expected)
