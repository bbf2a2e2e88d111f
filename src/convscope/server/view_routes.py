"""The routes that compute: Views, the jobs that make them, their previews, and the stream of what becomes of them."""

from __future__ import annotations

import asyncio
import json
import uuid
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Header, Path, Query, Request
from starlette.responses import Response, StreamingResponse

from convscope.errors import UnknownName
from convscope.server import answers, schema, training_schema
from convscope.server.answering import (
    BLOB,
    ERRORS,
    NAME,
    CarefulRoute,
    JobHeader,
    PageHeader,
    binary,
    has,
    revalidate,
    session_of,
    typed,
    unchanged,
    while_connected,
)
from convscope.server.events import JobEvent, SessionEvent, StudyEvent, TrainingEvent
from convscope.server.pictures import DOWNLOADS, make_download
from convscope.server.query import file_name, image_ids, method_parameters
from convscope.server.question import refusals

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

views_api = APIRouter(prefix="/api", responses=ERRORS, route_class=CarefulRoute)

KEEP_ALIVE_SECONDS = 15.0
EVENT_NAMES: dict[type, str] = {
    JobEvent: "job",
    SessionEvent: "session",
    StudyEvent: "study",
    TrainingEvent: "training",
}

JobName = Annotated[str, Path(pattern=NAME)]
MethodName = Annotated[str, Path(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Target = Annotated[str, Query(max_length=300, description="layer, unit or neuron; empty for the whole network")]
ImageIds = Annotated[str, Query(max_length=4000, description="ids, separated by commas")]
Download = Annotated[str | None, Query(pattern="^(png|svg|npz|safetensors)$", description="a file to save instead")]
Prefer = Annotated[str, Header(max_length=200, description="respond-async: don't wait for what takes long")]
Cached = Annotated[str, Header(alias="cache-control", max_length=200, description="only-if-cached: compute nothing")]


@views_api.get(
    "/views/{method}",
    operation_id="getView",
    response_class=Response,
    responses={
        **binary(BLOB, "image/png", "image/svg+xml"),
        202: {"model": schema.Job, "description": "it is being computed; /api/events tells when it can be asked for"},
        204: {"description": "it wasn't computed yet, and only-if-cached was asked for"},
    },
)
async def get_view(
    request: Request,
    method: MethodName,
    target: Target = "",
    images: ImageIds = "",
    format: Download = None,  # noqa: A002 - the parameter's name in the interface
    x_convscope_job: JobHeader = None,
    x_convscope_page: PageHeader = None,
    prefer: Prefer = "",
    cache_control: Cached = "",
) -> Response:
    """A View as safetensors bytes. Any other query parameter is a parameter of the method.

    A method that takes long is computed without holding the connection where the client prefers that: the answer is
    its job then, which is cancelled when the page that asked has stopped listening to /api/events. Where only what is
    cached is wanted too, that joins work under way, but begins none.
    """
    session = session_of(request)
    question = await session.ask(method, target, image_ids(images), method_parameters(request.query_params))
    etag = f'"{question.recipe.key}{"-" + format if format else ""}"'
    if has(request, etag):
        return unchanged(etag)
    job, page = x_convscope_job or uuid.uuid4().hex, x_convscope_page or ""
    blob = await session.known(question)
    if blob is None:
        waits = not (question.method.long and "respond-async" in _words(prefer))
        under_way = session.jobs.is_open(question.recipe.key)
        if "only-if-cached" in _words(cache_control) and (waits or not under_way):
            return Response(status_code=204)
        if not waits:
            event = await session.begin(question, job, page)
            return typed(answers.job_answer(event), status=202)
        blob = await while_connected(request, session.computed(question, job, page))
    headers = {**revalidate(etag), "x-convscope-job": job}
    if format is None:
        return Response(blob, media_type=BLOB, headers=headers)
    content = session.pictures.get(etag)
    if content is None:
        content = session.pictures.put(etag, await asyncio.to_thread(make_download, blob, format))
    headers["content-disposition"] = f'attachment; filename="{file_name(method, question.recipe.target, format)}"'
    return Response(content, media_type=DOWNLOADS[format], headers=headers)


@views_api.get("/calls/{method}", operation_id="getCall", response_model=schema.Call)
async def get_call(request: Request, method: MethodName, target: Target = "", images: ImageIds = "") -> Response:
    """A View's call, as Python and as a command, without computing it; parameters as those of the View."""
    session = session_of(request)
    question = await session.ask(method, target, image_ids(images), method_parameters(request.query_params))
    return typed(schema.Call(python=question.call.python(), command=question.call.command()))


def _words(header: str) -> list[str]:
    return [each.strip().lower() for each in header.split(",")]


@views_api.get("/methods", operation_id="getMethods", response_model=schema.MethodsHere)
async def get_methods(request: Request, target: Target = "") -> Response:
    """What can be asked of a target: each method's refusal, as far as it is known without computing anything.

    A method that can do without a target is asked about the whole network where it doesn't take this one.
    """
    session = session_of(request)
    opened = await session.opened()
    found = await asyncio.to_thread(refusals, opened, session.studying, target)
    return typed(answers.methods_answer(target, found, session.seconds))


@views_api.get(
    "/events",
    operation_id="getEvents",
    response_class=StreamingResponse,
    responses={
        200: {
            "model": schema.JobEvent | schema.SessionEvent | schema.StudyEvent | training_schema.TrainingEvent,
            "content": {"text/event-stream": {}},
        }
    },
)
async def get_events(request: Request, page: Annotated[str, Query(pattern=r"^[a-z0-9-]{0,64}$")] = "") -> Response:
    """Server-sent events: ``job``, what a job has come to (a JobEvent), ``study``, that it grew (a StudyEvent),
    ``training``, that a run changed (a TrainingEvent), and ``session``, that another network is open (a SessionEvent).

    ``page`` is what the page calls itself when it asks for Views; once it has stopped listening for some seconds, what
    it didn't wait for is cancelled.
    """
    session = session_of(request)
    # Asked here, not in the stream, so that one page too many gets an error instead of an empty stream.
    session.jobs.make_room()

    async def stream() -> AsyncIterator[bytes]:
        with ExitStack() as stack:
            if page:
                stack.enter_context(session.detached.listening(page))
            subscription = stack.enter_context(session.jobs.subscribe())
            # Milliseconds, so that a page whose stream broke is back before it counts as gone.
            yield b": convscope\nretry: 1000\n\n"
            while (events := await subscription.take(KEEP_ALIVE_SECONDS)) is not None:
                for event in events:
                    yield f"event: {EVENT_NAMES[type(event)]}\ndata: {json.dumps(asdict(event))}\n\n".encode()
                if not events:
                    yield b": still here\n\n"

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"cache-control": "no-store"})


