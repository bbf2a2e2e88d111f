"""Every way a network can arrive, and what is said when it can't."""

from __future__ import annotations

import json
import sys
import urllib.error
from pathlib import Path  # noqa: TC003 - fixtures are annotated with it
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from safetensors.torch import save_file
from torch import nn

from convscope.errors import ConvscopeError, UnknownName
from convscope.images.demo_photos import demo_photos
from convscope.network.formats import (
    checkpoint,
    class_names,
    demo,
    efficientnet_lite0,
    forms,
    load,
    pretrained,
    timm_zoo,
    torchvision_zoo,
)
from convscope.network.network import Network

FACTORY = """
from torch import nn
from convscope.network.network import Network

def build():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

class Small(nn.Conv2d):
    def __init__(self):
        super().__init__(1, 2, 3)

instance = Small()

def network():
    return Network.from_module(build(), image_size=16, mean=0.5, class_names=["cat", "dog"], name="mine")

def broken():
    raise ValueError("no such luck")

def number():
    return 7

text = "hello"
"""


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "my_networks.py"
    path.write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    yield path
    sys.modules.pop("my_networks", None)


# ---- the demonstration ----


def test_lite0_equals_the_published_implementation() -> None:
    from efficientnet_lite_pytorch import EfficientNet

    published = checkpoint.read(demo.weights_path())
    oracle = EfficientNet.from_name("efficientnet-lite0").eval()
    oracle.load_state_dict(published.tensors)
    network = load("demo")
    photos = [network.preprocessing.prepare(np.asarray(Pillow.open(path).convert("RGB"))) for path in demo_photos()[:3]]
    batch = torch.stack([*photos, torch.randn(3, 224, 224, generator=torch.Generator().manual_seed(0))])
    with torch.no_grad():
        ours, theirs = network.module(batch), oracle(batch)
    assert (ours - theirs).abs().max() <= 1e-4
    top = [network.class_names[number] for number in ours.argmax(1)[:3]]
    assert top[0] in ("tabby", "tiger cat", "Egyptian cat")
    assert top[1:] == ["espresso", "daisy"]


def test_lite0_uses_every_published_weight() -> None:
    published = checkpoint.read(demo.weights_path()).tensors
    assert set(efficientnet_lite0.rename(published)) == set(efficientnet_lite0.EfficientNetLite0().state_dict())
    with pytest.raises(ConvscopeError, match="no weight '_strange"):
        efficientnet_lite0.rename({"_strange.weight": torch.zeros(1)})


def test_lite0_has_a_relu_of_its_own_at_every_place() -> None:
    relus = [module for module in efficientnet_lite0.EfficientNetLite0().modules() if isinstance(module, nn.ReLU6)]
    assert len(relus) == 33


def test_the_demonstration_is_described() -> None:
    network = load("demo")
    assert network.name == "EfficientNet-Lite0"
    assert network.source == "demo"
    assert network.preprocessing.mean == (127 / 255,) * 3
    assert len(network.class_names) == 1000
    assert not network.module.training


def test_the_demonstration_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda _: None)
    with pytest.raises(ConvscopeError, match=r"aren't installed.*pip install 'convscope\[demo\]'"):
        load("demo")


def test_random_weights_are_always_the_same_and_leave_the_generator_alone() -> None:
    before = torch.get_rng_state()
    first, second = load("demo", weights="random"), load("demo", weights="random")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.module.classifier.weight, second.module.classifier.weight)
    assert first.fingerprint == second.fingerprint != load("demo").fingerprint


def test_the_demonstrations_weights_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "lite0.safetensors"
    save_file(load("demo", weights="random").module.state_dict(), file)
    assert load("demo", weights=file).fingerprint == load("demo", weights="random").fingerprint


# ---- specs ----


