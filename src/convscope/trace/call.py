"""Call: one call during a forward pass, how it is named, and who may watch."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from collections.abc import Mapping

Operation = Literal["module", "block", "function"]


@dataclass(frozen=True, eq=False)
class Call:
    """One call during the forward pass, in the order in which calls *began*."""

    order: int
    address: str
    path: str
    index: int  # how many calls of this path came before
    kind: str
    operation: Operation
    depth: int
    module: nn.Module | None
    arguments: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Observer(Protocol):
    """Sees every call and every elementary operation of a forward pass; what a layer table is made from."""

    def begin(self, call: Call) -> None:
        """A call is about to run."""

    def end(self, call: Call, output: Tensor) -> None:
        """A call returned; ``output`` is the first tensor of what it returned."""

    def kernel(self, call: Call, name: str, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> None:
        """A convolution or linear function was applied inside ``call``, with these arguments."""

    def elementary(self, function: Any, arguments: tuple[Any, ...], options: Mapping[str, Any], output: Any) -> None:
        """An elementary (aten) operation ran."""


def first_tensor(value: Any) -> Tensor | None:
    """The first tensor in a tensor, tuple, list, dict or data class of tensors."""
    return next((leaf for leaf in tree_leaves(_plain(value)) if isinstance(leaf, Tensor)), None)


def _plain(value: Any) -> Any:
    """Output classes such as ModelOutput are read as their fields."""
    return vars(value) if hasattr(value, "__dataclass_fields__") else value


def function_name(name: str) -> str:
    """The name of a torch function without the marks of in-place and operator forms.

    >>> [function_name(name) for name in ("add_", "__iadd__", "__rmul__", "__truediv__", "__getitem__", "relu")]
    ['add', 'add', 'mul', 'div', 'getitem', 'relu']
    """
    bare = name.strip("_")
    if name.startswith("__"):
        bare = re.sub(r"^[ir](?=(add|sub|mul|truediv|pow|matmul|and|or)$)", "", bare)
    return {"truediv": "div"}.get(bare, bare)


def is_call(output: Any, versions: list[tuple[Tensor, int]]) -> bool:
    """False for what returns no tensor, and for what hands back its argument unchanged (`contiguous`, eval dropout)."""
    tensor = first_tensor(output)
    if tensor is None:
        return False
    return all(tensor is not argument or argument._version != version for argument, version in versions)
