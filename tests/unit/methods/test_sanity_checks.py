"""Sanity checks: known answers on tiny networks, the behaviors that they are there to find, and what they say."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from convscope.errors import ConvscopeError, Refused, UnknownName
from convscope.methods.attribution.attribution import Attributed, Attribution, each_image, nobody
from convscope.methods.evidence import verdict
from convscope.methods.evidence.comparison import CURVES, edge_map
from convscope.methods.evidence.maps import Question
from convscope.methods.evidence.sanity_checks import SanityChecks
from convscope.methods.evidence.similarity import settled, spearman
from convscope.network.network import Network
from convscope.progress import watch
from convscope.testing import tiny_network
from convscope.testing.laws import check_same_state, state_of


@dataclass(frozen=True)
class Edges(Attribution):
    """An edge detector that calls itself an attribution."""

    name: ClassVar[str] = "edges"
    title: ClassVar[str] = "Edges"
    signed: ClassVar[bool] = False

    def attribute(self, network, bound, batch, told=nobody):
        found = bound.measure(network, batch)
        return Attributed(edge_map(batch.tensor)[:, None], each_image(found.values, len(batch)), found.labels)


@pytest.fixture
def edges(monkeypatch):
    from convscope.methods.evidence import sanity_checks

    known = sanity_checks.method_class
    monkeypatch.setattr(sanity_checks, "method_class", lambda name: Edges if name == "edges" else known(name))


def classifier(seed: int = 0) -> Network:
    """Three convolutions and a linear classifier on 24 × 24 pixels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nn.Sequential(
            *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(576, 10)),
        )
        with torch.no_grad():
            for each in module:
                if isinstance(each, nn.Conv2d | nn.Linear):
                    each.weight.normal_(0, (2 / each.weight[0].numel()) ** 0.5)
    return Network.from_module(module, image_size=24)


