"""Preprocessing: the zoos' numbers, the way back, and any picture for any network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from convscope.errors import BadImage, ConvscopeError
from convscope.network.preprocessing import Preprocessing, over_white

RNG = np.random.default_rng(0)
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(300, 451), (451, 300), (224, 300), (97, 60), (256, 256), (301, 301)])
def test_equals_torchvisions_transforms(size: tuple[int, int], interpolation: str) -> None:
    from torchvision.transforms._presets import ImageClassification
    from torchvision.transforms.functional import InterpolationMode

    # A smooth picture: on noise Pillow's own rounding between its two passes is larger than any difference looked for.
    row, column = np.mgrid[: size[0], : size[1]]
    picture = np.stack([row * 255 / size[0], column * 255 / size[1], (row + column) % 256], 2).astype(np.uint8)
    oracle = ImageClassification(
        crop_size=224, resize_size=232, interpolation=InterpolationMode(interpolation), **IMAGENET
    )
    ours = Preprocessing(224, resize=232, interpolation=interpolation, **IMAGENET).prepare(picture)
    one_level = 1 / 255 / 0.224
    assert (ours - oracle(Pillow.fromarray(picture))).abs().max() <= 2.01 * one_level


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    wanted=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    channels=st.sampled_from([1, 3, 4, 6]),
    floating=st.booleans(),
    interpolation=st.sampled_from(["bilinear", "bicubic", "nearest"]),
)
def test_to_the_bit_what_the_formula_gives_plane_by_plane(
    size: tuple[int, int], wanted: tuple[int, int], channels: int, floating: bool, interpolation: str
) -> None:
    pixels = noise(*size, channels)
    picture = (pixels / 255).astype(np.float32) if floating else pixels
    numbers = {"mean": tuple(0.1 * c for c in range(channels)), "std": tuple(0.2 + 0.1 * c for c in range(channels))}
    preprocessing = Preprocessing(wanted, channels, interpolation=interpolation, **numbers)
    kept = picture.copy()
    prepared = preprocessing.prepare(picture)
    assert np.array_equal(kept, picture)
    mean, std = (torch.tensor(numbers[name])[:, None, None] for name in ("mean", "std"))
    planes = preprocessing._resize(torch.from_numpy(picture.transpose(2, 0, 1).copy())[None])[0]
    scaled = planes.to(torch.float32) * (1.0 if floating else 1.0 / 255)
    assert torch.equal(prepared, (scaled - mean) / std)
    assert prepared.is_contiguous()


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    channels=st.sampled_from([1, 3, 4, 6]),
    scale=st.sampled_from([1.0, 255.0]),
    resize=st.sampled_from([None, 50]),
    mean=st.floats(-2, 2),
    std=st.floats(0.01, 100),
)
def test_the_way_back(
    rows: int, columns: int, channels: int, scale: float, resize: int | None, mean: float, std: float
) -> None:
    preprocessing = Preprocessing((rows, columns), channels, mean=mean, std=std, scale=scale, resize=resize)
    picture = noise(rows, columns, channels)
    back = preprocessing.unprepare(preprocessing.prepare(picture))
    assert back.shape == picture.shape
    assert np.abs(back.astype(int) - picture).max() <= 1


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    size=st.tuples(st.integers(1, 64), st.integers(1, 64)),
    resize=st.sampled_from([None, 1, 40, 100]),
)
def test_the_crop_lies_inside_the_picture(height: int, width: int, size: tuple[int, int], resize: int | None) -> None:
    preprocessing = Preprocessing(size, resize=resize)
    top, left, rows, columns = preprocessing.crop_box(height, width)
    assert top >= -1e-6
    assert left >= -1e-6
    assert top + rows <= height + 1e-6
    assert left + columns <= width + 1e-6
    assert preprocessing.prepare(noise(height, width)).shape == (3, *size)


def test_the_crop_box_says_what_the_network_sees() -> None:
    """A gradient's mean over the box is the mean of what was prepared."""
    picture = np.repeat(np.linspace(0, 1, 400, dtype=np.float32)[None, :, None], 300, axis=0)
    preprocessing = Preprocessing((50, 100), channels=1, resize=150)
    _, left, _, columns = preprocessing.crop_box(300, 400)
    assert preprocessing.prepare(picture).mean().item() == pytest.approx((left + columns / 2) / 400, abs=2e-3)


@pytest.mark.parametrize("size", [(1, 10_000), (10_000, 1), (1, 1), (2, 30_000)])
def test_extreme_shapes_take_no_extreme_memory(size: tuple[int, int]) -> None:
    preprocessing = Preprocessing(224, resize=256)
    assert preprocessing.prepare(noise(*size)).shape == (3, 224, 224)
    top, left, rows, columns = preprocessing.crop_box(*size)
    assert abs(top + rows / 2 - size[0] / 2) <= 1
    assert abs(left + columns / 2 - size[1] / 2) <= 1


