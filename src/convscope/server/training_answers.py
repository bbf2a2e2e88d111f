"""From what trains and what is recorded to the HTTP interface's types."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from convscope.server import training_schema as schema
from convscope.server.answers import error_body

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from convscope.server.live_run import LiveRun
    from convscope.server.run_folder import RunFolder, Summary
    from convscope.server.training import Training
    from convscope.training.evaluation import Evaluation, Prediction
    from convscope.training.ledger import Event
    from convscope.view import Array

MOST_EVENTS = 1000


# ---- what there is to train ----------------------------------------------------------------------------------------


def training_answer(training: Training) -> schema.Training:
    """Presets, data, settings, the words of a definition."""
    from convscope.training.presets import DEFAULT, PRESETS
    from convscope.training.settings import OPTIMIZERS, describe

    usable = training.data.usable
    presets = []
    for each in PRESETS.values():
        definition = each.definition()
        presets.append(
            schema.Preset(
                name=each.name,
                title=each.title,
                explanation=each.explanation,
                text=each.text,
                layers=[_defined(row) for row in definition.rows()],
                parameters=definition.parameters,
                settings=each.settings.to_json(),
                wanted=each.data,
                data=each.data if each.data in usable else next(iter(usable), ""),
                source=each.source,
            )
        )
    return schema.Training(
        place=training.place,
        live=None if training.live is None else training.live.identity,
        job=training.job,
        failure=None if training.failure is None else error_body(training.failure),
        refused=training.refused,
        default_preset=DEFAULT,
        presets=presets,
        data=[_offer_answer(training, each) for each in training.data.offers],
        settings=[schema.Setting(**each) for each in describe()],
        optimizers=[
            schema.Optimizer(
                name=each.name,
                title=each.title,
                uses=list(each.uses),
                learning_rate=each.learning_rate,
                papers=list(each.papers),
            )
            for each in OPTIMIZERS.values()
        ],
        words=_words(),
    )


def _offer_answer(training: Training, offer: Any) -> schema.DataSource:
    data = training.data.known(offer)
    return schema.DataSource(
        id=offer.id,
        title=offer.title,
        missing=offer.missing,
        training_images=None if data is None else len(data.train),
        held_out_images=None if data is None else len(data.held_out),
        class_names=None if data is None else list(data.class_names),
        shape=None if data is None else data.shape,
    )


def _words() -> list[schema.LayerWord]:
    from convscope.training.options import options_of
    from convscope.training.spelling import LAYERS, LOSSES, Input

    kinds: list[tuple[Any, Any]] = [(Input, "input")]
    kinds += [(each, "layer") for each in LAYERS.values()] + [(each, "loss") for each in LOSSES.values()]
    found = []
    for kind, role in kinds:
        options = [
            schema.LayerOption(
                name=each.name,
                kind=each.kind,
                explanation=each.help,
                default=each.default,
                required=each.required,
                minimum=each.minimum,
                maximum=each.maximum,
                choices=list(each.choices),
            )
            for each in options_of(kind).values()
        ]
        found.append(schema.LayerWord(word=kind.word, role=role, explanation=kind.explanation, options=options))
    return found


def _defined(row: Mapping[str, Any]) -> schema.DefinedLayer:
    return schema.DefinedLayer(**{name: row[name] for name in schema.DefinedLayer.model_fields})


def check_answer(text: str, data: Any) -> schema.CheckedDefinition:
    """A text checked line by line, and against images (a Data, or None)."""
    from convscope.errors import ConvscopeError
    from convscope.training.definition import Definition, DefinitionError, check

    found = check(text)
    error: Any = found.error
    if error is None and data is not None:
        try:
            Definition.parse(text).with_classes(data.classes)
            shape = Definition.parse(text).input
            if shape.channels != data.shape[0] and {shape.channels, data.shape[0]} != {1, 3}:
                raise DefinitionError(
                    f"images of {data.shape[0]} channels for a network of {shape.channels}",
                    line=1,
                    layer="input",
                    next_step=f"write channels: {data.shape[0]}",
                )
        except ConvscopeError as problem:
            error = problem
    return schema.CheckedDefinition(
        layers=[_defined(row) for row in found.rows],
        parameters=found.parameters,
        error=None
        if error is None
        else schema.DefinitionProblem(
            what=error.what,
            line=getattr(error, "line", 0),
            layer=getattr(error, "layer", ""),
            next_step=error.next_step,
        ),
    )


# ---- runs ----------------------------------------------------------------------------------------------------------


def run_answer(summary: Summary, live: LiveRun | None) -> schema.TrainingRun:
    """A row of the list; ``live`` is the open run, if there is one."""
    return schema.TrainingRun(**_row(summary, live))


def _row(summary: Summary, live: LiveRun | None) -> dict[str, Any]:
    facts = summary.facts
    own = live is not None and live.identity == summary.id
    step = summary.step
    if live is not None and own:
        step = live.trainer.learner.steps
    optimizers = facts.get("optimizers")
    first = optimizers[0] if isinstance(optimizers, list) and optimizers else {}
    data = facts.get("data")
    parameters = facts.get("parameters")
    return {
        "id": summary.id,
        "name": summary.name,
        "state": live.trainer.state if live is not None and own else "recording" if summary.recording else "recorded",
        "live": own,
        "resumable": summary.resumable,
        "step": step,
        "created": summary.created,
        "seconds_ago": max(0.0, time.time() - summary.written),
        "network": str(facts.get("network") or facts.get("module") or "")[:200],
        "data": str(data.get("name", ""))[:200] if isinstance(data, dict) else "",
        "optimizer": str(first.get("kind", ""))[:80] if isinstance(first, dict) else "",
        "parameters": parameters if isinstance(parameters, int) else None,
        "problem": summary.problem,
    }


def runs_answer(summaries: Iterable[Summary], live: LiveRun | None) -> schema.TrainingRuns:
    """The whole list."""
    return schema.TrainingRuns(
        live=None if live is None else live.identity, runs=[run_answer(each, live) for each in summaries]
    )


def details_answer(summary: Summary, folder: RunFolder, live: LiveRun | None) -> schema.TrainingRunDetails:
    """Everything about a run but its curves and Views; waits for a step to end where it is live."""
    row = _row(summary, live)
    if live is not None and row["live"]:
        learner = live.trainer.learner
        run = live.recorded.monitor.run
        more: dict[str, Any] = {
            "seed": learner.seed,
            "definition": learner.definition.text(),
            "settings": learner.settings.to_json(),
            "statistics": statistics_answer(live.statistics()),
            "layers": [_live_layer(panel.to_json()) for panel in learner.panels.values()],
            "class_names": list(learner.given.class_names),
            "training_images": len(learner.data.train),
            "held_out_images": len(learner.data.held_out),
            "held_out": learner.given.split,
            "facts": _plain(run.facts),
            "recorded": _recorded(run),
        }
        events = list(live.trainer.events)
    else:
        with folder.reading(summary.id) as reader:
            more = _facts(reader.run.facts) | {"recorded": _recorded(reader.run)}
            events = list(reader.events)
    return schema.TrainingRunDetails(
        **row,
        **more,
        events=[event_answer(each) for each in events[-MOST_EVENTS:]],
        events_left_out=max(0, len(events) - MOST_EVENTS),
    )


def _facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the facts of a recorded run say, wherever they come from: anything may be missing or odd."""
    data = facts.get("data")
    about = data if isinstance(data, dict) else {}
    settings, seed = facts.get("settings"), facts.get("seed")
    names = facts.get("class_names")
    return {
        "seed": seed if type(seed) is int else None,
        "definition": str(facts.get("definition", "")),
        "settings": settings if _is_scalars(settings) else None,
        "statistics": None,
        "layers": [each for found in _list(facts.get("layers")) if (each := _recorded_layer(found)) is not None],
        "class_names": [str(each)[:200] for each in _list(names)],
        "training_images": _count(about.get("training_images")),
        "held_out_images": _count(about.get("held_out_images")),
        "held_out": str(about.get("held_out", ""))[:200],
        "facts": _plain(facts),
    }


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _count(value: Any) -> int | None:
    return value if type(value) is int else None


