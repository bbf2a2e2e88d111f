from __future__ import annotations

import json
import threading
import time

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient
from torch import nn

from convscope.errors import ConvscopeError
from convscope.images import load_images
from convscope.network.formats import load
from convscope.network.network import Network
from convscope.server.app import create_app, openapi
from convscope.server.bundle import Bundle
from convscope.server.jobs import Jobs
from convscope.server.memory import Memory
from convscope.server.session import Opened, Session
from convscope.store import Store
from convscope.view import View
from patience import PATIENCE, SOON

from .conftest import ODD, png


def error_of(answer):
    body = answer.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"what", "where", "next_step", "kind"}
    return body["error"]


def test_the_session_says_what_is_open(client):
    body = client.get("/api/session").json()
    assert body["network"]["name"] == "tiny"
    assert body["network"]["image_size"] == [16, 16]
    assert body["network"]["classes"] == 5
    assert body["network"]["class_names"][3] == ODD
    assert body["network"]["outputs"] == ["output"]
    assert body["network"]["preprocessing"]["std"] == [1, 1, 1]
    assert body["images"]["count"] == 3
    assert body["images"]["skipped"][0]["name"] == "broken.png"
    assert {each["name"] for each in body["methods"]} >= {"weights", "weight_gradients", "activations", "predictions"}
    assert body["unavailable"] == []


def test_the_layer_table(client):
    answer = client.get("/api/layers")
    rows = answer.json()["layers"]
    assert [row["address"] for row in rows] == ["conv1", ODD, "conv2", "pool", "flatten", "fc"]
    assert rows[0]["shape"] == [4, 7, 7]
    assert rows[0]["kernel_size"] == [3, 3]
    assert rows[0]["label"] == "Conv2d 3×3 stride 2"
    assert rows[2]["receptive_field"]["rows"]["size"] == 7
    assert rows[2]["receptive_field"]["uniform"] is True
    assert client.get("/api/layers", headers={"if-none-match": answer.headers["etag"]}).status_code == 304


def test_images_thumbnails_and_what_the_network_sees(client):
    body = client.get("/api/images").json()
    assert [image["id"] for image in body["images"]] == [0, 1, 2]
    assert (body["images"][0]["width"], body["images"][0]["height"]) == (20, 24)
    thumbnail = client.get("/api/images/0/thumbnail?side=16")
    assert thumbnail.headers["content-type"].startswith("image/")
    assert thumbnail.content
    known = {"if-none-match": thumbnail.headers["etag"]}
    assert client.get("/api/images/0/thumbnail?side=16", headers=known).status_code == 304
    assert client.get("/api/images/0/thumbnail?side=32", headers=known).status_code == 200
    prepared = client.get("/api/images/0/prepared")
    assert prepared.headers["content-type"] == "image/png"
    import io

    from PIL import Image

    assert Image.open(io.BytesIO(prepared.content)).size == (16, 16)


def test_a_receptive_field(client):
    body = client.get("/api/receptive-field", params={"unit": "conv2:1:0,0"}).json()
    assert (body["row"], body["column"], body["rows"], body["columns"]) == (0, 0, 5, 5)
    assert body["unclipped"] == {"row": -2, "column": -2, "rows": 7, "columns": 7}
    assert body["exact"]


def test_a_receptive_field_that_has_to_be_measured_is_measured_by_the_worker(tmp_path, images, bundle):
    threads = set()

    class Shuffled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3)

        def forward(self, x):
            threads.add(threading.current_thread().name)
            return self.conv(torch.fft.ifft2(torch.fft.fft2(x)).real)

    def opener():
        return Opened(Network.from_module(Shuffled(), image_size=16, name="shuffled"), load_images(images), "photos")

    session = Session(opener, Store.open(tmp_path / "store"), Jobs(limit=4))
    with TestClient(create_app(session, bundle=bundle)) as client:
        rows = client.get("/api/layers").json()["layers"]
        unit = next(row["address"] for row in rows if row["has_kernel"] and not row["receptive_field"]["exact"])
        threads.clear()
        body = client.get("/api/receptive-field", params={"unit": f"{unit}:1:2,3"}).json()
    assert "measured" in body["reason"]
    assert not body["exact"]
    assert threads == {"convscope-model"}


