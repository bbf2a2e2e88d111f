"""What the HTTP interface says, as types: the source of web/openapi.json and of the page's TypeScript types."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Model(BaseModel):
    """What all of them are: no fields beyond the declared ones, no numbers that JSON hasn't."""

    # Anything a client sends beyond the declared fields is a mistake worth hearing of.
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class ErrorBody(Model):
    """What went wrong, where, the next step; ``kind`` is the exception's name in snake_case."""

    what: str
    where: str
    next_step: str
    kind: str


class ErrorAnswer(Model):
    """The body of every 4xx and 5xx answer."""

    error: ErrorBody


class Preprocessing(Model):
    """From pixels to the network's input: resize, center crop, pixels / 255 * scale, minus mean, divided by std."""

    image_size: tuple[int, int]
    channels: int
    mean: list[float]
    std: list[float]
    scale: float
    resize: int | None
    interpolation: str


class Network(Model):
    """The network this server has open; ``image_size`` is (rows, columns)."""

    name: str
    source: str
    fingerprint: str
    parameters: int
    image_size: tuple[int, int]
    channels: int
    classes: int
    class_names: list[str]
    outputs: list[str]
    output: str
    preprocessing: Preprocessing


class Skipped(Model):
    """A file that was left out, and why."""

    name: str
    reason: str


class ImageSource(Model):
    """Where the images came from and how many there are."""

    source: str
    count: int
    skipped: list[Skipped]


class Parameter(Model):
    """One parameter of a method. ``type`` is bool, int, float or str."""

    name: str
    type: str
    default: Any
    help: str
    choices: list[Any]
    minimum: float | None
    maximum: float | None


class Method(Model):
    """One way of looking at a network, with what its panel says about it.

    The target of an "objective" method is a unit, or empty: then its parameter ``objective`` says what is looked at.
    ``long``: it may take minutes. ``class_sensitive`` is False where a map hardly depends on the class that it is said
    to explain, and None where that isn't a question. ``study``: it reads the session's study, which the server fills
    in; where ``needs`` doesn't say so it can do without one, and is asked about images instead where some are given.
    """

    name: str
    title: str
    summary: str
    papers: list[str]
    target: Literal["unit", "layer", "network", "objective"]
    needs: list[Literal["images", "labels", "study"]]
    formula: str
    caveat: str
    long: bool
    class_sensitive: bool | None
    study: bool
    parameters: list[Parameter]


class MethodHere(Model):
    """What is known of a method beforehand: why it can't show this target, and what its last View took, in seconds."""

    name: str
    refused: ErrorBody | None
    seconds: float | None


class MethodsHere(Model):
    """What can be asked of a target."""

    target: str
    methods: list[MethodHere]


class Call(Model):
    """What computes a View, outside the page."""

    python: str
    command: str


class Explored(Model):
    """The run that the network was taken from, and its step then."""

    run: str
    name: str
    step: int


class Session(Model):
    """Everything a page needs before its first picture. ``unavailable``: methods that couldn't be imported.

    ``opening`` counts the networks that took each other's place; ``explored`` says where the one that is open was
    trained, if that was here.
    """

    version: str
    opening: int
    explored: Explored | None
    network: Network
    images: ImageSource
    methods: list[Method]
    unavailable: list[Skipped]


class Extent(Model):
    """Along one axis: position i sees pixels ``offset + stride * i`` to ``offset + stride * i + size - 1``."""

    size: int
    stride: float | None
    offset: float | None


class ReceptiveField(Model):
    """What part of the prepared image a layer's units can see; ``reason`` says why it isn't exact.

    Where it isn't ``uniform``, units of the layer see different parts, and the extents are those of the one that sees
    most.
    """

    rows: Extent | None
    columns: Extent | None
    exact: bool
    reason: str
    uniform: bool


class Layer(Model):
    """One call of the forward pass. ``shape`` is [unit, row, column]; ``depth`` counts the modules around it."""

    index: int
    address: str
    path: str
    call: int
    kind: str
    label: str
    operation: Literal["module", "block", "function"]
    depth: int
    shape: tuple[int, int, int]
    axes: list[Literal["image", "channel", "row", "column"]]
    parameters: int
    inputs: list[str]
    receptive_field: ReceptiveField
    opaque: str
    warnings: list[str]
    has_kernel: bool
    kernel_size: tuple[int, int] | None
    details: dict[str, Any]


class Layers(Model):
    """The layer table, in call order."""

    layers: list[Layer]


class Image(Model):
    """One image of the set; its id never changes. ``width`` and ``height`` are the original's pixels."""

    id: int
    name: str
    width: int
    height: int
    label: int | None
    label_name: str | None


class Images(Model):
    """The image set."""

    images: list[Image]
    skipped: list[Skipped]


class AddedImage(Model):
    """The image that was added, or the one that had the same bytes already."""

    image: Image


class Rectangle(Model):
    """First row and column, and how many of each, in prepared pixels."""

    row: int
    column: int
    rows: int
    columns: int


class ReceptiveFieldBox(Rectangle):
    """What one neuron sees, clipped to the image; ``unclipped`` as if the image went on beyond its border."""

    unclipped: Rectangle
    exact: bool
    reason: str


class JobEvent(Model):
    """The data of every ``job`` event of /api/events."""

    id: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    done: int
    total: int
    message: str
    seconds_left: float | None
    preview: int


class Job(JobEvent):
    """What a job has come to, and why it failed. ``preview`` is the number of its newest preview, 0 for none."""

    failure: ErrorBody | None


class SessionEvent(Model):
    """The data of every ``session`` event of /api/events: another network is open now."""

    id: Literal["session"]
    opening: int


class Study(Model):
    """What was mined into this session's store.

    ``mined`` says whether there is anything to show; ``done`` of ``images`` are in finished shards. ``skipped`` lists
    the first of ``skipped_count`` images that couldn't be used. ``job`` is the mining job under way, ``failure`` why
    the last one ended early, ``refused`` why what lies in the store can't be shown or continued. ``seconds`` is about
    how long mining all that is left would take, where that is known; ``command`` mines from a shell.
    """

    mined: bool
    finished: bool
    layers: list[str]
    images: int
    done: int
    k: int
    location: str
    skipped: list[Skipped]
    skipped_count: int
    job: str | None
    seconds: float | None
    refused: str
    failure: ErrorBody | None
    command: str


class Mine(Model):
    """What to mine: ``layers`` are addresses or globs, none of them every convolution and linear call.

    ``images`` "session" adds this session's images to a study that was made of others.
    """

    layers: Annotated[list[Annotated[str, Field(min_length=1, max_length=300)]], Field(max_length=1000)] | None = None
    k: Annotated[int, Field(ge=1, le=1000)] | None = None
    images: Literal["study", "session"] = "study"


class StudyImage(Model):
    """One image of the study; ``width`` and ``height`` are the original's pixels.

    ``label_name`` is its own class, ``predicted`` the network's top class; ``image`` its id in this session's image
    set, where it is in there.
    """

    id: int
    name: str
    width: int
    height: int
    label_name: str | None
    predicted: int | None
    predicted_name: str | None
    image: int | None


class StudyEvent(Model):
    """The data of every ``study`` event of /api/events: what was mined grew."""

    id: Literal["study"]
    done: int
    images: int
    finished: bool