def _is_scalars(value: Any) -> bool:
    return isinstance(value, dict) and all(
        each is None or isinstance(each, bool | int | float) or (isinstance(each, str) and len(each) <= 100)
        for each in value.values()
    )


def _plain(value: Any) -> dict[str, Any]:
    """JSON as everybody reads it: numbers that aren't finite become their names."""
    found: dict[str, Any] = json.loads(json.dumps(dict(value), default=str), parse_constant=str)
    return found


def _live_layer(panel: Mapping[str, Any]) -> schema.RunLayer:
    return schema.RunLayer(**{**panel, "layout": panel["layout"] or ""})


def _recorded_layer(found: Any) -> schema.RunLayer | None:
    try:
        return schema.RunLayer(
            name=found["address"],
            kind=found["kind"],
            title=found["address"],
            details=found["operation"],
            shape=(found["units"], found["rows"], found["columns"]),
            parameters=found["parameters"],
            count="",
            layout="",
        )
    except (KeyError, TypeError, ValueError):
        return None


def _recorded(run: Any) -> list[schema.RecordedName]:
    from convscope.training.run import split_view_name

    found = []
    for full in run.names():
        name, layer = split_view_name(full)
        steps = run.steps(full)
        if steps:
            found.append(schema.RecordedName(name=name, layer=layer, count=len(steps), first=steps[0], last=steps[-1]))
    return found


