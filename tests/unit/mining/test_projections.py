"""Projections against a slow pass back by hand: transposed convolution, rectification and unpooling in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image as Pillow
from torch import nn

from convscope.errors import Cancelled, ConvscopeError, Refused
from convscope.images import load_images
from convscope.mining import pictures as pictures_module
from convscope.mining.mine import mine
from convscope.network.network import Network
from convscope.network.unit import channel_numbers
from convscope.progress import watch
from convscope.store import Store
from convscope.testing.laws import check_same_state, state_of

LAYER = "4"
SIZE = (20, 24)


def network(channels=3):
    torch.manual_seed(3)
    body = nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(6, 5, 3, padding=1)
    head = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)
    module = nn.Sequential(*body, *head)
    return Network.from_module(module, image_size=SIZE, channels=channels, mean=0.4, std=0.3, name="small")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(14):
        pixels = np.random.default_rng(number).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Pillow.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def study(folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("study") / "small"
    mine(network(), load_images(folder), layers="*", k=4, study=place, executor="serial").store.close()
    return str(place)


@torch.no_grad()
def by_hand(module, image, rule, channel, row, column):
    """The neuron's value and its signal sent back to the pixels, written out operation by operation."""
    first, second = module[0], module[3]
    image = image.double()
    before = F.conv2d(image, first.weight.double(), first.bias.double(), padding=1)
    rectified = before.clamp(min=0)
    pooled, switches = F.max_pool2d(rectified, 2, return_indices=True)
    last = F.conv2d(pooled, second.weight.double(), second.bias.double(), padding=1)

    def through_relu(signal, activation):
        if rule == "gradient":
            return signal * (activation > 0)
        return signal.clamp(min=0) * (1 if rule == "deconvnet" else activation > 0)

    signal = torch.zeros_like(last)
    signal[0, channel, row, column] = 1
    signal = through_relu(signal, last)
    signal = F.conv_transpose2d(signal, second.weight.double(), padding=1)
    signal = F.max_unpool2d(signal, switches, 2, output_size=rectified.shape)
    signal = through_relu(signal, before)
    value = last.clamp(min=0)[0, channel, row, column]
    return float(value), F.conv_transpose2d(signal, first.weight.double(), padding=1)[0].numpy()


@pytest.mark.parametrize("rule", ["deconvnet", "guided_backprop", "gradient"])
def test_each_projection_is_the_one_made_by_hand(study, folder, rule):
    net = network()
    view = net.view("projections", LAYER, study=study, rule=rule, ranks=0)
    photos = load_images(folder)
    assert view["value"].shape == (5, 4)
    for unit in range(5):
        for rank in range(4):
            number = view["image"][unit, rank]
            prepared = net.prepare(photos[int(number)])
            place = int(view["row"][unit, rank]), int(view["column"][unit, rank])
            value, whole = by_hand(net.module, prepared, rule, unit, *place)
            assert view["reached"][unit, rank] == pytest.approx(value, abs=1e-5)
            assert view["value"][unit, rank] == pytest.approx(value, abs=1e-5)
            row, column, rows, columns = view["window"][unit, rank].tolist()
            seen = net.unprepare(prepared)
            expected, patch = np.zeros((rows, columns, 3)), np.full((rows, columns, 3), 128)
            for r in range(rows):
                for c in range(columns):
                    if 0 <= row + r < SIZE[0] and 0 <= column + c < SIZE[1]:
                        expected[r, c] = whole[:, row + r, column + c]
                        patch[r, c] = seen[row + r, column + c]
            assert np.allclose(view["projection"][unit, rank, :rows, :columns], expected, atol=1e-5)
            assert not view["projection"][unit, rank, rows:].any()
            assert np.array_equal(view["patch"][unit, rank, :rows, :columns], patch)
            # All that the neuron depends on lies within its box.
            outside = whole.copy()
            outside[:, max(0, row) : row + rows, max(0, column) : column + columns] = 0
            assert not outside.any()


def test_patches_are_those_of_top_patches(study):
    patches = network().view("top_patches", LAYER, study=study)
    view = network().view("projections", LAYER, study=study, ranks=0)
    for name in ("value", "image", "row", "column", "box"):
        assert np.array_equal(view[name], patches[name]), name
    assert view["window"].shape == view["box"].shape


def test_units_can_be_named(study):
    whole = network().view("projections", LAYER, study=study)
    part = network().view("projections", LAYER, study=study, units="3,0-1")
    assert part.meta["units"] == [3, 0, 1]
    assert np.allclose(part["projection"], whole["projection"][[3, 0, 1]], atol=1e-6)
    one = network().view("projections", f"{LAYER}:3", study=study, ranks=2)
    assert one.meta["units"] == [3]
    assert np.allclose(one["projection"][0], whole["projection"][3, :2], atol=1e-6)
    assert channel_numbers("", 3) == [0, 1, 2]
    with pytest.raises(ConvscopeError, match="is one unit already"):
        network().view("projections", f"{LAYER}:3", study=study, units="1")
    for text, wrong in (
        ("x", "doesn't name units"),
        ("9", "no units 9"),
        ("3-1", "no units 3-1"),
        ("-2", "name units"),
    ):
        with pytest.raises(ConvscopeError, match=wrong):
            network().view("projections", LAYER, study=study, units=text)


