"""What a page or a file may say about training, hostile: snapshots, ConvNetJS's JSON, definitions, strangers' runs."""

from __future__ import annotations

import json
import os
import struct

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from convscope.server.app import create_app
from convscope.server.jobs import Jobs
from convscope.server.session import Session
from convscope.server.training import Training
from convscope.store import Store
from convscope.training.data import Data, Split
from convscope.training.definition import Definition
from convscope.training.learner import Learner
from convscope.training.run import Run
from convscope.training.settings import Settings
from convscope.training.snapshot import Snapshot

TINY = "- input: {rows: 4, columns: 4, channels: 1, mean: 0.5, std: 1.0}\n- fully_connected: {units: 2}\n- softmax\n"
BASE = "/api/training"


def images(count):
    pixels = np.random.default_rng(count).integers(0, 255, (count, 4, 4), dtype=np.uint8)
    return Split.of(pixels, np.arange(count) % 2)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    from starlette.testclient import TestClient

    folder = tmp_path_factory.mktemp("hostile")
    jobs = Jobs()
    data = folder / "data"
    for name in ("a", "b"):
        for part in ("train", "test"):
            (data / part / name).mkdir(parents=True)
            from PIL import Image

            for number in range(3):
                Image.new("RGB", (4, 4), (40 * number, 0, 200)).save(data / part / name / f"{number}.png")
    session = Session(
        lambda: None,
        Store.open(folder / "store"),
        jobs,
        training=Training(jobs, str(folder / "runs"), [str(data)]),
        needed=False,
    )
    with TestClient(create_app(session), raise_server_exceptions=False) as client:
        client.folder = folder
        yield client


def refused(answer):
    assert 400 <= answer.status_code < 500, answer.text
    assert set(answer.json()["error"]) == {"what", "where", "next_step", "kind"}
    return answer.json()["error"]["what"]


@pytest.fixture(scope="module")
def snapshot():
    data = Data(images(20), images(8), ("a", "b"), "noise", "/etc/passwd")
    learner = Learner(Definition.parse(TINY), data, Settings(optimizer="adam"))
    learner.step()
    return Snapshot.of(learner).to_bytes()


def header_of(content):
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def with_header(content, change):
    header, rest = header_of(content)
    inner = json.loads(header["__metadata__"]["convscope"])
    change(inner)
    header["__metadata__"]["convscope"] = json.dumps(inner)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + rest