def event_answer(event: Event) -> schema.Event:
    """Something that happened."""
    found = event.to_json()
    texts = {
        name: value[:100] if isinstance(value, str) else value
        for name, value in found.items()
        if name in ("old", "new")
    }
    return schema.Event(**{**found, **texts})


def statistics_answer(found: Mapping[str, Any]) -> schema.Statistics:
    """The numbers of a live run, as frames have them too."""
    held = found["held_out"]
    plain = {name: value for name, value in found.items() if name not in ("held_out", "settings", "error")}
    without = None if held is None else {name: value for name, value in held.items() if name != "confusion"}
    return schema.Statistics(
        **_finite(plain), held_out=None if without is None else schema.HeldOut(**without), error=found["error"] or ""
    )


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _number(value) if isinstance(value, float) else value for name, value in values.items()}


def curves_answer(step: int | None, curves: Mapping[str, tuple[Array, Array]], points: int) -> schema.Curves:
    """Curves of at most so many points: means over neighboring ones."""
    return schema.Curves(step=step, curves=[curve_answer(name, *curve, points) for name, curve in curves.items()])


def curve_answer(name: str, steps: Array, values: Array, points: int) -> schema.Curve:
    """One of them."""
    import numpy as np

    width = -(-len(steps) // points) if points else 1
    if width > 1:
        ends = np.append(np.arange(width, len(steps), width), len(steps))
        counts = np.diff(ends, prepend=0)
        with np.errstate(invalid="ignore"):
            values = np.add.reduceat(values, ends - counts) / counts
        steps = steps[ends - 1]
    return schema.Curve(
        name=name,
        steps=steps.tolist(),
        values=[each if np.isfinite(each) else None for each in values.tolist()],
    )


# ---- what the network takes images for -----------------------------------------------------------------------------


def predicted_answer(found: Prediction, class_names: Sequence[str]) -> schema.Predicted:
    """One image's classes, the best first."""
    finite = [
        schema.Ranked(
            class_index=index,
            class_name=class_names[index],
            score=_number(score),
            probability=None if probability is None else _number(probability),
        )
        for index, score, probability in found.top
    ]
    return schema.Predicted(
        index=found.index,
        label=found.label,
        label_name="" if found.label is None else class_names[found.label],
        correct=None if found.label is None else found.top[0][0] == found.label,
        top=finite,
    )


def _number(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def confusion_answer(found: Evaluation, class_names: Sequence[str]) -> schema.Confusion:
    """The confusion matrix and the numbers beside it."""
    plain = found.to_json()
    confusion = plain.pop("confusion")
    return schema.Confusion(held_out=schema.HeldOut(**plain), class_names=list(class_names), confusion=confusion)


__all__ = [
    "check_answer",
    "confusion_answer",
    "curve_answer",
    "curves_answer",
    "details_answer",
    "event_answer",
    "predicted_answer",
    "run_answer",
    "runs_answer",
    "statistics_answer",
    "training_answer",
]
