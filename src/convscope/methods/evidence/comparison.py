"""What a map is compared with: orderings that know nothing of the network, and what erased pixels are filled with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

CURVES = ("map", "random", "center", "edges")
FILLS = ("blur", "mean", "black")


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


def edge_map(images: Float[Tensor, "image channel row column"]) -> Float[Tensor, "image row column"]:
    """The magnitude of Sobel's gradient of each image's mean over its channels, borders repeated: an edge detector."""
    kernel = torch.tensor([[-1.0, -2, -1], [0, 0, 0], [1, 2, 1]], dtype=images.dtype, device=images.device) / 8
    gray = F.pad(images.mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    found = F.conv2d(gray, torch.stack([kernel, kernel.T])[:, None])
    return found.square().sum(dim=1).sqrt()


def filled(
    images: Float[Tensor, "image channel row column"], fill: str, black: Float[Tensor, "channel 1 1"]
) -> Float[Tensor, "image channel row column"]:
    """What stands where a pixel was erased.

    "blur": the image blurred with a deviation of a twentieth of its shorter side (Fong & Vedaldi 2017; Petsiuk et al.
    2018 begin insertion with a blurred image); "mean": its own mean color; "black": black pixels.
    """
    if fill == "blur":
        return blurred(images, max(1.0, min(images.shape[2:]) / 20))
    if fill == "mean":
        return images.mean(dim=(2, 3), keepdim=True).expand_as(images)
    return black.to(images).expand_as(images)


def blurred(
    images: Float[Tensor, "image channel row column"], deviation: float
) -> Float[Tensor, "image channel row column"]:
    """Images convolved with a Gaussian, cut off at three deviations; beyond the border its pixels go on."""
    reach = max(1, round(3 * deviation))
    offsets = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    window = torch.exp(-(offsets**2) / (2 * deviation**2))
    window = window / window.sum()
    flat = images.flatten(0, 1)[:, None]
    for shape, sides in (((1, 1, -1, 1), (0, 0, reach, reach)), ((1, 1, 1, -1), (reach, reach, 0, 0))):
        flat = F.conv2d(F.pad(flat, sides, mode="replicate"), window.reshape(shape))
    return flat.reshape(images.shape)