@views_api.get("/jobs/{name}", operation_id="getJob", response_model=schema.Job)
async def get_job(request: Request, name: JobName) -> Response:
    """What the last job of this name has come to, and why it failed."""
    told = session_of(request).jobs.told(name)
    if told is None:
        raise _no_job()
    return typed(answers.job_answer(*told))


@views_api.get(
    "/jobs/{name}/preview",
    operation_id="getPreview",
    response_class=Response,
    responses={**binary(BLOB), 204: {"description": "nothing newer"}},
)
async def get_preview(request: Request, name: JobName, after: Annotated[int, Query(ge=0, le=2**53)] = 0) -> Response:
    """What a job under way has made so far, as a View of the kind it will be; the newest one, if newer than ``after``.

    An event of the job tells the number of its newest preview.
    """
    jobs = session_of(request).jobs
    if jobs.told(name) is None:
        raise _no_job()
    number, blob = jobs.preview(name) or (0, b"")  # one that is over shows nothing but its result
    if number in (0, after):
        return Response(status_code=204)
    return Response(blob, media_type=BLOB, headers={"x-convscope-preview": str(number)})


def _no_job() -> UnknownName:
    return UnknownName("there is no such job, or it was long ago", next_step="ask for the view again")


@views_api.delete("/jobs/{name}", operation_id="cancelJob", status_code=204, response_class=Response)
async def cancel_job(request: Request, name: JobName) -> Response:
    """Cancel what was asked for under this job name. A job that is over, or never was, is cancelled already."""
    session_of(request).jobs.cancel(name)
    return Response(status_code=204)


__all__ = ["views_api"]
