"""Parameterization: the numbers that an optimizer changes, and how they make an image. Gradients through another set of
numbers reach the same images along other ways, and that decides how natural the result looks.

Images are *pixels* here, ``[image, channel, row, column]`` from 0 to 1, valid whatever the numbers are.
:func:`to_prepared` and :func:`to_pixels` convert exactly to what the network takes and back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from jaxtyping import Float

from convscope.errors import ConvscopeError, suggest
from convscope.synthesis.spectrum import ImageStatistics, falling_scale
from convscope.synthesis.transforms import Draws

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convscope.network.preprocessing import Preprocessing

Name = Literal["pixels", "fourier", "maco"]
NAMES: tuple[Name, ...] = ("fourier", "pixels", "maco")

# Lucid's: the spread of a Fourier start, and what its image is divided by so that few pixels begin near black or white.
_SPREAD, _CALM = 0.01, 4.0
# The spread of a pixel start about the mean color, on the scale 0 … 255 (Yosinski's optimize_image).
_NOISE = 10.0


def to_prepared(
    preprocessing: Preprocessing, pixels: Float[torch.Tensor, "image channel row column"]
) -> Float[torch.Tensor, "image channel row column"]:
    """Pixels 0 … 1 as the network takes them; differentiable, the same arithmetic as preparing a floating picture."""
    mean, std = _columns(preprocessing, pixels)
    return (pixels * preprocessing.scale - mean) / std


def to_pixels(
    preprocessing: Preprocessing, prepared: Float[torch.Tensor, "image channel row column"]
) -> Float[torch.Tensor, "image channel row column"]:
    """The inverse of :func:`to_prepared`. What no picture has, below 0 or above 1, is not clipped."""
    mean, std = _columns(preprocessing, prepared)
    return (prepared * std + mean) / preprocessing.scale


def _columns(preprocessing: Preprocessing, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean, std = (like.new_tensor(each)[:, None, None] for each in (preprocessing.mean, preprocessing.std))
    return mean, std


def mean_color(preprocessing: Preprocessing, statistics: ImageStatistics | None = None) -> tuple[float, ...]:
    """The color, 0 … 1, that an average photo has: the network's mean; the images' where it subtracts none."""
    if any(preprocessing.mean):
        return tuple(each / preprocessing.scale for each in preprocessing.mean)
    if statistics is not None and statistics.count:
        return tuple(statistics.mean.tolist())
    return (0.5,) * preprocessing.channels


class Parameterization(ABC):
    """Numbers that make a batch of images, each from its own: ``variables`` have the image axis first."""

    name: ClassVar[Name]

    def __init__(self, variables: tuple[torch.Tensor, ...], size: tuple[int, int]) -> None:
        self.variables = tuple(each.detach().requires_grad_() for each in variables)
        self.size = size

    def __len__(self) -> int:
        return len(self.variables[0])

    @abstractmethod
    def pixels(self) -> Float[torch.Tensor, "image channel row column"]:
        """The images, 0 … 1, differentiable with respect to ``variables``."""

    @property
    def importance(self) -> Float[torch.Tensor, "image row column"] | None:
        """How much each place mattered so far, where the parameterization keeps account of it."""
        return None

    def observe(self, gradient: Float[torch.Tensor, "image channel row column"]) -> None:  # noqa: B027 - most needn't
        """Take note of an objective's gradient with respect to the pixels."""

    def gradients(
        self,
        pixels: Float[torch.Tensor, "image channel row column"],
        gradient: Float[torch.Tensor, "image channel row column"],
    ) -> list[torch.Tensor]:
        """From the gradient with respect to :meth:`pixels` to that with respect to ``variables``."""
        # Not by grad_outputs, for which torch imports symbolic algebra the first time: two seconds.
        return list(torch.autograd.grad((pixels * gradient).sum(), self.variables))

    @abstractmethod
    def selected(self, indices: Sequence[int]) -> Parameterization:
        """Some of the images, as they are now."""


