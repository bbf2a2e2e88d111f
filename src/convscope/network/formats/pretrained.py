"""What the zoos share: fetching with one clear sentence when it fails, and weights made for other classes."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import nn

from convscope.errors import ConvscopeError
from convscope.network.formats import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ONLY_WEIGHTS = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


@contextmanager
def explained(source: str, place: str) -> Iterator[None]:
    """Inside the block a zoo fetches its weights, never unpickling more than weights; failures get one sentence."""
    before = os.environ.get(_ONLY_WEIGHTS)
    os.environ[_ONLY_WEIGHTS] = "1"
    try:
        yield
    except ConvscopeError:
        raise
    except Exception as error:  # each hub's client has its own family of errors
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120].rstrip(". ")
        raise ConvscopeError(
            f"the pretrained weights of {source} couldn't be fetched",
            where=f"{place}: {reason}" if place else reason,
            next_step="give a file you have by `--weights FILE.safetensors`, or look at an untrained network "
            "by `--weights random`",
        ) from error
    finally:
        if before is None:
            del os.environ[_ONLY_WEIGHTS]
        else:
            os.environ[_ONLY_WEIGHTS] = before


def classes(module: nn.Module) -> int | None:
    """How many classes a network tells apart: the outputs of its last linear layer or convolution."""
    last = [layer for layer in module.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    return _outputs(last[-1]) if last else None


def fitted(
    build: Callable[[int | None], nn.Module], weights: checkpoint.Weights, where: str, num_classes: int | None
) -> nn.Module:
    """A network with a file's weights; where the file was trained for other classes, with as many as the file has."""
    module = build(num_classes)
    if num_classes is None:
        found = _other_classes(module, weights)
        module = module if found is None else build(found)
    checkpoint.load_into(module, weights, where=where)
    return module


def _other_classes(module: nn.Module, weights: checkpoint.Weights) -> int | None:
    """The file's number of classes, when that alone keeps it from fitting."""
    wanted, ours = module.state_dict(), classes(module)
    differing = {
        (tensor.shape[0], wanted[name].shape[0])
        for name, tensor in weights.tensors.items()
        if name in wanted and tensor.ndim and tensor.shape != wanted[name].shape
        if tensor.shape[1:] == wanted[name].shape[1:]
    }
    if len(differing) == 1:
        ((found, expected),) = differing
        return found if expected == ours else None
    return None


def _outputs(layer: nn.Linear | nn.Conv2d) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
