"""Yosinski's loop a second time, as his program has it; and recipes as text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from convscope.errors import ConvscopeError
from convscope.network.network import Network
from convscope.synthesis.optimizers import Optimizer
from convscope.synthesis.presets import PRESETS, preset
from convscope.synthesis.recipe_text import (
    ROBUST,
    parse_regularizers,
    parse_transforms,
    regularizers_text,
    transforms_text,
)
from convscope.synthesis.regularizers import AlphaNorm, Blur, Decay, TotalVariation
from convscope.synthesis.transforms import Jitter, Pad, RandomRotation, RandomScale, Transforms

MEAN = np.array([0.48, 0.46, 0.41])


def network() -> Network:
    return Network.from_module(nn.Sequential(nn.Conv2d(3, 2, 3)), image_size=(9, 8), mean=tuple(MEAN), std=0.25)


def gaussian(plane: np.ndarray, radius: float) -> np.ndarray:
    reach = int(4 * radius + 0.5)
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * radius**2))
    weights /= weights.sum()
    for axis in (0, 1):
        padded = np.pad(plane, [(reach, reach) if each == axis else (0, 0) for each in (0, 1)], mode="symmetric")
        plane = sum(
            weight * np.take(padded, range(place, place + plane.shape[axis]), axis=axis)
            for place, weight in enumerate(weights)
        )
    return plane


def yosinski(x: np.ndarray, slope: np.ndarray, steps: int, settings: dict) -> np.ndarray:
    """optimize_image's loop for a quadratic objective ``Σ slope · x - x² / 2000``: centered pixels, 0 … 255."""
    mean = 255 * MEAN[:, None, None]
    for step in range(steps):
        x = np.clip(x + mean, 0, 255) - mean
        gradient = slope - x / 1000
        rate = settings["rate"]
        if "progress" in settings:
            rate = min(rate, settings["progress"] / (gradient**2).sum())
        x = x + rate * gradient
        x = x * (1 - settings.get("decay", 0))
        if "blur" in settings and step % 4 == 0:
            x = np.stack([gaussian(plane, settings["blur"]) for plane in x])
        if "norm" in settings:
            norms = np.sqrt((x**2).sum(0))
            x = x * (norms >= np.percentile(norms, settings["norm"]))
        if "contribution" in settings:
            benefit = np.abs((gradient * -x).sum(0))
            x = x * (benefit >= np.percentile(benefit, settings["contribution"]))
    return np.clip(x + mean, 0, 255) - mean


