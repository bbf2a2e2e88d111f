"""A tiny data set, a network that learns it in milliseconds, and a server around a folder of runs."""

from __future__ import annotations

import io
import time
from contextlib import contextmanager

import numpy as np
from PIL import Image
from starlette.testclient import TestClient

from convscope.server.app import create_app
from convscope.server.jobs import Jobs
from convscope.server.session import Session
from convscope.server.training import Training
from convscope.store import Store
from patience import PATIENCE

TINY = """\
- input: {rows: 8, columns: 8, channels: 3}
- convolution: {units: 4, size: 3, padding: 1}
- relu
- pool: {size: 2}
- fully_connected: {units: 2}
- softmax
"""
RUN = {"definition": TINY, "data": "colors", "name": "tiny", "settings": {"batch_size": 4, "learning_rate": 0.05}}
BASE = "/api/training"


def picture(seed, red):
    """8 × 8 pixels of noise, rather red or rather blue."""
    pixels = np.random.default_rng(seed).integers(0, 90, (8, 8, 3), dtype=np.uint8)
    pixels[:, :, 0 if red else 2] += 120
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_colors(folder):
    """A data set of two classes with a test set of its own."""
    seed = 0
    for part, count in (("train", 12), ("test", 5)):
        for name in ("blue", "red"):
            place = folder / part / name
            place.mkdir(parents=True)
            for _ in range(count):
                seed += 1
                (place / f"{seed:03}.png").write_bytes(picture(seed, name == "red"))
    return folder


@contextmanager
def serving(tmp_path, colors, runs="runs", **options):
    """A client of a server whose network is never opened."""

    def opener():
        raise AssertionError("nobody asked for the explorer's network")

    jobs = Jobs()
    place = str(tmp_path / runs) if runs else None
    training = Training(jobs, place, [str(colors)] if colors else [])
    store = Store.open(tmp_path / f"store{time.monotonic_ns()}")
    session = Session(opener, store, jobs, training=training, needed=False)
    with TestClient(create_app(session), raise_server_exceptions=False) as client:
        client.training = training
        yield client


def begin(client, **changes):
    """A run, open and paused; its address."""
    answer = client.post(f"{BASE}/runs", json={**RUN, **changes})
    assert answer.status_code == 201, answer.text
    return f"{BASE}/runs/{answer.json()['id']}"


def said(answer):
    """The error's sentence; there must be one."""
    assert answer.status_code >= 400
    error = answer.json()["error"]
    assert set(error) == {"what", "where", "next_step", "kind"}
    return f"{error['what']} | {error['next_step']}"


def until(condition, seconds=PATIENCE):
    """Wait."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)
    return found
