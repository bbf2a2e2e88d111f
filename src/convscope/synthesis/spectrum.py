"""Spectrum: how natural images look in statistics, which is what optimized images are held to.

Two facts are used: colors of one pixel go together, and the amplitude of a frequency falls off as one over it. Both can
be measured from one's own images; without any, published facts about ImageNet's photos stand in.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float

from convscope.errors import BadImage, Refused

if TYPE_CHECKING:
    from collections.abc import Iterable

# Square root of the covariance of the colors of ImageNet's photos, two digits, as published with Lucid (color.py) and
# used by Lucent and by MACO's authors: a pixel's color is this matrix times three numbers that don't go together.
IMAGENET_COLOR_ROOT = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))


def frequencies(rows: int, columns: int) -> Float[torch.Tensor, "row frequency"]:
    """Cycles per pixel of each entry of a real image's Fourier transform, float64, ``[rows, columns // 2 + 1]``.

    >>> frequencies(4, 4)[0].tolist()
    [0.0, 0.25, 0.5]
    """
    vertical = torch.fft.fftfreq(rows, dtype=torch.float64)[:, None]
    horizontal = torch.fft.rfftfreq(columns, dtype=torch.float64)[None]
    return torch.hypot(vertical, horizontal)


def falling_scale(rows: int, columns: int, power: float = 1.0) -> Float[torch.Tensor, "row frequency"]:
    """One over the frequency (to a power): the amplitude that natural images have there, up to a factor.

    The constant part, whose frequency is 0, gets that of the longer side's first wave.
    """
    lowest = 1.0 / max(rows, columns)
    return frequencies(rows, columns).clamp_min(lowest).pow(-power)


def color_root(covariance: Float[torch.Tensor, "channel channel"]) -> Float[torch.Tensor, "channel channel"]:
    """A square root of a color covariance, scaled so that its longest column has length 1, float64.

    Times decorrelated numbers it gives colors that vary as those of the images. Columns are ordered from the strongest
    to the weakest direction, and their largest entry is positive. Directions without variance stay without.
    """
    values, vectors = torch.linalg.eigh(covariance.double())
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    largest = vectors.abs().argmax(dim=0)
    signs = vectors.gather(0, largest[None]).sign()
    return _normalized(vectors * signs * values.sqrt())


def periodic_spectrum(
    images: Float[torch.Tensor, "*images row column"],
) -> Complex[torch.Tensor, "*images row frequency"]:
    """The Fourier transform of each image's periodic component (Moisan 2011).

    To the transform an image goes on at its other side, and the jump there is a bright cross that no photo shows: woven
    cloth, where only the magnitudes are kept. So the smooth image is taken off that has the same jumps.
    """
    rows, columns = images.shape[-2:]
    jumps = torch.zeros_like(images)
    vertical, horizontal = images[..., 0, :] - images[..., -1, :], images[..., :, 0] - images[..., :, -1]
    jumps[..., 0, :] += vertical
    jumps[..., -1, :] -= vertical
    jumps[..., :, 0] += horizontal
    jumps[..., :, -1] -= horizontal
    down = torch.fft.fftfreq(rows, dtype=images.dtype)[:, None]
    along = torch.fft.rfftfreq(columns, dtype=images.dtype)[None]
    laplacian = 2 * torch.cos(2 * torch.pi * down) + 2 * torch.cos(2 * torch.pi * along) - 4
    laplacian[0, 0] = 1  # the constant part has no jumps: 0 / 1
    spectrum: torch.Tensor = torch.fft.rfft2(images) + torch.fft.rfft2(jumps) / laplacian
    return spectrum


def _normalized(root: Float[torch.Tensor, "channel channel"]) -> Float[torch.Tensor, "channel channel"]:
    longest = root.norm(dim=0).max()
    return root / longest if longest > 0 else torch.eye(len(root), dtype=root.dtype)


@dataclass(frozen=True, eq=False)
class ImageStatistics:
    """What was measured of images (or is known): how colors go together, and the mean magnitude of each frequency.

    ``root`` [channel, channel] is :func:`color_root` of their colors. ``mean`` [channel] is their mean color, 0 … 1.
    ``magnitude`` [channel, row, frequency] is the mean, over images, of the magnitude of the Fourier transform of the
    *decorrelated* colors (see :func:`periodic_spectrum`), without the constant part. ``count`` is how many images it
    was (0: published facts). All float64.
    """

    root: Float[torch.Tensor, "channel channel"]
    mean: Float[torch.Tensor, " channel"]
    magnitude: Float[torch.Tensor, "channel row frequency"]
    size: tuple[int, int]
    count: int
    source: str

    @classmethod
    def known(cls, channels: int, size: tuple[int, int]) -> ImageStatistics:
        """Without images: ImageNet's colors for three channels, unrelated ones for others, and amplitude 1/frequency.

        >>> ImageStatistics.known(1, (4, 6)).root
        tensor([[1.]], dtype=torch.float64)
        """
        if channels == 3:
            root = _normalized(torch.tensor(IMAGENET_COLOR_ROOT, dtype=torch.float64))
            source = "ImageNet's colors as published with Lucid, amplitude 1/frequency"
        else:
            root = torch.eye(channels, dtype=torch.float64)
            source = "unrelated channels, amplitude 1/frequency"
        magnitude = falling_scale(*size)
        magnitude[0, 0] = 0
        mean = torch.full((channels,), 0.5, dtype=torch.float64)
        return cls(root, mean, magnitude.expand(channels, -1, -1), size, 0, source)

    @classmethod
    def measure(
        cls, batches: Iterable[Float[torch.Tensor, "image channel row column"]], size: tuple[int, int]
    ) -> ImageStatistics:
        """From one's own images, given in batches of pixels 0 … 1, resized to ``size`` (rows, columns) where needed.

        Colors are decorrelated by the covariance of all of them, so the batches are gone through twice. One image is
        enough, more make it smoother. Raises :class:`BadImage` without any.
        """
        kept = [_resized(batch.detach().to("cpu", torch.float64), size) for batch in batches]
        if not kept or not sum(len(batch) for batch in kept):
            raise BadImage("a spectrum can't be measured without images", next_step="pass images=")
        pixels = torch.cat(kept)
        if not torch.isfinite(pixels).all():
            raise BadImage("a spectrum can't be measured from NaN or infinite pixels", next_step="leave that image out")
        colors = pixels.permute(1, 0, 2, 3).flatten(1)
        mean = colors.mean(dim=1)
        centered = colors - mean[:, None]
        root = color_root(centered @ centered.T / centered.shape[1])
        # A direction of color in which nothing varies has no part in any image; the pseudo-inverse leaves it out.
        plain = torch.einsum("dc,ncrk->ndrk", torch.linalg.pinv(root, rtol=1e-6), pixels - mean[:, None, None])
        magnitude = torch.stack([periodic_spectrum(image).abs() for image in plain]).mean(dim=0)
        magnitude[:, 0, 0] = 0
        if not magnitude.any():
            raise Refused(
                "these images have no spectrum: each is of one color",
                next_step="pass photos, or choose another parameterization",
            )
        count = len(pixels)
        return cls(root, mean, magnitude, size, count, f"measured from {count} image{'s' if count > 1 else ''}")

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return len(self.root)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the numbers."""
        digest = hashlib.sha256()
        for part in (self.root, self.mean, self.magnitude.contiguous()):
            digest.update(part.numpy().tobytes())
        return digest.hexdigest()


def _resized(
    pixels: Float[torch.Tensor, "image channel row column"], size: tuple[int, int]
) -> Float[torch.Tensor, "image channel new_row new_column"]:
    if tuple(pixels.shape[2:]) == size:
        return pixels
    return F.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)


__all__ = ["IMAGENET_COLOR_ROOT", "ImageStatistics", "color_root", "falling_scale", "frequencies"]
