"""Opening: from words (a preset or file, data, settings) to a learner, new or as a run in a folder left it.

What the shell and the page's server have in common.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convscope.errors import ConvscopeError, Refused
from convscope.training.convnetjs import read_convnetjs
from convscope.training.data import load_data
from convscope.training.definition import Definition
from convscope.training.learner import Learner
from convscope.training.presets import DEFAULT, PRESETS, preset
from convscope.training.recorded import SNAPSHOT, Recorded
from convscope.training.settings import Settings
from convscope.training.snapshot import Snapshot

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from torch import Tensor

_SUFFIXES = (".yaml", ".yml", ".json")
_LARGEST_FILE = 64 * 2**20
INSTALLED = ("mnist", "fashion-mnist")  # data that packages bring
_NOT_HERE = "cifar10"  # presets are made for it, but it must be given


@dataclass(frozen=True, eq=False)
class Opened:
    """A network's definition, weights where the file has any, and what a person should know about them."""

    name: str
    definition: Definition
    settings: Settings
    data: str
    weights: Mapping[str, Tensor] | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()


def open_network(network: str = DEFAULT) -> Opened:
    """A preset by name, a definition's .yaml file, or a .json file of ConvNetJS."""
    path = Path(network)
    if path.suffix not in _SUFFIXES:
        found = preset(network)
        return Opened(network, found.definition(), found.settings, found.data)
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ConvscopeError("too large for a network's definition", where=network, next_step="choose another file")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it isn't UTF-8"
        raise ConvscopeError(f"can't be read: {reason}", where=network, next_step="check the path") from error
    if path.suffix == ".json":
        theirs = read_convnetjs(text)
        return Opened(path.stem, theirs.definition, Settings(), "mnist", theirs.weights, theirs.notes)
    return Opened(path.stem, Definition.parse(text), Settings(), "mnist")


def begin(
    opened: Opened,
    data: str = "",
    changes: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    device: str = "cpu",
    train: int = 0,
    held_out: int = 0,
) -> Learner:
    """A new learner. ``data`` defaults to what the network was made for, ``changes`` are made to its settings.

    A preset follows the data's channels and classes; a definition of one's own only their number of classes.
    """
    source = data or opened.data
    check_data(source, opened.name)
    definition = opened.definition
    size = (definition.input.rows, definition.input.columns)
    found = load_data(source, size=size, train=train, held_out=held_out)
    if opened.name in PRESETS:
        definition = definition.with_channels(found.shape[0])
    settings = opened.settings.changed(changes or {})
    return Learner(definition, found, settings, seed=seed, device=device, name=opened.name, weights=opened.weights)


def check_data(source: str, name: str) -> None:
    """Refuse data that aren't there, without reading them; ``name`` is the network's."""
    if source in INSTALLED or Path(source).is_dir():
        return
    if source == _NOT_HERE:
        raise ConvscopeError(
            f"{name} needs CIFAR-10, which isn't installed with convscope",
            next_step="give its folder with --data (torchvision's files, or train.parquet and test.parquet)",
        )
    raise ConvscopeError(
        "there is no such folder of data", where=source[:200], next_step="name mnist, fashion-mnist or a folder"
    )


def is_continuable(run: str | os.PathLike[str]) -> bool:
    """Whether a run in this folder can go on: it has a snapshot."""
    return (Path(run) / SNAPSHOT).is_file()


def resume(
    run: str | os.PathLike[str],
    opened: Opened | None = None,
    data: str = "",
    changes: Mapping[str, Any] | None = None,
    *,
    seed: int | None = None,
    device: str = "cpu",
    train: int = 0,
    held_out: int = 0,
) -> tuple[Learner, Recorded]:
    """The learner as the run in this folder left it, and what goes on recording it.

    What is said besides must fit: another network, seed or other data than the run's are refused.
    """
    snapshot = Snapshot.open(Path(run) / SNAPSHOT)
    if opened is not None:
        wanted = opened.definition.with_classes(snapshot.definition.classes)
        if wanted.with_channels(snapshot.definition.input.channels) != snapshot.definition:
            raise Refused(
                f"the run in this folder is of another network than {opened.name}",
                where=str(run),
                next_step="leave the network out to continue it, or name another folder",
            )
    if seed is not None and seed != snapshot.seed:
        raise Refused(
            f"the run was begun with seed {snapshot.seed}", where=str(run), next_step="leave --seed out, or begin anew"
        )
    size = (snapshot.definition.input.rows, snapshot.definition.input.columns)
    found = load_data(data or snapshot.data["source"], size=size, train=train, held_out=held_out)
    learner = snapshot.learner(found, device=device)
    if changes:
        learner.change(changes)
    return learner, Recorded(run, resume=True)


__all__ = ["INSTALLED", "Opened", "begin", "check_data", "is_continuable", "open_network", "resume"]
