"""Presets: well-known small networks as text, each with the settings that train it and the data it was made for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from convscope.errors import UnknownName, suggest
from convscope.training.definition import Definition
from convscope.training.settings import Settings


@dataclass(frozen=True)
class Preset:
    """A network's text, how to train it, and on what. ``source`` is where its layers come from."""

    name: str
    title: str
    explanation: str
    text: str
    settings: Settings
    data: str
    source: str = ""

    def definition(self) -> Definition:
        """The text, parsed."""
        return Definition.parse(self.text)


def preset(name: str) -> Preset:
    """The preset called ``name``; :class:`UnknownName` with the nearest ones."""
    if name not in PRESETS:
        raise UnknownName(
            f"no preset {name[:40]!r}",
            next_step=suggest(name, PRESETS) or f"choose {', '.join(PRESETS)}, or a .yaml file of your own",
        )
    return PRESETS[name]


def _residual(units: int, stride: int) -> str:
    """One block of two 3×3 convolutions, as He et al. write it for CIFAR-10."""
    shortcut = "\n    shortcut: projection" if stride > 1 else ""
    return f"""\
- residual:{shortcut}
    layers:
      - convolution: {{units: {units}, size: 3, stride: {stride}, padding: 1, bias: false}}
      - batch_normalization
      - relu
      - convolution: {{units: {units}, size: 3, padding: 1, bias: false}}
      - batch_normalization
- relu
"""


_CONVNETJS_CIFAR10 = """\
# The network of ConvNetJS's CIFAR-10 page
- input: {rows: 32, columns: 32, channels: 3, mean: 0.5, std: 1.0}
- convolution: {units: 16, size: 5, padding: 2}
- relu
- pool: {size: 2}
- convolution: {units: 20, size: 5, padding: 2}
- relu
- pool: {size: 2}
- convolution: {units: 20, size: 5, padding: 2}
- relu
- pool: {size: 2}
- fully_connected: {units: 10}
- softmax
"""
_CONVNETJS_MNIST = """\
# The network of ConvNetJS's MNIST page; it takes 24 of the 28 rows and columns, shifted at random while training
- input: {rows: 24, columns: 24, channels: 1, mean: 0.5, std: 1.0}
- convolution: {units: 8, size: 5, padding: 2}
- relu
- pool: {size: 2}
- convolution: {units: 16, size: 5, padding: 2}
- relu
- pool: {size: 3, stride: 3}
- fully_connected: {units: 10}
- softmax
"""
_LENET5 = """\
# LeNet-5 (LeCun et al. 1998) as it is mostly written today: full connections, ReLU and max pooling
- input: {rows: 28, columns: 28, channels: 1, mean: 0.1307, std: 0.3081}
- convolution: {units: 6, size: 5, padding: 2}
- relu
- pool: {size: 2}
- convolution: {units: 16, size: 5}
- relu
- pool: {size: 2}
- fully_connected: {units: 120}
- relu
- fully_connected: {units: 84}
- relu
- fully_connected: {units: 10}
- softmax
"""
_LINEAR = """\
# A linear classifier: one template for each class
- input: {rows: 28, columns: 28, channels: 1, mean: 0.1307, std: 0.3081}
- fully_connected: {units: 10}
- softmax
"""
_CIFAR_INPUT = (
    "- input: {rows: 32, columns: 32, channels: 3, mean: [0.4914, 0.4822, 0.4465], std: [0.247, 0.2435, 0.2616]}\n"
)
_RESNET = (
    "# A small residual network for 32×32 images (He et al. 2016, narrow and shallow)\n"
    + _CIFAR_INPUT
    + "- convolution: {units: 16, size: 3, padding: 1, bias: false}\n- batch_normalization\n- relu\n"
    + _residual(16, 1)
    + _residual(32, 2)
    + _residual(64, 2)
    + "- pool: {of: mean, size: 8, stride: 8}\n- fully_connected: {units: 10}\n- softmax\n"
)
_IMAGENET_INPUT = (
    "- input: {rows: 64, columns: 64, channels: 3, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}\n"
)


