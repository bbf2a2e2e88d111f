"""Each regularizer a second time, pixel by pixel."""

from __future__ import annotations

from math import exp

import numpy as np
import pytest
import torch

from convscope.errors import ConvscopeError
from convscope.synthesis.regularizers import (
    AlphaNorm,
    Blur,
    ClipSmallContribution,
    ClipSmallNorm,
    Decay,
    TotalVariation,
    blurred,
)


def images(channels: int = 3, rows: int = 6, columns: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(channels)
    return 60 * torch.randn(2, channels, rows, columns, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("alpha", [1.0, 2.0, 6.0])
def test_the_alpha_norm(channels, alpha):
    x = images(channels)
    for image, found in zip(x.numpy(), AlphaNorm(0.5, alpha)(x), strict=True):
        total = sum(
            sum((image[c, r, k] / 80) ** 2 for c in range(channels)) ** (alpha / 2) for r in range(6) for k in range(5)
        )
        assert float(found) == pytest.approx(0.5 * total / 30)


@pytest.mark.parametrize("beta", [1.0, 2.0, 3.0])
def test_total_variation(beta):
    x = images()
    step = 80 / 6.5
    for image, found in zip(x.numpy(), TotalVariation(0.25, beta)(x), strict=True):
        total = 0.0
        for c, r, k in np.ndindex(image.shape):
            down = image[c, r + 1, k] - image[c, r, k] if r + 1 < 6 else 0.0
            right = image[c, r, k + 1] - image[c, r, k] if k + 1 < 5 else 0.0
            total += ((down**2 + right**2) / step**2) ** (beta / 2)
        assert float(found) == pytest.approx(0.25 * total / 30, rel=1e-6)


def test_an_even_image_has_no_variation_and_a_finite_gradient():
    x = torch.full((1, 2, 4, 4), 7.0, dtype=torch.float64, requires_grad=True)
    price = TotalVariation(1.0, 1.0)(x)
    assert float(price.detach()) == pytest.approx(0, abs=1e-5)
    assert torch.isfinite(torch.autograd.grad(price.sum(), x)[0]).all()


@pytest.mark.parametrize("penalty", [AlphaNorm(0.3, 6.0), AlphaNorm(0.3, 2.0), TotalVariation(0.2, 1.5)])
def test_penalties_have_the_gradient_of_their_value(penalty):
    assert torch.autograd.gradcheck(penalty, (images().requires_grad_(),))


def test_decay():
    assert torch.allclose(Decay(0.3)(images(), images(), 0), 0.7 * images())


@pytest.mark.parametrize("radius", [0.5, 1.0, 2.0])
def test_blur_is_a_gaussian_cut_off_at_four_radii_over_the_mirrored_image(radius):
    x = images(2, 4, 7)
    reach = int(4 * radius + 0.5)
    weights = {d: exp(-d * d / (2 * radius**2)) for d in range(-reach, reach + 1)}
    total = sum(weights.values())

    def mirrored(place: int, length: int) -> int:
        while not 0 <= place < length:
            place = -1 - place if place < 0 else 2 * length - 1 - place
        return place

    found = blurred(x, radius)
    for i, c, r, k in np.ndindex(x.shape):
        expected = sum(
            weights[a] * weights[b] / total**2 * float(x[i, c, mirrored(r + a, 4), mirrored(k + b, 7)])
            for a in weights
            for b in weights
        )
        assert float(found[i, c, r, k]) == pytest.approx(expected, abs=1e-9)


def test_blur_comes_every_few_steps():
    blur = Blur(1.0, every=4)
    for step in range(9):
        same = torch.equal(blur(images(), images(), step), images())
        assert same == (step % 4 != 0)
    with pytest.raises(ConvscopeError, match="radius above 0"):
        Blur(0.0)


@pytest.mark.parametrize("percentile", [0.0, 20.0, 50.0, 90.0])
def test_clipping_small_norms(percentile):
    x = images()
    found = ClipSmallNorm(percentile)(x, x, 0)
    for image, result in zip(x.numpy(), found.numpy(), strict=True):
        norms = np.array([[np.sqrt((image[:, r, k] ** 2).sum()) for k in range(5)] for r in range(6)])
        limit = np.percentile(norms, percentile)
        for r, k in np.ndindex(6, 5):
            expected = np.zeros(3) if norms[r, k] < limit else image[:, r, k]
            assert np.array_equal(result[:, r, k], expected)
    assert (found == 0).all(dim=1).double().mean() == pytest.approx(percentile / 100, abs=0.05)


@pytest.mark.parametrize("percentile", [50.0, 90.0])
def test_clipping_small_contributions(percentile):
    x, gradient = images(), torch.randn(2, 3, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    found = ClipSmallContribution(percentile)(x, gradient, 0)
    for image, slope, result in zip(x.numpy(), gradient.numpy(), found.numpy(), strict=True):
        benefits = np.array(
            [[abs(sum(-image[c, r, k] * slope[c, r, k] for c in range(3))) for k in range(5)] for r in range(6)]
        )
        limit = np.percentile(benefits, percentile)
        for r, k in np.ndindex(6, 5):
            expected = np.zeros(3) if benefits[r, k] < limit else image[:, r, k]
            assert np.array_equal(result[:, r, k], expected)


def test_a_contribution_is_how_far_a_linear_objective_falls_without_the_pixel():
    x, gradient = images(), images(3) / 100
    whole = (x * gradient).sum(dim=(1, 2, 3))
    without = x.clone()
    without[:, :, 2, 3] = 0
    fall = whole - (without * gradient).sum(dim=(1, 2, 3))
    assert torch.allclose((x * gradient).sum(dim=1)[:, 2, 3], fall)
