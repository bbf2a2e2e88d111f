"""Network: the layer table of every kind of network, its inputs and outputs, its identity and its refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convscope import Network
from convscope.errors import BadImage, ConvscopeError, Refused, UnknownName
from convscope.network.batch import Batch

if TYPE_CHECKING:
    from convscope.network.layer import Layer


class Block(nn.Module):
    """A residual block with one ReLU used twice and a functional addition."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, image: Tensor) -> Tensor:
        made: Tensor = self.relu(self.conv2(self.relu(self.conv1(image))) + image)
        return made


class Small(nn.Module):
    """A stem, a block, pooling, a classifier; a child called `relu` beside a functional relu."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 4, 5, stride=2, padding=2)
        self.relu = nn.ReLU()
        self.block = Block()
        self.head = nn.Linear(4, 3)

    def forward(self, image: Tensor) -> Tensor:
        made = F.relu(self.stem(image))
        scores: Tensor = self.head(self.block(self.relu(made)).mean((2, 3)))
        return scores


def test_the_table_lists_every_call_in_order() -> None:
    network = Network.from_module(Small(), image_size=16)
    assert [(layer.address, layer.kind, layer.operation) for layer in network.layers] == [
        ("stem", "Conv2d", "module"),
        ("relu_function", "relu", "function"),
        ("relu", "ReLU", "module"),
        ("block", "Block", "block"),
        ("block.conv1", "Conv2d", "module"),
        ("block.relu", "ReLU", "module"),
        ("block.conv2", "Conv2d", "module"),
        ("block.add", "add", "function"),
        ("block.relu@1", "ReLU", "module"),
        ("mean", "mean", "function"),
        ("head", "Linear", "module"),
    ]
    stem, block, add = network.layer("stem"), network.layer("block"), network.layer("block.add")
    assert (stem.units, stem.rows, stem.columns, stem.parameters) == (4, 8, 8, 4 * 3 * 25 + 4)
    assert stem.inputs == ("input",)
    assert block.parameters == 4 * 4 * 9 + (4 * 2 * 9 + 4)
    assert add.inputs == ("block.conv2", "relu")
    assert network.layer("block.relu").overwritten is False
    assert network.layer("block.conv1").overwritten is True
    assert network.layer("head").output_shape == (1, 3)


def test_kernels_are_read_off_the_call() -> None:
    kernel = Network.from_module(Small(), image_size=16).layer("block.conv2").kernel
    assert kernel is not None
    assert (kernel.operation, kernel.groups, kernel.padding, kernel.parameter) == (
        "convolution",
        2,
        (1, 1),
        "block.conv2.weight",
    )


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
@pytest.mark.parametrize("size", [16, (12, 20)])
def test_any_channels_and_sizes(channels: int, size: Any) -> None:
    network = Network.from_module(Small(channels), image_size=size)
    assert network.channels == channels
    assert network.classes == 3
    assert network.layer("stem").rows == network.image_size[0] // 2
    assert network.layer("stem").columns == network.image_size[1] // 2


class Standardized(nn.Module):
    """A kernel that is computed from its parameter before it is applied, by a functional convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(2, 3, 3, 3))

    def forward(self, image: Tensor) -> Tensor:
        return F.conv2d(image, self.weight - self.weight.mean((1, 2, 3), keepdim=True), padding="same")


def test_a_computed_kernel_is_shown_as_applied() -> None:
    module = Standardized()
    network = Network.from_module(module, image_size=8, channels=3)
    (layer,) = network.layers
    assert (layer.address, layer.operation) == ("conv2d", "function")
    assert layer.kernel is not None
    assert layer.kernel.parameter is None
    assert layer.kernel.padding == (1, 1)
    torch.testing.assert_close(layer.kernel.weight.mean((1, 2, 3)), torch.zeros(2), atol=1e-6, rtol=0)


