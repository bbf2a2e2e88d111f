"""Patches against a second way of cutting them: pixel by pixel, by the definition, in float64."""

from __future__ import annotations

import io
import math
import threading
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from torch import nn

from convscope.errors import BadImage, Cancelled, ConvscopeError, UnknownName
from convscope.images import load_images
from convscope.images.image_set import Image
from convscope.images.origins import BytesOrigin
from convscope.mining.atlas import atlas
from convscope.mining.patches import NEUTRAL, cut, missing_tile, seen, tile_size, window_of
from convscope.network.network import Network
from convscope.network.preprocessing import Preprocessing
from convscope.progress import watch


def noise(rows, columns, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (rows, columns, channels), dtype=np.uint8)


def picture(pixels, kind="PNG", **options):
    buffer = io.BytesIO()
    Pillow.fromarray(pixels.squeeze()).save(buffer, kind, **options)
    return Image(0, "picture", BytesOrigin(buffer.getvalue()))


def slow_sample(pixels, origin, scale, size, window, height, width):
    """Every tile pixel by its definition; a place beyond the prepared image is neutral."""

    def axis(which, start, extent, count):
        low, high = origin[which], min(origin[which] + size[which] * scale[which], pixels.shape[which])
        step = extent * scale[which] / count
        for index in range(count):
            begin = origin[which] + start * scale[which] + index * step
            parts = {}
            if step > 1:
                for pixel in range(max(0, math.floor(begin)), min(pixels.shape[which], math.ceil(begin + step))):
                    part = min(begin + step, pixel + 1, high) - max(begin, pixel, low)
                    if part > 0:
                        parts[pixel] = part / step
            elif low <= begin + step / 2 < high:
                parts[math.floor(begin + step / 2)] = 1.0
            yield parts

    tile = np.zeros((height, width, 3))
    downs = list(axis(0, window[0], window[2], height))
    acrosses = list(axis(1, window[1], window[3], width))
    for row, column in product(range(height), range(width)):
        total = 0.0
        for (r, part), (c, share) in product(downs[row].items(), acrosses[column].items()):
            tile[row, column] += part * share * pixels[r, c].astype(np.float64)
            total += part * share
        tile[row, column] += (1 - total) * NEUTRAL
    return tile


def decided(origin, scale, window, count, which):
    """Rows or columns of a tile that the definition decides: a center on the border of two pixels may take either."""
    step = window[2 + which] * scale[which] / count
    centers = origin[which] + window[which] * scale[which] + (np.arange(count) + 0.5) * step
    return (step > 1) | (np.abs(centers - centers.round()) > 1e-6)


boxes = st.tuples(*[st.integers(-20, 34)] * 2, *[st.integers(1, 40)] * 2)


@settings(max_examples=60, deadline=None)
@given(
    box=boxes,
    side=st.integers(1, 40),
    shape=st.sampled_from([(32, 24), (64, 48), (71, 50), (33, 120), (20, 30), (32, 200)]),
    mode=st.sampled_from(["crop", "context", "mask"]),
    resize=st.sampled_from([None, 40]),
)
def test_a_cut_is_what_its_definition_says(box, side, shape, mode, resize):
    preprocessing = Preprocessing((32, 24), resize=resize)
    original = noise(*shape)
    top, left, rows, columns = preprocessing.crop_box(*shape)
    scale = rows / 32, columns / 24
    if min(scale) >= 1:
        source, origin = original, (top, left)
    else:  # fewer pixels than the network takes: the prepared image is what there is
        source, origin, scale = preprocessing.unprepare(preprocessing.prepare(original)), (0.0, 0.0), (1.0, 1.0)
    window = window_of(box, (32, 24), mode)
    height, width = tile_size(window, side)
    expected = slow_sample(source, origin, scale, (32, 24), window, height, width)
    found = seen(preprocessing, picture(original).read()).cut(box, side, mode)
    assert found.shape == (height, width, 3)
    if mode == "crop":
        rows, columns = (decided(origin, scale, window, count, which) for which, count in enumerate((height, width)))
        assert np.abs(found - expected)[rows][:, columns].max(initial=0) <= 1.01


def test_a_patch_at_the_networks_resolution_is_its_very_pixels():
    preprocessing = Preprocessing(16)
    pixels = noise(16, 16)
    assert np.array_equal(cut(preprocessing, picture(pixels), (3, 5, 4, 4), side=4), pixels[3:7, 5:9])
    assert np.array_equal(
        cut(preprocessing, picture(pixels), (3, 5, 4, 4), side=8), pixels[3:7, 5:9].repeat(2, 0).repeat(2, 1)
    )


@pytest.mark.parametrize(
    ("box", "gray"),
    [
        ((-2, 4, 4, 4), (slice(0, 2), slice(None))),
        ((14, 4, 4, 4), (slice(2, 4), slice(None))),
        ((4, -1, 4, 4), (slice(None), slice(0, 1))),
        ((4, 13, 4, 4), (slice(None), slice(3, 4))),
    ],
)
def test_the_padded_side_stays_and_is_neutral(box, gray):
    tile = cut(Preprocessing(16), picture(np.full((16, 16, 3), 7, np.uint8)), box, side=4)
    outside = np.zeros((4, 4), bool)
    outside[gray] = True
    assert (tile[outside] == NEUTRAL).all()
    assert (tile[~outside] == 7).all()


