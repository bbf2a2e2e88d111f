"""Small learners for the tests of training."""

from __future__ import annotations

import torch

from convscope.training.data import Data, Split
from convscope.training.definition import Definition
from convscope.training.learner import Learner
from convscope.training.settings import Settings

EVERYTHING = """\
- input: {rows: 8, columns: 8, channels: 2}
- convolution: {units: 4, size: 3, padding: 1}
- relu
- residual:
    shortcut: projection
    layers:
      - convolution: {units: 6, size: 3, padding: 1, stride: 2, bias: false}
      - batch_normalization
      - tanh
- local_response_normalization: {alpha: 0.1}
- pool: {size: 2}
- dropout: {probability: 0.3}
- fully_connected: {units: 8}
- maxout
- dropout
- fully_connected: {units: 3}
- softmax
"""
PLAIN = """\
- input: {rows: 8, columns: 8, channels: 2}
- convolution: {units: 4, size: 3}
- relu
- pool: {size: 2}
- fully_connected: {units: 3}
- softmax
"""


def small_data(count=40, kept=12, classes=3, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def split(many):
        pixels = torch.randint(0, 256, (many, 2, size, size), generator=generator, dtype=torch.uint8)
        labels = torch.arange(many) % classes
        pixels[labels == 0, 0] //= 2  # something to learn
        return Split(pixels, labels)

    return Data(split(count), split(kept), tuple(f"class {each}" for each in range(classes)), "small", source="small")


def small_learner(text=EVERYTHING, seed=0, data=None, **settings):
    settings = {"batch_size": 6, "shift": 1, "flip": True, **settings}
    return Learner(Definition.parse(text), data or small_data(), Settings(**settings), seed=seed)


def same_state(first, second):
    pairs = zip(first.module.state_dict().items(), second.module.state_dict().items(), strict=True)
    return all(name == other and torch.equal(value, again) for (name, value), (other, again) in pairs)