DEEP = "[" * 100_000 + "]" * 100_000
FILES = {
    "a pickle": lambda s: b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    "a zip": lambda s: b"PK\x03\x04" + bytes(100),
    "zeros": lambda s: bytes(1000),
    "a short one": lambda s: s[:40],
    "cut in the middle": lambda s: s[: len(s) // 2],
    "a header of 2^63 bytes": lambda s: struct.pack("<Q", 2**63 - 1) + b"{" + bytes(100),
    "other tensors": lambda s: save(
        {"x": torch.zeros(4)}, metadata={"convscope": json.dumps({"kind": "training_snapshot"})}
    ),
    "no metadata": lambda s: save({"x": torch.zeros(4)}),
    "a huge network": lambda s: with_header(
        s, lambda h: h.update(definition=TINY.replace("units: 2", "units: 4000000").replace("rows: 4", "rows: 512"))
    ),
    "a definition with an object": lambda s: with_header(
        s, lambda h: h.update(definition="!!python/object/apply:os.system ['id']")
    ),
    "billions of laughs": lambda s: with_header(
        s, lambda h: h.update(definition="- &a [x, x]\n- &b [*a, *a]\n- [*b, *b]")
    ),
    "settings out of range": lambda s: with_header(s, lambda h: h["settings"].update(learning_rate=1e300)),
    "settings that don't exist": lambda s: with_header(s, lambda h: h["settings"].update(code="import os")),
    "a seed that is text": lambda s: with_header(s, lambda h: h.update(seed="0")),
    "a step that isn't whole": lambda s: with_header(s, lambda h: h.update(steps=1.5)),
    "steps without end": lambda s: with_header(s, lambda h: h.update(steps=2**80)),
    "a name that is a list": lambda s: with_header(s, lambda h: h.update(name=[])),
    "another optimizer's memory": lambda s: with_header(s, lambda h: h["settings"].update(optimizer="sgd")),
    "a newer format": lambda s: with_header(s, lambda h: h.update(format="9")),
    "deep json": lambda s: DEEP.encode(),
    "deep json in braces": lambda s: b'{"layers":' + DEEP.encode() + b"}",
    "json that isn't text": lambda s: b'{"layers": "\xff\xfe"}',
    "an empty net": lambda s: b'{"layers": []}',
    "a net of nonsense": lambda s: b'{"layers": [1, null, "x", {}]}',
    "sizes without end": lambda s: json.dumps(
        {"layers": [{"layer_type": "input", "out_sx": 10**9, "out_sy": 10**9, "out_depth": 10**9}] * 4}
    ).encode(),
    "numbers that aren't": lambda s: (
        b'{"layers": [{"layer_type": "input", "out_sx": NaN, "out_sy": 1e999, "out_depth": -1}]}'
    ),
    "prototype": lambda s: b'{"__proto__": {"layers": []}, "constructor": {}}',
}


@pytest.mark.parametrize("what", FILES)
def test_files_that_are_no_snapshots_are_refused(client, snapshot, what):
    content = FILES[what](snapshot)
    for query in ({}, {"data": "data"}):
        refused(client.post(f"{BASE}/snapshots", params=query, content=content))
    assert client.get(f"{BASE}/runs").json() == {"live": None, "runs": []}


def test_a_file_names_no_folder(client, snapshot):
    # It says that its images are in /etc/passwd; nobody offered those.
    assert "aren't offered here" in refused(client.post(f"{BASE}/snapshots", content=snapshot))
    for data in ("/etc", "..", "../data", "mnist/../data", "data/", "", "DATA"):
        answer = client.post(f"{BASE}/snapshots", params={"data": data}, content=snapshot)
        assert 400 <= answer.status_code < 500


def test_names_become_no_paths(client):
    body = {"definition": TINY.replace("channels: 1", "channels: 3"), "data": "data"}
    for name in ("../../evil", "/etc/cron.d/x", "..", ".", "a\x00b", "con", "~root", "%2e%2e", "<img src=x>", "\u202e"):
        answer = client.post(f"{BASE}/runs", json={**body, "name": name})
        assert answer.status_code == 201, answer.text
        identity = answer.json()["id"]
        assert identity.replace("-", "").isalnum()
        assert client.delete(f"{BASE}/runs/{identity}").status_code == 204
    # Nothing but the session's own folders appeared.
    assert {each.name for each in client.folder.iterdir()} <= {"store", "runs", "data"}
    assert not any(client.folder.joinpath("runs").iterdir())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/runs", {"definition": TINY, "data": "data", "settings": {"learning_rate": [1]}}),
        ("/runs", {"definition": TINY, "data": "data", "settings": {str(i): 1 for i in range(50)}}),
        ("/runs", {"definition": TINY, "data": "data", "settings": {"x" * 10_000: 1}}),
        ("/runs", {"definition": TINY, "data": "data", "settings": {"learning_rate": "9" * 5000}}),
        ("/runs", {"definition": TINY, "data": "data", "seed": -1}),
        ("/runs", {"definition": TINY, "data": "data", "seed": 2**70}),
        ("/runs", {"definition": TINY, "data": "data", "name": "x" * 65}),
        ("/runs", {"definition": [TINY], "data": "data"}),
        ("/runs", {"preset": "../lenet5", "data": "data"}),
        ("/runs", []),
        ("/runs", {"definition": TINY, "data": "data", "path": "/etc/x"}),
        ("/definition", {"text": "x" * 40_000}),
        ("/definition", {"text": 5}),
        ("/race", {"definition": TINY, "data": "data", "racers": {"x" * 41: {}}}),
        ("/race", {"definition": TINY, "data": "data", "racers": {"a": {}}, "steps": 10**9}),
        ("/race", {"definition": TINY, "data": "data", "racers": {"a": {"optimizer": "__class__"}}}),
    ],
)
def test_bodies_beyond_their_limits_are_refused(client, path, body):
    refused(client.post(f"{BASE}{path}", json=body))


def test_definitions_are_only_read(client):
    for text in (
        "!!python/object/apply:os.system ['id']",
        "- &a [x, x]\n- &b [*a, *a]\n- [*b, *b]",
        "- input: {rows: 512, columns: 512, channels: 16}\n- convolution: {units: 4000, size: 9}\n- softmax",
        "[" * 20_000,
        "- input: {rows: 1e999, columns: .nan}",
        "\x00\ud800".encode("utf-8", "surrogatepass").decode("utf-8", "replace"),
        "%YAML 9.9\n---\n- relu",
    ):
        answer = client.post(f"{BASE}/definition", json={"text": text})
        assert answer.status_code == 200
        assert answer.json()["error"]["what"]


