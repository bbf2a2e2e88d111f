"""What stands where pixels are taken away: a plain color, the image's own mean, or the image without its detail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from convscope.network.network import Network

FILLS = ("gray", "mean", "image", "black", "white", "blur")
HELP = (
    "what is put there: gray (middle gray), mean (0 after preparation: the mean color that preprocessing subtracts), "
    "image (each image's own mean color), black, white, blur (the image without its detail)"
)
_LEVELS = {"black": 0.0, "gray": 0.5, "white": 1.0}


def filling(network: Network, images: torch.Tensor, fill: str) -> torch.Tensor:
    """The values to put in place of any pixel of prepared images ``[image, channel, row, column]``, shaped like them.

    >>> from convscope.network.network import Network
    >>> network = Network.from_module(torch.nn.Conv2d(1, 1, 1), image_size=2, mean=0.25, std=0.5)
    >>> filling(network, torch.ones(1, 1, 2, 2), "gray")[0, 0, 0, 0].item()
    0.5
    """
    if fill == "image":
        return images.mean(dim=(2, 3), keepdim=True).expand_as(images)
    if fill == "blur":
        return blurred(images)
    if fill == "mean":
        return torch.zeros_like(images)
    each = network.preprocessing
    prepared = [(_LEVELS[fill] * each.scale - mean) / std for mean, std in zip(each.mean, each.std, strict=True)]
    return images.new_tensor(prepared)[None, :, None, None].expand_as(images)


def blurred(images: torch.Tensor) -> torch.Tensor:
    """A Gaussian of an eighth of the shorter side over the images; borders reach on as they are."""
    shorter = min(images.shape[2:])
    sigma = max(shorter / 8, 1e-3)
    for axis in (2, 3):
        size = images.shape[axis]
        reach = min(int(3 * sigma + 0.5), size)
        places = torch.arange(-reach, reach + 1, device=images.device, dtype=torch.float64)
        weights = torch.exp(-(places**2) / (2 * sigma**2))
        kernel = (weights / weights.sum()).to(images.dtype)
        padding = (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
        padded = F.pad(images.flatten(0, 1)[:, None], padding, mode="replicate")
        shape = (1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1)
        images = F.conv2d(padded, kernel.reshape(shape)).reshape(images.shape)
    return images


__all__ = ["FILLS", "HELP", "blurred", "filling"]
