"""Commands that list: layers, methods, and the HTTP interface's own description."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from convscope.cli.help import HelpfulCommand, terminal, working
from convscope.cli.source import debug_option, model_options, take_source

if TYPE_CHECKING:
    from convscope.network.layer import Layer
    from convscope.network.network import Network
    from convscope.network.receptive_field import ReceptiveField


@click.command(
    cls=HelpfulCommand,
    examples=(
        ("convscope layers demo", "the embedded network"),
        ("convscope layers timm:mobilenetv3_small_100 --weights random", "a zoo's architecture, untrained"),
        ("convscope layers torchvision:resnet18 --json | jq '.layers[].address'", "for a script"),
    ),
)
@click.argument("model")
@model_options
@click.option("--json", "as_json", is_flag=True, help="as JSON, the same as the page reads")
@debug_option
def layers(model: str, as_json: bool, **options: Any) -> None:
    """List a network's layer calls in order: address, kind, shape, parameters, receptive field."""
    with working(f"opening {model}"):
        network = take_source(model, options).network()
        rows = network.layers
    if as_json:
        from convscope.server.answers import layer_answer
        from convscope.server.schema import Layers

        click.echo(Layers(layers=[layer_answer(each) for each in rows]).model_dump_json(indent=2))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("#", justify="right", style="dim")
    table.add_column("address", style="cyan", overflow="fold", min_width=20)
    table.add_column("kind", overflow="fold", min_width=8)
    for heading in ("unit × row × column", "parameters", "field size", "stride", "offset"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("note", style="yellow", overflow="fold", min_width=10)
    with working("measuring the receptive fields that aren't exact"):
        cells = [_cells(each, _measured(network, each)) for each in rows]
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    console = terminal()
    console.print(table)
    console.print(f"{len(rows)} calls, {network.parameters:,} parameters: {network.name}")


def _measured(network: Network, layer: Layer) -> str:
    """What the center neuron was found to see, where the field is only an upper bound."""
    if layer.opaque or layer.receptive_field.exact:
        return ""
    box = network.receptive_field(layer.address)
    return f"the center neuron measured: {_pair(box.rows, box.columns)}"


def _cells(layer: Layer, measured: str) -> tuple[str, ...]:
    shape = "–" if layer.opaque else f"{layer.units} × {layer.rows} × {layer.columns}"
    field = layer.receptive_field
    notes = [layer.opaque, "" if field.exact else field.reason, measured, *layer.warnings]
    return (
        str(layer.index),
        layer.address,
        layer.kind,
        shape,
        f"{layer.parameters:,}" if layer.parameters else "",
        *_field_cells(field),
        "; ".join(note for note in notes if note),
    )


def _field_cells(field: ReceptiveField) -> tuple[str, str, str]:
    """Size, stride and offset; one number where rows and columns agree."""
    if field.rows is None or field.columns is None:
        return "–", "–", "–"
    about = "" if field.exact else "≤ "
    return (
        about + _pair(field.rows.size, field.columns.size),
        _pair(field.rows.stride, field.columns.stride),
        _pair(field.rows.offset, field.columns.offset),
    )


def _pair(row: int | float | None, column: int | float | None) -> str:
    first, second = ("–" if value is None else f"{value:g}" for value in (row, column))
    return first if first == second else f"{first}×{second}"


@click.command(
    cls=HelpfulCommand,
    examples=(
        ("convscope methods", "what there is"),
        ("convscope view weight_gradients --help", "one method's parameters"),
    ),
)
@click.option("--json", "as_json", is_flag=True, help="as JSON, with parameters, formulas and caveats")
@debug_option
def methods(as_json: bool) -> None:
    """List the methods: what each shows, what it looks at, what it needs."""
    from convscope.errors import ConvscopeError
    from convscope.methods.base import describe, method_class, method_names

    described: list[dict[str, Any]] = []
    broken: list[ConvscopeError] = []
    for name in method_names():
        try:
            described.append(describe(method_class(name)))
        except ConvscopeError as error:
            broken.append(error)
    if as_json:
        click.echo(json.dumps({"methods": described}, indent=2, sort_keys=True))
    else:
        _show_methods(described)
    for problem in broken:
        click.echo(f"left out: {problem}", err=True)


def _show_methods(described: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("method", style="cyan", no_wrap=True)
    table.add_column("looks at")
    table.add_column("needs")
    table.add_column("shows", overflow="fold")
    table.add_column("parameters", overflow="fold")
    for each in described:
        parameters = ", ".join(f"{p['name']}={p['default']}" for p in each["parameters"])
        first = each["summary"].split("\n\n")[0].replace("\n", " ")
        cells = (each["name"], each["target"], ", ".join(each["needs"]), " ".join(first.split()), parameters)
        table.add_row(*(Text(cell) for cell in cells))
    terminal().print(table)


@click.command(cls=HelpfulCommand, hidden=True)
@debug_option
def openapi() -> None:
    """Print the HTTP interface as OpenAPI JSON, keys sorted: the source of web/openapi.json."""
    from convscope.server.app import openapi as describe_interface

    click.echo(json.dumps(describe_interface(), indent=2, sort_keys=True, ensure_ascii=False))


__all__ = ["layers", "methods", "openapi"]
