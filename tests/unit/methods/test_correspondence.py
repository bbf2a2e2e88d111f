from __future__ import annotations

import numpy as np
import pytest
import torch
from references import double

from convscope.errors import ConvscopeError, UnknownName
from convscope.methods.base import Target
from convscope.methods.correspondence import Correspondence, disagreement
from convscope.methods.fill import filling
from convscope.methods.parts import parse_parts
from convscope.progress import watch
from convscope.testing import tiny_network

PARTS = "left: 0,1,3,4; 2,2,3,4; 1,0,3,4 / right: 3,6,4,4"


def features(module, pixels: torch.Tensor, layer: str) -> np.ndarray:
    maps = module.second(module.first(pixels[None]).relu()).relu()
    return (maps if layer == "relu_function" else maps.mean((2, 3))).flatten().numpy()


def by_hand(network, tensor, boxes, fill: str, layer: str) -> tuple[float, np.ndarray]:
    """Signs of ε one by one, and the share of pairs' values that differ."""
    instead = filling(network, tensor, fill)
    signs = []
    for image, (row, column, rows, columns) in enumerate(boxes):
        hidden = tensor[image].clone()
        for r, c in np.ndindex(rows, columns):
            hidden[:, row + r, column + c] = instead[image, :, row + r, column + c]
        change = features(network.module, tensor[image], layer) - features(network.module, hidden, layer)
        signs.append([0 if abs(each) < 1e-9 else (1 if each > 0 else -1) for each in change])
    pairs = np.array([[np.mean([a != b for a, b in zip(x, y, strict=True)]) for y in signs] for x in signs])
    count = len(signs)
    return sum(pairs[i, j] for i in range(count) for j in range(count) if i != j) / (count * (count - 1)), pairs


@pytest.mark.parametrize("fill", ["gray", "image"])
def test_equal_to_counting_signs_one_by_one(fill):
    network, batch = double(tiny_network("in_place"), generic=True)
    network.module.eval()
    view = network.view("correspondence", "", batch, parts=PARTS, draws=3, fill=fill, noise_seed=7)
    assert view.meta["layers"] == ["relu_function", "flatten"]
    assert view.meta["parts"] == ["left", "right"]
    assert view["box"][0].tolist() == [[0, 1, 3, 4], [2, 2, 3, 4], [1, 0, 3, 4]]
    assert view["box"][1].tolist() == [[3, 6, 4, 4]] * 3
    generator = np.random.default_rng(7)
    with torch.no_grad():
        for part in range(2):
            for layer, name in enumerate(view.meta["layers"]):
                mean, pairs = by_hand(network, batch.tensor, view["box"][part].tolist(), fill, name)
                assert view["distance"][part, layer] == pytest.approx(mean, abs=1e-6)
                assert np.allclose(view["pair"][part, layer], pairs)
            for draw in range(3):
                _, _, rows, columns = view["box"][part][0].tolist()
                tops = generator.integers(0, [8 - rows + 1] * 3)
                lefts = generator.integers(0, [11 - columns + 1] * 3)
                boxes = [[int(top), int(left), rows, columns] for top, left in zip(tops, lefts, strict=True)]
                for layer, name in enumerate(view.meta["layers"]):
                    mean, _ = by_hand(network, batch.tensor, boxes, fill, name)
                    assert view["random"][part, layer, draw] == pytest.approx(mean, abs=1e-6)
    smaller = (view["random"] <= view["distance"][:, :, None]).sum(axis=2)
    assert view["smaller"].tolist() == smaller.tolist()


def test_the_same_image_twice_answers_the_same_way():
    tiny = tiny_network("in_place")
    twice = tiny.images(1).repeat(2, 1, 1, 1)
    view = tiny.network().view("correspondence", "", twice, parts="1,1,4,4", draws=2)
    assert not view["distance"].any()


def test_what_changes_nothing_says_nothing():
    # A gray image is the same with a gray square on it.
    network = tiny_network("edges").network()
    view = network.view("correspondence", "", torch.full((2, 1, 9, 7), 0.5), parts="nose: 1,1,4,4", draws=1)
    assert not view["distance"].any()
    assert any("Hiding nose changes nothing" in warning for warning in view.meta["warnings"])


