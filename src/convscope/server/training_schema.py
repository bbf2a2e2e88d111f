"""What the HTTP interface says about training, as types: a part of :mod:`convscope.server.schema`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from convscope.server.schema import ErrorBody, Model

TEXT_LIMIT = 32 * 1024
Scalar = bool | int | float | Annotated[str, Field(max_length=100)] | None
Changes = Annotated[dict[Annotated[str, Field(max_length=40)], Scalar], Field(max_length=20)]
State = Literal["paused", "running", "finished", "failed", "recording", "recorded"]

# ---- what there is to train ----------------------------------------------------------------------------------------


class DefinedLayer(Model):
    """One layer of a definition: the line it stands on, [unit, row, column] of its output, how many parameters.

    ``text`` is the shape as it is written, ``count`` how the number of parameters comes about.
    """

    name: str
    kind: str
    line: int
    shape: tuple[int, int, int]
    text: str
    parameters: int
    count: str


class DefinitionProblem(Model):
    """Why a text is no definition. ``line`` counts from 1; 0 is the text as a whole."""

    what: str
    line: int
    layer: str
    next_step: str


class CheckedDefinition(Model):
    """A definition's layers as far as they are right, and what is wrong, if anything is."""

    layers: list[DefinedLayer]
    parameters: int
    error: DefinitionProblem | None


class CheckDefinition(Model):
    """A text to check; with ``data`` also whether its images and classes fit."""

    text: Annotated[str, Field(max_length=TEXT_LIMIT)]
    data: Annotated[str, Field(max_length=64)] | None = None


class Preset(Model):
    """A well-known network as text, with the settings that train it.

    ``wanted`` is the data it was made for, ``data`` that or the nearest that this server offers; ``source`` is a key
    of the bibliography.
    """

    name: str
    title: str
    explanation: str
    text: str
    layers: list[DefinedLayer]
    parameters: int
    settings: dict[str, Scalar]
    wanted: str
    data: str
    source: str


class DataSource(Model):
    """Images to train on. ``missing`` says why they can't be used; sizes and classes are known once they were read."""

    id: str
    title: str
    missing: str
    training_images: int | None
    held_out_images: int | None
    class_names: list[str] | None
    shape: tuple[int, int, int] | None


class Setting(Model):
    """One setting: what it may be. ``optimizers`` are those that have a use for it, ``explanation`` is a sentence."""

    name: str
    kind: Literal["number", "whole", "truth", "word"]
    default: Scalar
    minimum: float | None
    maximum: float | None
    choices: list[str]
    optional: bool
    optimizers: list[str]
    explanation: str


class Optimizer(Model):
    """One optimizer, the settings it has a use for, and a learning rate to start with."""

    name: str
    title: str
    uses: list[str]
    learning_rate: float
    papers: list[str]


class LayerOption(Model):
    """One option of a kind of layer in a definition."""

    name: str
    kind: Literal["integer", "number", "pair", "truth", "word", "numbers", "layers"]
    explanation: str
    default: Any
    required: bool
    minimum: float | None
    maximum: float | None
    choices: list[str]


class LayerWord(Model):
    """One word that a line of a definition may begin with."""

    word: str
    role: Literal["input", "layer", "loss"]
    explanation: str
    options: list[LayerOption]


class Training(Model):
    """What can be trained here. ``place`` is the runs' folder as the user named it, "" where it goes at the end.

    ``live`` is the id of the run that is open. ``job`` is the job that makes the run which the server begins with,
    ``failure`` why that couldn't be made; ``refused`` why nothing new can be trained here.
    """

    place: str
    live: str | None
    job: str | None
    failure: ErrorBody | None
    refused: str
    default_preset: str
    presets: list[Preset]
    data: list[DataSource]
    settings: list[Setting]
    optimizers: list[Optimizer]
    words: list[LayerWord]


# ---- runs ----------------------------------------------------------------------------------------------------------


class TrainingRun(Model):
    """One run.

    ``live``: it is open here, and can be run, paused and changed. Its state is then "paused", "running", "finished" or
    "failed"; of any other run it is "recording" while something writes it, then "recorded". ``step``: of a live run how
    many were taken, of any other the last one recorded. ``resumable``: it can be opened, and goes on where it stopped;
    ``problem`` says why nothing of it can be read.
    """

    id: str
    name: str
    state: State
    live: bool
    resumable: bool
    step: int | None
    created: str
    seconds_ago: float | None
    network: str
    data: str
    optimizer: str
    parameters: int | None
    problem: str


class TrainingRuns(Model):
    """Every run in the folder, the newest first."""

    live: str | None
    runs: list[TrainingRun]


class NewRun(Model):
    """A run to begin: one of ``preset`` and ``definition``; ``settings`` in place of the preset's or the defaults.

    ``training_images`` and ``held_out_images`` take only the first so many; 0 all. With ``replace`` a run that is
    training is stopped for it; one that is paused always gives way.
    """

    preset: Annotated[str, Field(max_length=64)] | None = None
    definition: Annotated[str, Field(max_length=TEXT_LIMIT)] | None = None
    data: Annotated[str, Field(max_length=64)] | None = None
    settings: Changes = Field(default_factory=dict)
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    name: Annotated[str, Field(max_length=64)] = ""
    training_images: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    held_out_images: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    replace: bool = False


class Resume(Model):
    """Open a recorded run again. ``data`` names the images where it isn't clear which of the server's they were."""

    data: Annotated[str, Field(max_length=64)] | None = None
    replace: bool = False


