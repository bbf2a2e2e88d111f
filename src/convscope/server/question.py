"""Question: a request for a View, checked against the network before anything is computed; and what can be asked.

What a client sends is a method's name, an address, ids of images and texts. None of it is a path, and a study is always
the session's own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convscope.errors import ConvscopeError, Refused
from convscope.methods.base import describe, method_class, method_names
from convscope.network.unit import split_address

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from convscope.images import ImageSet
    from convscope.methods.base import Method
    from convscope.methods.call_text import Written
    from convscope.network.batch import Batch
    from convscope.network.network import Network
    from convscope.server.study import Studying
    from convscope.view import Recipe

IMAGES_PER_VIEW = 256
LONGEST_TEXT = 2000
LARGEST_NUMBER = 1e300
STUDY = "study"
JSON_PARAMETER = "of_parameters"
"""What a method calls the parameter that holds another method's parameters, as a JSON object."""


class Replaced(ConvscopeError):
    """What is asked about isn't open any more: another network took its place."""


@dataclass(frozen=True)
class Opened:
    """What a session shows: the network, the images, and where they came from in the user's words.

    ``explored`` says which run the network was taken from, with its step, where it is being trained here.
    """

    network: Network
    images: ImageSet
    image_source: str
    explored: tuple[str, str, int] | None = None  # the run's id, its name, the step


@dataclass(frozen=True)
class Question:
    """A request for a View, checked against the network: everything is known but the numbers. ``call`` is the same, as
    a person would write it.
    """

    opened: Opened
    method: Method
    target: str
    ids: tuple[int, ...]
    recipe: Recipe
    call: Written


def ask(
    opened: Opened, studying: Studying, name: str, target: str, ids: Sequence[int], parameters: Mapping[str, str]
) -> Question:
    """Check a request; raises with the next step when it doesn't fit this network. Reads files; runs nothing."""
    if len(ids) > IMAGES_PER_VIEW:
        raise ConvscopeError(
            f"{len(ids)} images in one view", next_step=f"choose {IMAGES_PER_VIEW} at most", where=name[:80]
        )
    images = opened.images[tuple(ids)]
    method = make_method(opened, studying, name, ids, parameters)
    if "images" in method.needs and not ids:
        raise ConvscopeError(f"{name} needs images", next_step="choose at least one image")
    resolved = method.resolve(opened.network, target)
    refusal = method.refusal(opened.network, resolved)
    if refusal is not None:
        raise refusal
    identity = _identity(opened.network, images)
    recipe = method.recipe(opened.network, target, identity)
    return Question(opened, method, target, tuple(ids), recipe, method.call(opened.network, resolved, identity))


def make_method(
    opened: Opened, studying: Studying, name: str, ids: Sequence[int], parameters: Mapping[str, str]
) -> Method:
    """The method with its parameters; a study is always the session's own, never a folder that a client names."""
    cls = method_class(name)
    for each, text in parameters.items():
        if len(text) > LONGEST_TEXT:
            raise ConvscopeError(
                f"{each[:80]} is {len(text):,} characters long", where=name, next_step=f"write {LONGEST_TEXT} at most"
            )
    declared = {each.name for each in cls.parameters()}
    if JSON_PARAMETER in declared:
        check_json(parameters.get(JSON_PARAMETER, ""))
    if STUDY not in declared:
        return cls.make(parameters)
    if STUDY in parameters:
        raise ConvscopeError(f"{name} shows this session's own study", next_step=f"leave out {STUDY}")
    return cls.make({**parameters, STUDY: _study_for(cls, opened, studying, ids)})


def _study_for(cls: type[Method], opened: Opened, studying: Studying, ids: Sequence[int]) -> str:
    """The session's folder; "" for a method that can do without, where images are given or nothing was mined."""
    if ids and "study" not in cls.needs:
        return ""
    if "study" in cls.needs:
        studying.required(opened.network, opened.images)
        return str(studying.store.path)
    try:
        found = studying.found(opened.network, opened.images)
    except Refused:
        found = None
    return "" if found is None else str(studying.store.path)


def check_json(text: str) -> None:
    """Refuse what isn't one flat object of numbers, words and yes or no; the method itself checks the names.

    >>> check_json('{"steps": 20, "baseline": "blur"}')
    """
    if not text:
        return
    where = f"the parameter {JSON_PARAMETER}"
    step = 'write a JSON object like {"steps": 20}'

    def no_number(word: str) -> float:
        raise ValueError(f"{word} isn't a number")

    try:
        found = json.loads(text, parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        raise ConvscopeError("this isn't JSON", where=where, next_step=step) from error
    if not isinstance(found, dict):
        raise ConvscopeError("this isn't a JSON object", where=where, next_step=step)
    for name, value in found.items():
        if name == STUDY:
            raise ConvscopeError("a study is this session's own", where=where, next_step=f"leave out {STUDY}")
        number = isinstance(value, int | float) and abs(value) <= LARGEST_NUMBER
        if not (number or isinstance(value, str)):
            raise ConvscopeError(f"{name[:40]!r} isn't a number, a word, or true or false", where=where, next_step=step)


def _identity(network: Network, images: ImageSet) -> Batch | None:
    """As much of a batch as a recipe and a written call read; preparing pixels can wait until the store has nothing."""
    if not len(images):
        return None
    import torch

    from convscope.network.batch import Batch

    return Batch(
        torch.empty(len(images), 0, 0, 0),
        tuple(image.fingerprint for image in images),
        tuple(image.name for image in images),
        tuple(network.class_of(image) for image in images),
        location=images.location,
        ids=tuple(image.id for image in images),
    )


def describe_methods() -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Every method as plain values, and those that can't be imported as {name, reason}."""
    described, unavailable = [], []
    for name in method_names():
        try:
            found = describe(method_class(name))
        except ConvscopeError as error:
            unavailable.append({"name": name, "reason": str(error)})
            continue
        # The page can't choose a study: it has one.
        own = [each for each in found["parameters"] if each["name"] != STUDY]
        described.append({**found, "parameters": own, "study": len(own) < len(found["parameters"])})
    return described, unavailable


def refusals(opened: Opened, studying: Studying, target: str) -> dict[str, ConvscopeError | None]:
    """What each method says against this target before anything is computed; None where that is nothing.

    A method that can do without a target is asked about the whole network where it doesn't take this one. Raises
    :class:`UnknownName` for a target that isn't there.
    """
    if target:
        address, channel, position = split_address(target)
        layer = opened.network.layer(address)
        if channel is not None:
            layer.check_unit(channel, position)
    return {name: _refusal(opened, studying, name, target) for name in method_names()}


def _refusal(opened: Opened, studying: Studying, name: str, target: str) -> ConvscopeError | None:
    try:
        method = method_class(name).make({})
        if "study" in method.needs:
            studying.required(opened.network, opened.images)
        if not target and method.target in ("layer", "unit"):
            return None
        try:
            resolved = method.resolve(opened.network, target)
        except ConvscopeError:
            if method.target in ("layer", "unit"):
                raise
            resolved = method.resolve(opened.network)
        return method.refusal(opened.network, resolved)
    except ConvscopeError as error:
        return error


__all__ = [
    "IMAGES_PER_VIEW",
    "Opened",
    "Question",
    "Replaced",
    "ask",
    "check_json",
    "describe_methods",
    "make_method",
    "refusals",
]