def test_a_strangers_run_is_only_shown(tmp_path):
    """A run is a folder that somebody may have sent: what it says is text, and never a place, code, or a number."""
    from starlette.testclient import TestClient

    facts = {
        "network": "<script>alert(1)</script>" * 50,
        "data": {"name": {"x": 1}, "training_images": "many", "source": "/etc"},
        "layers": [{"address": "../../etc", "kind": 1}, 5, None, {"units": 1e308}],
        "settings": {"learning_rate": {"$ne": 1}},
        "optimizers": "none",
        "class_names": [1, {"a": 2}, "x" * 10_000],
        "parameters": True,
        "seed": "0",
    }
    with Run.create(tmp_path / "runs" / "odd", name="<b>" * 1000, facts=facts) as run:
        run.write(2**60, {}, {"a" * 5000: 1e308, "__proto__": float("nan")})
    (tmp_path / "runs" / "odd" / "snapshot.safetensors").write_bytes(b"\x80\x04no snapshot")
    os.utime(tmp_path / "runs" / "odd" / "index.sqlite", (1, 1))  # nobody records it now
    (tmp_path / "secret").mkdir()
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "secret")
    jobs = Jobs()
    session = Session(
        lambda: None,
        Store.open(tmp_path / "store"),
        jobs,
        training=Training(jobs, str(tmp_path / "runs")),
        needed=False,
    )
    with TestClient(create_app(session), raise_server_exceptions=False) as client:
        (listed,) = client.get(f"{BASE}/runs").json()["runs"]
        assert (listed["id"], len(listed["name"]) <= 200, listed["data"]) == ("odd", True, "{'x': 1}")
        details = client.get(f"{BASE}/runs/odd").json()
        assert (details["seed"], details["settings"], details["layers"]) == (None, None, [])
        assert client.get(f"{BASE}/runs/odd/curves").status_code == 200
        assert "not a snapshot" in refused(client.post(f"{BASE}/runs/odd/open"))
        assert "not a snapshot" in refused(client.get(f"{BASE}/runs/odd/snapshot.safetensors"))


words = st.one_of(
    st.sampled_from(
        "0 1 -1 9 nan inf 1e9 true a input fc1 fc1,input map kernel spatial images maps kernels filters x 0,0 0,1,2 "
        "weight layers loss 99999999999999999999999 ../.. <b>".split()
    ),
    st.text(max_size=12),
)
addresses = st.sampled_from(
    "frame curves test confusion images/0 images/99 backpropagation backpropagation/1 backpropagation/999 steps/maps "
    "steps/images views/images views/kernels snapshot.safetensors snapshot.convnetjs.json".split()
)
names = "after layers panels images points layer step indexes top whole part index label of place data name".split()
bodies = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(TINY),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                "definition preset data settings seed name replace steps count text racers optimizer x".split()
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
relaxed = settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def opened(client):
    """A run to ask about."""
    body = {"definition": TINY.replace("channels: 1", "channels: 3"), "data": "data", "name": "asked", "replace": True}
    answer = client.post(f"{BASE}/runs", json={**body, "settings": {"batch_size": 2}})
    address = f"{BASE}/runs/{answer.json()['id']}"
    client.post(f"{address}/step")
    yield address
    client.delete(address)


@relaxed
@given(addresses, st.dictionaries(st.sampled_from(names), words, max_size=3))
@example("frame", {"layers": ","})
@example("frame", {"panels": "spatial,spatial_gradient", "layers": "input"})
@example("backpropagation", {"index": "0", "label": "99999"})
@example("views/images", {"step": "9007199254740992"})
@example("test", {"indexes": "999999999"})
def test_no_question_makes_it_stumble(client, opened, address, query):
    answer = client.get(f"{opened}/{address}", params=query)
    assert answer.status_code < 500, answer.text


@relaxed
@given(
    st.sampled_from(["runs", "definition", "race", "run", "step", "settings", "open", "predict", "snapshots"]), bodies
)
@example("settings", {"settings": {"dropout": None, "batch_size": 1}})
@example("settings", {"settings": {"optimizer": "adagrad", "momentum": 0.5}})
@example("step", {"count": 10**30})
@example("definition", {"text": TINY, "data": "x"})
def test_no_body_makes_it_stumble(client, opened, where, body):
    address = f"{BASE}/{where}" if where in ("runs", "definition", "race", "snapshots") else f"{opened}/{where}"
    content = json.dumps(body).encode()
    answer = client.post(address, content=content, headers={"content-type": "application/json"})
    assert answer.status_code < 500, answer.text
    if where == "run":
        client.post(f"{opened}/pause")
