"""The routes that train: what there is to train, runs that are begun, opened, changed and closed, and races."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from convscope.errors import ConvscopeError
from convscope.server import training_answers as answers
from convscope.server import training_schema as schema
from convscope.server.answering import (
    BLOB,
    ERRORS,
    CarefulRoute,
    JobHeader,
    binary,
    session_of,
    typed,
    while_connected,
)
from convscope.server.answers import session_answer
from convscope.server.schema import Session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from convscope.server.live_run import LiveRun
    from convscope.server.training import Training

training_api = APIRouter(prefix="/api/training", responses=ERRORS, route_class=CarefulRoute)

RunId = Annotated[str, Path(pattern=r"^[a-z0-9_-]{1,64}$")]
DataId = Annotated[str | None, Query(max_length=64, description="which of the server's images")]


def training_of(request: Request) -> Training:
    """What the session does with training."""
    return session_of(request).training


async def run_of(request: Request, identity: str) -> schema.TrainingRun:
    """A run as the list has it."""
    training = training_of(request)
    summary = await asyncio.to_thread(training.folder.summary, identity)
    return answers.run_answer(summary, training.live)


@training_api.get("", operation_id="getTraining", response_model=schema.Training)
async def get_training(request: Request) -> Response:
    """What there is to train, and on what."""
    training = training_of(request)
    return typed(await asyncio.to_thread(answers.training_answer, training))


@training_api.post("/definition", operation_id="checkDefinition", response_model=schema.CheckedDefinition)
async def check_definition(request: Request, text: schema.CheckDefinition) -> Response:
    """Check a definition while it is being written: its layers as far as they are right, and what is wrong."""
    training = training_of(request)
    data = None if text.data is None else training.data.known(training.data.offer(text.data))
    return typed(await asyncio.to_thread(answers.check_answer, text.text, data))


@training_api.get("/runs", operation_id="getRuns", response_model=schema.TrainingRuns)
async def get_runs(request: Request) -> Response:
    """Every run in the folder: those that were trained here, and those of anyone's own loop."""
    training = training_of(request)
    summaries = await asyncio.to_thread(training.folder.summaries)
    return typed(answers.runs_answer(summaries, training.live))


@training_api.post("/runs", operation_id="beginRun", status_code=201, response_model=schema.TrainingRun)
async def begin_run(request: Request, new: schema.NewRun, x_convscope_job: JobHeader = None) -> Response:
    """Begin a run: it is open then, and paused. Reading its images may take a while; /api/events tells how long."""
    training = training_of(request)
    more = {name: getattr(new, name) for name in ("seed", "training_images", "held_out_images")}
    asked = await asyncio.to_thread(
        lambda: training.data.wanted(new.preset, new.definition, new.settings, new.data, new.name, **more)
    )
    job = x_convscope_job or uuid.uuid4().hex
    live = await while_connected(request, training.begin(asked, job, replaces=new.replace))
    return typed(await run_of(request, live.identity), status=201)


@training_api.post("/runs/{run}/open", operation_id="openRun", response_model=schema.TrainingRun)
async def open_run(
    request: Request, run: RunId, how: schema.Resume | None = None, x_convscope_job: JobHeader = None
) -> Response:
    """Open a recorded run again: it goes on exactly where its last snapshot was taken."""
    training = training_of(request)
    how = how or schema.Resume()
    job = x_convscope_job or uuid.uuid4().hex
    live = await while_connected(request, training.resume(run, how.data, job, replaces=how.replace))
    return typed(await run_of(request, live.identity))


