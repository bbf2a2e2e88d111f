"""What every method must keep, and tiny networks whose answers are known: for convscope's own tests and for yours.

>>> from convscope.methods.weights import Weights
>>> from convscope.testing import check_method, tiny_network
>>> tiny = tiny_network("edges")
>>> check_method(Weights(), tiny.network(), "convolution", tiny.images(2))
"""

from __future__ import annotations

from convscope.testing.laws import LAWS, check_method, check_on_tiny_networks, targets
from convscope.testing.networks import TINY_NETWORKS, TinyNetwork, convolve, tiny_network

__all__ = [
    "LAWS",
    "TINY_NETWORKS",
    "TinyNetwork",
    "check_method",
    "check_on_tiny_networks",
    "convolve",
    "targets",
    "tiny_network",
]
