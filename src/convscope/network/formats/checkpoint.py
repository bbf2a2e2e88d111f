"""Weights files: safetensors, and torch checkpoints without running what is in them.

A torch checkpoint is a pickle: a program that builds tensors and can do anything else. Three gates stand before it:
every name that the pickle would call is read from its opcodes, without running them, and must be on a short
allow-list; torch opens it with ``weights_only=True``; and each tensor must be dense, on the CPU, and no larger than
the bytes that the file holds for it. Nothing falls back to a full unpickling: that happens with ``trust=True`` alone.
This is the only file that may call ``torch.load``.
"""

from __future__ import annotations

import io
import os
import pickletools
import stat
import struct
import warnings
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from convscope.errors import ConvscopeError, UnsafeFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_Stream = io.BufferedReader | io.BytesIO
TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
SUFFIXES = (".safetensors", *TORCH_SUFFIXES)
MAXIMUM_HEADER = 16 << 20  # bytes; the largest real one (a million tensors) is smaller
MAXIMUM_TENSORS = 1_000_000
_CONTAINERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
_ZIP = b"PK\x03\x04"
_LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")  # the magic number that torch.save pickled before 1.6
_LEGACY_PICKLES = 5  # magic, protocol, system, the object, the keys of its storages

_STORAGES = "Float Double Half BFloat16 Long Int Short Char Byte Bool Untyped Typed"
_DTYPES = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool"
_ALLOWED = frozenset(
    {
        "collections.OrderedDict",
        "collections.Counter",
        "collections.defaultdict",
        "__builtin__.dict",
        "builtins.dict",
        "_codecs.encode",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        "torch.nn.parameter.Parameter",
        "torch.Size",
        "torch.device",
    }
    | {f"torch.{kind}Storage" for kind in _STORAGES.split()}
    | {f"torch.storage.{kind}Storage" for kind in _STORAGES.split()}
    | {f"torch.{kind}" for kind in _DTYPES.split()}
)
# Opcodes that name something to call in another way than GLOBAL does; torch.save writes none of them.
_OTHER_CALLS = frozenset({"STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "NEWOBJ_EX"})
_KINDS = {"sparse": "sparse tensors", "qtensor": "quantized tensors", "meta_tensor": "tensors without values"}
_WAY_OUT = (
    "convert it to safetensors where it was made (`from safetensors.torch import save_file; "
    "save_file(model.state_dict(), 'weights.safetensors')`), or open it with `--trust` (trust=True) "
    "if you trust whoever made it as you trust a program"
)
_DENSE = "save dense tensors: {name: tensor.contiguous() for name, tensor in model.state_dict().items()}"


@dataclass(frozen=True)
class Weights:
    """The tensors of a weights file by name, all dense and on the CPU; and what was done to get at them."""

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def is_weights_file(source: str) -> bool:
    """Whether a name looks like a weights file's.

    >>> is_weights_file("resnet18.safetensors"), is_weights_file("torchvision:resnet18")
    (True, False)
    """
    return source.lower().endswith(SUFFIXES)


def read(path: str | os.PathLike[str], *, trust: bool = False) -> Weights:
    """Read a weights file.

    A checkpoint may hold its state dict under "state_dict", "model" or a like name; the "module." that
    ``DataParallel`` puts before every name is taken off, with a note.

    Raises :class:`UnsafeFile` for a file that could run code or exhaust memory (the reason and the way out are in the
    message), :class:`ConvscopeError` for one that is missing, damaged, or holds no weights.
    """
    loaded = read_object(path, trust=trust)
    if isinstance(loaded, nn.Module):
        loaded = loaded.state_dict()
    tensors, notes = _find_state(loaded, Path(path).name)
    for name, tensor in tensors.items():
        _check_tensor(name, tensor, Path(path).name)
    return _without_prefix(tensors, notes)


def read_object(path: str | os.PathLike[str], *, trust: bool = False) -> Any:
    """What a weights file holds, before anything in it was looked at; only a trusted one can hold a whole module."""
    file = Path(path)
    with _opened(file) as stream:
        start = stream.read(len(_LEGACY))
        stream.seek(0)
        if file.suffix.lower() == ".safetensors":
            return _read_safetensors(file, stream)
        if not start:
            raise ConvscopeError("the file is empty", where=file.name, next_step="fetch or save it again")
        if trust:
            return _load_trusted(stream, file.name)
        if start.startswith(_ZIP):
            _check_archive(stream, file.name)
        elif start == _LEGACY:
            _check_pickles(stream, _LEGACY_PICKLES, file.name)
        elif start.startswith(b"\x80"):
            raise UnsafeFile("a plain pickle can run any code when opened", where=file.name, next_step=_WAY_OUT)
        else:
            raise ConvscopeError(
                "neither a safetensors file nor a torch checkpoint",
                where=file.name,
                next_step="give the file that torch.save or safetensors wrote",
            )
        stream.seek(0)
        return _load_weights_only(stream, file.name)


def load_into(
    module: nn.Module,
    weights: Weights,
    *,
    where: str = "",
    rename: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None,
) -> None:
    """Copy weights into a module, all of them and none left over; raises with up to five names where they don't fit.

    >>> misspelled = Weights({"weight": torch.zeros(1, 2), "bais": torch.zeros(1)})
    >>> load_into(nn.Linear(2, 1), misspelled)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    convscope.errors.ConvscopeError: the weights don't fit the network: missing bias; not in the network: bais. Next...
    """
    tensors = dict(rename(weights.tensors) if rename else weights.tensors)
    wanted = module.state_dict()
    # Counters of seen batches: older checkpoints have none, and they change nothing in evaluation.
    missing = [name for name in wanted if name not in tensors and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in tensors if name not in wanted]
    misshapen = [
        f"{name} is {list(tensors[name].shape)} in the file, {list(wanted[name].shape)} in the network"
        for name in wanted
        if name in tensors and tensors[name].shape != wanted[name].shape
    ]
    complaints = [
        f"{label}{_some(names)}"
        for label, names in (("missing ", missing), ("not in the network: ", unexpected), ("", misshapen))
        if names
    ]
    if complaints:
        raise ConvscopeError(
            f"the weights don't fit the network: {'; '.join(complaints)}",
            where=where,
            next_step="check that file and network are the same architecture with the same number of classes",
        )
    module.load_state_dict(tensors, strict=False)


def convert(source: str | os.PathLike[str], destination: str | os.PathLike[str], *, trust: bool = False) -> Path:
    """Write a checkpoint's weights as a safetensors file, which can't run anything; returns its path."""
    target = Path(destination)
    weights = read(source, trust=trust)
    logical = sum(tensor.numel() * tensor.element_size() for tensor in weights.tensors.values())
    if not trust and logical > 4 * Path(source).stat().st_size:
        raise UnsafeFile(
            f"the weights would take {logical:,} bytes, far more than the file has", where=Path(source).name
        )
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.unfinished")
    try:
        # Clones, because safetensors refuses tensors that share their memory (tied weights).
        save_file({name: tensor.contiguous().clone() for name, tensor in weights.tensors.items()}, unfinished)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return target


@contextmanager
def _opened(file: Path) -> Iterator[io.BufferedReader]:
    try:
        # Opened without blocking and checked afterwards, so that a pipe or device in a file's place can't hang us.
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise ConvscopeError(
            f"can't open the weights file: {error.strerror}", where=file.name, next_step="check the path"
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ConvscopeError("not a regular file", where=file.name, next_step="give a weights file")
    with os.fdopen(descriptor, "rb") as stream:
        yield stream


def _read_safetensors(file: Path, stream: _Stream) -> dict[str, Tensor]:
    start = stream.read(8)
    size = os.fstat(stream.fileno()).st_size
    header = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 2 <= header <= min(MAXIMUM_HEADER, size - 8):
        raise UnsafeFile(
            f"its header claims {header:,} bytes; the file has {size:,} and at most {MAXIMUM_HEADER:,} are read",
            where=file.name,
            next_step="fetch or save it again",
        )
    try:
        with safe_open(file, framework="pt", device="cpu") as archive:
            return {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise ConvscopeError(
            f"damaged, or not a safetensors file: {_short(error)}", where=file.name, next_step="fetch or save it again"
        ) from error


def _check_archive(stream: _Stream, name: str) -> None:
    """A torch archive stores its records uncompressed, and its one pickle calls nothing unknown."""
    size = os.fstat(stream.fileno()).st_size
    try:
        with zipfile.ZipFile(stream) as archive:
            records = archive.infolist()
            if any(record.filename.endswith("/constants.pkl") for record in records):
                raise UnsafeFile("a TorchScript archive holds a program", where=name, next_step=_WAY_OUT)
            compressed = any(record.compress_type != zipfile.ZIP_STORED for record in records)
            if compressed or sum(record.file_size for record in records) > size:
                raise UnsafeFile(
                    "its records unpack to more than the file, which torch never writes", where=name, next_step=_WAY_OUT
                )
            pickles = [record for record in records if record.filename.endswith(".pkl")]
            if len(pickles) != 1 or pickles[0].file_size > MAXIMUM_HEADER * 4:
                raise UnsafeFile("it doesn't hold exactly one description of tensors", where=name, next_step=_WAY_OUT)
            _check_pickles(io.BytesIO(archive.read(pickles[0])), 1, name)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise _damaged(name, error) from error


def _check_pickles(stream: _Stream, count: int, name: str) -> None:
    """Read the opcodes of ``count`` pickles in a row without running them; refuse any that call what isn't allowed."""
    for _ in range(count):
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "GLOBAL":
                    _check_global(str(argument).replace(" ", "."), name)
                elif opcode.name in _OTHER_CALLS:
                    raise UnsafeFile(
                        f"its pickle uses {opcode.name}, which can run any code", where=name, next_step=_WAY_OUT
                    )
        except UnsafeFile:
            raise
        except Exception as error:  # MemoryError too: an opcode may claim any length
            raise _damaged(name, error) from error


def _check_global(called: str, name: str) -> None:
    if called in _ALLOWED:
        return
    for part, kind in _KINDS.items():
        if called.startswith("torch.") and part in called:
            raise UnsafeFile(f"it holds {kind}; only dense ones are read", where=name, next_step=_DENSE)
    raise UnsafeFile(
        f"opening it would call {''.join(filter(str.isprintable, called))[:80]}; a pickle can run any code",
        where=name,
        next_step=_WAY_OUT,
    )


def _load_weights_only(stream: _Stream, name: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(stream, map_location="cpu", weights_only=True)
    except MemoryError as error:
        raise UnsafeFile("it asks for more memory than there is", where=name) from error
    except Exception as error:
        # torch raises a dozen kinds for damaged or refused files; none of them may lead to a second, laxer attempt.
        raise _damaged(name, error) from error


def _load_trusted(stream: _Stream, name: str) -> Any:
    try:
        return torch.load(stream, map_location="cpu", weights_only=False)
    except Exception as error:
        raise _damaged(name, error) from error


def _find_state(loaded: Any, name: str) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict in a checkpoint: itself, or what it holds under one of the usual names."""
    notes: list[str] = []
    if isinstance(loaded, dict):
        for container in _CONTAINERS:
            inside = loaded.get(container)
            if isinstance(inside, nn.Module):
                inside = inside.state_dict()
            if isinstance(inside, dict) and inside:
                notes.append(f"the weights are those under {container!r}")
                loaded = inside
                break
    if not isinstance(loaded, dict) or not loaded:
        raise ConvscopeError(
            f"it holds a {type(loaded).__name__}, not weights by name",
            where=name,
            next_step="save model.state_dict()",
        )
    if len(loaded) > MAXIMUM_TENSORS:
        raise UnsafeFile(f"it holds {len(loaded):,} entries", where=name)
    strangers = [key for key, value in loaded.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if strangers:
        raise ConvscopeError(
            f"{_some([str(key)[:80] for key in strangers])}: not a tensor",
            where=name,
            next_step="save model.state_dict(), or the whole under the name 'state_dict'",
        )
    return dict(loaded), notes


def _check_tensor(key: str, tensor: Tensor, name: str) -> None:
    """Dense, on the CPU, of a plain type, and no larger than its storage; asks only for facts, never for values."""
    where = f"{name}, {key[:80]}"
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided
    if not plain or tensor.is_quantized or tensor.is_nested or tensor.is_complex() or tensor.device.type != "cpu":
        raise UnsafeFile("only dense tensors of plain numbers are read", where=where, next_step=_DENSE)
    logical, held = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if logical > held:
        raise UnsafeFile(
            f"the tensor claims {logical:,} bytes; the file holds {held:,} for it", where=where, next_step=_DENSE
        )


def _without_prefix(tensors: dict[str, Tensor], notes: list[str]) -> Weights:
    prefix = "module."
    if all(name.startswith(prefix) for name in tensors):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        notes = [*notes, f"taken off every name: {prefix!r}"]
    return Weights(tensors, tuple(notes))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(name[:160] for name in names[:5]) + more


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:160].rstrip(".")


def _damaged(name: str, error: BaseException) -> ConvscopeError:
    return ConvscopeError(
        f"damaged, or not a torch checkpoint: {_short(error)}", where=name, next_step="fetch or save it again"
    )
