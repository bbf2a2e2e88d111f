"""Monitor: two lines around anyone's training loop, and the loop is watched.

    with cs.Monitor(module, optimizer, store="runs/a", images=reference_images) as monitor:
        for images, labels in loader:
            loss = …
            loss.backward()
            optimizer.step()
            monitor.log(loss=loss)

Nothing is hooked into the module, nothing in the loop changes, and the numbers of training are the same to the last
bit.
"""

from __future__ import annotations

import atexit
import logging
import os
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from convscope.errors import ConvscopeError
from convscope.training.beginning import begin_run, network_of, optimizers_of, writes_here
from convscope.training.budget import Budget, Cost
from convscope.training.ledger import Event
from convscope.training.listener import Listener
from convscope.training.quantities import FILTERS, HISTOGRAMS, KERNELS, KINDS, MAPS, KernelChoice
from convscope.training.recorder import Recorder
from convscope.training.reference import Reference, images_of, plainly
from convscope.training.run import Run
from convscope.training.schedule import NEVER, Logarithmic, ScheduleLike, schedule
from convscope.training.watched import Watchlist

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from torch.optim import Optimizer

    from convscope.methods.objective import ObjectiveLike
    from convscope.network.network import Network
    from convscope.training.recorder import Part

_log = logging.getLogger("convscope")

LIGHT = Logarithmic(first=20, per_decade=48, largest=100)
HEAVY = Logarithmic(first=10, per_decade=16, largest=1000)
PATIENCE = 3  # failures of one kind before it is given up
CLOSING_SECONDS = 60.0


