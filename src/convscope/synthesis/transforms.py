"""Transforms: small random changes under which an optimized image must please its unit, so that it isn't noise.

Moving, scaling, rotating and cropping are composed into one map per image, and the picture is sampled once: no blur
adds up, and it costs little beside a network. Whole-pixel moves are exact slices. Every image has random numbers of its
own, so what it goes through doesn't depend on the others in its batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from math import radians
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float

from convscope.errors import ConvscopeError

if TYPE_CHECKING:
    from collections.abc import Sequence

Fill = Literal["gray", "mirror", "edge"]
_PADDING: dict[str, str] = {"gray": "zeros", "mirror": "reflection", "edge": "border"}
_GRAY = 0.5


class Draws:
    """Random numbers for each image of a batch, from a generator of its own; torch's global state stays untouched.

    >>> Draws([1, 2]).uniform(0.0, 1.0)[1] == Draws([5, 2]).uniform(0.0, 1.0)[1]
    tensor(True)
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __len__(self) -> int:
        return len(self._generators)

    def selected(self, indices: Sequence[int]) -> Draws:
        """Those of some of the images, going on where they are."""
        chosen = Draws([])
        chosen._generators = [self._generators[index] for index in indices]
        return chosen

    def uniform(self, low: float, high: float) -> Float[torch.Tensor, " image"]:
        """One number of ``low`` … ``high`` for each image, float64."""
        return (
            torch.cat([torch.rand(1, generator=each, dtype=torch.float64) for each in self._generators]) * (high - low)
            + low
        )

    def normal(self, *shape: int) -> Float[torch.Tensor, "image ..."]:
        """Standard normal numbers of a shape for each image, float32."""
        return torch.stack([torch.randn(shape, generator=each) for each in self._generators])

    def integers(self, low: int, high: int) -> Float[torch.Tensor, " image"]:
        """One whole number of ``low`` … ``high`` (with both ends) for each image, as float64."""
        drawn = [torch.randint(low, high + 1, (1,), generator=each) for each in self._generators]
        return torch.cat(drawn).double()

    def choice(self, values: Sequence[float]) -> Float[torch.Tensor, " image"]:
        """One of ``values`` for each image, float64."""
        return torch.tensor(values, dtype=torch.float64)[self.integers(0, len(values) - 1).long()]


@dataclass(frozen=True, eq=False)
class Window:
    """Which part of the picture is seen: ``rows`` × ``columns`` places, and where each lies in the picture.

    ``linear`` [image, 2, 2] and ``shift`` [image, 2] map an offset (row, column) from the window's center to the offset
    from the picture's center, in pixels, float64.
    """

    rows: int
    columns: int
    linear: Float[torch.Tensor, "image 2 2"]
    shift: Float[torch.Tensor, "image 2"]
    fill: Fill = "gray"

    @classmethod
    def whole(cls, images: int, size: tuple[int, int]) -> Window:
        """The picture as it is."""
        linear = torch.eye(2, dtype=torch.float64).expand(images, 2, 2)
        return cls(size[0], size[1], linear, torch.zeros(images, 2, dtype=torch.float64))

    def moved(self, offset: Float[torch.Tensor, "image 2"]) -> Window:
        """Looking at another place, ``offset`` (row, column) pixels of the window away."""
        return replace(self, shift=self.shift + (self.linear @ offset[:, :, None])[:, :, 0])

    def turned(self, linear: Float[torch.Tensor, "image 2 2"]) -> Window:
        """Seen through a linear map about the window's center."""
        return replace(self, linear=self.linear @ linear)


class Transform(ABC):
    """A random change of which part of a picture is seen, and how."""

    @abstractmethod
    def apply(self, window: Window, draws: Draws, progress: float) -> Window:
        """The window after this change; ``progress`` is how much of the optimization is done, 0 … 1."""


@dataclass(frozen=True)
class Pad(Transform):
    """``amount`` pixels more on each side: gray, the picture mirrored, or its edge drawn out."""

    amount: int
    fill: Fill = "gray"

    def apply(self, window: Window, draws: Draws, progress: float) -> Window:  # noqa: ARG002 - nothing random
        """A larger window with the same center."""
        return replace(
            window, rows=window.rows + 2 * self.amount, columns=window.columns + 2 * self.amount, fill=self.fill
        )