@pytest.mark.parametrize(
    ("spec", "step"),
    [
        ("dmeo", "did you mean demo"),
        ("resnet18", "torchvision:resnet18 or timm:resnet18"),
        ("keras:vgg", "no such|torchvision:NAME|importing it failed"),
        ("", "torchvision:NAME"),
        ("some text", "path/to/file.py:factory"),
        ("torchvision:resnet19", "resnet18"),
        ("torchvision:", "choose one of"),
        ("timm:resnt18", "resnet18"),
        ("timm:", "list_models"),
    ],
)
def test_unknown_specs(spec: str, step: str) -> None:
    with pytest.raises(ConvscopeError, match=step):
        load(spec)


def test_forms_are_listed() -> None:
    assert forms()[:3] == ["demo", "torchvision:NAME", "timm:NAME"]


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_alone_are_no_network(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    save_file({"w": torch.zeros(2)}, path) if suffix == ".safetensors" else torch.save({"w": torch.zeros(2)}, path)
    with pytest.raises(ConvscopeError, match=f"torchvision:NAME --weights w{suffix}"):
        load(str(path))


def test_a_trusted_module_with_other_weights(tmp_path: Path) -> None:
    torch.save({"model": nn.Sequential(nn.Conv2d(3, 2, 3))}, tmp_path / "whole.pt")
    save_file({"0.weight": torch.ones(2, 3, 3, 3), "0.bias": torch.ones(2)}, tmp_path / "w.safetensors")
    network = load(str(tmp_path / "whole.pt"), weights=tmp_path / "w.safetensors", trust=True, image_size=8)
    assert network.name == "whole"
    assert network.module[0].bias.tolist() == [1, 1]


# ---- torchvision ----


def test_torchvision_preprocessing_and_class_names() -> None:
    network = load("torchvision:resnet18", weights="random")
    preprocessing = network.preprocessing
    assert (preprocessing.image_size, preprocessing.resize, preprocessing.interpolation) == (
        (224, 224),
        256,
        "bilinear",
    )
    assert preprocessing.mean == (0.485, 0.456, 0.406)
    assert network.class_names == class_names.imagenet_classes()
    assert network.name == "resnet18"
    assert load("torchvision:inception_v3", weights="random").preprocessing.image_size == (299, 299)


def test_torchvision_named_weights_choose_their_preprocessing(monkeypatch: pytest.MonkeyPatch) -> None:
    build = torchvision_zoo._build
    monkeypatch.setattr(torchvision_zoo, "_build", lambda models, name, _: build(models, name, {}))
    assert load("torchvision:resnet50", weights="IMAGENET1K_V1").preprocessing.resize == 256
    assert load("torchvision:resnet50", weights="IMAGENET1K_V2").preprocessing.resize == 232


def test_preprocessing_is_overridden(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\n")
    network = load(
        "torchvision:resnet18", weights="random", num_classes=2, image_size=64, mean=0.5, resize=None, class_names=names
    )
    assert network.preprocessing.image_size == (64, 64)
    assert network.preprocessing.mean == (0.5, 0.5, 0.5)
    assert network.preprocessing.resize is None
    assert network.class_names == ("cat", "dog")
    assert network.classes == 2


@pytest.mark.parametrize("spec", ["torchvision:resnet18", "timm:resnet18"])
def test_a_file_trained_for_other_classes(tmp_path: Path, spec: str) -> None:
    trained = load(spec, weights="random", num_classes=10)
    save_file(trained.module.state_dict(), tmp_path / "w.safetensors")
    network = load(spec, weights=tmp_path / "w.safetensors")
    assert network.classes == 10
    assert network.class_names == ()
    assert torch.equal(network.module.fc.weight, trained.module.fc.weight)
    with pytest.raises(ConvscopeError, match=r"fc.weight is \[10, 512\] in the file, \[7, 512\] in the network"):
        load(spec, weights=tmp_path / "w.safetensors", num_classes=7)


def test_data_parallel_and_containers(tmp_path: Path) -> None:
    module = load("torchvision:squeezenet1_1", weights="random").module
    content = {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in module.state_dict().items()}}
    torch.save(content, tmp_path / "w.pth")
    read = checkpoint.read(tmp_path / "w.pth")
    assert read.notes == ("the weights are those under 'state_dict'", "taken off every name: 'module.'")
    load("torchvision:squeezenet1_1", weights=tmp_path / "w.pth")


def test_old_densenet_names() -> None:
    renamed = torchvision_zoo._modern({"features.denseblock1.denselayer2.norm.1.weight": torch.zeros(1)})
    assert list(renamed) == ["features.denseblock1.denselayer2.norm1.weight"]


@pytest.mark.parametrize(
    ("error", "words"),
    [(ModuleNotFoundError("No module named 'x'"), "isn't installed"), (RuntimeError("no nms"), "can't be imported")],
)
@pytest.mark.parametrize(("zoo", "name"), [(torchvision_zoo, "torchvision"), (timm_zoo, "timm")])
def test_a_missing_or_broken_zoo(
    monkeypatch: pytest.MonkeyPatch, zoo: Any, name: str, error: Exception, words: str
) -> None:
    def fail(_: str) -> None:
        raise error

    monkeypatch.setattr(zoo, "import_module", fail)
    with pytest.raises(ConvscopeError, match=f"{name} .*{words}"):
        load(f"{name}:resnet18", weights="random")


def test_torchvision_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    with pytest.raises(ConvscopeError) as caught:
        load("torchvision:resnet18")
    assert str(caught.value) == (
        "the pretrained weights of torchvision:resnet18 couldn't be fetched (https://download.pytorch.org/models/"
        "resnet18-f37072fd.pth: <urlopen error Name or service not known>). Next: give a file you have by "
        "`--weights FILE.safetensors`, or look at an untrained network by `--weights random`."
    )


def test_a_hubs_file_is_never_fully_unpickled(tmp_path: Path) -> None:
    """Inside the block torch.load refuses whatever else a zoo asks for."""
    torch.save(nn.Linear(1, 1), tmp_path / "w.pt")
    with pytest.raises(ConvscopeError, match="couldn't be fetched"), pretrained.explained("zoo:x", ""):
        torch.load(tmp_path / "w.pt", weights_only=None)


# ---- timm ----


def test_timm_preprocessing() -> None:
    network = load("timm:resnet18.a1_in1k", weights="random")
    preprocessing = network.preprocessing
    assert (preprocessing.image_size, preprocessing.resize, preprocessing.interpolation) == ((224, 224), 235, "bicubic")
    assert len(network.class_names) == 1000


def test_timm_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants as constants

    def unknown(*_: Any, **__: Any) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(timm_zoo.socket, "getaddrinfo", unknown)
    monkeypatch.setattr(timm_zoo, "getproxies", dict)
    with pytest.raises(ConvscopeError, match=r"timm:resnet18 couldn't be fetched.*--weights FILE.safetensors"):
        load("timm:resnet18")
    assert constants.HF_HUB_OFFLINE is False


# ---- factories ----


@pytest.mark.parametrize("where", ["my_networks", "my_networks.py"])
def test_factories(factory: Path, where: str) -> None:
    path = list(sys.path)
    assert load(f"{where}:build", image_size=8).parameters == 122
    assert load(f"{where}:Small", image_size=8).preprocessing.channels == 1
    assert load(f"{where}:instance", image_size=8).name == "Small"
    network = load(f"{where}:network")
    assert (network.name, network.class_names, network.preprocessing.mean) == ("mine", ("cat", "dog"), (0.5,) * 3)
    assert sys.path == path


def test_a_factory_with_weights(factory: Path, tmp_path: Path) -> None:
    state = load("my_networks.py:build", image_size=8).module.state_dict()
    save_file({name: torch.full_like(value, 0.25) for name, value in state.items()}, tmp_path / "w.safetensors")
    for name in ("build", "network"):
        options = {"image_size": 8} if name == "build" else {}
        network = load(f"my_networks.py:{name}", weights=tmp_path / "w.safetensors", **options)
        assert network.module[0].bias.tolist() == [0.25] * 4
    assert network.class_names == ("cat", "dog")
    assert isinstance(network, Network)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("my_networks.py:biuld", "did you mean build"),
        ("my_networks.py:broken", "the factory failed: ValueError: no such luck"),
        ("my_networks.py:number", "returned a int"),
        ("my_networks.py:text", "is a str"),
        ("missing.py:build", "no such Python file"),
        ("missing.package:build", "No module named 'missing'"),
    ],
)
def test_factories_that_fail(factory: Path, spec: str, message: str) -> None:
    with pytest.raises(ConvscopeError, match=message):
        load(spec)


