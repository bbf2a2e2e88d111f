"""A View's call written out as Python and as a shell command: what "copy as Python" and "as command" hand over."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping

# The images' place when nobody said it: a tensor, or pictures made in Python.
_FOLDER = "photos/"
_STUDY = "study/"

# What `convscope view` has options for itself: how a network is opened, where images and results are.
_TAKEN = frozenset(
    "model target weights trust image_size mean std scale channels resize interpolation output_name class_names device "
    "images debug output pick study as_json json help".split()
)


def option_name(parameter: str) -> str:
    """A method's parameter among the shell's own options; one that is taken gets the word method before it.

    >>> option_name("steps"), option_name("scale")
    ('steps', 'method_scale')
    """
    return f"method_{parameter}" if parameter in _TAKEN and parameter != "study" else parameter


@runtime_checkable
class Parameterized(Protocol):
    """As much of a method as writing down its call takes."""

    @property
    def name(self) -> str:
        """The method's name."""
        ...

    @property
    def cacheable(self) -> bool:
        """False when a parameter is a function."""
        ...


@dataclass(frozen=True)
class Written:
    """One call: a network's model spec and what was said beside it, the method, its target, and the images.

    ``ids`` are the images' ids in ``images``, where a person would load them from.

    >>> from convscope.methods.weights import Weights
    >>> call = Written("torchvision:resnet18", {"weights": "w.pt"}, Weights(slices=0), "conv1", "cats/", (3,), ("tom",))
    >>> print(call.python())
    import convscope as cs
    network = cs.load("torchvision:resnet18", weights="w.pt")
    images = cs.load_images("cats/")[[3]]  # tom
    view = network.view("weights", "conv1", images, slices=0)
    >>> call.command()
    'convscope view weights torchvision:resnet18 conv1 --slices 0 --weights w.pt --images cats/ --pick 3'
    """

    spec: str
    loaded_with: Mapping[str, Any]
    method: Parameterized
    target: str = ""
    images: str = ""
    ids: tuple[int, ...] = ()
    names: tuple[str, ...] = ()

    def python(self) -> str:
        """Lines of Python that compute the View again."""
        beside = "".join(f", {name}={_literal(value)}" for name, value in self.loaded_with.items())
        network = f"cs.load({_quoted(self.spec)}{beside})" if self.spec else "cs.Network.from_module(module)"
        lines = ["import convscope as cs", f"network = {network}"]
        arguments = [_quoted(self.method.name)]
        if self.target:
            arguments.append(_quoted(self.target))
        if self.names:
            part = f"[[{', '.join(map(str, self.ids))}]]" if self.images and self.ids else ""
            lines.append(f"images = cs.load_images({_quoted(self.images or _FOLDER)}){part}  # {_listed(self.names)}")
            arguments.append("images" if self.target else "images=images")
        arguments += [f"{name}={_literal(value)}" for name, value in _changed(self.method).items()]
        return "\n".join([*lines, f"view = network.view({', '.join(arguments)})"])

    def command(self) -> str:
        """A shell command that computes the View again, every word quoted for a POSIX shell.

        A network that came from Python, or a function as a parameter, has no command: the text is empty.
        """
        if not self.spec or not self.method.cacheable:
            return ""
        words = ["convscope", "view", self.method.name, self.spec]
        if self.target:
            words.append(self.target)
        for name, value in _changed(self.method).items():
            words += _option(option_name(name), value)
        for name, value in self.loaded_with.items():
            # -o is the file a picture goes to, so the network's output has a longer name in the shell.
            words += _option({"output": "output_name"}.get(name, name), value)
        if self.names:
            words += ["--images", self.images or _FOLDER]
        if self.names and self.images and self.ids:
            words += ["--pick", ",".join(map(str, self.ids))]
        return shlex.join(words)


def mining_command(spec: str, loaded_with: Mapping[str, Any], images: str, study: str) -> str:
    """A shell command that mines a network's top patches; empty for a network that came from Python.

    >>> mining_command("torchvision:resnet18", {"weights": "w.pt"}, "photos/", "")
    'convscope mine torchvision:resnet18 --weights w.pt --images photos/ --study study/'
    """
    if not spec:
        return ""
    words = ["convscope", "mine", spec]
    for name, value in loaded_with.items():
        words += _option({"output": "output_name"}.get(name, name), value)
    return shlex.join([*words, "--images", images or _FOLDER, "--study", study or _STUDY])


def _option(name: str, value: object) -> list[str]:
    option = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [option if value else f"--no{option[1:]}"]
    if isinstance(value, tuple | list):
        return [option, ",".join(map(str, value))]
    return [option, str(value)]


def _changed(method: Parameterized) -> dict[str, object]:
    """The parameters that aren't at their defaults."""
    values = {each.name: (getattr(method, each.name), each.default) for each in fields(method)}  # type: ignore[arg-type]
    return {name: value for name, (value, default) in values.items() if callable(value) or value != default}


def _literal(value: object) -> str:
    """A parameter's value in Python; a function by its name, for its author to have at hand."""
    if callable(value):
        return str(getattr(value, "__name__", repr(value)))
    return _quoted(value) if isinstance(value, str) else repr(value)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if text.isprintable() else repr(text)


def _listed(names: tuple[str, ...]) -> str:
    shown = [name if name.isprintable() else repr(name) for name in names[:3]]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
