"""Views that take long, over HTTP: beside quick ones, without holding a connection, with previews, and never forgotten
when their page goes."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

import numpy as np
import pytest
from starlette.testclient import TestClient

from convscope.errors import ConvscopeError
from convscope.images import load_images
from convscope.server.app import create_app
from convscope.server.jobs import Jobs
from convscope.server.session import Opened, Session
from convscope.store import Store
from convscope.view import View
from patience import PATIENCE, SOON

from .conftest import tiny_network

LONG = "/api/views/long"
AWAY = {"prefer": "respond-async"}


def until(condition, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return found


def another(folder, images):
    return Session(lambda: Opened(tiny_network(), load_images(images), "photos"), Store.open(folder), Jobs())


def begin(client, job="mine", page=None, **query):
    headers = {**AWAY, "x-convscope-job": job, **({} if page is None else {"x-convscope-page": page})}
    return client.get(LONG, params=query, headers=headers)


def state(client, job="mine"):
    return client.get(f"/api/jobs/{job}").json()["state"]


def test_what_takes_long_holds_no_connection_and_is_there_when_it_is_done(client, long):
    answer = begin(client)
    assert answer.status_code == 202, answer.text
    assert answer.json()["id"] == "mine"
    assert answer.json()["state"] in ("queued", "running")
    job = until(lambda: (found := client.get("/api/jobs/mine").json())["done"] and found)
    assert (job["state"], job["total"], job["message"], job["failure"]) == ("running", 100_000, "working long", None)
    assert job["seconds_left"] > 0
    assert begin(client, "again").status_code == 202, "whoever asks again shares the work"
    long.gate.set()
    until(lambda: state(client) == "done")
    assert state(client, "again") == "done"
    found = client.get(LONG, headers=AWAY)
    assert found.status_code == 200
    assert (View.from_bytes(found.content)["map"] == 100_000).all()
    assert long.log.count("end 100000") == 1
    etag = {"if-none-match": found.headers["etag"]}
    assert client.get(LONG, headers={**AWAY, **etag}).status_code == 304


def test_who_waits_gets_the_same_bytes(client, long):
    long.gate.set()
    waited = client.get(LONG, params={"steps": 3})
    assert begin(client, steps=4).status_code in (200, 202)
    until(lambda: state(client) == "done")
    later = client.get(LONG, params={"steps": 4})
    assert waited.status_code == later.status_code == 200
    assert View.from_bytes(waited.content).recipe.parameters["steps"] == 3
    assert client.get(LONG, params={"steps": 3}, headers=AWAY).content == waited.content


def test_a_quick_view_is_never_put_off(client, long):
    quick = "/api/views/weights?target=conv1"
    answer = client.get(quick, headers=AWAY)
    assert answer.status_code == 200, "only what takes long is answered with its job"


def test_only_if_cached_begins_nothing(client, long):
    for path in (LONG, "/api/views/weights?target=conv2"):
        nothing = client.get(path, headers={"cache-control": "only-if-cached"})
        assert (nothing.status_code, nothing.content) == (204, b"")
    assert long.log == []
    long.gate.set()
    for path in (LONG, "/api/views/weights?target=conv2"):
        found = client.get(path).content
        assert client.get(path, headers={"cache-control": "no-cache, only-if-cached"}).content == found


def test_a_page_that_was_loaded_again_joins_what_is_under_way_and_begins_nothing(client, long):
    joining = {**AWAY, "cache-control": "only-if-cached", "x-convscope-job": "reloaded"}
    assert client.get(LONG, headers=joining).status_code == 204
    begin(client)
    answer = client.get(LONG, headers=joining)
    assert answer.status_code == 202
    assert answer.json()["id"] == "reloaded"
    assert client.get(LONG, headers={"cache-control": "only-if-cached"}).status_code == 204, "this one doesn't wait"
    client.delete("/api/jobs/mine")
    assert state(client, "reloaded") == "running"
    long.gate.set()
    until(lambda: state(client, "reloaded") == "done")
    assert client.get(LONG, headers=joining).status_code == 200
    assert long.log.count("end 100000") == 1


def test_quick_views_go_first_and_the_network_is_one_threads_at_a_time(client, long):
    begin(client)
    until(lambda: len(long.log) > 3)
    for seed in range(3):
        before = len(long.log)
        answer = client.get(f"/api/views/activations?target=conv1&images={seed}")
        assert answer.status_code == 200
        assert len(long.log) - before < 200, "it waited for more than the step under way"
    expected = client.app.state.session.store
    opened = client.portal.call(client.app.state.session.opened)
    blob = client.get("/api/views/activations?target=conv1&images=0").content
    assert np.array_equal(
        View.from_bytes(blob)["map"], opened.network.view("activations", "conv1", opened.images[[0]])["map"]
    )
    assert expected.query(method="long") == []


def test_it_is_cancelled_within_a_second_and_leaves_nothing(client, long):
    begin(client)
    until(lambda: len(long.log) > 3)
    started = time.monotonic()
    assert client.delete("/api/jobs/mine").status_code == 204
    assert state(client) == "cancelled"
    assert client.get("/api/views/activations?target=conv1&images=0").status_code == 200
    assert time.monotonic() - started < SOON
    steps = len(long.log)
    time.sleep(0.05)
    assert len(long.log) <= steps + 1
    assert "end 100000" not in long.log
    assert client.app.state.session.store.query(method="long") == []
    assert client.get("/api/jobs/mine/preview").status_code == 204


def test_previews_are_shown_while_it_works_and_their_number_is_told(client, long):
    begin(client)
    number = until(lambda: client.get("/api/jobs/mine").json()["preview"])
    answer = client.get("/api/jobs/mine/preview")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/octet-stream"
    assert int(answer.headers["x-convscope-preview"]) >= number
    view = View.from_bytes(answer.content)
    assert (view.kind, view["map"].shape) == ("maps", (1, 2, 2))
    nothing = client.get("/api/jobs/mine/preview", params={"after": answer.headers["x-convscope-preview"]})
    assert nothing.status_code == 204
    newer = until(lambda: (found := client.get("/api/jobs/mine").json()["preview"]) > number and found)
    again = client.get("/api/jobs/mine/preview", params={"after": number})
    assert int(again.headers["x-convscope-preview"]) >= newer
    assert View.from_bytes(again.content)["map"][0, 0, 0] > view["map"][0, 0, 0]
    long.gate.set()
    until(lambda: state(client) == "done")
    assert client.get("/api/jobs/mine/preview").status_code == 204, "the view itself is there"
    assert client.get("/api/jobs/nobody/preview").status_code == client.get("/api/jobs/nobody").status_code == 404


def test_events_tell_of_steps_previews_and_the_end(client, long):
    async def hear():
        events = []
        with client.app.state.session.jobs.subscribe() as subscription:
            await subscription.take(0.01)
            heard.set()
            while not any(event.state == "done" for event in events):
                events += [event for event in await subscription.take(5) or [] if event.id == "mine"]
                if any(event.preview for event in events):
                    long.gate.set()
        return events

    heard, found = threading.Event(), []
    thread = threading.Thread(target=lambda: found.extend(client.portal.call(hear)))
    thread.start()
    assert heard.wait(PATIENCE)
    begin(client)
    thread.join(PATIENCE)
    states = [event.state for event in found]
    assert states[-1] == "done"
    assert "running" in states
    assert any(event.preview for event in found)


def test_why_it_failed_is_told_to_who_did_not_wait(client, long):
    assert begin(client, fails="true").status_code == 202
    long.gate.set()
    until(lambda: state(client) == "failed")
    failure = client.get("/api/jobs/mine").json()["failure"]
    assert failure["what"] == "there is no honest answer"
    assert failure["next_step"] == "ask for something else"
    assert client.get(LONG, params={"fails": "true"}).status_code == 422


def test_a_bug_is_told_and_logged(client, long, monkeypatch, caplog):
    monkeypatch.setattr(long, "view", lambda *_: 1 / 0)
    begin(client)
    until(lambda: state(client) == "failed")
    failure = client.get("/api/jobs/mine").json()["failure"]
    assert "ZeroDivisionError" in failure["what"]
    until(lambda: "unexpected error" in caplog.text)
    assert client.get("/api/views/weights?target=conv1").status_code == 200


def test_what_cannot_be_asked_is_refused_at_once(client, long):
    assert begin(client, steps="many").status_code == 400
    assert begin(client, target="conv1").status_code == 400
    assert begin(client, job="No!").status_code == 422
    assert begin(client, page="No!").status_code == 422
    assert long.log == []


def test_too_much_long_work_is_refused_and_quick_views_are_not(client, long):
    for number in range(4):
        assert begin(client, f"job-{number}", steps=1000 + number).status_code == 202
    full = begin(client, "job-4", steps=999)
    assert full.status_code == 429
    assert full.json()["error"]["kind"] == "busy"
    assert client.get("/api/views/weights?target=conv1").status_code == 200


def test_whoever_asks_for_the_same_again_and_again_is_refused_at_last(client, long, monkeypatch):
    monkeypatch.setattr("convscope.server.detached.MOST_WORKS", 3)
    assert [begin(client, f"job-{number}").status_code for number in range(5)] == [202, 202, 202, 429, 429]
    client.delete("/api/jobs/job-0")
    until(lambda: begin(client, "job-6").status_code == 202)


class Page:
    """A page that listens for events, or doesn't."""

    def __init__(self, client, name):
        self.client, self.name, self.stack = client, name, ExitStack()

    def comes(self):
        async def listen():
            self.stack.enter_context(self.client.app.state.session.detached.listening(self.name))

        self.client.portal.call(listen)

    def goes(self):
        async def leave():
            self.stack.close()

        self.client.portal.call(leave)


