"""Method: one way of looking at a network, with its parameters declared once; and the registry of all methods.

A method is a final frozen dataclass. Its fields are its parameters: they become command-line options, the page's form,
the docs table and the cache key. :meth:`Method.run` is the only way in; a method writes :meth:`Method.compute`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from convscope._version import __version__
from convscope.errors import ConvscopeError, Refused, UnknownName, suggest
from convscope.methods.call_text import Written
from convscope.network.unit import Unit, split_address
from convscope.view import Recipe, View

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convscope.network.batch import Batch, ImagesLike
    from convscope.network.layer import Layer
    from convscope.network.network import Network

TargetKind = Literal["unit", "layer", "network", "objective"]
Need = Literal["images", "labels", "study"]

LARGEST = 1e38
"""Of a parameter: what is larger would overflow in the float32 of a network."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method, as every interface shows it."""

    name: str
    type: type
    default: Any
    help: str
    choices: tuple[Any, ...] = ()
    minimum: float | int | None = None  # both spelled out: the tests check types at run time
    maximum: float | int | None = None

    def check(self, method: str, value: Any) -> Any:
        """The value, converted from text where needed; raises with the allowed values when it doesn't fit."""
        where = f"{method}, parameter {self.name}"
        if isinstance(value, str) and self.type is not str:
            try:
                value = _from_text(self.type, value)
            except ValueError as error:
                raise ConvscopeError(
                    f"{value[:80]!r} isn't a {self.type.__name__}", where=where, next_step=self.help
                ) from error
        if self.type is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value) if abs(value) < LARGEST else inf
        if isinstance(value, float) and not abs(value) <= LARGEST:  # nor is NaN
            raise ConvscopeError(f"{value} is no number to compute with", where=where, next_step=self.help)
        # A callable is allowed where text is: an objective of the user's own, in the library only.
        if not isinstance(value, self.type) and not (self.type is str and callable(value)):
            raise ConvscopeError(f"{value!r} isn't a {self.type.__name__}", where=where, next_step=self.help)
        if self.choices and value not in self.choices:
            allowed = ", ".join(map(str, self.choices))
            raise ConvscopeError(f"{value!r} isn't one of {allowed}", where=where, next_step=self.help)
        too_small = self.minimum is not None and value < self.minimum
        too_large = self.maximum is not None and value > self.maximum
        if too_small or too_large:
            raise ConvscopeError(
                f"{value!r} is outside {self.minimum} … {self.maximum}", where=where, next_step=self.help
            )
        return value


def _from_text(kind: type, text: str) -> Any:
    if kind is bool:
        if text.lower() in ("1", "true", "yes", "on"):
            return True
        if text.lower() in ("0", "false", "no", "off"):
            return False
        raise ValueError(text)
    return kind(text)


def parameter(default: Any, help: str, **constraints: Any) -> Any:  # noqa: A002 - reads as it is shown
    """A field that is a method's parameter: default, a line of help, ``choices``, ``minimum``, ``maximum``."""
    return field(default=default, metadata={"help": help, **constraints})


@dataclass(frozen=True)
class Target:
    """What a method looks at: a layer call, possibly one channel of it, possibly at one position; or the network."""

    layer: Layer | None = None
    channel: int | None = None
    position: tuple[int, int] | None = None

    def __str__(self) -> str:
        if self.layer is None:
            return ""
        if self.channel is None:
            return self.layer.address
        return str(Unit(self.layer.address, self.channel, *(self.position or (None, None))))