def test_a_picture_of_the_right_size_is_taken_as_it_is() -> None:
    picture = noise(224, 224)
    prepared = Preprocessing(224, resize=256, scale=255.0).prepare(picture)
    assert torch.equal(prepared, torch.from_numpy(picture).permute(2, 0, 1).float())


def test_resize_too_small_for_the_crop_is_raised() -> None:
    assert Preprocessing(224, resize=100).prepare(noise(50, 80)).shape == (3, 224, 224)


def test_luminance_is_pillows() -> None:
    picture = noise(16, 16)
    grey = Preprocessing(16, channels=1, scale=255.0).prepare(picture)[0].numpy()
    assert np.array_equal(grey, np.asarray(Pillow.fromarray(picture).convert("L"), dtype=np.float32))


def test_luminance_of_floating_point() -> None:
    grey = Preprocessing(4, channels=1).prepare(np.full((4, 4, 3), 0.5, np.float64))
    assert grey.numpy() == pytest.approx(0.5)


@pytest.mark.parametrize(("found", "wanted"), [(1, 3), (3, 1), (4, 3), (4, 1), (1, 4), (3, 4), (2, 3), (2, 1), (2, 4)])
@pytest.mark.parametrize("floating", [False, True])
def test_grey_color_and_alpha(found: int, wanted: int, floating: bool) -> None:
    picture = np.full((8, 8, found), 100, np.uint8)
    if found in (2, 4):
        picture[:, :, -1] = 255
    pixels = (picture / 255).astype(np.float32) if floating else picture
    prepared = Preprocessing(8, channels=wanted, scale=255.0).prepare(pixels).numpy()
    assert prepared[: min(wanted, 3)] == pytest.approx(100, abs=0.01)
    if wanted == 4:
        assert prepared[3] == pytest.approx(255, abs=0.01)


def test_transparency_lies_over_white() -> None:
    clear = np.zeros((2, 2, 1), np.uint8)
    assert (over_white(np.zeros((2, 2, 3), np.uint8), clear) == 255).all()
    assert over_white(np.zeros((1, 1, 3)), np.full((1, 1, 1), 0.25)) == pytest.approx(0.75)


def test_other_channels_need_an_array_of_their_own() -> None:
    preprocessing = Preprocessing(8, channels=6)
    assert preprocessing.prepare(noise(8, 8, 6)).shape == (6, 8, 8)
    with pytest.raises(BadImage, match=r"3 channels doesn't fit a network of 6 .* \.npy array"):
        preprocessing.prepare(noise(8, 8, 3))
    with pytest.raises(BadImage):
        Preprocessing(8).prepare(noise(8, 8, 6))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((4, 4, 3), np.int32), "not int32"),
        (np.full((4, 4, 3), 2.0), "0..1"),
        (np.full((4, 4, 3), np.nan), "0..1"),
        (np.zeros((4, 0, 3), np.uint8), "shape"),
        (np.zeros(4, np.uint8), "shape"),
        (np.zeros((1, 4, 4, 3), np.uint8), "shape"),
    ],
)
def test_what_is_no_picture_is_refused(pixels: np.ndarray, message: str) -> None:
    with pytest.raises(BadImage, match=message):
        Preprocessing(4).prepare(pixels)


@pytest.mark.parametrize(
    "values",
    [
        {"image_size": (1, 2, 3)},
        {"image_size": 0},
        {"channels": 0},
        {"std": 0.0},
        {"std": (1.0, 1.0, -1.0)},
        {"scale": 0.0},
        {"resize": 0},
        {"interpolation": "lanczos"},
        {"mean": (0.5, 0.5)},
        {"mean": float("nan")},
    ],
)
def test_values_without_sense_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConvscopeError):
        Preprocessing(**values)


def test_any_tensor_has_a_picture() -> None:
    preprocessing = Preprocessing(2)
    strange = torch.tensor([[[float("nan"), float("inf")], [-float("inf"), 7.0]]] * 3)
    assert preprocessing.unprepare(strange)[:, :, 0].tolist() == [[0, 255], [0, 255]]
    assert preprocessing.unprepare(strange[None]).shape == (2, 2, 3)
    with pytest.raises(BadImage, match="channel, row, column"):
        preprocessing.unprepare(torch.zeros(2, 3, 2, 2))


def test_read_only_pixels_and_nearest() -> None:
    pixels = noise(8, 8)
    pixels.flags.writeable = False
    prepared = Preprocessing(4, interpolation="nearest", scale=255.0).prepare(pixels)
    assert set(prepared.flatten().tolist()) <= set(pixels.flatten().astype(float).tolist())


def test_json_and_back() -> None:
    preprocessing = Preprocessing((4, 5), 1, 0.5, 0.25, 255.0, 9, "bicubic")
    assert Preprocessing(**preprocessing.to_json()) == preprocessing
    assert hash(preprocessing) == hash(Preprocessing(**preprocessing.to_json()))
