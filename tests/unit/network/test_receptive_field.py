"""Receptive fields: closed forms, a measurement by NaN, and TorchLens as the outside oracle."""

from __future__ import annotations

import random
import warnings
from threading import Event
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from convscope import Network
from convscope.errors import Cancelled
from convscope.network.empirical import measure_box
from convscope.network.receptive_field import Extent
from convscope.progress import Progress, watch

if TYPE_CHECKING:
    from convscope.network.layer import Layer

ORACLE = ["resnet18", "googlenet", "densenet121", "mobilenet_v3_small"]


def table(module: nn.Module, size: int | tuple[int, int] = 32, **options: object) -> Network:
    return Network.from_module(module, image_size=size, **options)  # type: ignore[arg-type]


def architecture(name: str) -> nn.Module:
    from torchvision import models

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(0)
        module: nn.Module = models.get_model(name, weights=None)
    return module.eval()


def test_closed_forms_through_stride_dilation_padding_and_pooling() -> None:
    network = table(
        nn.Sequential(
            nn.Conv2d(3, 4, 5, stride=2, padding=2),
            nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(4, 4, 3, dilation=2, padding=2),
            nn.Conv2d(4, 4, 3, groups=4, padding=1),
            nn.AvgPool2d(2),
        ),
        64,
    )
    assert [layer.receptive_field.rows for layer in network.layers] == [
        Extent(5, 2.0, -2),
        Extent(9, 4.0, -4),
        Extent(25, 4.0, -12),
        Extent(33, 4.0, -16),
        Extent(37, 8.0, -16),
    ]
    assert all(layer.receptive_field.exact for layer in network.layers)


def test_rows_and_columns_differ_in_a_network_that_is_not_square() -> None:
    network = table(nn.Sequential(nn.Conv2d(3, 4, (3, 7), stride=(1, 2), padding=(1, 3))), (24, 40))
    field = network.layer("0").receptive_field
    assert (field.rows, field.columns) == (Extent(3, 1.0, -1), Extent(7, 2.0, -3))


def test_a_padded_box_is_clipped_and_keeps_what_was_cut() -> None:
    network = table(nn.Sequential(nn.Conv2d(3, 4, 5, stride=2, padding=2)))
    box = network.receptive_field("0:1:0,15")
    assert (box.row, box.column, box.rows, box.columns) == (0, 28, 3, 4)
    assert box.whole == (-2, 28, 5, 5)