class ChannelsLast(nn.Module):
    """The order of a ConvNeXt block."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(3, 6, 3, padding=1, groups=3)
        self.norm = nn.LayerNorm(6)
        self.wide = nn.Linear(6, 8)
        self.narrow = nn.Linear(8, 6)

    def forward(self, image: Tensor) -> Tensor:
        made = self.depthwise(image).permute(0, 2, 3, 1)
        made = self.narrow(F.gelu(self.wide(self.norm(made))))
        return made.permute(0, 3, 1, 2).flatten(2).transpose(1, 2)


def test_axes_are_named_whichever_order_they_have() -> None:
    network = Network.from_module(ChannelsLast(), image_size=(5, 7))
    shapes = {layer.address: (layer.units, layer.rows, layer.columns) for layer in network.layers}
    assert shapes == {
        "depthwise": (6, 5, 7),
        "permute": (6, 5, 7),
        "norm": (6, 5, 7),
        "wide": (8, 5, 7),
        "gelu": (8, 5, 7),
        "narrow": (6, 5, 7),
        "permute@1": (6, 5, 7),
        "flatten": (6, 1, 35),
        "transpose": (6, 1, 35),
    }
    image = torch.rand(2, 3, 5, 7)
    with network.trace(["wide", "permute@1", "transpose"]) as trace:
        trace.run(image)
    assert network.layer("wide").to_units(trace["wide"]).shape == (2, 8, 5, 7)
    last = network.layer("permute@1").to_units(trace["permute@1"])
    assert torch.equal(network.layer("transpose").to_units(trace["transpose"])[:, :, 0], last.flatten(2))


class ManyOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 5)

    def forward(self, image: Tensor) -> dict[str, Any]:
        maps = self.conv(image)
        return {"scores": self.head(maps.mean((2, 3))), "maps": (maps, None), "count": torch.tensor(3)}


def test_several_outputs_have_names_and_one_is_chosen() -> None:
    network = Network.from_module(ManyOutputs(), image_size=8)
    assert network.output_names == ("output.scores", "output.maps.0")
    assert (network.output, network.classes) == ("output.scores", 5)
    other = Network.from_module(ManyOutputs(), image_size=8, output="output.maps.0")
    assert other.classes == 4
    maps = other.module(torch.ones(2, 3, 8, 8))
    assert torch.equal(other.scores(maps), maps["maps"][0].mean((2, 3)))
    with pytest.raises(UnknownName, match=r"choose output\.scores, output\.maps\.0"):
        _ = Network.from_module(ManyOutputs(), image_size=8, output="logits").classes


def test_a_network_that_does_not_fit_its_input_says_where() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(10, 2))
    with pytest.raises(ConvscopeError, match=r"can't take an image of 3 × 8 × 8.*\(in 2\).*image size") as caught:
        _ = Network.from_module(module, image_size=8).layers
    assert caught.value.where == "in 2"


def test_nan_weights_are_counted_and_do_not_stop_anything() -> None:
    module = Small()
    with torch.no_grad():
        module.block.conv1.weight[0, 0] = float("nan")
    network = Network.from_module(module, image_size=16)
    assert network.layer("block.conv1").warnings == ("weight: 9 of 144 values are NaN or infinite",)
    assert network.layer("stem").warnings == ()
    # The layer table's own geometry doesn't depend on values.
    assert network.receptive_field("block.conv2:0:2,2").exact


class Odd(nn.Module):
    """Calls whose outputs have no units: windows in the image axis, indices, constants."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        made = self.conv(image) * self.scale.exp()
        windows = made.unfold(2, 4, 4).unfold(3, 4, 4).flatten(4).permute(0, 2, 3, 4, 1).flatten(0, 2)
        best = windows.argmax(1)
        return windows.mean(1) + best


def test_calls_without_units_say_why() -> None:
    network = Network.from_module(Odd(), image_size=8)
    reasons = {layer.address: layer.opaque for layer in network.layers}
    assert "exp" not in reasons  # it doesn't depend on the image
    assert reasons["flatten@1"] == "its first axis isn't the image axis"
    assert reasons["unfold"] == "its output has 5 axes"
    with pytest.raises(Refused, match="no units"):
        network.layer("flatten@1").check_unit(0)