def test_a_view_comes_as_its_bytes_and_from_the_store_the_second_time(client, session):
    first = client.get("/api/views/weights", params={"target": "conv1"})
    assert first.status_code == 200
    assert first.headers["content-type"] == "application/octet-stream"
    assert first.headers["cache-control"] == "private, no-cache"
    view = View.from_bytes(first.content)
    assert view.arrays["kernel"].shape == (4, 3, 3, 3)
    assert first.headers["etag"] == f'"{view.recipe.key}"'
    assert session.store.get(view.recipe.key) == first.content
    assert client.get("/api/views/weights", params={"target": "conv1"}).content == first.content
    unchanged = client.get(
        "/api/views/weights", params={"target": "conv1"}, headers={"if-none-match": first.headers["etag"]}
    )
    assert unchanged.status_code == 304
    assert unchanged.content == b""


def test_a_view_over_http_equals_the_library_call(client):
    blob = client.get("/api/views/activations", params={"target": "conv2", "images": "2,0"}).content
    over_http = View.from_bytes(blob)
    opened = client.portal.call(client.app.state.session.opened)
    direct = opened.network.view("activations", "conv2", opened.images[[2, 0]])
    assert over_http.recipe == direct.recipe
    assert np.array_equal(over_http["map"], direct["map"])


@pytest.mark.parametrize(
    ("method", "query"),
    [
        ("weights", {"target": "conv2:1", "slices": "0"}),
        ("weight_gradients", {"target": "conv2", "images": "0,1"}),
        ("spatial_gradients", {"target": "conv1"}),
        ("activations", {"target": ODD, "images": "0"}),
        ("activation_gradients", {"target": "conv2", "images": "0", "objective": "score:2"}),
        ("convolution", {"target": "conv2:1:2,3", "images": "1"}),
        ("predictions", {"images": "0,1,2", "top": "3"}),
    ],
)
def test_every_method_answers(client, method, query):
    answer = client.get(f"/api/views/{method}", params=query)
    assert answer.status_code == 200, answer.text
    assert View.from_bytes(answer.content).recipe.method == method


