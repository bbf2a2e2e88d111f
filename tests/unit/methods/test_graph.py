from __future__ import annotations

import pytest
import torch
from torch import nn

from convscope.methods.graph import last_features, last_maps, upstream
from convscope.network.network import Network
from convscope.testing import tiny_network

models = pytest.importorskip("torchvision.models", reason="torchvision isn't installed; `make test` installs it")


class Skip(nn.Module):
    """A residual block and, behind it, a branch that comes together in a product of pooled values."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
        self.left = nn.Conv2d(4, 5, 1)
        self.right = nn.Conv2d(4, 5, 1)
        self.linear = nn.Linear(10, 3)

    def forward(self, images):
        maps = self.stem(images)
        maps = torch.relu(maps + self.block(maps))
        pooled = torch.cat([self.left(maps).mean((2, 3)), self.right(maps).amax((2, 3))], dim=1)
        return self.linear(pooled)


@pytest.fixture(scope="module")
def network() -> Network:
    return Network.from_module(Skip(), image_size=(6, 5))


def test_what_a_layer_depends_on(network):
    def names(address):
        return [each.address for each in upstream(network, network.layer(address))]

    assert names("block.1") == ["stem", "block.0", "block.1"]
    assert names("block") == ["stem", "block.0", "block.1", "block.2"]
    assert names("right") == ["stem", "block.0", "block.1", "block.2", "add", "relu", "right"]
    assert len(upstream(network)) == len([each for each in network.layers if each.operation != "block"])


def test_the_last_maps_are_those_that_no_connection_leads_past(network):
    # Behind the ReLU there are two branches; within the block, the skip leads past.
    assert last_maps(network).address == "relu"
    assert last_maps(network, network.layer("right")).address == "relu"
    assert last_maps(network, network.layer("block.2")).address == "block.1"
    assert last_maps(network, network.layer("block")).address == "stem"
    assert last_maps(network, network.layer("add")).address == "stem"
    assert last_maps(network, network.layer("stem")) is None
    assert last_features(network).address == "cat"
    assert last_features(tiny_network("pixels").network()).address == "flatten"


@pytest.mark.parametrize(
    ("name", "size", "maps", "features"),
    [
        ("resnet18", (40, 48), "layer4.1.relu@1", "flatten"),
        ("squeezenet1_1", (40, 48), "classifier.2", "features.12.cat"),
    ],
)
def test_on_known_architectures(name, size, maps, features):
    module = models.get_model(name, weights=None, num_classes=4)
    network = Network.from_module(module, image_size=size)
    assert last_maps(network).address == maps
    assert last_features(network).address == features
