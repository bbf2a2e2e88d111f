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
    JobHeader,
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
from convscope.server.study import Patches

if TYPE_CHECKING:
    from convscope.mining.pictures import StudyPictures

study_api = APIRouter(prefix="/api", responses=ERRORS, route_class=CarefulRoute)

MOST_TILES = 4096
_NUMBERS = re.compile(r"\d{1,6}(?:-\d{1,6})?(?:,\d{1,6}(?:-\d{1,6})?)*", re.ASCII)
Numbers = Annotated[str, Query(max_length=4000, description="numbers and ranges, like 0-7,12")]


@study_api.get("/study", operation_id="getStudy", response_model=schema.Study)
async def get_study(request: Request) -> Response:
    """What was mined, and whether more of it is being mined."""
    session = session_of(request)
    opened = await session.opened()
    return typed(await asyncio.to_thread(answers.study_answer, opened, session.studying))


@study_api.post("/study/mine", operation_id="mine", status_code=202, response_model=schema.Study)
async def start_mining(request: Request, wanted: schema.Mine, x_convscope_job: JobHeader = None) -> Response:
    """Start mining, or go on where it was stopped; nothing happens while it is under way.

    Progress comes by /api/events, as the job that the answer names; DELETE /api/jobs/{name} stops it, and what is
    finished is kept.
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
    session.studying.begin(ready, x_convscope_job)
    return typed(await asyncio.to_thread(answers.study_answer, opened, session.studying), status=202)


@study_api.get(
    "/patches", operation_id="getPatches", response_class=Response, responses=binary("image/webp", "image/png")
)
async def get_patches(
    request: Request,
    layer: Annotated[str, Query(min_length=1, max_length=300)],
    which: Literal["top", "bottom", "quantile"] = "top",
    units: Numbers = "0",
    ranks: Numbers = "0",
    side: Annotated[int, Query(ge=8, le=512)] = 48,
    mode: Literal["crop", "context", "mask"] = "crop",
    spread: Annotated[int, Query(ge=0, le=1000, description="ranks that quantiles are spread over; 0: all")] = 0,
) -> Response:
    """Patches as one picture of square tiles: units in rows, ranks in columns, ``side`` pixels each.

    Transparent where there is no tile, as for a rank that the study hasn't, and around a tile that isn't square; a
    cross where an image couldn't be shown.
    """
    session = session_of(request)
    opened = await session.opened()
    asked = Patches(layer, which, _numbers("units", units), _numbers("ranks", ranks), side, mode, spread)
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
    opened = await session_of(request).opened()
    pictures = await _pictures(request)
    return typed(await asyncio.to_thread(answers.study_image_answer, opened, pictures, number))


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


def _numbers(name: str, text: str) -> tuple[int, ...]:
    """Numbers from a query.

    >>> _numbers("units", "3-5,9"), _numbers("ranks", "7")
    ((3, 4, 5, 9), (7,))
    """
    if _NUMBERS.fullmatch(text) is None:
        raise ConvscopeError(f"{name} isn't a list of numbers", next_step=f"write {name}=0-7,12")
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers = range(int(first), int(last or first) + 1)
        if not numbers or len(found) + len(numbers) > MOST_TILES:
            raise ConvscopeError(f"{name} from {first} to {last}", next_step=f"ask for 1 to {MOST_TILES} in order")
        found += numbers
    return tuple(found)


__all__ = ["study_api"]