@pytest.fixture
def soon(client):
    """Pages are gone after a tenth of a second."""
    client.app.state.session.detached._gone_seconds = 0.1
    return client


def test_what_nobody_waits_for_ends_when_its_page_goes(soon, long):
    page = Page(soon, "page-1")
    page.comes()
    begin(soon, page="page-1")
    begin(soon, "nobodys", steps=1000)
    time.sleep(0.2)
    assert state(soon) in ("queued", "running")
    page.goes()
    until(lambda: state(soon) == "cancelled", SOON)
    time.sleep(0.1)
    assert state(soon, "nobodys") in ("queued", "running"), "asked for by no page, it goes on"


def test_a_page_that_comes_back_in_time_finds_its_work(soon, long):
    soon.app.state.session.detached._gone_seconds = 0.4
    page = Page(soon, "page-1")
    page.comes()
    begin(soon, page="page-1")
    page.goes()
    time.sleep(0.05)
    page.comes()
    time.sleep(0.6)
    assert state(soon) == "running"
    page.goes()


def test_a_page_that_never_listened_is_gone(soon, long):
    begin(soon, page="page-1")
    until(lambda: state(soon) == "cancelled", SOON)


def test_another_page_that_wants_the_same_keeps_it_alive(soon, long):
    first, second = Page(soon, "page-1"), Page(soon, "page-2")
    first.comes()
    second.comes()
    begin(soon, "one", page="page-1")
    begin(soon, "two", page="page-2")
    first.goes()
    until(lambda: state(soon, "one") == "cancelled", SOON)
    assert state(soon, "two") == "running"
    long.gate.set()
    until(lambda: state(soon, "two") == "done")
    second.goes()
    assert long.log.count("end 100000") == 1


