"""Weight gradients: equal to backward() on the parameters, to finite differences, and to the sum of the images' own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from references import LABELS, backward_by_torch, double, laid_out, objective_value
from torch import nn

from convscope.errors import ConvscopeError, Refused
from convscope.methods import weight_gradients as module_under_test
from convscope.network.batch import Batch
from convscope.network.network import Network
from convscope.progress import watch
from convscope.testing import TINY_NETWORKS, tiny_network


@pytest.mark.parametrize("objective", ["loss:true", "loss:predicted", "loss:2", "score", "score:1"])
@pytest.mark.parametrize("name", sorted(TINY_NETWORKS))
def test_equal_to_backward_on_the_parameters(name, objective):
    network, batch = double(tiny_network(name))
    expected = backward_by_torch(network, batch, objective)
    for layer in network.layers:
        if layer.kernel is None or layer.kernel.parameter not in expected:
            continue
        view = network.view("weight_gradients", layer.address, batch, objective=objective, slices=0)
        reference = laid_out(layer, expected[layer.kernel.parameter], view)
        scale = np.abs(reference).max() + 1e-12
        assert np.abs(view["gradient"] - reference).max() <= 1e-6 * scale, layer.address
        assert np.allclose(view["gradient_norm"], np.sqrt((reference**2).sum(axis=(1, 2, 3))), rtol=1e-5, atol=1e-9)
        assert np.allclose(view["ratio"], view["gradient_norm"] / view["norm"], rtol=1e-5)


@pytest.mark.parametrize("name", sorted(TINY_NETWORKS))
def test_equal_to_central_finite_differences(name):
    network, batch = double(tiny_network(name), generic=True)
    generator = np.random.default_rng(0)
    module = network.module.eval()
    parameters = dict(module.named_parameters())
    for layer in network.layers:
        if layer.kernel is None or layer.kernel.parameter is None:
            continue
        gradient = network.view("weight_gradients", layer.address, batch, objective="loss:true", slices=0)
        weight = parameters[layer.kernel.parameter]
        numeric = np.zeros(tuple(weight.shape))
        chosen = [tuple(int(generator.integers(size)) for size in weight.shape) for _ in range(6)]
        for index in chosen:
            ends = []
            for step in (1e-6, -1e-6):
                with torch.no_grad():
                    weight[index] += step
                    ends.append(float(objective_value(network, module(batch.tensor), "loss:true", LABELS)))
                    weight[index] -= step
            numeric[index] = (ends[0] - ends[1]) / 2e-6
        mask = np.zeros(numeric.shape)
        for index in chosen:
            mask[index] = 1
        kept = laid_out(layer, mask, gradient) == 1
        assert kept.any()
        assert np.allclose(gradient["gradient"][kept], laid_out(layer, numeric, gradient)[kept], atol=2e-7, rtol=1e-5)


def test_a_computed_weights_gradient_is_that_of_the_computed_weight():
    network, batch = double(tiny_network("computed"))
    expected = backward_by_torch(network, batch, "loss:true")["weight"]
    view = network.view("weight_gradients", "conv2d", batch, slices=0)
    own = view["gradient"].astype(np.float64)
    # w = v - mean(v), so dL/dv = dL/dw - mean(dL/dw): the parameter's gradient is the projection of the one shown.
    assert np.allclose(own - own.mean(axis=(1, 2, 3), keepdims=True), expected, rtol=1e-5, atol=1e-8)
    assert not np.allclose(own, expected, rtol=1e-2)


@pytest.mark.parametrize("name", sorted(TINY_NETWORKS))
def test_images_own_gradients_make_up_the_batchs(name):
    tiny = tiny_network(name)
    network, batch = double(tiny)
    for layer in network.layers:
        if layer.kernel is None or layer.opaque:
            continue
        unit = f"{layer.address}:{layer.units - 1}"
        view = network.view("weight_gradients", unit, batch, objective="loss:true", per_image=True)
        own = view["image_gradient"].astype(np.float64)
        mean = own.mean(axis=0)
        assert np.allclose(mean, view["gradient"], rtol=1e-5, atol=1e-7)
        flat, total = own.reshape(3, -1), mean.reshape(-1)
        lengths = np.linalg.norm(flat, axis=1)
        assert np.allclose(view["image_norm"][:, 0], lengths, rtol=1e-5, atol=1e-9)
        if np.linalg.norm(total) < 1e-9 or (lengths < 1e-9).any():
            continue
        cosine = flat @ total / lengths / np.linalg.norm(total)
        assert np.allclose(view["image_cosine"][:, 0], cosine, atol=1e-5)
        assert np.allclose(view["image_share"][:, 0], flat @ total / (3 * total @ total), atol=1e-5)
        assert np.isclose(view["image_share"].sum(), 1, atol=1e-5)
        for image in range(3):
            alone = Batch(
                batch.tensor[image : image + 1], batch.fingerprints[:1], batch.names[:1], LABELS[image : image + 1]
            )
            one = network.view("weight_gradients", unit, alone, objective="loss:true")
            assert np.allclose(one["gradient"], view["image_gradient"][image], rtol=1e-5, atol=1e-8)


def test_a_unit_agrees_with_its_layer():
    network, batch = double(tiny_network("grouped"))
    layer = network.view("weight_gradients", "grouped", batch, slices=0)
    unit = network.view("weight_gradients", "grouped:2", batch)
    assert np.array_equal(unit["gradient"][0], layer["gradient"][2])
    assert np.array_equal(unit["image_share"][:, 0], layer["image_share"][:, 2])
    assert unit.meta["ranges"]["gradient"] == layer.meta["ranges"]["gradient"]


def test_the_same_slices_in_the_same_order_as_the_weights():
    network, batch = double(tiny_network("grouped"))
    weights = network.view("weights", "grouped", slices=2)
    gradients = network.view("weight_gradients", "grouped", batch, slices=2)
    for name in ("kernel", "channel", "bias", "norm", "slice_norm"):
        assert np.array_equal(weights[name], gradients[name])
    assert gradients["gradient"].shape == weights["kernel"].shape
    whole = network.view("weight_gradients", "grouped", batch, slices=0)
    assert gradients.meta["ranges"]["gradient"] == whole.meta["ranges"]["gradient"]


def test_both_calls_of_a_reused_convolution_give_the_same_sum():
    network, batch = double(tiny_network("reused"))
    first = network.view("weight_gradients", "convolution", batch)
    second = network.view("weight_gradients", "convolution@1", batch)
    assert np.array_equal(first["gradient"], second["gradient"])
    assert first.meta["calls"] == ["convolution", "convolution@1"]


def test_tied_modules_give_the_sum_over_both():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(2, 2, 3, padding=1)
            self.second = nn.Conv2d(2, 2, 3, padding=1)
            self.second.weight = self.first.weight

        def forward(self, images):
            return self.second(F.relu(self.first(images))).mean((2, 3))

    network = Network.from_module(Tied().double(), image_size=(4, 5))
    batch = Batch(torch.randn(2, 2, 4, 5, dtype=torch.float64), ("a", "b"), ("a", "b"), (0, 1))
    expected = backward_by_torch(network, batch, "loss:true")["first.weight"]
    for name in ("first", "second"):
        view = network.view("weight_gradients", name, batch, slices=0)
        assert np.allclose(view["gradient"], laid_out(network.layer(name), expected, view), rtol=1e-5)


class Wrapped(nn.Module):
    """Any layer between a strided average and a linear readout."""

    def __init__(self, layer: nn.Module, units: int) -> None:
        super().__init__()
        self.layer = layer
        self.linear = nn.Linear(units, 3)

    def forward(self, images):
        return self.linear(torch.tanh(self.layer(images)).square().mean((2, 3)))


def _random_convolution(seed: int) -> tuple[nn.Module, int, int]:
    """Any convolution torch allows: kernel, stride, padding, dilation, groups, mode and size drawn at random."""
    draw = np.random.default_rng(seed)
    groups = int(draw.choice([1, 2, 4]))
    channels, units = groups * int(draw.integers(1, 3)), groups * int(draw.integers(1, 4))
    pairs = {
        name: (int(draw.integers(*ends)), int(draw.integers(*ends)))
        for name, ends in {"kernel_size": (1, 5), "stride": (1, 4), "padding": (0, 4), "dilation": (1, 3)}.items()
    }
    if draw.random() < 0.35:
        output_padding = tuple(
            int(draw.integers(0, max(s, d))) for s, d in zip(pairs["stride"], pairs["dilation"], strict=True)
        )
        pairs["padding"] = tuple(min(p, 2) for p in pairs["padding"])
        return (
            nn.ConvTranspose2d(channels, units, groups=groups, output_padding=output_padding, **pairs),
            channels,
            units,
        )
    mode = str(draw.choice(["zeros", "reflect", "circular", "replicate"]))
    return (
        nn.Conv2d(channels, units, groups=groups, padding_mode=mode, bias=bool(draw.random() < 0.5), **pairs),
        channels,
        units,
    )


@pytest.mark.parametrize("seed", range(40))
def test_any_convolution_that_torch_allows(seed):
    torch.manual_seed(seed)
    layer, channels, units = _random_convolution(seed)
    network = Network.from_module(Wrapped(layer, units).double(), image_size=(9, 11), channels=channels)
    batch = Batch(torch.randn(2, channels, 9, 11, dtype=torch.float64), ("a", "b"), ("a", "b"), (0, 1))
    expected = backward_by_torch(network, batch, "loss:true")["layer.weight"]
    view = network.view("weight_gradients", "layer", batch, slices=0)
    reference = laid_out(network.layer("layer"), expected, view)
    assert np.abs(view["gradient"] - reference).max() <= 1e-6 * np.abs(reference).max()


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("size", [(2, 4), (1, 2), (4, 3)])
def test_uneven_same_padding(size):
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, size, padding="same", dilation=(1, 1))
    network = Network.from_module(Wrapped(layer, 3).double(), image_size=(6, 7), channels=2)
    batch = Batch(torch.randn(2, 2, 6, 7, dtype=torch.float64), ("a", "b"), ("a", "b"), (0, 1))
    expected = backward_by_torch(network, batch, "loss:true")["layer.weight"]
    view = network.view("weight_gradients", "layer", batch, slices=0)
    assert np.allclose(view["gradient"], laid_out(network.layer("layer"), expected, view), rtol=1e-5, atol=1e-9)


def test_tokens_and_windows_in_front_go_image_by_image():
    """A linear layer on [windows of all images, token, channel], where the first axis isn't the image."""

    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(2, 4, 2, stride=2)
            self.mix = nn.Linear(4, 5)
            self.linear = nn.Linear(5, 3)

        def forward(self, images):
            maps = self.convolution(images)
            count = len(maps)
            windows = maps.reshape(count, 4, 2, 2, 2, 2).permute(2, 4, 0, 3, 5, 1).reshape(4 * count, 4, 4)
            mixed = torch.tanh(self.mix(windows)).reshape(4, count, 4, 5)
            return self.linear(mixed.mean((0, 2)))

    torch.manual_seed(0)
    network = Network.from_module(Windows().double(), image_size=8, channels=2)
    assert network.layer("mix").opaque
    batch = Batch(torch.randn(3, 2, 8, 8, dtype=torch.float64), ("a", "b", "c"), ("a", "b", "c"), LABELS)
    expected = backward_by_torch(network, batch, "loss:true")["mix.weight"]
    view = network.view("weight_gradients", "mix", batch, slices=0)
    assert np.allclose(view["gradient"], laid_out(network.layer("mix"), expected, view), rtol=1e-5, atol=1e-9)
    alone = network.view("weight_gradients", "mix", Batch(batch.tensor[1:2], ("b",), ("b",), (0,)), slices=0)
    assert np.allclose(alone["gradient_norm"], view["image_norm"][1], rtol=1e-5)


