"""Cascading randomization (Adebayo et al. 2018): a copy of a network that forgets what it learned, from its end on."""

from __future__ import annotations

import hashlib
import re
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from convscope.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convscope.methods.attribution.seed import BoundSeed
    from convscope.network.batch import Batch
    from convscope.network.network import Network

_NORMALIZATIONS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


@dataclass(frozen=True)
class Stage:
    """One step of the cascade: the modules that forget in it, and what a person calls the state after it."""

    name: str
    paths: tuple[str, ...]


def copy_of(module: nn.Module) -> nn.Module:
    """A copy that shares no tensor with the module and whose parameters can be written to.

    Raises :class:`Refused` where a module can't be copied.
    """
    # torch refuses to copy a tensor that was computed (weight normalization keeps one): the copy gets its value.
    computed = [
        each
        for part in module.modules()
        for each in (*vars(part).values(), *part._buffers.values())
        if isinstance(each, Tensor) and each.grad_fn is not None
    ]
    try:
        copied = deepcopy(module, {id(each): each.detach().clone() for each in computed})
    except Exception as error:
        raise Refused(
            f"the network can't be copied, and its own weights are never touched: {type(error).__name__}: {error}",
            where=type(module).__name__,
            next_step="look at the map without its sanity checks",
        ) from error
    for parameter in copied.parameters():
        parameter.grad = None
    return copied


def relevant_parameters(network: Network, bound: BoundSeed, batch: Batch) -> tuple[str, ...] | None:
    """The names of the parameters that what is explained depends on, found by one backward pass; None if unknown.

    ``network`` must be over a copy: its parameters are asked for gradients for a while, and for none afterwards.
    """
    named = [(name, each) for name, each in network.module.named_parameters() if each.is_floating_point()]
    for _, parameter in named:
        parameter.requires_grad_(True)
    try:
        with network.trace(bound.layers, gradients=True) as trace:
            output = trace.run(batch.tensor, stop=not bound.needs_output)
            values, _ = bound.values(network, trace, output, batch)
            if not values.requires_grad:
                return ()
            found = torch.autograd.grad(values.sum(), [each for _, each in named], allow_unused=True)
    except RuntimeError as error:
        if "inplace operation" not in str(error):
            raise
        return None
    finally:
        for _, parameter in named:
            parameter.requires_grad_(False)
    return tuple(name for (name, _), gradient in zip(named, found, strict=True) if gradient is not None)


def cascade(network: Network, relevant: Sequence[str] | None, stages: int) -> tuple[Stage, ...]:
    """The stages, from the end of the network to its beginning: the first is the last layer alone, after the last one
    every layer has forgotten.

    A layer is a convolution or linear module with the normalizations (and any other parameters) up to the next one. A
    module that is called more than once stands where it is called first: before the boundary, everything is as
    trained. ``relevant`` are the parameters (dotted names) that what is explained depends on; None means all.
    """
    owners = _owners(network, relevant)
    if not owners:
        raise Refused(
            "nothing that was learned lies between the image and what is explained",
            where=network.name,
            next_step="choose a later layer or a class",
        )
    layers: list[list[str]] = []
    for path, has_kernel in owners:
        if has_kernel or not layers:
            layers.append([path])
        else:
            layers[-1].append(path)
    layers.reverse()
    boundaries = sorted({1, *(round(1 + step * (len(layers) - 1) / max(1, stages - 1)) for step in range(stages))})
    made, start = [], 0
    for stop in boundaries[:stages]:
        name = layers[stop - 1][0] or type(network.module).__name__
        paths = tuple(path for layer in layers[start:stop] for path in layer)
        made.append(Stage(name if stop == 1 else f"{name} and later", paths))
        start = stop
    return tuple(made)


