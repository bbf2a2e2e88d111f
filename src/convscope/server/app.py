"""The routes. Each one checks its ids, asks the session, and says how long its answer may be kept."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from convscope._version import __version__
from convscope.errors import BadImage, ConvscopeError
from convscope.server import answers, schema
from convscope.server.answering import (
    BLOB,
    ERRORS,
    CarefulRoute,
    ImageId,
    binary,
    has,
    picture,
    revalidate,
    session_of,
    typed,
    unchanged,
    while_connected,
)
from convscope.server.bundle import MISSING, Bundle
from convscope.server.guard import Guard, allowed_hosts
from convscope.server.pictures import make_prepared, make_thumbnail
from convscope.server.query import shown_name
from convscope.server.study_routes import study_api
from convscope.server.training_routes import training_api
from convscope.server.training_views import training_views_api
from convscope.server.view_routes import views_api

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from convscope.server.session import Session


def create_app(session: Session, *, bundle: Bundle | None = None) -> FastAPI:
    """The application without its guard; :func:`guarded_app` is what a server runs."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        session.start()
        try:
            yield
        finally:
            await session.close()

    app = FastAPI(
        title="convscope",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        # A redirect would repeat what the client sent; an address is right or it is not there.
        redirect_slashes=False,
    )
    app.state.session = session
    app.state.bundle = bundle or Bundle()
    for router in ROUTERS:
        app.include_router(router)
    app.include_router(page)
    _explain_errors(app)
    return app


def guarded_app(
    session: Session, *, token: str, port: int, names: Iterable[str] = (), bundle: Bundle | None = None
) -> Guard:
    """The application behind its guard, listening on ``port``; ``names`` are hosts it answers to beside loopback."""
    return Guard(create_app(session, bundle=bundle), token=token, port=port, hosts=allowed_hosts(port, names))


def openapi() -> dict[str, Any]:
    """The interface as OpenAPI, without opening anything."""
    app = FastAPI(title="convscope", version=__version__)
    for router in ROUTERS:
        app.include_router(router)
    return app.openapi()


api = APIRouter(prefix="/api", responses=ERRORS, route_class=CarefulRoute)
page = APIRouter(include_in_schema=False, route_class=CarefulRoute)
ROUTERS = (api, views_api, study_api, training_api, training_views_api)


@api.get("/session", operation_id="getSession", response_model=schema.Session)
async def get_session(request: Request) -> Response:
    """The network, the images and the methods. Answers when the network is open."""
    session: Session = request.app.state.session  # whichever network the page knows: it asks for the one that is open
    return typed(answers.session_answer(session, await session.opened()))


@api.post("/session/return", operation_id="returnToFirst", response_model=schema.Session)
async def return_to_first(request: Request) -> Response:
    """Open the network again that the server was started with, in place of one that is being trained."""
    session = session_of(request)
    return typed(answers.session_answer(session, await session.go_back()))


@api.get("/layers", operation_id="getLayers", response_model=schema.Layers)
async def get_layers(request: Request) -> Response:
    """The layer table."""
    network = (await session_of(request).opened()).network
    etag = f'"layers-{network.fingerprint}"'
    if has(request, etag):
        return unchanged(etag)
    # Thousands of rows are validated and written: not on the event loop.
    content = await asyncio.to_thread(
        lambda: schema.Layers(layers=[answers.layer_answer(layer) for layer in network.layers]).model_dump_json()
    )
    return Response(content.encode(), media_type="application/json", headers=revalidate(etag))


@api.get("/images", operation_id="getImages", response_model=schema.Images)
async def get_images(request: Request) -> Response:
    """The image set."""
    opened = await session_of(request).opened()
    # Sizes are read from the files' headers, the first time.
    return typed(await asyncio.to_thread(answers.images_answer, opened.images, opened.network))


@api.post(
    "/images",
    operation_id="addImage",
    status_code=201,
    response_model=schema.AddedImage,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def add_image(request: Request, name: Annotated[str, Query(max_length=300)] = "image") -> Response:
    """Add an image; the body is the encoded file. The same bytes again give the image that is there already."""
    media_type = request.headers.get("content-type", BLOB).partition(";")[0].strip().lower()
    if media_type != BLOB and not media_type.startswith("image/"):
        raise BadImage("the body isn't an image", next_step="send the image file's bytes as they are")
    encoded = await request.body()
    session = session_of(request)
    image = await session.add_image(encoded, shown_name(name))
    network = (await session.opened()).network
    return typed(schema.AddedImage(image=answers.image_answer(image, network)), status=201)


@api.get(
    "/images/{number}/thumbnail",
    operation_id="getThumbnail",
    response_class=Response,
    responses=binary("image/webp", "image/jpeg", "image/png"),
)
async def get_thumbnail(
    request: Request, number: ImageId, side: Annotated[int, Query(ge=16, le=1024)] = 96
) -> Response:
    """A small picture of the original."""
    image = (await session_of(request).opened()).images[number]
    return await picture(request, f"{image.fingerprint}-{side}", lambda: make_thumbnail(image, side))


@api.get(
    "/images/{number}/prepared", operation_id="getPrepared", response_class=Response, responses=binary("image/png")
)
async def get_prepared(request: Request, number: ImageId) -> Response:
    """What the network sees of the image."""
    opened = await session_of(request).opened()
    image = opened.images[number]
    key = f"{image.fingerprint}-{opened.network.fingerprint}"
    return await picture(request, key, lambda: make_prepared(opened.network, image))


@api.get("/receptive-field", operation_id="getReceptiveField", response_model=schema.ReceptiveFieldBox)
async def get_receptive_field(request: Request, unit: Annotated[str, Query(max_length=300)]) -> Response:
    """What one neuron sees of the prepared image."""
    work = session_of(request).receptive_field(unit, uuid.uuid4().hex)
    return typed(answers.box_answer(await while_connected(request, work)))


@page.get("/")
async def get_page(request: Request) -> Response:
    """The page itself."""
    bundle: Bundle = request.app.state.bundle
    found = await asyncio.to_thread(bundle.find, "/")
    if found is None:
        return PlainTextResponse(MISSING, 503)
    if has(request, found.etag):
        return unchanged(found.etag)
    return HTMLResponse(found.content, headers=revalidate(found.etag))


@page.get("/{address:path}")
async def get_built_file(request: Request, address: str) -> Response:
    """A file of the built page, by its exact address; no address reaches the file system."""
    bundle: Bundle = request.app.state.bundle
    found = bundle.find("/" + address) if address else None
    if found is None:
        raise HTTPException(404)
    # A build names its assets by their content.
    lasting = "private, max-age=31536000, immutable" if address.startswith("assets/") else "private, no-cache"
    return Response(found.content, media_type=found.media_type, headers={"cache-control": lasting, "etag": found.etag})


_HTTP_ERRORS = {404: "there is nothing at that address", 405: "that address doesn't take this method"}


def _explain_errors(app: FastAPI) -> None:
    """One shape for all errors; nothing of the request is repeated in those that come from outside the library."""

    @app.exception_handler(ConvscopeError)
    async def known(_: Request, error: ConvscopeError) -> Response:
        return answers.explain_known(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"][1:2]))
        body = schema.ErrorBody(what=first["msg"], where=where, next_step="", kind="invalid_request")
        return answers.explain(422, body)

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        what = _HTTP_ERRORS.get(error.status_code, "the request can't be answered")
        body = schema.ErrorBody(what=what, where="", next_step="", kind="http_error")
        return answers.explain(error.status_code, body)


__all__ = ["create_app", "guarded_app", "openapi"]
