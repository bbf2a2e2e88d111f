"""Ascent: closed forms on linear networks, and what it promises of seeds, batches, cancelling and zero gradients."""

from dataclasses import replace
from functools import partial
from threading import Event

import pytest
import torch
from torch import nn

from convscope import Network
from convscope.errors import Cancelled
from convscope.progress import watch
from convscope.synthesis import ascent
from convscope.synthesis.aims import Aims, similarity
from convscope.synthesis.ascent import Watch, ascend
from convscope.synthesis.objective import parse_aims
from convscope.synthesis.optimizers import Optimizer
from convscope.synthesis.presets import preset
from convscope.testing import tiny_network
from convscope.testing.laws import check_same_state, state_of
from convscope.view import View

# Not what a processor with bfloat16 would choose: what is tested here is arithmetic.
in_full = partial(ascend, precision="full")
PLAIN = replace(preset("pixels"), optimizer=Optimizer("adam", 20.0), steps=24)


def aims_of(network, text, images=1):
    found = parse_aims(text, network)
    return Aims(found if len(found) > 1 else found * images)


def linear(weight, bias=0.0):
    """One convolution of one channel, its kernel given."""
    layer = nn.Conv2d(1, len(weight), weight.shape[-1])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.fill_(bias)
    return Network.from_module(nn.Sequential(layer), image_size=9)


@pytest.fixture(scope="module")
def kernel():
    return torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(3))


def test_the_optimum_of_a_convolutions_neuron_is_its_kernels_sign(kernel):
    network = linear(kernel, bias=0.25)
    found = in_full(network, aims_of(network, "0:0:2,4; -0:1:2,4"), PLAIN, seeds=[0, 0])
    seen = found.pixels[:, 0, 2:5, 4:7]
    assert torch.equal(seen[0], (kernel[0, 0] > 0).float())
    assert torch.equal(seen[1], (kernel[1, 0] < 0).float())
    assert found.history[0, -1] == pytest.approx(float(kernel[0].clamp(min=0).sum()) + 0.25, rel=1e-5)


def test_one_step_of_plain_ascent_is_the_kernel_itself(kernel):
    network = linear(kernel)
    recipe = replace(PLAIN, optimizer=Optimizer("ascent", 255.0), steps=1)
    # Variables are on the scale 0 … 255, so the gradient is the kernel / 255 and the step is the kernel.
    start = torch.full((1, 1, 9, 9), 0.5)
    found = in_full(network, aims_of(network, "0:0:1,1"), recipe, seeds=[0], start=start)
    assert torch.allclose((found.pixels - start)[0, 0, 1:4, 1:4] * 255, kernel[0, 0], atol=1e-4)


def test_what_the_objective_does_not_see_stays_as_it_began(kernel):
    network = linear(kernel)
    start = torch.full((1, 1, 9, 9), 0.25)
    found = in_full(network, aims_of(network, "0:0:0,0"), PLAIN, seeds=[0], start=start)
    assert (found.pixels[0, 0, 3:] == 0.25).all()
    assert (found.pixels[0, 0, :3, 3:] == 0.25).all()


OBJECTIVES = {
    "branches": [
        "{unit}",
        "{unit}:1,1",
        "{layer}",
        "-{unit}",
        "class:1",
        "direction(0.6*{unit} - 0.8*{other})",
        "{unit} + 0.5*{other} - 0.1*class:0",
    ]
}


@pytest.mark.parametrize("recipe", ["lucid", "maco", "pixels"])
@pytest.mark.parametrize("text", OBJECTIVES["branches"])
def test_three_steps_raise_the_objective(text, recipe):
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Conv2d(6, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)
    )
    network = Network.from_module(module, image_size=16, mean=0.5, std=0.25)
    text = text.format(layer="2", unit="2:1", other="2:3")
    chosen = replace(preset(recipe), steps=4, transforms=preset("pixels").transforms, copies=1, size=1.0)
    found = in_full(network, aims_of(network, text), chosen, seeds=[0])
    history = found.history[0]
    assert history[3] > history[0], history.tolist()
    assert found.pixels.min() >= 0
    assert found.pixels.max() <= 1


def test_diversity_makes_copies_less_alike():
    torch.manual_seed(0)
    network = Network.from_module(nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh()), image_size=12)
    (aim,) = parse_aims("1:1", network)
    alike = []
    for price in (0.0, 2.0):
        goal = Aims((aim,) * 3, 3, price)
        found = in_full(network, goal, replace(PLAIN, steps=12), seeds=[0, 1, 2])
        with torch.no_grad():
            alike.append(float(similarity(network.module(found.pixels)).mean()))
    assert alike[1] < alike[0] - 0.05, alike


