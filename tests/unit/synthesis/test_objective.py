"""Objectives as text, and their values against sums by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from convscope import Network
from convscope.errors import ConvscopeError, Refused, UnknownName
from convscope.synthesis.aims import Aims, similarity
from convscope.synthesis.goal import Captured, Goal
from convscope.synthesis.objective import GRAMMAR, layer_aim, parse_aims, unit_aim

NAMES = ("tabby", "jack-o'-lantern", "a + b")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)
    )
    return Network.from_module(module, image_size=(8, 9), class_names=NAMES)


def lift(maps):
    """What a unit counts on its way up: the mean of its map, negative values a tenth."""
    return torch.where(maps < 0, maps / 10, maps).mean((1, 2))


def captured(network, images, layers):
    with network.trace(layers, gradients=True) as trace:
        output = trace.run(images)
        return Captured(network, trace, output)


def values(network, text, images, *, peak=False, copies=1, diversity=0.0):
    aims = Aims(tuple(parse_aims(text, network)) * (len(images) if ";" not in text else 1), copies, diversity)
    assert isinstance(aims, Goal)
    found = captured(network, images, aims.layers)
    return (aims.peaks if peak else aims.values)(found).detach()


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 2, 8, 9, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def maps(network, images):
    with torch.no_grad():
        first = network.module[0](images)
        return {"0": first, "1": first.relu(), "2": network.module[2](first.relu()), "scores": network.module(images)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0:3", lambda m: lift(m["0"][:, 3])),
        ("1:3", lambda m: m["1"][:, 3].mean((1, 2))),
        ("0:3:2,5", lambda m: m["0"][:, 3, 2, 5]),
        ("2", lambda m: m["2"].square().mean((1, 2, 3))),
        ("class:tabby", lambda m: m["scores"][:, 0]),
        ("class:jack-o'-lantern", lambda m: m["scores"][:, 1]),
        ('class:"a + b"', lambda m: m["scores"][:, 2]),
        ("class:1", lambda m: m["scores"][:, 1]),
        ("0:3 + 0.5*2:1", lambda m: lift(m["0"][:, 3]) + 0.5 * lift(m["2"][:, 1])),
        (
            "-0:1 - 2e-1 * 0:2 + class:0",
            lambda m: m["scores"][:, 0] - m["0"][:, 1].mean((1, 2)) - 0.2 * m["0"][:, 2].mean((1, 2)),
        ),
        ("2*1 - 1:0:0,0", lambda m: 2 * m["1"].square().mean((1, 2, 3)) - m["1"][:, 0, 0, 0]),
    ],
)
def test_an_objectives_value_is_what_its_text_says(network, images, maps, text, expected):
    assert torch.allclose(values(network, text, images), expected(maps), atol=1e-6)


def test_a_direction_is_along_times_the_cosine(network, images, maps):
    vector = np.zeros(4)
    vector[[0, 2]] = np.array([0.3, -0.4]) / 0.5
    expected, strongest = [], []
    for image in maps["0"].double().numpy():
        each = []
        for row in range(image.shape[1]):
            for column in range(image.shape[2]):
                here = image[:, row, column]
                along = here @ vector
                each.append(along * max(0.1, along / np.linalg.norm(here)))
        expected.append(np.mean(each))
        strongest.append(max(each))
    text = "direction(0.3*0:0 - 0.4*0:2)"
    assert values(network, text, images).numpy() == pytest.approx(expected, rel=1e-4)
    assert values(network, text, images, peak=True).numpy() == pytest.approx(strongest, rel=1e-4)
    here = maps["0"][0, :, 1, 4].double().numpy()
    along = here @ vector
    at = values(network, "direction(0.3*0:0:1,4 - 0.4*0:2:1,4)", images)
    assert float(at[0]) == pytest.approx(along * max(0.1, along / np.linalg.norm(here)), rel=1e-4)


def test_a_peak_counts_units_where_they_are_strongest(network, images, maps):
    found = values(network, "0:3 - 2*2:1", images, peak=True)
    assert torch.allclose(found, maps["0"][:, 3].amax((1, 2)) - 2 * maps["2"][:, 1].amax((1, 2)), atol=1e-6)


def test_each_image_has_its_own_objective(network, images, maps):
    found = values(network, "0:3; 0.5*class:1 + 0:2", images)
    assert float(found[0]) == pytest.approx(float(lift(maps["0"][:, 3])[0]), rel=1e-5)
    expected = 0.5 * maps["scores"][1, 1] + lift(maps["0"][:, 2])[1]
    assert float(found[1]) == pytest.approx(float(expected), rel=1e-5)


def test_a_part_of_the_images_has_the_same_values(network, images):
    aims = Aims(parse_aims("0:3; class:1", network))
    alone = aims.part([1]).values(captured(network, images[1:], aims.part([1]).layers))
    together = aims.values(captured(network, images, aims.layers))
    assert torch.allclose(alone, together[1:])
    assert aims.part([0]).needs_output is False


def test_similarity_is_the_cosine_of_gram_matrices():
    maps = torch.randn(3, 4, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    grams = [np.einsum("crk,drk->cd", each, each) for each in maps.numpy()]
    grams = [gram / np.sqrt((gram**2).sum()) for gram in grams]
    expected = [np.mean([(grams[i] * grams[j]).sum() for j in range(3) if j != i]) for i in range(3)]
    assert similarity(maps).numpy() == pytest.approx(expected)


def test_diversity_takes_a_share_of_the_value(network, images, maps):
    plain, priced = (values(network, "1:3", images, copies=2, diversity=each) for each in (0.0, 0.25))
    alike = similarity(maps["1"])
    assert torch.allclose(priced, plain * (1 - 0.25 * alike), atol=1e-6)
    same = values(network, "1:3", images, copies=2, diversity=0.25, peak=True)
    assert torch.equal(same, values(network, "1:3", images, peak=True))


@pytest.mark.parametrize(
    "text", ["0:3", "2", "-0:1 - 0.2*0:2:1,1 + class:0", "direction(0.3*0:0 - 0.4*0:2)", "1:0:0,0"]
)
def test_its_text_is_read_back_as_the_same(network, text):
    (aim,) = parse_aims(text, network)
    assert parse_aims(aim.text, network) == (aim,)
    assert aim.caption


def test_units_and_layers_without_text(network):
    assert unit_aim(network, "0", 3, (1, 2)) == parse_aims("0:3:1,2", network)[0]
    assert layer_aim(network, "2") == parse_aims("2", network)[0]
    assert str(unit_aim(network, "0", 3).unit) == "0:3"
    assert parse_aims("2*0:3", network)[0].unit is None
    assert parse_aims("0:3:1,2", network)[0].fixed
    assert "direction" in GRAMMAR


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("", ConvscopeError, "there is no objective"),
        (" ; ", ConvscopeError, "there is no objective"),
        ("0:3 + ", ConvscopeError, "isn't an objective"),
        ("0:3+0:2", ConvscopeError, "isn't an objective"),
        ("0:9", UnknownName, "has no unit 9"),
        ("0:3:9,9", UnknownName, "has no position"),
        ("conv:1", UnknownName, "no layer 'conv'"),
        ("class:dog", UnknownName, "no class 'dog'"),
        ("class:7", UnknownName, "no class 7"),
        ('class:"tabby', ConvscopeError, "isn't closed"),
        ("direction(0:1 + 2:1)", ConvscopeError, "lies in one layer"),
        ("direction(0:1:0,0 + 0:2)", ConvscopeError, "lies in one layer"),
        ("direction(0:1 - 0:1)", ConvscopeError, "length 0"),
        ("direction(0)", ConvscopeError, "isn't a direction"),
        ("direction(0:1", ConvscopeError, "isn't closed"),
        ("x" * 5000, ConvscopeError, "5,000 characters"),
    ],
)
def test_what_is_no_objective_is_refused_with_what_is(network, text, kind, said):
    with pytest.raises(kind, match=said) as caught:
        parse_aims(text, network)
    assert caught.value.next_step


def test_a_class_before_a_softmax_is_the_unit_it_is_given(images):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Softmax(dim=1))
    network = Network.from_module(module, image_size=(8, 9))
    aims = Aims(parse_aims("class:1; class:1", network))
    assert not aims.needs_output
    assert torch.allclose(aims.values(captured(network, images, aims.layers)), module[:3](images)[:, 1])


class Hidden(nn.Module):
    """Its softmax is followed by something that changes nothing."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2 * 8 * 9, 3)

    def forward(self, images):
        return self.linear(images.flatten(1)).softmax(dim=1) * 1.0


def test_probabilities_are_refused_where_their_scores_cannot_be_told(images):
    network = Network.from_module(Hidden(), image_size=(8, 9), channels=2)
    aims = Aims(parse_aims("class:1; class:1", network))
    with pytest.raises(Refused, match="returns probabilities"):
        aims.values(captured(network, images, aims.layers))


def test_diversity_of_class_scores_is_refused(network):
    with pytest.raises(Refused, match="diversity compares the maps"):
        Aims(parse_aims("class:0; class:0", network), 2, 1.0)
