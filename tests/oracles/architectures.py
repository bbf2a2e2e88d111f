"""Torchvision's architectures with random weights, and images of noise: what other libraries are asked about."""

from __future__ import annotations

import torch
import torchvision.models as models
from torch import nn

OPTIONS = {"googlenet": {"init_weights": False, "aux_logits": False}, "vgg16": {"init_weights": False}}
CLASSIFIERS = {"alexnet": 256 * 6 * 6, "vgg16": 512 * 7 * 7}
SIZES = {"alexnet": (64, 72), "vgg16": (40, 48)}  # as small as they take; not square


def architecture(name: str) -> nn.Module:
    """The architecture for ten classes, in evaluation mode; its activations neither vanish nor grow with depth."""
    torch.manual_seed(0)
    with torch.device("meta" if name in CLASSIFIERS else "cpu"):
        module = models.get_model(name, weights=None, num_classes=10, **OPTIONS.get(name, {})).eval()
    if name in CLASSIFIERS:
        # Nine of ten weights, and nothing that the rest hasn't: made narrow, so that tests needn't carry them.
        layers = [nn.Linear(CLASSIFIERS[name], 32), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(32, 10)]
        module.classifier = nn.Sequential(*layers).eval()
        module.features.to_empty(device="cpu")
    for each in module.modules():
        if isinstance(each, nn.Conv2d):
            nn.init.kaiming_normal_(each.weight, nonlinearity="relu")
            if each.bias is not None:
                nn.init.normal_(each.bias, std=0.01)
    return module


def size(name: str) -> tuple[int, int]:
    return SIZES.get(name, (40, 48))


def noise(name: str) -> torch.Tensor:
    """Two images ``[image, channel, row, column]``."""
    return torch.randn(2, 3, *size(name), generator=torch.Generator().manual_seed(1))