@pytest.fixture
def network():
    return tiny_network("in_place").network()


LAYER = "second"


def lucid(steps=3):
    return replace(preset("lucid"), steps=steps)


def test_the_same_seed_gives_the_same_bytes_and_another_another(network):
    goal = aims_of(network, f"{LAYER}:1")
    torch.manual_seed(1)
    first = in_full(network, goal, lucid(), seeds=[4])
    torch.manual_seed(2)
    second = in_full(network, goal, lucid(), seeds=[4])
    assert first.pixels.numpy().tobytes() == second.pixels.numpy().tobytes()
    assert torch.equal(first.history, second.history)
    assert not torch.equal(first.pixels, in_full(network, goal, lucid(), seeds=[5]).pixels)


def test_an_image_does_not_depend_on_its_batch(network, monkeypatch):
    goal = aims_of(network, f"{LAYER}:0; {LAYER}:1; first:2; class:3")
    together = in_full(network, goal, lucid(), seeds=[0, 0, 1, 2])
    monkeypatch.setattr(ascent, "_WORK", 1)
    in_parts = in_full(network, goal, lucid(), seeds=[0, 0, 1, 2])
    alone = in_full(network, goal.part([2]), lucid(), seeds=[1])
    assert torch.allclose(together.pixels, in_parts.pixels, atol=1e-4)
    assert torch.allclose(together.pixels[2:3], alone.pixels, atol=1e-4)


def test_cancelling_ends_it_before_the_next_pass_and_leaves_the_network_as_it_was(network):
    told = Event()
    seen = []

    def listen(progress):
        seen.append(progress)
        if progress.done == 2:
            told.set()

    before = state_of(network.module)
    with watch(listen, told), pytest.raises(Cancelled):
        in_full(network, aims_of(network, f"{LAYER}:1"), lucid(50), seeds=[0])
    assert seen[-1].done == 2
    assert seen[-1].total == 50
    check_same_state(before, state_of(network.module))


def test_an_exception_in_the_network_leaves_it_as_it_was(network):
    def fail(*_):
        raise KeyError("broken")

    assert network.layers
    handle = network.module.second.register_forward_hook(fail)
    before = state_of(network.module)
    with pytest.raises(KeyError):
        in_full(network, aims_of(network, f"{LAYER}:1"), lucid(), seeds=[0])
    check_same_state(before, state_of(network.module))
    handle.remove()


def test_no_weight_gets_a_gradient_and_those_frozen_stay_so(network):
    network.module.linear.weight.requires_grad_(False)
    in_full(network, aims_of(network, "class:1"), lucid(), seeds=[0])
    assert all(each.grad is None for each in network.module.parameters())
    assert [each.requires_grad for each in network.module.linear.parameters()] == [False, True]


def test_an_image_that_is_good_enough_goes_no_further(network):
    goal = aims_of(network, f"{LAYER}:0; {LAYER}:1; {LAYER}:2")
    whole = in_full(network, goal, lucid(6), seeds=[0, 1, 2])
    asked = []

    def finished(pixels, places):
        asked.append((len(pixels), places))
        return [place == 1 for place in places]

    found = in_full(network, goal, lucid(6), seeds=[0, 1, 2], watch=Watch(finished=finished, every=2))
    assert asked == [(3, [0, 1, 2]), (2, [0, 2]), (2, [0, 2])]
    assert found.steps == [6, 2, 6]
    assert found.history[1, 2:].isnan().all()
    assert torch.allclose(found.pixels[[0, 2]], whole.pixels[[0, 2]], atol=1e-5)
    everyone = Watch(finished=lambda pixels, places: [True] * len(places), every=2)
    assert in_full(network, goal, lucid(6), seeds=[0, 1, 2], watch=everyone).steps == [2, 2, 2]


def test_copies_are_finished_together(network):
    (aim,) = parse_aims(f"{LAYER}:0", network)
    goal = Aims((aim,) * 4, 2)
    one_of_each = Watch(finished=lambda pixels, places: [place != 1 for place in places], every=2)
    found = in_full(network, goal, lucid(4), seeds=[0, 1, 0, 1], watch=one_of_each)
    assert found.steps == [4, 4, 2, 2]