@training_api.post("/runs/{run}/explore", operation_id="exploreRun", response_model=Session)
async def explore_run(request: Request, run: RunId, x_convscope_job: JobHeader = None) -> Response:
    """Look into a run's network: it takes the place of the session's, with its held-out images.

    It is a copy of the weights as they are now, or, where the run isn't open, of its last snapshot. Every page hears
    of it by a ``session`` event; POST /api/session/return opens the network again that was there before.
    """
    from convscope.server.exploring import explore_live, explore_recorded

    session, training = session_of(request), training_of(request)
    summary = await asyncio.to_thread(training.folder.summary, run)
    live = training.live
    open_here = live is not None and live.identity == run
    make = explore_live(live, summary.name) if live and open_here else explore_recorded(summary, training.data)
    job = x_convscope_job or uuid.uuid4().hex
    opened = await while_connected(request, session.explore(make, job))
    return typed(session_answer(session, opened))


@training_api.delete("/runs/{run}", operation_id="closeRun", status_code=204, response_class=Response)
async def close_run(request: Request, run: RunId) -> Response:
    """Close the run that is open: training stops, and what was recorded stays. Any other run is closed already."""
    await training_of(request).close_live(run)
    return Response(status_code=204)


@training_api.post("/runs/{run}/run", operation_id="trainOn", response_model=schema.TrainingRun)
async def train_on(request: Request, run: RunId, until: schema.RunUntil | None = None) -> Response:
    """Train until it is time, or for ever; nothing happens while it is training."""

    def work(live: LiveRun) -> None:
        from convscope.training.until import Until

        if live.trainer.state != "running":
            live.trainer.start(Until(**(until or schema.RunUntil()).model_dump()))

    return await _changed(request, run, work)


@training_api.post("/runs/{run}/pause", operation_id="pauseTraining", response_model=schema.TrainingRun)
async def pause_training(request: Request, run: RunId) -> Response:
    """Stop after the step that is being taken."""
    return await _changed(request, run, lambda live: live.trainer.pause())


@training_api.post("/runs/{run}/step", operation_id="takeSteps", response_model=schema.TrainingRun)
async def take_steps(request: Request, run: RunId, steps: schema.Step | None = None) -> Response:
    """Take single steps; refused while it is training."""
    count = (steps or schema.Step()).count
    return await _changed(request, run, lambda live: live.step(count))


@training_api.post("/runs/{run}/reset", operation_id="resetRun", response_model=schema.TrainingRun)
async def reset_run(request: Request, run: RunId) -> Response:
    """Begin anew with the same network, data, settings and seed, as another run: the answer is that one."""
    training = training_of(request)
    live = await training.reset(training.require(run))
    return typed(await run_of(request, live.identity))


@training_api.post("/runs/{run}/settings", operation_id="changeSettings", response_model=schema.Changed)
async def change_settings(request: Request, run: RunId, changes: schema.ChangeSettings) -> Response:
    """Change settings from the next step on: all of them, or none."""
    live = training_of(request).require(run)
    events = await live.change(lambda: live.trainer.change(changes.settings))
    live.forget_statistics()
    settings = live.trainer.learner.settings.to_json()
    return typed(schema.Changed(settings=settings, events=[answers.event_answer(each) for each in events]))


async def _changed(request: Request, run: str, work: Callable[[LiveRun], None]) -> Response:
    live = training_of(request).require(run)
    await live.change(lambda: work(live))
    return typed(await run_of(request, run))


# ---- files ---------------------------------------------------------------------------------------------------------


@training_api.post("/runs/{run}/snapshot", operation_id="takeSnapshot", response_model=schema.TrainingRun)
async def take_snapshot(request: Request, run: RunId) -> Response:
    """Renew the snapshot that the run is opened from."""
    live = training_of(request).require(run)
    await live.change(lambda: live.trainer.at_boundary(lambda: live.recorded.save(live.trainer.learner)))
    return typed(await run_of(request, run))


@training_api.get(
    "/runs/{run}/snapshot.safetensors",
    operation_id="getSnapshot",
    response_class=Response,
    responses=binary(BLOB),
)
async def get_snapshot(request: Request, run: RunId) -> Response:
    """The run as one file, from which it goes on exactly; of a run that isn't open, its last snapshot."""
    content = await _file(request, run, "safetensors")
    return _download(content, f"{run}.safetensors", BLOB)


