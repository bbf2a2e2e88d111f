from __future__ import annotations

import asyncio

import pytest

from convscope.errors import ConvscopeError
from convscope.server.guard import Guard, TooLarge, allowed_hosts, new_token

PORT = 8123
HOST = f"127.0.0.1:{PORT}"
TOKEN = new_token()
COOKIE = {"cookie": f"convscope_{PORT}={TOKEN}"}


class Inner:
    """An application that answers 200 with the body it read."""

    def __init__(self):
        self.scopes = []

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope)
        body = b""
        if scope["type"] == "http":
            while True:
                message = await receive()
                body += message.get("body", b"")
                if not message.get("more_body"):
                    break
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": body})


def call(method="GET", path="/api/session", query="", headers=None, host=HOST, body=(b"",), kind="http", limit=64):
    """(status, headers, body, whether the application saw it)"""
    inner, sent = Inner(), []
    guard = Guard(inner, token=TOKEN, port=PORT, hosts=allowed_hosts(PORT), body_limit=limit)
    pairs = [(b"host", host.encode())] if host is not None else []
    items = headers.items() if isinstance(headers, dict) else headers or []
    pairs += [(name.encode(), value.encode("latin-1")) for name, value in items]
    chunks = list(body)

    async def receive():
        chunk = chunks.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(chunks)}

    async def send(message):
        sent.append(message)

    scope = {
        "type": kind,
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": pairs,
    }
    asyncio.run(guard(scope, receive, send))
    if kind != "http":
        return sent
    headers_out = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers_out, sent[1]["body"], bool(inner.scopes)


def test_the_cookie_lets_in():
    status, headers, _, seen = call(headers=COOKIE)
    assert (status, seen) == (200, True)
    assert headers["cache-control"] == "no-store"


def test_every_answer_carries_the_security_headers():
    for given in (COOKIE, {}, {"cookie": "convscope_8123=wrong"}):
        headers = call(headers=given)[1]
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert not any(name.startswith("access-control") for name in headers)


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example",
        f"evil.example:{PORT}",
        "127.0.0.1",
        "127.0.0.1:80",
        f"127.0.0.1:{PORT}.evil.example",
        f"127.0.0.1.evil.example:{PORT}",
        f"evil.example@127.0.0.1:{PORT}",
        f"127.0.0.1:{PORT}@evil.example",
        f"localhost.:{PORT}",
        f"LOCALHOST:{PORT}",
        f"127.1:{PORT}",
        f"2130706433:{PORT}",
        f"0.0.0.0:{PORT}",
        f" 127.0.0.1:{PORT}",
        f"127.0.0.1:{PORT}, evil.example",
        f"[::1]:{PORT}x",
        f"127.0.0.1:0{PORT}",
    ],
)
def test_only_our_exact_host_names_are_answered(host):
    status, _, _, seen = call(host=host, headers=COOKIE)
    assert (status, seen) == (403, False)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]"])
def test_the_loopback_names_are_answered(name):
    assert call(host=f"{name}:{PORT}", headers=COOKIE)[0] == 200


def test_two_host_headers_are_refused():
    assert call(headers=[("host", HOST), *COOKIE.items()])[0] == 400


def test_allowed_hosts_are_strict():
    assert "lab.example:9000" in allowed_hosts(PORT, ["Lab.example:9000"])
    assert "lab.example" not in allowed_hosts(PORT, ["lab.example:9000"])
    assert "localhost" in allowed_hosts(80)
    for bad in ("http://x", "x/y", "*", "", "a b", "x:port", "*.example"):
        with pytest.raises(ConvscopeError):
            allowed_hosts(PORT, [bad])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"cookie": "other=1"}, 401),
        ({"cookie": f"convscope_{PORT}="}, 403),
        ({"cookie": f"convscope_{PORT}={TOKEN[:-1]}"}, 403),
        ({"cookie": f"convscope_{PORT}={TOKEN}x"}, 403),
        ({"cookie": f"convscope_{PORT + 1}={TOKEN}"}, 401),
        ({"authorization": "Bearer wrong"}, 403),
        ({"authorization": f"Basic {TOKEN}"}, 403),
        ({"authorization": "Bearer \xff"}, 403),
    ],
)
def test_no_token_and_wrong_tokens(headers, status):
    for path in ("/", "/api/session", "/assets/index.js", "/nowhere"):
        assert call(path=path, headers=headers)[::3] == (status, False)


def test_tokens_that_count():
    assert call(headers={"authorization": f"Bearer {TOKEN}"})[0] == 200
    # Another local server may have set a cookie of the same name.
    assert call(headers={"cookie": f"convscope_{PORT}=theirs; a=b; convscope_{PORT}={TOKEN}"})[0] == 200
    # The token counts in the page's address only.
    assert call(query=f"token={TOKEN}")[0] == 401