def _owners(network: Network, relevant: Sequence[str] | None) -> list[tuple[str, bool]]:
    """Modules that learned something of their own, by the call they first take part in, and whether it is a kernel.

    A normalization that learned nothing but its statistics counts, too; not before the first kernel, where it prepares
    the image.
    """
    wanted = None if relevant is None else frozenset(relevant)
    first: dict[str, int] = {}
    for layer in network.layers:
        first.setdefault(re.sub(r"@\d+$", "", layer.path), layer.index)
    found: list[tuple[int, int, str, bool]] = []
    statistics: list[tuple[int, int, str, bool]] = []
    for number, (path, module) in enumerate(network.module.named_modules()):
        own = {f"{path}.{name}".lstrip("."): each for name, each in _own_parameters(path, module).items()}
        place = (_position(path, first), number, path)
        if any(wanted is None or name in wanted for name in own):
            kernel = not isinstance(module, _NORMALIZATIONS) and any(each.dim() > 1 for each in own.values())
            found.append((*place, kernel))
        elif not own and _normalizes(module):
            statistics.append((*place, False))
    learned = [place for place in found if place[3]]
    after = [place for place in statistics if learned and place > min(learned)]
    return [(path, kernel) for _, _, path, kernel in sorted([*found, *after])]


def _own_parameters(path: str, module: nn.Module) -> dict[str, nn.Parameter]:
    """A module's floating parameters, and those that its parametrized ones are computed from."""
    if ".parametrizations." in f".{path}.":
        return {}  # they belong to the module whose weight they make
    named = dict(module.named_parameters(recurse=False))
    made_of = getattr(module, "parametrizations", None)
    if isinstance(made_of, nn.Module):
        named |= {f"parametrizations.{name}": each for name, each in made_of.named_parameters()}
    return {name: each for name, each in named.items() if each.is_floating_point()}


def _normalizes(module: nn.Module) -> bool:
    return isinstance(module, _NORMALIZATIONS) or isinstance(getattr(module, "running_var", None), Tensor)


def _position(path: str, first: dict[str, int]) -> int:
    """Where a module's turn is: its own first call's, else that of the nearest module around it that was called."""
    while path:
        if path in first:
            return first[path]
        path = path.rpartition(".")[0]
    return -1


def forget(module: nn.Module, paths: Sequence[str], seed: int) -> None:
    """Give the parameters of these modules new random values, in place; ``module`` must be a copy.

    Kernels (two or more axes) are drawn from a normal distribution of mean 0 and variance 2 / fan-in (He et al. 2015),
    under which values neither vanish nor explode from layer to layer; biases beside them become 0. Normalizations
    become what they were before training (gain 1, shift 0), running mean 0 and variance 1: kept statistics of what is
    no longer computed would divide random values by the smallest trained deviations, over and over, beyond what a
    float holds. Everything else (a layer scale, a token) is shuffled, which keeps its distribution. The values depend
    on the seed and on the parameter's name, not on the stages.
    """
    for path in paths:
        part = module.get_submodule(path)
        if _normalizes(part):
            _reset(part)
            continue
        parameters = _own_parameters(path, part)
        kernel = any(each.dim() > 1 for each in parameters.values())
        for name, parameter in parameters.items():
            generator = torch.Generator().manual_seed(_number(f"{seed} {path}.{name}"))
            with torch.no_grad():
                # Not through the module: a parametrization's own tensors are written, whatever it makes of them.
                parameter.copy_(_forgotten(parameter, name, kernel, generator))


def _reset(normalization: nn.Module) -> None:
    """A normalization as before training, also one (frozen) whose gain and shift are no parameters."""
    for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
        tensor = getattr(normalization, name, None)
        if isinstance(tensor, Tensor):
            with torch.no_grad():
                tensor.fill_(value)


def _forgotten(parameter: Tensor, name: str, beside_kernel: bool, generator: torch.Generator) -> Tensor:
    if parameter.dim() > 1:
        deviation = (2 / max(1, parameter[0].numel())) ** 0.5
        return torch.empty(parameter.shape).normal_(0.0, deviation, generator=generator)
    if name == "bias" and beside_kernel:
        return torch.zeros_like(parameter)
    order = torch.randperm(parameter.numel(), generator=generator)
    shuffled: Tensor = parameter.detach().reshape(-1)[order.to(parameter.device)].reshape(parameter.shape)
    return shuffled


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
