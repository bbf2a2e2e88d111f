"""Looking into a network that is being trained: a copy takes the place of the session's network, and gives it back."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from starlette.testclient import TestClient

from convscope.images import load_images
from convscope.server.app import create_app
from convscope.server.exploring import HeldOut
from convscope.server.jobs import Jobs
from convscope.server.session import Opened, Session
from convscope.server.training import Training
from convscope.store import Store
from convscope.training.snapshot import Snapshot
from convscope.view import View
from patience import PATIENCE

from .conftest import tiny_network
from .training import BASE, begin, said, until, write_colors

CONV = "/api/views/weights?target=conv1"


@pytest.fixture(scope="module")
def colors(tmp_path_factory):
    return write_colors(tmp_path_factory.mktemp("data") / "colors")


@pytest.fixture
def client(tmp_path, images, colors):
    jobs = Jobs()
    session = Session(
        lambda: Opened(tiny_network(), load_images(images), "photos"),
        Store.open(tmp_path / "store"),
        jobs,
        place="store",
        training=Training(jobs, str(tmp_path / "runs"), [str(colors)]),
    )
    with TestClient(create_app(session), raise_server_exceptions=False) as client:
        client.training, client.session = session.training, session
        yield client


def explored(client, run):
    answer = client.post(f"{run}/explore")
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_network_in_training_is_looked_into(client):
    before = client.get("/api/session").json()
    assert (before["opening"], before["explored"], before["network"]["name"]) == (1, None, "tiny")
    run = begin(client)
    client.post(f"{run}/step", json={"count": 3})
    found = explored(client, run)
    assert found == client.get("/api/session").json()
    assert found["explored"] == {"run": "tiny", "name": "tiny", "step": 3}
    assert found["opening"] == 2
    assert found["network"]["name"] == "tiny, step 3"
    assert found["network"]["class_names"] == ["blue", "red"]
    assert (found["images"]["count"], found["images"]["source"]) == (10, "colors, held out")
    learner = client.training.live.trainer.learner
    kernel = View.from_bytes(client.get(CONV).content)["kernel"]
    assert kernel.tobytes() == learner.module.get_parameter("conv1.weight").detach().numpy().tobytes()
    layers = [row["address"] for row in client.get("/api/layers").json()["layers"]]
    assert layers == ["conv1", "relu1", "pool1", "flatten", "fc1"]


def test_its_images_are_prepared_as_training_prepares_them(client):
    run = begin(client)
    explored(client, run)
    learner = client.training.live.trainer.learner
    opened = client.portal.call(client.session.opened)
    images = client.get("/api/images").json()["images"]
    assert [each["label"] for each in images] == learner.data.held_out.labels.tolist()
    assert images[0]["label_name"] == "blue"
    batch = opened.network.batch(opened.images)
    assert (batch.tensor == learner.batches.normalized(learner.data.held_out.images)).all()
    shown = View.from_bytes(client.get("/api/views/predictions?images=0,1&top=2").content)
    said_there = client.get(f"{run}/test", params={"indexes": "0,1", "top": 2}).json()["images"]
    for index, each in enumerate(said_there):
        probabilities = [top["probability"] for top in each["top"]]
        assert np.allclose(shown["probability"][index], probabilities, atol=1e-6)
    assert client.get("/api/images/3/thumbnail").status_code == client.get("/api/images/3/prepared").status_code == 200


def test_what_is_shown_stays_while_training_goes_on(client):
    run = begin(client)
    explored(client, run)
    before = client.get(CONV).content
    module = client.portal.call(client.session.opened).network.module
    assert not module.training
    assert module is not client.training.live.trainer.learner.module
    weights = {name: each.clone() for name, each in module.state_dict().items()}
    client.post(f"{run}/run", json={"steps": 200})
    for unit in range(4):
        answer = client.get(f"/api/views/activation_gradients?target=conv1:{unit}&images=0,1&objective=score")
        assert answer.status_code == 200
    until(lambda: client.get(run).json()["state"] == "finished")
    assert client.get(CONV).content == before
    assert all((each == weights[name]).all() for name, each in module.state_dict().items())
    assert client.training.live.trainer.learner.module.training
    again = explored(client, run)
    assert (again["explored"]["step"], again["opening"]) == (200, 3)
    assert client.get(CONV).content != before


def test_the_first_network_comes_back_as_it_was(client):
    before = client.get(CONV)
    layers = client.get("/api/layers")
    run = begin(client)
    explored(client, run)
    assert client.get("/api/layers", headers={"if-none-match": layers.headers["etag"]}).status_code == 200
    back = client.post("/api/session/return").json()
    assert (back["network"]["name"], back["explored"], back["opening"]) == ("tiny", None, 3)
    assert client.get(CONV, headers={"cache-control": "only-if-cached"}).content == before.content
    assert client.get("/api/layers").content == layers.content
    assert client.post("/api/session/return").json()["opening"] == 3, "it is open already"
    methods = [entry.method for entry in client.session.store.query()]
    assert methods == ["weights"], "what was looked at in between isn't kept"


def test_a_run_that_is_not_open_is_looked_into_by_its_snapshot(client):
    run = begin(client)
    client.post(f"{run}/step", json={"count": 4})
    snapshot = Snapshot.from_bytes(client.get(f"{run}/snapshot.safetensors").content)
    client.delete(run)
    found = explored(client, run)
    assert found["explored"]["step"] == 4
    kernel = View.from_bytes(client.get(CONV).content)["kernel"]
    assert kernel.tobytes() == snapshot.weights["conv1.weight"].numpy().tobytes()
    assert found["images"]["count"] == 10
    assert client.training.live is None, "it isn't opened by that"


def test_without_its_images_a_network_is_looked_into_all_the_same(client):
    run = begin(client)
    client.post(f"{run}/step")
    client.delete(run)
    client.training.data.offers = tuple(each for each in client.training.data.offers if each.id != "colors")
    found = explored(client, run)
    assert (found["images"]["count"], found["images"]["source"]) == (0, "no images")
    assert client.get(CONV).status_code == 200


def test_a_run_without_snapshot_is_refused_and_nothing_changes(client, tmp_path):
    import torch
    from torch import nn

    from convscope.training.monitor import Monitor

    module = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    with Monitor(module, optimizer, store=tmp_path / "runs" / "own") as monitor:
        module(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        monitor.log(loss=1.0)
    assert "no snapshot" in said(client.post(f"{BASE}/runs/own/explore"))
    assert "no run" in said(client.post(f"{BASE}/runs/nowhere/explore"))
    assert client.get("/api/session").json()["opening"] == 1


def test_whoever_knows_another_network_is_told(client):
    run = begin(client)
    known = {"x-convscope-opening": "1"}
    assert client.get(CONV, headers=known).status_code == 200
    explored(client, run)
    for path in (CONV, "/api/layers", "/api/images", "/api/study", "/api/methods"):
        answer = client.get(path, headers=known)
        assert answer.status_code == 409, path
        assert answer.json()["error"]["kind"] == "replaced"
    for path in ("/api/images/0/thumbnail", "/api/images/0/prepared", CONV):
        join = "&" if "?" in path else "?"
        assert client.get(f"{path}{join}opening=1").status_code == 409
        assert client.get(f"{path}{join}opening=2").status_code == 200
    assert client.get("/api/session", headers=known).status_code == 200, "it asks which is open"
    assert client.post("/api/images?name=x.png", content=b"x", headers=known).status_code == 409
    for nonsense in ("x", "-1", "1" * 30, "1.0"):
        assert client.get("/api/layers", headers={"x-convscope-opening": nonsense}).status_code == 400


def test_every_page_hears_of_it(client):
    run = begin(client)
    heard, ready = [], threading.Event()

    async def hear():
        with client.session.jobs.subscribe() as subscription:
            ready.set()
            while not any(type(event).__name__ == "SessionEvent" for event in heard):
                heard.extend(await subscription.take(5) or [])

    thread = threading.Thread(target=lambda: client.portal.call(hear))
    thread.start()
    assert ready.wait(PATIENCE)
    client.post(f"{run}/explore", headers={"x-convscope-job": "look"})
    thread.join(PATIENCE)
    (event,) = [each for each in heard if type(each).__name__ == "SessionEvent"]
    assert (event.id, event.opening) == ("session", 2)
    assert client.get("/api/jobs/look").json()["state"] == "done"


def test_an_explored_network_is_mined_in_a_study_of_its_own(client, tmp_path):
    run = begin(client)
    explored(client, run)
    assert client.get("/api/study").json()["location"] == ""
    assert client.post("/api/study/mine", json={"k": 2}).status_code == 202
    until(lambda: (found := client.get("/api/study").json())["finished"] and found["job"] is None)
    patches = client.get("/api/views/top_patches?target=conv1")
    assert View.from_bytes(patches.content)["value"].shape == (4, 2)
    assert client.get("/api/patches?layer=conv1&units=0-3&ranks=0-1&side=16").status_code == 200
    folder = client.session.store.path
    assert folder != tmp_path / "store"
    client.post("/api/session/return")
    assert not folder.exists()
    assert not client.get("/api/study").json()["mined"]


def test_what_is_computed_of_the_first_ends_when_another_opens(client, long):
    run = begin(client)
    client.get("/api/views/long", headers={"prefer": "respond-async", "x-convscope-job": "mine"})
    until(lambda: long.log)
    explored(client, run)
    until(lambda: client.get("/api/jobs/mine").json()["state"] == "cancelled")


def test_asking_on_while_networks_take_each_others_place(client):
    """Whoever asks in between is answered, of the one or the other; nothing stumbles and nothing is left."""
    run = begin(client)
    client.post(f"{run}/step")
    stop, seen = threading.Event(), []
    paths = (CONV, "/api/views/top_patches?target=conv1", "/api/views/gradient?images=0")

    def ask(path):
        while not stop.is_set():
            seen.append((path, client.get(path).status_code))

    threads = [threading.Thread(target=ask, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for _ in range(2):
        explored(client, run)
        assert client.post("/api/session/return").status_code == 200
    answers = [client.post(f"{run}/explore").status_code for _ in range(2)]
    stop.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert answers == [200, 200]
    assert {status for path, status in seen if "top_patches" not in path} <= {200, 409}
    assert {status for path, status in seen if "top_patches" in path} <= {409, 422}
    assert client.get("/api/session").json()["opening"] == 7
    assert client.get(CONV).status_code == 200


def test_uploads_belong_to_the_network_they_were_added_to(client):
    from .conftest import png

    run = begin(client)
    explored(client, run)
    assert client.post("/api/images?name=mine.png", content=png(5)).status_code == 201
    assert client.get("/api/session").json()["images"]["count"] == 11
    client.post("/api/session/return")
    assert client.get("/api/session").json()["images"]["count"] == 3


def test_held_out_images_are_a_dataset(colors):
    from convscope.training.data import load_data

    data = load_data(colors, size=(8, 8))
    held_out = HeldOut(data)
    pixels, label = held_out[7]
    assert len(held_out) == 10
    assert (pixels.shape, pixels.dtype, label) == ((8, 8, 3), np.uint8, 1)
    assert held_out.classes == ["blue", "red"]
    assert held_out.targets == [0] * 5 + [1] * 5


def test_a_network_that_was_never_opened_can_still_come_back(tmp_path, colors):
    """`convscope train` opens the explorer's network when somebody goes there, which may be after exploring."""
    jobs, opened = Jobs(), []

    def opener():
        opened.append(1)
        return Opened(tiny_network(), load_images([]), "photos")

    training = Training(jobs, str(tmp_path / "runs"), [str(colors)])
    session = Session(opener, Store.open(tmp_path / "store"), jobs, training=training, needed=False)
    with TestClient(create_app(session)) as client:
        run = begin(client)
        assert explored(client, run)["network"]["name"] == "tiny, step 0"
        assert opened == []
        assert client.post("/api/session/return").json()["network"]["name"] == "tiny"
        assert opened == [1]
