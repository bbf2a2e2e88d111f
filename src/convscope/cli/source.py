"""What a command looks at: the network, the images and the study, as options; and the study's own record of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from convscope.errors import ConvscopeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convscope.images import ImageSet
    from convscope.network.network import Network

Function = TypeVar("Function", bound=Callable[..., Any])

RECORD = "study.json"
RECORD_FORMAT = 1
# Specs that name a network without naming code of somebody's own.
PLAIN_SPECS = ("torchvision:", "timm:")
PREPROCESSING = ("image_size", "channels", "mean", "std", "scale", "resize", "interpolation", "class_names")


@dataclass(frozen=True)
class Source:
    """A network and its images, in the words of the command line: enough to open them again."""

    model: str
    weights: str | None = None
    images: tuple[str, ...] = ()
    preprocessing: dict[str, Any] = field(default_factory=dict)
    device: str | None = None
    trust: bool = False

    def network(self) -> Network:
        """Load the network and move it to its device."""
        from convscope.network.formats import load

        network = load(self.model, weights=self.weights, trust=self.trust, **self.preprocessing)
        if self.device is not None:
            try:
                network.module.to(self.device)
            except (RuntimeError, AssertionError) as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise ConvscopeError(
                    f"no device {self.device!r} here", where=reason, next_step="leave --device out for the CPU"
                ) from error
        return network

    def image_set(self) -> ImageSet:
        """Load the images; none at all makes an empty set."""
        from convscope.images import load_images

        return load_images(self.images[0] if len(self.images) == 1 else list(self.images))

    @property
    def runs_code(self) -> bool:
        """Whether opening the network runs Python code that the spec names."""
        return self.model != "demo" and not self.model.startswith(PLAIN_SPECS)


class Numbers(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Numbers separated by commas; a single one stays a number."""

    def __init__(self, kind: type[int] | type[float], name: str) -> None:
        self.kind = kind
        self.name = name

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        """``"0.5,0.5"`` to a tuple, ``"0.5"`` to a number."""
        if not isinstance(value, str):
            return value
        try:
            numbers = tuple(self.kind(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value[:80]!r} isn't {self.name}", parameter, context)
        return numbers[0] if len(numbers) == 1 else numbers


_MODEL_OPTIONS = (
    click.option("--weights", metavar="FILE", help="weights to load (.safetensors, .pt), or random for untrained ones"),
    click.option("--trust", is_flag=True, help="open a pickle although it could run code; only for files you trust"),
    click.option("--image-size", type=Numbers(int, "rows,columns"), metavar="N|R,C", help="rows, columns of the input"),
    click.option("--mean", type=Numbers(float, "numbers"), metavar="M,M,M", help="mean per channel, of scaled pixels"),
    click.option("--std", type=Numbers(float, "numbers"), metavar="S,S,S", help="standard deviation per channel"),
    click.option("--scale", type=float, help="scaled pixels are pixels / 255 * scale  [default: 1]"),
    click.option("--channels", type=int, help="channels of the input  [default: those of the first convolution]"),
    click.option("--resize", type=int, help="shorter side before the center crop"),
    click.option("--interpolation", type=click.Choice(["bilinear", "bicubic", "nearest"]), help="how it is resized"),
    click.option("--output-name", metavar="NAME", help="which of several outputs holds the class scores"),
    click.option("--class-names", metavar="FILE", help="one class name per line, or a JSON list"),
    click.option("--device", help="cpu, cuda, cuda:1, mps …  [default: cpu]"),
)
_IMAGE_OPTION = click.option(
    "--images",
    "--image",
    multiple=True,
    metavar="SOURCE",
    help="a folder, an image, a .tar or .parquet file or a folder of them, or demo; more than once for several files",
)
_DEBUG_OPTION = click.option("--debug", is_flag=True, expose_value=False, help="show the traceback of an error")


def debug_option(function: Function) -> Function:
    """--debug, which :func:`convscope.cli.main` reads off the command line itself."""
    return _DEBUG_OPTION(function)


def model_options(function: Function) -> Function:
    """The options that say how a network is opened."""
    for option in reversed(_MODEL_OPTIONS):
        function = option(function)
    return function


def image_option(function: Function) -> Function:
    """--images."""
    return _IMAGE_OPTION(function)


def take_source(model: str, options: dict[str, Any], images: tuple[str, ...] = ()) -> Source:
    """The source that the options describe; takes those it knows out of ``options``."""
    given = {name: options.pop(name) for name in PREPROCESSING}
    # -o is the file a picture goes to, so the network's output has a longer name in the shell.
    given["output"] = options.pop("output_name")
    return Source(
        model,
        weights=options.pop("weights"),
        images=images,
        preprocessing={name: value for name, value in given.items() if value is not None},
        device=options.pop("device"),
        trust=options.pop("trust"),
    )


def write_record(study: Path, source: Source, fingerprint: str) -> None:
    """Write down in the study what it is of, so that ``convscope serve`` can open it again."""
    preprocessing = dict(source.preprocessing)
    if "class_names" in preprocessing:
        preprocessing["class_names"] = _absolute(preprocessing["class_names"])
    absolute = replace(
        source,
        model=_absolute_model(source.model),
        weights=_absolute(source.weights) if source.weights else None,
        images=tuple(_absolute(each) for each in source.images),
        preprocessing=preprocessing,
    )
    # Trust is given each time anew: a study may be a stranger's by then.
    values = {name: value for name, value in asdict(absolute).items() if name != "trust"}
    content = {"format": RECORD_FORMAT, "network": fingerprint, **values}
    temporary = study / f"{RECORD}.new"
    temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(study / RECORD)


def keep_record(study: Path, source: Source, fingerprint: str) -> None:
    """Write the record down, unless there is one of this network: that stays, whatever images it names."""
    try:
        known = json.loads((study / RECORD).read_text(encoding="utf-8"))["network"]
    except (OSError, ValueError, TypeError, KeyError):
        known = None
    if known != fingerprint:
        write_record(study, source, fingerprint)


def read_record(study: Path, *, trust: bool) -> tuple[Source, str]:
    """What a study is of, and the fingerprint of its network."""
    path = study / RECORD
    if not path.is_file():
        raise ConvscopeError(
            "no study is here", where=str(study), next_step="make one with `convscope open MODEL --study FOLDER`"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        source, fingerprint = _source_of(content, trust=trust)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConvscopeError(
            f"{RECORD} can't be read", where=str(study), next_step="open the model again with --study"
        ) from error
    if source.runs_code and not trust:
        raise ConvscopeError(
            "this study opens its network by running Python code",
            where=source.model,
            next_step="repeat with --trust if you trust that code",
        )
    return source, fingerprint


def _source_of(content: Mapping[str, Any], *, trust: bool) -> tuple[Source, str]:
    if content["format"] != RECORD_FORMAT:
        raise ValueError(content["format"])
    options = {
        name: tuple(value) if isinstance(value, list) else value for name, value in content["preprocessing"].items()
    }
    texts = [content["model"], content["network"], *content["images"]]
    texts += [each for each in (content["weights"], content["device"]) if each is not None]
    if not all(isinstance(each, str) for each in texts):
        raise TypeError("text expected")
    if not set(options) <= {*PREPROCESSING, "output"}:
        raise KeyError("unknown option")
    source = Source(
        content["model"], content["weights"], tuple(content["images"]), options, content["device"], trust=trust
    )
    return source, content["network"]


def _absolute(text: str) -> str:
    path = Path(text)
    return str(path.resolve()) if path.exists() else text


def _absolute_model(model: str) -> str:
    file, separator, factory = model.rpartition(":")
    return f"{_absolute(file)}:{factory}" if separator and Path(file).is_file() else model


__all__ = [
    "Source",
    "debug_option",
    "image_option",
    "keep_record",
    "model_options",
    "read_record",
    "take_source",
    "write_record",
]
