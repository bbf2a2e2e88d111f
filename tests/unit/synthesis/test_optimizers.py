"""Optimizers of images, against torch's own and against their formulas."""

import pytest
import torch

from convscope.errors import ConvscopeError
from convscope.synthesis.optimizers import Optimizer


def gradients_of(x):
    """Of a bumpy function of each image, to be ascended."""
    return torch.cos(3 * x) - 0.5 * x


@pytest.mark.parametrize(
    ("kind", "reference", "options"),
    [
        ("adam", torch.optim.Adam, {}),
        ("nadam", torch.optim.NAdam, {}),
        ("momentum", torch.optim.SGD, {"momentum": 0.9}),
        ("ascent", torch.optim.SGD, {}),
    ],
)
def test_it_moves_as_torchs_own_optimizer_does(kind, reference, options):
    start = torch.linspace(-1, 1, 12).reshape(2, 6).double()
    ours, theirs = start.clone(), start.clone().requires_grad_()
    update = Optimizer(kind, 0.05).bind([ours], steps=20)
    other = reference([theirs], lr=0.05, **options)
    for _ in range(20):
        update.step([gradients_of(ours)], torch.zeros(2))
        theirs.grad = -gradients_of(theirs.detach())
        other.step()
    assert torch.allclose(ours, theirs.detach(), rtol=1e-6, atol=1e-9)


def test_images_that_leave_change_nothing_for_those_that_stay():
    start = torch.linspace(-1, 1, 15).reshape(3, 5)
    together, alone = start.clone(), start[1:].clone()
    whole, part = Optimizer("adam", 0.1).bind([together], 9), Optimizer("adam", 0.1).bind([alone], 9)
    for step in range(9):
        if step == 4:
            together = together[[1, 2]]
            whole = whole.selected([together], [1, 2])
        whole.step([gradients_of(together)], torch.zeros(len(together)))
        part.step([gradients_of(alone)], torch.zeros(2))
    assert torch.equal(together[-2:], alone)


def test_growing_begins_the_memory_anew_and_goes_on_with_the_schedule():
    update = Optimizer("adam", 1.0, "cosine:0").bind([torch.zeros(1, 2)], steps=3)
    update.step([torch.ones(1, 2)], torch.zeros(1))
    larger = torch.zeros(1, 8)
    update.grown([larger]).step([torch.ones(1, 8)], torch.zeros(1))
    assert torch.allclose(larger, torch.full((1, 8), 0.5))  # half way down the cosine; Adam's first step is 1 long


def moved(policy, learning_rate, gradient, values, steps=1):
    x = torch.zeros_like(gradient)
    Optimizer("ascent", learning_rate, policy).bind([x], steps).step([gradient], values)
    return x


def test_progress_gives_each_image_its_own_rate_up_to_the_largest():
    gradient = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    x = moved("progress:2", 7.0, gradient, torch.zeros(3))
    assert torch.allclose(x, torch.stack([gradient[0] * 2 / 25, gradient[1] * 7, gradient[2]]))


def test_progress01_asks_for_less_near_the_end():
    gradient = torch.ones(2, 1)
    x = moved("progress01:0.1,0.5", 10.0, gradient, torch.tensor([0.2, 0.9]))
    assert torch.allclose(x[:, 0], torch.tensor([0.1, 0.05]))


def test_schedules_follow_their_formulas():
    rates = []
    x = torch.zeros(1, 1)
    update = Optimizer("ascent", 2.0, "warmup:2 cosine:0.1").bind([x], steps=5)
    for _ in range(5):
        before = float(x)
        update.step([torch.ones(1, 1)], torch.zeros(1))
        rates.append(float(x) - before)
    cosine = [0.1 + 0.9 * (1 + torch.cos(torch.tensor(torch.pi * step / 4)).item()) / 2 for step in range(5)]
    assert rates == pytest.approx([2 * 0.5 * cosine[0], *(2 * each for each in cosine[1:])], rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("adamw",), "no optimizer 'adamw'"),
        (("adam", 0.0), "a learning rate of 0.0"),
        (("adam", 0.1, "linear"), "isn't a learning-rate policy"),
        (("adam", 0.1, "warmup:x"), "isn't a learning-rate policy"),
        (("adam", 0.1, "progress:2"), "divides by the gradient's squared norm"),
    ],
)
def test_what_it_does_not_know_is_refused_with_what_it_does(arguments, said):
    with pytest.raises(ConvscopeError, match=said) as caught:
        Optimizer(*arguments)
    assert caught.value.next_step
