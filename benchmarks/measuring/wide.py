"""A layer of 2,048 units, the widest in common use."""

from __future__ import annotations

from torch import nn

import convscope as cs


def wide() -> cs.Network:
    """Two convolutions, the second with 2,048 kernels of 3×3 over 8 channels."""
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 2048, 3, stride=2, padding=1)
    )
    return cs.Network.from_module(module, image_size=64)
