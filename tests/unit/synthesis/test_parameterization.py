"""Parameterizations against explicit sums of waves, and the way between pixels and prepared images."""

from __future__ import annotations

import cmath

import numpy as np
import pytest
import torch

from convscope.errors import ConvscopeError
from convscope.network.preprocessing import Preprocessing
from convscope.synthesis.parameterization import (
    Fourier,
    Maco,
    Pixels,
    mean_color,
    parameterize,
    to_pixels,
    to_prepared,
)
from convscope.synthesis.spectrum import ImageStatistics, falling_scale

SIZES = [(4, 6), (5, 7), (6, 5), (3, 4)]
PHOTO = Preprocessing((5, 7), 3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


def waves(spectrum: np.ndarray, columns: int) -> np.ndarray:
    """The real image of half a spectrum, by its sum, over the square root of its size."""
    rows = len(spectrum)
    result = np.zeros((rows, columns))
    for r in range(rows):
        for c in range(columns):
            total = 0.0
            for u in range(rows):
                for v in range(columns):
                    # Beyond the half that is stored lie the mirrored frequencies' conjugates.
                    stored = v < spectrum.shape[1]
                    value = spectrum[u, v] if stored else np.conj(spectrum[-u % rows, columns - v])
                    total += value * cmath.exp(2j * cmath.pi * (u * r / rows + v * c / columns))
            result[r, c] = total.real / (rows * columns) ** 0.5
    return result


def logistic(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_fourier_is_a_sum_of_waves_colored_and_squeezed(size, channels):
    statistics = ImageStatistics.known(channels, size)
    generator = torch.Generator().manual_seed(2)
    variable = torch.randn(2, channels, size[0], size[1] // 2 + 1, 2, dtype=torch.float64, generator=generator)
    found = Fourier(variable, size, statistics.root).pixels().detach()
    assert found.shape == (2, channels, *size)
    scale = falling_scale(*size).numpy()
    for image, result in zip(variable.numpy(), found.numpy(), strict=True):
        planes = [waves((part[..., 0] + 1j * part[..., 1]) * scale, size[1]) / 4 for part in image]
        expected = logistic(np.einsum("cd,drk->crk", statistics.root.numpy(), np.stack(planes)))
        assert np.allclose(result, expected, atol=1e-9)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_fourier_begins_with_given_pixels(size, channels):
    pixels = 0.05 + 0.9 * torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(4))
    found = Fourier.of(pixels, ImageStatistics.known(channels, size))
    assert torch.allclose(found.pixels(), pixels, atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_maco_has_the_given_magnitudes_and_only_them(size, channels):
    photos = torch.rand(5, channels, *size, generator=torch.Generator().manual_seed(6))
    statistics = ImageStatistics.measure([photos], size)
    maco = Maco.start([1, 2], statistics, torch.device("cpu"))
    plain = maco.plain().detach().double()
    found = torch.fft.rfft2(plain).abs()
    assert torch.allclose(found, statistics.magnitude.expand_as(found), atol=1e-4 * float(statistics.magnitude.max()))
    # The whole way to pixels by sums.
    for index in range(2):
        planes = [waves(torch.fft.rfft2(each).numpy(), size[1]) / plain[0, 0].numel() ** 0.5 for each in plain[index]]
        values = np.stack(planes)
        assert np.allclose(values, plain[index].numpy(), atol=1e-6)
        expected = np.einsum("cd,drk->crk", statistics.root.numpy(), values / values.std())
        mean = statistics.mean.numpy()[:, None, None]
        expected = logistic(expected + np.log(mean / (1 - mean)))
        assert np.allclose(maco.pixels()[index].detach().numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_maco_turns_a_wave_by_its_phase(size):
    """With one magnitude only, a phase moves a cosine: the closed form."""
    magnitude = torch.zeros(1, size[0], size[1] // 2 + 1, dtype=torch.float64)
    magnitude[0, 0, 1] = 10.0
    statistics = ImageStatistics(
        torch.eye(1, dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64), magnitude, size, 1, "one wave"
    )
    phase = torch.zeros(1, 1, *magnitude.shape[1:], dtype=torch.float64)
    phase[0, 0, 0, 1] = 0.7
    place = torch.arange(size[1], dtype=torch.float64)
    wave = torch.cos(2 * torch.pi * place / size[1] + 0.7)
    expected = wave * 2 * 10 / (size[0] * size[1])
    found = Maco(phase, statistics)
    assert torch.allclose(found.plain()[0, 0], expected.expand(size))
    standard = expected / expected.std(correction=0)
    assert torch.allclose(found.pixels()[0, 0, 0], standard.sigmoid())


def test_maco_accounts_for_where_it_matters():
    maco = Maco.start([1, 2], ImageStatistics.known(3, (4, 6)), torch.device("cpu"))
    assert maco.importance is None
    first, second = torch.randn(2, 3, 4, 6), torch.randn(2, 3, 4, 6)
    maco.observe(first)
    maco.observe(second)
    expected = (first.abs().mean(1) + second.abs().mean(1)) / 2
    assert torch.allclose(maco.importance, expected)
    chosen = maco.selected([1])
    assert torch.allclose(chosen.importance, expected[1:])
    assert torch.allclose(chosen.pixels(), maco.pixels()[1:], atol=1e-6)


@pytest.mark.parametrize("name", ["fourier", "pixels", "maco"])
@pytest.mark.parametrize(("channels", "size"), [(1, (5, 7)), (3, (8, 6)), (6, (4, 9))])
def test_every_parameterization_gives_valid_pixels_for_any_channels_and_size(name, channels, size):
    preprocessing = Preprocessing(size, channels, mean=0.45, std=0.2)
    found = parameterize(name, preprocessing=preprocessing, seeds=[1, 2, 1])
    pixels = found.pixels()
    assert len(found) == 3
    assert found.size == size
    assert pixels.shape == (3, channels, *size)
    assert float(pixels.detach().min()) >= 0
    assert float(pixels.detach().max()) <= 1
    assert torch.allclose(pixels[0], pixels[2], atol=1e-6)
    assert not torch.allclose(pixels[0], pixels[1])
    alone = parameterize(name, preprocessing=preprocessing, seeds=[2])
    assert torch.allclose(alone.pixels(), pixels[1:2], atol=1e-6)
    # Every number matters, and each image has its own.
    weights = torch.rand(pixels.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = found.gradients(pixels, weights)
    assert gradient.shape == found.variables[0].shape
    chosen = found.selected([2, 0])
    assert torch.allclose(chosen.pixels(), pixels[[2, 0]], atol=1e-6)


@pytest.mark.parametrize("name", ["fourier", "maco"])
def test_the_gradient_is_that_of_finite_differences(name):
    statistics = ImageStatistics.known(3, (4, 5))
    generator = torch.Generator().manual_seed(3)
    shape = (1, 3, 4, 3, 2) if name == "fourier" else (1, 3, 4, 3)
    start = torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True)

    def pixels(variable: torch.Tensor) -> torch.Tensor:
        made = Fourier(variable, (4, 5), statistics.root) if name == "fourier" else Maco(variable, statistics)
        made.variables = (variable,)
        return made.pixels()

    assert torch.autograd.gradcheck(pixels, (start,))


def test_pixels_keep_to_their_range():
    found = parameterize("pixels", preprocessing=PHOTO, seeds=[0])
    assert isinstance(found, Pixels)
    color = torch.tensor([0.4, 0.5, 0.6])[:, None, None] * 255
    found.put(torch.full((1, 3, 5, 7), 1000.0))
    assert torch.equal(found.pixels(), torch.ones(1, 3, 5, 7))
    found.put(torch.full((1, 3, 5, 7), -1000.0))
    assert torch.equal(found.pixels(), torch.zeros(1, 3, 5, 7))
    found.put(torch.full((1, 3, 5, 7), 10.0))
    assert torch.allclose(found.pixels(), ((color + 10) / 255).expand(1, 3, 5, 7))
    assert torch.allclose(found.centered, torch.full((1, 3, 5, 7), 10.0), atol=1e-4)


@pytest.mark.parametrize(
    "preprocessing",
    [PHOTO, Preprocessing((5, 7), 3, mean=(123.0, 117.0, 104.0), scale=255.0), Preprocessing((5, 7), 1, mean=0.1)],
)
def test_prepared_space_and_back(preprocessing):
    picture = np.random.default_rng(1).random((5, 7, preprocessing.channels)).astype(np.float32)
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None]
    prepared = to_prepared(preprocessing, pixels)
    assert torch.allclose(prepared[0], preprocessing.prepare(picture), rtol=1e-5, atol=1e-5)
    assert torch.allclose(to_pixels(preprocessing, prepared), pixels, atol=1e-6)
    double = to_prepared(preprocessing, pixels.double())
    assert torch.allclose(to_pixels(preprocessing, double), pixels.double(), atol=1e-15)
    assert to_pixels(preprocessing, double + 10).max() > 1  # not clipped


def test_the_mean_color_is_the_networks_or_the_images():
    assert mean_color(PHOTO) == (0.4, 0.5, 0.6)
    assert mean_color(Preprocessing(5, 3, mean=(123.0, 117.0, 104.0), scale=255.0))[0] == 123 / 255
    plain = Preprocessing((4, 4), 1)
    assert mean_color(plain) == (0.5,)
    dark = ImageStatistics.measure([0.2 * torch.rand(4, 1, 4, 4)], (4, 4))
    assert mean_color(plain, dark) == (pytest.approx(float(dark.mean[0])),)


def test_starting_from_an_image():
    start = 0.1 + 0.8 * torch.rand(2, 3, 5, 7)
    for name in ("fourier", "pixels"):
        found = parameterize(name, preprocessing=PHOTO, seeds=[0, 1], start=start)
        assert torch.allclose(found.pixels(), start, atol=1e-4)
    with pytest.raises(ConvscopeError, match="magnitudes are those of many"):
        parameterize("maco", preprocessing=PHOTO, seeds=[0, 1], start=start)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConvscopeError, match="did you mean fourier"):
        parameterize("furier", preprocessing=PHOTO, seeds=[0])
    with pytest.raises(ConvscopeError, match="statistics of 1 channels at 5 × 7"):
        parameterize("maco", preprocessing=PHOTO, seeds=[0], statistics=ImageStatistics.known(1, (5, 7)))