@pytest.mark.parametrize(
    ("suffix", "start"), [("npz", b"PK"), ("safetensors", b""), ("png", b"\x89PNG"), ("svg", b"<")]
)
def test_downloads_have_a_name_and_are_made_once(client, suffix, start):
    query = {"target": "conv2:1", "format": suffix}
    answer = client.get("/api/views/weights", params=query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-disposition"] == f'attachment; filename="weights-conv2-1.{suffix}"'
    assert answer.content.startswith(start)
    assert client.get("/api/views/weights", params=query).content == answer.content
    known = {"if-none-match": answer.headers["etag"]}
    assert client.get("/api/views/weights", params=query, headers=known).status_code == 304


@pytest.mark.parametrize(
    ("path", "status", "kind", "hint"),
    [
        ("/api/views/wieghts?target=conv1", 404, "unknown_name", "weights"),
        ("/api/views/weights?target=conv9", 404, "unknown_name", "conv"),
        ("/api/views/weights?target=conv1:4", 404, "unknown_name", "0 to 3"),
        ("/api/views/weights?target=conv1:0:99,0", 404, "unknown_name", "rows 0 to 6"),
        ("/api/views/weights?target=pool", 422, "refused", ""),
        ("/api/views/weights", 400, "convscope_error", "name a layer"),
        ("/api/views/weights?target=conv1&slcies=3", 404, "unknown_name", "slices"),
        ("/api/views/weights?target=conv1&slices=many", 400, "convscope_error", ""),
        ("/api/views/weights?target=conv1&slices=-1", 400, "convscope_error", ""),
        ("/api/views/weights?target=conv1&slices=1&slices=2", 400, "convscope_error", "once"),
        ("/api/views/weights?target=conv1&target=conv2", 400, "convscope_error", "once"),
        ("/api/views/activations?target=conv1", 400, "convscope_error", "image"),
        ("/api/views/activations?target=conv1&images=9", 404, "unknown_name", "0 to 2"),
        ("/api/views/activations?target=conv1&images=0;1", 400, "convscope_error", "images=0,3"),
        ("/api/views/activations?target=conv1&images=-1", 400, "convscope_error", "images=0,3"),
        ("/api/views/activations?target=conv1&images=" + ",".join("0" * 257), 400, "convscope_error", "256"),
        ("/api/views/weights?target=conv1&format=exe", 422, "invalid_request", ""),
        ("/api/views/weights?target=" + "x" * 301, 422, "invalid_request", ""),
        ("/api/views/a%20b?target=conv1", 422, "invalid_request", ""),
        ("/api/images/9/thumbnail", 404, "unknown_name", "0 to 2"),
        ("/api/images/0/thumbnail?side=9999", 422, "invalid_request", ""),
        ("/api/images/x/thumbnail", 422, "invalid_request", ""),
        ("/api/images/9/prepared", 404, "unknown_name", ""),
        ("/api/receptive-field?unit=nowhere:0", 404, "unknown_name", ""),
        ("/api/receptive-field?unit=a b", 400, "convscope_error", ""),
        ("/api/receptive-field", 422, "invalid_request", ""),
        ("/api/nothing", 404, "http_error", ""),
        ("/api/session/", 404, "http_error", ""),
        ("/nothing", 404, "http_error", ""),
    ],
)
def test_every_mistake_is_answered_in_one_shape(client, path, status, kind, hint):
    answer = client.get(path)
    assert answer.status_code == status, answer.text
    error = error_of(answer)
    assert error["kind"] == kind
    assert hint in error["next_step"] + error["what"]


def test_a_bug_is_answered_and_the_server_lives_on(client, slow, caplog):
    answer = client.get("/api/views/broken")
    assert answer.status_code == 500
    assert error_of(answer)["kind"] == "zero_division_error"
    assert "secret" not in answer.text
    assert "secret detail" in caplog.text
    assert client.get("/api/session").status_code == 200


def test_images_can_be_added(client):
    before = client.get("/api/session").json()["images"]["count"]
    answer = client.post("/api/images?name=../../cat.png", content=png(9), headers={"content-type": "image/png"})
    assert answer.status_code == 201
    image = answer.json()["image"]
    assert (image["id"], image["name"]) == (before, "cat.png")
    assert client.post("/api/images?name=again.png", content=png(9)).json()["image"] == image
    assert client.get("/api/images").json()["images"][-1] == image
    assert client.get(f"/api/images/{image['id']}/thumbnail").status_code == 200
    assert client.get(f"/api/views/predictions?images={image['id']}").status_code == 200


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (b"", "image/png"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"),
        (b"<!doctype html><script>alert(1)</script>", "image/png"),
        (b"II*\x00" + bytes(100), "image/tiff"),
        (png(9), "text/html"),
        (png(9), "multipart/form-data; boundary=x"),
    ],
)
def test_what_is_no_image_is_refused(client, content, media_type):
    answer = client.post("/api/images", content=content, headers={"content-type": media_type})
    assert answer.status_code == 415
    assert error_of(answer)["kind"] == "bad_image"
    assert len(client.get("/api/images").json()["images"]) == 3


def test_uploads_are_bounded_in_all(client, monkeypatch):
    monkeypatch.setattr("convscope.server.session.UPLOADED_BYTES", len(png(8)) + 10)
    assert client.post("/api/images", content=png(8)).status_code == 201
    assert client.post("/api/images", content=png(9)).status_code == 400
    assert len(client.get("/api/images").json()["images"]) == 4


def test_a_running_job_is_cancelled_by_name(client, slow):
    answers = []
    thread = threading.Thread(
        target=lambda: answers.append(client.get("/api/views/slow", headers={"x-convscope-job": "mine"}))
    )
    thread.start()
    assert slow.entered.wait(PATIENCE)
    started = time.monotonic()
    assert client.delete("/api/jobs/mine").status_code == 204
    thread.join(PATIENCE)
    assert slow.left.wait(1)
    assert time.monotonic() - started < SOON
    assert answers[0].status_code == 409
    assert error_of(answers[0])["kind"] == "cancelled"
    assert client.delete("/api/jobs/mine").status_code == 204  # over already
    assert client.delete("/api/jobs/No!").status_code == 422


