"""The real command, attacked from outside: nothing but our own page, with the session's key, gets an answer."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from patience import PATIENCE, SOON

FACTORY = """
from torch import nn

def make():
    module = nn.Sequential()
    module.add_module("conv1", nn.Conv2d(3, 4, 3, stride=2))
    module.add_module("<img/src=x/onerror=alert(1)>", nn.ReLU())
    module.add_module("pool", nn.AdaptiveAvgPool2d(1))
    module.add_module("flatten", nn.Flatten())
    module.add_module("fc", nn.Linear(4, 3))
    return module
"""
MAIN = "import sys; from convscope.cli import main; sys.exit(main())"
UNIT = "conv1:0:1,1"

# Every route of the application, with something that would be answered 2xx.
ROUTES = {
    ("GET", "/"): "/",
    ("GET", "/{address:path}"): "/assets/index.js",
    ("GET", "/api/session"): "/api/session",
    ("POST", "/api/session/return"): "/api/session/return",
    ("GET", "/api/layers"): "/api/layers",
    ("GET", "/api/images"): "/api/images",
    ("POST", "/api/images"): "/api/images?name=cat.png",
    ("GET", "/api/images/{number}/thumbnail"): "/api/images/0/thumbnail",
    ("GET", "/api/images/{number}/prepared"): "/api/images/0/prepared",
    ("GET", "/api/receptive-field"): f"/api/receptive-field?unit={UNIT}",
    ("GET", "/api/views/{method}"): "/api/views/weights?target=conv1",
    ("GET", "/api/calls/{method}"): "/api/calls/weights?target=conv1",
    ("GET", "/api/methods"): "/api/methods?target=conv1",
    ("GET", "/api/study"): "/api/study",
    ("POST", "/api/study/mine"): "/api/study/mine",
    ("GET", "/api/patches"): "/api/patches?layer=conv1&units=0-3&ranks=0&side=16",
    ("GET", "/api/study/images/{number}"): "/api/study/images/0",
    ("GET", "/api/study/images/{number}/thumbnail"): "/api/study/images/0/thumbnail",
    ("GET", "/api/study/images/{number}/prepared"): "/api/study/images/0/prepared",
    ("GET", "/api/training"): "/api/training",
    ("POST", "/api/training/definition"): "/api/training/definition",
    ("GET", "/api/training/runs"): "/api/training/runs",
    ("POST", "/api/training/runs"): "/api/training/runs",
    ("POST", "/api/training/snapshots"): "/api/training/snapshots?name=../../sent&replace=true",
    ("GET", "/api/training/race"): "/api/training/race",
    ("POST", "/api/training/race"): "/api/training/race",
    ("POST", "/api/training/race/{what}"): "/api/training/race/pause",
    ("DELETE", "/api/training/race"): "/api/training/race",
    **{
        (method, f"/api/training/runs/{{run}}{path.partition('?')[0]}"): f"/api/training/runs/attacked{path}"
        for method, path in (
            ("GET", ""),
            ("DELETE", ""),
            ("POST", "/open"),
            ("POST", "/explore"),
            ("POST", "/run"),
            ("POST", "/pause"),
            ("POST", "/step"),
            ("POST", "/reset"),
            ("POST", "/settings"),
            ("POST", "/snapshot"),
            ("POST", "/predict"),
            ("GET", "/snapshot.safetensors"),
            ("GET", "/snapshot.convnetjs.json"),
            ("GET", "/frame?layers=fc1"),
            ("GET", "/curves"),
            ("GET", "/test?indexes=0,1"),
            ("GET", "/confusion"),
            ("GET", "/backpropagation?index=0"),
        )
    },
    ("GET", "/api/training/runs/{run}/steps/{name}"): "/api/training/runs/attacked/steps/images",
    ("GET", "/api/training/runs/{run}/views/{name}"): "/api/training/runs/attacked/views/images?step=0",
    ("GET", "/api/training/runs/{run}/images/{number}"): "/api/training/runs/attacked/images/0",
    ("GET", "/api/training/runs/{run}/backpropagation/{number}"): "/api/training/runs/attacked/backpropagation/{number}"
    "?layer=fc1",
    ("GET", "/api/events"): "/api/events",
    ("GET", "/api/jobs/{name}"): "/api/jobs/open",
    ("GET", "/api/jobs/{name}/preview"): "/api/jobs/open/preview",
    ("DELETE", "/api/jobs/{name}"): "/api/jobs/somebody",
}


def png(rows=8, columns=8, seed=0):
    """A small valid PNG, written by hand; no decoder of ours is involved."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)
    pixels = b"".join(b"\0" + bytes((seed + 7 * r + c) % 256 for c in range(3 * columns)) for r in range(min(rows, 64)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


# What ConvNetJS could have drawn too.
DEFINITION = (
    "- input: {rows: 4, columns: 4, channels: 1, mean: 0.5, std: 1.0}\n- fully_connected: {units: 10}\n- softmax\n"
)
NETWORK = {"definition": DEFINITION, "data": "mnist"}
RUN = {**NETWORK, "name": "attacked", "training_images": 60, "held_out_images": 20, "replace": True}
BODIES = {
    "/api/study/mine": {"layers": ["conv1"], "k": 2},
    "/api/training/definition": {"text": DEFINITION},
    "/api/training/runs": RUN | {"name": "another"},
    "/api/training/race": {**NETWORK, "racers": {"sgd": {}}, "steps": 2},
    "/api/training/runs/{run}/settings": {"settings": {"learning_rate": 0.02}},
    "/api/training/runs/{run}/open": {"replace": True},
}
_BARE = ("run", "pause", "step", "reset", "snapshot", "explore")
WITHOUT_BODY = {f"/api/training/runs/{{run}}/{what}" for what in _BARE}
WITHOUT_BODY |= {"/api/training/race/{what}", "/api/session/return"}


def body_of(route):
    """What a POST sends."""
    if route[0] != "POST":
        return None
    if route[1] in BODIES:
        return json.dumps(BODIES[route[1]]).encode()
    return b"" if route[1] in WITHOUT_BODY else png(seed=3)


class Running:
    """A server process and ways to talk to it that no browser has."""

    def __init__(self, folder, *options):
        (folder / "tiny.py").write_text(FACTORY)
        photos = folder / "photos"
        photos.mkdir(exist_ok=True)
        (photos / "photo.png").write_bytes(png())
        self.temporary = folder / "tmp"
        self.temporary.mkdir(exist_ok=True)
        words = ["open", f"{folder / 'tiny.py'}:make", "--image-size", "16", "--images", str(photos), "--no-browser"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAIN, *words, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(self.temporary)},
        )
        line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=(\S+)", line)
        assert found, line + self.process.stderr.read()
        self.port, self.token = int(found[1]), found[2]
        self.host = f"127.0.0.1:{self.port}"
        self.cookie = f"convscope_{self.port}={self.token}"
        self.ours = {"cookie": self.cookie, "sec-fetch-site": "same-origin"}
        assert self.ask("GET", "/api/session", self.ours)[0] == 200

    def mine(self):
        """Fill the study, so that its routes have something to answer."""
        assert self.ask("POST", "/api/study/mine", self.ours, b'{"layers": ["conv1"], "k": 2}')[0] == 202
        deadline = time.monotonic() + PATIENCE
        while not json.loads(self.ask("GET", "/api/study", self.ours)[2])["finished"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def train(self):
        """Begin a run that its routes can be asked about."""
        assert self.post("/api/training/runs", RUN)[0] == 201
        assert self.post("/api/training/runs/attacked/step", {"count": 2})[0] == 200

    def post(self, path, body):
        return self.ask("POST", path, self.ours, json.dumps(body).encode())

    def ready(self, route):
        """The address of a route, after what it needs was done."""
        address = ROUTES[route]
        if "/attacked" in address:
            assert self.post("/api/training/runs/attacked/open", {"replace": True})[0] == 200
            assert self.post("/api/training/runs/attacked/pause", {})[0] == 200
        if address.startswith("/api/training/race/"):
            assert self.post("/api/training/race", BODIES["/api/training/race"])[0] == 201
        if "{number}" in address:
            headers = self.ask("GET", "/api/training/runs/attacked/backpropagation?index=0", self.ours)[1]
            address = address.replace("{number}", headers["x-convscope-pass"])
        return address

    def ask(self, method, path, headers=None, body=None, host=None):
        """(status, headers, body); the body of an event stream isn't waited for."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            connection.putheader("host", host or self.host)
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("content-length", str(len(body)))
            if body is not None and body.startswith(b"{"):
                connection.putheader("content-type", "application/json")
            connection.endheaders(body)
            answer = connection.getresponse()
            streams = answer.getheader("content-type", "").startswith("text/event-stream")
            return answer.status, dict(answer.getheaders()), b"" if streams else answer.read()
        finally:
            connection.close()

    def raw(self, request):
        """Everything the server answers to these bytes, until it closes or falls silent."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
            connection.sendall(request)
            connection.settimeout(SOON)
            received = b""
            try:
                while block := connection.recv(65536):
                    received += block
                    connection.settimeout(1)
            except (TimeoutError, ConnectionResetError):
                pass
            return received

    def alive(self):
        return self.process.poll() is None and self.ask("GET", "/api/layers", self.ours)[0] == 200

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(15), self.process.stderr.read()
        finally:
            self.process.kill()
            self.process.stdout.close()
            self.process.stderr.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Running(tmp_path_factory.mktemp("attacked"))
    try:
        running.mine()
        running.train()
    except BaseException:
        running.process.kill()
        raise
    yield running
    code, errors = running.stop()
    assert code == 0, errors
    assert "Traceback" not in errors


def test_the_table_above_has_every_route():
    from fastapi.routing import APIRoute

    from convscope.server.app import ROUTERS, page

    routes = [route for router in (*ROUTERS, page) for route in router.routes]
    found = {(method, r.path) for r in routes if isinstance(r, APIRoute) for method in r.methods}
    assert found == set(ROUTES)


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
def test_our_own_page_is_answered(server, route):
    address, body = server.ready(route), body_of(route)
    if route[1] == "/api/training/snapshots":
        body = server.ask("GET", "/api/training/runs/attacked/snapshot.safetensors", server.ours)[2]
        address += "&data=mnist"
    status, headers, _ = server.ask(route[0], address, server.ours, body)
    if address.endswith("/explore"):
        assert server.post("/api/session/return", {})[0] == 200
    # Without a built page the two page routes say so; that too is an answer.
    assert status in ((200, 503, 404) if not ROUTES[route].startswith("/api") else (200, 201, 202, 204))
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'self'" in headers["content-security-policy"]


ATTACKS = {
    "another host": ({}, "evil.example"),
    "another host, our port": ({}, "evil.example:{port}"),
    "DNS rebinding": ({"origin": "http://rebind.evil.example:{port}"}, "rebind.evil.example:{port}"),
    "another port": ({}, "127.0.0.1:1"),
    "no port": ({}, "127.0.0.1"),
    "our name as their subdomain": ({}, "127.0.0.1.evil.example:{port}"),
    "another origin": ({"origin": "http://evil.example"}, None),
    "opaque origin": ({"origin": "null"}, None),
    "another local server": ({"origin": "http://127.0.0.1:1", "sec-fetch-site": "same-site"}, None),
    "cross-site": ({"sec-fetch-site": "cross-site"}, None),
    "cross-site image": (
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"},
        None,
    ),
    "same-site": ({"sec-fetch-site": "same-site"}, None),
    "no token": ({"cookie": ""}, None),
    "another cookie": ({"cookie": "convscope_1={token}"}, None),
    "wrong token": ({"cookie": "convscope_{port}=wrong"}, None),
    "wrong bearer": ({"authorization": "Bearer wrong"}, None),
    "token in the wrong place": ({"cookie": "", "authorization": "Basic {token}"}, None),
    "websocket": ({"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}, None),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
def test_everything_else_is_refused(server, route, attack):
    extra, host = ATTACKS[attack]
    known = {"port": server.port, "token": server.token}
    headers = {**server.ours, **{name: value.format(**known) for name, value in extra.items()}}
    status, answered, body = server.ask(route[0], ROUTES[route], headers, body_of(route), host and host.format(**known))
    assert status in (401, 403)
    assert not any(name.lower().startswith("access-control") for name in answered)
    assert server.token.encode() not in body


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "PATCH", "TRACE"])
def test_other_methods_are_refused_on_every_route(server, route, method):
    assert server.ask(method, ROUTES[route], server.ours)[0] == 405


def test_changes_without_a_page_are_refused(server):
    routes = [("POST", "/api/images"), ("POST", "/api/study/mine"), ("DELETE", "/api/jobs/x")]
    routes += [route for route in ROUTES if route[0] != "GET" and route[1].startswith("/api/training")]
    for method, path in routes:
        assert server.ask(method, path, {"cookie": server.cookie}, b"" if method == "POST" else None)[0] == 403


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/assets/../../app.py",
        "/assets/..%2f..%2fapp.py",
        "/assets/%2e%2e/%2e%2e/app.py",
        "/assets/%252e%252e/app.py",
        "/assets/..\\..\\app.py",
        "/assets/..%5c..%5capp.py",
        "/assets/%00",
        "/assets//etc/passwd",
        "//etc/passwd",
        "/assets/C:/windows/win.ini",
        "/assets/.git/config",
        "/assets/~root",
        "/app.py",
        "/guard.py",
        "/openapi.json",
        "/docs",
        "/redoc",
        "/api/images/..%2f..%2fetc%2fpasswd/thumbnail",
        "/api/images/-1/thumbnail",
        "/api/images/1e3/thumbnail",
        "/api/images/99999999999999999999/thumbnail",
        "/api/images/0/../0/thumbnail",
        "/api/jobs/../session",
        "/api/views/..%2f..%2fapp?target=conv1",
        "/api/views/__init__?target=conv1",
        "/api/views/weights.py?target=conv1",
        "/api/views/weights?target=../../etc/passwd",
        "/api/views/weights?target=/etc/passwd",
        "/api/views/weights?target=__class__",
        "/api/views/activations?target=conv1&images=/etc/passwd",
        "/api/views/activations?target=conv1&images=photo.png",
        "/api/views/weights?target=conv1&format=../../x",
        "/api/receptive-field?unit=../../etc/passwd",
        "/api/views/top_patches?target=conv1&study=/etc",
        "/api/views/top_patches?target=conv1&study=../../",
        "/api/patches?layer=../../etc/passwd",
        "/api/patches?layer=conv1&study=/etc&units=/etc/passwd",
        "/api/patches?layer=conv1&units=0&ranks=..%2f..%2fetc",
        "/api/patches?layer=conv1&units=0&which=../../etc",
        "/api/study/images/..%2f..%2fetc%2fpasswd/thumbnail",
        "/api/study/images/photo.png/prepared",
        "/api/study/images/-1",
        "/api/study/images/1e3/prepared",
        "/api/study/images/99999999999999999999",
        "/api/study/mine/../images/0",
        "/api/training/runs/..",
        "/api/training/runs/../../session",
        "/api/training/runs/..%2f..%2fetc",
        "/api/training/runs/%2e%2e/frame",
        "/api/training/runs/.hidden/curves",
        "/api/training/runs/tiny.py",
        "/api/training/runs/attacked/../attacked",
        "/api/training/runs/attacked/views/..%2f..%2fetc?step=0",
        "/api/training/runs/attacked/views/images?step=-1",
        "/api/training/runs/attacked/views/images?step=0&layer=../../etc/passwd",
        "/api/training/runs/attacked/steps/index.sqlite",
        "/api/training/runs/attacked/index.sqlite",
        "/api/training/runs/attacked/objects",
        "/api/training/runs/attacked/snapshot",
        "/api/training/runs/attacked/frame?layers=../../etc/passwd",
        "/api/training/runs/attacked/images/-1",
        "/api/training/runs/attacked/images/99999999999999999999",
        "/api/training/runs/attacked/test?indexes=/etc/passwd",
        "/api/training/runs/attacked/backpropagation/1?layer=../../etc&place=0",
    ],
)
def test_no_path_reaches_the_file_system(server, path):
    status, headers, body = server.ask("GET", path, server.ours)
    assert status in (400, 403, 404, 405, 422)
    assert b"root:" not in body
    assert "location" not in headers
    assert headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "request_lines",
    [
        b"GET /api/session HTTP/1.1\r\nHost: %(host)s\r\nHost: evil.example\r\nCookie: %(cookie)s\r\n\r\n",
        b"GET http://evil.example/api/session HTTP/1.1\r\nHost: %(host)s\r\nCookie: %(cookie)s\r\n\r\n",
        b"GET /api/session HTTP/1.1\r\nCookie: %(cookie)s\r\n\r\n",
        b"GET /api/session HTTP/1.0\r\nCookie: %(cookie)s\r\n\r\n",
        b"GET /api/session\r\n\r\n",
        b"POST /api/images HTTP/1.1\r\nHost: %(host)s\r\nCookie: %(cookie)s\r\nOrigin: http://%(host)s\r\n"
        b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
        b"GET /api/session HTTP/1.1\r\nHost: %(host)s\r\n Cookie: %(cookie)s\r\n\r\n",
        b"GET /api/session HTTP/1.1\r\nHost: %(host)s\r\nX: \x00\r\nCookie: %(cookie)s\r\n\r\n",
        b"GET /api/session HTTP/1.1\r\nHost: %(host)s\r\nX: " + b"a" * 200_000 + b"\r\nCookie: %(cookie)s\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00" * 1000,
    ],
    ids=lambda lines: repr(lines[:40]),
)
def test_malformed_requests_get_nothing(server, request_lines):
    known = {b"host": server.host.encode(), b"cookie": server.cookie.encode()}
    answer = server.raw(request_lines % known if b"%(" in request_lines else request_lines)
    assert not answer.startswith(b"HTTP/1.1 2")
    assert b"fingerprint" not in answer
    assert server.alive()