def test_a_function_as_objective():
    network, batch = double(tiny_network("in_place"))

    def margin(scores, batch):
        return (scores.logsumexp(1) - scores[torch.arange(len(scores)), list(batch.labels)]).mean()

    view = network.view("weight_gradients", "first", batch, objective=margin, slices=0)
    same = network.view("weight_gradients", "first", batch, objective="loss:true", slices=0)
    for name in ("gradient", "image_norm", "image_share", "image_cosine"):
        assert np.allclose(view[name], same[name], rtol=1e-5, atol=1e-8)
    assert view.meta["objective"] == "function margin"
    assert np.isclose(view.meta["value"], same.meta["loss"])
    assert view.meta["command"] == ""
    assert "objective=margin" in view.meta["python"]


def test_meta_says_which_loss_labels_and_value():
    network, batch = double(tiny_network("in_place"))
    view = network.view("weight_gradients", "first", batch)
    assert view.meta["objective"] == "loss:true"
    assert view.meta["labels"] == list(LABELS)
    assert "true labels" in view.meta["caption"]
    with torch.no_grad():
        loss = F.cross_entropy(network.module.eval()(batch.tensor), torch.tensor(LABELS))
    assert np.isclose(view.meta["loss"], float(loss))
    unlabelled = network.view("weight_gradients", "first", batch.tensor.float())
    assert unlabelled.meta["objective"] == "loss:predicted"
    assert "predicted" in unlabelled.meta["caption"]


