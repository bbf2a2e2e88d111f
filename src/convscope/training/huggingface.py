"""Monitor as a callback of the Hugging Face Trainer: ``Trainer(…, callbacks=[MonitorCallback(store="runs/a")])``.

Needs Transformers and Accelerate (``pip install 'convscope[huggingface]'``). They are imported when ``MonitorCallback``
is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from convscope.errors import ConvscopeError
from convscope.training.monitor import Monitor

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping


class _Watching:
    """Watch a training by the Hugging Face Trainer. The options are those of :class:`convscope.Monitor`.

    Everything that the Trainer logs and is a number is recorded. ``monitor`` is there while it trains.
    """

    def __init__(self, *, store: str | os.PathLike[str], **options: Any) -> None:
        self.monitor: Monitor | None = None
        self._store, self._options = store, options

    def on_train_begin(self, *_: Any, model: Any = None, optimizer: Any = None, **__: Any) -> None:
        """Optimizer and model are ready."""
        options = {"scaler": getattr(optimizer, "scaler", None), **self._options}
        self.monitor = Monitor(model, optimizer, store=self._store, **options).start()

    def on_log(self, *_: Any, logs: Mapping[str, Any] | None = None, **__: Any) -> None:
        """Losses, learning rates, and what evaluations found."""
        if self.monitor is not None:
            numbers = {name: value for name, value in (logs or {}).items() if isinstance(value, int | float)}
            self.monitor.log(numbers, step=max(0, self.monitor.step - 1))

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Write what waits."""
        if self.monitor is not None:
            self.monitor.close()


def __getattr__(name: str) -> Any:
    if name != "MonitorCallback":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        base = import_module("transformers").TrainerCallback
    except ImportError as error:
        raise ConvscopeError(
            "Transformers isn't installed", next_step="pip install 'convscope[huggingface]'"
        ) from error
    globals()[name] = type(name, (_Watching, base), {"__doc__": _Watching.__doc__, "__module__": __name__})
    return globals()[name]


__all__ = ["MonitorCallback"]  # noqa: F822 - made by __getattr__
