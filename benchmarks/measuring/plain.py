"""AlexNet and VGG-16, written out so that a benchmark needs no zoo: torchvision's modules and names, random weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# What VGG-16 is made of: maps of a 3×3 convolution with its ReLU, or a pooling ("M").
VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")


class Plain(nn.Module):
    """Convolutions, a fixed grid, three linear layers: ``[image, 3, row, column]`` to scores ``[image, class]``."""

    def __init__(self, features: nn.Sequential, grid: int, units: int, classes: int = 1000) -> None:
        super().__init__()
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d(grid)
        self.classifier = nn.Sequential(
            *(nn.Linear(units * grid**2, 4096), nn.ReLU(inplace=True), nn.Dropout()),
            *(nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(4096, classes)),
        )
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(image)), 1))
        return scores


def vgg16() -> Plain:
    """VGG-16 without batch normalization (Simonyan & Zisserman 2014)."""
    layers: list[nn.Module] = []
    channels = 3
    for each in VGG16:
        if isinstance(each, int):
            layers += [nn.Conv2d(channels, each, 3, padding=1), nn.ReLU(inplace=True)]
            channels = each
        else:
            layers.append(nn.MaxPool2d(2, 2))
    return Plain(nn.Sequential(*layers), 7, 512).eval()


def alexnet() -> Plain:
    """AlexNet in one column (Krizhevsky 2014)."""
    features = nn.Sequential(
        *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
    )
    return Plain(features, 6, 256).eval()