def test_a_networks_own_preprocessing_stands(factory: Path) -> None:
    with pytest.raises(ConvscopeError, match="has its own mean"):
        load("my_networks.py:network", mean=0.1)


def test_a_file_that_fails_to_import(factory: Path) -> None:
    factory.write_text("1/0")
    with pytest.raises(ConvscopeError, match="importing it failed: ZeroDivisionError"):
        load("my_networks.py:build")


# ---- weights files and class names ----


def test_weights_that_dont_fit_are_told_apart() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    weights = checkpoint.Weights({"0.weight": torch.zeros(2, 1, 5, 5), **{f"x{i}": torch.zeros(1) for i in range(7)}})
    with pytest.raises(ConvscopeError) as caught:
        checkpoint.load_into(module, weights, where="w.pt")
    message = str(caught.value)
    assert "missing 0.bias, 1.weight, 1.bias, 1.running_mean, 1.running_var;" in message
    assert "not in the network: x0, x1, x2, x3, x4 and 2 more" in message
    assert "0.weight is [2, 1, 5, 5] in the file, [2, 1, 3, 3] in the network" in message
    assert "w.pt" in message


def test_a_failed_load_changes_nothing() -> None:
    module = nn.Linear(2, 1)
    before = module.weight.detach().clone()
    with pytest.raises(ConvscopeError):
        checkpoint.load_into(module, checkpoint.Weights({"weight": torch.zeros(1, 2)}))
    assert torch.equal(module.weight, before)


