"""Every method on torchvision's architectures, with random weights: numbers against autograd, the network untouched.

Ten representative ones by default; all of them under the marker ``conformance_all`` (``make conformance``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope.errors import Refused
from convscope.methods.base import method_class, method_names
from convscope.network.batch import Batch
from convscope.network.network import Network
from convscope.testing.laws import check_same_state, state_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convscope.network.layer import Layer

models = pytest.importorskip("torchvision.models", reason="torchvision isn't installed; `make test` installs it")

REPRESENTATIVE = (
    "alexnet",
    "squeezenet1_1",
    "resnet18",
    "googlenet",
    "densenet121",
    "mobilenet_v3_small",
    "shufflenet_v2_x0_5",
    "efficientnet_b0",
    "convnext_tiny",
    "swin_t",
)
NOT_ONLY_RELU = ("mobilenet_v3_small", "efficientnet_b0", "convnext_tiny", "swin_t")
ALL = tuple(models.list_models(module=models))
CLASSES = 10
# What needs no ReLU rule, with parameters that keep it short.
MAPS: dict[str, dict[str, object]] = {
    "grad_cam": {},
    "occlusion": {"window": 32, "stride": 32},
    "layerwise_relevance": {},
    "invariance": {"transforms": "rotation", "steps": 2, "rotation": 10.0},
    "correspondence": {"parts": "4,4,16,16", "draws": 1},
}
# Gates multiply two values that both depend on the image; layer normalization and attention have no rule either.
NO_RELEVANCE = ("mobilenet_v3_small", "efficientnet_b0", "convnext_tiny", "swin_t")
# The smallest input each family takes; 40×48 for the rest. Not square wherever that is allowed.
SIZES = {
    "alexnet": (64, 72),
    "inception_v3": (80, 96),
    "maxvit_t": (224, 224),
    "swin": (32, 40),
    "vit_h": (28, 28),
    "vit": (32, 32),
}
OPTIONS = {
    "googlenet": {"init_weights": False, "aux_logits": False},
    "inception_v3": {"init_weights": False, "aux_logits": False},
    "vit_h": {"image_size": 28},
    "vit": {"image_size": 32},
}


def build(name: str) -> tuple[Network, Batch]:
    """The architecture with random weights, and two labelled images of noise."""
    torch.manual_seed(0)
    options = next((each for prefix, each in OPTIONS.items() if name.startswith(prefix)), {})
    size = next((each for prefix, each in SIZES.items() if name.startswith(prefix)), (40, 48))
    module = models.get_model(name, weights=None, num_classes=CLASSES, **options)
    network = Network.from_module(module, image_size=size, name=name)
    images = torch.randn(2, 3, *size)
    return network, Batch(images, ("a", "b"), ("a.png", "b.png"), (3, 7))


def kinds_of(network: Network) -> dict[tuple[object, ...], Layer]:
    """One layer of each sort: of each kind of kernel, and of each way an activation can come about."""
    chosen: dict[tuple[object, ...], Layer] = {}
    for layer in network.layers:
        if layer.kernel is not None:
            weight, groups = layer.kernel.weight, layer.kernel.groups
            spatial = weight.ndim == 4 and weight.shape[2] * weight.shape[3] > 1
            grouping = "depthwise" if groups > 1 and weight.shape[1] == 1 else "grouped" if groups > 1 else "plain"
            key = (layer.kernel.operation, spatial, grouping, max(layer.kernel.stride) > 1, layer.axes, layer.operation)
        else:
            key = (layer.kind if layer.operation != "block" else "block", layer.overwritten, layer.call > 0)
        chosen.setdefault(key, layer)
    # Every kind of kernel; of the rest the dozen that come first.
    kernels = {key: layer for key, layer in chosen.items() if layer.kernel is not None}
    return kernels | dict([item for item in chosen.items() if item[1].kernel is None][:12])


def gradients_by_torch(network: Network, batch: Batch) -> dict[str, torch.Tensor]:
    """d loss / d parameter by backward()."""
    flags = [(each, each.training) for each in network.module.modules()]
    network.module.eval()
    wanted = {name: each for name, each in network.module.named_parameters() if each.dim() > 1}
    loss = F.cross_entropy(network.scores(network.module(batch.tensor)), torch.tensor(batch.labels))
    found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    for each, training in flags:
        each.training = training
    return {name: each for name, each in zip(wanted, found, strict=True) if each is not None}


def check_weight_gradients(network: Network, layer: Layer, batch: Batch, expected: dict[str, torch.Tensor]) -> None:
    view = network.view("weight_gradients", layer.address, batch, objective="loss:true", slices=2)
    if layer.kernel is None or layer.kernel.parameter is None:
        return
    gradient = expected[layer.kernel.parameter].double()
    norm = float(np.sqrt((view["gradient_norm"].astype(np.float64) ** 2).sum()))
    assert norm == pytest.approx(float(gradient.norm()), rel=2e-3, abs=1e-9), layer.address
    if layer.kernel.operation == "convolution":
        units = torch.arange(len(gradient))
        first = (units // (len(gradient) // layer.kernel.groups)) * gradient.shape[1]
        order = torch.from_numpy(view["channel"]).long() - first[:, None]
        error = np.abs(view["gradient"] - gradient[units[:, None], order].numpy()).max()
        assert error <= 2e-3 * float(gradient.abs().max()) + 1e-9, layer.address
    assert np.allclose(view["image_share"].sum(axis=0), 1, atol=1e-3) or not view["gradient"].all()


def check_convolution(network: Network, layer: Layer, batch: Batch) -> None:
    alone = Batch(batch.tensor[:1], batch.fingerprints[:1], batch.names[:1], batch.labels[:1])
    row, column = layer.rows - 1, layer.columns // 2
    unit = f"{layer.address}:{layer.units - 1}:{row},{column}"
    view = network.view("convolution", unit, alone, objective="score:1")
    scale = float(np.abs(view["output"]).max()) + 1e-6
    assert view["result"][0] == pytest.approx(view["output"][row, column], rel=1e-3, abs=1e-4 * scale), unit
    assert not [each for each in view.meta["warnings"] if "does more" in each], unit


# Two steps of what would climb for minutes on a whole architecture.
SHORTLY: dict[str, dict[str, Any]] = {
    "feature_visualization": {"steps": 2, "units": "0"},
    "inversion": {"steps": 2},
}


def answers(network: Network, layer: Layer, batch: Batch) -> Iterator[str]:
    """Every layer method that has an answer here; a refusal must say what to do instead."""
    for name in method_names():
        method = method_class(name)
        if method.target != "layer":
            continue
        try:
            view = network.view(name, layer.address, batch, **SHORTLY.get(name, {}))
        except Refused as refusal:
            assert refusal.next_step, f"{name} on {layer.address}: {refusal}"  # noqa: PT017
            continue
        assert view.from_bytes(view.to_bytes()).kind == view.kind
        yield name


def follows_rules(network: Network, batch: Batch) -> bool:
    """Whether the ReLU rules have an answer here; they must never hand out the plain gradient under their names."""
    plain = network.view("gradient", images=batch, objective="score:3")["attribution"]
    answered = []
    for rule in ("deconvnet", "guided_backprop"):
        try:
            found = network.view(rule, images=batch, objective="score:3")["attribution"]
        except Refused as refusal:
            assert "ReLU" in refusal.what, refusal  # noqa: PT017
            assert "plain gradient" in refusal.next_step, refusal  # noqa: PT017
            answered.append(False)
            continue
        answered.append(True)
        for image, gradient in zip(found, plain, strict=True):
            assert np.abs(image - gradient).max() > 1e-2 * np.abs(gradient).max(), f"{rule} is the plain gradient"
    assert len(set(answered)) == 1, "one rule has a meaning here and the other has not"
    return answered[0]


def explains(network: Network, batch: Batch) -> set[str]:
    """Which of the methods that need no ReLU rule answer for the scores; the others refuse with a reason."""
    answered = set()
    for name, parameters in MAPS.items():
        try:
            view = network.view(name, images=batch, **parameters)
        except Refused as refusal:
            assert refusal.next_step, f"{name}: {refusal}"  # noqa: PT017
            continue
        assert all(np.isfinite(array).all() for array in view.arrays.values()), name
        answered.add(name)
    return answered


def hold(name: str) -> None:
    network, batch = build(name)
    nn.init.normal_(next(network.module.parameters()), std=0.05)
    before = state_of(network.module)
    assert network.layers
    expected = gradients_by_torch(network, batch)
    answered = set()
    for layer in kinds_of(network).values():
        answered.update(answers(network, layer, batch))
        if layer.kernel is not None:
            check_weight_gradients(network, layer, batch, expected)
            if not layer.opaque:
                check_convolution(network, layer, batch)
    if name in REPRESENTATIVE:
        assert follows_rules(network, batch) == (name not in NOT_ONLY_RELU)
    else:
        follows_rules(network, batch)
    answered_maps = explains(network, batch)
    if name in REPRESENTATIVE:
        assert answered_maps == set(MAPS) - ({"layerwise_relevance"} if name in NO_RELEVANCE else set())
    predictions = network.view("predictions", images=batch, top=3)
    with torch.no_grad():
        network.module.eval()
        scores = network.scores(network.module(batch.tensor))
        network.module.train()
    assert np.allclose(predictions["score"], scores.topk(3).values.numpy(), rtol=1e-4, atol=1e-4)
    check_same_state(before, state_of(network.module))
    assert {"weights", "weight_gradients", "activations", "activation_gradients"} <= answered


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_representative_architectures(name):
    hold(name)


@pytest.mark.conformance_all
@pytest.mark.parametrize("name", ALL)
def test_all_architectures(name):
    hold(name)


def test_the_representative_ten_are_torchvisions():
    assert set(REPRESENTATIVE) <= set(ALL)
    assert len(REPRESENTATIVE) == 10
