"""One function per View kind: View to Figure. A kind that isn't here is drawn as a table of its arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from convscope.render.attribution import attribution
from convscope.render.explanation import convolution
from convscope.render.figure import LARGE, SMALL, Figure, Words, above, beside, framed, line, shortened, text_width
from convscope.render.invariance import correspondence, invariance
from convscope.render.matrix import attribution_matrix
from convscope.render.number import format_number
from convscope.render.panel import WIDTH, Style, Tiles, heading, panel, share_width, true_range
from convscope.render.patches import top_patches
from convscope.render.predictions import predictions
from convscope.render.projections import projections
from convscope.render.sanity import sanity_checks
from convscope.render.synthesis import feature_visualization, inversion

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from convscope.view import Array, View

MOST_IMAGES = 8


def draw(view: View, style: Style) -> Figure:
    """Any View as a figure, with its caption, warnings and legends."""
    fits = view.kind in KINDS and _has(view, view.kind)
    body = (KINDS[view.kind] if fits else table)(view, style)
    head = heading(
        _title(view), str(view.meta["caption"]), [str(each) for each in view.meta["warnings"]], max(WIDTH, body.width)
    )
    return framed(above([head, body], gap=14))


_NEEDED = {
    "kernels": (("kernel", 4),),
    "spatial_gradients": (("row", 4), ("column", 4), ("magnitude", 4)),
    "maps": (("map", 4),),
    "convolution": (("input", 3), ("kernel", 3), ("output", 2)),
    "predictions": (("probability", 2), ("class", 2)),
    "top_patches": (
        ("quantile", 2),
        *((f"{prefix}{name}", 2) for prefix in ("", "bottom_", "quantile_") for name in ("value", "image")),
        *((f"{prefix}box", 3) for prefix in ("", "bottom_", "quantile_")),
    ),
    "invariance": (("amount", 2), ("distance", 4)),
    "correspondence": (("distance", 2), ("random", 3)),
    "attribution_matrix": (("picture", 4), ("map", 5), ("class", 2), ("probability", 2), ("score", 2)),
    "sanity_checks": (("picture", 4), ("randomized", 4), ("spearman", 2), ("ssim", 2)),
    "attribution": (("attribution", 4), ("map", 3), ("picture", 4)),
    "feature_visualization": (("picture", 4), ("natural_picture", 5), ("score", 1), ("natural_score", 1)),
    "inversion": (("picture", 4), ("original", 4), ("error", 1)),
    "projections": (
        *((name, 2) for name in ("value", "image", "reached")),
        ("window", 3),
        ("projection", 5),
        ("patch", 5),
    ),
}


def _has(view: View, kind: str) -> bool:
    return all(name in view.arrays and view[name].ndim == axes for name, axes in _NEEDED[kind])


def _title(view: View) -> str:
    if view.recipe is not None and view.recipe.target:
        return view.recipe.target
    return str(view.meta.get("layer") or "")


def _unit_labels(view: View, count: int) -> list[str]:
    units = view.meta.get("units")
    return [str(unit) for unit in units] if units and len(units) == count else [str(unit) for unit in range(count)]


def _slices_as_tiles(view: View, values: Array) -> tuple[Array, list[str]]:
    """One unit: its slices are the tiles, each labeled with its input channel. Several: a tile per unit."""
    if values.shape[0] == 1 and view.meta.get("layout") != "color":
        channel = view.arrays.get("channel")
        known = channel is not None and channel.shape == values.shape[:2]
        labels = (
            [str(each) for each in channel[0]]
            if channel is not None and known
            else list(map(str, range(values.shape[1])))
        )
        return values.transpose(1, 0, 2, 3), labels
    return values, _unit_labels(view, values.shape[0])


def kernels(view: View, style: Style) -> Figure:
    """Kernels, and their weight gradients beside them in the same layout."""
    gradient = "gradient" in view.arrays
    shown = [("kernel", "weights" if gradient else ""), ("gradient", "weight gradients: dLoss/dWeight")]
    parts = [(name, title) for name, title in shown if name in view.arrays]
    color = view.meta.get("layout") in ("color", "templates") and view["kernel"].shape[1] == 3
    if view.meta.get("layout") == "vector" and view["kernel"].shape[0] > 1:
        return _side_by_side([_matrix(view, name, title) for name, title in parts], style)
    tiles = []
    for name, title in parts:
        values, labels = (
            (view[name], _unit_labels(view, len(view[name]))) if color else _slices_as_tiles(view, view[name])
        )
        tiles.append(
            Tiles(title, values, true_range(view.meta, name, view[name]), labels, color, _slice_notes(view, color))
        )
    body = _side_by_side(tiles, style)
    if "image_gradient" in view.arrays and view["image_gradient"].ndim == 5:
        return above([body, _by_image(view, style, color)], gap=24)
    return body


def _by_image(view: View, style: Style, color: bool) -> Figure:
    """Each image's own weight gradient of the first unit, and what part of the batch's it is."""
    values = view["image_gradient"][:, 0]
    labels = [f"image {image}" for image in range(len(values))]
    if "image_share" in view.arrays:
        shares = view["image_share"][:, 0]
        labels = [f"{label}: {format_number(float(share), 2)}" for label, share in zip(labels, shares, strict=True)]
    title = "each image's own weight gradient, and its share of the batch's"
    return panel(Tiles(title, values, true_range(view.meta, "image_gradient", values), labels, color), style)


def _slice_notes(view: View, color: bool) -> list[str]:
    slices, channels = view["kernel"].shape[1], view.meta.get("input_channels")
    groups = view.meta.get("groups") or 1
    if color:
        return ["red, green and blue are the kernel's three slices; mid-gray is 0"]
    if isinstance(channels, int) and isinstance(groups, int) and slices < channels // groups:
        return [f"each kernel's {slices} slices of largest norm, of {channels // groups:,}"]
    return []


def _matrix(view: View, name: str, title: str) -> Tiles:
    """1×1 kernels and plain linear layers: a row per unit, a column per input channel."""
    values = view[name][:, :, 0, 0]
    channel = view.arrays.get("channel")
    channels = view.meta.get("input_channels")
    whole = channel is not None and isinstance(channels, int) and values.shape[1] == channels
    if channel is not None and whole and channel.shape == values.shape:
        values = np.take_along_axis(values, np.argsort(channel, axis=1), axis=1)
        note = "a row per unit, a column per input channel"
    else:
        note = f"a row per unit, its {values.shape[1]:,} weights of largest magnitude from left to right"
    return Tiles(
        title,
        values[None, None],
        true_range(view.meta, name, view[name]),
        (),
        False,
        [note],
        side=min(720, 12 * max(values.shape)),
    )


def spatial_gradients(view: View, style: Style) -> Figure:
    """The differences along rows and along columns, and their magnitude."""
    titles = {"row": "along rows (downwards)", "column": "along columns (to the right)", "magnitude": "magnitude"}
    tiles = []
    for name, title in titles.items():
        values, labels = _slices_as_tiles(view, view[name])
        tiles.append(Tiles(title, values, true_range(view.meta, name, view[name]), labels))
    return _side_by_side(tiles, style)


def maps(view: View, style: Style) -> Figure:
    """Every unit's map, image after image; the gradient beside it."""
    shown = [("map", "activations" if "gradient" in view.arrays else ""), ("gradient", "their gradients")]
    parts = [(name, title) for name, title in shown if name in view.arrays]
    images, units = view["map"].shape[:2]
    if images <= 1 or units == 1:
        labels = _unit_labels(view, units) if images <= 1 else [f"image {image}" for image in range(images)]
        return _side_by_side(
            [
                Tiles(
                    title,
                    _one_after_the_other(view[name]),
                    true_range(view.meta, name, view[name]),
                    labels,
                )
                for name, title in parts
            ],
            style,
        )
    rows = []
    for image in range(min(images, MOST_IMAGES)):
        tiles = [
            Tiles(title, view[name][image][:, None], true_range(view.meta, name, view[name]), _unit_labels(view, units))
            for name, title in parts
        ]
        rows.append(above([line(f"image {image}", LARGE), _side_by_side(tiles, style)]))
        if sum(row.height for row in rows) > 5000:
            break
    if len(rows) < images:
        rows.append(line(f"the first {len(rows)} of {images} images", SMALL, "quiet"))
    return above(rows, gap=20)


