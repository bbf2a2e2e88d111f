"""From the library's objects to the HTTP interface's types, and from exceptions to answers."""

from __future__ import annotations

import logging
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from convscope._version import __version__
from convscope.errors import BadImage, Cancelled, ConvscopeError, Refused, UnknownName, UnsafeFile
from convscope.methods.call_text import mining_command
from convscope.server import schema
from convscope.server.guard import TooLarge
from convscope.server.jobs import Busy
from convscope.server.question import Replaced

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convscope import images as images_module
    from convscope.mining.pictures import StudyPictures
    from convscope.network import layer as layer_module
    from convscope.network import receptive_field
    from convscope.network.network import Network
    from convscope.server.events import JobEvent
    from convscope.server.question import Opened
    from convscope.server.session import Session
    from convscope.server.study import Studying

_STATUS: tuple[tuple[type[ConvscopeError], int], ...] = (
    (UnknownName, 404),
    (Refused, 422),
    (Cancelled, 409),
    (Replaced, 409),
    (TooLarge, 413),
    (BadImage, 415),
    (UnsafeFile, 422),
    (Busy, 429),
    (ConvscopeError, 400),
)

MOST_SKIPPED = 1000

_log = logging.getLogger("convscope")


def explain(status: int, error: schema.ErrorBody) -> Response:
    """An error in the one shape all of them have."""
    content = schema.ErrorAnswer(error=error).model_dump_json().encode()
    # A body that is too long has not been read to its end, and never will be.
    headers = {"connection": "close"} if status == 413 else None
    return Response(content, status, headers, media_type="application/json")


def explain_known(error: ConvscopeError) -> Response:
    """The answer to an error that was meant for the user."""
    status = next(status for kind, status in _STATUS if isinstance(error, kind))
    return explain(status, error_body(error))


def explain_unexpected(error: Exception) -> Response:
    """The answer to a bug: its class for the page, everything else for the log."""
    _log.error("unexpected error in the server", exc_info=error)
    what = f"something unexpected went wrong: {type(error).__name__}"
    step = "look at the terminal for the details, and report them"
    return explain(500, _body(what, "", step, type(error)))


def error_body(error: ConvscopeError) -> schema.ErrorBody:
    """An error that was meant for the user, as a part of another answer."""
    return _body(error.what, error.where, error.next_step, type(error))


def _body(what: str, where: str, next_step: str, kind: type[Exception]) -> schema.ErrorBody:
    return schema.ErrorBody(what=what, where=where, next_step=next_step, kind=snake_case(kind.__name__))


