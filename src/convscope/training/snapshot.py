"""Snapshots: everything that decides how training goes on, in one safetensors file.

Weights, buffers, what the optimizer remembers, settings, seed, and how many images were drawn: from these the next
batch, its shifts and mirrors, and every dropout mask follow, so a run continues bit by bit.
docs/reference/snapshot-format.md is the contract.
"""

from __future__ import annotations

import json
import os
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from convscope._version import __version__
from convscope.errors import ConvscopeError, Refused, UnsafeFile
from convscope.training.definition import Definition
from convscope.training.learner import Learner
from convscope.training.settings import Settings
from convscope.view import canonical_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from convscope.training.data import Data

FORMAT = "1"
KIND = "training_snapshot"
LARGEST = 2 * 2**30
_WEIGHTS, _OPTIMIZER = "weights/", "optimizer/"
# What each of torch's optimizers remembers of a parameter: a tensor of its shape, or the count of steps.
_REMEMBERED = {
    "sgd": {"momentum_buffer"},
    "adagrad": {"step", "sum"},
    "adadelta": {"step", "square_avg", "acc_delta"},
    "rmsprop": {"step", "square_avg", "momentum_buffer"},
    "adam": {"step", "exp_avg", "exp_avg_sq"},
    "adamw": {"step", "exp_avg", "exp_avg_sq"},
}
_COUNTS = ("seed", "steps", "examples", "position")


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A training run between two steps.

    >>> from convscope.training.data import load_data
    >>> from convscope.training.presets import preset
    >>> data = load_data("mnist", train=200, held_out=50)
    >>> learner = Learner(preset("linear").definition(), data)
    >>> _ = learner.step()
    >>> again = Snapshot.from_bytes(Snapshot.of(learner).to_bytes()).learner(data)
    >>> again.step().loss == learner.step().loss
    True
    """

    definition: Definition
    settings: Settings
    seed: int
    steps: int
    examples: int
    position: int
    data: Mapping[str, str]
    class_names: tuple[str, ...]
    name: str
    weights: Mapping[str, Tensor] = field(repr=False)
    optimizer: Mapping[str, Tensor] = field(repr=False)

    @classmethod
    def of(cls, learner: Learner) -> Snapshot:
        """A copy of a learner as it is now."""
        remembered: dict[str, Tensor] = {}
        for name, parameter in learner.module.named_parameters():
            for what, value in learner.optimizer.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor):
                    remembered[f"{name}/{what}"] = value.detach().cpu().clone()
        data = learner.given
        return cls(
            learner.definition,
            learner.settings,
            learner.seed,
            learner.steps,
            learner.examples,
            learner.position,
            {"fingerprint": data.fingerprint, "source": data.source, "name": data.name},
            data.class_names,
            learner.network.name,
            {name: value.detach().cpu().clone() for name, value in learner.module.state_dict().items()},
            remembered,
        )

    def learner(self, data: Data, *, device: str = "cpu") -> Learner:
        """A learner that goes on exactly where this one stopped; refuses other data than it was trained on."""
        if data.fingerprint != self.data["fingerprint"]:
            raise Refused(
                "these aren't the images that the snapshot was trained on",
                where=f"{data.name}; the snapshot's were {self.data['name'][:80]}",
                next_step="give the same data, or begin a new run from its weights",
            )
        learner = Learner(
            self.definition, data, self.settings, seed=self.seed, device=device, name=self.name, weights=self.weights
        )
        parameters = dict(learner.module.named_parameters())
        for key, value in self.optimizer.items():
            name, _, what = key.rpartition("/")
            state = learner.optimizer.state[parameters[name]]
            # In memory just as the weight is: torch's fused operations go over both side by side.
            alike = value.shape == parameters[name].shape and value.ndim > 0
            place = torch.empty_like(parameters[name]) if alike else torch.empty_like(value, device=learner.device)
            state[what] = place.detach().copy_(value)
        learner.steps, learner.examples, learner.position = self.steps, self.examples, self.position
        return learner

    # ---- bytes -------------------------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """The snapshot as one safetensors file; equal snapshots give equal bytes."""
        header = {
            "format": FORMAT,
            "kind": KIND,
            "definition": self.definition.text(),
            "settings": self.settings.to_json(),
            **{name: getattr(self, name) for name in _COUNTS},
            "data": dict(self.data),
            "class_names": list(self.class_names),
            "name": self.name,
            "versions": {"convscope": __version__, "torch": str(torch.__version__)},
        }
        tensors = {_WEIGHTS + name: value.contiguous() for name, value in self.weights.items()}
        tensors |= {_OPTIMIZER + name: value.contiguous() for name, value in self.optimizer.items()}
        return bytes(save(tensors, metadata={"convscope": canonical_json(header)}))

    @classmethod
    def from_bytes(cls, content: bytes, where: str = "snapshot") -> Snapshot:
        """The inverse of :meth:`to_bytes`; refuses anything else, and tensors that don't fit the definition."""
        try:
            size = int.from_bytes(content[:8], "little")
            header = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["convscope"])
            if header["kind"] != KIND:
                raise ValueError(header["kind"])
            if header["format"] != FORMAT:
                raise ConvscopeError(
                    f"a snapshot of format {str(header['format'])[:20]}; this convscope reads format {FORMAT}",
                    where=where,
                    next_step="upgrade convscope",
                )
            tensors = load(content)
            return cls._checked(header, tensors)
        except UnsafeFile as error:
            raise UnsafeFile(error.what, where=where, next_step=error.next_step) from error
        except (
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
            RecursionError,
            OverflowError,
            SafetensorError,
        ) as error:
            raise UnsafeFile("not a snapshot of convscope", where=where, next_step="choose another file") from error

    @classmethod
    def _checked(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Snapshot:
        definition = Definition.parse(_text(header["definition"], 2**16))
        settings = Settings.from_json(header["settings"])
        counts = {name: header[name] for name in _COUNTS}
        if not all(type(value) is int and 0 <= value < 2**62 for value in counts.values()):
            raise ValueError("counts")
        data = {name: _text(header["data"][name], 4096) for name in ("fingerprint", "source", "name")}
        if not isinstance(header["class_names"], list):
            raise ValueError("class names")
        names = tuple(_text(each, 200) for each in header["class_names"])
        if len(names) != definition.classes:
            raise UnsafeFile(
                f"{len(names)} class names for {definition.classes} classes", next_step="choose another file"
            )
        weights = {name[len(_WEIGHTS) :]: each for name, each in tensors.items() if name.startswith(_WEIGHTS)}
        remembered = {name[len(_OPTIMIZER) :]: each for name, each in tensors.items() if name.startswith(_OPTIMIZER)}
        if len(weights) + len(remembered) != len(tensors):
            raise UnsafeFile("it holds tensors of no known use", next_step="choose another file")
        check_weights(definition, weights)
        _check_remembered(settings.optimizer, weights, remembered)
        return cls(
            definition,
            settings,
            **counts,
            data=data,
            class_names=names,
            name=_text(header["name"], 200),
            weights=weights,
            optimizer=remembered,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file: all of it, or nothing in place of what was there."""
        final = Path(path)
        temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex}.tmp")
        try:
            with temporary.open("xb") as stream:
                stream.write(self.to_bytes())
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(final)
        except OSError as error:
            raise ConvscopeError(
                f"the snapshot can't be written: {error.strerror}", where=str(final), next_step="choose another folder"
            ) from error
        finally:
            with suppress(OSError):
                temporary.unlink()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Snapshot:
        """Read a file; raises :class:`ConvscopeError` for one that isn't there, :class:`UnsafeFile` for any other."""
        file = Path(path)
        try:
            if file.stat().st_size > LARGEST:
                raise UnsafeFile("too large for a snapshot", where=file.name, next_step="choose another file")
            content = file.read_bytes()
        except OSError as error:
            raise ConvscopeError(
                f"the snapshot can't be read: {error.strerror}", where=str(file), next_step="check the path"
            ) from error
        return cls.from_bytes(content, file.name)


def check_weights(definition: Definition, weights: Mapping[str, Tensor]) -> None:
    """Refuse weights that aren't exactly those of a definition's network: names, shapes and types."""
    expected = definition.build_shapes().state_dict()
    for name in sorted({*expected, *weights}):
        if name not in weights or name not in expected:
            missing = "misses" if name in expected else "has no place for"
            subject = "the file" if name in expected else "the network"
            raise UnsafeFile(f"{subject} {missing} {name[:80]!r}", next_step="choose a file of this network")
        found, wanted = weights[name], expected[name]
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            raise UnsafeFile(
                f"{name[:80]} is {tuple(found.shape)} {found.dtype}, not {tuple(wanted.shape)} {wanted.dtype}",
                next_step="choose a file of this network",
            )


def _check_remembered(optimizer: str, weights: Mapping[str, Tensor], remembered: Mapping[str, Tensor]) -> None:
    for key, value in remembered.items():
        name, _, what = key.rpartition("/")
        fits = name in weights and what in _REMEMBERED[optimizer] and value.dtype == torch.float32
        if not fits or value.shape != (torch.Size([]) if what == "step" else weights[name].shape):
            raise UnsafeFile(f"{key[:80]!r} isn't what {optimizer} remembers", next_step="choose another file")


def _text(value: Any, longest: int) -> str:
    if not isinstance(value, str) or len(value) > longest:
        raise ValueError("text expected")
    return value


__all__ = ["Snapshot", "check_weights"]
