"""A View's call written out as Python and as a shell command: what "copy as Python" and "as command" hand over."""

from __future__ import annotations

import shlex
from dataclasses import fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convscope.methods.base import Method

# A batch knows its images' names, not where they lie.
_FOLDER = "photos/"


def python_text(source: str, method: Method, target: str, names: Sequence[str] = ()) -> str:
    """Lines of Python that compute a View again; ``source`` is the network's model spec, ``names`` the images'.

    >>> from convscope.methods.weights import Weights
    >>> print(python_text("torchvision:resnet18", Weights(slices=0), "conv1", ["cat.jpg"]))
    import convscope as cs
    network = cs.load("torchvision:resnet18")
    images = cs.load_images("photos/")  # cat.jpg
    view = network.view("weights", "conv1", images, slices=0)
    """
    network = f"cs.load({_quoted(source)})" if source else "cs.Network.from_module(module)"
    lines = ["import convscope as cs", f"network = {network}"]
    arguments = [_quoted(method.name)]
    if target:
        arguments.append(_quoted(target))
    if names:
        lines.append(f"images = cs.load_images({_quoted(_FOLDER)})  # {_listed(names)}")
        arguments.append("images" if target else "images=images")
    arguments += [f"{name}={_literal(value)}" for name, value in _changed(method).items()]
    return "\n".join([*lines, f"view = network.view({', '.join(arguments)})"])


def command_text(source: str, method: Method, target: str, names: Sequence[str] = ()) -> str:
    """A shell command that computes a View again, every word quoted for a POSIX shell.

    A network that came from Python, or a function as a parameter, has no command: the text is empty.

    >>> from convscope.methods.weights import Weights
    >>> command_text("torchvision:resnet18", Weights(slices=0), "conv1", ["cat.jpg"])
    'convscope view weights torchvision:resnet18 conv1 --slices 0 --images photos/'
    """
    if not source or not method.cacheable:
        return ""
    words = ["convscope", "view", method.name, source]
    if target:
        words.append(target)
    for name, value in _changed(method).items():
        option = f"--{name.replace('_', '-')}"
        words += [option if value else f"--no{option[1:]}"] if isinstance(value, bool) else [option, str(value)]
    if names:
        words += ["--images", _FOLDER]
    return shlex.join(words)


def _changed(method: Method) -> dict[str, object]:
    """The parameters that aren't at their defaults."""
    values = {each.name: (getattr(method, each.name), each.default) for each in fields(method)}
    return {name: value for name, (value, default) in values.items() if callable(value) or value != default}


def _literal(value: object) -> str:
    """A parameter's value in Python; a function by its name, for its author to have at hand."""
    if callable(value):
        return str(getattr(value, "__name__", repr(value)))
    return _quoted(value) if isinstance(value, str) else repr(value)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if text.isprintable() else repr(text)


def _listed(names: Sequence[str]) -> str:
    shown = [name if name.isprintable() else repr(name) for name in names[:3]]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
