"""What the mining benchmarks share: the networks, and work made of prepared images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from measuring.pictures import Pictures
from measuring.resnet18 import resnet18

import convscope as cs
from convscope.mining.mine import _image_ids, _new_settings, unique_names
from convscope.mining.shard import Work
from convscope.mining.study import Plan

if TYPE_CHECKING:
    from convscope.network.network import Network

# One thread: the study's default, and threads that share their cores with other work wait for each other.
THREADS = 1
K = 100
# Some images are looked at more closely, a few hundred of a study however large it is: with too few images in all they
# would be more than they ever are.
PLANNED = 10_000


def seeded_resnet18() -> Network:
    """ResNet-18 with random weights, always the same ones."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return cs.Network.from_module(resnet18(), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def networks(device: str = "cpu") -> dict[str, Network]:
    """The networks that are measured, with random and with trained weights."""
    found = {"ResNet-18": seeded_resnet18(), "EfficientNet-Lite0": cs.load("demo")}
    for network in found.values():
        network.module.to(device)
    return found


def convolutions(network: Network) -> list[str]:
    """Every convolution's address."""
    return [layer.address for layer in network.layers if layer.kernel and layer.kernel.operation == "convolution"]


def work(network: Network, count: int, batch_size: int, shard_size: int) -> Work:
    """Work over ``count`` made pictures, k = 100, every convolution."""
    pictures = cs.load_images(Pictures(count, *network.image_size, different=32))
    asked = {"k": K, "batch_size": batch_size, "threads": THREADS, "shard_size": shard_size}
    settings = _new_settings(network, pictures, convolutions(network), asked)
    names = tuple(unique_names(pictures))
    plan = Plan(names, (len(names),), settings, network.fingerprint, "", {})
    return Work(network, pictures, _image_ids(plan, pictures), settings)
