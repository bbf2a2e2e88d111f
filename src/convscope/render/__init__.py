"""Render: View to PNG, SVG, HTML, NPZ or safetensors. The only drawing on the Python side; it computes nothing.

:func:`save` and :func:`html` are what a View calls; :func:`encode` gives the same files as bytes.
"""

from __future__ import annotations

import uuid
import zipfile
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convscope.errors import ConvscopeError
from convscope.render.document import description, html, page
from convscope.render.kinds import draw
from convscope.render.panel import Style
from convscope.render.raster import png_bytes, raster
from convscope.render.svg import svg
from convscope.view import canonical_json

if TYPE_CHECKING:
    import os

    from convscope.view import View

FORMATS = ("png", "svg", "html", "npz", "safetensors")


def encode(view: View, format: str, style: Style | None = None) -> bytes:  # noqa: A002 - the word that users know
    """The View as the bytes of a file of this format (one of :data:`FORMATS`)."""
    chosen = style or Style()
    if format == "png":
        return png_bytes(raster(draw(view, chosen), chosen.theme), description(view))
    if format == "svg":
        return svg(draw(view, chosen), chosen.theme, description(view)).encode()
    if format == "html":
        return page(view, chosen).encode()
    if format == "npz":
        return _npz(view)
    if format == "safetensors":
        return view.to_bytes()
    raise ConvscopeError(f"can't write {format[:20]!r} files", next_step=f"choose one of {', '.join(FORMATS)}")


def save(view: View, path: str | os.PathLike[str], style: Style | None = None) -> None:
    """Write the View as the file's suffix says: a picture (.png, .svg, .html) or the numbers (.npz, .safetensors).

    The file appears complete or not at all. Raises :class:`ConvscopeError` for other suffixes and where it can't write.
    """
    target = Path(path)
    suffix = target.suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        raise ConvscopeError(
            f"can't write {target.name!r}: {f'.{suffix} is no format of a View' if suffix else 'it has no suffix'}",
            next_step=f"end the name in one of {', '.join(f'.{each}' for each in FORMATS)}",
        )
    blob = encode(view, suffix, style)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.write_bytes(blob)
        temporary.replace(target)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise ConvscopeError(
            f"can't write {target.name!r}: {error.strerror}",
            where=str(target.parent),
            next_step="choose a folder that exists and may be written to",
        ) from error


def _npz(view: View) -> bytes:
    about = {
        "kind": view.kind,
        "axes": {name: list(axes) for name, axes in view.axes.items()},
        "meta": dict(view.meta),
        "recipe": view.recipe.to_json() if view.recipe else None,
    }
    # Everything that isn't a number goes in as JSON text, so that reading it never needs a pickle.
    arrays = {**view.arrays, "convscope": np.array(canonical_json(about))}
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")  # its date is always the same: equal Views give equal bytes
            member.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(member, "w") as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)
    return buffer.getvalue()


__all__ = ["FORMATS", "Style", "encode", "html", "save"]
