"""``convscope view METHOD MODEL [TARGET]``: one View, printed or written. Method parameters become options."""

from __future__ import annotations

import json
import re
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convscope.cli.help import HelpfulCommand, HelpfulGroup, interruptible, terminal, working
from convscope.cli.source import debug_option, image_option, model_options, take_source
from convscope.errors import Cancelled, ConvscopeError
from convscope.methods.call_text import option_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from convscope.images import ImageSet
    from convscope.methods.base import Method, Parameter
    from convscope.network.network import Network
    from convscope.view import View

SUFFIXES = (".png", ".svg", ".html", ".npz", ".safetensors")
METHODS = "convscope.methods"
STUDY = "study"  # a method that reads a study reads the one of the command


class _MethodGroup(HelpfulGroup):
    """One command per registered method, made from its parameters when it is asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        """The registered names; nothing is imported."""
        del context
        return sorted({entry.name for entry in entry_points(group=METHODS)})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The command of one method."""
        return _command(name) if name in self.list_commands(context) else None

    def rows(self, context: click.Context) -> list[tuple[str, str]]:
        """Names only: a line about each would import torch for a help page."""
        return [(name, f"see convscope view {name} --help") for name in self.list_commands(context)]


@click.group(
    cls=_MethodGroup,
    subcommand_metavar="METHOD MODEL [TARGET] [OPTIONS]",
    examples=(
        ("convscope view weights demo stem.convolution -o kernels.png", "the first layer's kernels"),
        (
            "convscope view weight_gradients demo stem.convolution --images photos/ --objective loss:predicted",
            "their gradient",
        ),
        ("convscope view activations torchvision:resnet18 layer1.0.conv1:3 --images cat.jpg --json", "one unit's map"),
        ("convscope view deconvnet torchvision:vgg16 features.28:5 --image cat.jpg -o unit.png", "what drives a unit"),
        (
            "convscope view integrated_gradients demo --objective score:tabby --image cat.jpg -o tabby.png",
            "and what speaks for a class",
        ),
        ("convscope view sanity_checks demo --of gradient --image cat.jpg -o checks.png", "whether to believe it"),
        ("convscope view projections demo blocks.5.project --units 0-8 --study study/ -o figure.png", "ZFNet's figure"),
        (
            "convscope view feature_visualization demo blocks.5.project:3 --study study/ -o unit.png",
            "what a unit would like to see",
        ),
    ),
)
@debug_option
def view() -> None:
    """Compute one view of a layer, a unit or the network: print what is in it, or write it to a file."""


def _command(name: str) -> click.Command:
    from convscope.methods.base import method_class

    method = method_class(name)
    arguments: list[click.Parameter] = [click.Argument(["model"])]
    if method.target != "network":
        arguments.append(click.Argument(["target"], required=False, default=""))

    def callback(**given: Any) -> None:
        _run(method, given)

    for option in reversed(_OWN_OPTIONS):
        callback = option(callback)
    command = click.command(
        name,
        cls=HelpfulCommand,
        help=_help(method),
        short_help=method.title,
        examples=_examples(method),
    )(callback)
    own = [_option(each) for each in method.parameters() if each.name != STUDY]
    command.params[:0] = [*arguments, *own]
    return command


_OWN_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    image_option,
    click.option("--pick", metavar="IDS", help="which of the images, by id: 0,3,5-8  [default: all]"),
    click.option("-o", "--output", metavar="FILE", help=f"write {', '.join(SUFFIXES)}"),
    click.option("--json", "as_json", is_flag=True, help="what is in the view, as JSON"),
    click.option("--study", metavar="FOLDER", help="keep the view in this study, and take it from there"),
    model_options,
    debug_option,
)


def _option(each: Parameter) -> click.Option:
    """A method's parameter as an option; the method itself checks and converts the value."""
    flag = "--" + option_name(each.name).replace("_", "-")
    limits = [
        f"{word} {value:g}"
        for word, value in (("at least", each.minimum), ("at most", each.maximum))
        if value is not None
    ]
    help_text = each.help + (f" ({', '.join(limits)})" if limits else "")
    if each.type is bool:
        return click.Option([f"{flag}/--no-{flag[2:]}"], default=each.default, help=help_text, show_default=True)
    if each.choices:
        choices = click.Choice([str(choice) for choice in each.choices])
        return click.Option([flag], type=choices, default=str(each.default), help=help_text, show_default=True)
    kind = each.type if each.type in (int, float, str) else str
    return click.Option([flag], type=kind, default=each.default, help=help_text, show_default=each.default != "")


def _help(method: type[Method]) -> str:
    parts = [(method.__doc__ or method.title).strip().split("\n\n")[0]]
    if method.formula:
        parts.append(f"Formula: {method.formula}")
    if method.caveat:
        parts.append(f"Mind: {method.caveat}")
    return "\n\n".join(parts)


def _examples(method: type[Method]) -> list[tuple[str, str]]:
    words = f"convscope view {method.name} demo"
    if "study" in method.needs:
        return [(f"{words} {_LAYER}:3 --study study/ -o unit.png", f"{method.title}, of one unit")]
    images = " --images demo" if "images" in method.needs else ""
    if method.target != "objective":
        target = {"network": "", "layer": f" {_LAYER}", "unit": f" {_LAYER}:3"}[method.target]
        return [(f"{words}{target}{images}", method.title)]
    return [
        (f"{words} --image cat.jpg -o cat.png", "of the predicted class's score"),
        (f"{words} {_LAYER}:3 --image cat.jpg -o unit.png", "of one unit, where it is strongest"),
    ]


_LAYER = "stem.convolution"


