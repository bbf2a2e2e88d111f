"""timm's networks: ``timm:resnet18.a1_in1k``."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from convscope.errors import ConvscopeError, UnknownName, suggest
from convscope.network.formats import checkpoint, pretrained
from convscope.network.formats.class_names import imagenet_classes
from convscope.network.formats.random_weights import RANDOM, seeded
from convscope.network.network import Network

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn

FORM = "timm:NAME"
_PREFIX = "timm:"


def match(source: str) -> bool:
    """Whether this file opens such a spec."""
    return source.startswith(_PREFIX)


def open(  # noqa: A001 - each format has a match and an open
    source: str,
    *,
    weights: str | None = None,
    trust: bool = False,
    num_classes: int | None = None,
    **preprocessing: Any,
) -> Network:
    """A timm network: pretrained, from a file, or untrained (``weights="random"``); preprocessing as timm evaluates it.

    timm's "squash" and "border" crops are taken as centre crops.
    """
    timm = _timm()
    name = source.removeprefix(_PREFIX)
    if not timm.is_model(name.split(".")[0]):
        raise UnknownName(
            f"timm has no network {name!r}", next_step=suggest(name, timm.list_models()) or "see timm.list_models()"
        )

    def build(classes: int | None = num_classes) -> nn.Module:
        return _build(timm, name, {} if classes is None else {"num_classes": classes})

    if weights == RANDOM:
        module = build()
    elif weights is None:
        with pretrained.explained(source, "huggingface.co"), _without_retries():
            module = _build(timm, name, {"pretrained": True})
    else:
        read = checkpoint.read(weights, trust=trust)
        module = pretrained.fitted(build, read, Path(weights).name, num_classes)
    settings = _settings(timm, module)
    return Network.from_module(module.eval(), **{"source": source, "name": name, **settings, **preprocessing})


def _timm() -> Any:
    try:
        timm = import_module("timm")
        import_module("timm.data")
    except Exception as error:  # timm imports torchvision, which fails with RuntimeError beside another torch
        missing = isinstance(error, ModuleNotFoundError)
        raise ConvscopeError(
            "timm isn't installed" if missing else "timm is installed but can't be imported",
            where=str(error)[:160],
            next_step="run `pip install 'convscope[zoo]'`"
            if missing
            else "install the torchvision release that belongs to this torch",
        ) from error
    return timm


def _build(timm: Any, name: str, arguments: Mapping[str, Any]) -> nn.Module:
    with seeded():
        module: nn.Module = timm.create_model(name, **arguments)
    return module


@contextmanager
def _without_retries() -> Iterator[None]:
    """Where the hub's name can't be resolved, its client is told so; else it would try for most of a minute.

    Weights that are in its cache are found either way. Behind a proxy
    names needn't resolve, so the client is left alone.
    """
    constants: Any = import_module("huggingface_hub.constants")
    offline = constants.HF_HUB_OFFLINE
    if not offline and not getproxies():
        try:
            socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
        except OSError:
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline


def _settings(timm: Any, module: nn.Module) -> dict[str, Any]:
    config = timm.data.resolve_model_data_config(module)
    channels, rows, columns = config["input_size"]
    classes = pretrained.classes(module)
    settings = {
        "image_size": (rows, columns),
        "channels": channels,
        "resize": int(min(rows, columns) / config["crop_pct"]),
        "mean": tuple(config["mean"]),
        "std": tuple(config["std"]),
        # Lanczos isn't among torch's kernels; bicubic is its nearest.
        "interpolation": config["interpolation"] if config["interpolation"] in ("bilinear", "nearest") else "bicubic",
    }
    return settings | ({"class_names": imagenet_classes()} if classes == 1000 else {})
