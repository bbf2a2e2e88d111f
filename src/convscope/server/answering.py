"""How a route answers: connections that go away, pictures from memory, what a browser may keep, and errors."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import Header, Path
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from convscope.errors import Cancelled, ConvscopeError
from convscope.server import answers, schema
from convscope.server.pictures import picture_type

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from pydantic import BaseModel

    from convscope.server.session import Session

Result = TypeVar("Result")

BLOB = "application/octet-stream"
ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": schema.ErrorAnswer},
    "5XX": {"model": schema.ErrorAnswer},
}

ImageId = Annotated[int, Path(ge=0, le=999_999_999)]
NAME = r"^[a-z0-9-]{1,64}$"
JobHeader = Annotated[str | None, Header(alias="x-convscope-job", pattern=NAME)]
PageHeader = Annotated[
    str | None, Header(alias="x-convscope-page", pattern=NAME, description="one page's own word for itself")
]
_OPENING = re.compile(r"\d{1,9}", re.ASCII)


def binary(*media_types: str) -> dict[int | str, dict[str, Any]]:
    """How OpenAPI says "bytes of one of these types"."""
    content = {each: {"schema": {"type": "string", "format": "binary"}} for each in media_types}
    return {200: {"content": content}, 304: {"description": "still the same"}}


class CarefulRoute(APIRoute):
    """A route that answers a bug as any other error, so that the page lives on and the connection with it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, with what it doesn't expect explained."""
        handle = super().get_route_handler()

        async def careful(request: Request) -> Response:
            try:
                return await handle(request)
            except (ConvscopeError, HTTPException, RequestValidationError):
                raise
            except ClientDisconnect:
                return answers.explain_known(Cancelled("the client went away"))
            except Exception as error:
                return answers.explain_unexpected(error)

        return careful


def session_of(request: Request) -> Session:
    """The session that the application was made for.

    Whoever says which network it knows, in a header or where it can't (an image's address) in the query, is told when
    another took its place.
    """
    found: Session = request.app.state.session
    known = request.headers.get("x-convscope-opening") or request.query_params.get("opening")
    if known is not None:
        if _OPENING.fullmatch(known) is None:
            raise ConvscopeError("an opening is a number", next_step="write opening=1")
        found.check_opening(int(known))
    return found


async def while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of ``work``, which is cancelled when the client goes away."""
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Cancelled("the client went away")
    finally:
        for each in (task, leaving):
            each.cancel()
            with suppress(asyncio.CancelledError, ConvscopeError):
                await each


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def picture(request: Request, key: str, make: Callable[[], bytes]) -> Response:
    """A picture from the session's memory, or made in a thread."""
    pictures = session_of(request).pictures
    etag = f'"{key}"'
    if has(request, etag):
        return unchanged(etag)
    content = pictures.get(key)
    if content is None:
        content = pictures.put(key, await asyncio.to_thread(make))
    # An id never changes its image, so the picture may be kept for the session.
    headers = {"cache-control": "private, max-age=3600", "etag": etag}
    return Response(content, media_type=picture_type(content), headers=headers)


def typed(answer: BaseModel, status: int = 200) -> Response:
    """An answer of one of the interface's types. It was validated when it was made: FastAPI needn't do it again."""
    return Response(answer.model_dump_json().encode(), status, media_type="application/json")


def has(request: Request, etag: str) -> bool:
    """Whether the client has this very content already."""
    known = request.headers.get("if-none-match", "")
    return etag in [each.strip().removeprefix("W/") for each in known.split(",")]


def revalidate(etag: str) -> dict[str, str]:
    """Headers of what a browser may keep but must ask about."""
    return {"etag": etag, "cache-control": "private, no-cache"}


def unchanged(etag: str) -> Response:
    """What the client has is still right."""
    return Response(status_code=304, headers=revalidate(etag))


__all__ = [
    "BLOB",
    "ERRORS",
    "CarefulRoute",
    "ImageId",
    "JobHeader",
    "PageHeader",
    "binary",
    "has",
    "picture",
    "revalidate",
    "session_of",
    "typed",
    "unchanged",
    "while_connected",
]
