"""convscope: see inside any convolutional network.

The public names are imported when first used, so that ``import convscope`` costs no more than importing nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from convscope._version import __version__

if TYPE_CHECKING:
    from convscope.errors import ConvscopeError
    from convscope.images import ImageSet, load_images
    from convscope.methods.base import Method
    from convscope.mining.mine import mine
    from convscope.network.formats import load
    from convscope.network.network import Network
    from convscope.network.unit import Unit
    from convscope.store import Store
    from convscope.trace import Trace
    from convscope.training.monitor import Monitor
    from convscope.view import View

_HOME = {
    "ConvscopeError": "convscope.errors",
    "ImageSet": "convscope.images",
    "Method": "convscope.methods.base",
    "Monitor": "convscope.training.monitor",
    "Network": "convscope.network.network",
    "Store": "convscope.store",
    "Trace": "convscope.trace",
    "Unit": "convscope.network.unit",
    "View": "convscope.view",
    "load": "convscope.network.formats",
    "load_images": "convscope.images",
    "mine": "convscope.mining.mine",
}

__all__ = [
    "ConvscopeError",
    "ImageSet",
    "Method",
    "Monitor",
    "Network",
    "Store",
    "Trace",
    "Unit",
    "View",
    "__version__",
    "load",
    "load_images",
    "mine",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'convscope' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