def test_a_vanishing_gradient_is_named_and_the_score_proposed():
    tiny = tiny_network("in_place")
    network = tiny.network()
    network.module.linear.weight.data *= 8
    images = tiny.images(2)
    loss = network.view("weight_gradients", "first", images)
    assert any("vanishingly small" in each and '"score"' in each for each in loss.meta["warnings"])
    assert network.view("weight_gradients", "first", images, objective="score").meta["warnings"] == []


def test_an_objective_before_the_layer_gives_zero_and_says_so():
    tiny = tiny_network("in_place")
    view = tiny.network().view("weight_gradients", "second", tiny.images(2), objective="unit:first:0")
    assert not view["gradient"].any()
    assert not view["image_share"].any()
    assert any("exactly zero" in warning for warning in view.meta["warnings"])


def test_per_image_is_for_one_unit():
    tiny = tiny_network("in_place")
    with pytest.raises(Refused, match="add a channel, like first:0"):
        tiny.network().view("weight_gradients", "first", tiny.images(2), per_image=True)


def test_images_are_needed():
    with pytest.raises(ConvscopeError, match="needs images"):
        tiny_network("in_place").network().view("weight_gradients", "first")


def test_small_and_large_mini_batches_agree(monkeypatch):
    network, batch = double(tiny_network("reused"))
    together = network.view("weight_gradients", "convolution", batch)
    seen = []
    monkeypatch.setattr("convscope.methods.backward._WORK", 1)
    with watch(seen.append):
        one_by_one = network.view("weight_gradients", "convolution", batch)
    assert [(each.done, each.total) for each in seen if each.message == "weight gradients"] == [
        (0, 3),
        (1, 3),
        (2, 3),
        (3, 3),
    ]
    for name in together.arrays:
        assert np.allclose(together[name], one_by_one[name], rtol=1e-6, atol=1e-9)


