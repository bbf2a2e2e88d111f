"""Preprocessing: from a picture's pixels to what a network takes, and back; and which pixels the network saw."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float

from convscope.errors import BadImage, ConvscopeError
from convscope.view import Array  # noqa: TC001 - types are checked in tests

if TYPE_CHECKING:
    from collections.abc import Sequence

# torch's own names; its antialiased uint8 kernels give Pillow's values, so results agree with the zoos' transforms.
INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
_WIDEST = 8  # sides of a picture differ by this factor at most; a longer one loses its ends before it is resized


@dataclass(frozen=True)
class Preprocessing:
    """Resize (shorter side), centre crop, ``(pixels / 255 * scale - mean) / std``; and the inverse.

    ``image_size`` is (rows, columns) of what the network takes. ``resize`` is the length of the shorter side before
    the crop; None resizes just far enough that the crop shows as much as it can. A picture that has the right size
    already is taken as it is. ``mean`` and ``std`` hold one number per channel, in units of scaled pixels: with
    ``scale=255.0`` they are on the 0–255 scale. Pixels are uint8, or floating point in 0..1,
    ``[row, column, channel]``.

    Raises :class:`ConvscopeError` for values that make no sense.

    >>> preprocessing = Preprocessing(224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=256)
    >>> photo = np.full((300, 400, 3), 128, np.uint8)
    >>> tuple(preprocessing.prepare(photo).shape)
    (3, 224, 224)
    >>> preprocessing.unprepare(preprocessing.prepare(photo)).mean()
    np.float64(128.0)
    >>> preprocessing.crop_box(300, 400)  # top, left, height, width of the pixels that the network sees
    (18.75, 68.03519061583579, 262.5, 262.7565982404692)
    """

    image_size: tuple[int, int] = (224, 224)
    channels: int = 3
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 1.0
    resize: int | None = None
    interpolation: str = "bilinear"

    def __init__(
        self,
        image_size: int | Sequence[int] = (224, 224),
        channels: int = 3,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        scale: float = 1.0,
        resize: int | None = None,
        interpolation: str = "bilinear",
    ) -> None:
        values: dict[str, Any] = {
            "image_size": _image_size(image_size),
            "channels": int(channels),
            "mean": _per_channel("mean", 0.0 if mean is None else mean, channels),
            "std": _per_channel("std", 1.0 if std is None else std, channels),
            "scale": float(scale),
            "resize": None if resize is None else int(resize),
            "interpolation": interpolation,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        if min(self.image_size) < 1 or self.channels < 1 or (self.resize is not None and self.resize < 1):
            raise ConvscopeError("image_size, channels and resize must be at least 1", where=f"preprocessing {self}")
        if not all(value > 0 for value in self.std) or not self.scale > 0:
            raise ConvscopeError("std and scale must be above 0", where=f"preprocessing {self}")
        if self.interpolation not in INTERPOLATIONS:
            raise ConvscopeError(
                f"no interpolation {self.interpolation!r}", next_step=f"choose one of {', '.join(INTERPOLATIONS)}"
            )

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values; ``Preprocessing(**value)`` is the inverse."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def prepare(self, pixels: Array) -> Float[torch.Tensor, "channel row column"]:
        """One picture as the network takes it: float32 ``[channel, row, column]``.

        ``pixels`` is uint8 or floating point in 0..1, ``[row, column, channel]`` (or ``[row, column]`` for grey). Grey,
        color and alpha are converted to a network of 1, 3 or 4 channels; for any other number of channels the
        array has to bring just as many. Raises :class:`BadImage`.
        """
        picture = self._with_channels(_check_pixels(pixels))
        resized = self._resize(_image_of(picture))[0].contiguous()
        divisor = 255.0 if resized.dtype == torch.uint8 else 1.0
        # Changed in place: half the time of an expression that makes a new array at each step.
        prepared = torch.empty(resized.shape, dtype=torch.float32).copy_(resized)
        return prepared.mul_(self.scale / divisor).sub_(self._column(self.mean)).div_(self._column(self.std))

    def match_channels(self, pixels: Array) -> Array:
        """A picture with as many channels as the network takes, otherwise as it is; raises :class:`BadImage`.

        >>> Preprocessing(8, channels=1).match_channels(np.full((2, 2, 3), 90, np.uint8)).shape
        (2, 2, 1)
        """
        return self._with_channels(_check_pixels(pixels))

    def unprepare(self, tensor: torch.Tensor) -> Array:
        """The inverse: what the network saw, as uint8 ``[row, column, channel]``; takes ``[channel, row, column]``.

        Values outside the range of a picture are clipped and NaN is drawn as 0, so any tensor has a picture.
        """
        prepared = tensor.detach().to("cpu", torch.float32)
        if prepared.ndim == 4 and len(prepared) == 1:
            prepared = prepared[0]
        if prepared.ndim != 3 or len(prepared) != self.channels:
            raise BadImage(
                f"a prepared image has the axes channel, row, column with {self.channels} channels",
                where=f"found shape {tuple(tensor.shape)}",
            )
        pixels = (prepared * self._column(self.std) + self._column(self.mean)) * (255.0 / self.scale)
        picture: Array = torch.nan_to_num(pixels).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        return np.ascontiguousarray(picture)

    def crop_box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """(top, left, height, width) of the part of an original picture that the network sees, in its pixels.

        >>> Preprocessing(100).crop_box(200, 300)
        (0.0, 50.0, 200.0, 200.0)
        """
        rows, columns, top, left = self._geometry(*self._trimmed(height, width))
        trimmed_height, trimmed_width = self._trimmed(height, width)
        vertical, horizontal = trimmed_height / rows, trimmed_width / columns
        return (
            top * vertical + (height - trimmed_height) // 2,
            left * horizontal + (width - trimmed_width) // 2,
            self.image_size[0] * vertical,
            self.image_size[1] * horizontal,
        )

    def _column(self, values: tuple[float, ...]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32)[:, None, None]

    def _trimmed(self, height: int, width: int) -> tuple[int, int]:
        """The picture's size without the ends of an extremely long side, which the crop would throw away anyway."""
        longest = max(_WIDEST, 2 * ceil(max(self.image_size) / min(self.image_size))) * min(height, width)
        return min(height, longest), min(width, longest)

    def _geometry(self, height: int, width: int) -> tuple[int, int, int, int]:
        """(rows, columns) after resizing, (top, left) of the crop within them: torchvision's arithmetic."""
        if (height, width) == self.image_size:
            return height, width, 0, 0
        short = min(height, width)
        cover = max(self.image_size[0] / height, self.image_size[1] / width) * short
        side = max(self.resize or 0, ceil(cover - 1e-9))
        rows, columns = (
            max(int(side * length / short), wanted)
            for length, wanted in zip((height, width), self.image_size, strict=True)
        )
        return rows, columns, round((rows - self.image_size[0]) / 2.0), round((columns - self.image_size[1]) / 2.0)

    def _resize(self, picture: torch.Tensor) -> torch.Tensor:
        height, width = self._trimmed(*picture.shape[2:])
        above, before = (picture.shape[2] - height) // 2, (picture.shape[3] - width) // 2
        picture = picture[:, :, above : above + height, before : before + width]
        rows, columns, top, left = self._geometry(height, width)
        if (rows, columns) != (height, width):
            smooth = self.interpolation != "nearest"
            mode = self.interpolation if smooth else "nearest-exact"  # torch's "nearest" is off by half a pixel
            picture = F.interpolate(picture, size=(rows, columns), mode=mode, antialias=smooth)
        return picture[:, :, top : top + self.image_size[0], left : left + self.image_size[1]]

    def _with_channels(self, pixels: Array) -> Array:
        found = pixels.shape[2]
        if found == self.channels:
            return pixels
        if found not in (1, 2, 3, 4) or self.channels not in (1, 3, 4):
            raise BadImage(
                f"a picture of {found} channels doesn't fit a network of {self.channels} channels",
                next_step=f"give a .npy array [row, column, channel] with {self.channels} channels",
            )
        opaque = 255 if pixels.dtype == np.uint8 else 1.0
        alpha = pixels[:, :, -1:] if found in (2, 4) else None
        color = pixels if alpha is None else pixels[:, :, :-1]
        if self.channels == 4:
            if color.shape[2] == 1:
                color = np.repeat(color, 3, axis=2)
            full = np.full((*color.shape[:2], 1), opaque, color.dtype)
            return np.concatenate([color, full if alpha is None else alpha], axis=2)
        if alpha is not None:
            color = over_white(color, alpha)
        if self.channels == 1:
            return color if color.shape[2] == 1 else _luminance(color)
        return np.repeat(color, 3, axis=2) if color.shape[2] == 1 else color


