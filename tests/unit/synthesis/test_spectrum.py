"""The spectrum against explicit sums, colors against their definition."""

from __future__ import annotations

import cmath

import numpy as np
import pytest
import torch

from convscope.errors import BadImage, Refused
from convscope.synthesis.spectrum import ImageStatistics, color_root, falling_scale, frequencies, periodic_spectrum

SIZES = [(4, 6), (5, 7), (6, 5), (1, 4)]


def transform(plane: np.ndarray) -> np.ndarray:
    """The discrete Fourier transform by its sum, ``[row frequency, column frequency]``, all of it."""
    rows, columns = plane.shape
    result = np.zeros((rows, columns), complex)
    for u in range(rows):
        for v in range(columns):
            result[u, v] = sum(
                plane[r, c] * cmath.exp(-2j * cmath.pi * (u * r / rows + v * c / columns))
                for r in range(rows)
                for c in range(columns)
            )
    return result


def smooth(plane: np.ndarray) -> np.ndarray:
    """The image with the same jumps from border to border and no curvature elsewhere, by linear equations."""
    rows, columns = plane.shape
    matrix, jumps = np.zeros((rows * columns, rows * columns)), np.zeros(rows * columns)
    for r in range(rows):
        for c in range(columns):
            place = r * columns + c
            for down, along in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                other = (r + down) % rows, (c + along) % columns
                matrix[place, other[0] * columns + other[1]] += 1
                matrix[place, place] -= 1
                if not (0 <= r + down < rows and 0 <= c + along < columns):
                    jumps[place] += plane[other] - plane[r, c]
    return np.linalg.lstsq(matrix, jumps, rcond=None)[0].reshape(rows, columns)


@pytest.mark.parametrize("size", SIZES)
def test_frequencies_are_the_cycles_per_pixel_of_each_sum(size):
    found = frequencies(*size)
    assert found.shape == (size[0], size[1] // 2 + 1)
    for u in range(size[0]):
        for v in range(size[1] // 2 + 1):
            vertical = min(u, size[0] - u) / size[0]
            assert found[u, v] == pytest.approx((vertical**2 + (v / size[1]) ** 2) ** 0.5)


def test_amplitude_falls_as_one_over_the_frequency():
    scale = falling_scale(8, 8)
    assert scale[0, 0] == scale[0, 1] == 8
    assert scale[0, 4] == scale[4, 0] == 2
    assert torch.allclose(falling_scale(8, 8, power=2.0), scale.square())


@pytest.mark.parametrize("size", SIZES)
def test_the_measured_spectrum_is_the_mean_magnitude_of_decorrelated_colors(size):
    pixels = torch.rand(3, 2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    pixels[:, 1] = 0.7 * pixels[:, 0] + 0.3 * pixels[:, 1]
    found = ImageStatistics.measure([pixels[:1], pixels[1:]], size)
    values = pixels.numpy()
    mean = values.mean(axis=(0, 2, 3))
    flat = (values - mean[:, None, None]).transpose(1, 0, 2, 3).reshape(2, -1)
    covariance = flat @ flat.T / flat.shape[1]
    root = found.root.numpy()
    longest = np.trace(root @ root.T) / np.trace(covariance)
    assert np.allclose(root @ root.T, covariance * longest)
    assert np.linalg.norm(root, axis=0).max() == pytest.approx(1)
    assert np.allclose(found.mean, mean)
    plain = np.einsum("dc,ncrk->ndrk", np.linalg.inv(root), values - mean[:, None, None])
    slow = np.mean([[np.abs(transform(plane - smooth(plane))) for plane in image] for image in plain], axis=0)
    slow[:, 0, 0] = 0
    assert np.allclose(found.magnitude, slow[:, :, : size[1] // 2 + 1])
    # Decorrelated: the two directions have nothing to do with each other, and the same variance.
    directions = plain.transpose(1, 0, 2, 3).reshape(2, -1)
    assert np.allclose(np.corrcoef(directions), np.eye(2), atol=1e-9)
    assert found.count == 3
    assert "3 images" in found.source


def test_a_slope_is_no_cross():
    slope = torch.arange(32.0, dtype=torch.float64)[:, None].expand(32, 32)
    assert (periodic_spectrum(slope).abs()[1:5, 0] < torch.fft.rfft2(slope).abs()[1:5, 0] / 10).all()


def test_images_of_another_size_are_resized_first():
    found = ImageStatistics.measure([torch.rand(1, 1, 20, 30)], (5, 7))
    assert found.size == (5, 7)
    assert found.magnitude.shape == (1, 5, 4)


def test_known_colors_are_the_published_ones():
    known = ImageStatistics.known(3, (6, 6))
    published = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
    assert np.allclose(known.root, published / np.linalg.norm(published[:, 0]))
    assert known.magnitude[:, 0, 0].eq(0).all()
    assert torch.equal(ImageStatistics.known(5, (6, 6)).root, torch.eye(5, dtype=torch.float64))


def test_color_without_variance_stays_without():
    gray = torch.rand(2, 1, 6, 6).expand(2, 3, 6, 6)
    found = ImageStatistics.measure([gray], (6, 6))
    assert np.allclose(found.root[:, 0], 3**-0.5)
    assert np.allclose(found.root[:, 1:], 0, atol=1e-6)
    assert np.allclose(found.magnitude[1:], 0, atol=1e-6)


def test_a_root_does_not_depend_on_how_the_eigenvectors_came():
    covariance = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    assert torch.allclose(color_root(covariance), torch.tensor([[1.0, 3**-0.5], [1.0, -(3**-0.5)]]).double() / 2**0.5)


def test_nothing_to_measure_is_refused_with_the_reason():
    with pytest.raises(BadImage, match="without images"):
        ImageStatistics.measure([], (4, 4))
    with pytest.raises(Refused, match="one color"):
        ImageStatistics.measure([torch.full((2, 3, 4, 4), 0.5)], (4, 4))
    with pytest.raises(BadImage, match="NaN"):
        ImageStatistics.measure([torch.full((1, 1, 4, 4), torch.nan)], (4, 4))


def test_the_fingerprint_tells_statistics_apart():
    one, other = (ImageStatistics.measure([torch.rand(1, 1, 4, 4)], (4, 4)) for _ in range(2))
    assert one.fingerprint != other.fingerprint
    assert one.fingerprint == ImageStatistics(**vars_of(one)).fingerprint


def vars_of(statistics: ImageStatistics) -> dict:
    return {name: getattr(statistics, name) for name in ("root", "mean", "magnitude", "size", "count", "source")}
