"""Hostile weights files: none runs code, none exhausts memory, each is refused in one sentence."""

from __future__ import annotations

import ast
import collections
import os
import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import convscope
from convscope.errors import ConvscopeError, UnsafeFile
from convscope.network.formats import checkpoint, load


class Gadget:
    """Runs a command when unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.canary}'",)


@pytest.fixture
def canary(tmp_path: Path) -> Any:
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "the file ran code"


def saved(path: Path, content: Any, *, zipped: bool = True) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def refusal(path: Path, kind: type[ConvscopeError] = UnsafeFile, **options: Any) -> str:
    with pytest.raises(ConvscopeError) as caught:
        checkpoint.read(path, **options)
    assert isinstance(caught.value, kind), caught.value
    assert caught.value.next_step
    return str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("nested", [True, False])
def test_a_gadget_is_named_and_not_run(tmp_path: Path, canary: Path, zipped: bool, nested: bool) -> None:
    hostile = {"weight": torch.zeros(2), "optimizer": {"deep": [Gadget(canary)]} if nested else Gadget(canary)}
    message = refusal(saved(tmp_path / "w.pt", hostile, zipped=zipped))
    assert "system" in message
    assert "--trust" in message
    assert "safetensors" in message


def test_a_plain_pickle_is_refused(tmp_path: Path, canary: Path) -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        path = tmp_path / f"{protocol}.pt"
        path.write_bytes(pickle.dumps({"weight": Gadget(canary)}, protocol))
        assert "pickle" in refusal(path)
    path.write_bytes(pickle.dumps({"weight": Gadget(canary)}, 0))
    refusal(path, ConvscopeError)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_newer_pickle_protocols_inside_an_archive(tmp_path: Path, canary: Path, protocol: int) -> None:
    path = tmp_path / "w.pt"
    torch.save({"weight": Gadget(canary)}, path, pickle_protocol=protocol)
    refusal(path)


def test_a_gadget_behind_the_legacy_magic(tmp_path: Path, canary: Path) -> None:
    path = tmp_path / "w.pt"
    magic = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
    path.write_bytes(magic + pickle.dumps(1001, 2) + pickle.dumps({}, 2) + pickle.dumps(Gadget(canary), 2))
    refusal(path)


def test_a_whole_module_needs_trust(tmp_path: Path) -> None:
    path = saved(tmp_path / "module.pt", nn.Sequential(nn.Conv2d(3, 4, 3)))
    assert "torch.nn.modules.container.Sequential" in refusal(path)
    with pytest.raises(UnsafeFile):
        load(str(path), image_size=8)
    assert load(str(path), trust=True, image_size=8).parameters == 112
    assert list(checkpoint.read(path, trust=True).tensors) == ["0.weight", "0.bias"]


def test_only_trust_runs_code(tmp_path: Path) -> None:
    path, proof = tmp_path / "w.pt", tmp_path / "proof"
    saved(path, {"weight": Gadget(proof)})
    with pytest.raises(ConvscopeError):
        checkpoint.read(path, trust=True)
    assert proof.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("name", "tensor", "word"),
    [
        ("csr", lambda: torch.eye(3).to_sparse_csr(), "sparse"),
        ("coo", lambda: torch.eye(3).to_sparse(), "sparse"),
        ("quantized", lambda: torch.quantize_per_tensor(torch.zeros(3), 1.0, 0, torch.qint8), "quantized"),
        ("meta", lambda: torch.zeros(3, device="meta"), "without values"),
        ("nested", lambda: torch.nested.nested_tensor([torch.zeros(3), torch.zeros(2)]), "nested"),
        ("four terabytes", lambda: torch.zeros(1).expand(1 << 20, 1 << 20), "4,398,046,511,104 bytes"),
        ("overlapping", lambda: torch.zeros(8).as_strided((5, 4), (1, 1)), "80 bytes"),
        ("complex", lambda: torch.zeros(3, dtype=torch.complex64), "refused"),
    ],
)
def test_only_dense_tensors_that_fit_their_storage(
    tmp_path: Path, zipped: bool, name: str, tensor: Any, word: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = saved(tmp_path / "w.pt", {"weight": tensor()}, zipped=zipped)
    message = refusal(path)
    assert word in message or name == "complex"


def test_a_storage_larger_than_its_record(tmp_path: Path) -> None:
    """The pickle claims 2^28 elements; torch must not read beyond the record's 16 bytes."""
    honest = saved(tmp_path / "honest.pt", {"weight": torch.zeros(4)})
    path = tmp_path / "w.pt"
    with zipfile.ZipFile(honest) as source, zipfile.ZipFile(path, "w") as target:
        for record in source.infolist():
            content = source.read(record)
            if record.filename.endswith("data.pkl"):
                content = content.replace(b"K\x04t", b"J\x00\x00\x00\x10t").replace(
                    b"K\x04\x85", b"J\x00\x00\x00\x10\x85"
                )
            target.writestr(record, content)
    refusal(path, ConvscopeError)