_POOL, _LRN = "- pool: {size: 3, padding: 1}\n", "- local_response_normalization\n"
_ALEXNETS_END = """\
- convolution: {units: 192, size: 3, padding: 1}
- relu
- convolution: {units: 192, size: 3, padding: 1}
- relu
- convolution: {units: 128, size: 3, padding: 1}
- relu
- pool: {size: 3, padding: 1}
- fully_connected: {units: 512}
- relu
- dropout
- fully_connected: {units: 512}
- relu
- dropout
- fully_connected: {units: 10}
- softmax
"""
_ALEXNET = (
    "# AlexNet's shape (Krizhevsky et al. 2012), narrower behind the first layer, for 64×64 images:\n"
    "# 11×11 kernels, 4 pixels apart\n"
    + _IMAGENET_INPUT
    + ("- convolution: {units: 96, size: 11, stride: 4, padding: 5}\n- relu\n" + _LRN + _POOL)
    + ("- convolution: {units: 128, size: 5, padding: 2}\n- relu\n" + _LRN + _POOL)
    + _ALEXNETS_END
)
_ZFNET = (
    "# ZFNet's change to AlexNet (Zeiler and Fergus 2014): 7×7 kernels, 2 pixels apart, and a second layer that moves\n"
    "# 2 pixels at a time\n"
    + _IMAGENET_INPUT
    + ("- convolution: {units: 96, size: 7, stride: 2, padding: 3}\n- relu\n" + _POOL + _LRN)
    + ("- convolution: {units: 128, size: 5, stride: 2, padding: 2}\n- relu\n" + _POOL + _LRN)
    + _ALEXNETS_END
)

_ADADELTA = Settings(optimizer="adadelta", learning_rate=1.0)
_CIFAR_CHANGES: dict[str, Any] = {"shift": 2, "flip": True}

PRESETS: dict[str, Preset] = {
    each.name: each
    for each in (
        Preset(
            "lenet5",
            "LeNet-5",
            "two convolutions and three fully connected layers; reads digits after a few seconds",
            _LENET5,
            Settings(optimizer="adam", learning_rate=0.002, batch_size=32, shift=1, fill="edge"),
            "mnist",
            "lecun1998gradient",
        ),
        Preset(
            "convnetjs-mnist",
            "ConvNetJS's MNIST network",
            "the network and settings of ConvNetJS's MNIST page",
            _CONVNETJS_MNIST,
            # ConvNetJS divides the decay by the batch size too.
            _ADADELTA.changed({"batch_size": 20, "weight_decay": 0.001 / 20}),
            "mnist",
        ),
        Preset(
            "convnetjs-cifar10",
            "ConvNetJS's CIFAR-10 network",
            "the network and settings of ConvNetJS's CIFAR-10 page",
            _CONVNETJS_CIFAR10,
            _ADADELTA.changed({"batch_size": 4, "weight_decay": 0.0001 / 4, **_CIFAR_CHANGES}),
            "cifar10",
        ),
        Preset(
            "resnet",
            "A small residual network",
            "three residual blocks with batch normalization, for 32×32 color images",
            _RESNET,
            Settings(
                learning_rate=0.2,
                nesterov=True,
                weight_decay=5e-4,
                batch_size=128,
                schedule="one_cycle",
                epochs=10.0,
                **_CIFAR_CHANGES,
            ),
            "cifar10",
            "he2016deep",
        ),
        Preset(
            "alexnet",
            "An AlexNet-like network",
            "eight layers that begin with 11×11 kernels, 4 pixels apart",
            _ALEXNET,
            Settings(learning_rate=0.01, weight_decay=5e-4, batch_size=64, shift=4, flip=True),
            "cifar10",
            "krizhevsky2012imagenet",
        ),
        Preset(
            "zfnet",
            "ZFNet's version of it",
            "the same with 7×7 kernels, 2 pixels apart: fewer dead and aliased units",
            _ZFNET,
            Settings(learning_rate=0.01, weight_decay=5e-4, batch_size=64, shift=4, flip=True),
            "cifar10",
            "zeiler2014visualizing",
        ),
        Preset(
            "linear",
            "A linear classifier",
            "one template of pixel weights for each class: what the simplest network learns",
            _LINEAR,
            Settings(learning_rate=0.01, batch_size=32),
            "mnist",
        ),
    )
}
DEFAULT = "lenet5"

__all__ = ["DEFAULT", "PRESETS", "Preset", "preset"]
