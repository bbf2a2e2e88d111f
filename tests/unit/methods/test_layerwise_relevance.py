from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope.errors import Refused
from convscope.methods.attribution.layerwise_relevance import LayerwiseRelevance, check_zennit
from convscope.methods.attribution.relevance_rules import COMPOSITES, plan, twin
from convscope.methods.base import Target
from convscope.network.network import Network
from convscope.testing import tiny_network
from convscope.testing.laws import check_same_state, state_of
from convscope.trace.relevance import RelevanceFlow

# It imports torchvision, which may be broken where the tests' configuration hasn't been read.
zennit = pytest.importorskip("zennit", reason="zennit isn't installed; `make test` installs it")
SIZE = (10, 12)


class Modules(nn.Module):
    """A residual network in modules, as zennit's own canonizers know how to take apart."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d((2, 2)),
        )
        self.flatten = nn.Flatten()
        self.hidden = nn.Linear(32, 7)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(7, 4)
        generator = torch.Generator().manual_seed(3)
        for each in self.modules():
            if isinstance(each, nn.BatchNorm2d):
                for tensor in (each.running_mean, each.weight.data, each.bias.data):
                    tensor.copy_(torch.randn(tensor.shape, generator=generator) / 2)
                each.running_var.copy_(torch.rand(each.running_var.shape, generator=generator) + 0.5)

    def forward(self, images):
        return self.linear(self.relu(self.hidden(self.flatten(self.features(images)))))


class Functions(Modules):
    """The same, with everything that has no weights spelled as a function."""

    def forward(self, images):
        each = self.features
        maps = F.max_pool2d(F.relu(each[1](each[0](images)), inplace=True), 2)
        maps = each[5](each[4](maps)).relu_()
        pooled = F.adaptive_avg_pool2d(maps, (2, 2)).reshape(len(maps), -1)
        return self.linear(torch.clamp(self.hidden(pooled), min=0))


def made(kind: type[nn.Module] = Modules) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval()


def images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def by_zennit(module: nn.Module, pixels: torch.Tensor, composite: str, canonizer, low=0.0, high=1.0) -> torch.Tensor:
    """Zennit as its readme has it: its own composite, with the score itself as the relevance to hand back."""
    from zennit.attribution import Gradient
    from zennit.composites import COMPOSITES as THEIRS

    options = {"low": torch.tensor(low), "high": torch.tensor(high)} if composite == "epsilon_gamma_box" else {}
    with Gradient(module, THEIRS[composite](canonizers=[canonizer], **options)) as attributor:
        _, relevance = attributor(pixels, lambda scores: scores.detach() * F.one_hot(scores.argmax(1), scores.shape[1]))
    return relevance.detach()


@pytest.mark.parametrize("kind", [Modules, Functions])
@pytest.mark.parametrize("composite", sorted(set(COMPOSITES) - {"epsilon"}))
def test_equal_to_zennits_own_composites(kind, composite):
    from zennit.canonizers import SequentialMergeBatchNorm

    expected = by_zennit(made(), images(), composite, SequentialMergeBatchNorm())
    view = Network.from_module(made(kind), image_size=SIZE).view(
        "layerwise_relevance", images=images(), composite=composite
    )
    assert torch.allclose(torch.from_numpy(view["attribution"]), expected, atol=1e-5 * float(expected.abs().max()))
    assert view.meta["facts"]["merged"] == ["features.1", "features.5"]
    sums = expected.double().sum(dim=(1, 2, 3)).numpy()
    assert np.allclose(view["conservation"], sums / np.array(view.meta["values"]), rtol=1e-4)


def test_equal_to_zennit_on_resnet18():
    models = pytest.importorskip("torchvision.models", reason="torchvision isn't installed; `make test` installs it")
    from zennit.torchvision import ResNetCanonizer

    torch.manual_seed(0)
    module = models.resnet18(weights=None, num_classes=5).eval()
    pixels = torch.randn(1, 3, 48, 40)
    network = Network.from_module(module, image_size=(48, 40))
    before = state_of(module)
    view = network.view("layerwise_relevance", images=pixels)
    check_same_state(before, state_of(module))
    expected = by_zennit(module, pixels, "epsilon_plus_flat", ResNetCanonizer())
    assert torch.allclose(torch.from_numpy(view["attribution"]), expected, atol=1e-4 * float(expected.abs().max()))


def test_the_epsilon_rule_by_its_definition():
    # Sobel kernels, ReLU, a mean and a linear layer, shared out value by value in float64.
    network = tiny_network("edges").network()
    network.module.double()
    pixels = torch.randn(1, 1, 9, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    kernel = network.module.convolution.weight.detach().numpy()[:, 0]
    weight, bias = network.module.linear.weight.detach().numpy(), network.module.linear.bias.detach().numpy()
    image = pixels[0, 0].numpy()
    before = np.zeros((2, 7, 5))
    for unit, row, column in np.ndindex(2, 7, 5):
        before[unit, row, column] = (image[row : row + 3, column : column + 3] * kernel[unit]).sum()
    maps = np.maximum(before, 0)
    means = maps.mean(axis=(1, 2))
    score = float(weight[2] @ means + bias[2])
    relevance = np.zeros((9, 7))
    for unit, row, column in np.ndindex(2, 7, 5):
        of_mean = weight[2, unit] * means[unit] / score * score
        of_value = maps[unit, row, column] / 35 / means[unit] * of_mean
        for r, c in np.ndindex(3, 3):
            part = image[row + r, column + c] * kernel[unit, r, c]
            relevance[row + r, column + c] += part / before[unit, row, column] * of_value
    view = network.view("layerwise_relevance", "", pixels, objective="score:2", composite="epsilon", epsilon=1e-9)
    assert np.allclose(view["map"][0], relevance, atol=1e-4)
    assert view["conservation"][0] == pytest.approx(relevance.sum() / score, abs=1e-5)


def test_of_a_unit_by_its_seed():
    network = Network.from_module(made(), image_size=SIZE)
    maps = network.view("activations", "features.4", images())["map"][:, 5]
    gradient = network.view("gradient", "features.4:5", images(), times_input=True)
    for seed, handed in (
        ("maximum", maps.max(axis=(1, 2))),
        ("map", maps.sum(axis=(1, 2))),
        ("mean", maps.mean(axis=(1, 2))),
    ):
        view = network.view("layerwise_relevance", "features.4:5", images(), composite="epsilon", seed=seed)
        arrived = view["attribution"].astype(np.float64).sum(axis=(1, 2, 3))
        assert np.allclose(arrived, view["conservation"] * handed, rtol=1e-3)
    assert view["place"].tolist() == [[-1, -1]] * 2
    place = network.view("layerwise_relevance", "features.4:5", images())["place"]
    assert place.tolist() == gradient["place"].tolist()
    # The normalization behind the convolution is not merged into it: it isn't part of what is explained.
    assert view.meta["facts"]["merged"] == ["features.1"]


def test_without_biases_everything_arrives():
    module = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(320, 3, bias=False))
    network = Network.from_module(module, image_size=SIZE)
    for composite in COMPOSITES:
        view = network.view("layerwise_relevance", images=images(), composite=composite)
        assert np.allclose(view["conservation"], 1, atol=1e-3), composite


def test_biases_take_their_share_or_leave_it():
    network = Network.from_module(made(), image_size=SIZE)
    network.module.linear.bias.data.fill_(5.0)
    with_biases = network.view("layerwise_relevance", images=images())
    assert any("biases have the rest" in warning for warning in with_biases.meta["warnings"])
    without = network.view("layerwise_relevance", images=images(), biases=False)
    assert np.allclose(without["conservation"], 1, atol=1e-3)
    assert without.meta["warnings"] == []


def test_a_merged_normalization_leaves_no_remainder():
    # Its small number, added to the variance, would shrink every value once more.
    module = made()
    for each in (module.features[1], module.features[5]):
        each.eps = 0.5
    network = Network.from_module(module, image_size=SIZE)
    view = network.view("layerwise_relevance", images=images())
    assert view.meta["facts"]["merged"] == ["features.1", "features.5"]
    assert module.features[1].eps == 0.5


def test_a_border_of_zeros_is_still_the_image():
    module = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(480, 3))
    network = Network.from_module(module, image_size=SIZE)
    assert plan(network, None, "epsilon_gamma_box").rules == {"1": "box", "4": "epsilon"}


def test_a_skip_shares_relevance_in_proportion_however_it_is_spelled():
    for spelled in (lambda a, b: a + b, torch.add, lambda a, b: (a * 1).add_(b), lambda a, b: (0 + b).__iadd__(a)):
        a, b = torch.tensor([3.0, -1.0], requires_grad=True), torch.tensor([1.0, 3.0], requires_grad=True)
        with RelevanceFlow():
            total = spelled(a, b)
        found = torch.autograd.grad(total, [a, b], torch.tensor([8.0, 8.0]))
        assert torch.allclose(found[0], torch.tensor([6.0, -4.0]), atol=1e-4)
        assert torch.allclose(found[1], torch.tensor([2.0, 12.0]), atol=1e-4)


def test_averages_scalings_and_nonlinearities():
    a = torch.tensor([[1.0, 3.0, -2.0]], requires_grad=True)
    with RelevanceFlow():
        mean = (2 * a / 4 - 0.0).mean(dim=1)
        passed = F.silu(torch.nn.functional.leaky_relu(a))
        taken = 5 - (-a)
    assert torch.allclose(
        torch.autograd.grad(mean, a, torch.tensor([4.0]))[0], torch.tensor([[2.0, 6.0, -4.0]]), atol=1e-4
    )
    assert torch.autograd.grad(passed, a, torch.ones(1, 3))[0].tolist() == [[1, 1, 1]]
    assert torch.allclose(torch.autograd.grad(taken, a, torch.ones(1, 3))[0], a / (5 + a))
    with RelevanceFlow(), pytest.raises(Refused, match="product of values"):
        a * a
    with RelevanceFlow(), pytest.raises(Refused, match="division by values"):
        1 / a


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.gate = nn.Conv2d(4, 4, 1)
        self.linear = nn.Linear(4, 3)

    def forward(self, images):
        maps = self.convolution(images).relu()
        return self.linear((maps * self.gate(maps.mean((2, 3), keepdim=True)).sigmoid()).mean((2, 3)))


class Applied(Gated):
    def forward(self, images):
        return self.linear(F.conv2d(images, self.convolution.weight).relu().mean((2, 3)))


class Softened(Gated):
    def forward(self, images):
        return self.linear(self.convolution(images).relu().mean((2, 3))).softmax(1)


def parametrized() -> nn.Module:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(320, 3))
    nn.utils.parametrizations.weight_norm(module[0])
    return module


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Gated, "mul combines relu and sigmoid"),
        (Applied, "conv2d applies its weights by a function"),
        (Softened, "softmax, which has no relevance rule"),
        (parametrized, "computes its weights during the forward pass"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(320, 3)), "GroupNorm"),
        (tiny_network("reused").module, "called more than once"),
    ],
)
def test_what_has_no_rule_is_refused_before_anything_is_computed(make, reason):
    channels = 4 if reason == "called more than once" else 3
    network = Network.from_module(make(), image_size=SIZE, channels=channels)
    refusal = LayerwiseRelevance().refusal(network, Target())
    assert isinstance(refusal, Refused)
    assert reason in str(refusal)
    assert refusal.next_step
    first = next(layer.address for layer in network.layers if layer.kernel is not None)
    if "computes" not in reason and "conv2d" not in reason:
        assert LayerwiseRelevance().refusal(network, LayerwiseRelevance().resolve(network, f"{first}:0")) is None


def test_a_loss_is_refused():
    network = Network.from_module(made(), image_size=SIZE)
    with pytest.raises(Refused, match="loss isn't made up of parts"):
        network.view("layerwise_relevance", images=images(), objective="loss")


def test_a_box_needs_the_image_as_it_is_prepared():
    class Scaled(Gated):
        def forward(self, images):
            return self.linear(self.convolution(images * 2 - 1).relu().mean((2, 3)))

    network = Network.from_module(Scaled(), image_size=SIZE)
    with pytest.raises(Refused, match="black and white"):
        network.view("layerwise_relevance", images=images(), composite="epsilon_gamma_box")
    network.view("layerwise_relevance", images=images())


def test_without_zennit_it_says_what_to_install(monkeypatch):
    network = Network.from_module(made(), image_size=SIZE)
    for name in [name for name in sys.modules if name.partition(".")[0] == "zennit"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "zennit", None)
    assert "isn't installed" in str(LayerwiseRelevance().refusal(network, Target()))
    with pytest.raises(Refused, match=r"pip install 'convscope\[relevance\]'"):
        network.view("layerwise_relevance", images=images())
    with pytest.raises(Refused, match="isn't installed"):
        check_zennit()
    monkeypatch.undo()
    check_zennit()


def test_a_zennit_that_cannot_be_imported_says_why(monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.partition(".")[0] == "zennit"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "zennit").mkdir()
    (tmp_path / "zennit" / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(Refused, match="nms does not exist"):
        check_zennit()


def test_a_normalization_behind_a_concatenation_is_not_merged():
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 2, 3, padding=1)
            self.second = nn.Conv2d(3, 2, 1)
            self.norm = nn.BatchNorm2d(4)  # right behind a convolution in the list of modules, but not in what runs
            self.linear = nn.Linear(4, 3)

        def forward(self, images):
            maps = self.norm(torch.cat([self.first(images), self.second(images)], dim=1))
            return self.linear(maps.relu().mean((2, 3)))

    network = Network.from_module(Dense(), image_size=SIZE)
    found = plan(network, None, "epsilon_plus_flat")
    assert found.merged == ()
    assert found.passed == ("norm",)
    assert found.rules == {"first": "flat", "second": "flat", "linear": "epsilon"}
    view = network.view("layerwise_relevance", images=images())
    assert any("can't be merged" in warning for warning in view.meta["warnings"])


def test_the_copy_shares_values_and_nothing_else():
    module = made()
    heard = []
    module.features[0].register_forward_hook(lambda *_: heard.append("hook"))
    copied = twin(module)
    for (name, one), (_, other) in zip(module.named_parameters(), copied.named_parameters(), strict=True):
        assert one is not other, name
        assert one.data_ptr() == other.data_ptr(), name
    copied.features[1].running_mean.data = torch.zeros(6)
    assert module.features[1].running_mean.any()
    copied(images())
    assert heard == ["hook"]
    assert copied.features[0]._forward_hooks is not module.features[0]._forward_hooks


def test_a_network_that_cannot_be_copied_is_refused():
    module = made()
    module.features.secret = (each for each in ())
    network = Network.from_module(module, image_size=SIZE)
    with pytest.raises(Refused, match="can't be copied"):
        network.view("layerwise_relevance", images=images())
