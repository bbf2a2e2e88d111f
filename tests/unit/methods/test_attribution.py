"""What all attributions share, and those that average gradients, against slow implementations in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from references import LABELS, double
from torch import Tensor, nn

from convscope.errors import ConvscopeError, Refused
from convscope.methods.attribution.gradient import Gradient
from convscope.methods.attribution.integrated_gradients import baseline_images, nodes_and_weights
from convscope.methods.attribution.seed import BoundSeed
from convscope.methods.base import method_class
from convscope.network.batch import Batch
from convscope.network.network import Network
from convscope.progress import Progress, watch
from convscope.testing import tiny_network


def slow_gradient(network: Network, images: Tensor, value: Any) -> Tensor:
    """The gradient of ``value(module, image)``, one image after the other."""
    found = []
    for image in images:
        leaf = image[None].clone().requires_grad_()
        found.append(torch.autograd.grad(value(network.module.eval(), leaf), [leaf])[0])
    return torch.cat(found)


def maps(module: Any, image: Tensor, unit: int) -> Tensor:
    """A unit of the tiny network "branches" behind its ReLU, ``[row, column]``."""
    return torch.cat([module.narrow(image), module.wide(image)], dim=1).relu()[0, unit]


SEEDS = {
    "maximum": lambda found: found.max(),
    "map": lambda found: (found * found.detach()).sum(),  # the map itself is what is sent backwards
    "mean": lambda found: found.mean(),
}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_unit_without_a_position_is_explained_by_its_seed(seed: str) -> None:
    network, batch = double(tiny_network("branches"), generic=True)
    view = network.view("gradient", "relu:3", batch, seed=seed)
    expected = slow_gradient(network, batch.tensor, lambda module, image: SEEDS[seed](maps(module, image, 3)))
    assert np.allclose(view["attribution"], expected, rtol=1e-5, atol=1e-6)
    found = [maps(network.module, image[None], 3).detach() for image in batch.tensor]
    values = [
        float(each.max() if seed == "maximum" else each.mean() if seed == "mean" else each.square().sum() / 2)
        for each in found
    ]
    assert np.allclose(view.meta["values"], values)
    assert view.meta["labels"] == []
    assert seed in view.meta["objective"]
    for each, place in zip(found, view["place"], strict=True):
        if seed == "maximum":
            assert each[tuple(place)] == each.max()
        else:
            assert place.tolist() == [-1, -1]


def test_the_first_of_equal_places_is_taken() -> None:
    network = tiny_network("edges").network()
    view = network.view("gradient", "relu:1", torch.zeros(2, 1, 9, 7))
    assert view["place"].tolist() == [[0, 0]] * 2
    assert "Exactly zero at every pixel of image 0 and 1 more" in view.meta["warnings"][0]


def test_a_neuron_and_the_objective_of_a_unit_are_what_the_target_would_be() -> None:
    network, batch = double(tiny_network("branches"), generic=True)
    neuron = network.view("gradient", "relu:3:2,1", batch)
    expected = slow_gradient(network, batch.tensor, lambda module, image: maps(module, image, 3)[2, 1])
    assert np.allclose(neuron["attribution"], expected, rtol=1e-5, atol=1e-6)
    assert neuron["place"].tolist() == [[2, 1]] * 3
    for address in ("relu:3:2,1", "relu:3"):
        asked = network.view("gradient", images=batch, objective=f"unit:{address}")
        assert np.array_equal(asked["attribution"], network.view("gradient", address, batch)["attribution"])


OBJECTIVES = {
    "score": lambda scores, index: scores.max(),
    "score:1": lambda scores, index: scores[0, 1],
    "loss:true": lambda scores, index: -scores.log_softmax(1)[0, LABELS[index]],
    "loss:2": lambda scores, index: -scores.log_softmax(1)[0, 2],
}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_scores_and_losses(objective: str) -> None:
    network, batch = double(tiny_network("reused"), generic=True)
    view = network.view("gradient", images=batch, objective=objective, reduce="norm")
    for index, image in enumerate(batch.tensor):
        value = OBJECTIVES[objective]
        expected = slow_gradient(
            network,
            image[None],
            lambda module, leaf, index=index, value=value: value(network.scores(module(leaf)), index),
        )
        assert np.allclose(view["attribution"][index], expected[0], rtol=1e-5, atol=1e-6)
        assert np.allclose(view["map"][index], expected[0].norm(dim=0), rtol=1e-5, atol=1e-6)
    assert view["picture"].shape == (3, *network.image_size, network.channels)
    assert view["picture"].dtype == np.uint8
    assert not view.meta["signed"]
    assert view.meta["signed_attribution"]
    assert view.meta["badge"] == ""


def test_a_function_of_ones_own_sees_all_images_at_once() -> None:
    network, batch = double(tiny_network("reused"), generic=True)

    def together(scores: Tensor, _batch: Batch) -> Tensor:
        return scores[:, 0].mean() + scores[0, 1] * scores[1, 2]

    leaf = batch.tensor.clone().requires_grad_()
    # Objectives are per image, so a mean over three images is counted three times.
    (expected,) = torch.autograd.grad(3 * together(network.scores(network.module.eval()(leaf)), batch), [leaf])
    view = network.view("gradient", images=batch, objective=together)
    assert np.allclose(view["attribution"], expected, rtol=1e-5, atol=1e-6)
    path = network.view(
        "integrated_gradients", images=batch, objective=together, steps=40, baseline="mean", tolerance=0.0
    )
    with torch.no_grad():
        ends = [3 * together(network.scores(network.module(each)), batch) for each in (batch.tensor, 0 * batch.tensor)]
    assert float(path["attribution"].sum(dtype=np.float64)) == pytest.approx(float(ends[0] - ends[1]), rel=0.05)


def test_one_thing_is_explained() -> None:
    network, images = tiny_network("branches").network(), tiny_network("branches").images(1)
    with pytest.raises(ConvscopeError, match="the unit relu:1 and the objective score:1"):
        network.view("deconvnet", "relu:1", images, objective="score:1")
    with pytest.raises(ConvscopeError, match="looks at one unit") as error:
        network.view("gradient", "relu", images)
    assert error.value.next_step == "add a channel, like relu:0"
    with pytest.raises(ConvscopeError, match="needs images"):
        network.view("gradient")


@pytest.mark.parametrize("name", ["deconvnet", "guided_backprop"])
def test_a_rule_that_has_no_meaning_is_refused_before_anything_runs(name: str) -> None:
    layers = [
        nn.Conv2d(1, 2, 3),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.Conv2d(2, 2, 3),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(8, 3),
    ]
    network = Network.from_module(nn.Sequential(*layers), image_size=6)
    method = method_class(name).make({})
    assert "no ReLU" in method.refusal(network, method.resolve(network, "1:0")).what
    assert method.refusal(network, method.resolve(network, "2:0")) is None
    for target in ("4:0", ""):
        refusal = method.refusal(network, method.resolve(network, target))
        assert "SiLU" in refusal.what
        assert refusal.next_step
        with pytest.raises(Refused, match="SiLU"):
            network.view(name, target, torch.randn(1, 1, 6, 6))


def slow_integral(network: Network, images: Tensor, start: Tensor, labels: list[int], steps: int) -> Tensor:
    """Integrated gradients as the paper writes them: a sum of many equal steps, taken at their middles."""
    total = torch.zeros_like(images)
    for step in range(steps):
        at = start + (images - start) * (step + 0.5) / steps
        for index, label in enumerate(labels):
            total[index] += slow_gradient(
                network, at[index : index + 1], lambda module, leaf, label=label: network.scores(module(leaf))[0, label]
            )[0]
    return (images - start) * total / steps


def test_integrated_gradients_are_the_integral_of_the_class_predicted_for_the_image_itself() -> None:
    network, batch = double(tiny_network("reused"), generic=True)
    with torch.no_grad():
        # So that no class is the largest everywhere.
        network.module.linear.bias -= network.scores(network.module.eval()(batch.tensor)).mean(dim=0)
        start = baseline_images(network, batch.tensor, "blur")
        labels, begun = (network.scores(network.module(each)).argmax(dim=1).tolist() for each in (batch.tensor, start))
    assert labels != begun
    expected = slow_integral(network, batch.tensor, start, labels, 400)
    view = network.view("integrated_gradients", images=batch, baseline="blur", steps=200, tolerance=0.0)
    assert view.meta["labels"] == labels
    assert np.allclose(view["attribution"], expected, atol=2e-2 * float(expected.abs().max()))
    assert (view["completeness_error"] < 0.01).all()
    assert view["gradients"].tolist() == [200] * 3


class Sharp(nn.Module):
    """Rises within the first thousandth of the way from black, and hardly afterwards."""

    def forward(self, image: Tensor) -> Tensor:
        mean = image.mean((1, 2, 3))
        return torch.stack([(2000 * mean).clamp(max=1) + 0.1 * mean, -mean], dim=1)


def test_where_the_objective_turns_sharply_more_gradients_are_taken() -> None:
    network = Network.from_module(nn.Sequential(Sharp()), image_size=4, channels=1)
    images = torch.full((2, 1, 4, 4), 0.8)
    images[1] = -0.8  # the other class: a straight line
    rough = network.view("integrated_gradients", images=images, steps=10, tolerance=0.0)
    assert rough["completeness_error"][0] > 0.5
    assert "weren't enough" in rough.meta["warnings"][0]
    fine = network.view("integrated_gradients", images=images, steps=10)
    assert fine["completeness_error"].max() <= 0.01
    assert fine["gradients"][0] > 10
    assert fine["gradients"][1] == 10, "nothing is done again where it was right"
    assert fine["attribution"][0].sum() == pytest.approx(1.08, rel=0.01)
    assert not fine.meta["warnings"]
    # Twelve gradients can't follow it: what is left is told.
    poor = network.view("integrated_gradients", images=images, steps=1)
    assert poor["completeness_error"][0] > 0.01
    assert poor.meta["warnings"]


def test_baselines() -> None:
    network = Network.from_module(nn.Conv2d(3, 1, 1), image_size=(6, 9), mean=(0.5, 0.4, 0.3), std=0.25)
    images = torch.stack([network.prepare(np.full((6, 9, 3), level, np.uint8))[0] for level in (0, 255)])
    assert torch.allclose(baseline_images(network, images, "black"), images[:1].expand_as(images))
    assert torch.allclose(baseline_images(network, images, "white"), images[1:].expand_as(images))
    assert not baseline_images(network, images, "mean").any()
    assert torch.allclose(baseline_images(network, images, "blur"), images, atol=1e-5)
    noise = baseline_images(network, images, "noise", 3)
    assert torch.equal(noise[0], noise[1])
    assert not torch.equal(noise, baseline_images(network, images, "noise", 4))
    assert (noise >= images[0]).all()
    assert (noise <= images[1]).all()


def test_nodes_integrate_polynomials_exactly() -> None:
    nodes, weights = nodes_and_weights(5)
    for degree in range(10):
        assert (weights * nodes**degree).sum() == pytest.approx(1 / (degree + 1), rel=1e-12)


@pytest.mark.parametrize("squared", [False, True])
def test_smoothgrad_is_the_mean_of_noisy_gradients(squared: bool) -> None:
    network, batch = double(tiny_network("reused"), generic=True)
    view = network.view("smoothgrad", images=batch, samples=7, noise=0.3, noise_seed=5, squared=squared)
    with torch.no_grad():
        labels = network.scores(network.module.eval()(batch.tensor)).argmax(dim=1).tolist()
    generator = torch.Generator().manual_seed(5)
    noise = [torch.randn(batch.tensor.shape[1:], generator=generator).double() for _ in range(7)]
    for index, (image, label) in enumerate(zip(batch.tensor, labels, strict=True)):
        spread = 0.3 * (image.max() - image.min())
        noisy = torch.stack([image + spread * each for each in noise])
        found = slow_gradient(network, noisy, lambda module, leaf, label=label: network.scores(module(leaf))[0, label])
        expected = (found.square() if squared else found).mean(dim=0)
        assert np.allclose(view["attribution"][index], expected, rtol=1e-5, atol=1e-6)
    assert view.meta["signed_attribution"] is not squared


def test_a_choice_that_is_made_is_kept_while_the_images_change() -> None:
    network, batch = double(tiny_network("branches"), generic=True)
    target = Gradient().resolve(network, "relu:3")
    bound = BoundSeed.bind(network, target, "score", "maximum", batch)
    fixed = bound.fixed(bound.measure(network, batch).choice)
    other = Batch(batch.tensor.flip(2), batch.fingerprints, batch.names, batch.labels)
    places = fixed.choice.places
    for index, image in enumerate(other.tensor):
        value = maps(network.module, image[None], 3)[tuple(places[index])]
        assert fixed.measure(network, other).values[index] == value
    assert fixed.part(slice(1, 3)).choice.places.tolist() == places[1:].tolist()
    assert fixed.repeated(2).choice.places.tolist() == [each for each in places.tolist() for _ in range(2)]
    assert not torch.equal(bound.measure(network, other).choice.places, places)


@pytest.mark.parametrize(("name", "given"), [("integrated_gradients", {"steps": 6}), ("smoothgrad", {"samples": 6})])
def test_every_pass_is_told(name: str, given: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    module = f"convscope.methods.attribution.{name}"
    monkeypatch.setattr(f"{module}.images_per_pass", lambda _network: 2)
    monkeypatch.setattr("convscope.methods.attribution.attribution.images_per_pass", lambda _network: 2)
    tiny = tiny_network("edges")
    seen: list[Progress] = []
    with watch(seen.append):
        tiny.network().view(name, images=tiny.images(3), **given)
    shares = [each.done / each.total for each in seen]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert len(set(shares)) >= 8
