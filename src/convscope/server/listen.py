"""Listening: a socket on loopback first, so that the URL is known at once; then uvicorn on it."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from typing import TYPE_CHECKING

import uvicorn

from convscope.errors import ConvscopeError
from convscope.server.app import guarded_app
from convscope.server.guard import new_token

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from convscope.server.bundle import Bundle
    from convscope.server.session import Session

CONNECTIONS = 128
GRACE_SECONDS = 3
FAREWELL_SECONDS = 1.0


class _Server(uvicorn.Server):
    """Ends the event streams before waiting for connections, which they would otherwise keep open for ever."""

    def __init__(self, config: uvicorn.Config, session: Session, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._session = session
        self._listening = listening

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Once is enough: ending takes seconds at most, and a second Ctrl-C would only cut it short with noise."""
        if not self.should_exit:
            super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._listening()
            self._session.when_failed(self._give_up)

    def _give_up(self) -> None:
        # A network that can't be opened won't be later. The pages that wait hear the reason first.
        asyncio.get_running_loop().call_later(FAREWELL_SECONDS, setattr, self, "should_exit", True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._session.jobs.stop()
        await super().shutdown(sockets)


def check_host(host: str, names: Sequence[str]) -> str:
    """The address to bind. Anything but loopback is refused unless the user says by which names it will be called.

    >>> check_host("localhost", [])
    '127.0.0.1'
    """
    if host == "localhost":
        return "127.0.0.1"
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError as error:
        raise ConvscopeError(
            f"{host[:80]!r} isn't an address", where="--host", next_step="write 127.0.0.1, or leave it out"
        ) from error
    if not address.is_loopback and not names:
        raise ConvscopeError(
            f"{address} can be reached from other machines",
            where="--host",
            next_step="leave it out, or also name the host that people will type: --allow-host NAME",
        )
    return str(address)


def bind(host: str, port: int, names: Sequence[str] = ()) -> socket.socket:
    """A socket bound to ``host`` and ``port`` (0: any free one); raises with the next step when that can't be."""
    address = check_host(host, names)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # With the protocol named, asyncio turns Nagle's algorithm off on every connection; otherwise each answer's body
    # waits 40 ms for the other side to acknowledge its headers.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(CONNECTIONS)
    except OSError as error:
        listener.close()
        raise ConvscopeError(
            f"port {port} can't be listened on: {error.strerror}",
            where=address,
            next_step="choose another, or --port 0",
        ) from error
    return listener


def serve(
    session: Session,
    listener: socket.socket,
    *,
    names: Sequence[str] = (),
    announce: Callable[[str], None],
    token: str | None = None,
    bundle: Bundle | None = None,
) -> None:
    """Answer on ``listener`` until told to stop; ``announce`` gets the URL once a browser may follow it.

    Raises what opening the network raised, after telling it to the pages that wait.
    """
    address, port = listener.getsockname()[:2]
    secret = token or new_token()
    app = guarded_app(session, token=secret, port=port, names=names, bundle=bundle)
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    shown = f"[{address}]" if ":" in address else address
    if not ipaddress.ip_address(address).is_loopback:
        shown = names[0].partition(":")[0]
    _Server(config, session, lambda: announce(f"http://{shown}:{port}/?token={secret}")).run([listener])
    session.raise_failure()


__all__ = ["bind", "check_host", "serve"]
