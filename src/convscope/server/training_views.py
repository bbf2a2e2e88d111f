"""The routes that look at training: live frames, curves, what was recorded, held-out images, backward passes."""

from __future__ import annotations

import asyncio
import hashlib
import io
import math
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from convscope.errors import BadImage, ConvscopeError, UnknownName
from convscope.server import training_answers as answers
from convscope.server import training_schema as schema
from convscope.server.answering import (
    BLOB,
    ERRORS,
    CarefulRoute,
    binary,
    has,
    picture,
    revalidate,
    typed,
    unchanged,
    while_connected,
)
from convscope.server.live_run import MOST_IMAGES, PANELS, USUAL_PANELS
from convscope.server.query import image_ids
from convscope.server.training_routes import RunId, training_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from convscope.server.live_run import LiveRun
    from convscope.training.data import Data
    from convscope.training.run import Run
    from convscope.view import View

training_views_api = APIRouter(prefix="/api/training/runs", responses=ERRORS, route_class=CarefulRoute)

MOST_SAMPLES = 200
Points = Annotated[int, Query(ge=10, le=2048, description="of each curve, at most")]
Layers = Annotated[str, Query(max_length=4000, description="names, separated by commas; empty: all")]
Layer = Annotated[str, Query(max_length=300)]
RecordedKind = Annotated[str, Path(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Number = Annotated[int, Path(ge=0, le=999_999_999)]
Top = Annotated[int, Query(ge=1, le=20)]
Result = TypeVar("Result")
_PLACE = re.compile(r"\d{1,6}(?:,\d{1,6}){0,3}", re.ASCII)


@training_views_api.get("/{run}", operation_id="getRun", response_model=schema.TrainingRunDetails)
async def get_run(request: Request, run: RunId) -> Response:
    """One run: its state, settings, layers, what happened, and what was recorded."""
    training = training_of(request)
    summary = await asyncio.to_thread(training.folder.summary, run)
    live = training.live
    if live is not None and live.identity == run:
        return typed(await live.away(lambda: answers.details_answer(summary, training.folder, live)))
    return typed(await asyncio.to_thread(answers.details_answer, summary, training.folder, None))


@training_views_api.get(
    "/{run}/frame",
    operation_id="getFrame",
    response_class=Response,
    responses={**binary(BLOB), 204: {"description": "nothing newer within two seconds"}},
)
async def get_frame(
    request: Request,
    run: RunId,
    after: Annotated[int, Query(ge=0, le=2**53)] = 0,
    layers: Layers = "",
    panels: Annotated[str, Query(max_length=200, description="separated by commas; empty: the usual ones")] = "",
    images: Annotated[int, Query(ge=1, le=MOST_IMAGES)] = 1,
) -> Response:
    """The newest frame of a run that is open, as a View "training_frame", once it is another than ``after``.

    Ask for the next one when this one is painted: nothing is queued, so whoever is slow misses frames. The number to
    give as ``after`` is in ``meta.frame`` and in the header x-convscope-frame. Arrays ``LAYER.PANEL``; ``panels``
    spatial and spatial_gradient are computed only where they are asked for.
    """
    live = training_of(request).require(run)
    chosen = tuple(panels.split(",")) if panels else USUAL_PANELS
    unknown = [each for each in chosen if each not in PANELS]
    if unknown:
        raise UnknownName(f"no panel {unknown[0][:40]!r}", next_step=f"there are {', '.join(PANELS)}")
    names = tuple(dict.fromkeys(layers.split(","))) if layers else ()
    found = await while_connected(request, live.frame(after, names, chosen, images))
    if found is None:
        return Response(status_code=204)
    serial, blob = found
    return Response(blob, media_type=BLOB, headers={"x-convscope-frame": str(serial)})


@training_views_api.get("/{run}/curves", operation_id="getCurves", response_model=schema.Curves)
async def get_curves(request: Request, run: RunId, points: Points = 500) -> Response:
    """Every number over the steps: loss, accuracy, and whatever else a loop logged."""
    training = training_of(request)
    live = training.live
    if live is not None and live.identity == run:
        found, step = live.trainer.curves.read(), live.trainer.learner.steps
        return typed(await asyncio.to_thread(answers.curves_answer, step, found, points))

    def read() -> schema.Curves:
        with training.folder.reading(run) as reader:
            return answers.curves_answer(reader.run.latest(), reader.curves.read(), points)

    return typed(await asyncio.to_thread(read))


# ---- what was recorded ---------------------------------------------------------------------------------------------


@training_views_api.get("/{run}/steps/{name}", operation_id="getRecordedSteps", response_model=schema.RecordedSteps)
async def get_steps(request: Request, run: RunId, name: RecordedKind, layer: Layer = "") -> Response:
    """The steps at which Views of this name and layer were recorded: the marks of the time slider."""
    from convscope.training.run import view_name

    found = await _recorded(request, run, lambda recorded: recorded.steps(view_name(name, layer)))
    return typed(schema.RecordedSteps(name=name, layer=layer, steps=found))


@training_views_api.get(
    "/{run}/views/{name}", operation_id="getRecordedView", response_class=Response, responses=binary(BLOB)
)
async def get_recorded_view(
    request: Request,
    run: RunId,
    name: RecordedKind,
    step: Annotated[int, Query(ge=0, le=2**53)],
    layer: Layer = "",
) -> Response:
    """A recorded View: filters, histograms, kernels or maps of a layer, or the reference images ("images")."""
    from convscope.training.run import view_name

    blob = await _recorded(request, run, lambda recorded: recorded.bytes(step, view_name(name, layer)))
    etag = f'"{hashlib.sha256(blob).hexdigest()[:32]}"'
    if has(request, etag):
        return unchanged(etag)
    return Response(blob, media_type=BLOB, headers=revalidate(etag))


async def _recorded(request: Request, run: str, read: Callable[[Run], Result]) -> Result:
    """Something that a run's folder says, whoever has it open."""
    training = training_of(request)
    live = training.live
    if live is not None and live.identity == run:
        return await asyncio.to_thread(lambda: read(live.recorded.monitor.run))

    def work() -> Result:
        with training.folder.reading(run) as reader:
            return read(reader.run)

    return await asyncio.to_thread(work)


# ---- held-out images -----------------------------------------------------------------------------------------------


@training_views_api.get("/{run}/test", operation_id="getSamples", response_model=schema.Samples)
async def get_samples(
    request: Request, run: RunId, indexes: Annotated[str, Query(max_length=4000)] = "0", top: Top = 3
) -> Response:
    """What the network takes some held-out images for, as it is now."""
    live = training_of(request).require(run)
    numbers = list(image_ids(indexes))
    if not 1 <= len(numbers) <= MOST_SAMPLES:
        raise ConvscopeError(f"{len(numbers)} images", next_step=f"ask for 1 to {MOST_SAMPLES}")

    def work() -> tuple[int, list[schema.Predicted]]:
        found = live.trainer.samples(numbers, top)
        names = live.trainer.learner.given.class_names
        return live.trainer.learner.steps, [answers.predicted_answer(each, names) for each in found]

    step, images = await live.away(work)
    return typed(schema.Samples(step=step, images=images))


@training_views_api.post(
    "/{run}/predict",
    operation_id="predictImage",
    response_model=schema.Predicted,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def predict_image(request: Request, run: RunId, top: Top = 3) -> Response:
    """What the network takes an image of one's own for; the body is the encoded file."""
    live = training_of(request).require(run)
    media_type = request.headers.get("content-type", BLOB).partition(";")[0].strip().lower()
    if media_type != BLOB and not media_type.startswith("image/"):
        raise BadImage("the body isn't an image", next_step="send the image file's bytes as they are")
    encoded = await request.body()

    def work() -> schema.Predicted:
        from convscope.images.decoding import decode

        pixels = decode(encoded)
        names = live.trainer.learner.given.class_names
        return answers.predicted_answer(live.trainer.predict(pixels, top), names)

    return typed(await live.away(work))


@training_views_api.get("/{run}/confusion", operation_id="getConfusion", response_model=schema.Confusion)
async def get_confusion(
    request: Request,
    run: RunId,
    whole: Annotated[bool, Query(description="look at all held-out images, now")] = False,
) -> Response:
    """Held-out images by true and predicted class, as they were last looked at."""
    live = training_of(request).require(run)

    def work() -> schema.Confusion:
        known = live.trainer.evaluation
        fresh = (
            known is not None and (known.whole or not whole) and (not whole or known.step == live.trainer.learner.steps)
        )
        found = known if known is not None and fresh else live.trainer.evaluate()
        return answers.confusion_answer(found, live.trainer.learner.given.class_names)

    return typed(await live.away(work))


@training_views_api.get(
    "/{run}/images/{number}", operation_id="getTrainingImage", response_class=Response, responses=binary("image/png")
)
async def get_training_image(
    request: Request, run: RunId, number: Number, part: Literal["held_out", "training"] = "held_out"
) -> Response:
    """An image that the run is trained or tested on, as its network is given it."""
    live = training_of(request).require(run)
    data = live.trainer.learner.data
    key = f"{data.fingerprint[:32]}-{part}-{number}"
    return await picture(request, key, lambda: _png(data, part, number))


def _png(data: Data, part: str, number: int) -> bytes:
    from PIL import Image

    images = (data.held_out if part == "held_out" else data.train).images
    if number >= len(images):
        raise UnknownName(f"no {part.replace('_', '-')} image {number}", next_step=f"choose 0 to {len(images) - 1}")
    pixels = images[number].permute(1, 2, 0).contiguous().numpy()
    shown = pixels if pixels.shape[2] in (3, 4) else pixels[:, :, 0]
    buffer = io.BytesIO()
    Image.fromarray(shown).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


# ---- one image's own gradient --------------------------------------------------------------------------------------


@training_views_api.get(
    "/{run}/backpropagation", operation_id="getBackpropagation", response_class=Response, responses=binary(BLOB)
)
async def get_backpropagation(
    request: Request,
    run: RunId,
    index: Annotated[int, Query(ge=0, le=999_999_999)],
    label: Annotated[int | None, Query(ge=0, le=99_999, description="another class than its own")] = None,
    part: Literal["layers", "loss"] = "layers",
) -> Response:
    """The backward pass of a held-out image: a View "backpropagation", or its loss term by term, "loss_terms".

    Its number, for the terms of one layer, is in ``meta.pass`` and in the header x-convscope-pass.
    """
    live = training_of(request).require(run)

    def work() -> tuple[int, bytes]:
        number, found = live.backpropagation(index, label)
        view = found.to_view() if part == "layers" else found.loss_terms
        return number, _with(view, {"pass": number, "step": live.trainer.learner.steps, "index": index})

    number, blob = await live.away(work)
    return Response(blob, media_type=BLOB, headers={"x-convscope-pass": str(number)})


@training_views_api.get(
    "/{run}/backpropagation/{number}",
    operation_id="getBackpropagationTerms",
    response_class=Response,
    responses=binary(BLOB),
)
async def get_backpropagation_terms(
    request: Request,
    run: RunId,
    number: Number,
    layer: Annotated[str, Query(min_length=1, max_length=300)],
    of: Literal["input", "weight"] = "input",
    place: Annotated[str, Query(max_length=40, description="numbers, separated by commas; empty: the largest")] = "",
) -> Response:
    """How the gradient of one number came about, a View "backpropagation_terms": upstream × local, added up.

    ``place`` is (unit, row, column) of the layer's input, or an index of its weight.
    """
    live: LiveRun = training_of(request).require(run)
    if place and _PLACE.fullmatch(place) is None:
        raise ConvscopeError("a place is numbers separated by commas", next_step="write place=3,6,6")

    def work() -> bytes:
        step = live.backward_pass(number).step(layer)
        if of == "input":
            where = tuple(map(int, place.split(","))) if place else step.strongest()
            return _with(step.terms(where), {"pass": number})
        where = tuple(map(int, place.split(","))) if place else step.strongest_weight()
        return _with(step.weight_terms(where), {"pass": number})

    return Response(await live.away(work), media_type=BLOB)


def _with(view: View, meta: dict[str, int]) -> bytes:
    from convscope.view import View

    return View(view.kind, view.arrays, view.axes, _finite({**view.meta, **meta}), view.recipe).to_bytes()


def _finite(value: Any) -> Any:
    """Of weights that have run away the loss isn't finite either: None stands where JSON has no number."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


__all__ = ["training_views_api"]
