"""Write the reference pages that come from the code: docs/reference/methods.md and docs/reference/commands.md.

Run it after changing a method or a command: python docs/generate.py
"""

from __future__ import annotations

import inspect
import re
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click

from convscope.cli import commands
from convscope.methods.base import GROUP, describe
from convscope.training.options import Option, options_of

DOCS = Path(__file__).parent
NOTE = "<!-- Made by docs/generate.py from the code. Change the code, then run it again. -->\n"
TARGETS = {
    "layer": "a layer, a unit or a neuron: `layer1.0.conv1`, `layer1.0.conv1:3`, `layer1.0.conv1:3:5,6`",
    "unit": "a unit or a neuron: `layer1.0.conv1:3`, `layer1.0.conv1:3:5,6`",
    "network": "the whole network",
    "objective": "whatever its objective says (the predicted class's score), or a unit or a neuron: "
    "`layer1.0.conv1:3`, `layer1.0.conv1:3:5,6`",
}

DEFINITION = """\
# The definition of a network

A small network as text: a list of layers, one per line, from the input to the loss. `convscope train FILE.yaml`
trains it, `Definition.parse(text)` reads it in Python, and the page checks it while it is written.

```yaml
- input: {rows: 28, columns: 28, channels: 1}
- convolution: {units: 8, size: 5, padding: 2}
- relu
- pool: {size: 2}
- fully_connected: {units: 10}
- softmax
```

The text is a small part of YAML: lists, mappings, words, plain decimal numbers, `true` and `false`. Nothing in it is
evaluated, and no tag, anchor, alias or directive is read. Comments begin with `#`. The limits are 32 KiB of text, 256
layers, 50 million parameters and 16.8 million values in one layer's output.

Layers get names from their kind and number: `conv1`, `relu1`, `pool1`, `fc1`, `norm1`, `lrn1`, `dropout1`, `block1`;
those in a residual block begin with the block's, like `block1.conv2`. Rows come before columns: `size: [3, 5]` is 3
rows and 5 columns; one number is both. A map's rows become (rows + 2 · padding − size) / stride + 1, rounded down.
`fully_connected` flattens maps by itself.

Initial weights are normal with standard deviation √(2 / inputs of a unit) where a ReLU or maxout follows, √(1 /
inputs) elsewhere; biases are zero. They depend on the seed alone.

What is wrong is said with its line, its layer, what it is, and the next step:

    a convolution of 9 rows is larger than its input of 8 rows with padding 0 (line 3, conv1 (convolution)). Next:
    choose a size of at most 8, or more padding.
"""


def built_in_methods() -> list[dict[str, Any]]:
    """What the registry says about each method of convscope itself, in alphabetical order."""
    entries = sorted(entry_points(group=GROUP), key=lambda entry: entry.name)
    return [describe(entry.load()) for entry in entries if entry.value.startswith("convscope.")]


def bibliography() -> dict[str, str]:
    """Citation key to one line: authors, title, where, year, link."""
    text = (DOCS / "bibliography.bib").read_text(encoding="utf-8")
    found = {}
    for key, body in re.findall(r"@\w+\{([^,]+),\n(.*?)\n\}", text, re.DOTALL):
        fields = {name.lower(): value for name, value in re.findall(r"(\w+)\s*=\s*\{(.*)\},?\s*$", body, re.MULTILINE)}
        found[key] = cite(fields)
    return found


def cite(fields: dict[str, str]) -> str:
    """One reference as a line of text."""
    clean = {name: re.sub(r"\\['`\"^~=.]\{?(\w)\}?|[{}]", r"\1", value) for name, value in fields.items()}
    families = [author.split(",")[0] for author in clean.get("author", "").split(" and ")]
    authors = f"{families[0]} et al." if len(families) > 3 else ", ".join(families)
    clean = {name: value.replace("--", "–") for name, value in clean.items()}
    place = clean.get("journal") or clean.get("booktitle") or ""
    link = f"https://doi.org/{clean['doi']}" if "doi" in clean else clean.get("url", "")
    if not link and "eprint" in clean:
        link = f"https://arxiv.org/abs/{clean['eprint']}"
    title = f"[{clean['title']}]({link})" if link else clean["title"]
    return f"{authors}: {title}. {place + ', ' if place else ''}{clean.get('year', '')}"


def methods_page() -> str:
    """The page of all methods."""
    sources = bibliography()
    parts = [
        NOTE,
        "# Methods\n",
        "What each method shows, with its parameters, its formula, its sources, and when it misleads. Every one is "
        'called the same way: `network.view("NAME", "TARGET", images=…)` in Python, `convscope view NAME MODEL TARGET` '
        "in a shell, and by its name on the page. What it returns is described in [view-format.md](view-format.md).\n",
    ]
    for method in built_in_methods():
        summary = inspect.cleandoc(method["summary"]).replace("``", "`")
        parts += [f"## {method['name']}\n", f"*{method['title']}.* {summary}\n"]
        if method["formula"]:
            parts.append(f"    {method['formula']}\n")
        if method["caveat"]:
            parts.append(f"**Careful.** {method['caveat']}\n")
        parts.append(
            f"- Looks at {TARGETS[method['target']]}.\n- Needs: {', '.join(method['needs']) or 'nothing else'}.\n"
        )
        if method["parameters"]:
            rows = [f"| `{each['name']}` | `{each['default']!r}` | {_help(each)} |" for each in method["parameters"]]
            parts.append("\n".join(["| parameter | default | |", "|---|---|---|", *rows]) + "\n")
        if method["papers"]:
            parts.append("\n".join(["Sources:\n", *(f"- {sources[key]}" for key in method["papers"])]) + "\n")
    return "\n".join(parts)