def test_an_archive_that_unpacks_to_more_than_itself(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    honest = saved(tmp_path / "honest.pt", {"weight": torch.zeros(4)})
    with zipfile.ZipFile(honest) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for record in source.infolist():
            target.writestr(record.filename, source.read(record))
        target.writestr("honest/data/1", bytes(50 << 20))
    assert "unpack" in refusal(path)


def test_torchscript_is_a_program(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    honest = saved(tmp_path / "w.pt", {"weight": torch.zeros(4)})
    with zipfile.ZipFile(honest) as source, zipfile.ZipFile(path, "w") as target:
        for record in source.infolist():
            target.writestr(record, source.read(record))
        target.writestr("w/constants.pkl", pickle.dumps((), 2))
    assert "program" in refusal(path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"\x00", b"hello, world", b"PK\x03\x04", b"\x80\x02", b"\xff" * 100])
def test_wrong_magic(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    refusal(path, ConvscopeError)


@pytest.mark.parametrize("zipped", [True, False])
def test_every_truncation_and_many_flips(tmp_path: Path, zipped: bool) -> None:
    content = saved(tmp_path / "w.pt", {"weight": torch.arange(4.0)}, zipped=zipped).read_bytes()
    path = tmp_path / "damaged.pt"
    for length in range(0, len(content), 41):
        path.write_bytes(content[:length])
        refusal(path, ConvscopeError)
    for place in range(0, len(content), 23):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            checkpoint.read(path)
        except ConvscopeError:
            continue


@pytest.mark.parametrize("length", [0, 1, 1 << 40, (1 << 64) - 1, 200 << 20])
def test_a_huge_safetensors_header(tmp_path: Path, length: int) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}" + bytes(100))
    refusal(path, UnsafeFile)


@pytest.mark.parametrize(
    "header",
    [
        b'{"w":{"dtype":"F32","shape":[1048576,1048576],"data_offsets":[0,16]}}',
        b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,99999999]}}',
        b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"v":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
        b'{"w":{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}}',
        b"[" * 5000,
    ],
)
def test_a_lying_safetensors_header(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    refusal(path, ConvscopeError)


def test_not_a_regular_file(tmp_path: Path) -> None:
    folder = tmp_path / "folder.pt"
    folder.mkdir()
    refusal(folder, ConvscopeError)
    pipe = tmp_path / "pipe.pt"
    os.mkfifo(pipe)
    refusal(pipe, ConvscopeError)
    (tmp_path / "loop.pt").symlink_to(tmp_path / "loop.pt")
    refusal(tmp_path / "loop.pt", ConvscopeError)
    (tmp_path / "device.safetensors").symlink_to("/dev/zero")
    refusal(tmp_path / "device.safetensors", ConvscopeError)
    refusal(tmp_path / "missing.safetensors", ConvscopeError)


def test_a_link_to_weights_is_followed(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "blob.safetensors")
    (tmp_path / "w.safetensors").symlink_to(tmp_path / "blob.safetensors")
    assert list(checkpoint.read(tmp_path / "w.safetensors").tensors) == ["weight"]


def test_names_from_a_file_are_shortened(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pt", {"weight": torch.zeros(2), "x" * 100_000: torch.zeros(1)})
    with pytest.raises(ConvscopeError) as caught:
        checkpoint.load_into(nn.Linear(2, 1), checkpoint.read(path))
    assert len(str(caught.value)) < 2000


def test_converting_stays_within_the_files_size(tmp_path: Path) -> None:
    """Many names for one large storage: each fits, together they would fill the disk."""
    large = torch.zeros(1 << 16)
    path = saved(tmp_path / "w.pt", {f"weight{number}": large for number in range(100)})
    with pytest.raises(UnsafeFile, match="far more"):
        checkpoint.convert(path, tmp_path / "w.safetensors")
    assert list(tmp_path.glob("*.safetensors")) == []


def test_harmless_training_checkpoints_open(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    content = {
        "epoch": 3,
        "state_dict": collections.OrderedDict(module.state_dict()),
        "optimizer": optimizer.state_dict(),
        "counts": collections.Counter([1]),
        "device": torch.device("cpu"),
        "shape": torch.Size([1]),
    }
    for zipped in (True, False):
        read = checkpoint.read(saved(tmp_path / "w.pt", content, zipped=zipped))
        assert set(read.tensors) == set(module.state_dict())


def test_only_one_file_may_unpickle() -> None:
    """Every torch.load of the package is in checkpoint.py and says weights_only; False stands in one function alone."""
    source = Path(convscope.__file__).parent
    lax = []
    # A driver and its own workers, over pipes that nobody else holds: nothing that came from a stranger.
    own = {source / "mining" / "parcel.py", source / "mining" / "worker.py"}
    for path in source.rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        imported = {
            name.name.split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for name in (node.names if isinstance(node, ast.Import) else [ast.alias(node.module or "")])
        }
        assert path in own or not imported & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}, path
        for function in ast.walk(tree):
            if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "load_state_dict_from_url"):
                    assert path.name == "checkpoint.py", path
                    (only,) = [keyword.value for keyword in node.keywords if keyword.arg == "weights_only"]
                    assert isinstance(only, ast.Constant)
                    if only.value is not True:
                        lax.append(function.name)
                allowed = [keyword for keyword in getattr(node, "keywords", []) if keyword.arg == "allow_pickle"]
                assert all(isinstance(k.value, ast.Constant) and k.value.value is False for k in allowed), path
    assert lax == ["_load_trusted"]
