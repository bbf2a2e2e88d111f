from __future__ import annotations

from math import cos, radians, sin

import numpy as np
import pytest
import torch
from references import LABELS, double

from convscope.errors import Cancelled, ConvscopeError, Refused, UnknownName
from convscope.methods.base import Target
from convscope.methods.chosen_layers import chosen_layers, first_and_last, last_two
from convscope.methods.fill import filling
from convscope.methods.invariance import Invariance
from convscope.methods.moves import Moves, parse_moves
from convscope.progress import watch
from convscope.testing import tiny_network


def moved_by_hand(image: np.ndarray, name: str, amount: float, beyond: np.ndarray | None) -> np.ndarray:
    """Each pixel looked up where it comes from, in the plane with rows downwards; bilinear between four pixels."""
    _, rows, columns = image.shape
    result = np.zeros(image.shape)
    for row, column in np.ndindex(rows, columns):
        r, c = row - (rows - 1) / 2, column - (columns - 1) / 2
        if name == "vertical":
            r -= amount
        elif name == "horizontal":
            c -= amount
        elif name == "scale":
            r, c = r / amount, c / amount
        else:
            # Turned counterclockwise as one sees it, so it comes from clockwise: up is to minus rows.
            angle = radians(amount)
            r, c = r * cos(angle) + c * sin(angle), c * cos(angle) - r * sin(angle)
        r, c = r + (rows - 1) / 2, c + (columns - 1) / 2
        low_row, low_column = int(np.floor(r)), int(np.floor(c))
        for down, right in np.ndindex(2, 2):
            weight = abs(1 - down - (r - low_row)) * abs(1 - right - (c - low_column))
            at = low_row + down, low_column + right
            inside = 0 <= at[0] < rows and 0 <= at[1] < columns
            if inside:
                result[:, row, column] += weight * image[:, at[0], at[1]]
            elif beyond is not None:
                result[:, row, column] += weight * beyond[:, row, column]
            else:
                result[:, row, column] += weight * image[:, np.clip(at[0], 0, rows - 1), np.clip(at[1], 0, columns - 1)]
    return result


@pytest.mark.parametrize("fill", ["border", "gray"])
@pytest.mark.parametrize("name", ["vertical", "horizontal", "scale", "rotation"])
def test_moves_by_their_definition(name, fill):
    network, batch = double(tiny_network("in_place"), generic=True)
    image = batch.tensor[0]
    beyond = None if fill == "border" else filling(network, batch.tensor, fill)[0]
    reach = {"scale": 1.8, "rotation": 250.0}.get(name, 0.4)
    moves = Moves.make(name, 5, (8, 11), reach)
    found = moves.of(image, beyond, range(5))
    for step, amount in enumerate(moves.amounts):
        expected = moved_by_hand(image.numpy(), name, amount, None if beyond is None else beyond.numpy())
        assert np.allclose(found[step].numpy(), expected, atol=1e-9), amount


def test_a_quarter_turn_is_a_quarter_turn_and_nothing_is_the_very_image():
    image = torch.randn(2, 6, 6)
    turned = Moves("rotation", (0.0, 90.0, 180.0)).of(image, None, range(3))
    assert torch.equal(turned[0], image)
    assert torch.allclose(turned[1], torch.rot90(image, 1, (1, 2)), atol=1e-5)
    assert torch.allclose(turned[2], torch.rot90(image, 2, (1, 2)), atol=1e-5)


def test_amounts():
    assert Moves.make("horizontal", 3, (10, 20), 0.26).amounts == (-5, 0, 5)
    assert Moves.make("scale", 3, (10, 20), 2.0).amounts == (1, 1.5, 2)
    assert Moves.make("rotation", 3, (10, 20), -90.0).amounts == (0, -45, -90)
    assert parse_moves("") == ("vertical", "horizontal", "scale", "rotation")
    with pytest.raises(UnknownName, match="did you mean rotation"):
        parse_moves("scale, rotate")


