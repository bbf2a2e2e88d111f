"""A network of one's own, with one input channel: look at it before and after training.

Trains a small network on the 8 × 8 digits that scikit-learn ships (seconds on one core) and writes pictures of its
kernels, its weight gradients and its maps. The page opens it as well:

    convscope open examples/own_network.py:make_network --weights digits.safetensors --image-size 8
"""

from __future__ import annotations

from dataclasses import replace

import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import convscope as cs


class DigitNetwork(nn.Module):
    """Two convolutions and a linear layer: ``[image, 1, 8, 8]`` to scores of ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 12, 3, padding=1)
        self.second = nn.Conv2d(12, 24, 3, padding=1)
        self.classify = nn.Linear(24 * 4 * 4, 10)

    def forward(self, image: Tensor) -> Tensor:
        maps = torch.relu(self.first(image))
        maps = nn.functional.max_pool2d(torch.relu(self.second(maps)), 2)
        scores: Tensor = self.classify(maps.flatten(1))
        return scores


def make_network() -> DigitNetwork:
    torch.manual_seed(0)
    return DigitNetwork()


def train(module: nn.Module, images: Tensor, labels: Tensor) -> None:
    optimizer = torch.optim.Adam(module.parameters(), lr=0.005)
    for _ in range(4):
        for part in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            cross_entropy(module(images[part]), labels[part]).backward()
            optimizer.step()


def look(network: cs.Network, images: Tensor, labels: Tensor, when: str) -> None:
    # The labels are known, so the loss is the one it is trained with.
    batch = replace(network.batch(images), labels=tuple(labels.tolist()))
    view = network.view("weight_gradients", "first", images=batch)
    view.save(f"first-{when}.png")
    norm = view["gradient_norm"].mean()
    print(f"{when}: loss {view.meta['loss']:.3f}, gradient norm per kernel of the first layer {norm:.4f}")


def main() -> None:
    digits = load_digits()
    images = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    module = make_network()

    # The handle never edits the module, and shows it as it is now: make a new one after training.
    look(cs.Network.from_module(module, image_size=8), images[:200], labels[:200], "before")
    train(module, images[200:], labels[200:])
    network = cs.Network.from_module(module, image_size=8, class_names=[str(digit) for digit in range(10)])
    look(network, images[:200], labels[:200], "after")

    # A functional ReLU has an address too: the path of the module that calls it, plus its own name.
    print("calls:", ", ".join(layer.address for layer in network.layers))
    network.view("activations", "relu", images=images[:4]).save("maps.png")

    # A linear layer right behind a flattened map is shown as templates over that map.
    templates = network.view("weights", "classify")
    print(f"classify as {templates.meta['layout']} of {templates.arrays['kernel'].shape[2:]} positions")

    predictions = network.view("predictions", images=images[:200], top=1)
    right = predictions["class"][:, 0] == digits.target[:200]
    print(f"{right.mean():.0%} of the digits held out are classified right")
    save_file(module.state_dict(), "digits.safetensors")


if __name__ == "__main__":
    main()
