"""Guard: the one ASGI layer that everything passes, and that denies whatever it doesn't know.

A page on another site can make a browser call 127.0.0.1, and by DNS rebinding even read the answers. So every request
needs the exact Host, the session's token, and, where it changes something, proof of coming from our own page.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from convscope.errors import ConvscopeError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, MutableMapping

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    Application = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_LIMIT = 32 * 1024 * 1024
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
SAFE_METHODS = ("GET",)
UNSAFE_METHODS = ("POST", "DELETE")

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' blob: data:",
        "style-src 'self' 'unsafe-inline'",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "object-src 'none'",
    )
)
HEADERS = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)

_HOST = re.compile(r"(?P<name>\[[0-9a-f:]{2,45}\]|[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?)(?::(?P<port>[0-9]{1,5}))?")
_PATH = re.compile(r"/(?:[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}/)*(?:[A-Za-z0-9_-][A-Za-z0-9._-]{0,127})?")


class TooLarge(ConvscopeError):
    """A request's body is longer than the server reads."""


def new_token() -> str:
    """A fresh secret for one session's first URL."""
    return secrets.token_urlsafe(32)


def allowed_hosts(port: int, names: Iterable[str] = ()) -> frozenset[str]:
    """Every Host header that is ours: the loopback names with our port, and what the user allowed beside them.

    A name allowed without a port counts with ours and with none (behind a proxy).

    >>> sorted(allowed_hosts(8000, ["lab.example"]))[2:]
    ['lab.example', 'lab.example:8000', 'localhost:8000']
    """
    hosts = {f"{name}:{port}" for name in LOOPBACK_NAMES}
    if port == 80:
        hosts.update(LOOPBACK_NAMES)
    for name in names:
        match = _HOST.fullmatch(name.lower())
        if match is None:
            raise ConvscopeError(
                f"{name[:80]!r} isn't a host name",
                where="--allow-host",
                next_step="write name or name:port, nothing else",
            )
        hosts.update({match[0]} if match["port"] else {match[0], f"{match[0]}:{port}"})
    return frozenset(hosts)


class _Denied(Exception):
    def __init__(self, status: int, what: str, next_step: str = "") -> None:
        self.status = status
        self.what = what
        self.next_step = next_step


_OPEN_URL = "open the address that convscope printed in the terminal: it holds this session's key"


class Guard:
    """Wraps ``application``; lets a request through only when every check has passed.

    ``hosts`` comes from :func:`allowed_hosts`. ``port`` names the cookie, so that two sessions on one machine don't
    log each other out.
    """

    def __init__(
        self,
        application: Application,
        *,
        token: str,
        port: int,
        hosts: frozenset[str],
        body_limit: int = BODY_LIMIT,
    ) -> None:
        self._application = application
        self._token = token.encode()
        self._cookie = f"convscope_{port}"
        self._hosts = hosts
        self._body_limit = body_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection; only ``lifespan`` passes unseen."""
        if scope["type"] == "lifespan":
            await self._application(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "no websockets here"})
            return
        if scope["type"] != "http":
            return
        guarded = _with_headers(send)
        try:
            headers = _single_headers(scope)
            self._check(scope, headers)
        except _Denied as denied:
            # Whatever body follows is not read.
            await _answer(guarded, denied.status, _explain(scope, denied), ((b"connection", b"close"),))
            return
        if self._first_visit(scope):
            await self._welcome(scope, guarded)
            return
        await self._application(scope, self._limited(receive), guarded)

    def _check(self, scope: Scope, headers: dict[str, str]) -> None:
        """Every reason to refuse, cheapest and most telling first."""
        host = headers.get("host", "")
        if host not in self._hosts or _HOST.fullmatch(host) is None:
            raise _Denied(
                403, "this server doesn't answer to that host name", "add it with --allow-host if it is yours"
            )
        if "upgrade" in headers:
            raise _Denied(403, "no websockets here")
        method = scope["method"]
        if method not in (*SAFE_METHODS, *UNSAFE_METHODS):
            raise _Denied(405, "this server takes GET, POST and DELETE only")
        authority = self._authority(scope, headers)
        self._check_origin(scope, headers, host, authority)
        if authority is None:
            raise _Denied(401, "this session needs its key", _OPEN_URL)
        if authority == "wrong":
            raise _Denied(403, "that isn't this session's key", _OPEN_URL)
        # Only plain names reach the router: no escapes, no dots at a name's start, no backslashes.
        if _PATH.fullmatch(scope["path"]) is None or b"%" in scope.get("raw_path", b""):
            raise _Denied(404, "there is nothing at that address")
        self._check_length(method, headers)

    def _authority(self, scope: Scope, headers: dict[str, str]) -> str | None:
        """Who vouches for the request: "bearer", "cookie" or "link"; "wrong" for a foreign token, None for none."""
        bearer = headers.get("authorization", "")
        if bearer:
            scheme, _, value = bearer.partition(" ")
            return "bearer" if scheme.lower() == "bearer" and self._is_ours(value.strip()) else "wrong"
        link = _link_token(scope)
        if link is not None:
            return "link" if self._is_ours(link) else "wrong"
        cookies = [pair.strip().partition("=") for pair in headers.get("cookie", "").split(";")]
        tokens = [value for name, _, value in cookies if name == self._cookie]
        if not tokens:
            return None
        # Cookies don't know ports: another local server may have set one of the same name. Any match will do.
        return "cookie" if any(self._is_ours(value) for value in tokens) else "wrong"

    def _is_ours(self, value: str) -> bool:
        return hmac.compare_digest(value.encode("utf-8", "replace"), self._token)

    def _check_origin(self, scope: Scope, headers: dict[str, str], host: str, authority: str | None) -> None:
        """Refuse what another site's page makes the browser send."""
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if origin is not None and not _same_origin(origin, host):
            raise _Denied(403, "the request comes from another site's page")
        if site not in (None, "same-origin", "none"):
            # Following the printed link from another page (a notebook, a chat) is how some people come here.
            navigates = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
            if not (navigates and scope["method"] == "GET" and scope["path"] == "/"):
                raise _Denied(403, "the request comes from another site's page")
        if scope["method"] in UNSAFE_METHODS and authority == "cookie" and site is None and origin is None:
            raise _Denied(403, "the request doesn't say which page it comes from")

    def _check_length(self, method: str, headers: dict[str, str]) -> None:
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit():
            raise _Denied(400, "the request's length isn't a number")
        if method != "POST" and (int(length) > 0 or "transfer-encoding" in headers):
            raise _Denied(400, f"a {method} request has no body")
        if int(length) > self._body_limit:
            raise _Denied(413, f"the body is longer than {self._body_limit // 2**20} MiB", "send a smaller file")

    def _limited(self, receive: Receive) -> Receive:
        """``receive`` that stops at the limit while the body streams in, whatever its announced length."""
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self._body_limit:
                    raise TooLarge(
                        f"the body is longer than {self._body_limit // 2**20} MiB", next_step="send a smaller file"
                    )
            return message

        return limited

    def _first_visit(self, scope: Scope) -> bool:
        return scope["method"] == "GET" and _link_token(scope) is not None

    async def _welcome(self, scope: Scope, send: Send) -> None:
        """Swap the token in the address for a cookie, so that it stays out of history, bookmarks and copied links."""
        rest = [(name, value) for name, value in parse_qsl(_query(scope)) if name != "token"]
        location = "/?" + urlencode(rest) if rest else "/"
        cookie = f"{self._cookie}={self._token.decode()}; Path=/; HttpOnly; SameSite=Strict"
        await _answer(
            send, 303, ("text/plain", b""), ((b"location", location.encode()), (b"set-cookie", cookie.encode()))
        )