@dataclass(frozen=True)
class Jitter(Transform):
    """A random crop that is ``amount`` pixels smaller: each image is moved by whole pixels."""

    amount: int

    def apply(self, window: Window, draws: Draws, progress: float) -> Window:  # noqa: ARG002 - the same throughout
        """A smaller window, moved by 0 … ``amount`` from the upper left corner."""
        if min(window.rows, window.columns) <= self.amount:
            raise ConvscopeError(f"a jitter of {self.amount} leaves nothing of {window.rows} × {window.columns}")
        corner = torch.stack([draws.integers(0, self.amount), draws.integers(0, self.amount)], dim=1)
        smaller = replace(window, rows=window.rows - self.amount, columns=window.columns - self.amount)
        return smaller.moved(corner - self.amount / 2)


@dataclass(frozen=True)
class RandomScale(Transform):
    """The picture larger or smaller by one of ``scales`` (1.1: larger by a tenth)."""

    scales: tuple[float, ...]

    def apply(self, window: Window, draws: Draws, progress: float) -> Window:  # noqa: ARG002 - the same throughout
        """The same window over the scaled picture."""
        factor = 1 / draws.choice(self.scales)
        return window.turned(torch.eye(2, dtype=torch.float64) * factor[:, None, None])


@dataclass(frozen=True)
class RandomRotation(Transform):
    """The picture turned counterclockwise by one of ``degrees``, about its center."""

    degrees: tuple[float, ...]

    def apply(self, window: Window, draws: Draws, progress: float) -> Window:  # noqa: ARG002 - the same throughout
        """The same window over the turned picture."""
        angle = draws.choice([radians(each) for each in self.degrees])
        cosine, sine = angle.cos(), angle.sin()
        # Offsets are (row, column) and rows count downward: what is seen at the right came from below when turned back.
        return window.turned(torch.stack([cosine, sine, -sine, cosine], dim=1).reshape(-1, 2, 2))


@dataclass(frozen=True)
class RandomCrop(Transform):
    """A box around a random place near the middle, of a fraction of the side: MACO's crops.

    The fraction is drawn from ``first`` at the beginning and from ``last`` at the end, in between from in between. The
    place is normally distributed about the center, ``spread`` of the side wide; the box stays within the picture.
    """

    first: tuple[float, float]
    last: tuple[float, float]
    spread: float = 0.15

    def apply(self, window: Window, draws: Draws, progress: float) -> Window:
        """A smaller window, the same for both sides."""
        low, high = (a + (b - a) * progress for a, b in zip(self.first, self.last, strict=True))
        fraction = draws.uniform(low, high)
        size = torch.tensor([window.rows, window.columns], dtype=torch.float64)
        room = (1 - fraction[:, None]) * size / 2
        offset = draws.normal(2).double() * self.spread * size
        moved = window.moved(offset.clamp(-room, room))
        return moved.turned(torch.eye(2, dtype=torch.float64) * fraction[:, None, None])


@dataclass(frozen=True)
class Transforms:
    """Changes one after the other, and noise on what comes out.

    ``noise`` is its standard deviation at the beginning and the end, in pixels of 0 … 1; it falls exponentially.

    >>> picture = torch.rand(2, 3, 8, 8)
    >>> seen = Transforms((Pad(2), Jitter(2)))(picture, Draws([0, 1]))
    >>> seen.shape
    torch.Size([2, 3, 10, 10])
    """

    steps: tuple[Transform, ...] = ()
    noise: tuple[float, float] = (0.0, 0.0)

    def __call__(
        self,
        pixels: Float[torch.Tensor, "image channel row column"],
        draws: Draws,
        size: tuple[int, int] | None = None,
        progress: float = 0.0,
    ) -> Float[torch.Tensor, "image channel seen_row seen_column"]:
        """What a network is shown of pictures with pixels 0 … 1; differentiable.

        With ``size`` (rows, columns) it has that size: the picture is zoomed to it, and looked at from the middle of
        the window. Without, it has the size that padding and jitter leave.
        """
        window = Window.whole(len(pixels), (int(pixels.shape[2]), int(pixels.shape[3])))
        for step in self.steps:
            window = step.apply(window, draws, progress)
        if size is not None:
            zoom = torch.tensor([pixels.shape[2] / size[0], pixels.shape[3] / size[1]], dtype=torch.float64)
            window = replace(window.turned(torch.diag(zoom).expand(len(pixels), 2, 2)), rows=size[0], columns=size[1])
        seen = look(pixels, window)
        deviation = _falling(*self.noise, progress)
        if deviation == 0:
            return seen
        return seen + deviation * draws.normal(*seen.shape[1:]).to(seen.device, seen.dtype)


