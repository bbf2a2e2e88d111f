"""The study over HTTP: mining in the background while views are asked for, patches as pictures, images by study id."""

from __future__ import annotations

import io
import json
import threading
import time

import numpy as np
import pytest
from PIL import Image as PillowImage
from starlette.testclient import TestClient

from convscope.images import load_images
from convscope.mining.mine import mine
from convscope.mining.patches import cut
from convscope.mining.study import Study
from convscope.server.app import create_app
from convscope.server.bundle import Bundle
from convscope.server.jobs import Jobs
from convscope.server.session import Opened, Session
from convscope.store import Store
from convscope.view import View
from patience import PATIENCE, SOON

from .conftest import ODD, png, tiny_network


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "mined"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02}.png").write_bytes(png(number, (20, 24)))
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    return folder


def opened_at(folder, images):
    return Session(
        lambda: Opened(tiny_network(), load_images(images), "photos"), Store.open(folder), Jobs(), place="study/"
    )


@pytest.fixture
def fresh(tmp_path, photos, bundle):
    session = opened_at(tmp_path / "study", photos)
    with TestClient(create_app(session, bundle=bundle), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def mined(tmp_path, photos, bundle):
    with Store.open(tmp_path / "study") as store:
        mine(tiny_network(), load_images(photos), study=store, k=4, executor="serial", shard_size=16)
    session = opened_at(tmp_path / "study", photos)
    with TestClient(create_app(session, bundle=bundle), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A mined session that no test changes: (client, its photos, its study's folder)."""
    folder = tmp_path_factory.mktemp("shared")
    photos = folder / "photos"
    photos.mkdir()
    for number in range(20):
        (photos / f"{number:02}.png").write_bytes(png(number, (20, 24)))
    mine(tiny_network(), load_images(photos), study=folder / "study", k=4, executor="serial", shard_size=16)
    session = opened_at(folder / "study", photos)
    with TestClient(create_app(session, bundle=Bundle(folder)), raise_server_exceptions=False) as client:
        yield client, photos, folder / "study"


def until(client, condition, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while not condition(found := client.get("/api/study").json()):
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found


def picture(answer):
    assert answer.status_code == 200, answer.text
    return np.asarray(PillowImage.open(io.BytesIO(answer.content)).convert("RGB"))


def test_a_session_without_study_says_how_to_mine(fresh):
    found = fresh.get("/api/study").json()
    assert (found["mined"], found["refused"], found["job"], found["layers"]) == (False, "", None, [])
    assert found["command"].startswith("convscope mine tiny --images ")
    assert found["command"].endswith("--study study/")
    for path in ("/api/patches?layer=conv1", "/api/study/images/0", "/api/views/top_patches?target=conv1"):
        answer = fresh.get(path)
        assert answer.status_code in (400, 422)
        assert "nothing was mined" in answer.json()["error"]["what"]


def test_what_was_mined_is_told(mined, photos):
    found = mined.get("/api/study").json()
    assert (found["images"], found["done"], found["k"], found["finished"]) == (40, 40, 4, True)
    assert found["layers"] == ["conv1", "conv2", "fc"]
    assert found["location"] == str(photos)


def test_mining_fills_the_study_and_tells_so(fresh):
    started = fresh.post("/api/study/mine", json={"layers": ["conv*"], "k": 3}, headers={"x-convscope-job": "mine-1"})
    assert started.status_code == 202, started.text
    assert started.json()["job"] == "mine-1"
    found = until(fresh, lambda each: each["finished"] and each["job"] is None)
    assert (found["done"], found["k"], found["layers"], found["failure"]) == (40, 3, ["conv1", "conv2"], None)
    assert found["seconds"] > 0
    view = View.from_bytes(fresh.get("/api/views/top_patches?target=conv2:1").content)
    assert view["value"].shape == (1, 3)
    assert (np.diff(view["value"]) <= 0).all()


def test_the_view_is_the_librarys(shared):
    mined, _, study = shared
    expected = tiny_network().view("top_patches", "conv2", study=study)
    answer = mined.get("/api/views/top_patches?target=conv2")
    assert answer.content == expected.to_bytes()
    again = mined.get("/api/views/top_patches?target=conv2", headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304
    ranks = View.from_bytes(mined.get("/api/views/top_patches?target=conv2&ranks=2").content)
    assert np.array_equal(ranks["image"], expected["image"][:, :2])
    assert len(Store.open(study).query(method="top_patches")) == 0, "it is read off the store, not kept"
    for suffix in ("png", "svg", "npz"):
        assert mined.get(f"/api/views/top_patches?target=conv2&format={suffix}").status_code == 200


def test_a_client_names_no_study(shared, tmp_path):
    mined, _, _ = shared
    answer = mined.get("/api/views/top_patches", params={"target": "conv2", "study": str(tmp_path / "other")})
    assert answer.status_code == 400
    assert "own study" in answer.json()["error"]["what"]
    assert not (tmp_path / "other").exists()
    (method,) = [each for each in mined.get("/api/session").json()["methods"] if each["name"] == "top_patches"]
    assert [each["name"] for each in method["parameters"]] == ["ranks"]


@pytest.mark.parametrize("which", ["top", "bottom", "quantile"])
def test_patches_are_the_librarys_tiles(shared, which):
    mined, photos, study = shared
    network, images = tiny_network(), load_images(photos)
    view = network.view("top_patches", "conv2", study=study)
    shown = picture(mined.get(f"/api/patches?layer=conv2&which={which}&units=1-3&ranks=0-2&side=32"))
    assert shown.shape == (96, 96, 3)
    prefix = "" if which == "top" else f"{which}_"
    for unit in range(1, 4):
        for rank in range(3):
            box = tuple(int(each) for each in view[f"{prefix}box"][unit, rank])
            expected = cut(network.preprocessing, images[int(view[f"{prefix}image"][unit, rank])], box, 32)
            tile = shown[(unit - 1) * 32 : unit * 32, rank * 32 : rank * 32 + 32]
            assert np.array_equal(tile, expected), "enlarged pixels are sent without loss"


def test_units_come_in_the_order_they_are_asked_for_and_a_missing_rank_is_empty(shared):
    mined, _, _ = shared
    every = picture(mined.get("/api/patches?layer=conv2&units=0-5&ranks=0&side=24"))
    some = mined.get("/api/patches?layer=conv2&units=4,1-2&ranks=0,7&side=24")
    shown = picture(some)
    assert shown.shape == (72, 48, 3)
    for place, unit in enumerate((4, 1, 2)):
        assert np.array_equal(shown[24 * place : 24 * place + 24, :24], every[24 * unit : 24 * unit + 24])
    assert (np.asarray(PillowImage.open(io.BytesIO(some.content)).convert("RGBA"))[:, 24:, 3] == 0).all()


def test_patches_are_kept_between_sessions(mined, tmp_path, photos, bundle, monkeypatch):
    path = "/api/patches?layer=conv2&units=0-5&ranks=0-3&side=24&mode=context"
    first = mined.get(path)
    assert mined.get(path, headers={"if-none-match": first.headers["etag"]}).status_code == 304
    with TestClient(create_app(opened_at(tmp_path / "study", photos), bundle=bundle)) as client:
        monkeypatch.setattr("convscope.mining.pictures.StudyPictures.see", lambda *_: pytest.fail("it was cut again"))
        second = client.get(path)
        assert second.content == first.content
        assert second.headers["etag"] == first.headers["etag"]


@pytest.mark.parametrize(
    "query",
    [
        "layer=nope",
        "layer=conv2&units=9-3",
        "layer=conv2&units=-1",
        "layer=conv2&units=99",
        "layer=conv2&units=0,,1",
        "layer=conv2&units=2-1,0",
        "layer=conv2&units=0-99999",
        "layer=conv2&units=0-5&ranks=0-999",
        "layer=conv2&units=٣",
        "layer=conv2&side=4",
        "layer=conv2&side=9999",
        "layer=conv2&mode=whole",
        "layer=conv2&which=middle",
        "layer=" + "x" * 400,
        "layer=pool",
        "layer=conv2&units=",
        "",
    ],
)
def test_what_there_is_no_patch_of_is_refused(shared, query):
    answer = shared[0].get(f"/api/patches?{query}")
    assert 400 <= answer.status_code < 500
    assert set(answer.json()["error"]) == {"what", "where", "next_step", "kind"}


def test_images_by_their_study_id(shared):
    mined, photos, _ = shared
    found = mined.get("/api/study/images/7").json()
    assert (found["id"], found["name"], found["width"], found["height"]) == (7, "07.png", 24, 20)
    assert (found["label_name"], found["image"]) == (None, 7)
    assert found["predicted_name"] == tiny_network().class_names[found["predicted"]]
    assert 0 <= found["predicted"] < 5
    assert max(picture(mined.get("/api/study/images/7/thumbnail?side=16")).shape) == 16
    prepared = picture(mined.get("/api/study/images/7/prepared"))
    network = tiny_network()
    image = load_images(photos)["07.png"]
    assert np.array_equal(prepared, network.unprepare(network.prepare(image)))
    for number in (20, 999_999_999):
        assert mined.get(f"/api/study/images/{number}").status_code == 404
    assert mined.get("/api/study/images/-1").status_code == 422


def test_an_image_that_changed_is_never_shown_as_the_one_that_was_mined(mined, photos):
    (photos / "07.png").write_bytes(png(1234, (20, 24)))
    answer = mined.get("/api/study/images/7/thumbnail")
    assert answer.status_code == 415
    assert "07.png" in answer.json()["error"]["where"]


def test_another_networks_study_is_told_not_shown(tmp_path, photos, bundle):
    import torch

    other = tiny_network()
    with torch.no_grad():
        other.module.conv1.weight.mul_(2)
    mine(other, load_images(photos), study=tmp_path / "study", executor="serial")
    with TestClient(create_app(opened_at(tmp_path / "study", photos), bundle=bundle)) as client:
        found = client.get("/api/study").json()
        assert not found["mined"]
        assert "another network" in found["refused"]
        assert client.post("/api/study/mine", json={}).status_code == 422
        assert client.get("/api/views/top_patches?target=conv1").status_code == 422
        assert client.get("/api/patches?layer=conv1").status_code == 422


@pytest.mark.parametrize(
    "body",
    [
        {"layers": ["nope"]},
        {"layers": ["conv1"]},
        {"k": 5},
        {"k": 0},
        {"k": 100_000},
        {"layers": "conv1"},
        {"layers": [""]},
        {"study": "/etc"},
        {"images": "/etc/passwd"},
        [],
        None,
    ],
)
def test_what_cannot_be_mined_is_refused_at_once(shared, body):
    answer = shared[0].post("/api/study/mine", json=body)
    assert 400 <= answer.status_code < 500, answer.text
    assert shared[0].get("/api/study").json()["job"] is None


def test_asking_again_for_what_is_finished_does_nothing(mined):
    before = mined.get("/api/study").json()
    assert mined.post("/api/study/mine", json={"k": 4}).status_code == 202
    assert until(mined, lambda each: each["job"] is None)["done"] == before["done"]


class Gate:
    """Lets mining through one batch at a time."""

    def __init__(self, monkeypatch):
        from convscope.mining.shard import _Pass

        self.open, self.batches = threading.Event(), 0
        forward = _Pass._forward

        def slowed(mining_pass, *arguments):
            self.batches += 1
            self.open.wait(0.1)
            return forward(mining_pass, *arguments)

        monkeypatch.setattr(_Pass, "_forward", slowed)


def test_views_go_first_and_mining_is_cancelled_within_a_second(tmp_path, photos, bundle, monkeypatch):
    for number in range(40, 300):
        (photos / f"{number}.png").write_bytes(png(number, (20, 24)))
    gate = Gate(monkeypatch)
    session = opened_at(tmp_path / "study", photos)
    with TestClient(create_app(session, bundle=bundle)) as client:
        assert client.post("/api/study/mine", json={}).status_code == 202
        deadline = time.monotonic() + PATIENCE
        while gate.batches < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert client.get("/api/study").json()["job"] == "mining"
        for seed in range(4):
            before = gate.batches
            assert client.get(f"/api/views/activations?target=conv1&images={seed}").status_code == 200
            assert gate.batches <= before + 3, "the view waited for more than the batch under way"
        assert client.post("/api/study/mine", json={}).status_code == 202, "asking again starts nothing"
        started = time.monotonic()
        assert client.delete("/api/jobs/mining").status_code == 204
        found = until(client, lambda each: each["job"] is None, 2)
        assert time.monotonic() - started < SOON
        assert found["failure"] is None
        assert not found["finished"]
        gate.open.set()
        assert client.post("/api/study/mine", json={}).status_code == 202
        found = until(client, lambda each: each["finished"] and each["job"] is None)
    serial = tmp_path / "serial"
    # The page's shards are smaller, so that its first results come soon.
    size = Study.open(tmp_path / "study").settings.shard_size
    mine(tiny_network(), load_images(photos), study=serial, executor="serial", shard_size=size)
    for layer in ("conv1", "conv2", "fc"):
        ours, theirs = (Study.open(place).state(layer).to_view().to_bytes() for place in (tmp_path / "study", serial))
        assert ours == theirs


def test_a_finished_shard_is_an_event(tmp_path, photos, bundle):
    """Also one that another process finished."""
    session = opened_at(tmp_path / "study", photos)
    with TestClient(create_app(session, bundle=bundle)) as client:
        heard, ready = [], threading.Event()

        def listen():
            async def hear():
                with session.jobs.subscribe() as subscription:
                    ready.set()
                    while not any(getattr(event, "finished", False) for event in heard):
                        heard.extend(await subscription.take(5) or [])

            client.portal.call(hear)

        thread = threading.Thread(target=listen)
        thread.start()
        assert ready.wait(PATIENCE)
        mine(tiny_network(), load_images(photos), study=tmp_path / "study", executor="serial", shard_size=16)
        thread.join(PATIENCE)
        assert not thread.is_alive()
        (last,) = [event for event in heard if getattr(event, "finished", False)]
        assert (last.id, last.done, last.images) == ("study", 40, 40)


def test_an_upload_is_not_mined_because_nobody_could_find_it_again(fresh):
    assert fresh.post("/api/images?name=mine.png", content=png(777)).status_code == 201
    fresh.post("/api/study/mine", json={"layers": ["conv1"]})
    assert until(fresh, lambda each: each["finished"] and each["job"] is None)["images"] == 40


def test_images_added_to_the_folder_are_mined_too(mined, photos, tmp_path, bundle):
    (photos / "new.png").write_bytes(png(4321))
    with TestClient(create_app(opened_at(tmp_path / "study", photos), bundle=bundle)) as client:
        assert client.post("/api/study/mine", json={"images": "session"}).status_code == 202
        found = until(client, lambda each: each["job"] is None and each["done"] == 41)
        assert found["images"] == 41
        assert client.get("/api/study/images/40").json()["name"] == "new.png"
        assert client.get("/api/study/images/3").json()["name"] == "03.png", "an id never changes"


def test_why_mining_ended_is_told(fresh, monkeypatch):
    monkeypatch.setattr("convscope.mining.mine._run", lambda *_: 1 / 0)
    fresh.post("/api/study/mine", json={})
    found = until(fresh, lambda each: each["failure"] is not None and each["job"] is None)
    assert "ZeroDivisionError" in found["failure"]["what"]


def test_a_read_only_study_is_shown_but_not_mined_into(mined):
    mined.app.state.session.store.writable = False
    assert mined.get("/api/study").json()["mined"]
    assert mined.post("/api/study/mine", json={}).status_code == 400
    assert mined.get("/api/patches?layer=conv1&units=0-1&side=16").status_code == 200


def test_names_that_look_like_markup_are_data(shared):
    assert ODD in json.dumps(shared[0].get("/api/session").json()["network"]["class_names"])
