"""ResNet-50 (He et al. 2015), written out so that a benchmark needs no zoo: the layers and shapes of torchvision's."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions around a skip."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, image: Tensor) -> Tensor:
        identity = image if self.downsample is None else self.downsample(image)
        result = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(image))))))
        result = self.bn3(self.conv3(result))
        result += identity
        activation: Tensor = self.relu(result)
        return activation


class ResNet50(nn.Module):
    """``[image, 3, row, column]`` to scores ``[image, class]``."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = 64
        for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
            parts = []
            for block in range(blocks):
                parts.append(Bottleneck(inputs, width, 2 if stage > 1 and block == 0 else 1))
                inputs = 4 * width
            self.add_module(f"layer{stage}", nn.Sequential(*parts))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        maps = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        for stage in range(1, 5):
            maps = getattr(self, f"layer{stage}")(maps)
        scores: Tensor = self.fc(torch.flatten(self.avgpool(maps), 1))
        return scores


def resnet50() -> ResNet50:
    """With random weights, always the same ones."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ResNet50().eval()