def _query(scope: Scope) -> str:
    return bytes(scope.get("query_string", b"")).decode("ascii", "replace")


def _link_token(scope: Scope) -> str | None:
    """The token in the first URL; only the page's own address takes one."""
    if scope["path"] != "/":
        return None
    return next((value for name, value in parse_qsl(_query(scope), keep_blank_values=True) if name == "token"), None)


# Two of any of these is an attempt to make two readers see two different requests.
_ONCE = ("host", "origin", "authorization", "content-length", "sec-fetch-site", "transfer-encoding")


def _single_headers(scope: Scope) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name = raw_name.decode("latin-1").lower()
        value = raw_value.decode("latin-1")
        if name in headers:
            if name in _ONCE:
                raise _Denied(400, f"the header {name} is there twice")
            value = headers[name] + ("; " if name == "cookie" else ", ") + value
        headers[name] = value
    return headers


def _same_origin(origin: str, host: str) -> bool:
    """Whether an Origin header names exactly the scheme-host-port that the Host header names."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and f"{parts.scheme}://{host}" == origin


def _explain(scope: Scope, denied: _Denied) -> tuple[str, bytes]:
    """The refusal, for a person at "/" and as JSON elsewhere. Nothing of the request is repeated."""
    if scope["path"] == "/" and denied.status == 401:
        # The link reloads this address from our own page, which a strict cookie then accompanies.
        text = (
            "<!doctype html><meta charset=utf-8><title>convscope</title>"
            "<body style='font: 16px/1.5 system-ui; margin: 4rem auto; max-width: 34rem'>"
            f"<p>This session needs its key: {_OPEN_URL}.</p><p><a href=''>I did that before: continue</a></p>"
        )
        return "text/html; charset=utf-8", text.encode()
    error = {"what": denied.what, "where": "", "next_step": denied.next_step, "kind": "denied"}
    return "application/json", json.dumps({"error": error}).encode()


def _with_headers(send: Send) -> Send:
    """``send`` that adds the security headers, and forbids keeping whatever doesn't say how it may be kept."""

    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            names = {bytes(name).lower() for name, _ in headers}
            headers.extend(header for header in HEADERS if header[0] not in names)
            if b"cache-control" not in names:
                headers.append((b"cache-control", b"no-store"))
            message = {**message, "headers": headers}
        await send(message)

    return guarded


async def _answer(
    send: Send, status: int, content: tuple[str, bytes], headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    media_type, body = content
    own = [(b"content-type", media_type.encode()), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": own})
    await send({"type": "http.response.body", "body": body})


__all__ = ["BODY_LIMIT", "Guard", "TooLarge", "allowed_hosts", "new_token"]
