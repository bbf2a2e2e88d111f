"""Network: a handle over an ``nn.Module``. It never edits the module."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import replace
from functools import cache, cached_property
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from convscope.errors import BadImage, ConvscopeError, Refused, UnknownName, suggest
from convscope.network.batch import Batch, Picture
from convscope.network.empirical import measure_box
from convscope.network.index import LayerTable, build_layer_table
from convscope.network.outputs import find_output, output_names, scores_of
from convscope.network.preprocessing import Preprocessing
from convscope.network.receptive_field import Box, box_of, boxes_of
from convscope.network.unit import Unit, split_address
from convscope.trace import Entrance, ReluRule, Trace
from convscope.view import Array, View, canonical_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from convscope.network.batch import ImagesLike
    from convscope.network.layer import Layer


class Network:
    """A module with its preprocessing, class names, layer table, geometry and fingerprint.

    >>> pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)]
    >>> module = nn.Sequential(nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), *pooled)
    >>> network = Network.from_module(module, image_size=32)
    >>> [layer.address for layer in network.layers]
    ['0', '1', '2', '3', '4']
    >>> network.layer("1").receptive_field.rows
    Extent(size=5, stride=2.0, offset=0)
    >>> network.classes
    4
    """

    def __init__(
        self,
        module: nn.Module,
        preprocessing: Preprocessing,
        *,
        name: str = "",
        source: str = "",
        class_names: Sequence[str] = (),
        output: str | None = None,
    ) -> None:
        self.module = _visible(module)
        self.preprocessing = preprocessing
        self.name = name or type(self.module).__name__
        self.source = source
        self.class_names = tuple(str(each) for each in class_names)
        self._wanted_output = output
        # What was said beside the spec when the network was loaded: with it, a View's call can be written out.
        self.loaded_with: dict[str, Any] = {}
        # One observed forward pass fills the layer table, whichever thread asks first.
        self._lock = threading.Lock()
        self._table_made: LayerTable | None = None

    @classmethod
    def from_module(
        cls,
        module: nn.Module,
        *,
        image_size: int | tuple[int, int] = 224,
        channels: int | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        scale: float = 1.0,
        resize: int | None = None,
        interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear",
        class_names: Sequence[str] = (),
        name: str = "",
        source: str = "",
        output: str | None = None,
    ) -> Network:
        """A network from any module.

        ``image_size`` (rows, columns) and ``channels`` are those of its input; channels are read off the first
        convolution if not given. A prepared image is ``(pixels / 255 · scale − mean) / std``. ``resize`` is the length
        of the shorter side before the center crop. ``output`` chooses among several outputs (see :attr:`output_names`).
        """
        preprocessing = Preprocessing(
            image_size=(image_size, image_size) if isinstance(image_size, int) else image_size,
            channels=channels if channels is not None else _input_channels(module),
            mean=0.0 if mean is None else mean,
            std=1.0 if std is None else std,
            scale=scale,
            resize=resize,
            interpolation=interpolation,
        )
        return cls(module, preprocessing, name=name, source=source, class_names=class_names, output=output)

    def with_module(self, module: nn.Module) -> Network:
        """The same handle over a copy of the module whose weights are changed: calls, names and preprocessing stay.

        The layer table is shared, not made anew, so the kernels it holds remain those of this network's own module.
        """
        made = Network(
            module, self.preprocessing, name=self.name, class_names=self.class_names, output=self._wanted_output
        )
        made._table_made = self._table
        return made

    def __repr__(self) -> str:
        rows, columns = self.image_size
        return f"Network({self.name}: {self.channels} × {rows} × {columns}, {self.parameters:,} parameters)"

    # ---- what it is --------------------------------------------------------------------------------------------

    @property
    def image_size(self) -> tuple[int, int]:
        """(rows, columns) of a prepared image."""
        return self.preprocessing.image_size

    @property
    def channels(self) -> int:
        """Channels of a prepared image."""
        return self.preprocessing.channels

    @cached_property
    def parameters(self) -> int:
        """How many numbers the module learned."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    @property
    def device(self) -> torch.device:
        """Where the module's weights are."""
        return next((each.device for each in self.module.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The module's floating type, in which prepared images reach it."""
        floats = (each.dtype for each in self.module.parameters() if each.is_floating_point())
        return next(floats, torch.float32)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over structure, weights, buffers and preprocessing: the same network has the same one anywhere."""
        digest = hashlib.sha256()
        digest.update(f"{self.module}\n{self._wanted_output}".encode())
        digest.update(canonical_json(self.preprocessing.to_json()).encode())
        for name, tensor in self.module.state_dict(keep_vars=True).items():
            if not isinstance(tensor, Tensor):
                continue
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            plain = tensor.detach().cpu().contiguous().reshape(-1)
            if plain.numel():
                digest.update(plain.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    # ---- its calls ---------------------------------------------------------------------------------------------

    @property
    def _table(self) -> LayerTable:
        with self._lock:
            if self._table_made is None:
                self._table_made = build_layer_table(self.module, self._noise())
            return self._table_made

    def _noise(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand((1, self.channels, *self.image_size), generator=generator)
        return noise.to(self.device, self.dtype)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every call of one forward pass, in the order in which calls begin."""
        return self._table.layers

    @cached_property
    def _by_address(self) -> dict[str, Layer]:
        return {layer.address: layer for layer in self.layers}

    def layer(self, address: str) -> Layer:
        """The layer call at an address; raises :class:`UnknownName` with the nearest addresses."""
        name, _, _ = split_address(address)
        if name not in self._by_address:
            raise UnknownName(
                f"no layer {name!r}",
                where=self.name,
                next_step=suggest(name, self._by_address) or "list them with `convscope layers`",
            )
        return self._by_address[name]

    @property
    def output_names(self) -> tuple[str, ...]:
        """What the forward pass returns: ``output``, or ``output.aux``, ``output.0`` … of a dict or tuple."""
        return output_names(self._table.output)

    @cached_property
    def output(self) -> str:
        """The output whose values are the class scores."""
        if self._wanted_output is None:
            return self.output_names[0]
        if self._wanted_output not in self.output_names:
            raise UnknownName(
                f"the network returns no {self._wanted_output!r}", next_step=f"choose {', '.join(self.output_names)}"
            )
        return self._wanted_output

    @cached_property
    def classes(self) -> int:
        """How many class scores the chosen output holds."""
        return int(self.scores(self._table.output).shape[1])

    def scores(self, output: Any) -> Tensor:
        """Class scores ``[image, class]`` of what the module returned; over positions, their mean."""
        return scores_of(find_output(output, self.output), self.output)

    def class_name(self, index: int) -> str:
        """A class's name, or its number where there are no names."""
        return self.class_names[index] if 0 <= index < len(self.class_names) else f"class {index}"

    def class_of(self, picture: Picture) -> int | None:
        """A picture's true class among this network's, or None where that can't be known.

        A label with a name (a folder's) counts only if this network has a class of that name: the third folder of
        someone's photos isn't the third class of ImageNet. A label without one is taken as the class index.
        """
        if picture.label is None:
            return None
        name = getattr(picture, "label_name", None)
        if self.class_names and name is not None:
            return self._class_index.get(_plain_name(name))
        return picture.label if picture.label < self.classes else None

    @cached_property
    def _class_index(self) -> dict[str, int]:
        return {_plain_name(name): index for index, name in reversed(list(enumerate(self.class_names)))}

    # ---- images ------------------------------------------------------------------------------------------------

    def prepare(self, picture: Picture | Array) -> Tensor:
        """One picture, or pixels ``[row, column, channel]``, as float32 ``[1, channel, row, column]``."""
        # Not asked the other way around: Python 3.11 tells a Picture by evaluating its fingerprint, which reads it.
        pixels = picture if isinstance(picture, np.ndarray) else picture.pixels()
        return self.preprocessing.prepare(pixels).unsqueeze(0)

    def unprepare(self, prepared: Tensor) -> Array:
        """The uint8 ``[row, column, channel]`` picture that a prepared image was made from."""
        return self.preprocessing.unprepare(prepared[0] if prepared.dim() == 4 else prepared)

    def batch(self, images: ImagesLike) -> Batch:
        """Prepared images with their identities, from pictures, a prepared tensor, or a batch."""
        if isinstance(images, Batch):
            return images
        if isinstance(images, Tensor):
            if images.dim() != 4 or tuple(images.shape[1:]) != (self.channels, *self.image_size) or not len(images):
                raise BadImage(
                    f"a tensor of {' × '.join(map(str, images.shape))} isn't a batch for this network",
                    where=self.name,
                    next_step=f"pass [image, {self.channels}, {self.image_size[0]}, {self.image_size[1]}] "
                    "or make the network with another image_size",
                )
            return replace(made := Batch.from_tensor(images), tensor=made.tensor.to(self.device, self.dtype))
        pictures: list[Picture] = [images] if isinstance(images, Picture) else list(images)
        if not pictures:
            raise BadImage("there are no images", next_step="pass at least one")
        prepared = torch.cat([self.prepare(picture) for picture in pictures])
        return Batch(
            prepared.to(self.device, self.dtype),
            tuple(picture.fingerprint for picture in pictures),
            tuple(picture.name for picture in pictures),
            tuple(self.class_of(picture) for picture in pictures),
            location=str(getattr(images, "location", "")),
            ids=tuple(identity for picture in pictures if isinstance(identity := getattr(picture, "id", None), int)),
        )

    # ---- looking inside ----------------------------------------------------------------------------------------

    def trace(
        self,
        layers: Iterable[str],
        *,
        gradients: bool = False,
        inputs: bool = False,
        relu_rule: ReluRule | None = None,
        consume: Callable[[str, Tensor], None] | None = None,
        entrance: Entrance | None = None,
        frozen: bool = False,
    ) -> Trace:
        """Record some calls of one forward pass; see :class:`convscope.trace.Trace`."""
        addresses = [self.layer(each).address for each in layers]
        overwritten = self._table.overwritten()
        return Trace(
            self.module,
            addresses,
            gradients=gradients,
            inputs=inputs,
            relu_rule=relu_rule,
            overwritten=overwritten,
            consume=consume,
            entrance=entrance,
            frozen=frozen,
        )

    def view(
        self,
        method: str,
        target: str | Unit = "",
        images: ImagesLike | None = None,
        *,
        labels: Sequence[int | None] | None = None,
        **parameters: Any,
    ) -> View:
        """Run a method by name: ``network.view("weight_gradients", "layer1.0.conv1", images=images[:32])``.

        ``labels`` are the images' true classes, where their folders don't say them.
        """
        if labels is not None:
            images = self._labeled(images, labels)
        made: View = _runner()(self, method, target, images, parameters)
        return made

    def _labeled(self, images: ImagesLike | None, labels: Sequence[int | None]) -> Batch:
        if images is None:
            raise ConvscopeError("labels without images", next_step="pass images= too")
        batch = self.batch(images)
        if len(labels) != len(batch):
            raise ConvscopeError(
                f"{len(labels)} labels for {len(batch)} images", next_step="pass one for each, or None"
            )
        given = tuple(None if label is None else int(label) for label in labels)
        wrong = [label for label in given if label is not None and not 0 <= label < self.classes]
        if wrong:
            raise UnknownName(f"no class {wrong[0]}", where=self.name, next_step=f"choose 0 to {self.classes - 1}")
        return replace(batch, labels=given)

    def receptive_field(self, unit: Unit | str) -> Box:
        """The rectangle of the prepared image that one neuron sees; the center neuron if no position is given.

        Exact wherever every operation before it is followed; otherwise measured, with the reason.
        """
        name, channel, position = split_address(str(unit))
        layer = self.layer(name)
        layer.check_unit(channel or 0, position)
        if name not in self._table.footprints:
            raise Refused(f"{name} has no receptive field: {layer.opaque}", next_step="choose another layer")
        parts, reason = self._table.footprints[name]
        row, column = position if position is not None else (layer.rows // 2, layer.columns // 2)
        neuron = (channel or 0, row, column)
        if not reason:
            return box_of(parts, neuron, self.image_size)
        measured = measure_box(self.module, self._noise(), layer, neuron)
        return replace(measured, reason=f"{reason}; {measured.reason}")

    def boxes(self, layer: str, channel: Array, row: Array, column: Array) -> Array:
        """The boxes that many neurons of a layer see, at once and not clipped: int32 ``[…, side]``.

        The three integer arrays have one shape; sides are (row, column, rows, columns) in prepared pixels. Where the
        layer's field isn't exact, they are an upper bound; a neuron that depends on no pixel has a box of 0 × 0.
        """
        found = self.layer(layer)
        if found.address not in self._table.footprints:
            raise Refused(f"{found.address} has no receptive field: {found.opaque}", next_step="choose another layer")
        parts, _ = self._table.footprints[found.address]
        places = (torch.from_numpy(np.array(each, np.int64)) for each in (channel, row, column))
        boxes: Array = boxes_of(parts, *places).numpy()
        return boxes


@cache
def _runner() -> Callable[..., View]:
    # Methods are plug-ins of the network, found by name, so that this file need not know which there are.
    (runner,) = entry_points(group="convscope.runners", name="view")
    run: Callable[..., View] = runner.load()
    return run


def _plain_name(name: str) -> str:
    return name.replace("_", " ").strip().lower()


def _visible(module: nn.Module) -> nn.Module:
    """The module whose calls can be seen: wrappers are opened, compiled graphs refused."""
    if isinstance(module, torch.jit.ScriptModule):
        raise Refused(
            "a TorchScript module runs outside Python, so its calls can't be seen",
            next_step="pass the nn.Module it was made from",
        )
    original = getattr(module, "_orig_mod", None)  # torch.compile
    if isinstance(original, nn.Module):
        return _visible(original)
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return _visible(module.module)
    if not isinstance(module, nn.Module):
        raise ConvscopeError(f"a {type(module).__name__} isn't an nn.Module", next_step="pass the module itself")
    return module


def _input_channels(module: nn.Module) -> int:
    first = next((each for each in module.modules() if isinstance(each, nn.Conv2d)), None)
    return first.in_channels if first is not None else 3
