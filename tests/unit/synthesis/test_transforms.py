"""Transforms against closed forms: slices, quarter turns, and bilinear interpolation by loops."""

from __future__ import annotations

from math import cos, floor, radians, sin

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from convscope.errors import ConvscopeError
from convscope.synthesis.transforms import (
    Draws,
    Jitter,
    Pad,
    RandomCrop,
    RandomRotation,
    RandomScale,
    Transforms,
    Window,
    look,
)


def pictures(images: int, rows: int, columns: int, channels: int = 2) -> torch.Tensor:
    return torch.rand(images, channels, rows, columns, generator=torch.Generator().manual_seed(3))


def sampled(picture: np.ndarray, window: Window, index: int) -> np.ndarray:
    """One image seen through a window: bilinear interpolation by its definition, 0.5 beyond the border."""
    channels, rows, columns = picture.shape
    result = np.zeros((channels, window.rows, window.columns))
    linear, shift = window.linear[index].numpy(), window.shift[index].numpy()

    def value(channel: int, row: int, column: int) -> float:
        inside = 0 <= row < rows and 0 <= column < columns
        return float(picture[channel, row, column]) if inside else 0.5

    for row in range(result.shape[1]):
        for column in range(result.shape[2]):
            offset = np.array([row - (result.shape[1] - 1) / 2, column - (result.shape[2] - 1) / 2])
            r, c = linear @ offset + shift + [(rows - 1) / 2, (columns - 1) / 2]
            top, left = floor(r), floor(c)
            for channel in range(channels):
                result[channel, row, column] = (
                    value(channel, top, left) * (1 - (r - top)) * (1 - (c - left))
                    + value(channel, top, left + 1) * (1 - (r - top)) * (c - left)
                    + value(channel, top + 1, left) * (r - top) * (1 - (c - left))
                    + value(channel, top + 1, left + 1) * (r - top) * (c - left)
                )
    return result


@pytest.mark.parametrize("amount", [1, 2, 5])
def test_jitter_is_a_slice(amount):
    images = pictures(4, 9, 12)
    seen = Transforms((Jitter(amount),))(images, Draws([1, 2, 3, 4]))
    corners = Draws([1, 2, 3, 4])
    top, left = corners.integers(0, amount).long().tolist(), corners.integers(0, amount).long().tolist()
    for index, image in enumerate(images):
        part = image[:, top[index] : top[index] + 9 - amount, left[index] : left[index] + 12 - amount]
        assert torch.equal(seen[index], part)
    assert len(set(zip(top, left, strict=True))) > 1


def test_jitter_within_padding_is_a_roll_of_a_picture_that_goes_on():
    row = torch.arange(8.0).expand(1, 1, 8, 8) / 8
    seen = Transforms((Pad(2, "edge"), Jitter(4)))(row, Draws([5]))
    assert seen.shape == row.shape
    moved = round((float(seen[0, 0, 0, 4]) - 0.5) * 8)
    inside = slice(max(0, -moved), 8 - max(0, moved))
    assert torch.equal(seen[0, 0, :, inside], row.roll(-moved, 3)[0, 0, :, inside])


@pytest.mark.parametrize(("fill", "mode"), [("gray", "constant"), ("edge", "replicate")])
def test_pad_is_torchs(fill, mode):
    images = pictures(2, 5, 6)
    expected = F.pad(images, (3, 3, 3, 3), mode=mode, value=0.5 if fill == "gray" else None)
    assert torch.equal(Transforms((Pad(3, fill),))(images, Draws([0, 0])), expected)


def test_a_mirrored_pad_repeats_the_edge():
    images = pictures(1, 4, 5)
    expected = np.pad(images.numpy(), ((0, 0), (0, 0), (3, 3), (3, 3)), mode="symmetric")
    assert np.array_equal(Transforms((Pad(3, "mirror"),))(images, Draws([0])).numpy(), expected)


@pytest.mark.parametrize("quarter", [1, 2, 3])
@pytest.mark.parametrize("size", [5, 8])
def test_a_quarter_turn_is_rot90(quarter, size):
    images = pictures(2, size, size)
    seen = Transforms((RandomRotation((90.0 * quarter,)),))(images, Draws([0, 1]))
    assert torch.allclose(seen, images.rot90(quarter, (2, 3)), atol=1e-5)


def test_scaling_by_two_shows_the_middle():
    images = pictures(2, 6, 8)
    seen = Transforms((RandomScale((2.0,)),))(images, Draws([0, 1]))
    larger = F.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False)
    assert torch.allclose(seen, larger[:, :, 3:9, 4:12], atol=1e-5)