def test_a_websocket_handshake_is_never_completed(server):
    for path in ("/", "/api/events", "/ws"):
        answer = server.raw(
            f"GET {path} HTTP/1.1\r\nHost: {server.host}\r\nCookie: {server.cookie}\r\n"
            "Connection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        assert answer.startswith(b"HTTP/1.1 403")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc; on other systems lsof would say it")
def test_only_loopback_sockets_listen(server):
    folder = Path(f"/proc/{server.process.pid}")
    links = [str(path.readlink()) for path in (folder / "fd").iterdir() if path.is_symlink()]
    inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
    listening = []
    for table, loopback in (("tcp", "0100007F"), ("tcp6", "0" * 24 + "01000000")):
        for line in (folder / "net" / table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                address, port = fields[1].split(":")
                listening.append((address == loopback, int(port, 16)))
    assert listening == [(True, server.port)]


def test_a_long_body_is_cut_off(server):
    head = (
        f"POST /api/images HTTP/1.1\r\nHost: {server.host}\r\nCookie: {server.cookie}\r\n"
        f"Origin: http://{server.host}\r\nContent-Type: application/octet-stream\r\n"
    )
    # Announced.
    answer = server.raw(f"{head}Content-Length: {33 * 2**20}\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 413")
    # Not announced: it stops reading while we send.
    sent = 0
    with socket.create_connection(("127.0.0.1", server.port), timeout=SOON) as connection:
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        block = b"100000\r\n" + bytes(2**20) + b"\r\n"
        try:
            while sent < 64:
                connection.sendall(block)
                sent += 1
            pytest.fail("64 MiB were taken")
        except OSError:
            assert 30 <= sent < 64
    assert server.alive()


def test_announcing_more_than_comes_blocks_nobody(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        connection.sendall(
            f"POST /api/images HTTP/1.1\r\nHost: {server.host}\r\nCookie: {server.cookie}\r\n"
            f"Origin: http://{server.host}\r\nContent-Length: 1000\r\n\r\nabc".encode()
        )
        assert server.alive()
    assert server.alive()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pixel bomb", png(50_000, 50_000)),
        ("just above the cap", png(5_001, 5_000)),
        ("html", b"<!doctype html><script>alert(1)</script>"),
        ("svg", b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"),
        ("postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        ("tiff", b"II*\x00\x08\x00\x00\x00" + bytes(64)),
        ("pickle", b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."),
        ("truncated", png()[:40]),
        ("html behind a png's signature", b"\x89PNG\r\n\x1a\n<script>alert(1)</script>"),
        ("nothing", b""),
    ],
)
def test_uploads_that_are_no_images_are_refused(server, name, content):
    before = server.ask("GET", "/api/images", server.ours)[2]
    headers = {**server.ours, "content-type": "image/png"}
    status, answered, body = server.ask("POST", "/api/images?name=x.png", headers, content)
    assert status in (413, 415)
    assert answered["content-type"] == "application/json"
    assert b"alert" not in body
    assert server.ask("GET", "/api/images", server.ours)[2] == before


def test_names_come_back_as_json_text(server):
    status, headers, body = server.ask("GET", "/api/layers", server.ours)
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert headers["x-content-type-options"] == "nosniff"
    assert "<img/src=x/onerror=alert(1)>" in [layer["address"] for layer in json.loads(body)["layers"]]
    headers = {**server.ours, "content-type": "image/png"}
    name = "..%2F..%2F%3Cscript%3Ealert(1)%3C%2Fscript%3E%0d%0aset-cookie:x%00.png"
    status, answered, body = server.ask("POST", f"/api/images?name={name}", headers, png(seed=77))
    assert status == 201
    assert answered["content-type"] == "application/json"
    shown = json.loads(body)["image"]["name"]
    assert "/" not in shown
    assert shown.isprintable()
    assert "set-cookie" not in {each.lower() for each in answered}


def test_svg_is_never_shown_inline(server):
    status, headers, _ = server.ask("GET", "/api/views/weights?target=conv1&format=svg", server.ours)
    assert status == 200
    assert headers["content-disposition"].startswith("attachment")


def test_the_first_url_sets_a_strict_cookie_and_hides_the_token(server):
    status, headers, _ = server.ask("GET", f"/?token={server.token}&unit=conv1:0", {"sec-fetch-site": "none"})
    assert status == 303
    assert headers["location"] == "/?unit=conv1%3A0"
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(headers["set-cookie"].split("; "))
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"


def test_many_idle_connections_leave_room(server):
    connections = [socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) for _ in range(64)]
    try:
        assert server.alive()
    finally:
        for connection in connections:
            connection.close()


def test_work_ends_when_the_page_that_wants_it_closes_its_stream(server):
    """Also when it goes without a word: a tab that is closed sends nothing but the end of its connections."""
    page = {"x-convscope-page": "tab-1", "x-convscope-job": "minutes", "prefer": "respond-async"}
    asked = "/api/views/inversion?target=conv1&images=0&steps=100000"
    state = lambda: json.loads(server.ask("GET", "/api/jobs/minutes", server.ours)[2])["state"]  # noqa: E731
    listen = f"GET /api/events?page=tab-1 HTTP/1.1\r\nHost: {server.host}\r\nCookie: {server.cookie}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as stream:
        stream.sendall(listen.encode())
        received = b""
        while b"retry: " not in received:
            received += stream.recv(4096)
        status, _, body = server.ask("GET", asked, {**server.ours, **page})
        assert status == 202, body
        assert server.ask("GET", "/api/views/weights?target=conv1", server.ours)[0] == 200
        assert state() in ("queued", "running")
    deadline = time.monotonic() + PATIENCE
    while state() != "cancelled":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert server.ask("GET", asked, {**server.ours, "cache-control": "only-if-cached"})[0] == 204


def test_work_ends_when_the_connection_that_waits_for_it_closes(server):
    asked = "/api/views/inversion?target=conv1&images=0&steps=99999"
    lines = f"GET {asked} HTTP/1.1\r\nHost: {server.host}\r\nCookie: {server.cookie}\r\nX-Convscope-Job: waited\r\n\r\n"
    state = lambda: json.loads(server.ask("GET", "/api/jobs/waited", server.ours)[2]).get("state")  # noqa: E731
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        connection.sendall(lines.encode())
        deadline = time.monotonic() + PATIENCE
        while state() != "running":
            assert time.monotonic() < deadline
            time.sleep(0.02)
    started = time.monotonic()
    while state() != "cancelled":
        assert time.monotonic() - started < SOON
        time.sleep(0.02)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=lambda how: how.name)
def test_stopping_ends_event_streams_and_leaves_nothing_behind(tmp_path, how):
    running = Running(tmp_path)
    assert any(running.temporary.iterdir())
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=PATIENCE)
    connection.request("GET", "/api/events", headers={"host": running.host, "cookie": running.cookie})
    stream = connection.getresponse()
    assert stream.readline().startswith(b":")
    started = time.monotonic()
    running.process.send_signal(how)
    assert isinstance(stream.read(), bytes)  # the stream comes to its end
    code, errors = running.stop()
    connection.close()
    assert time.monotonic() - started < SOON
    assert code == (0 if how == signal.SIGINT else 128 + signal.SIGTERM), errors
    assert "Traceback" not in errors
    assert not any(running.temporary.iterdir())


