"""Monitor as a callback of Lightning's Trainer: ``Trainer(callbacks=[MonitorCallback(store="runs/a")])``.

Needs Lightning (``pip install 'convscope[lightning]'``), also under its older name pytorch_lightning. It is imported
when ``MonitorCallback`` is first asked for.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from convscope.errors import ConvscopeError
from convscope.training.monitor import Monitor

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping


class _Watching:
    """Watch a Lightning training. The options are those of :class:`convscope.Monitor`.

    ``module`` is the name of the LightningModule's attribute that is the network (``"model"``); empty: itself. Its
    losses are recorded, and whatever it logs. ``monitor`` is there while it trains.
    """

    def __init__(self, *, store: str | os.PathLike[str], module: str = "", **options: Any) -> None:
        super().__init__()
        self.monitor: Monitor | None = None
        self._store, self._module, self._options = store, module, options
        self._logged: dict[str, Any] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Optimizers are ready and weights are where they will be trained."""
        network = pl_module.get_submodule(self._module) if self._module else pl_module
        options = {"scaler": getattr(trainer.precision_plugin, "scaler", None), **self._options}
        self.monitor = Monitor(network, list(trainer.optimizers), store=self._store, **options).start()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """The loss, and what the module logged at this step."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if loss is not None:
            # Lightning hands over the loss divided by the number of batches whose gradients are added up.
            self._log({"loss": loss * trainer.accumulate_grad_batches})
        self._log(self._fresh(trainer.callback_metrics))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """What is logged once in an epoch."""
        self._log(self._fresh(trainer.callback_metrics))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """What validation logged."""
        self._log(self._fresh(trainer.callback_metrics))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Write what waits."""
        self._close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:  # noqa: ARG002
        """The same, saying why."""
        if self.monitor is not None:
            self.monitor.event("stopped", text=f"Training ended with {type(exception).__name__}.")
        self._close()

    def _close(self) -> None:
        if self.monitor is not None:
            self.monitor.close()

    def _fresh(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Lightning keeps the last value of everything that was ever logged: what is another object is new."""
        fresh = {name: value for name, value in metrics.items() if self._logged.get(name) is not value}
        self._logged.update(metrics)
        return fresh

    def _log(self, values: Mapping[str, Any]) -> None:
        if self.monitor is not None and values:
            self.monitor.log(values, step=max(0, self.monitor.step - 1))


def __getattr__(name: str) -> Any:
    if name != "MonitorCallback":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    documented = {"__doc__": _Watching.__doc__, "__module__": __name__}
    globals()[name] = type(name, (_Watching, _callback_class()), documented)
    return globals()[name]


def _callback_class() -> Any:
    # The one that is in use already: the two packages' classes are strangers to each other.
    for name in sorted(("lightning.pytorch", "pytorch_lightning"), key=lambda name: name not in sys.modules):
        try:
            return import_module(name).Callback
        except ImportError:
            continue
    raise ConvscopeError("Lightning isn't installed", next_step="pip install 'convscope[lightning]'")


__all__ = ["MonitorCallback"]  # noqa: F822 - made by __getattr__
