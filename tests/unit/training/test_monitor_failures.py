"""Whatever goes wrong while a loop is watched, the loop goes on, and the run says what it was."""

from __future__ import annotations

import errno
import logging
import math
import os
import threading
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import convscope.store
from convscope.errors import ConvscopeError
from convscope.training import Monitor, Run
from convscope.training import measurement as measurements
from convscope.training import recorder as recorders
from convscope.training.reference import Reference
from patience import PATIENCE

from .loops import data, small, step

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

ALL = {"filters": 1, "histograms": 1, "kernels": 1, "maps": 1, "budget": None}


def optimizer_of(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.1)


# ---- NaN and infinity ------------------------------------------------------------------------------------------


def test_what_is_not_a_number_is_counted_shown_and_recorded_at_once(module: nn.Module, tmp_path: Path) -> None:
    optimizer = optimizer_of(module)
    with Monitor(
        module, optimizer, store=tmp_path / "a", images=data(2), filters=1, maps=1, histograms=1000
    ) as monitor:
        step(module, optimizer)
        monitor.log(loss=1.0)
        with torch.no_grad():
            module[8].weight[2, :3] = torch.tensor([math.nan, math.inf, -math.inf])
        step(module, optimizer)
        monitor.log(loss=math.nan)
        assert monitor._recorder.drain()
        step(module, optimizer)
        monitor.log(loss=math.nan)
    assert monitor.problems == []
    run = Run.open(monitor.path)
    view = run.get(1, "filters:8")
    assert np.isnan(view["weight_norm"][2])
    assert np.isfinite(view["weight_norm"][:2]).all()
    assert "weight norm: 1 of 5 filters hold NaN or infinite values." in view.meta["warnings"]
    assert run.steps("histograms:8") == [0, 2], "the first NaN asks for everything at the next step"
    counts = run.get(2, "histograms:8").meta["counts"]["weight"]
    assert (counts["nan"] + counts["positive_infinity"] + counts["negative_infinity"]) >= 3
    assert [(event.step, event.name) for event in run.events() if event.kind == "not_finite"] == [(1, "loss")]
    assert np.isnan(run.scalars()["loss"][1][1:]).all()
    assert np.isnan(run.scalars()["weight_norm:8"][1][1])
    assert run.get(1, "maps:8").meta["warnings"]
    assert run.get(1, "maps:8").meta["values"] == [None, None]


