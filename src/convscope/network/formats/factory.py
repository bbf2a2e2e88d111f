"""A user's own network: ``package.module:factory`` or ``path/to/file.py:factory``.

The factory is Python code and runs with all rights of whoever opens it. It is called without arguments and returns an
``nn.Module`` or a :class:`Network`; an ``nn.Module`` class or instance does as well.
"""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from convscope.errors import ConvscopeError, UnknownName, suggest
from convscope.network.formats import checkpoint
from convscope.network.formats.random_weights import RANDOM, seeded
from convscope.network.network import Network

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

FORM = "package.module:factory or path/to/file.py:factory"
_SPEC = re.compile(r"(?P<file>.+\.py):(?P<attribute>[\w.]+)|(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<name>[\w.]+)")


def match(source: str) -> bool:
    """Whether this file opens such a spec.

    >>> match("models.lenet:build"), match("models/lenet.py:build"), match("models.lenet")
    (True, True, False)
    """
    return _SPEC.fullmatch(source) is not None


def open(source: str, *, weights: str | None = None, trust: bool = False, **preprocessing: Any) -> Network:  # noqa: A001
    """The network that the factory makes, with the weights of a file where one is given."""
    if weights == RANDOM:
        weights = None
    with seeded():
        made = _make(source)
    module = made.module if isinstance(made, Network) else made
    if weights is not None:
        checkpoint.load_into(module, checkpoint.read(weights, trust=trust), where=Path(weights).name)
    if isinstance(made, Network):
        if preprocessing:
            raise ConvscopeError(
                f"the factory returns a Network, which has its own {', '.join(preprocessing)}",
                where=source,
                next_step="leave these out, or return the nn.Module",
            )
        if weights is None:
            return made
        # A new handle, because a Network's fingerprint and layer table were taken of the weights it was made with.
        return Network(
            module, made.preprocessing, name=made.name, source=source, class_names=made.class_names, output=made.output
        )
    return Network.from_module(module, **{"source": source, "name": type(module).__name__, **preprocessing})


def _make(source: str) -> nn.Module | Network:
    factory = _find(source)
    if isinstance(factory, (nn.Module, Network)):
        return factory
    try:
        made = factory()
    except ConvscopeError:
        raise
    except Exception as error:
        raise ConvscopeError(
            f"the factory failed: {type(error).__name__}: {str(error)[:200].rstrip('.')}",
            where=source,
            next_step="it is called without arguments; try that in Python",
        ) from error
    if not isinstance(made, (nn.Module, Network)):
        raise ConvscopeError(
            f"the factory returned a {type(made).__name__}", where=source, next_step="return an nn.Module"
        )
    return made


def _find(source: str) -> Any:
    matched = _SPEC.fullmatch(source)
    if matched is None:
        raise UnknownName(f"{source[:80]!r} names no factory", next_step=f"write {FORM}")
    attributes = (matched["attribute"] or matched["name"]).split(".")
    found: Any = _import_file(Path(matched["file"])) if matched["file"] else _import_module(matched["module"])
    for attribute in attributes:
        if not hasattr(found, attribute):
            known = [name for name in dir(found) if callable(getattr(found, name, None))]
            raise UnknownName(
                f"no {attribute!r} in {getattr(found, '__name__', 'it')}",
                where=source,
                next_step=suggest(attribute, known) or "check the spelling",
            )
        found = getattr(found, attribute)
    if not callable(found):
        raise ConvscopeError(
            f"{attributes[-1]!r} is a {type(found).__name__}", where=source, next_step="name a function or class"
        )
    return found


def _import_module(name: str) -> ModuleType:
    with _importable(Path.cwd()), _explained(name):
        return import_module(name)


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConvscopeError("no such Python file", where=path.name, next_step="check the path")
    # A name of its own, so that a file called json.py can't stand in for json.
    name = f"convscope_factory_{path.stem}"
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConvscopeError("Python can't import it", where=path.name, next_step="give a .py file")
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles in the file look themselves up there
    with _importable(path.resolve().parent), _explained(path.name):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """The folder is searched for modules inside the block, after everything installed."""
    entry = str(folder)
    sys.path.append(entry)
    try:
        yield
    finally:
        sys.path.remove(entry)


@contextmanager
def _explained(where: str) -> Iterator[None]:
    try:
        yield
    except ConvscopeError:
        raise
    except Exception as error:
        raise ConvscopeError(
            f"importing it failed: {type(error).__name__}: {str(error)[:200].rstrip('.')}",
            where=where,
            next_step="run from the folder that holds the module, or install it",
        ) from error
