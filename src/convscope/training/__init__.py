"""Training, watched: what is recorded while a network trains, and reading it again.

The names are imported when first used: reading a run needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convscope.training.ledger import Event
    from convscope.training.monitor import Monitor
    from convscope.training.run import Run
    from convscope.training.schedule import At, Every, Logarithmic

_HOME = {
    "At": "convscope.training.schedule",
    "Event": "convscope.training.ledger",
    "Every": "convscope.training.schedule",
    "Logarithmic": "convscope.training.schedule",
    "Monitor": "convscope.training.monitor",
    "Run": "convscope.training.run",
}

__all__ = ["At", "Event", "Every", "Logarithmic", "Monitor", "Run"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'convscope.training' has no attribute {name!r}")