def _falling(first: float, last: float, progress: float) -> float:
    if first <= 0 or last <= 0:
        return first * (1 - progress) + last * progress
    return float(first * (last / first) ** progress)


def look(
    pixels: Float[torch.Tensor, "image channel row column"], window: Window
) -> Float[torch.Tensor, "image channel seen_row seen_column"]:
    """The window's view of each picture: sliced where it moves by whole pixels only, else bilinearly interpolated."""
    rows, columns = window.rows, window.columns
    corner = _whole_corner(window, (int(pixels.shape[2]), int(pixels.shape[3])), (rows, columns))
    if corner is not None:
        return _sliced(pixels, corner, (rows, columns), window.fill)
    linear, shift = window.linear, window.shift
    # torch's grid runs from -1 to 1 between the outer edges, column before row.
    half_in = torch.tensor([pixels.shape[2], pixels.shape[3]], dtype=torch.float64) / 2
    half_out = torch.tensor([rows, columns], dtype=torch.float64) / 2
    scaled = linear * half_out / half_in[:, None]
    theta = torch.cat([scaled.flip(1, 2), (shift / half_in).flip(1)[:, :, None]], dim=2)
    grid = F.affine_grid(theta.to(pixels.device, pixels.dtype), [len(pixels), 1, rows, columns], align_corners=False)
    base = _GRAY if window.fill == "gray" else 0.0
    sampled = F.grid_sample(
        pixels - base, grid, mode="bilinear", padding_mode=_PADDING[window.fill], align_corners=False
    )
    return sampled + base


def _whole_corner(window: Window, picture: tuple[int, int], size: tuple[int, int]) -> list[list[int]] | None:
    """Where each image's upper left corner lies in the picture, if that is a whole pixel and nothing is turned."""
    if not torch.equal(window.linear, torch.eye(2, dtype=torch.float64).expand_as(window.linear)):
        return None
    center = torch.tensor([(inside - seen) / 2 for inside, seen in zip(picture, size, strict=True)])
    corner = window.shift + center
    return corner.round().long().tolist() if torch.equal(corner, corner.round()) else None


def _sliced(
    pixels: Float[torch.Tensor, "image channel row column"],
    corners: list[list[int]],
    size: tuple[int, int],
    fill: Fill,
) -> Float[torch.Tensor, "image channel seen_row seen_column"]:
    parts = []
    for image, (top, left) in zip(pixels, corners, strict=True):
        vertical = _inside(top, size[0], image.shape[1], fill)
        horizontal = _inside(left, size[1], image.shape[2], fill)
        if fill != "gray":
            parts.append(image[:, vertical[0]][:, :, horizontal[0]])
            continue
        part = image[:, vertical[1], horizontal[1]]
        parts.append(F.pad(part, (*horizontal[2], *vertical[2]), value=_GRAY))
    return torch.stack(parts)


def _inside(first: int, length: int, available: int, fill: Fill) -> tuple[torch.Tensor, slice, tuple[int, int]]:
    """The places from ``first`` on: where each is found, which of the picture's own they are, how many lie outside."""
    places = torch.arange(first, first + length)
    if fill == "mirror":
        period = places.remainder(2 * available)
        places = torch.where(period < available, period, 2 * available - 1 - period)
    before, after = min(max(0, -first), length), min(max(0, first + length - available), length)
    own = slice(min(max(first, 0), available), max(min(first + length, available), min(max(first, 0), available)))
    return places.clamp(0, available - 1), own, (before, after)


__all__ = [
    "Draws",
    "Jitter",
    "Pad",
    "RandomCrop",
    "RandomRotation",
    "RandomScale",
    "Transform",
    "Transforms",
    "Window",
    "look",
]
