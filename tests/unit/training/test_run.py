"""Runs: what is written is read again, by others, at once, also after the writer was killed."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import convscope.store
from convscope.errors import ConvscopeError, Refused, UnknownName
from convscope.training import Event, Run
from convscope.training import ledger as ledgers
from convscope.training.run import view_name
from convscope.view import View


def filters(value: float, units: int = 3) -> View:
    arrays = {"weight_norm": np.full(units, value, np.float32)}
    return View("training_filters", arrays, {"weight_norm": ("unit",)}, {"layer": "conv1"})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "a", name="a", facts={"optimizer": "SGD", "lr": 0.1}, network="f" * 64)


def test_what_is_written_is_read_again(run: Run) -> None:
    run.write(0, {"filters:conv1": filters(0), "filters:fc": filters(9)}, {"loss": 2.0})
    run.write(10, {"filters:conv1": filters(1)}, {"loss": 1.0, "accuracy": 0.5}, earlier=[(5, {"loss": 1.5})])
    again = Run.open(run.path)
    assert (again.name, again.facts, again.network) == ("a", {"optimizer": "SGD", "lr": 0.1}, "f" * 64)
    assert again.names() == ["filters:conv1", "filters:fc"]
    assert again.steps("filters:conv1") == [0, 10]
    assert again.steps("filters:fc") == [0]
    assert again.steps("nothing") == []
    assert (again.latest(), again.latest("filters:fc"), again.latest("nothing")) == (10, 0, None)
    assert again.get(10, "filters:conv1")["weight_norm"].tolist() == [1, 1, 1]
    assert again.bytes(10, "filters:conv1") == again.get(10, "filters:conv1").to_bytes()
    steps, values = again.scalars()["loss"]
    assert (steps.tolist(), values.tolist()) == ([0, 5, 10], [2.0, 1.5, 1.0])
    assert again.scalars()["accuracy"][0].tolist() == [10]


def test_a_recorded_view_says_where_it_belongs(run: Run) -> None:
    run.write(7, {view_name("filters", "layer1.0.relu@1"): filters(0)}, {})
    recipe = run.get(7, "filters:layer1.0.relu@1").recipe
    assert recipe is not None
    assert (recipe.method, recipe.target, recipe.network) == ("training", "layer1.0.relu@1", "f" * 64)
    assert recipe.parameters == {"step": 7, "name": "filters"}


def test_nan_and_infinity_are_values_like_others(run: Run) -> None:
    run.write(0, {"filters:conv1": filters(float("nan"))}, {"loss": float("nan")}, [Event(0, "setting", "lr", np.inf)])
    again = Run.open(run.path)
    assert np.isnan(again.get(0, "filters:conv1")["weight_norm"]).all()
    assert np.isnan(again.scalars()["loss"][1]).all()
    assert again.events()[0].old == "inf"


def test_events_keep_their_order_and_values(run: Run) -> None:
    events = [Event(3, "setting", "momentum", 0.9, None, "removed"), Event(3, "paused")]
    run.write(3, {}, {}, events)
    run.write(4, {}, {}, [Event(4, "resumed")])
    assert Run.open(run.path).events() == [*events, Event(4, "resumed")]


def test_writing_a_step_again_replaces_it_and_leaves_no_file(run: Run) -> None:
    for value in range(20):
        run.write(1, {"filters:conv1": filters(value)}, {"loss": value})
    assert run.steps("filters:conv1") == [1]
    assert run.get(1, "filters:conv1")["weight_norm"][0] == 19
    assert run.scalars()["loss"][1].tolist() == [19]
    files = list((run.path / "objects").glob("??/*"))
    assert len(files) == 3  # the header, one chunk of the ledger, one View


def test_a_reader_follows_a_writer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "LARGEST_WRITES", 32)
    reader = Run.open(run.path)
    assert reader.follow() == reader.follow(0)
    assert reader.follow().position == 0
    run.write(0, {"filters:conv1": filters(0)}, {"loss": 1.0})
    news = reader.follow(0)
    assert news.recorded == ((0, ("filters:conv1",)),)
    assert news.scalars == ((0, "loss", 1.0),)
    assert reader.follow(news.position).position == news.position
    assert reader.follow(news.position).recorded == ()
    for step in range(1, 2 * ledgers.LARGEST_WRITES + 10):
        run.write(step, {}, {"loss": step})
        if step % 10 == 0:
            reader.latest()
    late = reader.follow(news.position)
    assert [step for step, _, _ in late.scalars] == list(range(1, 2 * ledgers.LARGEST_WRITES + 10))
    assert Run.open(run.path).scalars()["loss"][0].tolist() == list(range(2 * ledgers.LARGEST_WRITES + 10))


def test_many_scalars_fill_a_chunk_too(run: Run) -> None:
    for step in range(4):
        rows = [(step * 3000 + each, {"loss": 0.0}) for each in range(3000)]
        run.write(step * 3000 + 2999, {}, {}, earlier=rows)
    assert len(run.store.query(kind=ledgers.KIND)) == 2
    assert len(Run.open(run.path).scalars()["loss"][0]) == 12_000


def test_rewinding_takes_back_what_came_later(run: Run) -> None:
    reader = Run.open(run.path)
    for step in range(6):
        run.write(step, {"filters:conv1": filters(step)}, {"loss": step}, [Event(step, "note")])
    position = reader.follow().position
    run.rewind(2)
    assert reader.follow(position).rewound
    run.write(3, {}, {"loss": 30})
    for each in (run, reader, Run.open(run.path)):
        assert each.steps("filters:conv1") == [0, 1, 2]
        assert each.scalars()["loss"][1].tolist() == [0, 1, 2, 30]
        assert each.latest() == 3
        assert [event.step for event in each.events() if event.kind == "note"] == [0, 1, 2]
        assert each.follow().rewound
    assert run.store.get(run.recipe(4, "filters:conv1")) is None


def test_a_run_is_continued_by_another_process_after_the_first(run: Run) -> None:
    reader = Run.open(run.path)
    run.write(0, {"filters:conv1": filters(0)}, {"loss": 1})
    assert reader.latest() == 0
    run.write(1, {}, {"loss": 0.5})
    with pytest.raises(Refused, match="another process is writing"):
        reader.write(2, {}, {})
    run.close()
    reader.write(2, {}, {"loss": 0.25})
    assert Run.open(reader.path).scalars()["loss"][1].tolist() == [1, 0.5, 0.25]


def test_a_failed_write_leaves_the_run_as_it_was(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.write(0, {}, {"loss": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(convscope.store.os, "replace", full)
        with pytest.raises(ConvscopeError, match="the disk is full"):
            run.write(1, {"filters:conv1": filters(0)}, {"loss": 2})
    assert run.latest() == 0
    run.write(2, {}, {"loss": 3})
    assert Run.open(run.path).scalars()["loss"][0].tolist() == [0, 2]
    assert run.names() == []


WRITER = """
import sys
import numpy as np
from convscope.training import Run
from convscope.view import View
run = Run.create(sys.argv[1], name="a", facts={})
for step in range(100_000):
    views = {f"filters:{n}": View("training_filters", {"weight_norm": np.full(4, step, np.float32)},
                                  {"weight_norm": ("unit",)}) for n in range(3)}
    run.write(step, views, {"loss": step})
    print(step, flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is what is tested; Windows has none")
@pytest.mark.parametrize("after", [0.01, 0.1, 0.3])
def test_a_killed_writer_loses_at_most_the_last_step(tmp_path: Path, after: float) -> None:
    path = tmp_path / "a"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    writer.stdout.readline()
    reader = Run.open(path)
    reader.latest()
    time.sleep(after)
    os.kill(writer.pid, signal.SIGKILL)
    acknowledged = int(([*writer.stdout.read().split()] or ["0"])[-1])
    writer.wait()
    writer.stdout.close()
    for run in (reader, Run.open(path)):
        latest = run.latest()
        assert latest is not None
        assert acknowledged <= latest <= acknowledged + 1
        assert run.scalars()["loss"][0].tolist() == list(range(latest + 1))
        for n in range(3):
            assert run.steps(f"filters:{n}") == list(range(latest + 1))
        assert run.get(latest, "filters:2")["weight_norm"][0] == latest
    continued = Run.open(path)
    continued.write(latest + 1, {}, {"loss": 0})
    assert reader.latest() == latest + 1


def test_runs_are_found_side_by_side(tmp_path: Path) -> None:
    for name in ("b", "a"):
        Run.create(tmp_path / name, name=name, facts={}).close()
    convscope.store.Store.open(tmp_path / "study").close()
    (tmp_path / "empty").mkdir()
    assert [path.name for path in Run.find(tmp_path)] == ["a", "b"]
    assert Run.find(tmp_path / "a") == [tmp_path / "a"]
    assert Run.find(tmp_path / "nowhere") == []


class TestRefusals:
    def test_a_run_that_is_there(self, run: Run) -> None:
        with pytest.raises(Refused, match="a run in this folder already"):
            Run.create(run.path, name="b", facts={})

    def test_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(ConvscopeError, match="no run here"):
            Run.open(tmp_path / "nowhere")
        convscope.store.Store.open(tmp_path / "store").close()
        with pytest.raises(ConvscopeError, match="no run in this store"):
            Run.open(tmp_path / "store")

    def test_facts_that_are_not_json(self, tmp_path: Path) -> None:
        for facts in ({"x": float("nan")}, {"x": object()}):
            with pytest.raises(ConvscopeError, match="plain JSON"):
                Run.create(tmp_path / "a", name="a", facts=facts)

    def test_a_step_or_name_that_is_not_there(self, run: Run) -> None:
        run.write(10, {"filters:conv1": filters(0)}, {})
        run.write(20, {"filters:conv1": filters(0)}, {})
        with pytest.raises(UnknownName, match="the nearest step is 20"):
            run.get(17, "filters:conv1")
        with pytest.raises(UnknownName, match="did you mean filters:conv1"):
            run.get(10, "filters:conv2")

    def test_a_damaged_view(self, run: Run) -> None:
        run.write(10, {"filters:conv1": filters(0)}, {})
        ((digest,),) = sqlite3.connect(run.path / "index.sqlite").execute(
            "SELECT blob FROM views WHERE kind = 'training_filters'"
        )
        (run.path / "objects" / digest[:2] / f"{digest}.safetensors").write_bytes(b"x")
        with pytest.raises(ConvscopeError, match="is damaged"):
            run.get(10, "filters:conv1")

    def test_a_newer_format(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ledgers, "FORMAT", 2)
        run.write(0, {}, {"loss": 1})
        monkeypatch.undo()
        with pytest.raises(ConvscopeError, match="format 2; this convscope reads format 1"):
            Run.open(run.path).latest()

    @pytest.mark.parametrize(
        "spoil",
        [
            {"view_end": np.array([5])},
            {"scalar_end": np.array([-1])},
            {"step": np.zeros(2, np.int64)},
            {"view": np.array([], np.int32), "view_end": np.array([1])},
        ],
    )
    def test_a_ledger_that_does_not_fit_together(self, run: Run, spoil: dict[str, np.ndarray]) -> None:
        run.write(0, {"filters:conv1": filters(0)}, {"loss": 1})
        (entry,) = run.store.query(kind=ledgers.KIND)
        view = View.from_bytes(run.store.get(entry.key) or b"")
        run.store.put(View(view.kind, {**view.arrays, **spoil}, view.axes, view.meta, view.recipe))
        with pytest.raises(ConvscopeError, match="doesn't fit together"):
            Run.open(run.path).latest()


GOLDEN = Path(__file__).parents[2] / "golden" / "run-1"


def write_golden(path: Path) -> Run:
    """What tests/golden/run-1 was made by: one of everything."""
    run = Run.create(path, name="golden", facts={"module": "Sequential", "versions": {}}, network="0" * 64)
    run.write(0, {"filters:conv1": filters(1.5)}, {"loss": 2.5}, [Event(0, "setting", "lr", None, 0.1)])
    run.write(2, {"filters:conv1": filters(float("nan"))}, {"loss": float("inf")}, earlier=[(1, {"loss": 2.0})])
    run.write(
        3, {"filters:fc": filters(0, 1)}, {}, [Event(3, "not_finite", "loss", text="loss is inf from step 2 on.")]
    )
    run.rewind(2)
    run.write(3, {}, {"loss": 1.0, "accuracy": 0.5})
    return run


def test_an_old_run_is_read_for_ever(tmp_path: Path) -> None:
    run = Run.open(shutil.copytree(GOLDEN, tmp_path / "run-1"))
    assert (run.name, run.facts["module"], run.network) == ("golden", "Sequential", "0" * 64)
    assert run.names() == ["filters:conv1"]
    assert run.steps("filters:conv1") == [0, 2]
    assert run.scalars()["loss"][0].tolist() == [0, 1, 2, 3]
    assert run.scalars()["loss"][1].tolist() == [2.5, 2.0, np.inf, 1.0]
    assert [(event.kind, event.step, event.new) for event in run.events()] == [
        ("setting", 0, 0.1),
        ("rewound", 2, None),
    ]
    assert np.isnan(run.get(2, "filters:conv1")["weight_norm"]).all()


def test_a_run_is_written_as_it_was(tmp_path: Path) -> None:
    old, new = Run.open(shutil.copytree(GOLDEN, tmp_path / "run-1")), write_golden(tmp_path / "new")
    entries = {entry.key: entry.blob for entry in new.store.query() if entry.kind != "training_run"}
    assert entries == {entry.key: entry.blob for entry in old.store.query() if entry.kind != "training_run"}
    assert len(entries) == 3