# ---- what is ours fails ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["filters", "histograms", "kernels", "maps"])
def test_one_kind_that_fails_is_given_up_and_the_others_go_on(
    broken: str, module: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise torch.OutOfMemoryError("no memory for this")

    if broken == "maps":
        monkeypatch.setattr(Reference, "measure", fail)
    else:
        name = {"filters": "measure_update", "histograms": "measure_histogram", "kernels": "measure_kernels"}[broken]
        monkeypatch.setattr(measurements, name, fail)
    optimizer = optimizer_of(module)
    with Monitor(module, optimizer, store=tmp_path / "a", images=data(2), **ALL) as monitor:
        for _ in range(6):
            step(module, optimizer)
    assert monitor.step == 6
    run = Run.open(monitor.path)
    for kind in {"filters", "histograms", "kernels", "maps"} - {broken}:
        assert run.steps(f"{kind}:0") == list(range(6)), kind
    assert len(caplog.records) == 1, "said once"
    failures = [event for event in run.events() if event.kind == "failed"]
    assert failures[0].name == broken
    assert "no memory for this" in failures[0].text
    assert failures[-1].text == f"{broken} failed 3 times and is recorded no more."
    assert monitor.problems == [event.text for event in failures]


def test_a_view_that_cannot_be_built_is_left_out(
    module: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(measurements, "histograms_view", fail)
    optimizer = optimizer_of(module)
    with Monitor(module, optimizer, store=tmp_path / "a", **ALL) as monitor:
        for _ in range(5):
            step(module, optimizer)
            assert monitor._recorder.drain()
    run = Run.open(monitor.path)
    assert run.steps("filters:0") == [0, 1, 2, 3, 4]
    assert run.steps("histograms:0") == []


def test_what_cannot_be_logged_is_said_once(module: nn.Module, tmp_path: Path) -> None:
    optimizer = optimizer_of(module)
    with Monitor(module, optimizer, store=tmp_path / "a") as monitor:
        for _ in range(3):
            step(module, optimizer)
            monitor.log(loss=torch.zeros(3))
            monitor.log(loss="low")
            monitor.log({"accuracy": True})
    assert len(monitor.problems) == 1
    assert "a tensor of 3 values isn't a number" in monitor.problems[0]
    assert Run.open(monitor.path).scalars()["accuracy"][1].tolist() == [1, 1, 1]


# ---- the disk --------------------------------------------------------------------------------------------------


def test_a_full_disk_costs_records_and_not_the_training(
    module: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    optimizer = optimizer_of(module)
    with Monitor(module, optimizer, store=tmp_path / "a", **ALL) as monitor:
        for each in range(9):
            with monkeypatch.context() as patch:
                if 3 <= each < 6:
                    patch.setattr(convscope.store.os, "replace", full)
                step(module, optimizer)
                monitor.log(loss=each)
                # What can't be written waits, so that draining succeeds only while there is room.
                assert monitor._recorder.drain(0.5) or each in (3, 4, 5)
    assert monitor.dropped >= 3
    assert len([record for record in caplog.records if "disk is full" in record.getMessage()]) == 1
    run = Run.open(monitor.path)
    assert run.steps("filters:0") == [0, 1, 2, 6, 7, 8]
    assert run.scalars()["loss"][1].tolist() == list(range(9)), "numbers wait until there is room"
    assert any("disk is full" in event.text for event in run.events())


def test_a_slow_disk_drops_the_oldest_and_training_does_not_wait(
    module: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    write = Run.write

    def slow(self: Run, *args: Any, **options: Any) -> None:
        gate.wait(PATIENCE)
        write(self, *args, **options)

    optimizer = optimizer_of(module)
    with Monitor(module, optimizer, store=tmp_path / "a", **ALL) as monitor:
        monkeypatch.setattr(Run, "write", slow)
        monitor._recorder._capacity = 50_000
        for _ in range(40):
            step(module, optimizer)
        assert monitor.step == 40
        waiting = monitor._recorder._waiting
        gate.set()
    assert waiting <= 50_000
    run = Run.open(monitor.path)
    steps = run.steps("filters:0")
    assert monitor.dropped == 40 - len(steps) > 20
    assert steps[-1] == 39, "the latest is kept"
    assert [event.kind for event in run.events()] == ["dropped"]


def test_a_run_grows_to_its_limit(module: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    optimizer = optimizer_of(module)
    with Monitor(module, optimizer, store=tmp_path / "a", largest=20_000, **ALL) as monitor:
        for _ in range(30):
            step(module, optimizer)
            assert monitor._recorder.drain()
    run = Run.open(monitor.path)
    assert 0 < len(run.steps("kernels:0")) < 30
    assert len(run.steps("filters:0")) == 30
    assert [event.kind for event in run.events()] == ["full"]
    assert "as much as it may" in caplog.text


def test_a_disk_that_hangs_does_not_keep_training_from_ending(
    module: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from convscope.training import monitor as monitors

    gate = threading.Event()
    monkeypatch.setattr(monitors, "CLOSING_SECONDS", 0.05)
    monkeypatch.setattr(Run, "write", lambda *_, **__: gate.wait(PATIENCE))
    optimizer = optimizer_of(module)
    with Monitor(module, optimizer, store=tmp_path / "a") as monitor:
        step(module, optimizer)
    assert "the disk took more than" in monitor.problems[0]
    gate.set()
    monitor._recorder._thread.join(PATIENCE)


def test_a_folder_that_cannot_be_written_to_is_refused_at_once(module: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConvscopeError, match="a store is a folder"):
        Monitor(module, optimizer_of(module), store=tmp_path / "file")


# ---- processes -------------------------------------------------------------------------------------------------


def test_a_forked_process_records_nothing(module: nn.Module, tmp_path: Path) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    optimizer = optimizer_of(module)
    with Monitor(module, optimizer, store=tmp_path / "a", **ALL) as monitor:
        step(module, optimizer)
        monitor._recorder.drain()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forking beside a thread
            child = os.fork()
        if child == 0:
            status = 1
            try:
                step(module, optimizer)
                monitor.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        step(module, optimizer)
    assert Run.open(monitor.path).steps("filters:0") == [0, 1]


def test_other_ranks_record_nothing(module: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    optimizer = optimizer_of(module)
    with Monitor(module, optimizer, store=tmp_path / "a", images=data(2)) as monitor:
        step(module, optimizer)
        monitor.log(loss=1)
        monitor.event("note")
        monitor.record_next()
    assert not optimizer._optimizer_step_pre_hooks
    assert (monitor.path, monitor.dropped, monitor.cost.fraction) == ("", 0, 0.0)
    with pytest.raises(ConvscopeError, match="rank 0 does"):
        _ = monitor.run
    assert not (tmp_path / "a").exists()


def test_two_processes_train_together(tmp_path: Path) -> None:
    """DistributedDataParallel over gloo: the gradient recorded is the one that was averaged over both."""
    import torch.multiprocessing as processes

    context = processes.get_context("spawn")
    children = [context.Process(target=one_rank, args=(rank, str(tmp_path))) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(PATIENCE)
        assert child.exitcode == 0
    weights = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))
    run = Run.open(tmp_path / "a")
    assert run.steps("maps:0") == [0, 1, 2]
    torch.testing.assert_close(torch.from_numpy(run.get(2, "kernels:0")["gradient"]), weights[0][0], rtol=0, atol=0)
    assert [path.name for path in Run.find(tmp_path)] == ["a"]


def one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    module = torch.nn.parallel.DistributedDataParallel(small())
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with Monitor(module, optimizer, store=f"{folder}/a", images=data(2), **ALL) as monitor:
        for each in range(3):
            step(module, optimizer, seed=10 * rank + each)
    assert monitor.problems == []
    state = [module.module[0].weight.grad, *(each.detach() for each in module.parameters())]
    torch.save(state, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_logging_at_its_best_costs_no_handler(
    module: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "convscope")
    optimizer = optimizer_of(module)
    with Monitor(module, optimizer, store=tmp_path / "a") as monitor:
        step(module, optimizer)
    assert f"{monitor.path}: recording took" in caplog.text


def test_the_recorder_survives_an_error_of_its_own(tmp_path: Path) -> None:
    failed: list[str] = []
    run = Run.create(tmp_path / "a", name="a", facts={})
    recorder = recorders.Recorder(
        run,
        paid=lambda *_: None,
        failed=lambda kind, _error: failed.append(kind),
        not_finite=lambda: None,
        largest=2**30,
    )
    recorder.scalars(0, {"loss": "not a number"})  # type: ignore[dict-item]
    recorder.drain(5.0)
    recorder.scalars(1, {"loss": 1.0})
    assert recorder.close(5.0)
    assert failed == ["recording"]
    assert run.scalars()["loss"][0].tolist() == [1]
