"""What a forward pass returns: a tensor, or a tuple, dict or data class of them; and which of it are class scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from convscope.errors import Refused


def _leaves(value: Any, name: str) -> list[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        return [(name, value)] if value.is_floating_point() else []
    if hasattr(value, "__dataclass_fields__"):
        value = vars(value)
    if isinstance(value, Mapping):
        items = [(str(key), each) for key, each in value.items()]
    elif isinstance(value, tuple | list):
        keys = getattr(value, "_fields", range(len(value)))
        items = [(str(key), each) for key, each in zip(keys, value, strict=True)]
    else:
        return []
    return [leaf for key, each in items for leaf in _leaves(each, f"{name}.{key}")]


def output_names(output: Any) -> tuple[str, ...]:
    """The names of all floating tensors in an output, in order.

    >>> import torch
    >>> output_names({"out": torch.zeros(1, 3), "aux": (torch.zeros(1, 2), None)})
    ('output.out', 'output.aux.0')
    """
    names = tuple(name for name, _ in _leaves(output, "output"))
    if not names:
        raise Refused("the network returns no tensor of real numbers", next_step="wrap it in a module that does")
    return names


def find_output(output: Any, name: str) -> Tensor:
    """The tensor of that name."""
    return dict(_leaves(output, "output"))[name]


def scores_of(output: Tensor, name: str) -> Tensor:
    """``[image, class]`` scores; rows, columns and further axes are averaged over."""
    if output.dim() < 2:
        raise Refused(f"{name} has no class axis", next_step="choose another output")
    return output.flatten(2).mean(2) if output.dim() > 2 else output
