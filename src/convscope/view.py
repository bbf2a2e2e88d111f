"""View: the result of every method. Named arrays with axis names, what they mean, and how they came to be.

A View knows numpy only. Computing never draws, drawing never computes: ``convscope.render`` turns Views into pictures.
One blob format (safetensors) serves disk, wire and notebook; :func:`View.to_bytes` is deterministic.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from convscope.errors import ConvscopeError

if TYPE_CHECKING:
    from collections.abc import Mapping

Array = np.ndarray[Any, np.dtype[Any]]
FORMAT = "1"


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text. NaN has no place in it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def value_range(array: Array) -> dict[str, Any]:
    """The finite minimum and maximum of an array, and exact counts of what isn't finite.

    >>> value_range(np.array([-1.0, 2.0, np.nan, np.inf]))["maximum"]
    2.0
    """
    if array.dtype.kind == "f" and array.size:
        low, high = float(array.min()), float(array.max())
        if np.isfinite(low) and np.isfinite(high):  # a NaN would be the minimum: everything is finite
            return _described(low, high, array.size)
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    return _described(
        float(finite.min()) if finite.size else None,
        float(finite.max()) if finite.size else None,
        array.size,
        nan=int(np.isnan(array).sum()) if array.dtype.kind == "f" else 0,
        positive_infinity=int(np.isposinf(array).sum()) if array.dtype.kind == "f" else 0,
        negative_infinity=int(np.isneginf(array).sum()) if array.dtype.kind == "f" else 0,
    )


def _described(low: float | None, high: float | None, count: int, **not_finite: int) -> dict[str, Any]:
    none = {"nan": 0, "positive_infinity": 0, "negative_infinity": 0}
    return {"minimum": low, "maximum": high, "count": int(count), **none, **not_finite}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a View's numbers. Its SHA-256 is the View's key in a Store.

    ``network`` and ``images`` are fingerprints (and ids), never paths, so that the same work has the same key anywhere.
    """

    method: str
    parameters: Mapping[str, Any]
    target: str = ""
    network: str = ""
    images: tuple[str, ...] = ()
    labels: tuple[int | None, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """The recipe as plain JSON values."""
        return {
            "method": self.method,
            "parameters": dict(self.parameters),
            "target": self.target,
            "network": self.network,
            "images": list(self.images),
            "labels": list(self.labels),
            "versions": dict(self.versions),
            "seed": self.seed,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Recipe:
        """The inverse of :meth:`to_json`."""
        return cls(**{**value, "images": tuple(value["images"]), "labels": tuple(value["labels"])})

    @cached_property
    def key(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(canonical_json(self.to_json()).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class View:
    """Named arrays, the name of each of their axes, what they mean (``meta``) and how they came to be (``recipe``).

    ``meta["ranges"][name]`` holds each floating array's true range; a method that keeps only part of a tensor states
    the whole tensor's range there. ``meta["caption"]`` says in one sentence what is shown, ``meta["warnings"]`` when
    it misleads.

    >>> view = View("maps", {"map": np.zeros((2, 3, 3), np.float32)}, {"map": ("unit", "row", "column")})
    >>> view.meta["ranges"]["map"]["maximum"]
    0.0
    >>> View.from_bytes(view.to_bytes()).axes["map"]
    ('unit', 'row', 'column')
    """

    kind: str
    arrays: Mapping[str, Array]
    axes: Mapping[str, tuple[str, ...]]
    meta: Mapping[str, Any] = field(default_factory=dict)
    recipe: Recipe | None = None

    def __post_init__(self) -> None:
        for name, array in self.arrays.items():
            if name not in self.axes or len(self.axes[name]) != array.ndim:
                raise ValueError(f"array {name!r} has shape {array.shape} but axes {self.axes.get(name)}")
        ranges = dict(self.meta.get("ranges", {}))
        ranges = {
            name: value_range(array)
            for name, array in self.arrays.items()
            if array.dtype.kind == "f" and name not in ranges
        } | ranges
        meta = {"caption": "", "warnings": [], **self.meta, "ranges": ranges}
        object.__setattr__(
            self, "arrays", MappingProxyType({n: np.asarray(a, order="C") for n, a in self.arrays.items()})
        )
        object.__setattr__(self, "axes", MappingProxyType(dict(self.axes)))
        object.__setattr__(self, "meta", MappingProxyType(meta))

    def __getitem__(self, name: str) -> Array:
        if name not in self.arrays:
            raise KeyError(f"{name!r}: this {self.kind} view has {', '.join(self.arrays)}")
        return self.arrays[name]

    def __repr__(self) -> str:
        arrays = ", ".join(
            f"{name}[{', '.join(f'{axis} {size}' for axis, size in zip(self.axes[name], array.shape, strict=True))}]"
            for name, array in self.arrays.items()
        )
        return f"View({self.kind}: {arrays})"

    def _repr_html_(self) -> str:
        # Drawing is a plug-in of View (convscope.render), so that this file need not know that it exists.
        (renderer,) = entry_points(group="convscope.renderers", name="html")
        return str(renderer.load()(self))

    def save(self, path: str) -> None:
        """Write a picture or the numbers by the suffix: .png, .svg, .html, .npz or .safetensors."""
        (renderer,) = entry_points(group="convscope.renderers", name="save")
        renderer.load()(self, path)

    def to_bytes(self) -> bytes:
        """The View as one safetensors blob; equal Views give equal bytes."""
        header = {
            "format": FORMAT,
            "kind": self.kind,
            "axes": {name: list(axes) for name, axes in self.axes.items()},
            "meta": dict(self.meta),
            "recipe": self.recipe.to_json() if self.recipe else None,
        }
        # A single metadata key: safetensors keeps metadata in a hash map, whose order would differ from run to run.
        return bytes(save(dict(self.arrays), metadata={"convscope": canonical_json(header)}))

    @classmethod
    def from_bytes(cls, blob: bytes) -> View:
        """The inverse of :meth:`to_bytes`; refuses anything that isn't a View blob, whatever is wrong with it."""
        try:
            size = int.from_bytes(blob[:8], "little")
            header = json.loads(json.loads(blob[8 : 8 + size])["__metadata__"]["convscope"])
            if header["format"] != FORMAT:
                raise ConvscopeError(
                    f"a View of format {header['format']}; this convscope reads format {FORMAT}",
                    next_step="upgrade convscope",
                )
            if not isinstance(header["kind"], str):
                raise TypeError("kind")
            arrays = load(blob)
            recipe = Recipe.from_json(header["recipe"]) if header["recipe"] else None
            axes = {name: tuple(axes) for name, axes in header["axes"].items()}
            return cls(header["kind"], arrays, axes, header["meta"], recipe)
        except (
            AttributeError,
            KeyError,
            TypeError,
            ValueError,
            RecursionError,
            OverflowError,
            SafetensorError,
        ) as error:
            raise ConvscopeError("not a convscope View", next_step="compute it again") from error


__all__ = ["Array", "Recipe", "View", "canonical_json", "value_range"]