class Pixels(Parameterization):
    """The pixels themselves, on the scale 0 … 255: the optimizer's gradient and learning rate are those of Yosinski's
    ``optimize_image``, whose images are on that scale, too. Nothing holds neighbors together but regularizers.
    """

    name = "pixels"

    def __init__(
        self, values: Float[torch.Tensor, "image channel row column"], color: Float[torch.Tensor, " channel"]
    ) -> None:
        super().__init__((values.clamp(0, 255),), (int(values.shape[2]), int(values.shape[3])))
        self.color = color

    @classmethod
    def start(
        cls, seeds: Sequence[int], channels: int, size: tuple[int, int], color: Sequence[float], device: torch.device
    ) -> Pixels:
        """Normal noise of 10 (of 255) about the mean color."""
        center = torch.tensor(color, dtype=torch.float32, device=device) * 255
        noise = Draws(seeds).normal(channels, *size).to(device) * _NOISE
        return cls(noise + center[:, None, None], center)

    def pixels(self) -> Float[torch.Tensor, "image channel row column"]:
        """The variables on the scale 0 … 1."""
        return self.variables[0] / 255

    @property
    def centered(self) -> Float[torch.Tensor, "image channel row column"]:
        """The images on the scale 0 … 255 minus the mean color, detached: what regularizers see."""
        return self.variables[0].detach() - self.color[:, None, None]

    def put(self, centered: Float[torch.Tensor, "image channel row column"]) -> None:
        """Replace the images by centered ones, clipped to the valid range."""
        with torch.no_grad():
            self.variables[0].copy_((centered + self.color[:, None, None]).clamp_(0, 255))

    def selected(self, indices: Sequence[int]) -> Pixels:
        """Some of the images, as they are now."""
        return Pixels(self.variables[0].detach()[list(indices)], self.color)


