"""Which parameters of a module are watched, under which layer's address, and how each is read as filters."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch
from torch import nn

from convscope.errors import UnknownName, suggest
from convscope.methods.kernels import Arrangement, Layout, arrangement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convscope.network.layer import Layer
    from convscope.network.network import Network

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True, eq=False)
class Watched:
    """One parameter: the layer it belongs to, its dotted name, and where its filters are.

    ``arrangement`` reads it as kernels; None where it isn't the weight of a 2-D convolution or of a linear layer.
    ``groups`` is that of a transposed convolution, whose filters lie along the second axis, and 0 for all others.
    """

    layer: str
    name: str
    parameter: torch.Tensor
    arrangement: Arrangement | None = None
    groups: int = 0
    shared_with: tuple[str, ...] = ()

    def by_unit(self, tensor: torch.Tensor) -> torch.Tensor:
        """The parameter, or a tensor shaped like it, with its filters along the first axis; no copy."""
        if not self.groups:
            return tensor
        grouped: torch.Tensor = tensor.unflatten(0, (self.groups, -1))
        return grouped.transpose(1, 2).flatten(0, 1)

    @property
    def units(self) -> int:
        """How many filters it has."""
        shape = self.parameter.shape
        return int(shape[1]) * self.groups if self.groups else int(shape[0])


def find_watched(
    module: nn.Module, network: Network | None = None, patterns: Sequence[str] | None = None
) -> list[Watched]:
    """The parameters with two axes or more, each once, in the module's order.

    ``network`` gives addresses of calls, also of weights that a function applies; without it a weight goes by the path
    of the module that owns it. ``patterns`` choose among the addresses (``layer4.*``); None takes all.
    """
    aliases: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(parameter), []).append(name)
    called = {} if network is None else _called(network)
    found = []
    for name, parameter in module.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter) or parameter.dim() < 2:
            continue
        if not parameter.is_floating_point():
            continue
        others = tuple(each for each in aliases[id(parameter)] if each != name)
        found.append(_watched(module, name, parameter, others, network, called.get(name)))
    return found if patterns is None else _chosen(found, patterns)


def _called(network: Network) -> dict[str, Layer]:
    called: dict[str, Layer] = {}
    for layer in network.layers:
        if layer.kernel is not None and layer.kernel.parameter is not None:
            called.setdefault(layer.kernel.parameter, layer)
    return called


def _watched(
    module: nn.Module,
    name: str,
    parameter: torch.Tensor,
    shared_with: tuple[str, ...],
    network: Network | None,
    layer: Layer | None,
) -> Watched:
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    groups = owner.groups if isinstance(owner, _TRANSPOSED) and leaf == "weight" else 0
    if layer is not None and network is not None:
        if layer.kernel is not None and layer.kernel.operation == "transposed convolution":
            groups = layer.kernel.groups
        return Watched(layer.address, name, parameter, arrangement(network, layer), groups, shared_with)
    address = path if leaf == "weight" and path else name
    return Watched(address, name, parameter, _arrangement_of(owner, leaf, parameter), groups, shared_with)


def _arrangement_of(owner: nn.Module, leaf: str, parameter: torch.Tensor) -> Arrangement | None:
    shape = tuple(parameter.shape)
    if leaf != "weight" or len(shape) not in (2, 4):
        return None
    if isinstance(owner, nn.Linear):
        return Arrangement("linear", "vector", shape[0], shape[1], 1, 1)
    layout: Layout = "vector" if shape[2:] == (1, 1) else "slices"
    if isinstance(owner, nn.ConvTranspose2d):
        units, slices = shape[1] * owner.groups, shape[0] // owner.groups
        return Arrangement("transposed convolution", layout, units, slices, shape[2], shape[3], owner.groups)
    if isinstance(owner, nn.Conv2d):
        return Arrangement("convolution", layout, shape[0], shape[1], shape[2], shape[3], owner.groups)
    return None


def _chosen(found: list[Watched], patterns: Sequence[str]) -> list[Watched]:
    for pattern in patterns:
        if not any(matches(each.layer, [pattern]) for each in found):
            known = [each.layer for each in found]
            raise UnknownName(
                f"no layer with weights matches {pattern!r}",
                next_step=suggest(pattern, known) or f"choose among {', '.join(known[:8])}",
            )
    return [each for each in found if matches(each.layer, patterns)]


def matches(address: str, patterns: Sequence[str]) -> bool:
    """Whether an address is one of these, or fits one of these patterns with ``*`` and ``?``."""
    return any(address == pattern or fnmatchcase(address, pattern) for pattern in patterns)


def architecture_fingerprint(module: nn.Module) -> str:
    """SHA-256 over the module's structure and the names, shapes and types of its tensors: not over their values."""
    digest = hashlib.sha256(f"{module}\n".encode())
    for name, tensor in module.state_dict(keep_vars=True).items():
        if isinstance(tensor, torch.Tensor):
            lazy = isinstance(tensor, nn.parameter.UninitializedParameter | nn.parameter.UninitializedBuffer)
            shape = "?" if lazy else tuple(tensor.shape)
            digest.update(f"{name} {tensor.dtype} {shape}\n".encode())
    return digest.hexdigest()


class Watchlist:
    """What is watched of a module now: its parameters may be added to or replaced while it trains."""

    def __init__(self, module: nn.Module, network: Network | None, patterns: Sequence[str] | None) -> None:
        self._module, self._network, self._patterns = module, network, patterns
        self.entries = find_watched(module, network, patterns)
        self._known = self._identity()

    def _identity(self) -> tuple[int, ...]:
        return tuple(id(parameter) for parameter in self._module.parameters())

    def look_again(self) -> bool:
        """Whether the module's parameters are others than the last time; then :attr:`entries` are new."""
        known = self._identity()
        if known == self._known:
            return False
        self._known = known
        found = find_watched(self._module, self._network)
        self.entries = [each for each in found if self._patterns is None or matches(each.layer, self._patterns)]
        return True

    def of(self, optimizers: Sequence[torch.optim.Optimizer], index: int) -> tuple[list[Watched], list[Watched]]:
        """Those whose first optimizer is this one; and, to the first optimizer's account, those that none has."""
        owners: dict[int, int] = {}
        for place, each in enumerate(optimizers):
            for group in each.param_groups:
                for parameter in group["params"]:
                    owners.setdefault(id(parameter), place)
        owned = [each for each in self.entries if owners.get(id(each.parameter)) == index]
        frozen = [each for each in self.entries if id(each.parameter) not in owners] if index == 0 else []
        return owned, frozen


__all__ = ["Watched", "Watchlist", "architecture_fingerprint", "find_watched", "matches"]
