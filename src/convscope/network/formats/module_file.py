"""A weights file where a network is asked for: explained, or opened when it is a trusted pickle of a whole module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from convscope.errors import ConvscopeError
from convscope.network.formats import checkpoint
from convscope.network.network import Network

FORM = "FILE.pt (a whole pickled module, with --trust)"


def match(source: str) -> bool:
    """Whether this file opens such a spec."""
    return checkpoint.is_weights_file(source)


def open(source: str, *, weights: str | None = None, trust: bool = False, **preprocessing: Any) -> Network:  # noqa: A001
    """The module that a trusted file holds; weights alone are no network, and the error says what is missing."""
    path = Path(source)
    loaded = checkpoint.read_object(path, trust=trust)
    if isinstance(loaded, dict) and isinstance(loaded.get("model"), nn.Module):
        loaded = loaded["model"]
    if not isinstance(loaded, nn.Module):
        raise ConvscopeError(
            "the file holds weights, not the network that they belong to",
            where=path.name,
            next_step=f"name the network and give the file as its weights: torchvision:NAME --weights {path.name}, "
            f"or package.module:factory --weights {path.name}",
        )
    if weights is not None:
        checkpoint.load_into(loaded, checkpoint.read(weights, trust=trust), where=Path(weights).name)
    return Network.from_module(loaded.eval(), **{"source": source, "name": path.stem, **preprocessing})