def test_equal_requests_compute_once_and_a_full_line_is_said_to_be_full(client, slow):
    answers = []

    def ask(query):
        answers.append(client.get(f"/api/views/slow?{query}"))

    threads = [threading.Thread(target=ask, args=(f"steps={100 + n}",)) for n in (0, 0, 0, 1, 2, 3)]
    for thread in threads:
        thread.start()
    assert slow.entered.wait(PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while len(client.app.state.session.jobs._open) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    full = client.get("/api/views/slow?steps=999")
    assert full.status_code == 429
    assert error_of(full)["kind"] == "busy"
    slow.gate.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert [answer.status_code for answer in answers] == [200] * 6
    assert sorted(slow.runs) == [100, 101, 102, 103]


def test_a_network_that_cannot_be_opened_is_told_to_everyone(tmp_path, bundle):
    def opener():
        raise ConvscopeError("no such network", next_step="name another")

    session = Session(opener, Store.open(tmp_path / "store"), Jobs())
    with TestClient(create_app(session, bundle=bundle)) as client:
        for path in ("/api/session", "/api/layers", "/api/images", "/api/views/weights?target=x", "/api/session"):
            answer = client.get(path)
            assert answer.status_code == 400
            assert error_of(answer)["what"] == "no such network"
        assert client.get("/").status_code == 200
        assert isinstance(session.failure(), ConvscopeError)
        with pytest.raises(ConvscopeError):
            session.raise_failure()


def test_a_full_disk_costs_nobody_an_answer(client, session, monkeypatch, caplog):
    def full(view):
        raise ConvscopeError("can't store a view: the disk is full")

    monkeypatch.setattr(session.store, "put", full)
    assert client.get("/api/views/weights?target=conv1").status_code == 200
    assert "the disk is full" in caplog.text


def test_the_page_and_its_files(client):
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert client.get("/", headers={"if-none-match": page.headers["etag"]}).status_code == 304
    script = client.get("/assets/index-abc.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert "immutable" in script.headers["cache-control"]
    for path in ("/secret.py", "/assets", "/assets/", "/assets/none.js", "/index.html", "/assets/index-abc.js/"):
        assert client.get(path).status_code == 404


def test_a_missing_page_says_how_to_build_it(session, tmp_path):
    with TestClient(create_app(session, bundle=Bundle(tmp_path / "nowhere"))) as client:
        answer = client.get("/")
    assert answer.status_code == 503
    assert "make demo" in answer.text


def test_a_new_build_is_noticed(tmp_path):
    bundle = Bundle(tmp_path)
    assert bundle.find("/") is None
    (tmp_path / "index.html").write_text("one")
    assert bundle.find("/").content == b"one"
    (tmp_path / "index.html").write_text("two")
    import os

    os.utime(tmp_path / "index.html", (1, 1))
    assert bundle.find("/").content == b"two"


def test_memory_forgets_the_least_recently_used():
    memory = Memory(10, len)
    for key in "abc":
        memory.put(key, key * 4)
        memory.get("a")
    assert memory.get("a") == "aaaa"
    assert memory.get("b") is None
    assert memory.get("c") == "cccc"
    assert memory.put("huge", "x" * 11) == "x" * 11
    assert memory.get("huge") is None
    assert memory.get("a") == "aaaa"


def test_every_route_is_described_with_its_own_name():
    described = openapi()
    operations = [each["operationId"] for path in described["paths"].values() for each in path.values()]
    assert len(operations) == len(set(operations)) > 16
    assert not any("_" in each for each in operations)
    assert json.dumps(described)
    for path in described["paths"].values():
        for each in path.values():
            assert {"4XX", "5XX"} <= set(each["responses"])


def test_opening_is_reported_as_a_job(tmp_path, images, bundle):
    go = threading.Event()

    def opener():
        go.wait(PATIENCE)
        raise ConvscopeError("enough")

    session = Session(opener, Store.open(tmp_path / "store"), Jobs())
    with TestClient(create_app(session, bundle=bundle)) as client:

        async def hear():
            with session.jobs.subscribe() as subscription:
                seen = await subscription.take(5)
                go.set()
                while (events := await subscription.take(5)) and events[-1].state == "running":
                    seen += events
                return seen + events

        seen = client.portal.call(hear)
    assert {event.id for event in seen} == {"open"}
    assert seen[-1].state == "failed"


def test_the_demo_network_has_no_odd_answers():
    # The schema forbids extra fields, NaN and wrong types, so building it is the test.
    from convscope.server.answers import layer_answer

    network = load("demo", weights="random", image_size=64)
    assert len([layer_answer(layer) for layer in network.layers]) == len(network.layers)
    assert Opened(network, [], "none").network is network
