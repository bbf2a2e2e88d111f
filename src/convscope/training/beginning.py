"""What happens once, before the first step: who is watched, where it is written, and what is said about it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

from convscope._version import __version__
from convscope.errors import BadImage, ConvscopeError
from convscope.network.network import Network
from convscope.training.reference import is_compiled, plainly
from convscope.training.run import Run
from convscope.training.watched import architecture_fingerprint
from convscope.view import View

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from convscope.training.reference import Reference
    from convscope.training.watched import Watched

_log = logging.getLogger("convscope")


def optimizers_of(given: Any) -> list[Optimizer]:
    """One optimizer or several, out of whatever wraps them."""
    several = list(given) if isinstance(given, list | tuple) else [given]
    found = []
    for each in several:
        inner = each
        for _ in range(4):  # Lightning's and Accelerate's optimizers hold the real one
            wrapped = getattr(inner, "optimizer", None)
            if not isinstance(wrapped, Optimizer) or wrapped is inner:
                break
            inner = wrapped
        if not isinstance(inner, Optimizer):
            raise ConvscopeError(
                f"a {type(each).__name__} isn't a torch optimizer", next_step="pass the optimizer, or a list of them"
            )
        found.append(inner)
    if not found:
        raise ConvscopeError("there is no optimizer", next_step="pass the one whose steps are to be recorded")
    return found


def network_of(given: Any, images: Any) -> tuple[Network, Network | None]:
    """The network, and again when its layer table can be made: its image size is known."""
    if isinstance(given, Network):
        return given, given
    tensor = images[0] if isinstance(images, tuple | list) and len(images) else images
    if images is None:
        return Network.from_module(given), None
    if not isinstance(tensor, torch.Tensor) or tensor.dim() != 4:
        raise BadImage(
            "a module alone can't prepare pictures",
            next_step="pass images as a tensor [image, channel, row, column], or "
            "cs.Network.from_module(module, image_size=…) as the network",
        )
    size = (int(tensor.shape[2]), int(tensor.shape[3]))
    network = Network.from_module(given, image_size=size, channels=int(tensor.shape[1]))
    return network, network


def writes_here() -> bool:
    """Whether this process records: of a distributed training only the first does."""
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized() and distributed.get_rank() != 0)


def begin_run(
    store: str | os.PathLike[str],
    name: str,
    facts: Mapping[str, Any],
    network: Network,
    table: Network | None,
    optimizers: Sequence[Optimizer],
    watched: Sequence[Watched],
    reference: Reference | None,
    resume: bool,
    first_step: int | None,
) -> tuple[Run, int]:
    """A new run, or the one that is continued; and the step it begins with."""
    path = Path(store)
    fingerprint = architecture_fingerprint(network.module)
    if resume and Run.find(path)[:1] == [path]:
        return _continued(path, fingerprint, first_step)
    if Run.find(path)[:1] == [path]:
        path = _beside(path)
        _log.warning("there is a run in %s already; this one is recorded in %s", store, path)
    described = {
        **_describe(network, table, optimizers, watched, reference),
        **facts,
    }
    run = Run.create(path, name=name or path.name, facts=described, network=fingerprint)
    step = first_step or 0
    if reference is not None:
        run.write(step, {"images": pictures(reference)}, {})
    return run, step


def _continued(path: Path, fingerprint: str, first_step: int | None) -> tuple[Run, int]:
    run = Run.open(path)
    if run.network != fingerprint:
        run.close()
        raise ConvscopeError(
            "the run in this folder is of another architecture",
            where=str(path),
            next_step="name another folder, or leave out resume",
        )
    latest = run.latest()
    step = first_step if first_step is not None else 0 if latest is None else latest + 1
    if latest is not None and step <= latest:
        run.rewind(step - 1)
    return run, step


def _beside(path: Path) -> Path:
    number = 2
    while (path.parent / f"{path.name}-{number}").exists():
        number += 1
    return path.parent / f"{path.name}-{number}"


def _describe(
    network: Network,
    table: Network | None,
    optimizers: Sequence[Optimizer],
    watched: Sequence[Watched],
    reference: Reference | None,
) -> dict[str, Any]:
    module = network.module
    found: dict[str, Any] = {
        "module": type(module).__name__,
        "parameters": sum(each.numel() for each in module.parameters() if not _lazy(each)),
        "compiled": is_compiled(module),
        "optimizers": [_describe_optimizer(each) for each in optimizers],
        "watched": [
            {"layer": each.layer, "parameter": each.name, "shape": list(each.parameter.shape)} for each in watched
        ],
        "versions": {"convscope": __version__, "torch": str(torch.__version__)},
    }
    if table is not None:
        with plainly(module):
            found["image_size"] = [network.channels, *network.image_size]
            found["layers"] = [_describe_layer(each) for each in table.layers]
            found["class_names"] = list(network.class_names)
    if reference is not None:
        found["reference"] = {
            "images": list(reference.batch.names),
            "labels": list(reference.batch.labels),
            "layers": [layer.address for layer in reference.layers],
            "left_out": list(reference.left_out),
            "without": reference.without,
        }
    return found


def _describe_layer(layer: Any) -> dict[str, Any]:
    return {
        "address": layer.address,
        "kind": layer.kind,
        "operation": layer.operation,
        "depth": layer.depth,
        "units": layer.units,
        "rows": layer.rows,
        "columns": layer.columns,
        "parameters": layer.parameters,
        "inputs": list(layer.inputs),
        "parameter": layer.kernel.parameter if layer.kernel is not None else None,
    }


def _describe_optimizer(optimizer: Optimizer) -> dict[str, Any]:
    plain = {
        key: value
        for key, value in optimizer.defaults.items()
        if value is None or isinstance(value, bool | int | str | float)
    }
    return {"kind": type(optimizer).__name__, **{key: value for key, value in plain.items() if value == value}}


def _lazy(parameter: torch.Tensor) -> bool:
    return isinstance(parameter, nn.parameter.UninitializedParameter)


def pictures(reference: Reference) -> View:
    """The reference images as a person sees them, so that a page can show them without the network."""
    import numpy as np

    batch, network = reference.batch, reference.network
    shown = np.stack([network.unprepare(image.float().cpu()) for image in batch.tensor])
    meta = {
        "caption": "The fixed images whose maps are recorded.",
        "names": list(batch.names),
        "labels": list(batch.labels),
        "class_names": list(network.class_names),
    }
    return View("reference_images", {"picture": shown}, {"picture": ("image", "row", "column", "channel")}, meta)


__all__ = ["begin_run", "network_of", "optimizers_of", "writes_here"]