def test_the_padded_side_stays_at_the_originals_resolution_too():
    tile = cut(Preprocessing(16), picture(np.full((160, 160, 3), 7, np.uint8)), (-2, 4, 4, 4), side=20)
    assert (tile[:10] == NEUTRAL).all()
    assert (tile[10:] == 7).all()


def test_a_field_larger_than_the_image_shows_the_image_from_end_to_end():
    pixels = noise(16, 16)
    assert np.array_equal(cut(Preprocessing(16), picture(pixels), (-30, -5, 80, 40), side=16), pixels)


def test_nothing_beyond_the_crop_is_shown():
    """What the center crop cut off isn't part of what the network saw, so it isn't in a tile either."""
    pixels = np.full((16, 48, 3), 255, np.uint8)
    pixels[:, 16:32] = 10
    left = cut(Preprocessing(16), picture(pixels), (0, -4, 4, 12), side=12)
    assert (left[:, :4] == NEUTRAL).all()
    assert (left[:, 4:] == 10).all()
    right = cut(Preprocessing(16), picture(pixels), (0, 8, 4, 12), side=12)
    assert (right[:, :8] == 10).all()
    assert (right[:, 8:] == NEUTRAL).all()


def test_a_neuron_that_sees_nothing_has_a_neutral_tile():
    assert (cut(Preprocessing(16), picture(noise(16, 16)), (0, 0, 0, 0), side=5) == NEUTRAL).all()


def test_the_mask_dims_what_is_outside_the_box():
    tile = cut(Preprocessing(64), picture(np.full((64, 64, 3), 200, np.uint8)), (16, 16, 32, 32), side=64, mode="mask")
    assert (tile[20:40, 20:40] == 200).all()
    assert (tile[:10] == 60).all()
    assert (tile[15, 20:40] == 255).all()
    assert (tile[14, 20:40] == 0).all()


def test_the_context_holds_the_patch_and_its_frame():
    pixels = np.full((64, 64, 3), 90, np.uint8)
    box = (30, 40, 8, 8)
    window = window_of(box, (64, 64), "context")
    assert window == (22, 32, 24, 24)
    tile = cut(Preprocessing(64), picture(pixels), box, side=96, mode="context")
    assert (tile[32:64, 32:64] == 90).all()
    assert (tile[31, 32:64] == 255).all()
    assert (tile[30, 32:64] == 0).all()


@settings(max_examples=50, deadline=None)
@given(box=boxes)
def test_a_context_holds_the_whole_patch(box):
    row, column, rows, columns = window_of(box, (32, 24), "context")
    shown = window_of(box, (32, 24), "crop")
    assert row <= shown[0]
    assert column <= shown[1]
    assert row + rows >= shown[0] + shown[2]
    assert column + columns >= shown[1] + shown[3]


@pytest.mark.parametrize("shape", [(640, 480), (641, 479), (1000, 1500)])
def test_a_jpeg_decoded_at_a_fraction_shows_the_same_region(shape):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    pixels = np.stack([rows * 255 / shape[0], columns * 255 / shape[1], rows * 0 + 30], axis=2).astype(np.uint8)
    preprocessing = Preprocessing(64)
    file = picture(pixels, "JPEG", quality=95)
    full, reduced = (seen(preprocessing, file.read(), finest) for finest in (math.inf, 16 / 40))
    assert reduced.pixels.shape[0] < full.pixels.shape[0]
    box = (-7, 11, 40, 40)
    difference = full.cut(box, 16).astype(int) - reduced.cut(box, 16)
    assert np.abs(difference).max() <= 3
    assert np.abs(cut(preprocessing, file, box, 16).astype(int) - full.cut(box, 16)).max() <= 3


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_kind_of_picture_has_patches(channels):
    preprocessing = Preprocessing(16, channels=channels)
    for pixels in (noise(16, 16, 1), noise(16, 16, 3), noise(40, 40, 4), noise(8, 8, 3)):
        assert cut(preprocessing, picture(pixels), (2, 2, 5, 5), side=10).shape == (10, 10, 3)


def test_an_array_of_many_channels_shows_its_first():
    values = np.random.default_rng(0).random((16, 16, 6), np.float32)
    (image,) = load_images([values])
    tile = cut(Preprocessing(16, channels=6), image, (0, 0, 16, 16), side=16)
    assert np.array_equal(tile[:, :, 0], (values[:, :, 0] * 255).round().astype(np.uint8))