@training_api.get(
    "/runs/{run}/snapshot.convnetjs.json",
    operation_id="getConvNetJS",
    response_class=Response,
    responses=binary("application/json"),
)
async def get_convnetjs(request: Request, run: RunId) -> Response:
    """The network as ConvNetJS keeps it; refused for layers that it doesn't have."""
    content = await _file(request, run, "convnetjs")
    return _download(content, f"{run}.convnetjs.json", "application/json")


async def _file(request: Request, run: str, kind: str) -> bytes:
    from convscope.server.snapshots import snapshot_file

    training = training_of(request)
    live = training.live
    if live is not None and live.identity == run:
        return await live.away(lambda: snapshot_file(live, None, kind))
    summary = await asyncio.to_thread(training.folder.summary, run)
    return await asyncio.to_thread(snapshot_file, None, summary, kind)


def _download(content: bytes, name: str, media_type: str) -> Response:
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(content, media_type=media_type, headers=headers)


@training_api.post(
    "/snapshots",
    operation_id="sendSnapshot",
    status_code=201,
    response_model=schema.SnapshotRead,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def send_snapshot(
    request: Request,
    data: DataId = None,
    name: Annotated[str, Query(max_length=64)] = "",
    replace: bool = False,
    x_convscope_job: JobHeader = None,
) -> Response:
    """Begin a run from a file: a snapshot of convscope, which goes on where it was taken, or a network of ConvNetJS."""
    from convscope.server.snapshots import read_file

    training = training_of(request)
    content = await request.body()
    if not content:
        raise ConvscopeError("the body is empty", next_step="send a snapshot's bytes as they are")
    job = x_convscope_job or uuid.uuid4().hex
    read = await asyncio.to_thread(read_file, training.data, content, data, name)
    live = await while_connected(request, training.begin_from(read, job, replaces=replace))
    return typed(schema.SnapshotRead(run=await run_of(request, live.identity), notes=list(read.notes)), status=201)


# ---- races ---------------------------------------------------------------------------------------------------------


@training_api.get("/race", operation_id="getRace", response_model=schema.Race)
async def get_race(request: Request, points: Annotated[int, Query(ge=10, le=2048)] = 500) -> Response:
    """The race, if there is one, with the curves of every racer."""
    return typed(await asyncio.to_thread(training_of(request).racing.answer, points))


@training_api.post("/race", operation_id="beginRace", status_code=201, response_model=schema.Race)
async def begin_race(request: Request, new: schema.NewRace, x_convscope_job: JobHeader = None) -> Response:
    """Race optimizers from the same weights on the same batches; takes the place of the race before."""
    training = training_of(request)
    job = x_convscope_job or uuid.uuid4().hex
    asked = await asyncio.to_thread(
        lambda: training.data.wanted(new.preset, new.definition, new.settings, new.data, seed=new.seed)
    )
    await while_connected(request, training.racing.begin(asked, new.racers, new.steps, job))
    return typed(await asyncio.to_thread(training.racing.answer, 500), status=201)


@training_api.post("/race/{what}", operation_id="controlRace", response_model=schema.Race)
async def control_race(request: Request, what: Annotated[str, Path(pattern="^(run|pause)$")]) -> Response:
    """Pause the race, or go on with it."""
    racing = training_of(request).racing
    work: Callable[[], Awaitable[None]] = racing.go_on if what == "run" else racing.pause
    await work()
    return typed(await asyncio.to_thread(racing.answer, 500))


@training_api.delete("/race", operation_id="endRace", status_code=204, response_class=Response)
async def end_race(request: Request) -> Response:
    """Stop the race and forget it."""
    await training_of(request).racing.end()
    return Response(status_code=204)


__all__ = ["RunId", "run_of", "training_api", "training_of"]
