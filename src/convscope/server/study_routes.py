"""The routes of the study: what was mined, its patches and images, and the job that mines more."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from convscope.errors import ConvscopeError
from convscope.server import answers, schema
from convscope.server.answering import (
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
from convscope.server.pictures import make_prepared, make_thumbnail, picture_type
from convscope.server.study import MINING, Patches

if TYPE_CHECKING:
    from convscope.mining.pictures import StudyPictures

study_api = APIRouter(prefix="/api", responses=ERRORS, route_class=CarefulRoute)

MOST_TILES = 4096
_RANGE = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?", re.ASCII)
Range = Annotated[str, Query(max_length=20, description="a number, or first-last")]


@study_api.get("/study", operation_id="getStudy", response_model=schema.Study)
async def get_study(request: Request) -> Response:
    """What was mined, and whether more of it is being mined."""
    session = session_of(request)
    opened = await session.opened()
    return typed(await asyncio.to_thread(answers.study_answer, opened, session.studying))


@study_api.post("/study/mine", operation_id="mine", status_code=202, response_model=schema.Mining)
async def start_mining(request: Request, wanted: schema.Mine) -> Response:
    """Start mining, or go on where it was stopped; nothing happens while it is under way.

    Progress comes by /api/events, as the job that the answer names; DELETE /api/jobs/{name} stops it.
    """
    session = session_of(request)
    opened = await session.opened()
    ready = await asyncio.to_thread(
        session.studying.prepare,
        opened.network,
        opened.images,
        wanted.layers,
        wanted.k,
        own_images=wanted.images == "session",
    )
    session.studying.begin(ready)
    return typed(schema.Mining(job=MINING), status=202)


@study_api.get(
    "/patches", operation_id="getPatches", response_class=Response, responses=binary("image/webp", "image/png")
)
async def get_patches(
    request: Request,
    layer: Annotated[str, Query(min_length=1, max_length=300)],
    which: Literal["top", "bottom", "quantile"] = "top",
    units: Range = "0-63",
    ranks: Range = "0",
    side: Annotated[int, Query(ge=8, le=512)] = 48,
    mode: Literal["crop", "context", "mask"] = "crop",
    spread: Annotated[int, Query(ge=0, le=1000, description="ranks that quantiles are spread over; 0: all")] = 0,
) -> Response:
    """Patches as one picture of square tiles: units in rows, ranks in columns, ``side`` pixels each.

    A range that goes beyond the last unit or rank ends there. Transparent around a tile that isn't square; a cross
    where an image couldn't be shown.
    """
    session = session_of(request)
    opened = await session.opened()
    asked = Patches(layer, which, _range("units", units), _range("ranks", ranks), side, mode, spread)
    if len(asked.units) * len(asked.ranks) > MOST_TILES:
        raise ConvscopeError(
            f"{len(asked.units) * len(asked.ranks)} tiles in one picture", next_step=f"ask for {MOST_TILES} at most"
        )
    wanted = await asyncio.to_thread(session.studying.want, opened.network, opened.images, asked)
    etag = f'"{wanted.digest}"'
    if has(request, etag):
        return unchanged(etag)
    content = session.pictures.get(wanted.digest)
    if content is None:
        made = await while_connected(request, session.studying.picture(wanted))
        content = session.pictures.put(wanted.digest, made)
    # Mining on may change what the units respond to, so it is asked about each time; the answer is short.
    return Response(content, media_type=picture_type(content), headers=revalidate(etag))


@study_api.get("/study/images/{number}", operation_id="getStudyImage", response_model=schema.StudyImage)
async def get_study_image(request: Request, number: ImageId) -> Response:
    """One image of the study, by its id there."""
    pictures = await _pictures(request)
    return typed(await asyncio.to_thread(answers.study_image_answer, pictures, number))


@study_api.get(
    "/study/images/{number}/thumbnail",
    operation_id="getStudyThumbnail",
    response_class=Response,
    responses=binary("image/webp", "image/jpeg", "image/png"),
)
async def get_study_thumbnail(
    request: Request, number: ImageId, side: Annotated[int, Query(ge=16, le=1024)] = 96
) -> Response:
    """A small picture of the original."""
    pictures = await _pictures(request)

    def make() -> bytes:
        pictures.read(number)  # it is the one that was mined
        return make_thumbnail(pictures.image(number), side)

    return await picture(request, f"{pictures.name}-{number}-{side}", make)


@study_api.get(
    "/study/images/{number}/prepared",
    operation_id="getStudyPrepared",
    response_class=Response,
    responses=binary("image/png"),
)
async def get_study_prepared(request: Request, number: ImageId) -> Response:
    """What the network saw of the image."""
    network = (await session_of(request).opened()).network
    pictures = await _pictures(request)

    def make() -> bytes:
        pictures.read(number)
        return make_prepared(network, pictures.image(number))

    return await picture(request, f"{pictures.name}-{number}-prepared", make)


async def _pictures(request: Request) -> StudyPictures:
    session = session_of(request)
    opened = await session.opened()
    return await asyncio.to_thread(session.studying.required, opened.network, opened.images)


def _range(name: str, text: str) -> range:
    """Numbers from a query.

    >>> _range("units", "3-5"), _range("ranks", "7")
    (range(3, 6), range(7, 8))
    """
    found = _RANGE.fullmatch(text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if found is None or last < first:
        raise ConvscopeError(f"{name} isn't a range of numbers", next_step=f"write {name}=0-63, or one number")
    return range(first, last + 1)


__all__ = ["study_api"]