def test_pictures_show_what_was_hidden():
    network = tiny_network("edges").network()
    view = network.view("correspondence", "", tiny_network("edges").images(2), parts="2,1,3,4", draws=1)
    assert (view["picture"][0, :, 2:5, 1:5] == 128).all()
    whole = np.stack([network.unprepare(each) for each in tiny_network("edges").images(2)])
    whole[:, 2:5, 1:5] = 128
    assert np.array_equal(view["picture"][0], whole)


def test_another_seed_draws_other_places():
    tiny = tiny_network("in_place")
    given = {"parts": "0,0,3,3", "draws": 4}
    first = tiny.network().view("correspondence", "", tiny.images(3), **given)
    again = tiny.network().view("correspondence", "", tiny.images(3), **given)
    other = tiny.network().view("correspondence", "", tiny.images(3), noise_seed=1, **given)
    assert first["random"].tobytes() == again["random"].tobytes()
    assert first["random"].tobytes() != other["random"].tobytes()
    assert first["distance"].tobytes() == other["distance"].tobytes()


def test_a_shared_place_is_the_same_in_every_image():
    tiny = tiny_network("in_place")
    sizes = np.array([[0, 0, 3, 4], [1, 2, 3, 4], [5, 7, 3, 4]], np.int32)
    for seed in range(20):
        shared = Correspondence(control="shared")._elsewhere(sizes, (8, 11), np.random.default_rng(seed))
        assert (shared == shared[0]).all()
        assert shared[0, 2:].tolist() == [3, 4]
        for places in (shared, Correspondence()._elsewhere(sizes, (8, 11), np.random.default_rng(seed))):
            assert places[:, :2].min() >= 0
            assert (places[:, 0] + 3).max() <= 8
            assert (places[:, 1] + 4).max() <= 11
    # Two images that are alike, hidden at one place, change alike.
    twice = tiny.images(1).repeat(2, 1, 1, 1)
    view = tiny.network().view("correspondence", "", twice, parts="1,1,4,4", draws=3, control="shared")
    assert not view["random"].any()


def test_disagreement_counts_every_value():
    signs = torch.randint(-1, 2, (4, 30), dtype=torch.int8)
    found = disagreement(signs)
    for one, other in np.ndindex(4, 4):
        assert found[one, other] == sum(int(a != b) for a, b in zip(signs[one], signs[other], strict=True)) / 30


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "isn't said"),
        ("1,2,3", "isn't a box"),
        ("eye: 1,2,3,x", "isn't a box of eye"),
        ("1,2,3,4; 1,2,3,4", "2 boxes for 3 images"),
        ("7,2,3,4", "isn't within the prepared image"),
        ("0,0,0,4", "isn't within the prepared image"),
        ("a: 0,0,2,2 / a: 1,1,2,2", "two parts are called a"),
        ("-1,0,2,2", "isn't a box"),
        ("a: / b: 0,0,2,2", "a has 0 boxes"),
    ],
)
def test_parts_that_make_no_sense_are_refused(text, what):
    with pytest.raises(ConvscopeError, match=what) as caught:
        parse_parts(text, 3, (8, 11))
    assert caught.value.next_step


def test_parts_without_names_are_numbered():
    parts = parse_parts(" 0,0,2,2 /mouth: 1, 1, 3, 3 ; 2,2,1,1;0,0,8,11 ", 3, (8, 11))
    assert [part.name for part in parts] == ["part 1", "mouth"]
    assert parts[1].boxes.tolist() == [[1, 1, 3, 3], [2, 2, 1, 1], [0, 0, 8, 11]]


def test_one_image_cannot_correspond():
    tiny = tiny_network("in_place")
    with pytest.raises(ConvscopeError, match="compares images"):
        tiny.network().view("correspondence", "", tiny.images(1), parts="0,0,2,2")
    assert isinstance(Correspondence(layers="third").refusal(tiny.network(), Target()), UnknownName)


def test_it_can_be_watched():
    tiny = tiny_network("in_place")
    shown = []
    with watch(lambda _: None, previews=shown.append):
        tiny.network().view("correspondence", "", tiny.images(2), parts="0,0,2,2", draws=2)
    assert shown
    assert np.isnan(shown[0]["random"]).any()