def test_the_cut_is_all_that_the_neuron_sees():
    """Whatever is painted outside the box, the neuron's value stays; inside, it changes."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 2, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(2, 3, 3, padding=1))
    network = Network.from_module(module, image_size=32)
    pixels = noise(32, 32)
    for place in ((0, 0), (5, 9), (15, 15)):
        box = network.receptive_field(f"2:1:{place[0]},{place[1]}").whole
        painted = noise(32, 32, seed=1)
        inner = slice(max(0, box[0]), box[0] + box[2]), slice(max(0, box[1]), box[1] + box[3])
        painted[inner] = pixels[inner]
        tiles = [cut(network.preprocessing, picture(each), box, side=box[2]) for each in (pixels, painted)]
        assert np.array_equal(*tiles)
        values = [network.module(network.prepare(each))[0, 1, place[0], place[1]].item() for each in (pixels, painted)]
        assert values[0] == pytest.approx(values[1], abs=1e-6)


def test_a_damaged_picture_is_named():
    with pytest.raises(BadImage, match="cat"):
        cut(Preprocessing(8), Image(0, "cat.png", BytesOrigin(b"\x89PNG")), (0, 0, 2, 2), side=8)


@pytest.mark.parametrize("side", [0, -3, 5000])
def test_a_tile_has_a_sensible_size(side):
    with pytest.raises(ConvscopeError, match="side"):
        cut(Preprocessing(8), picture(noise(8, 8)), (0, 0, 2, 2), side=side)


# ---- many at once ----------------------------------------------------------------------------------------------------


class Shelf:
    """Pictures by id; counts how often each is taken."""

    def __init__(self, count, size=16):
        self.preprocessing = Preprocessing(size)
        self.pictures = [picture(noise(20, 20, seed=number)) for number in range(count)]
        self.taken = []

    def __call__(self, image, finest):
        self.taken.append(image)
        if image == 7:
            raise UnknownName("it isn't where it was")
        if image == 8:
            raise BadImage("damaged")
        return seen(self.preprocessing, self.pictures[image].read(), finest)


def test_an_atlas_is_its_tiles_and_decodes_each_image_once():
    shelf = Shelf(3)
    images = np.array([[0, 1, 0], [2, -1, 1]])
    places = np.array([[[0, 0, 5, 5], [-2, 3, 5, 5], [4, 4, 5, 5]], [[11, 11, 5, 5], [0, 0, 0, 0], [1, 1, 5, 10]]])
    made = atlas(images, places, 20, see=shelf, size=(16, 16))
    assert sorted(shelf.taken) == [0, 1, 2]
    assert made.pixels.shape == (40, 60, 4)
    for unit, rank in product(range(2), range(3)):
        tile = made.tile(unit, rank)
        if images[unit, rank] < 0:
            assert (tile == 0).all()
            continue
        box = tuple(int(each) for each in places[unit, rank])
        expected = cut(shelf.preprocessing, shelf.pictures[images[unit, rank]], box, 20)
        shown = tile[tile[:, :, 3] == 255][:, :3]
        assert np.array_equal(shown.reshape(expected.shape), expected)
    assert (made.tile(1, 2)[:5] == 0).all(), "a tile that isn't square lies in the middle, with nothing around it"


def test_an_image_that_is_missing_is_crossed_out_and_named():
    made = atlas(np.array([[0, 7, 8]]), np.full((1, 3, 4), 4), 12, see=Shelf(1), size=(16, 16))
    assert made.missing == {7: "it isn't where it was", 8: "damaged"}
    for rank in (1, 2):
        assert np.array_equal(made.tile(0, rank)[:, :, :3], missing_tile(12))
    assert not np.array_equal(made.tile(0, 0)[:, :, :3], missing_tile(12))


def test_an_atlas_comes_back_from_its_bytes():
    for side, exact in ((4, False), (24, True)):  # enlarged pixels are kept without loss
        made = atlas(np.array([[0, 1]]), np.full((1, 2, 4), 6), side, see=Shelf(2), size=(16, 16))
        back = np.asarray(Pillow.open(io.BytesIO(made.encode())).convert("RGB"))
        assert back.shape == (side, 2 * side, 3)
        assert np.array_equal(back, made.pixels[:, :, :3]) or not exact


def test_an_atlas_can_be_cancelled():
    cancel = threading.Event()
    cancel.set()
    with watch(lambda _: None, cancel), pytest.raises(Cancelled):
        atlas(np.zeros((1, 1), int), np.full((1, 1, 4), 4), 8, see=Shelf(1), size=(16, 16))


def test_a_picture_that_no_page_could_hold_is_refused():
    with pytest.raises(ConvscopeError, match="too large"):
        atlas(np.zeros((400, 9), int), np.zeros((400, 9, 4), int), 48, see=Shelf(1), size=(16, 16))


def test_boxes_of_many_neurons_are_those_of_each():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 4, 5, stride=2, padding=2), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 3, 3, padding=1)
    )
    network = Network.from_module(module, image_size=32)
    channel, row, column = (np.array(each) for each in ([[0, 1], [2, 0]], [[0, 7], [3, 4]], [[7, 0], [2, 5]]))
    boxes = network.boxes("2", channel, row, column)
    assert boxes.shape == (2, 2, 4)
    for place in product(range(2), range(2)):
        unit = f"2:{channel[place]}:{row[place]},{column[place]}"
        assert tuple(boxes[place].tolist()) == network.receptive_field(unit).whole