def test_nan_weights_load() -> None:
    module = nn.Linear(2, 1)
    nan = torch.full((1, 2), float("nan"))
    checkpoint.load_into(module, checkpoint.Weights({"weight": nan, "bias": torch.zeros(1)}))
    assert module.weight.isnan().all()


def test_converting(tmp_path: Path) -> None:
    tied = torch.arange(6.0).reshape(2, 3)
    torch.save({"state_dict": {"a": tied, "b": tied, "c": tied.t()}}, tmp_path / "w.pt")
    path = checkpoint.convert(tmp_path / "w.pt", tmp_path / "w.safetensors")
    read = checkpoint.read(path).tensors
    assert torch.equal(read["c"], tied.t())
    assert torch.equal(read["b"], tied)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["w.pt", "w.safetensors"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("n.txt", "cat\n\n dog \n", ("cat", "dog")),
        ("n.json", json.dumps(["cat", "dog"]), ("cat", "dog")),
        ("n.json", json.dumps({"1": "dog", "0": "cat"}), ("cat", "dog")),
        ("n.json", json.dumps({"0": ["n01", "cat"]}), ("cat",)),
    ],
)
def test_class_names(tmp_path: Path, name: str, content: str, expected: tuple[str, ...]) -> None:
    (tmp_path / name).write_text(content)
    assert class_names.read_class_names(str(tmp_path / name)) == expected


@pytest.mark.parametrize("content", ['{"a": "cat"}', '{"1": "cat"}', "7", "{", "[" * 100_000])
def test_class_names_that_cant_be_read(tmp_path: Path, content: str) -> None:
    (tmp_path / "n.json").write_text(content)
    with pytest.raises(ConvscopeError, match="can't read the class names"):
        class_names.read_class_names(tmp_path / "n.json")
    with pytest.raises(ConvscopeError, match="can't open"):
        class_names.read_class_names(tmp_path / "missing.txt")


def test_imagenet_classes() -> None:
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    assert class_names.imagenet_classes() == tuple(_IMAGENET_CATEGORIES)


def test_unknown_name_is_the_kind() -> None:
    with pytest.raises(UnknownName):
        load("torchvision:nothing")