def over_white(color: Array, alpha: Array) -> Array:
    """A transparent picture laid over white paper; both ``[row, column, channel]``, uint8 or floating point in 0..1.

    >>> over_white(np.array([[[200]]], np.uint8), np.array([[[0]]], np.uint8))
    array([[[255]]], dtype=uint8)
    """
    if color.dtype != np.uint8:
        return color * alpha + (1.0 - alpha)
    weight = alpha.astype(np.uint32)
    return ((color * weight + 255 * (255 - weight) + 127) // 255).astype(np.uint8)


def _image_of(picture: Array) -> torch.Tensor:
    """``[1, channel, row, column]`` over the same memory.

    As strides go, a batch of one can be laid out in two ways. torch resizes colors twice as fast when it can see that
    the channels come last, to the same values; of other arrays it makes planes first, so they stay as they were.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(picture))
    if pixels.dtype == torch.uint8 and pixels.shape[2] == 3:
        return pixels[None].permute(0, 3, 1, 2)
    return pixels.permute(2, 0, 1)[None]


def _luminance(color: Array) -> Array:
    """ITU-R 601 luma; for uint8 in Pillow's integer arithmetic, so that both give the same grey."""
    if color.dtype == np.uint8:
        weighted = color.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
        return ((weighted + 0x8000) >> 16).astype(np.uint8)[:, :, None]
    grey: Array = (color @ np.array([0.299, 0.587, 0.114], color.dtype))[:, :, None]
    return grey


def _check_pixels(pixels: Array) -> Array:
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise BadImage("a picture has the axes row, column, channel", where=f"found shape {pixels.shape}")
    if pixels.dtype == np.uint8:
        return pixels if pixels.flags.writeable else pixels.copy()
    if pixels.dtype.kind != "f":
        raise BadImage(
            f"pixels are uint8 or floating point in 0..1, not {pixels.dtype}",
            next_step="convert them, e.g. (pixels / pixels.max()).astype('float32')",
        )
    values = pixels.astype(np.float32)
    if not (values.min() >= 0.0 and values.max() <= 1.0):  # also true for NaN
        raise BadImage(
            "floating-point pixels must lie in 0..1",
            where=f"found {values.min():.4g} to {values.max():.4g}",
            next_step="rescale them, or give an already prepared tensor [image, channel, row, column]",
        )
    return values


def _image_size(value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    sizes = [int(side) for side in value]
    if len(sizes) != 2:
        raise ConvscopeError("image_size is one number, or rows and columns", where=f"found {value!r}")
    return sizes[0], sizes[1]


def _per_channel(name: str, value: float | Sequence[float], channels: int) -> tuple[float, ...]:
    numbers = (float(value),) if isinstance(value, (int, float)) else tuple(float(number) for number in value)
    if len(numbers) == 1:
        numbers *= channels
    if len(numbers) != channels:
        raise ConvscopeError(
            f"{name} has {len(numbers)} numbers for {channels} channels", next_step=f"give 1 or {channels} numbers"
        )
    if not np.isfinite(numbers).all():
        raise ConvscopeError(f"{name} must be finite", where=f"found {numbers}")
    return numbers


__all__ = ["INTERPOLATIONS", "Preprocessing", "over_white"]