def test_an_image_that_many_units_share_goes_forward_once(study, monkeypatch):
    net = network()
    shown = set(net.view("projections", LAYER, study=study)["image"].ravel().tolist())
    seen = []
    forward = net.module.forward
    monkeypatch.setattr(net.module, "forward", lambda images: seen.append(len(images)) or forward(images))
    net.view("projections", LAYER, study=study)
    assert sum(seen) == len(shown)


def test_a_unit_that_was_asked_for_more_often_than_fits_goes_again(study, monkeypatch):
    from convscope.mining import projections

    whole = network().view("projections", LAYER, study=study)
    monkeypatch.setattr(projections, "_MOST_ROUNDS", 1)
    monkeypatch.setattr(projections, "mini_batch_size", lambda _: 3)
    again = network().view("projections", LAYER, study=study)
    assert np.allclose(again["projection"], whole["projection"], atol=1e-6)
    assert np.array_equal(again["patch"], whole["patch"])


def test_another_value_than_was_mined_is_told(study, monkeypatch):
    from convscope.mining import projections

    def altered(*arguments):
        found = ranked(*arguments)
        found["value"][0, 0] += 0.5
        return found

    ranked = projections.ranked
    monkeypatch.setattr(projections, "ranked", altered)
    (warning,) = network().view("projections", LAYER, study=study).meta["warnings"]
    assert warning.startswith("1 of 20 neurons don't have the value that was mined, by up to 0.5")


def test_an_image_that_is_gone_is_told_and_the_rest_is_there(study, folder, tmp_path):
    whole = network().view("projections", LAYER, study=study)
    gone = int(whole["image"][0, 0])
    for number in range(14):
        source = folder / f"{number:02}.png"
        other = folder / f"{(number + 1) % 14:02}.png"
        (tmp_path / source.name).write_bytes((other if number == gone else source).read_bytes())
    moved = network().view("projections", LAYER, load_images(tmp_path), study=study)
    try:
        there = whole["image"] != gone
        assert np.array_equal(np.isnan(moved["reached"]), ~there)
        assert np.allclose(moved["projection"][there], whole["projection"][there], atol=1e-6)
        assert not moved["projection"][~there].any()
        assert moved.meta["missing"] == {str(gone): "its bytes changed since it was mined"}
        assert any("no picture" in warning for warning in moved.meta["warnings"])
    finally:
        pictures_module.open_study(study, load_images(folder))


def test_without_any_image_it_is_refused(tmp_path):
    net = network()
    photos = [np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8) for seed in range(3)]
    given = load_images(photos)
    mine(net, given, layers=LAYER, k=2, study=tmp_path / "s", executor="serial").store.close()
    with pytest.raises(Refused, match="images aren't there"):
        net.view("projections", LAYER, study=tmp_path / "s")
    assert np.isfinite(net.view("projections", LAYER, given, study=tmp_path / "s")["reached"]).all()


def test_it_is_kept_under_what_was_mined(study):
    net = network()
    with Store.open(study) as store:
        view = net.view("projections", f"{LAYER}:1", study=store)
        store.put(view)
        assert view.recipe.parameters["study"] not in ("", study)
        assert store.get(net.view("projections", f"{LAYER}:1", study=study).recipe) == view.to_bytes()


def test_cancelling_leaves_the_network_as_it_was(study):
    net = network()
    before = state_of(net.module)

    def stop(_progress):
        watcher.cancel.set()

    with watch(stop) as watcher, pytest.raises(Cancelled):
        net.view("projections", LAYER, study=study)
    check_same_state(before, state_of(net.module))


@pytest.mark.parametrize("channels", [1, 4])
def test_networks_of_other_channels(tmp_path, channels):
    net = network(channels)
    photos = [np.random.default_rng(seed).integers(0, 256, (*SIZE, channels), dtype=np.uint8) for seed in range(3)]
    given = load_images(photos)
    mine(net, given, layers=LAYER, k=2, study=tmp_path / "s", executor="serial").store.close()
    view = net.view("projections", LAYER, given, study=tmp_path / "s")
    assert view["projection"].shape[-1] == channels
    assert view["patch"].shape[-1] == 3


def test_a_study_of_another_network_is_refused(study):
    other = network()
    with torch.no_grad():
        other.module[0].weight.mul_(2)
    with pytest.raises(Refused, match="another network"):
        other.view("projections", LAYER, study=study)
