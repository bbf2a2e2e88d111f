"""Top patches against brute force: every activation of a small network on every image, ranked by sorting lists."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from torch import nn

from convscope.errors import BadImage, ConvscopeError, Refused, UnknownName
from convscope.images import ImageSet, load_images
from convscope.methods.base import method_class
from convscope.mining.mine import mine
from convscope.mining.patches import missing_tile
from convscope.mining.pictures import StudyPictures, open_study, patches_of
from convscope.mining.study import Study
from convscope.network.network import Network
from convscope.store import Store
from convscope.view import View

LAYER = "3"
K = 4
CLASSES = ["cat", "dog", "eel"]


def network(seed=0, **options):
    torch.manual_seed(seed)
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)
    body = nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(6, 5, 3, padding=1), nn.ReLU()
    return Network.from_module(nn.Sequential(*body, *head), image_size=16, class_names=CLASSES, name="small", **options)


def write(path, seed, size=(16, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Pillow.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """37 images of three classes, one of which isn't the network's, a repeated image, and a damaged one."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(36):
        write(folder / ["cat", "dog", "fox"][number % 3] / f"{number:02}.png", min(number, 34))
    (folder / "cat" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    return folder


@pytest.fixture(scope="module")
def study(folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("study") / "small"
    found = mine(network(), load_images(folder), layers="*", k=K, study=place, executor="serial", shard_size=10)
    assert found.finished
    return place


@pytest.fixture(scope="module")
def maps(folder):
    """[image, unit, row, column] of the layer, an image at a time, in the study's order."""
    net = network()
    images = load_images(folder)
    with torch.no_grad():
        return [net.module[:4](net.prepare(image))[0] for image in images], images


def brute(maps, unit, *, lowest=False):
    """(value, image, row, column) of every image, best first: one entry for each image, the first of equal places."""
    entries = []
    for image, units in enumerate(maps):
        flat = units[unit].flatten().tolist()
        best = min(flat) if lowest else max(flat)
        place = flat.index(best)
        entries.append((best, image, place // units.shape[2], place % units.shape[2]))
    return sorted(entries, key=lambda entry: (entry[0] if lowest else -entry[0], entry[1]))


@pytest.mark.parametrize("prefix", ["", "bottom_"])
def test_ranks_are_those_of_brute_force(study, maps, prefix):
    view = network().view("top_patches", LAYER, study=str(study))
    for unit in range(5):
        expected = brute(maps[0], unit, lowest=prefix == "bottom_")[:K]
        for rank, (value, image, row, column) in enumerate(expected):
            assert view[f"{prefix}value"][unit, rank] == pytest.approx(value, rel=1e-5, abs=1e-6)
            found = int(view[f"{prefix}image"][unit, rank])
            # Images with the same bytes, and activations that differ in the last bit only, may change places.
            same = [
                entry[1] for entry in brute(maps[0], unit, lowest=prefix == "bottom_") if abs(entry[0] - value) < 1e-6
            ]
            assert found in same
            if found == image and same == [image]:
                assert (view[f"{prefix}row"][unit, rank], view[f"{prefix}column"][unit, rank]) == (row, column)


def test_boxes_are_what_each_neuron_sees(study):
    net = network()
    view = net.view("top_patches", LAYER, study=str(study))
    for prefix in ("", "bottom_", "quantile_"):
        for unit in range(5):
            for rank in range(view[f"{prefix}image"].shape[1]):
                if view[f"{prefix}image"][unit, rank] < 0:
                    continue
                row, column = view[f"{prefix}row"][unit, rank], view[f"{prefix}column"][unit, rank]
                whole = net.receptive_field(f"{LAYER}:{unit}:{row},{column}").whole
                assert tuple(view[f"{prefix}box"][unit, rank].tolist()) == whole


def test_quantiles_are_spread_over_all_images(study, maps):
    """The sample holds every image of so small a set, so its quantiles are those of all images."""
    view = network().view("top_patches", LAYER, study=str(study))
    count = len(maps[0])
    for unit in range(5):
        values = [entry[0] for entry in brute(maps[0], unit)]
        for rank in range(K):
            expected = values[round(rank * (count - 1) / (K - 1))]
            assert view["quantile_value"][unit, rank] == pytest.approx(expected, abs=1e-5)
            fraction = sum(value <= expected + 1e-7 for value in values) / count
            assert view["quantile"][unit, rank] == pytest.approx(fraction, abs=1.01 / count)
        assert view["quantile"][unit, 0] == 1
        assert (np.diff(view["quantile"][unit]) <= 0).all()


def test_statistics_are_those_of_all_activations(study, maps):
    view = network().view("top_patches", LAYER, study=str(study))
    stacked = torch.stack(maps[0]).double()
    for unit in range(5):
        values = stacked[:, unit]
        scale = float(values.abs().max()) + 1e-3
        assert view["mean"][unit] == pytest.approx(float(values.mean()), abs=1e-4 * scale)
        assert view["variance"][unit] == pytest.approx(float(values.var(correction=0)), abs=1e-3 * scale**2)
        pooled = values.mean(dim=(1, 2))
        assert view["pooled_variance"][unit] == pytest.approx(float(pooled.var(correction=0)), abs=1e-3 * scale**2)
        assert view["zero_fraction"][unit] == pytest.approx(float((values == 0).double().mean()), abs=1e-6)
        assert view["positive_fraction"][unit] == pytest.approx(float((values.amax((1, 2)) > 0).double().mean()))
        assert view["maximum"][unit] == pytest.approx(float(values.max()), rel=1e-5, abs=1e-6)
        assert view["histogram"][unit].sum() == len(maps[0])
        edges = view.meta["histogram_edges"]
        for value in values.amax((1, 2)).tolist():
            held = [b for b, (low, high) in enumerate(pairwise(edges)) if low <= value < high]
            assert held, "every maximum is in a bin"
            assert view["histogram"][unit, held[0]] > 0


def test_classes_are_counted_by_the_images_own_labels(study, maps):
    view = network().view("top_patches", LAYER, study=str(study))
    assert view.meta["classes_from"] == "labels"
    names = view.meta["class_names"]
    # cat and dog are the network's classes 0 and 1; it has no fox, which gets a number behind its three.
    assert names == {"0": "cat", "1": "dog", "3": "fox"}
    for unit in range(5):
        labels = [maps[1][int(image)].label_name for image in view["image"][unit]]
        counted = Counter(labels)
        found = {
            names[str(index)]: int(count)
            for index, count in zip(view["class_index"][unit], view["class_count"][unit], strict=True)
            if index >= 0
        }
        assert found == dict(counted)
        assert list(found.values()) == sorted(counted.values(), reverse=True)
        assert view["selectivity"][unit] == pytest.approx(max(counted.values()) / K)


def test_without_labels_the_networks_own_classes_are_counted(tmp_path):
    photos = [np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8) for seed in range(9)]
    net = network()
    mine(net, photos, study=tmp_path / "study", k=3, executor="serial")
    view = net.view("top_patches", "0", study=tmp_path / "study")
    assert view.meta["classes_from"] == "predicted"
    best = [int(net.module(net.prepare(photo)).argmax()) for photo in photos]
    for unit in range(6):
        expected = Counter(best[image] for image in view["image"][unit].tolist())
        pairs = zip(view["class_index"][unit].tolist(), view["class_count"][unit].tolist(), strict=True)
        assert {index: count for index, count in pairs if index >= 0} == dict(expected)


def test_one_unit_is_its_row_of_the_layer(study):
    net = network()
    whole, one = (net.view("top_patches", target, study=str(study)) for target in (LAYER, f"{LAYER}:2"))
    for name in whole.arrays:
        assert np.array_equal(one[name], whole[name][2:3], equal_nan=one[name].dtype.kind == "f"), name
    assert one.meta["ranges"] == whole.meta["ranges"], "the range is the whole layer's"
    assert one.meta["units"] == [2]


def test_fewer_ranks_are_the_first_ones(study):
    net = network()
    whole, first = (net.view("top_patches", LAYER, study=str(study), ranks=ranks) for ranks in (0, 2))
    for name in ("value", "image", "box", "bottom_value", "bottom_image"):
        assert np.array_equal(first[name], whole[name][:, :2])


def test_the_study_may_be_a_path_a_store_or_a_study(study):
    net = network()
    expected = net.view("top_patches", LAYER, study=str(study)).to_bytes()
    assert net.view("top_patches", LAYER, study=study).to_bytes() == expected
    with Store.open(study) as store:
        assert net.view("top_patches", LAYER, study=store).to_bytes() == expected
        assert net.view("top_patches", LAYER, study=Study.open(store)).to_bytes() == expected


def test_the_key_is_what_was_mined_not_where_it_lies(folder, tmp_path):
    net, images = network(), load_images(folder)
    keys = []
    for name in ("a", "b"):
        mine(net, images[:20], study=tmp_path / name, k=3, executor="serial")
        keys.append(method_class("top_patches").make({"study": str(tmp_path / name)}).recipe(net, "0").key)
    assert keys[0] == keys[1]
    mine(net, images, study=tmp_path / "a", executor="serial")
    again = method_class("top_patches").make({"study": str(tmp_path / "a")}).recipe(net, "0")
    assert again.key != keys[0], "more images, another answer"
    assert str(tmp_path) not in str(again.to_json())


def test_what_is_missing_is_said(study, tmp_path, folder):
    net = network()
    with pytest.raises(Refused, match="none is named"):
        net.view("top_patches", LAYER)
    with pytest.raises(Refused, match="there is no study"):
        net.view("top_patches", LAYER, study=str(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(Refused, match="there is no study"):
        net.view("top_patches", LAYER, study=empty)
    assert not list(empty.iterdir())
    Store.open(tmp_path / "store").close()
    with pytest.raises(ConvscopeError, match="nothing was mined"):
        net.view("top_patches", LAYER, study=tmp_path / "store")
    with pytest.raises(Refused, match="another network"):
        network(seed=1).view("top_patches", LAYER, study=study)
    with pytest.raises(Refused, match="leave out the position"):
        net.view("top_patches", f"{LAYER}:0:1,1", study=study)
    mine(net, load_images(folder)[:5], layers="0", study=tmp_path / "one", executor="serial")
    with pytest.raises(UnknownName, match="wasn't mined"):
        net.view("top_patches", LAYER, study=tmp_path / "one")


def test_the_view_says_what_it_is_of(study, folder):
    view = network().view("top_patches", LAYER, study=str(study))
    facts = view.meta["study"]
    assert (facts["images"], facts["done"], facts["skipped"], facts["k"]) == (36, 36, 0, K)
    assert view.meta["image_names"]["0"] == load_images(folder)[0].name
    assert view.meta["python"].endswith(f'view = network.view("top_patches", "{LAYER}", study="{study}")')
    assert "4 of 36 images" in view.meta["caption"]


# ---- the pictures ----------------------------------------------------------------------------------------------------


def test_the_patch_shown_is_the_patch_that_was_ranked(study, folder):
    """Cut out the best patch, put it on a gray image where it was: the unit still reaches its value there."""
    net = network()
    view = net.view("top_patches", LAYER, study=str(study))
    tiles = patches_of(view, "top", side=int(view["box"][0, 0, 2]))
    assert not tiles.missing
    for unit in range(5):
        row, column, rows, columns = (int(each) for each in view["box"][unit, 0])
        patch = tiles.tile(unit, 0)[:, :, :3]
        assert patch.shape[:2] == (rows, columns)
        gray = np.full((16, 16, 3), 128, np.uint8)
        inner = slice(max(0, row), min(16, row + rows)), slice(max(0, column), min(16, column + columns))
        gray[inner] = patch[
            inner[0].start - row : inner[0].stop - row, inner[1].start - column : inner[1].stop - column
        ]
        with torch.no_grad():
            value = net.module[:4](net.prepare(gray))[0, unit, view["row"][unit, 0], view["column"][unit, 0]]
        assert float(value) == pytest.approx(float(view["value"][unit, 0]), rel=1e-4)


def test_pictures_are_found_wherever_the_images_are_now(study, folder, tmp_path):
    moved = tmp_path / "moved"
    for image in load_images(folder):
        target = moved / image.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(image.encoded())
    (moved / "dog" / "01.png").write_bytes((moved / "cat" / "00.png").read_bytes())
    pictures = StudyPictures(Study.open(study), load_images(moved))
    names = list(Study.open(study).plan.names)
    assert pictures.see(names.index("cat/00.png"), math.inf).pixels.shape == (16, 16, 3)
    with pytest.raises(BadImage, match="bytes changed"):
        pictures.see(names.index("dog/01.png"), math.inf)


def test_an_image_that_is_gone_is_named_and_the_rest_shown(tmp_path):
    photos = tmp_path / "photos"
    for number in range(6):
        write(photos / f"{number}.png", number)
    net = network()
    mine(net, load_images(photos), layers="0", k=6, study=tmp_path / "study", executor="serial")
    (photos / "3.png").unlink()
    view = net.view("top_patches", "0", study=str(tmp_path / "study"))
    tiles = patches_of(view, "top", 8)
    assert list(tiles.missing) == [3]
    assert "3.png" in tiles.missing[3]
    for rank, image in enumerate(view["image"][0].tolist()):
        crossed = np.array_equal(tiles.tile(0, rank)[:, :, :3], missing_tile(8))
        assert crossed == (image == 3)


def test_images_from_python_are_shown_only_while_they_are_given(tmp_path):
    photos = [np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8) for seed in range(3)]
    net = network()
    mine(net, photos, layers="0", study=tmp_path / "study", executor="serial")
    with pytest.raises(UnknownName, match="came from Python"):
        open_study(str(tmp_path / "study")).see(0, 1.0)
    found = StudyPictures(Study.open(tmp_path / "study"), load_images(photos)).see(1, 1.0)
    assert np.array_equal(found.pixels, photos[1])


def test_a_view_from_elsewhere_opens_no_folder(study, tmp_path):
    view = network().view("top_patches", LAYER, study=str(study))
    foreign = View(view.kind, view.arrays, view.axes, {**view.meta, "study": {"name": str(tmp_path)}}, view.recipe)
    assert patches_of(foreign, "top", 8) is None
    assert patches_of(View("top_patches", {}, {}), "top", 8) is None


def test_an_empty_image_set_has_no_pictures(study):
    pictures = StudyPictures(Study.open(study), ImageSet([]))
    with pytest.raises(UnknownName, match="isn't among the images"):
        pictures.image(0)


class Fragile(nn.Module):
    """Its second unit isn't a number wherever the image is bright."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 1)

    def forward(self, images):
        bright = images.mean(dim=(2, 3), keepdim=True) > 0.5
        return self.convolution(images) + torch.where(bright, torch.tensor([0.0, torch.nan]).view(1, 2, 1, 1), 0.0)


def test_units_with_fewer_images_than_ranks_have_empty_places(tmp_path):
    net = Network.from_module(Fragile(), image_size=8)
    photos = [np.full((8, 8), shade, np.uint8) for shade in (10, 60, 110, 160, 210)]
    mine(net, photos, layers="*", k=4, study=tmp_path / "study", executor="serial")
    view = net.view("top_patches", net.layers[-1].address, study=str(tmp_path / "study"))
    assert (view["image"] >= 0).sum(axis=1).tolist() == [4, 3]
    assert view["not_finite"].tolist() == [0, 2]
    empty = view["image"][1] < 0
    for prefix in ("", "bottom_", "quantile_"):
        empty = view[f"{prefix}image"][1] < 0
        assert empty.tolist() == [False] * 3 + [True]
        assert np.isnan(view[f"{prefix}value"][1][empty]).all()
        assert (view[f"{prefix}box"][1][empty] == 0).all()
    assert np.isnan(view["quantile"][1, 3])
    assert "1 unit had NaN" in " ".join(view.meta["warnings"])
    assert (patches_of(view, "top", 8).tile(1, 3) == 0).all()


def test_an_image_is_decoded_once_for_all_units(study, monkeypatch):
    pictures = StudyPictures(Study.open(study))
    reads = []
    read = pictures.read
    monkeypatch.setattr(pictures, "read", lambda number: reads.append(number) or read(number))
    view = network().view("top_patches", LAYER, study=str(study))
    for _ in range(2):
        for side in (8, 32):
            pictures.atlas(view["image"], view["box"], side)
    assert sorted(reads) == sorted(np.unique(view["image"]).tolist())


def test_what_was_decoded_is_forgotten_in_time(study, monkeypatch):
    pictures = StudyPictures(Study.open(study))
    monkeypatch.setattr("convscope.mining.pictures.KEPT_BYTES", 5 * 16 * 16 * 3)
    for number in range(12):
        pictures.see(number, math.inf)
    assert list(pictures._kept) == [7, 8, 9, 10, 11]


def test_a_jpeg_decoded_small_is_decoded_again_for_a_larger_tile(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    Pillow.fromarray(pixels).save(folder / "large.jpg", quality=95)
    net = network()
    mine(net, load_images(folder), layers="0", study=tmp_path / "study", executor="serial")
    pictures = open_study(str(tmp_path / "study"))
    small, same, large = (pictures.see(0, finest) for finest in (1.0, 0.5, 16.0))
    assert small.pixels.shape[0] < 256
    assert same is small
    assert large.pixels.shape[0] == 256
    assert pictures.see(0, 1.0) is large