class Monitor:
    """Record a training run while it runs.

    ``network`` is a Network or any module (compiled, or in DistributedDataParallel); ``optimizer`` one or several, the
    first of which counts the steps. ``store`` is the run's folder; when there is a run in it, ``resume`` continues
    that, otherwise a folder beside it is taken (``runs/a-2``). ``images`` are a few fixed ones: a prepared tensor
    ``[image, channel, row, column]``, a pair of it and labels, or pictures (then ``network`` is a Network, which can
    prepare them).

    Recorded, each on its schedule (every how many steps, a Schedule, or None): ``filters``, per filter norms of weight,
    final gradient and update, and their ratio; ``histograms``, exact counts of weights and gradients; ``kernels``,
    with their gradients and displacement; ``maps``, activations and their gradients on ``images``. ``layers`` restrict
    everything to some addresses (``layer4.*``), ``kernel_layers`` and ``map_layers`` the two large kinds.

    ``budget`` is the part of training's time that all of this may take; schedules are stretched to keep to it, and
    :attr:`cost` says how far. None: no limit. A run grows to at most ``largest`` bytes. Pass a ``scaler`` (GradScaler)
    to have the steps that it skips counted.

    Once the loop runs nothing is raised into it: what fails is logged once, and shown in the run.

    >>> import tempfile
    >>> module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 2))
    >>> optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     images = torch.ones(1, 1, 5, 5)
    ...     with Monitor(module, optimizer, store=f"{folder}/a", images=images, budget=None) as monitor:
    ...         for _ in range(3):
    ...             loss = module(torch.ones(4, 1, 5, 5)).square().mean()
    ...             optimizer.zero_grad()
    ...             loss.backward()
    ...             optimizer.step()
    ...             monitor.log(loss=loss)
    ...     with monitor.run as run:
    ...         run.steps("filters:0"), run.get(2, "maps:0")["gradient"].shape, len(run.scalars()["loss"][1])
    ([0, 1, 2], (1, 2, 3, 3), 3)
    """

    def __init__(
        self,
        network: Network | nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        *,
        store: str | os.PathLike[str],
        images: Any = None,
        labels: Sequence[int | None] | None = None,
        name: str = "",
        facts: Mapping[str, Any] | None = None,
        layers: Sequence[str] | None = None,
        filters: ScheduleLike = LIGHT,
        histograms: ScheduleLike = LIGHT,
        kernels: ScheduleLike = HEAVY,
        maps: ScheduleLike = HEAVY,
        kernel_layers: Sequence[str] | None = None,
        map_layers: Sequence[str] | None = None,
        objective: ObjectiveLike = "loss",
        budget: float | None = 0.02,
        largest: int = 4 * 2**30,
        scaler: Any = None,
        resume: bool = False,
        first_step: int | None = None,
    ) -> None:
        self.problems: list[str] = []
        self._scaler, self._largest, self._fraction = scaler, largest, budget
        self._optimizers = optimizers_of(optimizer)
        self._network, table = network_of(network, images)
        self._schedules = {
            FILTERS: schedule(filters),
            HISTOGRAMS: schedule(histograms),
            KERNELS: schedule(kernels),
            MAPS: schedule(maps) if images is not None else NEVER,
        }
        self._kernels = KernelChoice(kernel_layers)
        self._failures: dict[str, int] = {}
        self._process = os.getpid()
        self._active = False
        self._logs_before_step: bool | None = None
        self._first = first_step or 0
        self._reference: Reference | None = None
        self.writes = writes_here()
        if not self.writes:
            return
        with plainly(self._network.module):
            self._watchlist = Watchlist(self._network.module, table, layers)
        if images is not None:
            batch = images_of(self._network, images, labels)
            self._reference = Reference.of(self._network, batch, patterns=map_layers or layers, objective=objective)
        self._run, self._first = begin_run(
            store,
            name,
            facts or {},
            self._network,
            table,
            self._optimizers,
            self._watchlist.entries,
            self._reference,
            resume,
            first_step,
        )

    # ---- what it knows -----------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """How many steps the first optimizer has taken, counted on from the first step's number."""
        return self._listener.step if self._started else self._first

    @property
    def run(self) -> Run:
        """The run that is recorded, readable at any time. Refused on processes that don't write (rank 1 and up)."""
        if not self.writes:
            raise ConvscopeError("this process records nothing: rank 0 does", next_step="open the run from its folder")
        if self._run.closed:
            self._run = Run.open(self._run.path)
        return self._run

    @property
    def path(self) -> str:
        """The run's folder, or "" on processes that don't write."""
        return str(self._run.path) if self.writes else ""

    @property
    def cost(self) -> Cost:
        """What recording took so far, and how far schedules are stretched to stay in the budget."""
        return self._budget.cost() if self._started else Cost(0.0, 0.0, 0.0, ())

    @property
    def dropped(self) -> int:
        """Recordings that were left out because the disk couldn't keep up, or couldn't be written."""
        return self._recorder.dropped + self._recorder.lost if self._started else 0

    @property
    def skipped(self) -> int:
        """Steps that the GradScaler skipped."""
        return self._listener.skipped if self._started else 0

    @property
    def _started(self) -> bool:
        return hasattr(self, "_listener")

    # ---- beginning and end -------------------------------------------------------------------------------------

    def __enter__(self) -> Monitor:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if kind is not None:
            self.event("stopped", text=f"Training ended with {kind.__name__}.")
        self.close()

    def start(self) -> Monitor:
        """Begin to watch; what ``with`` does."""
        if not self.writes or self._started:
            return self
        self._budget = Budget(self._schedules, self._fraction, self._first)
        self._recorder = Recorder(
            self._run,
            paid=self._paid,
            failed=self._failed,
            not_finite=self._budget.want_all,
            largest=self._largest,
        )
        self._listener = Listener(
            self._optimizers,
            self._watchlist,
            self._reference,
            self._budget,
            self._recorder,
            self._kernels,
            self._failed,
            self._first,
        )
        if self._scaler is not None:
            self._listener.watch_scaler(self._scaler)
        atexit.register(self.close)
        self._active = True
        return self

    def close(self) -> None:
        """Write what waits and let go of the optimizer. Nothing happens the second time."""
        if not self._active or os.getpid() != self._process:
            return
        self._active = False
        atexit.unregister(self.close)
        self._listener.close()
        if self._recorder.close(CLOSING_SECONDS):
            self._run.close()
        else:
            self._failed("writing", TimeoutError(f"the disk took more than {CLOSING_SECONDS:.0f} s"))
        _log.info("%s: %s", self.path, self.cost)

    # ---- what the loop may say ---------------------------------------------------------------------------------

    def log(self, values: Mapping[str, Any] | None = None, /, *, step: int | None = None, **named: Any) -> None:
        """Record numbers of this step: ``monitor.log(loss=loss, accuracy=0.9)``.

        Tensors of one value are taken as they are, without waiting for their device. Without ``step`` they belong to
        the step that was just taken or, in a loop that logs before it steps, to the one about to be taken.
        """
        if not self._active:
            return
        try:
            if self._logs_before_step is None:
                self._logs_before_step = self.step == self._first
            at = step if step is not None else self.step if self._logs_before_step else self.step - 1
            row = {key: _number(value) for key, value in {**(values or {}), **named}.items()}
            self._recorder.scalars(int(at), row)
        except Exception as error:
            self._failed("log", error)

    def event(self, kind: str, name: str = "", old: Any = None, new: Any = None, text: str = "") -> None:
        """Record that something happened at this step, such as a changed setting."""
        if self._active:
            self._recorder.event(Event(self.step, kind, name, old, new, text))

    def record_next(self) -> None:
        """Record everything at the next step, as soon as the budget allows, whatever the schedules say."""
        if self._active:
            self._budget.want_all()

    # ---- costs and failures ------------------------------------------------------------------------------------

    def _paid(self, part: Part | None, writing: float, device: float) -> None:
        if part is None:
            self._budget.settle("", 0.0, 0.0, writing, 0.0)
        else:
            self._budget.settle(part.kind, part.charged, part.seconds, writing, device)

    def _failed(self, kind: str, error: BaseException) -> None:
        """Said once, wherever it happened; a kind that keeps failing is given up."""
        try:
            count = self._failures[kind] = self._failures.get(kind, 0) + 1
            if count == 1:
                text = f"{kind}: {type(error).__name__}: {error}"
                self.problems.append(text)
                _log.warning("while training was watched, %s", text, exc_info=error)
                self._recorder.event(Event(self.step, "failed", kind, text=text))
            if count == PATIENCE and kind in KINDS:
                self._budget.stop(kind)
                text = f"{kind} failed {count} times and is recorded no more."
                self.problems.append(text)
                self._recorder.event(Event(self.step, "failed", kind, text=text))
        except Exception:  # nothing that goes wrong here may reach the loop
            _log.debug("can't report a failure", exc_info=True)


def _number(value: Any) -> float | torch.Tensor:
    if not isinstance(value, torch.Tensor):
        return float(value)
    if value.numel() != 1:
        raise ConvscopeError(f"a tensor of {value.numel()} values isn't a number", next_step="log its mean")
    value = value.detach()
    return float(value) if value.device.type == "cpu" else value.clone()


__all__ = ["Monitor"]