PUBLISHED = {
    "yosinski_1": (500, {"rate": 100.0, "progress": 2.0, "blur": 0.5, "norm": 50}),
    "yosinski_2": (750, {"rate": 100.0, "decay": 0.3, "norm": 20}),
    "yosinski_3": (1000, {"rate": 100.0, "decay": 0.0001, "blur": 1.0}),
    "yosinski_4": (1000, {"rate": 1e8, "progress": 2.0, "blur": 0.5, "contribution": 90}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_settings_do_what_optimize_image_does(name):
    steps, settings = PUBLISHED[name]
    recipe = preset(name)
    assert recipe.steps == steps
    images = recipe.parameterize(network(), [4])
    slope = np.random.default_rng(3).normal(0, 0.05, (3, 9, 8))
    expected = yosinski((images.pixels()[0].detach().double().numpy() - MEAN[:, None, None]) * 255, slope, 9, settings)
    update = recipe.update(images)
    weights = torch.tensor(slope, dtype=torch.float32)
    for _ in range(9):
        pixels = images.pixels()
        leaf = pixels.detach().requires_grad_()
        centered = 255 * leaf - 255 * torch.tensor(MEAN, dtype=torch.float32)[:, None, None]
        values = (weights * centered - centered.square() / 2000).sum((1, 2, 3))
        update.step(pixels, torch.autograd.grad(values.sum(), leaf)[0], values.detach())
    found = (images.pixels()[0].detach().double().numpy() - MEAN[:, None, None]) * 255
    assert np.allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_raises_a_linear_objective_and_says_what_it_does(name):
    recipe = preset(name).changed(steps=4)
    given = network()
    images = recipe.parameterize(given, [1, 2])
    update = recipe.update(images)
    target = torch.rand(2, 3, *images.size, generator=torch.Generator().manual_seed(1)) - 0.5
    before = (images.pixels() * target).sum((1, 2, 3))
    for _ in range(4):
        update.step(images.pixels(), target / 100, torch.zeros(2))
    after = (images.pixels() * target).sum((1, 2, 3))
    if not recipe.projections:  # blurring and clipping may cost more than a step gains; the loop above checks those
        assert (after > before).all()
    for word in (recipe.title, recipe.parameterization, recipe.optimizer.kind, "4 steps"):
        assert word in recipe.caption()


def test_the_robust_transforms_are_lucids():
    assert ROBUST[0] == Pad(12)
    assert [step.amount for step in ROBUST if isinstance(step, Jitter)] == [8, 4]
    assert ROBUST[2].scales == pytest.approx(tuple(np.linspace(0.9, 1.1, 11)))
    assert sorted(ROBUST[3].degrees) == sorted([*range(-10, 11), *[0] * 5])


def test_images_leave_and_the_others_go_on():
    recipe = preset("lucid").changed(steps=6)
    given = network()
    together, alone = recipe.parameterize(given, [1, 2, 3]), recipe.parameterize(given, [3])
    both, one = recipe.update(together), recipe.update(alone)
    gradient = torch.rand(1, 3, 9, 8, generator=torch.Generator().manual_seed(5))
    both.step(together.pixels(), gradient.expand(3, -1, -1, -1), torch.zeros(3))
    one.step(alone.pixels(), gradient, torch.zeros(1))
    together = together.selected([2])
    both = both.selected(together, [2])
    both.step(together.pixels(), gradient, torch.zeros(1))
    one.step(alone.pixels(), gradient, torch.zeros(1))
    assert torch.allclose(together.pixels(), alone.pixels(), atol=1e-6)


def test_the_price_is_that_of_centered_pixels():
    recipe = preset("pixels").changed(regularizers="tv:0.5/2 alpha:0.1/6")
    pixels = torch.rand(2, 3, 9, 8)
    centered = 255 * (pixels - torch.tensor(MEAN, dtype=torch.float32)[:, None, None])
    expected = TotalVariation(0.5, 2.0)(centered) + AlphaNorm(0.1, 6.0)(centered)
    assert torch.allclose(recipe.price(network(), pixels), expected)


@pytest.mark.parametrize(
    "text", ["none", "robust", "pad:4 jitter:8 scale:0.9..1.1 rotate:5", "crop:0.2..0.25 noise:0.05"]
)
def test_transforms_survive_their_text(text):
    assert transforms_text(parse_transforms(text)) == text
    assert parse_transforms(transforms_text(parse_transforms(text))) == parse_transforms(text)


def test_transforms_from_text():
    found = parse_transforms("jitter:8 scale:0.9..1.1 rotate:2 noise:0.1")
    assert found == Transforms(
        (
            Jitter(8),
            RandomScale(tuple(0.9 + (1.1 - 0.9) * index / 10 for index in range(11))),
            RandomRotation((-2.0, -1.0, 0.0, 1.0, 2.0)),
        ),
        (0.1, 0.1),
    )


@pytest.mark.parametrize(
    "text", ["none", "decay:0.0001 blur:1/4", "norm:50 contribution:90", "tv:0.01/1.5 alpha:0.001/6"]
)
def test_regularizers_survive_their_text(text):
    penalties, projections = parse_regularizers(text)
    assert sorted(regularizers_text([*penalties, *projections]).split()) == sorted(text.split())


@pytest.mark.parametrize(
    "text", ["jiter:8", "jitter:-1", "scale:1", "crop:0.5..2", "noise:x", "pad:1.5", "scale:nan..1"]
)
def test_a_wrong_transform_is_refused_with_the_grammar(text):
    with pytest.raises(ConvscopeError, match="isn't a transform") as caught:
        parse_transforms(text)
    assert "jitter:PIXELS" in caught.value.next_step


@pytest.mark.parametrize("text", ["decay:2", "blurr:1", "norm:101", "tv:1/2/3", "decay:inf", "norm:5/5", "alpha:"])
def test_a_wrong_regularizer_is_refused_with_the_grammar(text):
    with pytest.raises(ConvscopeError, match="isn't a regularizer") as caught:
        parse_regularizers(text)
    assert "blur:RADIUS/EVERY" in caught.value.next_step


def test_changing_parts():
    changed = preset("yosinski_3").changed(regularizers="decay:0.1", learning_rate=5.0, steps=7)
    assert changed.projections == (Decay(0.1),)
    assert changed.optimizer == Optimizer("ascent", 5.0)
    assert changed.steps == 7
    other = preset("yosinski_3").changed(parameterization="fourier", optimizer="adam", learning_rate=0.05)
    assert other.projections == ()
    with pytest.raises(ConvscopeError, match="blur:1/4 changes the image itself"):
        preset("lucid").changed(regularizers="blur:1/4")
    with pytest.raises(ConvscopeError, match="did you mean lucid"):
        preset("lucied")
    assert Blur(1.0, 4) in preset("yosinski_3").projections