def pooled() -> Network:
    """The same with more channels and max pooling."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(2304, 10)),
        )
        with torch.no_grad():
            for each in module:
                if isinstance(each, nn.Conv2d | nn.Linear):
                    each.weight.normal_(0, (2 / each.weight[0].numel()) ** 0.5)
                    each.bias.zero_()
    return Network.from_module(module, image_size=24)


def shapes(count: int = 3) -> torch.Tensor:
    """Bright rectangles on a dark ground, [image, 1, 24, 24]."""
    images = torch.full((count, 1, 24, 24), -1.0)
    for index in range(count):
        images[index, :, 4 + index : 14, 6 : 16 - 2 * index] = 1.0
        images[index, :, 17 : 20 - index % 2, 3:20] = 0.3
    return images + 0.05 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))


def test_a_gradient_map_changes_with_the_weights():
    view = classifier().view("sanity_checks", images=shapes(), of="gradient", steps=0)
    assert view.meta["stages"] == ["original", "7", "4 and later", "2 and later", "0 and later"]
    assert np.array_equal(view["spearman"][0], [1, 1, 1])
    assert np.array_equal(view["ssim"][0], [1, 1, 1])
    assert (view["spearman_signed"][1:] < 0.6).all()
    assert (np.abs(view["spearman"][-1]) < 0.5).all()
    found = next(each for each in view.meta["findings"] if each["check"] == "randomization")
    assert found["level"] in ("good", "neutral")


def test_an_edge_detector_does_not(edges):
    view = classifier().view("sanity_checks", images=shapes(), of="edges", steps=0)
    assert (view["spearman"] == 1).all()
    assert (view["ssim"] == 1).all()
    assert np.array_equal(view["edge_similarity"], [1, 1, 1])
    levels = {each["check"]: each["level"] for each in view.meta["findings"]}
    assert levels == {"randomization": "doubt", "edges": "doubt"}


def test_guided_backpropagation_hardly_changes_whatever_the_weights():
    # As Nie et al. prove for many channels: whatever the weights, it restores the image.
    wide, levels = pooled(), {}
    for of in ("gradient", "guided_backprop"):
        view = wide.view("sanity_checks", images=shapes(), of=of, steps=0)
        levels[of] = next(each["level"] for each in view.meta["findings"] if each["check"] == "randomization")
        alike = np.median(view["spearman"], axis=1)
        if of == "gradient":
            assert (np.abs(alike[1:]) < 0.2).all()
            assert view.meta["badge"] == ""
        else:
            assert (alike[1:] > 0.55).all()
            assert "Not class-sensitive" in view.meta["badge"]
    assert levels == {"gradient": "good", "guided_backprop": "doubt"}


def test_each_stage_is_the_map_of_a_network_with_those_weights():
    network, images = classifier(), shapes(2)
    view = network.view("sanity_checks", images=images, of="gradient", objective="score:3", steps=0, stages=2)
    plain = network.view("gradient", images=images, objective="score:3")
    assert np.array_equal(view["randomized"][0], plain["map"])
    from convscope.methods.evidence.randomization import cascade, copy_of, forget

    copied = network.with_module(copy_of(network.module))
    for stage in cascade(network, None, 2):
        forget(copied.module, stage.paths, seed=0)
    again = copied.view("gradient", images=images, objective="score:3")
    assert np.array_equal(view["randomized"][2], again["map"])
    assert view["spearman_signed"][2, 1] == pytest.approx(spearman(again["map"][1], plain["map"][1]), abs=1e-3)


def test_what_is_explained_stays_what_the_trained_network_chose():
    network, images = classifier(), shapes(3)
    view = network.view("sanity_checks", images=images, of="gradient", steps=0, stages=1)
    assert view.meta["labels"] == network.view("gradient", images=images).meta["labels"]
    for index, label in enumerate(view.meta["labels"]):
        one = network.view(
            "sanity_checks",
            images=images[index : index + 1],
            of="gradient",
            objective=f"score:{label}",
            steps=0,
            stages=1,
        )
        assert np.allclose(one["randomized"][:, 0], view["randomized"][:, index], atol=1e-6)


def test_curves_are_the_class_probability_of_changed_images():
    network, images = classifier(), shapes(2)
    view = network.view("sanity_checks", images=images, of="gradient", stages=0, steps=4, fills="image", tile=1)
    labels = view.meta["labels"]
    assert view.meta["measure"] == "probability of the class"

    def probability(image, tensor):
        with torch.no_grad():
            return float(network.module(tensor[None]).double().softmax(dim=1)[0, labels[image]])

    for image in range(2):
        mean = images[image].mean().expand(1, 24, 24)
        assert view["deletion"][:, image, 0] == pytest.approx(probability(image, images[image]), abs=1e-6)
        assert view["deletion"][:, image, -1] == pytest.approx(probability(image, mean), abs=1e-6)
        order = np.argsort(-settled(np.abs(view["randomized"][0, image])).ravel(), kind="stable")
        for step in range(1, 4):
            gone = np.zeros(576, bool)
            gone[order[: 576 * step // 4]] = True
            mask = torch.from_numpy(gone.reshape(1, 24, 24))
            deleted, inserted = torch.where(mask, mean, images[image]), torch.where(mask, images[image], mean)
            assert view["deletion"][0, image, step] == pytest.approx(probability(image, deleted), abs=1e-5)
            assert view["insertion"][0, image, step] == pytest.approx(probability(image, inserted), abs=1e-5)
    assert np.allclose(view["deletion_area"][0], np.trapezoid(view["deletion"], dx=0.25, axis=2), atol=1e-6)
    assert view["fraction"].tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_deletion_by_the_right_order_beats_the_others():
    # The score is a weighted sum of nonnegative pixels, and input times gradient is each one's exact share.
    generator = torch.Generator().manual_seed(3)
    linear = nn.Linear(64, 1, bias=False)
    linear.weight.data = torch.rand((1, 64), generator=generator)
    network = Network.from_module(nn.Sequential(nn.Flatten(), linear), image_size=8, channels=1)
    images = torch.rand((4, 1, 8, 8), generator=generator)
    options = {"of_parameters": '{"times_input": true}', "steps": 8, "fills": "black", "objective": "score:0"}
    view = network.view("sanity_checks", images=images, of="gradient", **options)
    assert view.meta["measure"] == "score"
    deletion, insertion = view["deletion_area"][0], view["insertion_area"][0]
    assert (deletion[0] < deletion[1:]).all()
    assert (insertion[0] > insertion[1:]).all()
    found = next(each for each in view.meta["findings"] if each["check"] == "deletion and insertion")
    assert found["level"] == "good"
    assert "4 and 4" in found["text"]
    # Any other order of one and the same sum: what is deleted and what is left add up to the whole.
    assert np.allclose(view["deletion"][0] + view["insertion"][0], view["deletion"][0, :, :1], atol=1e-5)


def test_a_unit_is_followed_at_its_place():
    network, images = classifier(), shapes(2)
    view = network.view("sanity_checks", "3:5", images=images, of="gradient", stages=1, steps=2, fills="black")
    place = network.view("gradient", "3:5", images=images)["place"]
    assert view.meta["stages"] == ["original", "2"]
    assert view.meta["labels"] == []
    assert "strongest value" in view.meta["measure"]
    black = torch.zeros(1, 1, 24, 24)
    with torch.no_grad():
        whole, none = network.module[:4](images)[:, 5], network.module[:4](black)[0, 5]
    for image, (row, column) in enumerate(place):
        assert view["deletion"][0, image, 0] == pytest.approx(float(whole[image, row, column]), rel=1e-5)
        assert view["deletion"][0, image, -1] == pytest.approx(float(none[row, column]), rel=1e-4, abs=1e-6)


def test_several_fills_tell_whether_the_ranking_depends_on_them():
    view = classifier().view(
        "sanity_checks", images=shapes(), of="gradient", stages=0, steps=3, fills="black, mean,black"
    )
    assert view.meta["fills"] == ["black", "mean"]
    assert view["deletion_area"].shape == (2, 5, 3)
    alone = classifier().view("sanity_checks", images=shapes(), of="gradient", stages=0, steps=3, fills="mean")
    assert np.array_equal(view["deletion_area"][1], alone["deletion_area"][0])
    assert any(each["check"] == "fill" for each in view.meta["findings"])


def test_other_noise_seeds_and_baselines_are_compared_where_a_method_has_them():
    view = classifier().view(
        "sanity_checks", images=shapes(2), of="smoothgrad", stages=0, steps=0, of_parameters='{"samples": 3}'
    )
    assert view.meta["variants"] == ["noise_seed=1", "noise_seed=2"]
    assert view["sensitivity"].shape == (2, 2)
    assert (view["sensitivity"] < 1).all()
    other = classifier().view("smoothgrad", images=shapes(2), samples=3, noise_seed=2)
    assert np.array_equal(view["varied"][1], other["map"])
    none = classifier().view("sanity_checks", images=shapes(2), of="gradient", stages=0, steps=0)
    assert "sensitivity" not in none.arrays
    assert none.meta["variants"] == []


def test_a_method_that_looks_at_a_layer_is_checked_there():
    network, images = classifier(), shapes(2)
    given = {"of": "grad_cam", "steps": 2, "fills": "gray", "stages": 2}
    view = network.view("sanity_checks", "3", images=images, **given)
    assert np.array_equal(view["randomized"][0], network.view("grad_cam", "3", images=images)["map"])
    assert view.meta["layer"] == "3"
    assert view.meta["stages"] == ["original", "7", "0 and later"]
    unit = network.view("sanity_checks", "5:2", images=images, **given)
    assert np.array_equal(unit["randomized"][0], network.view("grad_cam", "5:2", images=images)["map"])


def test_parts_can_be_left_out():
    view = classifier().view("sanity_checks", images=shapes(1), of="gradient", stages=0, steps=0, variants=0)
    assert set(view.arrays) == {
        *("picture", "randomized", "spearman", "spearman_signed", "ssim", "compared", "edge_similarity")
    }
    assert view.meta["cautions"] == [verdict.TOGETHER]


def test_the_users_module_is_never_touched():
    network = classifier()
    before = state_of(network.module)
    network.view("sanity_checks", images=shapes(2), of="gradient", steps=2, fills="mean")
    check_same_state(before, state_of(network.module))


def test_the_first_thing_shown_is_the_map_and_every_preview_is_a_view():
    shown = []
    with watch(lambda _: None, previews=shown.append):
        view = classifier().view("sanity_checks", images=shapes(1), of="gradient", steps=2, fills="mean")
    assert shown
    for each in shown:
        assert each.kind == "sanity_checks"
        assert each.axes["randomized"] == view.axes["randomized"]
        assert np.array_equal(each["randomized"][0], view["randomized"][0])
        json.dumps(dict(each.meta))


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"of": "weights"}, ConvscopeError, "no maps of importance"),
        ({"of": "gradeint"}, UnknownName, "did you mean gradient"),
        ({"of_parameters": "{"}, ConvscopeError, "not JSON"),
        ({"of_parameters": "[1]"}, ConvscopeError, "not a JSON object"),
        ({"of_parameters": '{"objective": "loss"}'}, ConvscopeError, "sanity_checks itself"),
        ({"of_parameters": '{"reduec": "norm"}'}, UnknownName, "did you mean reduce"),
        ({"fills": "blurr"}, UnknownName, "did you mean blur"),
        ({"fills": " , "}, UnknownName, "no fill is named"),
    ],
)
def test_what_can_not_be_checked_is_refused_at_once(given, error, said):
    with pytest.raises(error, match=said):
        SanityChecks(**given)


def test_a_function_of_ones_own_is_refused():
    with pytest.raises(Refused, match="one value for all images"):
        classifier().view("sanity_checks", images=shapes(2), of="gradient", objective=lambda scores, _: scores.mean())


def test_a_map_that_is_the_same_everywhere_is_said_not_to_be_comparable():
    network = tiny_network("pixels").network()
    with torch.no_grad():
        network.module.linear.weight.fill_(1.0)
    view = network.view("sanity_checks", images=tiny_network("pixels").images(2), of="gradient", steps=0)
    assert np.isnan(view["spearman"]).all()
    (found,) = (each for each in view.meta["findings"] if each["check"] == "randomization")
    assert "can't be compared" in found["text"]


def test_the_answer_to_variants_is_the_networks():
    network, images = classifier(), shapes(2)
    from convscope.methods.attribution.gradient import Gradient
    from convscope.methods.base import Target

    question = Question.ask(Gradient(objective="loss:4"), network, Target(), network.batch(images))
    variants = torch.randn(5, 1, 24, 24, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = network.module(variants).double().softmax(dim=1)[:, 4]
    assert torch.allclose(question.answer(1, variants), expected, atol=1e-6)


# ---- words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("last", "level"), [(0.05, "good"), (-0.1, "good"), (0.4, "neutral"), (0.8, "doubt")])
def test_words_about_randomization(last, level):
    found = verdict.on_randomization(
        np.array([[1.0, 1], [0.6, 0.8], [last, last]]), ["original", "fc", "conv and later"]
    )
    assert found[0].level == level
    assert f"{last:.2f}" in found[0].text
    assert "fc alone random 0.70" in found[0].text


def test_a_map_that_does_not_mind_the_classifier_is_doubted():
    stages = ["original", "fc", "conv and later"]
    (found,) = verdict.on_randomization(np.array([[1.0], [0.97], [0.1]]), stages)
    assert found.level == "doubt"
    assert "why this answer" in found.text


def test_words_about_randomization_count_what_is_undefined():
    found = verdict.on_randomization(np.array([[1.0, 1, 1], [0.1, np.nan, 0.2]]), ["original", "fc"])
    assert "median over 2 images (1 more" in found[0].text


def test_words_about_curves():
    areas = np.array([[0.1, 0.2], [0.05, 0.05], [0.2, 0.1], [0.4, 0.4], [0.3, 0.3]])
    (mixed,) = verdict.on_curves(areas, 1 - areas, CURVES)
    assert mixed.level == "neutral"
    assert "a random order (0 and 0), a blob in the center (1 and 1), edges (2 and 2)" in mixed.text
    assert verdict.on_curves(areas[[3, 1, 2, 0, 4]], 1 - areas[[3, 1, 2, 0, 4]], CURVES)[0].level == "doubt"
    assert verdict.on_curves(areas[[0, 1, 3, 3, 4]], 1 - areas[[0, 1, 3, 3, 4]], CURVES)[0].level == "good"
    # One image whose answer nothing moves is told, and judges nobody; where no image's moves, nothing is judged.
    still = np.full((5, 1), 0.7) + np.linspace(0, 0.006, 5)[:, None]
    (some,) = verdict.on_curves(np.hstack([areas, still]), np.hstack([1 - areas, still]), CURVES)
    assert some.text == mixed.text.removesuffix(".") + " (for 1 more the order hardly matters)."
    (none,) = verdict.on_curves(still, still, CURVES)
    assert none.level == "neutral"
    assert "say nothing about this map" in none.text


def test_words_about_fills():
    areas = np.array([[0.1], [0.3], [0.2], [0.4], [0.35]])
    assert verdict.on_fills(areas[None], areas[None], ["blur"], CURVES) == []
    (same,) = verdict.on_fills(np.stack([areas, areas + 1]), -np.stack([areas, areas + 1]), ["blur", "mean"], CURVES)
    assert (same.level, "ranks the orders the same" in same.text) == ("good", True)
    (other,) = verdict.on_fills(np.stack([areas, -areas]), -np.stack([areas, areas]), ["blur", "mean"], CURVES)
    assert other.level == "neutral"
    assert "mean: edges and the map" in other.text


def test_words_about_sensitivity():
    (steady,) = verdict.on_sensitivity(np.array([[0.9, 0.95]]), ["noise_seed=1"])
    assert (steady.level, "noise_seed=1 0.93" in steady.text or "0.92" in steady.text) == ("good", True)
    assert verdict.on_sensitivity(np.array([[0.9], [0.3]]), ["a", "b"])[0].level == "doubt"
    assert verdict.on_sensitivity(np.array([[np.nan]]), ["a"]) == []