def test_it_is_kept_between_sessions(client, long, tmp_path, images, bundle):
    long.gate.set()
    first = client.get(LONG, params={"steps": 5})
    with TestClient(create_app(another(tmp_path / "store", images), bundle=bundle)) as again:
        kept = again.get(LONG, params={"steps": 5}, headers={"cache-control": "only-if-cached"})
        assert kept.content == first.content


def test_a_full_disk_costs_nobody_minutes_twice(client, long, monkeypatch, caplog):
    def full(view):
        raise ConvscopeError("can't store a view: the disk is full")

    monkeypatch.setattr(client.app.state.session.store, "put", full)
    begin(client, steps=7)
    until(lambda: state(client) == "done")
    found = client.get(LONG, params={"steps": 7}, headers=AWAY)
    assert found.status_code == 200
    assert long.log.count("end 7") == 1
    assert "the disk is full" in caplog.text


def test_a_slow_methods_many_requests_do_not_hold_up_another_method(client, slow):
    """Of a matrix, method by class, each method gets its turn; and a click gets its own."""
    session = client.app.state.session
    session.jobs._limit = 32
    answers = []

    def ask(path, page):
        answers.append((path, client.get(path, headers={"x-convscope-page": page}).status_code))

    asked = [(f"/api/views/slow?steps={20 + number}", "matrix") for number in range(6)]
    threads = [threading.Thread(target=ask, args=each) for each in asked]
    for thread in threads:
        thread.start()
    until(lambda: len(session.jobs._open) == 6)
    ask("/api/views/predictions?images=0", "matrix")
    assert len(slow.runs) <= 2, "it waited for the one under way"
    assert ("/api/views/predictions?images=0", 200) in answers[:2]
    slow.gate.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert [status for _, status in answers] == [200] * 7


def test_closing_the_server_ends_what_nobody_waits_for(tmp_path, images, bundle, long):
    with TestClient(create_app(another(tmp_path / "own", images), bundle=bundle)) as client:
        begin(client)
        until(lambda: len(long.log) > 2)
        started = time.monotonic()
    assert time.monotonic() - started < SOON
    assert not any(thread.name == "convscope-aside" and thread.is_alive() for thread in threading.enumerate())