def test_gradients_that_are_kept_and_ones_computed_again_agree(monkeypatch):
    network, batch = double(tiny_network("reused"))
    again = network.view("weight_gradients", "convolution", batch)
    monkeypatch.setattr(module_under_test._OneImage, "values", lambda self: 10**9)
    kept = network.view("weight_gradients", "convolution", batch)
    assert kept.to_bytes() == again.to_bytes()


def test_the_docs_say_what_it_is_not():
    assert "Not the spatial gradient" in " ".join(module_under_test.WeightGradients.__doc__.split())
    assert "another thing" in module_under_test.WeightGradients.caveat


@pytest.mark.parametrize("name", ["in_place", "grouped", "flattened", "channels_last"])
def test_half_precision_is_near_the_same(name):
    tiny = tiny_network(name)
    network, half = tiny.network(), tiny.network()
    half.module.bfloat16()
    address = next(layer.address for layer in network.layers if layer.kernel)
    exact = network.view("weight_gradients", address, tiny.images(2), objective="score:1", slices=0)
    near = half.view("weight_gradients", address, tiny.images(2), objective="score:1", slices=0)
    assert near["gradient"].dtype == np.float32
    assert np.abs(exact["gradient"] - near["gradient"]).max() <= 0.05 * np.abs(exact["gradient"]).max()
    half.view("convolution", f"{address}:0:0,0", tiny.images(1))
    half.view("activation_gradients", address, tiny.images(2))
    assert half.view("predictions", images=tiny.images(1))["probability"].sum() == pytest.approx(1, abs=0.02)


