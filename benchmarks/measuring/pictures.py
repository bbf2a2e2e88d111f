"""Pictures made on the fly, of the statistics that matter for mining: smooth, colored, each of its own contrast."""

from __future__ import annotations

import io
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image as Pillow

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

# Amplitudes fall with frequency as in photographs.
SCALES = (2, 4, 8, 16, 32, 64, 128)
DIFFERENT = 32


def picture(seed: int, rows: int, columns: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8 ``[row, column, channel]``, always the same for a seed."""
    random = np.random.default_rng(seed)
    total = np.zeros((rows, columns, 3), np.float32)
    for scale in SCALES:
        grid = random.integers(0, 256, (min(scale, rows), min(scale, columns), 3), dtype=np.uint8)
        resized = Pillow.fromarray(grid).resize((columns, rows), Pillow.Resampling.BICUBIC)
        total += (np.asarray(resized, np.float32) - 127.5) / scale**0.5
    total += random.normal(0, 10, total.shape)
    contrast = random.uniform(0.3, 1.2)
    pixels: np.ndarray[Any, np.dtype[np.uint8]] = (127.5 + contrast * total).clip(0, 255).astype(np.uint8)
    return pixels


def write_jpegs(folder: Path, count: int, rows: int, columns: int, *, different: int = 64) -> int:
    """``count`` JPEG files of which ``different`` differ; the bytes of all together."""
    encoded = []
    for seed in range(min(different, count)):
        buffer = io.BytesIO()
        Pillow.fromarray(picture(seed, rows, columns)).save(buffer, "JPEG", quality=90)
        encoded.append(buffer.getvalue())
    for number in range(count):
        (folder / f"{number:06d}.jpg").write_bytes(encoded[number % len(encoded)])
    return sum(len(encoded[number % len(encoded)]) for number in range(count))


class Pictures:
    """A dataset of ``count`` pictures that are made when it is: reading one costs nothing."""

    def __init__(self, count: int, rows: int, columns: int, *, different: int = 64) -> None:
        self._pixels = [picture(seed, rows, columns) for seed in range(min(different, count))]
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        if index >= self._count:
            raise IndexError(index)
        return self._pixels[index % len(self._pixels)]


def prepared(start: int, count: int, rows: int, columns: int) -> list[Tensor]:
    """Prepared images ``[channel, row, column]`` of about zero mean and unit deviation, from number ``start`` on.

    Each is a made picture, shifted, mirrored and of a contrast of its own, so that none repeats another.
    """
    found = []
    for number in range(start, start + count):
        random = torch.Generator().manual_seed(number)
        image = _original(number % DIFFERENT, rows, columns).roll(int(torch.randint(rows, (1,), generator=random)), 1)
        image = image.flip(2) if number // DIFFERENT % 2 else image
        found.append((image - 0.45) * (1 + 7 * torch.rand((3, 1, 1), generator=random)))
    return found


@cache
def _original(seed: int, rows: int, columns: int) -> Tensor:
    return torch.from_numpy(picture(seed, rows, columns)).permute(2, 0, 1).float() / 255