@dataclass(frozen=True)
class Method(ABC):
    """Base of every method; subclasses are final.

    ``target`` is the coarsest thing it can look at: a "layer" method also takes a unit of a layer, a "unit" method
    takes units only, a "network" method takes no target. An "objective" method takes a unit, or no target: then its
    parameter ``objective`` says what it looks at.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    papers: ClassVar[tuple[str, ...]] = ()
    target: ClassVar[TargetKind] = "layer"
    needs: ClassVar[tuple[Need, ...]] = ()
    formula: ClassVar[str] = ""
    caveat: ClassVar[str] = ""
    # Whether a store should keep its Views: not where they are only read off what the store holds already.
    kept: ClassVar[bool] = True
    # Whether it may take minutes. It then reports at least every second, with nothing of its own left on the module
    # while it does, so that whoever runs it can let others use the network in between.
    long: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for declared in self.parameters():
            object.__setattr__(self, declared.name, declared.check(self.name, getattr(self, declared.name)))

    @classmethod
    def parameters(cls) -> tuple[Parameter, ...]:
        """The parameters in declaration order. A parameter's type is its default's type."""
        declared = []
        for each in fields(cls):
            if each.default is MISSING:
                raise TypeError(f"{cls.__name__}.{each.name} needs a default")
            declared.append(Parameter(each.name, type(each.default), each.default, **each.metadata))
        return tuple(declared)

    @classmethod
    def make(cls, parameters: Mapping[str, Any]) -> Method:
        """A method from parameter values (text is converted); an unknown name is refused with the nearest known one."""
        known = [each.name for each in cls.parameters()]
        for name in parameters:
            if name not in known:
                raise UnknownName(
                    f"{cls.name} has no parameter {name!r}",
                    next_step=suggest(name, known) or f"it has {', '.join(known) or 'none'}",
                )
        # Text is converted before the constructor sees it, whose own types say int where the text says "9".
        declared = {each.name: each for each in cls.parameters()}
        return cls(**{name: declared[name].check(cls.name, value) for name, value in parameters.items()})

    def values(self) -> dict[str, Any]:
        """The parameters' values; a callable is shown by its name."""
        values = {each.name: getattr(self, each.name) for each in self.parameters()}
        return {name: getattr(v, "__name__", repr(v)) if callable(v) else v for name, v in values.items()}

    @property
    def cacheable(self) -> bool:
        """False when a parameter is a callable: its name doesn't tell what it computes."""
        return not any(callable(getattr(self, each.name)) for each in self.parameters())

    def recipe(self, network: Network, target: str | Unit = "", batch: Batch | None = None) -> Recipe:
        """What decides the numbers; computing it costs no forward pass beyond the layer table's."""
        return Recipe(
            method=self.name,
            parameters=self.values(),
            target=str(self.resolve(network, target)),
            network=network.fingerprint,
            images=batch.fingerprints if batch else (),
            labels=batch.labels if batch else (),
            versions={"convscope": __version__},
        )

    def resolve(self, network: Network, target: str | Unit = "") -> Target:
        """Check a target against this network and this method; raises with the next step when it doesn't fit."""
        text = str(target)
        if self.target == "network":
            if text:
                raise ConvscopeError(f"{self.name} looks at the whole network", next_step=f"leave out {text!r}")
            return Target()
        if not text and self.target == "objective":
            return Target()
        if not text:
            raise ConvscopeError(
                f"{self.name} needs a target",
                next_step="name a layer, like layer1.0.conv1, or a unit, like layer1.0.conv1:3",
            )
        layer_name, channel, position = split_address(text)
        layer = network.layer(layer_name)
        if channel is None and self.target in ("unit", "objective"):
            raise ConvscopeError(
                f"{self.name} looks at one unit", where=text, next_step=f"add a channel, like {text}:0"
            )
        if channel is not None:
            layer.check_unit(channel, position)
        if self.target == "objective":
            self._check_one_objective(text)
        return Target(layer, channel, position)

    def _check_one_objective(self, target: str) -> None:
        asked = {each.name: each.default for each in self.parameters()}.get("objective")
        given = getattr(self, "objective", asked)
        if given != asked:
            raise ConvscopeError(
                f"{self.name} explains one thing, but was given the unit {target} and the objective {given}",
                next_step="leave one of them out",
            )

    def run(self, network: Network, target: str | Unit = "", images: ImagesLike | None = None) -> View:
        """Compute the View. ``images``: an ImageSet, a Batch, or a tensor ``[image, channel, row, column]``."""
        batch = network.batch(images) if images is not None else None
        resolved = self.resolve(network, target)
        if "images" in self.needs and batch is None:
            raise ConvscopeError(f"{self.name} needs images", next_step="pass images=, or --images on the command line")
        if "labels" in self.needs and (batch is None or None in batch.labels):
            raise ConvscopeError(f"{self.name} needs a label for every image", next_step="use one folder per class")
        refusal = self.refusal(network, resolved)
        if refusal is not None:
            raise refusal
        view = self.compute(network, resolved, batch)
        call = self.call(network, resolved, batch)
        meta = {
            **view.meta,
            "images": list(batch.names) if batch else [],
            "python": call.python(),
            "command": call.command(),
        }
        return View(view.kind, view.arrays, view.axes, meta, self.recipe(network, target, batch))

    def call(self, network: Network, target: Target, batch: Batch | None) -> Written:
        """Such a call, to be written out as Python and as a command. Of the batch its pixels aren't read."""
        images = (batch.location, batch.ids, batch.names) if batch else ()
        return Written(network.source, network.loaded_with, self, str(target), *images)

    def refusal(self, network: Network, target: Target) -> ConvscopeError | None:  # noqa: ARG002 - for subclasses
        """Why this can't be computed, as far as that is known without any computing; None if nothing is known."""
        return None

    @abstractmethod
    def compute(self, network: Network, target: Target, batch: Batch | None) -> View:
        """The method itself. ``target`` and ``batch`` are already checked against ``target`` and ``needs``."""