def test_every_method_survives_nan_and_infinite_weights_and_images():
    tiny = tiny_network("in_place")
    network, images = tiny.network(), tiny.images(2)
    with torch.no_grad():
        network.module.first.weight[0, 0, 0, 0] = torch.nan
        network.module.first.weight[1, 1, 1, 1] = torch.inf
    images[0, 0, 3, 3] = torch.nan
    images[1, 1, 2, 2] = -torch.inf
    views = [
        network.view(method, "first", images)
        for method in ("weights", "weight_gradients", "spatial_gradients", "activations", "activation_gradients")
    ]
    views.append(network.view("spatial_gradients", "first", images, of="weight_gradients"))
    views.append(network.view("convolution", "first:0:1,1", images[:1]))
    views.append(network.view("predictions", images=images))
    for view in views:
        assert view.from_bytes(view.to_bytes()).meta["ranges"] == view.meta["ranges"]
        assert any("NaN" in warning for warning in view.meta["warnings"]), view
    stated = views[0].meta["ranges"]["kernel"]
    assert (stated["nan"], stated["positive_infinity"], stated["negative_infinity"]) == (1, 1, 0)


class Table(nn.Module):
    """A linear layer on constants beside the image's path, as in the relative position bias of Swin V2."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("coordinates", torch.linspace(-1, 1, 24).reshape(1, 3, 4, 2))
        self.bias = nn.Linear(2, 3)
        self.convolution = nn.Conv2d(1, 3, 2)

    def forward(self, images):
        return torch.tanh(self.convolution(images) * self.bias(self.coordinates).permute(0, 3, 1, 2)).mean((2, 3))


def test_a_layer_that_does_not_see_the_image_still_has_a_gradient():
    network = Network.from_module(Table().double(), image_size=(4, 5))
    batch = Batch(torch.randn(3, 1, 4, 5, dtype=torch.float64), ("a", "b", "c"), ("a", "b", "c"), LABELS)
    expected = backward_by_torch(network, batch, "loss:true")["bias.weight"]
    view = network.view("weight_gradients", "bias", batch, slices=0)
    assert np.allclose(view["gradient"], laid_out(network.layer("bias"), expected, view), rtol=1e-5)
    assert np.allclose(view["image_share"].sum(axis=0), 1)


def test_images_that_stay_mixed_are_refused_for_a_function():
    network = Network.from_module(Table(), image_size=(4, 5))

    def own(scores, batch):
        return scores.mean()

    with pytest.raises(Refused, match="bias doesn't keep images apart"):
        network.view("weight_gradients", "bias", torch.randn(2, 1, 4, 5), objective=own)
    assert network.view("weight_gradients", "bias", torch.randn(1, 1, 4, 5), objective=own)["gradient"].any()