def test_the_first_url_swaps_the_token_for_a_cookie():
    status, headers, _, seen = call(path="/", query=f"token={TOKEN}&unit=conv1%3A3&next=//evil.example")
    assert (status, seen) == (303, False)
    assert headers["location"] == "/?unit=conv1%3A3&next=%2F%2Fevil.example"
    assert headers["set-cookie"] == f"convscope_{PORT}={TOKEN}; Path=/; HttpOnly; SameSite=Strict"
    assert call(path="/", query=f"token={TOKEN}")[1]["location"] == "/"
    for wrong in ("", "x", TOKEN + "x"):
        status, headers, _, seen = call(path="/", query=f"token={wrong}", headers=COOKIE)
        assert (status, seen) == (403, False)
        assert "set-cookie" not in headers


def test_newlines_in_the_first_url_split_no_header():
    location = call(path="/", query=f"token={TOKEN}&a=%0d%0aset-cookie:x")[1]["location"]
    assert "\r" not in location
    assert "\n" not in location


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize(
    "extra",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": f"http://127.0.0.1:{PORT + 1}"},
        {"origin": f"http://localhost:{PORT}"},  # another origin than 127.0.0.1
        {"origin": f"http://{HOST}.evil.example"},
        {"origin": f"http://{HOST}/"},
        {"origin": f"ftp://{HOST}"},
        {"origin": "http://[bad"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "anything"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
        {"sec-fetch-site": "same-origin", "origin": "http://evil.example"},
    ],
)
def test_requests_from_other_pages_are_refused(method, extra):
    assert call(method, headers={**COOKIE, **extra})[::3] == (403, False)


def test_a_link_on_another_page_may_lead_to_the_page_and_nowhere_else():
    follows = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert call(path="/", query=f"token={TOKEN}", headers=follows)[0] == 303
    # The strict cookie stays at home on such a visit; the answer has a link that takes it along.
    status, headers, body, _ = call(path="/", query="unit=conv1:3", headers=follows)
    assert status == 401
    assert headers["content-type"].startswith("text/html")
    assert b"href=''" in body
    assert b"conv1" not in body
    assert call(path="/api/session", headers={**COOKIE, **follows})[0] == 403


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_changes_need_proof_of_our_own_page_or_the_token_itself(method):
    assert call(method, headers=COOKIE)[0] == 403
    assert call(method, headers={**COOKIE, "sec-fetch-site": "same-origin"})[0] == 200
    assert call(method, headers={**COOKIE, "origin": f"http://{HOST}"})[0] == 200
    assert call(method, headers={"authorization": f"Bearer {TOKEN}"})[0] == 200


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "PATCH", "TRACE", "CONNECT", "get", "FOO"])
def test_other_methods_are_refused(method):
    status, headers, _, seen = call(method, headers=COOKIE)
    assert (status, seen) == (405, False)
    assert "access-control-allow-methods" not in headers


def test_websockets_are_closed():
    assert call(kind="websocket", headers=COOKIE) == [
        {"type": "websocket.close", "code": 1008, "reason": "no websockets here"}
    ]
    assert call(headers={**COOKIE, "connection": "upgrade", "upgrade": "websocket"})[::3] == (403, False)


def test_unknown_kinds_of_connection_get_nothing():
    assert call(kind="carrier pigeon", headers=COOKIE) == []


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example",
        "/../etc/passwd",
        "/assets/../../app.py",
        "/assets/..",
        "/assets/.env",
        "/assets/%2e%2e/app.py",
        "/assets\\..\\app.py",
        "/a\x00b",
        "/a\nb",
        "http://evil.example/",
        "",
        "/assets/" + "a" * 200,
        "/é",
    ],
)
def test_odd_paths_never_reach_the_routes(path):
    assert call(path=path, headers=COOKIE)[::3] == (404, False)


def test_bodies_are_cut_off_while_they_stream():
    post = {**COOKIE, "sec-fetch-site": "same-origin"}
    assert call("POST", headers=post, body=[b"x" * 32, b"x" * 32])[:3:2] == (200, b"x" * 64)
    assert call("POST", headers={**post, "content-length": "65"})[::3] == (413, False)
    for bad in ("-1", "1e3", "٣".encode().decode("latin-1"), ""):
        assert call("POST", headers={**post, "content-length": bad})[0] == 400
    with pytest.raises(TooLarge):  # answered by the application's error handler
        call("POST", headers={**post, "content-length": "10"}, body=[b"x" * 32, b"x" * 33])


def test_only_posts_have_a_body():
    assert call(headers={**COOKIE, "content-length": "1"})[0] == 400
    assert call(headers={**COOKIE, "transfer-encoding": "chunked"})[0] == 400
    assert call(headers={**COOKIE, "content-length": "0"})[0] == 200


def test_refusals_repeat_nothing_of_the_request():
    mark = "<img src=x onerror=alert(1)>"
    for kwargs in (
        {"host": mark},
        {"path": "/" + mark, "headers": COOKIE},
        {"query": mark},
        {"headers": {"origin": mark}},
        {"method": mark, "headers": COOKIE},
        {"headers": {"cookie": f"convscope_{PORT}={mark}"}},
    ):
        _, headers, body, _ = call(**kwargs)
        assert b"onerror" not in body
        assert "onerror" not in str(headers)
