"""What lies between the images and a value, operation by operation: whether a ReLU rule means something there.

The graph that autograd will go back through is asked, not the modules: it holds exactly what the value depends on, and
also what no Python code called.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import torch
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import get_gradient_edge

from convscope.errors import Refused
from convscope.trace.relu_rule import SPELLINGS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor
    from torch.autograd.graph import Node

    from convscope.trace.relu_rule import ReluRule

_OURS = "RuledReluBackward"
_FASTER = ("_PooledBackward", "_NormalizedBackward")  # what they are in torch, too, only faster
# Operations that rectify in another way than by a gate of ones and zeros, by torch's name of their backward pass.
_OTHERS = {
    "Abs": "abs",
    "ClampMax": "clamp",
    "Elu": "ELU",
    "Erf": "erf",
    "Gelu": "GELU",
    "Glu": "GLU",
    "Hardshrink": "hardshrink",
    "Hardswish": "hardswish",
    "Hardtanh": "hardtanh",
    "LeakyRelu": "leaky ReLU",
    "LogSigmoid": "logsigmoid",
    "Mish": "Mish",
    "Prelu": "PReLU",
    "PreluKernel": "PReLU",
    "Rrelu": "RReLU",
    "RreluWithNoise": "RReLU",
    "Silu": "SiLU",
    "Softplus": "softplus",
    "Softshrink": "softshrink",
    "Threshold": "threshold",
    "Where": "where",
}
# Those of them that a call's kind gives away for certain: a module's class, or a function's name.
_BY_NAME = {
    "celu": "CELU",
    "elu": "ELU",
    "gelu": "GELU",
    "hardshrink": "hardshrink",
    "hardswish": "hardswish",
    "leakyrelu": "leaky ReLU",
    "mish": "Mish",
    "prelu": "PReLU",
    "rrelu": "RReLU",
    "selu": "SELU",
    "silu": "SiLU",
    "softshrink": "softshrink",
}
_SMALL = 1e-2
# A gate that a value is multiplied with is computed from it by a chain of these.
_ELEMENTWISE = frozenset(
    "Add Clamp Div Erf Exp Hardsigmoid Hardtanh Mul Neg Pow Reciprocal Sigmoid Softplus Sub Tanh RuledRelu".split()
)


def check_relu_rule(rule: ReluRule, value: Tensor, images: Tensor) -> None:
    """Refuse a rule that would be the plain gradient in disguise: where no ReLU is, or something else rectifies too.

    Only what the value depends on counts, and of that only what depends on the images. Sigmoid, tanh, softmax and
    pooling gate and squash but don't rectify: they are differentiated as usual, as convolutions are.
    """
    nodes = _between(value, images)
    others = sorted({name for node in nodes for name in _other_rectifiers(node)})
    if others:
        raise otherwise_rectified(rule, others)
    if not any(node.name() == _OURS for node in nodes):
        raise never_rectified(rule)


def never_rectified(rule: ReluRule) -> Refused:
    """The refusal of a rule where it would change nothing."""
    return Refused(
        f"no ReLU lies between the image and what is explained, so the {rule} rule would change nothing",
        next_step="use the plain gradient: there it is the same",
    )


def otherwise_rectified(rule: ReluRule, others: Iterable[str]) -> Refused:
    """The refusal of a rule for the sake of these operations."""
    return Refused(
        f"the {rule} rule is defined for ReLU, but the image is also rectified by {', '.join(others)} on the way",
        next_step="use the plain gradient, or a unit before that",
    )


def named_rectifiers(kinds: Iterable[str]) -> list[str]:
    """Of calls' kinds, those that rectify otherwise: what can be told by name, without a forward pass.

    >>> named_rectifiers(["Conv2d", "SiLU", "leaky_relu", "Sigmoid", "ReLU6"])
    ['SiLU', 'leaky ReLU']
    """
    plain = (kind.lower().replace("_", "") for kind in kinds)
    return sorted({_BY_NAME[kind] for kind in plain if kind in _BY_NAME})


def may_rectify(kinds: Iterable[str]) -> bool:
    """Whether a call of one of these kinds may be a ReLU, however it is spelled.

    >>> may_rectify(["Conv2d", "clamp"]), may_rectify(["Conv2d", "BatchNorm2d", "Tanh"])
    (True, False)
    """
    return any(kind.lower() in SPELLINGS for kind in kinds)


def _between(value: Tensor, images: Tensor) -> list[Node]:
    """Every node of the graph on a way from the value to the images."""
    first, last = value.grad_fn, get_gradient_edge(images).node
    if first is None:
        return []
    # Nodes are kept alive here: torch makes their Python objects anew each time, and these stand for identity.
    above: dict[Node, list[Node]] = defaultdict(list)
    seen, waiting = {first}, [first]
    while waiting:
        node = waiting.pop()
        for below in _below(node):
            above[below].append(node)
            if below not in seen:
                seen.add(below)
                waiting.append(below)
    reached, waiting = {last}, [last]
    while waiting:
        for node in above.get(waiting.pop(), ()):
            if node not in reached:
                reached.add(node)
                waiting.append(node)
    return list(reached - {last})


def _below(node: Node) -> list[Node]:
    return [below for below, _ in node.next_functions if below is not None]


def _kind(node: Node) -> str:
    return node.name().split("Backward", 1)[0]


def _other_rectifiers(node: Node) -> Iterator[str]:
    kind = _kind(node)
    if isinstance(node, BackwardCFunction):
        if node.name() in _FASTER:
            return
        if node.name() != _OURS:
            yield f"{kind} (an operation with a backward pass of its own)"
        elif getattr(node, "high", None) is not None and _adds_constant(node):
            yield "a hard sigmoid made of ReLU6"
    elif kind.startswith("torch::jit"):
        yield "compiled code"
    elif kind == "Relu":
        yield "a ReLU that no Python code calls"
    elif kind in ("Clamp", "ClampMin"):
        # Above a small number it keeps a divisor from vanishing, in norms and generalized means; it rectifies nothing.
        least, most = getattr(node, "_saved_min", None), getattr(node, "_saved_max", None)
        if not (isinstance(least, int | float) and 0 < least < _SMALL and most is None):
            yield "clamp"
    elif kind == "Mul":
        yield from _gates(node)
    elif kind in _OTHERS:
        yield _OTHERS[kind]


def _adds_constant(node: Node) -> bool:
    (below,) = _below(node)
    return _kind(below) == "Add" and len(_below(below)) == 1


def _gates(node: Node) -> Iterator[str]:
    """A value times a mask or a gate of its own: ReLU, SiLU or hardswish written by hand."""
    operands = _below(node)
    if len(operands) == 2:
        for value, gate in (operands, operands[::-1]):
            while _kind(gate) in _ELEMENTWISE and len(_below(gate)) == 1:
                (gate,) = _below(gate)
                if gate is value:
                    yield "a value times a gate of its own (as in SiLU)"
                    return
    else:
        for name in ("_saved_self", "_saved_other"):
            mask = getattr(node, name, None)
            if isinstance(mask, torch.Tensor) and mask.numel() > 1 and _is_mask(mask.detach()):
                yield "a value times a mask"
                return


def _is_mask(values: Tensor) -> bool:
    return values.dtype == torch.bool or bool(((values == 0) | (values == 1)).all() and (values == 0).any())