def _run(method: type[Method], given: dict[str, Any]) -> None:
    output, as_json, study = given.pop("output"), given.pop("as_json"), given.pop("study")
    pick, target = given.pop("pick"), given.pop("target", "")
    reads_study = any(each.name == STUDY for each in method.parameters())
    parameters = {each.name: given.pop(option_name(each.name)) for each in method.parameters() if each.name != STUDY}
    if output is not None:
        _check_output(output)
    if reads_study and study and ("study" in method.needs or _was_mined(study)):
        parameters[STUDY] = study
    asked = method.make(parameters)
    source = take_source(given.pop("model"), given, given.pop("images"))
    with working(f"opening {source.model}"):
        network = source.network()
        images = _picked(source.image_set(), pick) if source.images else None
    if STUDY in parameters and images is not None:
        from convscope.mining.pictures import open_study

        # The study has images of its own; these are where its pictures are found now.
        open_study(study, images)
        images = None
    found = _computed(method, lambda: _from_study(asked, network, target, images, study))
    if output is not None:
        with working("drawing"):
            found.save(output)
        click.echo(f"wrote {output}", err=True)
    if as_json:
        click.echo(json.dumps(_summary(found), indent=2, ensure_ascii=False))
    elif output is None:
        _show(found)


def _computed(method: type[Method], compute: Callable[[], View]) -> View:
    """With progress; what takes minutes stops in good order at Ctrl-C, and tells in a file, too, how far it is."""
    if not method.long:
        with working(method.title.lower()):
            return compute()
    try:
        with interruptible("stopping") as cancel, working(method.title.lower(), cancel):
            return compute()
    except Cancelled:
        raise click.Abort from None


def _was_mined(study: str) -> bool:
    """Whether there is more in a study than Views that were kept."""
    from convscope.mining.study import find_plan
    from convscope.store import INDEX, Store

    if not Path(study, INDEX).is_file():
        return False
    with Store.open(study) as store:
        return find_plan(store) is not None


def _check_output(output: str) -> None:
    """Before any computing: an hour's work must not end at a typing error."""
    path = Path(output)
    if path.suffix.lower() not in SUFFIXES:
        raise ConvscopeError(
            f"can't write {path.suffix or 'a file without suffix'}", next_step=f"end it in {', '.join(SUFFIXES)}"
        )
    if not path.resolve().parent.is_dir():
        raise ConvscopeError("the folder doesn't exist", where=str(path.parent), next_step="make it first")


def _picked(images: ImageSet, pick: str | None) -> ImageSet:
    """The images with these ids; all without any."""
    if pick is None:
        return images
    chosen: list[int] = []
    for part in pick.split(","):
        found = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part)
        if found is None:
            raise ConvscopeError(f"{pick[:80]!r} isn't a list of image ids", next_step="write --pick 0,3,5-8")
        first = int(found[1])
        # A range beyond the set names an image that isn't there, without being written out first.
        chosen += range(first, min(int(found[2] or first), first + len(images)) + 1)
    return images[chosen]


def _from_study(method: Method, network: Network, target: str, images: Any, study: str | None) -> View:
    """The View as the study has it, or computed and then kept there."""
    if not study or not method.kept:
        return method.run(network, target, images)
    from convscope.store import Store
    from convscope.view import View

    batch = network.batch(images) if images is not None else None
    with Store.open(study) as store:
        blob = store.get(method.recipe(network, target, batch))
        if blob is not None:
            return View.from_bytes(blob)
        found = method.run(network, target, batch)
        store.put(found)
    return found


def _summary(found: View) -> dict[str, Any]:
    arrays = {
        name: {"axes": list(found.axes[name]), "shape": list(array.shape), "dtype": str(array.dtype)}
        for name, array in found.arrays.items()
    }
    recipe = found.recipe.to_json() if found.recipe else None
    key = found.recipe.key if found.recipe else None
    return {"kind": found.kind, "key": key, "arrays": arrays, "meta": dict(found.meta), "recipe": recipe}


def _show(found: View) -> None:
    from rich.table import Table
    from rich.text import Text

    console = terminal()
    console.print(Text(str(found.meta["caption"])))
    for warning in found.meta["warnings"]:
        console.print(Text(f"mind: {warning}", style="yellow"))
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("array", "axes", "minimum", "maximum", "not finite"):
        table.add_column(heading, justify="left" if heading in ("array", "axes") else "right", overflow="fold")
    for name, array in found.arrays.items():
        axes = ", ".join(f"{axis} {size}" for axis, size in zip(found.axes[name], array.shape, strict=True))
        bounds = found.meta["ranges"].get(name, {})
        ends = [bounds.get("minimum"), bounds.get("maximum")]
        lost = sum(bounds.get(kind, 0) for kind in ("nan", "positive_infinity", "negative_infinity"))
        numbers = ["" if end is None else f"{end:.3g}" for end in ends]
        table.add_row(*(Text(cell) for cell in (name, axes, *numbers, f"{lost:,}" if lost else "")))
    console.print()
    console.print(table)
    if found.kind == "predictions":
        console.print()
        console.print(_classes(found))


def _classes(found: View) -> RenderableType:
    """The most probable classes by name, an image a row."""
    from rich.table import Table
    from rich.text import Text

    names = found.meta["class_names"]
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("image", style="cyan")
    table.add_column("classes and their probabilities", overflow="fold")
    probabilities, classes = found["probability"], found["class"]
    for image, name in enumerate(found.meta["images"] or range(len(classes))):
        pairs = zip(classes[image], probabilities[image], strict=True)
        text = ", ".join(f"{names.get(str(index), f'class {index}')} {value:.3g}" for index, value in pairs)
        table.add_row(Text(str(name)), Text(text))
    return table


__all__ = ["view"]