class Fourier(Parameterization):
    """A spectrum per color direction, each frequency scaled by one over itself, then colors put together and squeezed
    into 0 … 1 by the logistic function (Olah, Mordvintsev and Schubert 2017).

    Every step of the optimizer moves all frequencies about as much as natural images hold of them, and colors along
    the directions in which theirs vary. ``variables`` [image, channel, row, frequency, 2]: real and imaginary parts.
    """

    name = "fourier"

    def __init__(self, spectrum: torch.Tensor, size: tuple[int, int], root: torch.Tensor, power: float = 1.0) -> None:
        super().__init__((spectrum,), size)
        self.root = root.to(spectrum)
        self.power = power
        self._scale = (falling_scale(*size, power) / _CALM).to(spectrum)[:, :, None]

    @classmethod
    def start(
        cls, seeds: Sequence[int], size: tuple[int, int], statistics: ImageStatistics, device: torch.device
    ) -> Fourier:
        """Nearly gray: normal numbers of 0.01."""
        shape = (statistics.channels, size[0], size[1] // 2 + 1, 2)
        return cls((Draws(seeds).normal(*shape) * _SPREAD).to(device), size, statistics.root)

    @classmethod
    def of(cls, pixels: Float[torch.Tensor, "image channel row column"], statistics: ImageStatistics) -> Fourier:
        """The spectrum that makes these pixels, which are moved into 0.001 … 0.999, where the inverse is finite."""
        size = (int(pixels.shape[2]), int(pixels.shape[3]))
        flat = pixels.detach().double().clamp(0.001, 0.999).logit()
        plain = torch.einsum("dc,ncrk->ndrk", torch.linalg.pinv(statistics.root).to(flat), flat)
        spectrum = torch.view_as_real(torch.fft.rfft2(plain, norm="ortho"))
        scale = (falling_scale(*size) / _CALM).to(flat)[:, :, None]
        return cls((spectrum / scale).to(pixels.dtype), size, statistics.root)

    def pixels(self) -> Float[torch.Tensor, "image channel row column"]:
        """The images that the spectrum makes."""
        spectrum = torch.view_as_complex(self.variables[0] * self._scale)
        plain = torch.fft.irfft2(spectrum, s=self.size, norm="ortho")
        return torch.einsum("cd,ndrk->ncrk", self.root, plain).sigmoid()

    def selected(self, indices: Sequence[int]) -> Fourier:
        """Some of the images, as they are now."""
        return Fourier(self.variables[0].detach()[list(indices)], self.size, self.root, self.power)


class Maco(Parameterization):
    """Magnitude-constrained: every frequency has the mean magnitude that natural images have there, and only its phase
    is optimized (Fel et al. 2023). So no frequency can be overdrawn, which is what makes deep networks' images noise.

    ``variables`` [image, channel, row, frequency]: phases in radians. Those of frequencies that are each other's mirror
    are kept opposite, so that the image is real with exactly the given magnitudes. Standardized to mean 0 and standard
    deviation 1, colored, and squeezed into 0 … 1 about the images' mean color. Says where it matters: ``importance``.
    """

    name = "maco"

    def __init__(self, phase: torch.Tensor, statistics: ImageStatistics) -> None:
        super().__init__((phase,), statistics.size)
        self.statistics = statistics
        self._magnitude = statistics.magnitude.to(phase)
        self._root = statistics.root.to(phase)
        self._offset = statistics.mean.clamp(0.001, 0.999).logit().to(phase)[:, None, None]
        self._sum: torch.Tensor | None = None
        self._count = 0

    @classmethod
    def start(cls, seeds: Sequence[int], statistics: ImageStatistics, device: torch.device) -> Maco:
        """Random phases, normal with a standard deviation of 1 radian."""
        return cls(Draws(seeds).normal(*statistics.magnitude.shape).to(device), statistics)

    def plain(self) -> Float[torch.Tensor, "image channel row column"]:
        """The images before they are standardized and colored: what has exactly the given magnitudes."""
        spectrum = torch.polar(self._magnitude.expand_as(self.variables[0]), self._phase())
        image: torch.Tensor = torch.fft.irfft2(spectrum, s=self.size)
        return image

    def pixels(self) -> Float[torch.Tensor, "image channel row column"]:
        """The images that the phases make."""
        plain = self.plain()
        # The constant part's magnitude is 0, so the mean is 0 as it is.
        standardized = plain / plain.std(dim=(1, 2, 3), correction=0, keepdim=True).clamp_min(1e-12)
        return (torch.einsum("cd,ndrk->ncrk", self._root, standardized) + self._offset).sigmoid()

    def _phase(self) -> torch.Tensor:
        phase = self.variables[0]
        columns = [0] + ([phase.shape[3] - 1] if self.size[1] % 2 == 0 and phase.shape[3] > 1 else [])
        mirror = torch.arange(self.size[0], device=phase.device).neg().remainder(self.size[0])
        # In these columns the frequency in row -r is the mirror of that in row r; all others' mirrors aren't stored.
        own = phase[..., columns]
        return phase.index_copy(3, torch.tensor(columns, device=phase.device), (own - own[:, :, mirror]) / 2)

    @property
    def importance(self) -> Float[torch.Tensor, "image row column"] | None:
        """The mean over steps of the gradient's absolute value (the mean over channels), in objective per pixel."""
        return None if self._sum is None else self._sum / self._count

    def observe(self, gradient: Float[torch.Tensor, "image channel row column"]) -> None:
        """Add the gradient's absolute value to the account."""
        size = gradient.detach().abs().mean(dim=1)
        self._sum = size if self._sum is None else self._sum + size
        self._count += 1

    def selected(self, indices: Sequence[int]) -> Maco:
        """Some of the images, as they are now."""
        chosen = Maco(self.variables[0].detach()[list(indices)], self.statistics)
        chosen._sum = None if self._sum is None else self._sum[list(indices)]
        chosen._count = self._count
        return chosen


def parameterize(
    name: str,
    *,
    preprocessing: Preprocessing,
    seeds: Sequence[int],
    size: tuple[int, int] | None = None,
    statistics: ImageStatistics | None = None,
    start: Float[torch.Tensor, "image channel row column"] | None = None,
    device: torch.device | None = None,
) -> Parameterization:
    """A parameterization by name ("fourier", "pixels", "maco") of one image per seed; the same seed, the same start.

    ``size`` (rows, columns) is the network's if not given. ``statistics`` are those of one's own images at that size,
    else the published ones. ``start`` are pixels 0 … 1 to begin with instead of noise; MACO has no way to.
    """
    if name not in NAMES:
        raise ConvscopeError(
            f"no parameterization {name[:80]!r}", next_step=suggest(name, NAMES) or f"choose {', '.join(NAMES)}"
        )
    size = size or preprocessing.image_size
    device = device or torch.device("cpu")
    statistics = _fitting(statistics, preprocessing.channels, size)
    if start is not None:
        if name == "maco":
            raise ConvscopeError(
                "maco can't begin with an image: its magnitudes are those of many",
                next_step="use parameterization=fourier",
            )
        begun = start.to(device, torch.float32)
        if name == "fourier":
            return Fourier.of(begun, statistics)
        return Pixels(begun * 255, begun.new_tensor(mean_color(preprocessing, statistics)) * 255)
    if name == "pixels":
        return Pixels.start(seeds, preprocessing.channels, size, mean_color(preprocessing, statistics), device)
    if name == "fourier":
        return Fourier.start(seeds, size, statistics, device)
    return Maco.start(seeds, statistics, device)


def _fitting(statistics: ImageStatistics | None, channels: int, size: tuple[int, int]) -> ImageStatistics:
    if statistics is None:
        return ImageStatistics.known(channels, size)
    if statistics.channels != channels or statistics.size != size:
        raise ConvscopeError(
            f"statistics of {statistics.channels} channels at {statistics.size[0]} × {statistics.size[1]} for images "
            f"of {channels} channels at {size[0]} × {size[1]}",
            next_step="measure them at the size of the optimized image",
        )
    return statistics


__all__ = [
    "NAMES",
    "Fourier",
    "Maco",
    "Name",
    "Parameterization",
    "Pixels",
    "mean_color",
    "parameterize",
    "to_pixels",
    "to_prepared",
]