class RunUntil(Model):
    """When to stop, at whichever is reached first; nothing given: never. ``seconds`` count from now."""

    steps: Annotated[int, Field(ge=0, le=10**12)] | None = None
    epochs: Annotated[float, Field(ge=0, le=1e9)] | None = None
    examples: Annotated[int, Field(ge=0, le=10**15)] | None = None
    seconds: Annotated[float, Field(ge=0, le=1e9)] | None = None
    accuracy: Annotated[float, Field(ge=0, le=1)] | None = None


class Step(Model):
    """How many single steps to take."""

    count: Annotated[int, Field(ge=1, le=1000)] = 1


class ChangeSettings(Model):
    """Settings to change from the next step on: all of them, or none."""

    settings: Changes


class Event(Model):
    """Something that happened: "setting" (``name`` went from ``old`` to ``new``), "not_finite", "paused", …"""

    step: int
    kind: str
    name: str
    old: Scalar
    new: Scalar
    text: str


class Changed(Model):
    """The settings as they are now, and what changed."""

    settings: dict[str, Scalar]
    events: list[Event]


class RunLayer(Model):
    """What is always true of one layer of a run. ``shape`` is [unit, row, column]; the input is a layer "input".

    ``layout`` says how its kernels' slices are arranged ("" where it has none, or nothing is known of it).
    """

    name: str
    kind: str
    title: str
    details: str
    shape: tuple[int, int, int]
    parameters: int
    count: str
    layout: str


class HeldOut(Model):
    """How well the network did on ``count`` held-out images (``whole``: all of them) after ``step`` steps."""

    step: int
    count: int
    loss: float | None
    accuracy: float
    whole: bool


class Statistics(Model):
    """The numbers of a live run. Loss and accuracy are means over the last 100 steps; None while there is nothing
    yet, or where it isn't finite.

    ``loss`` is the classification loss alone, ``penalty`` what the penalties on large weights add to it.
    """

    state: State
    step: int
    examples: int
    epoch: float
    loss: float | None
    penalty: float | None
    accuracy: float | None
    held_out: HeldOut | None
    learning_rate: float
    examples_per_second: float | None
    forward_milliseconds: float | None
    backward_milliseconds: float | None
    error: str


class RecordedName(Model):
    """Views of this name (and layer, "" for the whole network) that were recorded, and at how many steps."""

    name: str
    layer: str
    count: int
    first: int
    last: int


class TrainingRunDetails(TrainingRun):
    """One run with everything but its curves and Views.

    ``statistics`` are known of a live run alone. ``settings`` of any other run trained here are those that it began
    with; "setting" events say what became of them. ``events`` are the last of all, ``events_left_out`` how many were
    before them.
    """

    seed: int | None
    definition: str
    settings: dict[str, Scalar] | None
    statistics: Statistics | None
    layers: list[RunLayer]
    class_names: list[str]
    training_images: int | None
    held_out_images: int | None
    held_out: str
    events: list[Event]
    events_left_out: int
    recorded: list[RecordedName]
    facts: dict[str, Any]


class Curve(Model):
    """One number over the steps; of a long run, means over neighboring ones. None is what isn't finite."""

    name: str
    steps: list[int]
    values: list[float | None]


class Curves(Model):
    """Every number that was recorded, over the steps, and what happened meanwhile."""

    step: int | None
    curves: list[Curve]


class RecordedSteps(Model):
    """The steps at which Views of a name and layer were recorded."""

    name: str
    layer: str
    steps: list[int]


class Ranked(Model):
    """One class and what the network gives it; a hinge loss has no probabilities."""

    class_index: int
    class_name: str
    score: float | None
    probability: float | None


class Predicted(Model):
    """What the network takes an image for, the best classes first. ``index`` and ``label`` of a held-out image."""

    index: int | None
    label: int | None
    label_name: str
    correct: bool | None
    top: list[Ranked]


class Samples(Model):
    """Held-out images and what the network takes them for after ``step`` steps."""

    step: int
    images: list[Predicted]


class Confusion(Model):
    """Held-out images by true class (rows) and predicted class (columns)."""

    held_out: HeldOut
    class_names: list[str]
    confusion: list[list[int]]


class TrainingEvent(Model):
    """The data of every ``training`` event of /api/events: a run changed (``id``), or the list of runs ("")."""

    id: str
    state: State
    step: int | None
    live: bool


class SnapshotRead(Model):
    """What a snapshot that was sent turned into; ``notes`` say what it doesn't tell."""

    run: TrainingRun
    notes: list[str]


class NewRace(Model):
    """Optimizers to race on the same batches, from the same first weights; each with a learning rate of its own.

    One of ``preset`` and ``definition`` as for a run; ``settings`` are shared, ``racers`` are what each has besides:
    ``{"adam": {"optimizer": "adam"}}``. Until each has taken ``steps``.
    """

    preset: Annotated[str, Field(max_length=64)] | None = None
    definition: Annotated[str, Field(max_length=TEXT_LIMIT)] | None = None
    data: Annotated[str, Field(max_length=64)] | None = None
    settings: Changes = Field(default_factory=dict)
    racers: Annotated[
        dict[Annotated[str, Field(min_length=1, max_length=40)], Changes], Field(min_length=1, max_length=12)
    ]
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    steps: Annotated[int, Field(ge=1, le=10_000_000)] = 2000


class Racer(Model):
    """One of the race: settings, curves (loss, accuracy, held_out_loss, held_out_accuracy), why it dropped out."""

    name: str
    settings: dict[str, Scalar]
    curves: list[Curve]
    failed: str


class Race(Model):
    """The race, if there is one: each racer has taken ``step`` of ``steps``."""

    state: Literal["none", "paused", "running", "finished", "failed"]
    step: int
    steps: int
    network: str
    data: str
    racers: list[Racer]
    error: str
