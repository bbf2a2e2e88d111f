"""Runs that something else writes: found, followed while they grow, and never believed further than they deserve."""

from __future__ import annotations

import os
import shutil
import time

import numpy as np
import pytest
import torch
from torch import nn

from convscope.errors import UnknownName
from convscope.server import run_folder as module
from convscope.server.run_folder import RunFolder, run_id
from convscope.store import INDEX
from convscope.training.ledger import Event
from convscope.training.monitor import Monitor
from convscope.training.run import Run
from convscope.view import View

from .training import BASE, RUN, begin, said, serving, until, write_colors


@pytest.fixture(scope="module")
def colors(tmp_path_factory):
    return write_colors(tmp_path_factory.mktemp("data") / "colors")


def somebodys_loop(path, steps, between=lambda step: None):
    """Ten lines of anybody's, and the two that are added."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 16, 2))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with Monitor(network, optimizer, store=path, images=torch.ones(2, 1, 6, 6)) as monitor:
        for step in range(steps):
            loss = network(torch.randn(4, 1, 6, 6)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            monitor.log(loss=loss, mine=step * 2.0)
            between(step)


def test_a_loop_of_ones_own_is_listed_followed_and_read(tmp_path, colors):
    with serving(tmp_path, colors) as client:
        assert client.get(f"{BASE}/runs").json()["runs"] == []
        seen = []

        def look(step):
            if step in (5, 25):
                run = f"{BASE}/runs/my-loop"
                listed = until(lambda: client.get(f"{BASE}/runs").json()["runs"])
                curve = until(lambda: client.get(f"{run}/curves").json()["curves"])
                seen.append((listed[0]["state"], curve))

        somebodys_loop(tmp_path / "runs" / "my-loop", 30, look)
        assert [state for state, _ in seen] == ["recording", "recording"]
        run = f"{BASE}/runs/my-loop"
        details = client.get(run).json()
        assert (details["live"], details["resumable"], details["step"]) == (False, False, 29)
        assert (details["network"], details["optimizer"], details["parameters"]) == ("Sequential", "SGD", 128)
        assert details["layers"][0] == {
            "name": "0",
            "kind": "Conv2d",
            "title": "0",
            "details": "module",
            "shape": [3, 4, 4],
            "parameters": 30,
            "count": "",
            "layout": "",
        }
        mine = next(each for each in client.get(f"{run}/curves").json()["curves"] if each["name"] == "mine")
        assert (mine["steps"], mine["values"]) == (list(range(30)), [step * 2.0 for step in range(30)])
        steps = client.get(f"{run}/steps/maps", params={"layer": "0"}).json()["steps"]
        blob = client.get(f"{run}/views/maps", params={"layer": "0", "step": steps[-1]}).content
        with Run.open(tmp_path / "runs" / "my-loop") as recorded:
            assert blob == recorded.bytes(steps[-1], "maps:0")
        # What needs the network says so.
        for path in ("frame", "test", "confusion", "images/0", "backpropagation?index=0"):
            assert "isn't open" in said(client.get(f"{run}/{path}"))
        assert "no snapshot" in said(client.post(f"{run}/open"))
        assert "no snapshot" in said(client.get(f"{run}/snapshot.safetensors"))


def test_many_points_are_joined_to_a_few(tmp_path, colors):
    path = tmp_path / "runs" / "long"
    with Run.create(path, name="long", facts={}) as run:
        rows = [(step, {"loss": float(step) if step != 2500 else float("nan")}) for step in range(5000)]
        run.write(5000, {}, {}, earlier=rows)
    with serving(tmp_path, colors) as client:
        (curve,) = client.get(f"{BASE}/runs/long/curves", params={"points": 100}).json()["curves"]
        assert len(curve["steps"]) <= 100
        # Means of so many neighbors, each at the last of them.
        width = curve["steps"][0] + 1
        assert curve["values"][0] == pytest.approx(np.arange(width).mean())
        assert curve["values"].count(None) == 1
        assert curve["steps"][curve["values"].index(None)] >= 2500
        assert client.get(f"{BASE}/runs/long/curves", params={"points": 1}).status_code == 422


def test_what_is_taken_back_disappears(tmp_path):
    folder = RunFolder(tmp_path)
    with Run.create(tmp_path / "a", name="a", facts={}) as run:
        run.write(0, {}, {"loss": 1.0})
        run.write(1, {}, {"loss": 2.0}, [Event(1, "setting", "lr", 1, 2)])
        with folder.reading("a") as reader:
            assert reader.curves.read()["loss"][1].tolist() == [1.0, 2.0]
            assert len(reader.events) == 1
        run.rewind(0)
        run.write(1, {}, {"loss": 3.0})
        with folder.reading("a") as reader:
            assert reader.curves.read()["loss"][1].tolist() == [1.0, 3.0]
            assert [event.kind for event in reader.events] == ["rewound"]
    folder.close()


def test_a_damaged_run_is_listed_with_its_problem(tmp_path, colors):
    runs = tmp_path / "runs"
    for name in ("good", "bad", "headless", "empty"):
        with Run.create(
            runs / name, name=name, facts={"layers": [{"address": 1}], "class_names": 5, "data": []}
        ) as run:
            run.write(0, {}, {"loss": 1.0})
    (runs / "bad" / INDEX).write_bytes(b"not a database at all" * 100)
    shutil.rmtree(runs / "headless" / "objects")
    (runs / "empty" / INDEX).write_bytes(b"")
    (runs / "a file").write_text("no run")
    (runs / "a folder").mkdir()
    with serving(tmp_path, colors) as client:
        listed = {each["id"]: each["problem"] for each in client.get(f"{BASE}/runs").json()["runs"]}
        assert set(listed) == {"good", "bad", "headless", "empty"}
        assert listed["good"] == listed["empty"] == ""  # an index can be made anew
        assert "damaged" in listed["bad"]
        assert "damaged" in listed["headless"]
        details = client.get(f"{BASE}/runs/good").json()
        assert (details["layers"], details["class_names"], details["training_images"]) == ([], [], None)
        for name in ("bad", "headless"):
            for path in ("", "/curves", "/steps/maps", "/views/maps?step=0"):
                assert 400 <= client.get(f"{BASE}/runs/{name}{path}").status_code < 500


def test_odd_names_have_ids_that_can_stand_in_an_address(tmp_path):
    folder = RunFolder(tmp_path)
    names = ["plain-1", "My run", "my run", "ünïcode", "a.b", "x" * 100, "<img src=x>", "-dash", "A"]
    for name in names:
        with Run.create(tmp_path / name, name=name, facts={}) as run:
            run.write(0, {}, {})
    ids = [each.id for each in folder.summaries()]
    assert len(set(ids)) == len(names)
    assert all(module._PLAIN.fullmatch(each) for each in ids)
    assert {folder.summary(run_id(name)).name for name in names} == set(names)
    for wrong in ("..", "", "../plain-1", "plain", "/etc"):
        with pytest.raises(UnknownName):
            folder.summary(wrong)
    folder.close()


def test_a_folder_that_is_a_run_itself(tmp_path):
    with Run.create(tmp_path / "alone", name="alone", facts={}) as run:
        run.write(3, {}, {"loss": 1.0})
    folder = RunFolder(tmp_path / "alone")
    assert [each.id for each in folder.summaries()] == ["alone"]
    assert RunFolder(tmp_path / "nowhere").summaries() == []
    folder.close()


def test_many_runs_take_turns_being_open(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_OPEN", 2)
    folder = RunFolder(tmp_path)
    for name in "abcde":
        with Run.create(tmp_path / name, name=name, facts={}) as run:
            run.write(0, {"images": View("x", {}, {})}, {"loss": ord(name)})
    for name in "abcdeabcde":
        with folder.reading(name) as reader:
            assert reader.curves.read()["loss"][1].tolist() == [float(ord(name))]
    assert sum(not reader.run.closed for reader in folder._readers.values()) == 2
    folder.close()


def test_how_a_run_goes_is_told_by_its_last_word(tmp_path):
    folder = RunFolder(tmp_path)
    with Run.create(tmp_path / "a", name="a", facts={}) as run:
        run.write(0, {}, {"loss": 1.0})
        assert folder.summary("a").recording
        run.write(1, {}, {}, [Event(1, "failed", "maps", text="a failure to record isn't one to train")])
        assert folder.summary("a").recording
        run.write(1, {}, {}, [Event(2, "paused")])
        assert not folder.summary("a").recording
        run.write(3, {}, {"loss": 1.0})
        assert folder.summary("a").recording
    long_ago = time.time() - 3600
    os.utime(tmp_path / "a" / INDEX, (long_ago, long_ago))
    assert not folder.summary("a").recording
    folder.close()


def test_a_run_that_something_records_is_not_opened(tmp_path, colors):
    with serving(tmp_path, colors) as client:
        run = begin(client)
        client.post(f"{run}/step", json={"count": 2})
        client.delete(run)
        with Run.open(tmp_path / "runs" / RUN["name"]) as other:
            other.write(9, {}, {"loss": 1.0})
            assert "recording" in said(client.post(f"{run}/open"))
