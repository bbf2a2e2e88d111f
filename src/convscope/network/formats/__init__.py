"""Formats: one file per way a network can arrive, each with ``match(source)`` and ``open(source, …)``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from convscope.errors import UnknownName, suggest

if TYPE_CHECKING:
    import os

    from convscope.network.network import Network

# In the order in which they are asked; a weights file comes before a factory, whose spec is the least special.
FORMATS = ("demo", "torchvision_zoo", "timm_zoo", "module_file", "factory")


def load(
    spec: str, weights: str | os.PathLike[str] | None = None, trust: bool = False, **preprocessing: Any
) -> Network:
    """A network from its spec: ``demo``, ``torchvision:NAME``, ``timm:NAME``, ``package.module:factory``.

    A factory, also ``path/to/file.py:factory``, is Python code: it runs with all your rights.

    ``weights`` is a file (.safetensors, .pt, .pth), or "random" for an untrained network (always the same one), or None
    for the format's own: a zoo fetches its pretrained weights, a factory keeps what it made. ``trust`` opens a pickle
    that could run code; nothing is ever unpickled without it. ``preprocessing`` says what differs from the format's
    own: ``image_size``, ``channels``, ``mean``, ``std``, ``scale``, ``resize``, ``interpolation``, ``class_names`` (a
    sequence or a .txt or .json file), ``name``, ``output``; for the zoos also ``num_classes``.

    Raises :class:`UnknownName` for a spec that names no network, :class:`UnsafeFile` for weights that could run code,
    :class:`ConvscopeError` with the next step for everything else that is missing or doesn't fit.

    >>> load("resnet18")
    Traceback (most recent call last):
    convscope.errors.UnknownName: 'resnet18' names no network. Next: write torchvision:resnet18 or timm:resnet18.
    """
    from convscope.network.formats.class_names import read_class_names

    said = {"weights": None if weights is None else str(weights), **preprocessing, **({"trust": True} if trust else {})}
    if preprocessing.get("class_names") is not None:
        preprocessing["class_names"] = read_class_names(preprocessing["class_names"])
    for name in FORMATS:
        arrival = import_module(f"convscope.network.formats.{name}")
        if arrival.match(spec):
            file = None if weights is None else str(weights)
            network: Network = arrival.open(spec, weights=file, trust=trust, **preprocessing)
            network.loaded_with = {name: value for name, value in said.items() if value is not None}
            return network
    raise _unknown(spec)


def forms() -> list[str]:
    """How each format's spec is written, for help and error messages."""
    return [str(import_module(f"convscope.network.formats.{name}").FORM) for name in FORMATS]


def _unknown(spec: str) -> UnknownName:
    if spec.isidentifier():
        step = suggest(spec, ["demo"]) or f"write torchvision:{spec} or timm:{spec}"
    else:
        step = f"write {', '.join(forms())}"
    return UnknownName(f"{spec[:80]!r} names no network", next_step=step)


__all__ = ["FORMATS", "forms", "load"]