def snake_case(name: str) -> str:
    """A class name as the page's ``kind``.

    >>> snake_case("BadImage"), snake_case("ConvscopeError")
    ('bad_image', 'convscope_error')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def session_answer(session: Session, opened: Opened) -> schema.Session:
    """What the page reads first."""
    network = opened.network
    explored = opened.explored
    preprocessing = network.preprocessing
    return schema.Session(
        version=__version__,
        opening=session.opening,
        explored=None if explored is None else schema.Explored(run=explored[0], name=explored[1], step=explored[2]),
        network=schema.Network(
            name=network.name,
            source=network.source,
            fingerprint=network.fingerprint,
            parameters=network.parameters,
            image_size=preprocessing.image_size,
            channels=preprocessing.channels,
            classes=network.classes,
            class_names=list(network.class_names),
            outputs=list(network.output_names),
            output=network.output,
            preprocessing=schema.Preprocessing(**preprocessing.to_json()),
        ),
        images=schema.ImageSource(
            source=opened.image_source, count=len(opened.images), skipped=skipped_answer(opened.images)
        ),
        methods=[schema.Method(**each) for each in session.methods],
        unavailable=[schema.Skipped(**each) for each in session.unavailable],
    )


def job_answer(event: JobEvent, error: ConvscopeError | None = None) -> schema.Job:
    """What a job has come to."""
    return schema.Job(**asdict(event), failure=None if error is None else error_body(error))


def methods_answer(
    target: str, refusals: Mapping[str, ConvscopeError | None], seconds: Mapping[str, float]
) -> schema.MethodsHere:
    """What can be asked of a target."""
    methods = [
        schema.MethodHere(name=name, refused=None if error is None else error_body(error), seconds=seconds.get(name))
        for name, error in refusals.items()
    ]
    return schema.MethodsHere(target=target, methods=methods)


def skipped_answer(images: images_module.ImageSet) -> list[schema.Skipped]:
    """The files that were left out of an image set."""
    return [schema.Skipped(name=name, reason=str(reason)) for name, reason in images.skipped]


def images_answer(images: images_module.ImageSet, network: Network) -> schema.Images:
    """The whole set. An image that turned out to be damaged is told with those that were left out."""
    described: list[schema.Image] = []
    skipped = skipped_answer(images)
    for image in images:
        try:
            described.append(image_answer(image, network))
        except BadImage as error:
            skipped.append(schema.Skipped(name=image.name, reason=error.what))
    return schema.Images(images=described, skipped=skipped)


def image_answer(image: images_module.Image, network: Network) -> schema.Image:
    """One image of the set; its label is the network's class, if the network has one of its folder's name."""
    height, width = image.size
    return schema.Image(
        id=image.id,
        name=image.name,
        width=width,
        height=height,
        label=network.class_of(image),
        label_name=image.label_name,
    )


def study_answer(opened: Opened, studying: Studying) -> schema.Study:
    """What was mined, and how to mine."""
    network = opened.network
    location = opened.images.location
    found: dict[str, Any] = {"layers": [], "images": 0, "done": 0, "k": 0, "finished": False}
    skipped: list[tuple[str, str]] = []
    refused = ""
    try:
        pictures = studying.found(network, opened.images)
    except Refused as error:
        pictures, refused = None, str(error)
    if pictures is not None:
        study = pictures.study
        location, skipped = study.location, study.skipped
        found = {
            "layers": list(study.layers),
            "images": study.count,
            "done": study.done,
            "k": study.k,
            "finished": study.finished,
        }
    failure = studying.failure
    return schema.Study(
        **found,
        mined=found["done"] > 0,
        location=location,
        skipped=[schema.Skipped(name=name, reason=reason) for name, reason in skipped[:MOST_SKIPPED]],
        skipped_count=len(skipped),
        job=studying.job,
        seconds=studying.seconds(found["images"] - found["done"] or len(opened.images)),
        refused=refused,
        failure=None if failure is None else error_body(failure),
        command=mining_command(network.source, network.loaded_with, location, studying.place),
    )


def study_image_answer(opened: Opened, pictures: StudyPictures, number: int) -> schema.StudyImage:
    """One image of the study."""
    image = pictures.image(number)
    height, width = image.size
    (label,), (predicted,) = pictures.study.class_names([number]), pictures.study.predicted([number])
    return schema.StudyImage(
        id=number,
        name=image.name,
        width=width,
        height=height,
        label_name=label,
        predicted=None if predicted < 0 else predicted,
        predicted_name=None if predicted < 0 else opened.network.class_name(predicted),
        image=image.id if image in opened.images else None,
    )


def layer_answer(layer: layer_module.Layer) -> schema.Layer:
    """One row of the layer table."""
    size = _kernel_size(layer)
    field = layer.receptive_field
    return schema.Layer(
        index=layer.index,
        address=layer.address,
        path=layer.path,
        call=layer.call,
        kind=layer.kind,
        label=layer_label(layer),
        operation=layer.operation,
        depth=layer.depth,
        shape=(layer.units, layer.rows, layer.columns),
        axes=list(layer.axes),
        parameters=layer.parameters,
        inputs=list(layer.inputs),
        receptive_field=schema.ReceptiveField(
            rows=_extent(field.rows),
            columns=_extent(field.columns),
            exact=field.exact,
            reason=field.reason,
            uniform=field.uniform,
        ),
        opaque=layer.opaque,
        warnings=list(layer.warnings),
        has_kernel=layer.kernel is not None,
        kernel_size=size,
        details={name: _plain(value) for name, value in layer.details.items()},
    )


def layer_label(layer: layer_module.Layer) -> str:
    """A few words for a row: the kind, the kernel's size, the stride where there is one."""
    size = _kernel_size(layer)
    words = [layer.kind]
    if size is not None and layer.kernel is not None and layer.kernel.operation != "linear":
        words.append(f"{size[0]}×{size[1]}")
        if layer.kernel.stride != (1, 1):
            rows, columns = layer.kernel.stride
            words.append(f"stride {rows}" if rows == columns else f"stride {rows}×{columns}")
        if layer.kernel.groups > 1:
            words.append("depthwise" if layer.kernel.groups == layer.units else f"{layer.kernel.groups} groups")
    return " ".join(words)


def _kernel_size(layer: layer_module.Layer) -> tuple[int, int] | None:
    if layer.kernel is None:
        return None
    shape = tuple(layer.kernel.weight.shape)
    if len(shape) == 2:
        return 1, 1
    return (1, int(shape[2])) if len(shape) == 3 else (int(shape[-2]), int(shape[-1]))


def _extent(extent: receptive_field.Extent | None) -> schema.Extent | None:
    return None if extent is None else schema.Extent(size=extent.size, stride=extent.stride, offset=extent.offset)


def _plain(value: Any) -> Any:
    """A value of ``details`` as JSON takes it."""
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def box_answer(box: receptive_field.Box) -> schema.ReceptiveFieldBox:
    """One neuron's receptive field."""
    row, column, rows, columns = box.whole
    return schema.ReceptiveFieldBox(
        row=box.row,
        column=box.column,
        rows=box.rows,
        columns=box.columns,
        unclipped=schema.Rectangle(row=row, column=column, rows=rows, columns=columns),
        exact=box.exact,
        reason=box.reason,
    )


__all__ = [
    "box_answer",
    "error_body",
    "explain",
    "explain_known",
    "explain_unexpected",
    "image_answer",
    "images_answer",
    "job_answer",
    "layer_answer",
    "layer_label",
    "methods_answer",
    "session_answer",
    "skipped_answer",
    "snake_case",
    "study_answer",
    "study_image_answer",
]