def test_everything_together_is_one_bilinear_sampling():
    images = pictures(3, 9, 11)
    steps = (Pad(3), Jitter(2), RandomScale((0.9, 1.2)), RandomRotation((-7.0, 10.0)), Jitter(2))
    draws = Draws([4, 5, 6])
    window = Window.whole(3, (9, 11))
    for step in steps:
        window = step.apply(window, draws, 0.0)
    seen = Transforms(steps)(images, Draws([4, 5, 6]))
    assert seen.shape == (3, 2, 11, 13)
    for index in range(3):
        assert np.allclose(seen[index].numpy(), sampled(images[index].numpy(), window, index), atol=1e-5)


def test_steps_apply_to_the_picture_in_their_order():
    """Turning, then moving, is not moving, then turning: a point is followed by hand."""
    angle = radians(30)
    window = Window.whole(1, (21, 21))
    turned = window.turned(torch.tensor([[[cos(angle), sin(angle)], [-sin(angle), cos(angle)]]], dtype=torch.float64))
    moved = turned.moved(torch.tensor([[3.0, 0.0]], dtype=torch.float64))
    # The window is moved by 3 rows of the turned picture, which lie along (cos, -sin) of the picture itself.
    assert torch.allclose(moved.shift, torch.tensor([[3 * cos(angle), -3 * sin(angle)]], dtype=torch.float64))


def test_a_picture_of_another_size_is_zoomed():
    images = pictures(1, 8, 8)
    seen = Transforms()(images, Draws([0]), (4, 4))
    assert torch.allclose(seen, F.avg_pool2d(images, 2), atol=1e-6)
    larger = Transforms((Jitter(2),))(images, Draws([0]), (16, 16))
    assert larger.shape == (1, 2, 16, 16)


def test_a_crop_is_a_zoomed_box_within_the_picture():
    ramp = torch.arange(40.0)[None, None, :, None].expand(64, 1, 40, 40) / 40
    seen = Transforms((RandomCrop((0.5, 0.5), (0.25, 0.25)),))(ramp, Draws(range(64)), (20, 20))
    steps = (seen[:, 0, 1:, 0] - seen[:, 0, :-1, 0]).flatten()
    assert torch.allclose(steps, torch.full_like(steps, 1 / 40), atol=1e-5)  # half the side, seen at half the size
    assert seen.min() >= -1e-6
    assert seen[:, 0, 0, 0].std() > 0.05
    late = Transforms((RandomCrop((0.5, 0.5), (0.25, 0.25)),))(ramp, Draws(range(64)), (20, 20), progress=1.0)
    assert torch.allclose(late[:, 0, 10, 0] - late[:, 0, 9, 0], torch.full((64,), 1 / 80), atol=1e-5)


def test_noise_falls_exponentially_and_has_its_deviation():
    images = torch.full((2, 3, 64, 64), 0.5)
    for progress, deviation in ((0.0, 0.1), (0.5, 0.01), (1.0, 0.001)):
        seen = Transforms(noise=(0.1, 0.001))(images, Draws([1, 2]), progress=progress)
        assert float((seen - images).std()) == pytest.approx(deviation, rel=0.05)
        assert not torch.equal(seen[0], seen[1])


def test_an_image_goes_through_the_same_whatever_the_others():
    images = pictures(3, 12, 12)
    changes = Transforms((Pad(2), Jitter(4), RandomScale((0.9, 1.1)), RandomRotation((-5.0, 5.0))), (0.1, 0.1))
    together = changes(images, Draws([7, 8, 9]), (12, 12))
    alone = changes(images[1:2], Draws([8]), (12, 12))
    assert torch.allclose(together[1:2], alone, atol=1e-6)
    chosen = Draws([7, 8, 9])
    chosen.uniform(0.0, 1.0)
    later = chosen.selected([2])
    expected = Draws([9])
    expected.uniform(0.0, 1.0)
    assert later.normal(3).equal(expected.normal(3))


def test_the_global_random_state_stays_as_it_was():
    state = torch.get_rng_state()
    Transforms((Jitter(3), RandomCrop((0.5, 1.0), (0.5, 1.0))), (0.1, 0.1))(pictures(2, 9, 9), Draws([0, 1]))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_gradient_is_the_sampling_transposed():
    images = pictures(1, 7, 6).double().requires_grad_()
    changes = Transforms((RandomScale((1.13,)), RandomRotation((11.0,)), Jitter(1)))
    assert torch.autograd.gradcheck(lambda x: changes(x, Draws([2])), (images,))
    sliced = Transforms((Pad(1), Jitter(2)))
    assert torch.autograd.gradcheck(lambda x: sliced(x, Draws([2])), (images,))


def test_a_window_beyond_the_picture_is_gray():
    window = Window.whole(1, (4, 4)).moved(torch.tensor([[9.0, 0.0]], dtype=torch.float64))
    assert torch.equal(look(pictures(1, 4, 4), window), torch.full((1, 2, 4, 4), 0.5))


def test_a_jitter_as_large_as_the_picture_is_refused():
    with pytest.raises(ConvscopeError, match="leaves nothing"):
        Transforms((Jitter(5),))(pictures(1, 5, 9), Draws([0]))
