"""Training, watched: what is recorded while a network trains, and reading it again.

The names are imported when first used: reading a run needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convscope.training.data import load_data
    from convscope.training.definition import Definition
    from convscope.training.learner import Learner
    from convscope.training.ledger import Event
    from convscope.training.monitor import Monitor
    from convscope.training.presets import preset
    from convscope.training.race import Race
    from convscope.training.recorded import Recorded
    from convscope.training.run import Run
    from convscope.training.schedule import At, Every, Logarithmic
    from convscope.training.settings import Settings
    from convscope.training.snapshot import Snapshot
    from convscope.training.trainer import Trainer
    from convscope.training.until import Until

_HOME = {
    "At": "convscope.training.schedule",
    "Definition": "convscope.training.definition",
    "Event": "convscope.training.ledger",
    "Every": "convscope.training.schedule",
    "Learner": "convscope.training.learner",
    "Logarithmic": "convscope.training.schedule",
    "Monitor": "convscope.training.monitor",
    "Race": "convscope.training.race",
    "Recorded": "convscope.training.recorded",
    "Run": "convscope.training.run",
    "Settings": "convscope.training.settings",
    "Snapshot": "convscope.training.snapshot",
    "Trainer": "convscope.training.trainer",
    "Until": "convscope.training.until",
    "load_data": "convscope.training.data",
    "preset": "convscope.training.presets",
}

__all__ = [
    "At",
    "Definition",
    "Event",
    "Every",
    "Learner",
    "Logarithmic",
    "Monitor",
    "Race",
    "Recorded",
    "Run",
    "Settings",
    "Snapshot",
    "Trainer",
    "Until",
    "load_data",
    "preset",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'convscope.training' has no attribute {name!r}")
