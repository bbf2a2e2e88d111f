"""The options of a layer in a text definition: what each may be, checked without ever evaluating anything."""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Literal

from convscope.errors import ConvscopeError, UnknownName, suggest

Kind = Literal["integer", "number", "pair", "truth", "word", "numbers", "layers"]
Scalar = bool | int | float | str | None


@dataclass(frozen=True)
class Option:
    """One option of a kind of layer, as the definition's reference and the page's form show it."""

    name: str
    kind: Kind
    help: str
    default: Any = None
    required: bool = False
    minimum: float | int | None = None
    maximum: float | int | None = None
    choices: tuple[str, ...] = ()

    def check(self, value: Any) -> Any:
        """The value in its own type; raises with what is allowed. A pair may be given as one number."""
        if self.kind == "truth":
            return self._expect(value, isinstance(value, bool))
        if self.kind == "word":
            return self._word(value)
        if self.kind == "pair":
            both = value if isinstance(value, list | tuple) else [value, value]
            if len(both) != 2:
                raise self._wrong(value)
            return tuple(self._number(each, whole=True) for each in both)
        if self.kind == "numbers" and isinstance(value, list | tuple):
            return tuple(self._number(each, whole=False) for each in value)
        if self.kind == "layers":
            return self._expect(value, isinstance(value, tuple))
        return self._number(value, whole=self.kind == "integer")

    def _number(self, value: Any, *, whole: bool) -> int | float:
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise self._wrong(value)
        low, high = self.minimum, self.maximum
        if (low is not None and value < low) or (high is not None and value > high):
            raise ConvscopeError(f"{self.name} {value} is outside {low:g} … {high:g}", next_step=self.allowed())
        return int(value) if whole else float(value)

    def _word(self, value: Any) -> str:
        if not isinstance(value, str) or value not in self.choices:
            hint = suggest(str(value)[:40], self.choices)
            raise ConvscopeError(f"{self.name} {_shown(value)} isn't known", next_step=hint or self.allowed())
        return value

    def _expect(self, value: Any, fits: bool) -> Any:
        if not fits:
            raise self._wrong(value)
        return value

    def _wrong(self, value: Any) -> ConvscopeError:
        return ConvscopeError(f"{self.name} can't be {_shown(value)}", next_step=self.allowed())

    def allowed(self) -> str:
        """What the option may be, in words."""
        between = f"from {self.minimum:g} to {self.maximum:g}" if self.minimum is not None else ""
        return {
            "integer": f"write {self.name} as a whole number {between}",
            "number": f"write {self.name} as a number {between}",
            "pair": f"write {self.name} as a whole number {between}, or as [rows, columns]",
            "truth": f"write {self.name} as true or false",
            "word": f"{self.name} is one of {', '.join(self.choices)}",
            "numbers": f"write {self.name} as a number {between}, or a list of one for each channel",
            "layers": f"write {self.name} as a list of layers",
        }[self.kind].strip()


def option(kind: Kind, help: str, default: Any = MISSING, **limits: Any) -> Any:  # noqa: A002 - reads as it is shown
    """A field of a layer's dataclass that the definition may set; without a default it must be given."""
    return field(default=default, metadata={"option": {"kind": kind, "help": help, **limits}})


def options_of(kind: type) -> dict[str, Option]:
    """The options of a kind of layer by name, in the order of declaration."""
    found: tuple[Field[Any], ...] = fields(kind)
    return {
        each.name: Option(
            each.name,
            required=each.default is MISSING,
            default=None if each.default is MISSING else each.default,
            **each.metadata["option"],
        )
        for each in found
        if "option" in each.metadata
    }


def check_options(kind: type, word: str, given: dict[str, Any]) -> dict[str, Any]:
    """The values for a kind of layer; raises for an unknown, missing or wrong one."""
    known = options_of(kind)
    for name in given:
        if name not in known:
            step = suggest(name, known) or (f"it has {', '.join(known)}" if known else "leave it out")
            raise UnknownName(f"{word} has no option {name[:40]!r}", next_step=step)
    for each in known.values():
        if each.required and each.name not in given:
            raise ConvscopeError(f"{word} needs {each.name}", next_step=each.allowed())
    return {name: known[name].check(value) for name, value in given.items()}


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return repr(value[:40])
    if value is None:
        return "nothing"
    if isinstance(value, list | tuple):
        return "a list"
    return "a mapping" if isinstance(value, dict) else str(value)[:40]


__all__ = ["Kind", "Option", "Scalar", "check_options", "option", "options_of"]
