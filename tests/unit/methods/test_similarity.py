"""Rank correlation and structural similarity against scipy, scikit-image, and the definitions written out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr
from skimage.metrics import structural_similarity as skimage_ssim

from convscope.methods.evidence.similarity import average_ranks, brightness, settled, spearman, structural_similarity


@pytest.mark.parametrize("different", [3, 20, 10_000], ids=["many ties", "some ties", "hardly any"])
def test_ranks_and_their_correlation_are_scipys(different):
    random = np.random.default_rng(different)
    one, other = random.integers(0, different, (2, 30, 40)).astype(np.float32)
    assert np.array_equal(average_ranks(one), rankdata(one.ravel()))
    assert spearman(one, other) == pytest.approx(spearmanr(one.ravel(), other.ravel()).statistic, abs=1e-12)
    mixed = other + one
    assert spearman(one, mixed) == pytest.approx(spearmanr(one.ravel(), mixed.ravel()).statistic, abs=1e-12)


def test_rank_correlation_sees_order_alone():
    values = np.random.default_rng(0).normal(size=(9, 7))
    assert spearman(values, np.exp(values)) == 1
    assert spearman(values, -values) == -1


@pytest.mark.parametrize("other", [np.full((3, 3), 2.0), np.full((3, 3), np.nan), np.full((3, 3), np.inf)])
def test_what_is_not_defined_is_not_a_number(other):
    values = np.arange(9.0).reshape(3, 3)
    assert np.isnan(spearman(values, other))
    assert np.isnan(structural_similarity(values / 9, other)) or np.isfinite(other).all()


@pytest.mark.parametrize("shape", [(40, 33), (12, 11)])
def test_structural_similarity_is_scikit_images(shape):
    one, noise = np.random.default_rng(1).random((2, *shape))
    other = 0.7 * one + 0.3 * noise
    expected = skimage_ssim(
        one, other, gaussian_weights=True, sigma=1.5, win_size=11, use_sample_covariance=False, data_range=1.0
    )
    # It blurs across mirrored borders, and leaves out all places where that shows.
    assert structural_similarity(one, other) == pytest.approx(expected, abs=1e-9)
    assert structural_similarity(one, one) == 1


@pytest.mark.parametrize("shape", [(9, 7), (4, 6), (2, 8), (1, 1)])
def test_structural_similarity_of_maps_smaller_than_the_window(shape):
    one, other = np.random.default_rng(2).random((2, *shape))
    side = {9: 7, 4: 3, 2: 1, 1: 1}[shape[0]]
    offsets = np.arange(side) - side // 2
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    found = []
    for row in range(shape[0] - side + 1):
        for column in range(shape[1] - side + 1):
            a, b = (each[row : row + side, column : column + side] for each in (one, other))
            ma, mb = (weights * a).sum(), (weights * b).sum()
            va, vb = (weights * (a - ma) ** 2).sum(), (weights * (b - mb) ** 2).sum()
            cov = (weights * (a - ma) * (b - mb)).sum()
            found.append((2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    assert structural_similarity(one, other) == pytest.approx(np.mean(found), abs=1e-12)


def test_brightness_of_nothing_is_nothing():
    assert not brightness(np.zeros((2, 2))).any()
    assert brightness(np.array([[4.0, -8.0]])).tolist() == [[0.5, 1.0]]


def test_the_last_digits_of_a_float_are_no_order():
    values = np.random.default_rng(0).normal(size=(20, 20))
    values[:, :10] = 0.25
    noisy = values * (1 + 1e-7 * np.random.default_rng(1).normal(size=values.shape))
    assert spearman(values, noisy) < 0.99
    assert spearman(settled(values), settled(noisy)) > 0.9999
    assert not settled(np.zeros((2, 2))).any()
    assert np.isnan(settled(np.array([1.0, np.nan]))[1])