@pytest.mark.parametrize("labelled", [True, False])
def test_equal_to_asking_the_network_image_by_image(labelled):
    network, batch = double(tiny_network("in_place"), generic=True)
    given = batch if labelled else batch.tensor
    view = network.view("invariance", "", given, layers="relu,flatten", transforms="vertical,rotation", steps=4)
    module = network.module.eval()
    assert view.meta["layers"] == ["relu", "flatten"]
    assert view.meta["amount_units"] == ["pixels", "degrees"]
    assert view.meta["true_labels"] is labelled
    with torch.no_grad():
        for image, pixels in enumerate(batch.tensor):
            expected = LABELS[image] if labelled else int(module(pixels[None]).argmax())
            assert view.meta["labels"][image] == expected
            for transform, name in enumerate(("vertical", "rotation")):
                for step, amount in enumerate(view["amount"][transform].tolist()):
                    moved = torch.from_numpy(moved_by_hand(pixels.numpy(), name, amount, None))
                    at = (image, transform, step)
                    probability = module(moved[None]).softmax(1)[0, expected]
                    assert view["probability"][at] == pytest.approx(float(probability), rel=1e-4)
                    assert view["most_probable"][at] == int(module(moved[None]).argmax())
                    for layer, features in enumerate((early, late)):
                        before, after = features(module, pixels), features(module, moved)
                        distance = float((after - before).square().sum().sqrt())
                        found = view["distance"][image, layer, transform, step]
                        assert found == pytest.approx(distance, rel=1e-4, abs=1e-6)
                        relative = view["relative"][image, layer, transform, step]
                        assert relative == pytest.approx(distance / float(before.norm()), rel=1e-4, abs=1e-6)


def early(module, pixels):
    return module.first(pixels[None]).relu()


def late(module, pixels):
    return module.second(early(module, pixels)).relu().mean((2, 3))


def test_examples_are_what_the_network_saw():
    network = tiny_network("edges").network()
    view = network.view("invariance", "", tiny_network("edges").images(1), transforms="vertical", steps=5)
    amounts = view["amount"][0].tolist()
    moved = Moves("vertical", tuple(amounts)).of(tiny_network("edges").images(1)[0], None, [0, 2, 4])
    expected = np.stack([network.unprepare(each) for each in moved])
    assert np.array_equal(view["example"][0, 0], expected)
    assert np.array_equal(view["picture"][0], network.unprepare(tiny_network("edges").images(1)))


def test_layers_by_default_and_by_name():
    network = tiny_network("in_place").network()
    assert [layer.address for layer in first_and_last(network)] == ["relu", "flatten"]
    assert [layer.address for layer in last_two(network)] == ["relu_function", "flatten"]
    assert [each.address for each in chosen_layers(network, "second, first", ())] == ["second", "first"]
    with pytest.raises(UnknownName):
        chosen_layers(network, "third", ())
    with pytest.raises(ConvscopeError, match="write first"):
        chosen_layers(network, "first:2", ())
    with pytest.raises(Refused, match="no features between"):
        chosen_layers(network, "", ())
    assert isinstance(Invariance(layers="third").refusal(network, Target()), UnknownName)
    assert Invariance().refusal(network, Target()) is None


def test_a_dead_layer_has_no_relative_distance():
    network = tiny_network("edges").network()
    network.module.convolution.bias.data.fill_(-1000.0)
    view = network.view("invariance", "", tiny_network("edges").images(1), layers="relu", steps=2)
    assert any("All values of relu are zero" in warning for warning in view.meta["warnings"])
    assert not view["relative"].any()


def test_it_can_be_watched_and_stopped():
    network = tiny_network("edges").network()
    shown = []
    with watch(lambda _: None, previews=shown.append):
        view = network.view("invariance", "", tiny_network("edges").images(1), steps=2)
    assert shown
    assert shown[0].kind == view.kind
    assert {name: array.shape for name, array in shown[0].arrays.items()} == {
        name: array.shape for name, array in view.arrays.items()
    }
    assert np.isnan(shown[0]["distance"]).any()
    with watch(lambda _: None) as watcher:
        watcher.cancel.set()
        with pytest.raises(Cancelled):
            network.view("invariance", "", tiny_network("edges").images(1), steps=2)
