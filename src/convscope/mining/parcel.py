"""Parcel: a study's work as it is sent to another process, and opened there.

Pickle, because the images may be a user's own Dataset and the network any module; it only ever goes through a pipe
between a process and the workers that it started itself, never to a file.
"""

from __future__ import annotations

import io
import pickle
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from convscope.errors import BadImage, Refused
from convscope.mining.shard import Work
from convscope.network.formats import load
from convscope.network.network import Network

if TYPE_CHECKING:
    from collections.abc import Mapping

_NETWORK = "network"
_TRIED_FOR_A_WITNESS = 32


@dataclass(frozen=True, eq=False)
class Parcel:
    """Everything in plain types, so that a worker can arrange itself before it opens the rest.

    ``network`` is the pickled module with its preprocessing, None where it can't be pickled (``obstacle`` says why);
    then the worker loads it by ``source``. ``witness`` is an image and its fingerprint, which the worker must find.
    """

    path: tuple[str, ...]
    main: Mapping[str, str]
    network: bytes | None
    obstacle: str
    source: str
    loaded_with: Mapping[str, Any]
    fingerprint: str
    work: bytes
    witness: tuple[int, str] | None

    @classmethod
    def pack(cls, work: Work) -> Parcel:
        """Raises :class:`Refused` for what can't be sent, with the reason."""
        network, obstacle = _pack_network(work.network)
        if network is None and not work.network.source:
            raise _unsendable("the network", obstacle)
        try:
            packed = _pack_work(work)
        except Exception as error:  # whatever an object of the user raises when it is pickled
            raise _unsendable("the images", _said(error)) from error
        main = _main(packed, network or b"")
        return cls(
            path=tuple(sys.path),
            main=main,
            network=network,
            obstacle=obstacle,
            source=work.network.source,
            loaded_with=dict(work.network.loaded_with),
            fingerprint=work.network.fingerprint,
            work=packed,
            witness=_witness(work),
        )

    def to_bytes(self) -> bytes:
        """For the pipe."""
        return pickle.dumps(self.__dict__, pickle.HIGHEST_PROTOCOL)

    @classmethod
    def from_bytes(cls, blob: bytes) -> Parcel:
        """The inverse, in a worker; ``blob`` is what its own driver sent."""
        return cls(**pickle.loads(blob))  # noqa: S301 - see the top of this file

    def open(self, device: str) -> Work:
        """The work, with the network on ``device``; raises :class:`ConvscopeError` where it isn't the driver's own."""
        _become(self.path, self.main)
        network = self._open_network()
        if network.fingerprint != self.fingerprint:
            raise Refused(
                "the worker opened another network than the one being mined",
                where=self.source or network.name,
                next_step='pass the network that the spec gives, or executor="serial"',
            )
        network.module.to(device)
        work = _unpack_work(self.work, network)
        self._check_witness(work)
        return work

    def _open_network(self) -> Network:
        """By unpickling; where its class can't be imported here, by its spec."""
        obstacle = self.obstacle
        if self.network is not None:
            try:
                return Network(**pickle.loads(self.network))  # noqa: S301
            except Exception as error:
                obstacle = _said(error)
        if not self.source:
            raise _unsendable("the network", obstacle)
        return load(self.source, **dict(self.loaded_with))

    def _check_witness(self, work: Work) -> None:
        if self.witness is None:
            return
        number, fingerprint = self.witness
        image = work.images[number]
        try:
            found = image.read().fingerprint().hex()
        except BadImage as error:
            found = error.what
        if found != fingerprint:
            raise Refused(
                "a worker doesn't see the images that the driver sees",
                where=image.name,
                next_step="put them where every machine finds them under the same path",
            )


def can_be_sent(work: Work) -> bool:
    """Whether a fresh process on this machine can be given the work: all but what a notebook or a shell defines."""
    try:
        network, _ = _pack_network(work.network)
        first = Work(work.network, work.images[:1], work.image_ids[:1], work.settings)
        packed = _pack_work(first)
        _main(packed, network or b"")
    except Exception:
        return False
    return network is not None or bool(work.network.source)


class _Pickler(pickle.Pickler):
    """Leaves out the network, and brings tensors to the CPU, because the worker's device may be another one."""

    def __init__(self, file: io.BytesIO, network: Network | None = None) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._network = network

    def persistent_id(self, value: Any) -> str | None:
        return _NETWORK if self._network is not None and value is self._network else None

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.device.type != "cpu":
            moved = value.detach().cpu()
            if isinstance(value, nn.Parameter):
                moved = nn.Parameter(moved, value.requires_grad)
            return moved.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def __init__(self, blob: bytes, network: Network) -> None:
        super().__init__(io.BytesIO(blob))
        self._network = network

    def persistent_load(self, _: str) -> Network:
        return self._network


def _pack_network(network: Network) -> tuple[bytes | None, str]:
    buffer = io.BytesIO()
    try:
        _Pickler(buffer).dump(_parts(network))
    except Exception as error:  # whatever an object of the user raises when it is pickled
        return None, _said(error)
    return buffer.getvalue(), ""


def _parts(network: Network) -> dict[str, Any]:
    return {
        "module": network.module,
        "preprocessing": network.preprocessing,
        "name": network.name,
        "source": network.source,
        "class_names": network.class_names,
        "output": network._wanted_output,
    }


def _pack_work(work: Work) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, work.network).dump(work)
    return buffer.getvalue()


def _unpack_work(blob: bytes, network: Network) -> Work:
    try:
        work = _Unpickler(blob, network).load()
    except Exception as error:
        raise _unsendable("the images", _said(error)) from error
    if not isinstance(work, Work):
        raise Refused("the worker was given something else than work", next_step="start it by convscope")
    return work


def _main(*blobs: bytes) -> dict[str, str]:
    """How a worker imports what the user's own script defines; nothing where nothing of it is needed."""
    if not any(b"__main__" in blob for blob in blobs):
        return {}
    script = sys.modules["__main__"]
    spec = getattr(script, "__spec__", None)
    if spec is not None and spec.name:
        return {"init_main_from_name": spec.name}
    path = getattr(script, "__file__", None)
    if path is None:
        raise _unsendable("what this notebook or shell defines", "it is in no file")
    return {"init_main_from_path": str(path)}


def _become(path: tuple[str, ...], main: Mapping[str, str]) -> None:
    sys.path[:] = path
    if main:
        from multiprocessing import spawn

        spawn.prepare(dict(main))


def _witness(work: Work) -> tuple[int, str] | None:
    """An image that can be read, by its id in the set, and its fingerprint."""
    for number in work.image_ids[:_TRIED_FOR_A_WITNESS].tolist():
        if number >= 0:
            try:
                return number, work.images[number].read().fingerprint().hex()
            except BadImage:
                continue
    return None


def _unsendable(what: str, reason: str) -> Refused:
    return Refused(
        f"{what} can't be sent to a worker: {reason[:200].rstrip('.')}",
        next_step='define it in a module that can be imported, or pass executor="serial"',
    )


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