def _help(parameter: dict[str, Any]) -> str:
    bounds = [f"at least {parameter['minimum']:g}"] if parameter["minimum"] is not None else []
    bounds += [f"at most {parameter['maximum']:g}"] if parameter["maximum"] is not None else []
    bounds += [f"one of {', '.join(map(str, parameter['choices']))}"] if parameter["choices"] else []
    return (parameter["help"] + (f" ({', '.join(bounds)})" if bounds else "")).replace("|", "\\|")


def commands_page() -> str:
    """The page of all commands of the shell."""
    parts = [
        NOTE,
        "# Commands\n",
        "`convscope COMMAND --help` says the same. Exit codes: 0, 1 for an error, 2 for a wrong command line, 130 for "
        "Ctrl-C.\n",
    ]
    with commands.make_context("convscope", [], resilient_parsing=True) as context:
        for name in commands.list_commands(context):
            command = commands.get_command(context, name)
            if command is not None and not command.hidden:
                parts += _command(command, name, context)
    return "\n".join(parts)


def _command(command: click.Command, name: str, parent: click.Context) -> list[str]:
    context = click.Context(command, info_name=name, parent=parent)
    usage = " ".join(command.collect_usage_pieces(context))
    parts = [f"## {name}\n", f"    convscope {name} {usage}\n", f"{inspect.cleandoc(command.help or '')}\n"]
    rows = _options(command, context)
    if isinstance(command, click.Group):
        # The options that every method has; each method's own parameters are on the page of methods.
        shared = [
            _options(each, click.Context(each, info_name=each.name, parent=context))
            for each in _below(command, context)
        ]
        rows = [row for row in shared[0] if all(row in others for others in shared)] if shared else rows
    if rows:
        parts.append("\n".join(["| option | |", "|---|---|", *rows]) + "\n")
    examples = getattr(command, "examples", ())
    if examples:
        parts.append("\n".join(["```sh", *(f"{line}  # {comment}" for line, comment in examples), "```"]) + "\n")
    return parts


def _below(group: click.Group, context: click.Context) -> list[click.Command]:
    found = [group.get_command(context, name) for name in group.list_commands(context)]
    return [command for command in found if command is not None]


def _options(command: click.Command, context: click.Context) -> list[str]:
    shown = [each for each in command.get_params(context) if not getattr(each, "hidden", False)]
    records = [record for each in shown if (record := each.get_help_record(context)) is not None]
    return [f"| `{_cell(flags)}` | {_cell(text)} |" for flags, text in records if text]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def definition_page() -> str:
    """The page of a text definition's layers and options."""
    from convscope.training.presets import PRESETS
    from convscope.training.spelling import LAYERS, LOSSES, Input

    parts = [NOTE, DEFINITION]
    for title, kinds in (("Input", [Input]), ("Layers", LAYERS.values()), ("Losses", LOSSES.values())):
        parts.append(f"## {title}\n")
        for kind in kinds:
            parts += [f"### {kind.word}\n", f"{_sentence(kind.explanation)}\n"]
            rows = [
                f"| `{each.name}` | {'needed' if each.required else f'`{_default(each.default)}`'} | "
                f"{_cell(each.help)} ({_cell(_allowed(each))}) |"
                for each in options_of(kind).values()
            ]
            if rows:
                parts.append("\n".join(["| option | default | |", "|---|---|---|", *rows]) + "\n")
    parts.append("## Presets\n")
    for preset in PRESETS.values():
        cited = f" {bibliography()[preset.source]}." if preset.source else ""
        parts += [f"### {preset.name}\n", f"{preset.title}: {preset.explanation}.{cited}\n"]
        parts.append("```yaml\n" + preset.text + "```\n")
    return "\n".join(parts)


def _sentence(text: str) -> str:
    plain = text.split(maxsplit=1)[0].isalpha()
    return f"{text[0].upper()}{text[1:]}." if plain else f"{text}."


def _allowed(option: Option) -> str:
    text = option.allowed().removeprefix("write ").removeprefix(option.name).strip()
    return text.removeprefix("as ").removeprefix("is ")


def _default(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value[0]) if isinstance(value, tuple) and len(set(value)) == 1 else str(value)


PAGES = {
    "reference/methods.md": methods_page,
    "reference/commands.md": commands_page,
    "reference/definition-format.md": definition_page,
}


def main() -> None:
    """Write every generated page."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