def _one_after_the_other(values: Array) -> Array:
    images, units, rows, columns = values.shape
    return values.reshape(images * units, 1, rows, columns)


def _side_by_side(tiles: Sequence[Tiles], style: Style) -> Figure:
    width = share_width(len(tiles))
    # A few large maps would be drawn smaller than they are: these go one panel under the other.
    few = [each for each in tiles if len(each.values) <= 4 and each.values.shape[-1] >= 64]
    if len(tiles) > 1 and any(len(each.values) * each.values.shape[-1] > width for each in few):
        return above([panel(each, style, WIDTH) for each in tiles], gap=24)
    return beside([panel(each, style, width) for each in tiles], gap=28)


def table(view: View, style: Style) -> Figure:  # noqa: ARG001 - every kind is drawn with the same two arguments
    """Every array's name, axes, type and range: what is shown of a kind that this version can't draw."""
    lines: list[tuple[Any, ...]] = [("array", "axes", "type", "minimum", "maximum", "not finite")]
    for name, array in view.arrays.items():
        axes = (
            ", ".join(f"{axis} {size}" for axis, size in zip(view.axes[name], array.shape, strict=True))
            or "a single number"
        )
        numbers = array.astype(np.float64) if array.dtype.kind in "fiub" else np.zeros(0)
        found = true_range(view.meta, name, numbers)
        other = sum(int(found.get(key) or 0) for key in ("nan", "positive_infinity", "negative_infinity"))
        lines.append(
            (
                name,
                axes,
                str(array.dtype),
                format_number(found["minimum"]),
                format_number(found["maximum"]),
                f"{other:,}",
            )
        )
    widths = [min(430.0, max(text_width(str(cell), SMALL) for cell in column)) for column in zip(*lines, strict=True)]
    lefts = [sum(widths[:column]) + 28 * column for column in range(len(widths))]
    items = [
        Words(20 * row, left, shortened(str(text), width), SMALL, "quiet" if row == 0 else "ink")
        for row, cells in enumerate(lines)
        for left, width, text in zip(lefts, widths, cells, strict=True)
    ]
    note = line(f"a View of kind {view.kind!r}, shown as the table of its arrays", SMALL, "quiet")
    return above([note, Figure(20 * len(lines), lefts[-1] + widths[-1], tuple(items))], gap=12)


KINDS: dict[str, Callable[[View, Style], Figure]] = {
    "kernels": kernels,
    "spatial_gradients": spatial_gradients,
    "maps": maps,
    "convolution": convolution,
    "predictions": predictions,
    "top_patches": top_patches,
    "attribution": attribution,
    "projections": projections,
    "invariance": invariance,
    "correspondence": correspondence,
    "attribution_matrix": attribution_matrix,
    "sanity_checks": sanity_checks,
    "feature_visualization": feature_visualization,
    "inversion": inversion,
}
