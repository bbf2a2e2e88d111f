from __future__ import annotations

import http.client
import json
import socket
import threading
import time

import pytest

from convscope.errors import ConvscopeError
from convscope.server.jobs import Jobs
from convscope.server.listen import bind, check_host, serve
from convscope.server.session import Opened, Session
from convscope.store import Store
from patience import PATIENCE, SOON

TOKEN = "t" * 43


class Serving(threading.Thread):
    """A real uvicorn in a thread; it stops when its session fails, so the test makes it fail."""

    def __init__(self, session, bundle):
        super().__init__(daemon=True)
        self.session = session
        self.bundle = bundle
        self.listener = bind("127.0.0.1", 0)
        self.port = self.listener.getsockname()[1]
        self.url = ""
        self.raised: BaseException | None = None
        self.announced = threading.Event()

    def run(self):
        try:
            with self.listener:
                serve(self.session, self.listener, announce=self.announce, token=TOKEN, bundle=self.bundle)
        except ConvscopeError as error:
            self.raised = error

    def announce(self, url):
        self.url = url
        self.announced.set()

    def get(self, path, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("GET", path, headers={"authorization": f"Bearer {TOKEN}", **headers})
        return connection


@pytest.fixture
def serving(session, bundle):
    thread = Serving(session, bundle)
    thread.start()
    assert thread.announced.wait(PATIENCE)
    yield thread
    thread.stop()
    thread.join(PATIENCE)
    assert not thread.is_alive()


@pytest.fixture(autouse=True)
def stoppable(monkeypatch):
    """uvicorn listens to signals in the main thread only; here the test's word counts."""
    from convscope.server import listen

    servers = []
    made = listen._Server.__init__

    def remember(self, *arguments):
        made(self, *arguments)
        servers.append(self)

    monkeypatch.setattr(listen._Server, "__init__", remember)
    monkeypatch.setattr(
        Serving, "stop", lambda _: [setattr(server, "should_exit", True) for server in servers], raising=False
    )


def test_the_url_is_announced_when_it_can_be_followed(serving):
    assert serving.url == f"http://127.0.0.1:{serving.port}/?token={TOKEN}"
    connection = serving.get("/")
    assert connection.getresponse().status == 200
    connection.close()


def test_a_client_that_goes_away_takes_its_job_along(serving, slow):
    connection = serving.get("/api/views/slow")
    assert slow.entered.wait(PATIENCE)
    started = time.monotonic()
    connection.close()
    assert slow.left.wait(1)
    assert time.monotonic() - started < SOON


def test_a_client_that_goes_away_leaves_the_job_to_others(serving, slow):
    leaving = serving.get("/api/views/slow")
    assert slow.entered.wait(PATIENCE)
    staying = serving.get("/api/views/slow", **{"x-convscope-job": "staying"})
    deadline = time.monotonic() + PATIENCE
    while sum(len(job.waiters) for job in serving.session.jobs._open.values()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    leaving.close()
    assert not slow.left.wait(0.2)
    slow.gate.set()
    answer = staying.getresponse()
    assert answer.status == 200
    assert answer.getheader("x-convscope-job") == "staying"
    assert answer.read()
    staying.close()
    assert slow.runs == [1000]


def test_events_tell_of_progress_as_it_happens(serving, slow):
    events = serving.get("/api/events")
    stream = events.getresponse()
    assert stream.getheader("content-type").startswith("text/event-stream")
    asking = serving.get("/api/views/slow", **{"x-convscope-job": "mine"})
    seen = []
    while not seen or seen[-1]["state"] != "done":
        line = stream.readline().decode()
        if line.startswith("data: "):
            event = json.loads(line[6:])
            if event["id"] == "mine":
                seen.append(event)
        if seen and seen[-1]["done"] > 3:
            slow.gate.set()
    moving = next(each for each in seen if each["done"])
    assert moving["state"] == "running"
    assert moving["total"] == 1000
    assert moving["message"] == "working slowly"
    assert moving["seconds_left"] > 0
    for connection in (events, asking):
        connection.close()


def test_a_network_that_cannot_be_opened_ends_the_server_after_telling(tmp_path, bundle):
    go = threading.Event()

    def opener() -> Opened:
        go.wait(PATIENCE)
        raise ConvscopeError("no such network")

    thread = Serving(Session(opener, Store.open(tmp_path / "store"), Jobs()), bundle)
    thread.start()
    assert thread.announced.wait(PATIENCE)
    connection = thread.get("/api/session")
    go.set()
    answer = connection.getresponse()
    assert answer.status == 400
    assert json.loads(answer.read())["error"]["what"] == "no such network"
    connection.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert thread.raised.what == "no such network"


def test_answers_are_not_held_back_for_acknowledgements(serving):
    connection = serving.get("/api/layers")
    connection.getresponse().read()
    took = []
    for _ in range(20):
        started = time.perf_counter()
        connection.request("GET", "/api/layers", headers={"authorization": f"Bearer {TOKEN}"})
        connection.getresponse().read()
        took.append(time.perf_counter() - started)
    connection.close()
    # A delayed acknowledgement costs 40 ms, every time.
    assert min(took) < 0.035


def test_only_loopback_is_bound_unless_names_are_given():
    assert check_host("127.0.0.1", []) == "127.0.0.1"
    assert check_host("127.0.0.2", []) == "127.0.0.2"
    assert check_host("::1", []) == "::1"
    for host in ("0.0.0.0", "::", "192.168.1.4"):  # noqa: S104 - that it is refused is the test
        with pytest.raises(ConvscopeError, match="other machines"):
            check_host(host, [])
        assert check_host(host, ["lab.example"]) == host
    for host in ("example.org", "", "127.0.0.1:80"):
        with pytest.raises(ConvscopeError, match="isn't an address"):
            check_host(host, ["lab.example"])


def test_a_taken_port_is_one_clear_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(ConvscopeError, match="can't be listened on") as caught:
            bind("127.0.0.1", taken.getsockname()[1])
        assert "--port 0" in caught.value.next_step