def test_previews_show_every_image_and_change_nothing(network):
    goal = aims_of(network, f"{LAYER}:0; {LAYER}:1")
    shown = []

    def view(pixels, history, step):
        return View("preview", {"pixels": pixels.numpy().copy()}, {"pixels": tuple("abcd")}, {"step": step})

    with watch(lambda _progress: None, previews=shown.append):
        watched = in_full(network, goal, lucid(), seeds=[0, 1], watch=Watch(view=view))
    assert shown[0].meta["step"] == 1
    assert shown[0]["pixels"].shape == tuple(watched.pixels.shape)
    assert torch.equal(watched.pixels, in_full(network, goal, lucid(), seeds=[0, 1]).pixels)


# ---- zero gradients -------------------------------------------------------------------------------------------------


def closed(bias):
    """A ReLU unit that is closed on any gray image, and opens only for the right pattern."""
    layer = nn.Conv2d(1, 2, 3)
    with torch.no_grad():
        layer.weight[0] = torch.tensor([[-1.0, -1, -1], [0, 0, 0], [1, 1, 1]])
        layer.weight[1] = 0
        layer.bias.copy_(torch.tensor([bias, -1.0]))
    return Network.from_module(nn.Sequential(layer, nn.ReLU(inplace=True)), image_size=9)


def test_a_closed_unit_is_opened_in_the_first_steps_and_it_is_said(kernel):
    network = closed(-1.5)
    found = in_full(network, aims_of(network, "1:0:2,2"), PLAIN, seeds=[0])
    assert 0 < found.opened[0] <= ascent.OPENING_STEPS
    assert found.still == [0]
    assert found.history[0, -1] == pytest.approx(1.5)  # 3 - 1.5: black above, white below


def test_without_the_way_out_nothing_would_move(monkeypatch):
    monkeypatch.setattr(ascent, "OPENING_STEPS", 0)
    network = closed(-1.5)
    found = in_full(network, aims_of(network, "1:0:2,2"), PLAIN, seeds=[0])
    assert found.still == [PLAIN.steps]
    assert (found.history == 0).all()


def test_a_dead_unit_is_told_from_a_closed_one():
    network = closed(0.0)
    found = in_full(network, aims_of(network, "1:1"), PLAIN, seeds=[0])
    assert found.still == [PLAIN.steps]
    assert found.opened == [0]


class NotANumber(nn.Module):
    """Its gradient is infinite where the image is black."""

    def forward(self, images):
        return images.sqrt()


def test_a_gradient_that_is_no_number_is_left_out_and_counted():
    network = Network.from_module(nn.Sequential(NotANumber()), image_size=4, channels=1)
    start = torch.zeros(1, 1, 4, 4)
    found = in_full(network, aims_of(network, "0:0"), replace(PLAIN, steps=2), seeds=[0], start=start)
    assert found.broken == [2]
    assert torch.equal(found.pixels, start)


# ---- how the network computes ---------------------------------------------------------------------------------------


def test_mixed_precision_only_where_the_device_has_it_and_the_gradient_agrees(network, monkeypatch):
    goal = aims_of(network, f"{LAYER}:1")
    monkeypatch.setattr(ascent, "has_bfloat16", lambda _network: False)
    assert ascend(network, goal, lucid(), seeds=[0]).precision == "full"
    monkeypatch.setattr(ascent, "has_bfloat16", lambda _network: True)
    mixed = ascend(network, goal, lucid(), seeds=[0])
    assert mixed.precision == "mixed"
    assert torch.allclose(mixed.history, ascend(network, goal, lucid(), seeds=[0], precision="full").history, atol=0.05)
    monkeypatch.setattr(ascent, "_ALIKE", 1.1)
    assert ascend(network, goal, lucid(), seeds=[0]).precision == "full"


class Flat(nn.Module):
    """Flattens by view(), which can't be done with channels last."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.linear = nn.Linear(4 * 6 * 6, 3)

    def forward(self, images):
        maps = self.convolution(images)
        return self.linear(maps.view(len(maps), -1))


def test_a_network_that_flattens_by_view_is_taken_as_it_is():
    torch.manual_seed(0)
    network = Network.from_module(Flat(), image_size=8)
    found = ascend(network, aims_of(network, "class:1"), replace(PLAIN, steps=3), seeds=[0])
    assert found.history[0, 2] > found.history[0, 0]


def test_a_network_in_double_precision_is_optimized_in_it():
    torch.manual_seed(0)
    network = Network.from_module(nn.Sequential(nn.Conv2d(3, 4, 3)).double(), image_size=8)
    found = ascend(network, aims_of(network, "0:1"), lucid(), seeds=[0])
    assert found.precision == "full"
    assert found.pixels.dtype == torch.float32
