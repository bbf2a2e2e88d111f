"""The real command: several pages over sockets, a run that survives them, the server, and ``kill -9``."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from convscope.training.run import Run
from convscope.training.snapshot import Snapshot
from convscope.view import View
from patience import PATIENCE

from .training import BASE, TINY, until, write_colors

MAIN = "import sys; from convscope.cli import main; sys.exit(main())"


class Served:
    """``convscope WORDS --no-browser`` and a way to talk to it."""

    def __init__(self, folder, *words):
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAIN, *map(str, words), "--no-browser"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=([\w-]+)(&tab=train)?", line)
        if found is None:
            self.process.kill()
            pytest.fail(line + self.process.stderr.read())
        self.port, self.headers, self.tab = int(found[1]), {"authorization": f"Bearer {found[2]}"}, found[3]

    def ask(self, path, body=None, method=None):
        """(status, headers, content), over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        content = None if body is None else json.dumps(body)
        headers = self.headers | ({"content-type": "application/json"} if body is not None else {})
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, content, headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def json(self, path, body=None):
        status, _, content = self.ask(path, body)
        assert status < 300, content
        return json.loads(content)

    def stop(self, how=signal.SIGINT):
        self.process.send_signal(how)
        code = self.process.wait(PATIENCE)
        errors = self.process.stderr.read()
        self.process.stdout.close()
        self.process.stderr.close()
        return code, errors


@pytest.fixture
def folder(tmp_path):
    write_colors(tmp_path / "colors")
    (tmp_path / "tiny.yaml").write_text(TINY)
    return tmp_path


@pytest.fixture
def serve(folder):
    started = []

    def start(*words):
        started.append(Served(folder, *words))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.stop(signal.SIGKILL)


TRAIN = ("train", "tiny.yaml", "--data", "colors", "--batch-size", "4", "--run", "runs/a")


def last_recorded(folder):
    with Run.open(folder / "runs/a") as recorded:
        return recorded.scalars()["loss"][0][-1]


def live_of(server):
    return until(lambda: server.json(f"{BASE}/runs")["live"])


def test_two_pages_watch_the_run_goes_on_without_them_and_survives_kill_9(folder, serve):
    server = serve(*TRAIN)
    assert server.tab == "&tab=train"
    assert live_of(server) == "a"
    run = f"{BASE}/runs/a"

    def page(found):
        after = 0
        while len(found) < 6:
            status, _, content = server.ask(f"{run}/frame?after={after}")
            assert status in (200, 204)
            if status == 200:
                view = View.from_bytes(content)
                after = view.meta["frame"]
                found.append(view.meta["step"])

    seen = ([], [])
    pages = [threading.Thread(target=page, args=(each,)) for each in seen]
    for each in pages:
        each.start()
    for each in pages:
        each.join(PATIENCE)
    assert all(len(steps) == 6 and steps == sorted(set(steps)) for steps in seen)
    # Both pages are gone; it trains on.
    before = server.json(run)["step"]
    until(lambda: server.json(run)["step"] > before + 50)
    server.json(f"{run}/snapshot", {})
    kept = Snapshot.open(folder / "runs/a/snapshot.safetensors")
    until(lambda: server.json(run)["step"] > kept.steps + 50)
    taken = server.json(run)["step"]
    # What was taken is written within a second or two; a busy machine is given longer.
    until(lambda: last_recorded(folder) >= taken - 1)
    server.stop(signal.SIGKILL)

    assert last_recorded(folder) >= taken - 1
    again = serve("runs", "runs", "--data", "colors")
    (listed,) = again.json(f"{BASE}/runs")["runs"]
    assert (listed["id"], listed["live"], listed["resumable"]) == ("a", False, True)
    assert listed["step"] > kept.steps
    until(lambda: again.json(run)["state"] == "recorded", 30)
    opened = again.json(f"{run}/open", {})
    assert (opened["live"], opened["state"], opened["step"]) == (True, "paused", kept.steps)
    curve = next(each for each in again.json(f"{run}/curves")["curves"] if each["name"] == "loss")
    assert curve["steps"][-1] < kept.steps  # what came after the snapshot is taken back
    status, _, content = again.ask(f"{run}/snapshot.safetensors")
    assert status == 200
    resumed = Snapshot.from_bytes(content)
    assert all(torch.equal(weight, kept.weights[name]) for name, weight in resumed.weights.items())
    assert again.json(f"{run}/step", {"count": 5})["step"] == kept.steps + 5
    code, errors = again.stop()
    assert (code, "Traceback" in errors) == (0, False), errors


def test_stopping_the_server_keeps_every_step(folder, serve):
    server = serve(*TRAIN)
    run = f"{BASE}/runs/{live_of(server)}"
    until(lambda: server.json(run)["step"] > 20)
    started = time.monotonic()
    code, errors = server.stop(signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    assert time.monotonic() - started < 15
    assert "Traceback" not in errors
    kept = Snapshot.open(folder / "runs/a/snapshot.safetensors")
    with Run.open(folder / "runs/a") as recorded:
        assert recorded.scalars()["loss"][0].tolist() == list(range(kept.steps))
    again = serve(*TRAIN, "--paused")
    live_of(again)
    assert again.json(run)["step"] == kept.steps


def test_the_events_tell_of_the_live_run_and_of_others(folder, serve):
    server = serve(*TRAIN, "--paused")
    assert live_of(server) == "a"
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    connection.request("GET", "/api/events", headers=server.headers)
    stream = connection.getresponse()
    heard = []

    def listen():
        for line in stream:
            if line.startswith(b"data:") and b'"live"' in line:
                heard.append(json.loads(line[5:]))  # noqa: PERF401 - others read meanwhile

    listening = threading.Thread(target=listen)
    listening.start()
    time.sleep(1.5)
    server.json(f"{BASE}/runs/a/step", {})
    until(lambda: any(each["id"] == "a" and each["live"] and each["step"] == 1 for each in heard))
    with Run.create(folder / "runs" / "other", name="other", facts={}) as run:
        run.write(0, {}, {"loss": 1.0})
        until(lambda: any(each["id"] == "" for each in heard))
        until(lambda: any(each["id"] == "other" and not each["live"] for each in heard))
        run.write(7, {}, {"loss": 1.0})
        until(lambda: any(each["id"] == "other" and each["step"] == 7 for each in heard))
    assert server.stop()[0] == 0
    listening.join(PATIENCE)
    connection.close()


def test_a_run_that_cannot_be_begun_is_told_to_the_page(folder, serve):
    (folder / "colors" / "train" / "blue").rename(folder / "colors" / "train" / "green")
    server = serve(*TRAIN)
    failure = until(lambda: server.json(BASE)["failure"])
    assert "different classes" in failure["what"]
    assert server.json(f"{BASE}/runs") == {"live": None, "runs": []}


def test_what_can_be_known_before_is_said_in_the_shell(folder):
    for words, hint in (
        (["train", "tiny.yaml", "--data", "nowhere"], "no such folder"),
        (["train", "tiny.yaml", "--page", "--json"], "--no-page"),
        (["runs", "nowhere"], "no such folder of runs"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", MAIN, *words, "--no-browser"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 1
        assert hint in " ".join(done.stderr.replace("│", " ").split())