class Concatenation(nn.Module):
    """Two branches of different reach side by side, then a depthwise convolution that keeps them apart."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(3, 2, 1)
        self.wide = nn.Conv2d(3, 2, 7, padding=3)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.mixing = nn.Conv2d(4, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        mixed: Tensor = self.mixing(self.depthwise(torch.cat([self.narrow(image), self.wide(image)], 1)))
        return mixed


def test_units_of_a_concatenation_have_their_own_fields_until_a_convolution_mixes_them() -> None:
    network = table(Concatenation())
    assert not network.layer("cat").receptive_field.uniform
    assert [network.receptive_field(f"cat:{unit}:16,16").rows for unit in range(4)] == [1, 1, 7, 7]
    assert [network.receptive_field(f"depthwise:{unit}:16,16").rows for unit in range(4)] == [3, 3, 9, 9]
    assert [network.receptive_field(f"mixing:{unit}:16,16").rows for unit in range(4)] == [9, 9, 9, 9]
    assert network.layer("mixing").receptive_field.uniform


class Gate(nn.Module):
    """Squeeze and excitation: after it, every unit sees the whole image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.squeeze = nn.Conv2d(4, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        features = self.conv(image)
        return features * torch.sigmoid(self.squeeze(features.mean((2, 3), keepdim=True)))


def test_a_global_gate_lets_every_unit_see_everything() -> None:
    network = table(Gate())
    assert network.receptive_field("conv:0:5,5").rows == 3
    box = network.receptive_field("mul:0:5,5")
    assert (box.row, box.column, box.rows, box.columns) == (0, 0, 32, 32)
    assert network.layer("mul").receptive_field.exact


class Shuffled(nn.Module):
    """Channel shuffle, slices, a transposed convolution and nearest-neighbor enlargement."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 2, 1)
        self.five = nn.Conv2d(3, 2, 5, padding=2)
        self.grouped = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, image: Tensor) -> Tensor:
        both = torch.cat([self.one(image), self.five(image)], 1)
        shuffled = both.view(-1, 2, 2, *both.shape[2:]).transpose(1, 2).reshape(both.shape)
        grouped = self.grouped(shuffled[:, [1, 0, 3, 2]])
        raised = self.up(self.pool(grouped))
        return torch.nn.functional.interpolate(raised, scale_factor=2)


class Strange(nn.Module):
    """A running maximum along rows: an operation that isn't followed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.last = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        last: Tensor = self.last(torch.cummax(self.conv(image), 2).values)
        return last


def test_bilinear_enlargement_reads_the_two_neighbors_that_weigh_something() -> None:
    network = table(nn.Sequential(nn.Conv2d(3, 1, 1), nn.Upsample(scale_factor=2, mode="bilinear")), 8)
    boxes = [network.receptive_field(f"1:0:{row},0") for row in range(16)]
    # Output row r lies at input row (r + 0.5) / 2 - 0.5: at the borders it is clamped to a single row.
    assert [(box.row, box.rows) for box in boxes[:4]] == [(0, 1), (0, 2), (0, 2), (1, 2)]
    assert (boxes[15].row, boxes[15].rows) == (7, 1)


def test_where_it_is_not_exact_it_says_why_and_measures() -> None:
    network = table(Strange())
    field = network.layer("last").receptive_field
    assert not field.exact
    assert "cummax" in field.reason
    box = network.receptive_field("last:0:10,10")
    # Rows 0 … 10 + 1 + 1 by the running maximum and two 3×3 convolutions; columns 10 ± 2.
    assert (box.row, box.rows, box.column, box.columns) == (0, 13, 8, 5)
    assert "measured" in box.reason


def neurons(layer: Layer, generator: random.Random, count: int) -> list[tuple[int, int, int]]:
    corners = [(0, 0, 0), (layer.units - 1, layer.rows - 1, layer.columns - 1)]
    inner = [
        (generator.randrange(layer.units), generator.randrange(layer.rows), generator.randrange(layer.columns))
        for _ in range(count)
    ]
    return corners + inner


@pytest.mark.parametrize("module", [Concatenation(), Gate(), Shuffled()], ids=lambda module: type(module).__name__)
def test_tiny_networks_agree_with_the_measurement_everywhere(module: nn.Module) -> None:
    network = table(module, (20, 24))
    image, generator = torch.rand(1, 3, 20, 24), random.Random(0)
    for layer in network.layers:
        if layer.opaque:
            continue
        for neuron in neurons(layer, generator, 4):
            unit = f"{layer.address}:{neuron[0]}:{neuron[1]},{neuron[2]}"
            box, measured = network.receptive_field(unit), measure_box(network.module, image, layer, neuron)
            assert box.exact, unit
            assert (box.row, box.column, box.rows, box.columns) == measured.whole, unit


@pytest.mark.parametrize("name", ORACLE)
def test_architectures_agree_with_the_measurement(name: str) -> None:
    network = table(architecture(name), 96)
    image, generator = torch.rand(1, 3, 96, 96), random.Random(name)
    layers = [layer for layer in network.layers if layer.rows > 1]
    assert all(layer.receptive_field.exact for layer in network.layers if not layer.opaque)
    for layer in generator.sample(layers, 4):
        neuron = neurons(layer, generator, 1)[-1]
        unit = f"{layer.address}:{neuron[0]}:{neuron[1]},{neuron[2]}"
        box, measured = network.receptive_field(unit), measure_box(network.module, image, layer, neuron)
        assert (box.row, box.column, box.rows, box.columns) == measured.whole, unit


@pytest.mark.parametrize("name", ORACLE)
def test_convolutions_agree_with_torchlens(name: str) -> None:
    import torchlens

    module = architecture(name)
    network = table(module, 128)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trace = torchlens.trace(module, torch.rand(1, 3, 128, 128))
    fields = {
        str(operation.atomic_module_call).removesuffix(":1"): operation.receptive_field
        for operation in trace.ops
        if operation.func_name == "conv2d"
    }
    compared = 0
    for layer in network.layers:
        field = layer.receptive_field
        if layer.kind != "Conv2d" or layer.rows == 1:
            continue
        theirs = fields[layer.address]
        assert field.rows is not None
        if field.rows.stride is None or field.rows.stride == 0:  # sees the whole image, as after a gate
            continue
        # TorchLens calls some of its own fields upper bounds; they are compared all the same.
        size, jump = tuple(theirs.size)[-2:], tuple(theirs.jump)[-2:]
        assert size == (field.rows.size, field.columns.size if field.columns else None), layer.address
        assert jump == (field.rows.stride, field.columns.stride if field.columns else None), layer.address
        compared += 1
    assert compared >= 2


def test_measuring_reports_its_progress_and_can_be_stopped() -> None:
    network = table(Strange())
    seen: list[Progress] = []
    with watch(seen.append):
        network.receptive_field("last:0:10,10")
    assert [each.done for each in seen] == list(range(len(seen)))
    assert len(seen) <= seen[0].total
    stop = Event()

    def cancel_soon(progress: Progress) -> None:
        if progress.done == 3:
            stop.set()

    with watch(cancel_soon, stop), pytest.raises(Cancelled):
        network.receptive_field("last:0:10,10")
