"""Batch: prepared images, with the identity of each, ready for a network."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float

if TYPE_CHECKING:
    from convscope.view import Array


@runtime_checkable
class Picture(Protocol):
    """What a network needs of an image: its pixels, an identity that never changes, a label if there is one."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what the picture is made of."""
        ...

    @property
    def name(self) -> str:
        """What a person calls it."""
        ...

    @property
    def label(self) -> int | None:
        """Its class index, if it has one."""
        ...

    def pixels(self) -> Array:
        """uint8 or float ``[row, column, channel]``."""
        ...


@dataclass(frozen=True, eq=False)
class Batch:
    """Prepared images ``[image, channel, row, column]``, and each one's fingerprint, name and label (or None)."""

    tensor: Float[torch.Tensor, "image channel row column"]
    fingerprints: tuple[str, ...]
    names: tuple[str, ...]
    labels: tuple[int | None, ...]
    location: str = ""  # where a person would load these images from, and their ids there
    ids: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.fingerprints)

    @classmethod
    def from_tensor(
        cls, tensor: torch.Tensor, labels: Iterable[int | None] | None = None, names: Iterable[str] | None = None
    ) -> Batch:
        """A batch of already prepared images; each one's fingerprint is the SHA-256 of its float32 values."""
        prepared = tensor.detach().to(torch.float32).contiguous()
        fingerprints = tuple(
            hashlib.sha256(np.ascontiguousarray(image.cpu().numpy()).tobytes()).hexdigest() for image in prepared
        )
        count = len(prepared)
        return cls(
            prepared,
            fingerprints,
            tuple(names) if names is not None else tuple(f"image {index}" for index in range(count)),
            tuple(labels) if labels is not None else (None,) * count,
        )


ImagesLike = Batch | torch.Tensor | Picture | Iterable[Picture]