def test_other_hosts_are_answered_only_when_allowed(tmp_path):
    running = Running(tmp_path, "--allow-host", "lab.example")
    try:
        for host, status in (("lab.example", 200), (f"lab.example:{running.port}", 200), ("x.lab.example", 403)):
            assert running.ask("GET", "/api/layers", running.ours, host=host)[0] == status
        # The key is still needed.
        assert running.ask("GET", "/api/layers", host="lab.example")[0] == 401
    finally:
        running.stop()


def test_a_study_is_served_again_with_its_views(tmp_path):
    study = tmp_path / "study"
    running = Running(tmp_path, "--study", str(study))
    first = running.ask("GET", "/api/views/weights?target=conv1", running.ours)[2]
    running.stop()
    shutil.rmtree(tmp_path / "tmp")
    stored = sorted(path.name for path in study.rglob("*.safetensors"))
    assert len(stored) == 1
    refused = subprocess.run(
        [sys.executable, "-c", MAIN, "serve", str(study), "--no-browser"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert "--trust" in refused.stderr
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, "serve", str(study), "--no-browser", "--trust"], stdout=subprocess.PIPE, text=True
    )
    with process:
        found = re.search(r"http://(127\.0\.0\.1:\d+)/\?token=(\S+)", process.stdout.readline())
        connection = http.client.HTTPConnection(found[1], timeout=PATIENCE)
        connection.request("GET", "/api/views/weights?target=conv1", headers={"authorization": f"Bearer {found[2]}"})
        again = connection.getresponse().read()
        connection.close()
        process.send_signal(signal.SIGINT)
    assert again == first
    assert sorted(path.name for path in study.rglob("*.safetensors")) == stored
    assert io.BytesIO(again).read(1)
