"""View to HTML: what a notebook shows, and a file that opens anywhere. Self-contained; every word is escaped."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from convscope.render.kinds import draw
from convscope.render.panel import Style
from convscope.render.raster import png_bytes, raster
from convscope.render.svg import data_uri, text

if TYPE_CHECKING:
    from convscope.view import View

_STYLE = """<style>
.convscope { max-width: 100%; border-radius: 6px; color: #1a1c1f; background: #fff; }
.convscope { font: 13px/1.45 system-ui, sans-serif; }
.convscope img { display: block; max-width: 100%; height: auto; }
.convscope details { padding: 0 20px 12px; }
.convscope summary { cursor: pointer; color: #62676e; }
.convscope pre { margin: 8px 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.convscope pre { font: 12px/1.4 ui-monospace, monospace; }
.convscope.dark { color: #e8e9eb; background: #111315; }
.convscope.dark summary { color: #9aa0a7; }
</style>"""


def html(view: View, style: Style | None = None) -> str:
    """The View as an HTML fragment: its picture, what it says in words, and how it came to be."""
    chosen = style or Style()
    figure = draw(view, chosen)
    picture = data_uri(png_bytes(raster(figure, chosen.theme)))
    arrays = "\n".join(f"{name} [{_sizes(view, name)}] {array.dtype}" for name, array in view.arrays.items())
    parts = [f"arrays\n{arrays}"]
    parts += [str(view.meta[key]) for key in ("python", "command") if view.meta.get(key)]
    if view.recipe is not None:
        parts.append(json.dumps(view.recipe.to_json(), indent=1, ensure_ascii=False))
    details = "".join(f"<pre>{text(part)}</pre>" for part in parts)
    dark = " dark" if chosen.theme == "dark" else ""
    return (
        f'{_STYLE}<div class="convscope{dark}">'
        f'<img src="{picture}" width="{round(figure.width)}" alt="{text(description(view))}">'
        f"<details><summary>numbers and recipe</summary>{details}</details></div>"
    )


def page(view: View, style: Style | None = None) -> str:
    """The View as a whole HTML document."""
    chosen = style or Style()
    ground = "#111315" if chosen.theme == "dark" else "#fff"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{text(description(view))}</title>'
        f'<meta name="viewport" content="width=device-width"></head><body style="margin: 0; background: {ground}">'
        f"{html(view, chosen)}</body></html>\n"
    )


def _sizes(view: View, name: str) -> str:
    return ", ".join(f"{axis} {size}" for axis, size in zip(view.axes[name], view[name].shape, strict=True))


def description(view: View) -> str:
    """One line that says what is shown, for those who can't see it and for titles."""
    target = view.recipe.target if view.recipe else ""
    caption = str(view.meta["caption"]) or view.kind.replace("_", " ")
    return f"{target}: {caption}" if target and target not in caption else caption