GROUP = "convscope.methods"


@cache
def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def method_names() -> tuple[str, ...]:
    """Every registered method, built-in or from another package, in alphabetical order."""
    return tuple(sorted(_entries()))


def method_class(name: str) -> type[Method]:
    """The method called ``name``; :class:`UnknownName` if there is none, :class:`Refused` if it can't be imported."""
    entries = _entries()
    if name not in entries:
        raise UnknownName(
            f"no method called {name[:80]!r}", next_step=suggest(name, entries) or "list them with `convscope methods`"
        )
    try:
        found = entries[name].load()
    except Exception as error:
        raise Refused(
            f"the method {name!r} can't be imported: {type(error).__name__}: {error}",
            where=entries[name].value,
            next_step="reinstall the package that provides it",
        ) from error
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise Refused(f"the method {name!r} isn't a Method", where=entries[name].value)
    return found


def run_method(
    network: Network,
    name: str,
    target: str | Unit = "",
    images: ImagesLike | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> View:
    """Run the method called ``name``; what ``network.view`` does."""
    return method_class(name).make(parameters or {}).run(network, target, images)


def describe(cls: type[Method]) -> dict[str, Any]:
    """A method as plain JSON values: what `convscope methods --json`, the docs and the page's help read."""
    return {
        "name": cls.name,
        "title": cls.title,
        "summary": (cls.__doc__ or "").strip(),
        "papers": list(cls.papers),
        "target": cls.target,
        "needs": list(cls.needs),
        "formula": cls.formula,
        "caveat": cls.caveat,
        "long": cls.long,
        "class_sensitive": getattr(cls, "class_sensitive", None),
        "parameters": [
            {
                "name": each.name,
                "type": each.type.__name__,
                "default": each.default,
                "help": each.help,
                "choices": list(each.choices),
                "minimum": each.minimum,
                "maximum": each.maximum,
            }
            for each in cls.parameters()
        ],
    }


__all__ = [
    "GROUP",
    "Method",
    "Parameter",
    "Target",
    "describe",
    "method_class",
    "method_names",
    "parameter",
    "run_method",
]
