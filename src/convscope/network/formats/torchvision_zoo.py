"""Torchvision's networks: ``torchvision:resnet18``."""

from __future__ import annotations

import re
import warnings
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convscope.errors import ConvscopeError, UnknownName, suggest
from convscope.network.formats import checkpoint, pretrained
from convscope.network.formats.random_weights import RANDOM, seeded
from convscope.network.network import Network

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

FORM = "torchvision:NAME"
_PREFIX = "torchvision:"
# The files of torchvision's DenseNets still carry the names of 2017; its own loader renames them just so.
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$")


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
    """A torchvision network: pretrained, from a file, or untrained (``weights="random"``).

    Preprocessing and class names are those of torchvision's pretrained weights, also when a file is given; a file made
    for another number of classes sets that number. ``weights`` may also be torchvision's own name ("IMAGENET1K_V1").
    """
    models = _models()
    name = source.removeprefix(_PREFIX)
    published = _published(models, name, weights)

    def build(classes: int | None = num_classes) -> nn.Module:
        return _build(models, name, {} if classes is None else {"num_classes": classes})

    if weights == RANDOM or (weights is None and published is None):
        module = build()
    elif weights is None or weights in _members(published):
        with pretrained.explained(source, str(getattr(published, "url", ""))):
            module = _build(models, name, {"weights": published})
    else:
        read = checkpoint.read(weights, trust=trust)
        tensors = checkpoint.Weights(_modern(read.tensors), read.notes)
        module = pretrained.fitted(build, tensors, Path(weights).name, num_classes)
    settings = {} if published is None else _settings(published)
    if pretrained.classes(module) != len(settings.get("class_names", ())):
        settings.pop("class_names", None)
    return Network.from_module(module.eval(), **{"source": source, "name": name, **settings, **preprocessing})


def _models() -> Any:
    try:
        return import_module("torchvision.models")
    except Exception as error:  # a torchvision built for another torch fails with RuntimeError, not ImportError
        missing = isinstance(error, ModuleNotFoundError)
        raise ConvscopeError(
            "torchvision isn't installed" if missing else "torchvision is installed but can't be imported",
            where=str(error)[:160],
            next_step="run `pip install 'convscope[zoo]'`"
            if missing
            else "install the torchvision release that belongs to this torch",
        ) from error


def _published(models: Any, name: str, weights: str | None) -> Any:
    """The weights that torchvision publishes for a network: those named, else its default; None where it has none."""
    known = models.list_models(module=models)
    if name not in known:
        raise UnknownName(
            f"torchvision has no classification network {name!r}",
            next_step=suggest(name, known) or f"choose one of {', '.join(known[:8])}, …",
        )
    members = list(models.get_model_weights(name))
    named = [member for member in members if member.name == weights]
    return named[0] if named else (models.get_model_weights(name).DEFAULT if members else None)


def _members(published: Any) -> list[str]:
    return [member.name for member in type(published)] if published is not None else []


def _build(models: Any, name: str, arguments: Mapping[str, Any]) -> nn.Module:
    with seeded(), warnings.catch_warnings():
        # GoogLeNet and Inception announce a change of their initialization that is of no concern here.
        warnings.simplefilter("ignore", FutureWarning)
        module: nn.Module = models.get_model(name, **{"weights": None, **arguments})
    return module


def _settings(published: Any) -> dict[str, Any]:
    transforms = published.transforms()
    return {
        "image_size": tuple(transforms.crop_size) * (2 if len(transforms.crop_size) == 1 else 1),
        "resize": transforms.resize_size[0],
        "mean": tuple(transforms.mean),
        "std": tuple(transforms.std),
        "interpolation": transforms.interpolation.value,
        "class_names": tuple(published.meta["categories"]),
    }


def _modern(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {_OLD_DENSENET.sub(r"\1\2", name): tensor for name, tensor in tensors.items()}
