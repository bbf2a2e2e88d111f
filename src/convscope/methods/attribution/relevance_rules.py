"""What layer-wise relevance propagation needs to know of a network before it begins: who has which rule, who has none.

Rules for layers with weights are zennit's, which hang on modules; everything else is followed function by function
(:mod:`convscope.trace.relevance`). What neither can see is refused here, by the layer table alone.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from convscope.errors import Refused
from convscope.methods.graph import upstream
from convscope.trace.relevance import PASSING, PROPORTIONAL, ROUTING

if TYPE_CHECKING:
    from convscope.network.layer import Layer
    from convscope.network.network import Network

COMPOSITES = {
    "epsilon_plus_flat": ("plus", "flat"),
    "epsilon_plus": ("plus", "plus"),
    "epsilon_gamma_box": ("gamma", "box"),
    "epsilon_alpha2_beta1": ("alpha_beta", "alpha_beta"),
    "epsilon_alpha2_beta1_flat": ("alpha_beta", "flat"),
    "epsilon": ("epsilon", "epsilon"),
}
"""By name: the rule of convolutions, and of the layers that see the image. Linear layers have the epsilon rule."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_WEIGHTED = (*_CONVOLUTIONS, nn.Linear)
_NORMALIZATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_FOLLOWED: tuple[type[nn.Module], ...] = (
    *(
        nn.ReLU,
        nn.ReLU6,
        nn.Threshold,
        nn.Hardtanh,
        nn.LeakyReLU,
        nn.PReLU,
        nn.RReLU,
        nn.ELU,
        nn.SELU,
        nn.CELU,
        nn.SiLU,
    ),
    *(nn.GELU, nn.Mish, nn.Softplus, nn.Softsign, nn.Sigmoid, nn.LogSigmoid, nn.Hardsigmoid, nn.Hardswish, nn.Tanh),
    *(nn.Hardshrink, nn.Softshrink, nn.Tanhshrink),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.Flatten, nn.Unflatten, nn.Identity, nn.Upsample, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
    *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d),
    *(nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReplicationPad1d, nn.ReplicationPad2d),
)
_ELSE = "choose a unit before it, or another method, such as the gradient"


@dataclass(frozen=True, eq=False)
class Plan:
    """Which rule each module has, by its path, and which batch normalizations go into which convolution."""

    rules: dict[str, str]
    merged: tuple[tuple[tuple[str], str], ...]
    passed: tuple[str, ...]  # batch normalizations that can't be merged: relevance passes as it is


def plan(network: Network, layer: Layer | None, composite: str) -> Plan:
    """The rules for everything that happens until a layer (until the scores, for None).

    Raises :class:`Refused` with the first call that has no rule.
    """
    calls = _calls_until(network, layer)
    for call in calls:
        _check(network, call)
    weighted = {call.address: call for call in calls if _module(network, call, _WEIGHTED) is not None}
    of_convolutions, of_first = COMPOSITES[composite]
    rules = {}
    for address, call in weighted.items():
        above = [each for each in upstream(network, call) if each.address in weighted and each is not call]
        convolution = isinstance(network.module.get_submodule(call.path), _CONVOLUTIONS)
        rules[address] = of_convolutions if convolution else "epsilon"
        # The plain composites treat the first layer as any other.
        if not above and (of_first == "flat" or (of_first == "box" and convolution)):
            rules[address] = of_first
        if rules[address] == "box" and not _sees_the_image(network, call):
            raise Refused(
                f"{address} doesn't see the image as it is prepared, so how black and white reach it isn't known",
                next_step="choose a composite without a box, like epsilon_plus_flat",
            )
    merged = tuple(_merged(network, calls))
    norms = [call.path for call in calls if _module(network, call, _NORMALIZATIONS) is not None]
    done = {path for _, path in merged}
    return Plan(rules, merged, tuple(path for path in dict.fromkeys(norms) if path not in done))


def _sees_the_image(network: Network, call: Layer) -> bool:
    """Whether a call is given the prepared image as it is, possibly with a border of zeros."""
    while call.inputs != ("input",):
        if len(call.inputs) != 1:
            return False
        call = network.layer(call.inputs[0])
        if call.kind not in ("pad", "ZeroPad2d", "Identity", "contiguous", "clone", "to", "float"):
            return False
    return True


def _calls_until(network: Network, layer: Layer | None) -> list[Layer]:
    """Everything that runs before a layer is there, whether it depends on it or not: a connection that can't be
    followed must not hide a call that has no rule.
    """
    if layer is None:
        return list(network.layers)
    inside = [each.index for each in network.layers if each.path.startswith(f"{layer.path}.")]
    last = max([layer.index, *(inside if layer.operation == "block" else [])])
    return [each for each in network.layers if each.index <= last]


def _module(network: Network, call: Layer, kinds: tuple[type[nn.Module], ...]) -> nn.Module | None:
    if call.operation == "function":
        return None
    module = network.module.get_submodule(call.path)
    return module if isinstance(module, kinds) else None


def _check(network: Network, call: Layer) -> None:
    """Raise unless this call has a rule."""
    if call.operation == "function":
        _check_function(network, call)
        return
    module = network.module.get_submodule(call.path)
    kind = type(module).__name__
    if isinstance(module, _WEIGHTED):
        own = next(each for each in _WEIGHTED if isinstance(module, each))
        if type(module).forward is not own.forward or "weight" not in dict(module.named_parameters(recurse=False)):
            raise Refused(
                f"{call.address} computes its weights during the forward pass, where zennit's rules can't change them",
                next_step=_ELSE,
            )
        if call.call > 0:
            raise Refused(
                f"{call.path} is called more than once, and zennit's rules remember one input of a module",
                next_step=_ELSE,
            )
        return
    if isinstance(module, (*_FOLLOWED, *_NORMALIZATIONS)):
        return
    torchs_own = type(module).__module__.startswith("torch.nn.modules")
    container = type(module).__module__ == "torch.nn.modules.container"
    # Of a module of the network's own, the calls inside it are seen one by one.
    if torchs_own and not container:
        raise Refused(f"{call.address} is a {kind}, which has no relevance rule here", next_step=_ELSE)


