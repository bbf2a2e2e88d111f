"""What a map is compared with: maps that know nothing of the network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

CURVES = ("map", "random", "center", "edges", "moved")


def random_map(rows: int, columns: int, seed: int) -> Float[Tensor, "row column"]:
    """Uniform noise from 0 to 1, the same for every image: only the seed decides."""
    return torch.rand((rows, columns), generator=torch.Generator().manual_seed(seed))


def center_map(rows: int, columns: int) -> Float[Tensor, "row column"]:
    """A Gaussian blob in the middle, a quarter of the image's sides wide: where photographers put their subjects.

    >>> blob = center_map(5, 5)
    >>> float(blob[2, 2]), bool(blob[0, 0] < blob[0, 2] < blob[1, 2])
    (1.0, True)
    """
    row, column = (torch.arange(size) - (size - 1) / 2 for size in (rows, columns))
    vertical, horizontal = (row / (rows / 4)) ** 2, (column / (columns / 4)) ** 2
    return torch.exp(-(vertical[:, None] + horizontal[None, :]) / 2)


def moved_map(maps: Float[Tensor, "image row column"]) -> Float[Tensor, "image row column"]:
    """Each map moved by half the image, what leaves on one side coming in on the other: as fine or coarse, as scattered
    or whole as the map itself, but elsewhere.

    >>> moved_map(torch.arange(4.0).reshape(1, 2, 2)).tolist()
    [[[3.0, 2.0], [1.0, 0.0]]]
    """
    return maps.roll((maps.shape[1] // 2, maps.shape[2] // 2), dims=(1, 2))


def edge_map(images: Float[Tensor, "image channel row column"]) -> Float[Tensor, "image row column"]:
    """The magnitude of Sobel's gradient of each image's mean over its channels, borders repeated: an edge detector."""
    kernel = torch.tensor([[-1.0, -2, -1], [0, 0, 0], [1, 2, 1]], dtype=images.dtype, device=images.device) / 8
    gray = F.pad(images.mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    found = F.conv2d(gray, torch.stack([kernel, kernel.T])[:, None])
    return found.square().sum(dim=1).sqrt()