def test_unknown_layers_and_units_come_with_the_next_step() -> None:
    network = Network.from_module(Small(), image_size=16)
    with pytest.raises(UnknownName, match=r"did you mean block\.conv"):
        network.layer("block.conv9")
    layer: Layer = network.layer("stem")
    with pytest.raises(UnknownName, match="choose 0 to 3"):
        layer.check_unit(4)
    with pytest.raises(UnknownName, match="rows 0 to 7"):
        layer.check_unit(0, (8, 0))


def test_the_fingerprint_follows_weights_and_preprocessing_alone() -> None:
    torch.manual_seed(0)
    first = Network.from_module(Small(), image_size=16)
    torch.manual_seed(0)
    assert Network.from_module(Small(), image_size=16, name="another").fingerprint == first.fingerprint
    torch.manual_seed(0)
    assert Network.from_module(Small(), image_size=18).fingerprint != first.fingerprint
    assert Network.from_module(Small(), image_size=16).fingerprint != first.fingerprint


def test_batches_of_the_wrong_shape_are_refused() -> None:
    network = Network.from_module(Small(), image_size=16)
    assert len(network.batch(torch.rand(2, 3, 16, 16))) == 2
    for wrong in (torch.rand(2, 1, 16, 16), torch.rand(3, 16, 16), torch.rand(0, 3, 16, 16)):
        with pytest.raises(BadImage, match="isn't a batch for this network"):
            network.batch(wrong)
    with pytest.raises(BadImage, match="no images"):
        network.batch([])


class Labeled:
    """A picture from a folder."""

    fingerprint, name = "0" * 64, "photo"

    def __init__(self, label: int | None, label_name: str | None) -> None:
        self.label, self.label_name = label, label_name

    def pixels(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return np.zeros((16, 16, 3), np.uint8)


def test_a_folder_is_a_class_only_if_the_network_has_one_of_its_name() -> None:
    named = Network.from_module(Small(), image_size=16, class_names=["tench", "golden retriever", "cat"])
    pictures = [Labeled(0, "cat"), Labeled(1, "Golden_Retriever"), Labeled(2, "holiday"), Labeled(1, None)]
    assert named.batch([*pictures, Labeled(None, None)]).labels == (2, 1, None, 1, None)
    bare = Network.from_module(Small(), image_size=16)
    assert bare.batch([Labeled(0, "cat"), Labeled(7, "dog")]).labels == (0, None)


def test_labels_can_be_given_beside_the_images() -> None:
    network = Network.from_module(Small(), image_size=16)
    images = torch.rand(2, 3, 16, 16)
    labeled = network.view("weight_gradients", "stem", images, labels=[2, 1], objective="loss:true")
    batch = Batch.from_tensor(images, labels=[2, 1])
    same = network.view("weight_gradients", "stem", batch, objective="loss:true")
    assert labeled.to_bytes() == same.to_bytes()
    assert labeled.recipe is not None
    assert labeled.recipe.labels == (2, 1)
    with pytest.raises(ConvscopeError, match="3 labels for 2 images"):
        network.view("weight_gradients", "stem", images, labels=[0, 1, 2])
    with pytest.raises(UnknownName, match="choose 0 to 2"):
        network.view("weight_gradients", "stem", images, labels=[0, 3])
    with pytest.raises(ConvscopeError, match="labels without images"):
        network.view("weights", "stem", labels=[0])


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_wrapped_modules_are_opened_and_invisible_ones_refused() -> None:
    module = Small()
    assert Network.from_module(nn.DataParallel(module)).module is module
    assert Network.from_module(torch.compile(module)).module is module  # type: ignore[arg-type]
    with pytest.raises(Refused, match="TorchScript"):
        Network.from_module(torch.jit.script(nn.Conv2d(3, 4, 3)))


def test_double_precision_networks_take_double_images() -> None:
    network = Network.from_module(Small().double(), image_size=16)
    assert network.batch(torch.rand(1, 3, 16, 16)).tensor.dtype == torch.float64
    assert network.classes == 3