def _check_function(network: Network, call: Layer) -> None:
    owner = call.path.rpartition(".")[0]
    if owner and isinstance(network.module.get_submodule(owner), _NORMALIZATIONS) and call.kind == "batch_norm":
        return
    if call.kind in ("conv1d", "conv2d", "conv3d", "conv_transpose2d", "linear"):
        raise Refused(
            f"{call.address} applies its weights by a function, and zennit's rules hang on modules", next_step=_ELSE
        )
    if call.kind in ("mul", "div") and len(call.inputs) > 1:
        raise Refused(
            f"{call.address} combines {' and '.join(call.inputs)}, which both depend on the image: a "
            f"{'product' if call.kind == 'mul' else 'quotient'} has no relevance rule",
            next_step=_ELSE,
        )
    if call.kind not in PROPORTIONAL | PASSING | ROUTING:
        raise Refused(f"{call.address} is the function {call.kind}, which has no relevance rule here", next_step=_ELSE)


def _merged(network: Network, calls: list[Layer]) -> list[tuple[tuple[str], str]]:
    """Each batch normalization that follows a convolution or linear layer alone, with that layer.

    By who reads whom, not by the order of modules: a normalization behind a concatenation stays what it is.
    """
    by_address = {each.address: each for each in network.layers}
    readers: dict[str, int] = {}
    for each in network.layers:
        if each.operation != "block":
            for address in each.inputs:
                readers[address] = readers.get(address, 0) + 1
    called = [each.path for each in calls]
    found = []
    for call in calls:
        norm = _module(network, call, _NORMALIZATIONS)
        if not isinstance(norm, _NORMALIZATIONS) or len(call.inputs) != 1 or called.count(call.path) > 1:
            continue
        source = by_address.get(call.inputs[0])
        weighted = None if source is None else _module(network, source, _WEIGHTED)
        if source is None or weighted is None or readers[source.address] > 1:
            continue
        plain = getattr(weighted, "groups", 1) == 1 or not getattr(weighted, "transposed", False)
        if plain and norm.affine and norm.track_running_stats and type(norm).forward in _NORM_FORWARDS:
            found.append(((source.path,), call.path))
    return found


_NORM_FORWARDS = {each.forward for each in _NORMALIZATIONS}


def twin(module: nn.Module) -> nn.Module:
    """A copy of a module that shares the values of its weights and buffers, but not the tensors that hold them.

    Rules and merged normalizations are put on the copy, so that whoever looks at the module meanwhile sees it as it is.
    """
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    for buffer in module.buffers():
        memo[id(buffer)] = buffer.detach()
    for each in module.modules():
        # Hooks belong to others: they are called as they are, not copied with all that they hold.
        for name, hooks in vars(each).items():
            if name.endswith("_hooks") and hooks:
                memo |= {id(hook): hook for hook in hooks.values()}
    try:
        copied: nn.Module = copy.deepcopy(module, memo)
    except (TypeError, RuntimeError, NotImplementedError, AttributeError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise Refused(
            f"the network can't be copied, and relevance is propagated on a copy: {reason}", next_step=_ELSE
        ) from error
    return copied


def without_remainder(module: nn.Module, found: Plan) -> None:
    """Make merged normalizations of a twin the identity. Zennit leaves mean 0 and variance 1 behind, which is the
    identity but for the small number that is added to the variance.
    """
    for _, path in found.merged:
        norm = module.get_submodule(path)
        if isinstance(norm, _NORMALIZATIONS):
            norm.eps = 0.0


def composite_of(found: Plan, network: Network, *, epsilon: float, gamma: float, biases: bool) -> Any:
    """Zennit's composite for a plan: its rules, and its canonizer for the normalizations that are merged."""
    from zennit.canonizers import NamedMergeBatchNorm
    from zennit.core import Composite
    from zennit.rules import AlphaBeta, Epsilon, Flat, Gamma, ZBox, ZPlus

    each = network.preprocessing
    low, high = (
        torch.tensor([(level * each.scale - m) / s for m, s in zip(each.mean, each.std, strict=True)]).reshape(
            1, -1, 1, 1
        )
        for level in (0.0, 1.0)
    )
    zero = None if biases else ["bias"]
    made = {
        "epsilon": lambda: Epsilon(epsilon=epsilon, zero_params=zero),
        "plus": lambda: ZPlus(zero_params=zero),
        "gamma": lambda: Gamma(gamma=gamma, zero_params=zero),
        "alpha_beta": lambda: AlphaBeta(alpha=2.0, beta=1.0, zero_params=zero),
        "flat": lambda: Flat(zero_params=zero),
        "box": lambda: ZBox(low=low.to(network.device), high=high.to(network.device), zero_params=zero),
    }

    def rule(_context: dict[str, Any], name: str, _module: nn.Module) -> Any:
        return made[found.rules[name]]() if name in found.rules else None

    canonizers = [NamedMergeBatchNorm(list(found.merged))] if found.merged else []
    return Composite(module_map=rule, canonizers=canonizers)


__all__ = ["COMPOSITES", "Plan", "composite_of", "plan", "twin", "without_remainder"]
