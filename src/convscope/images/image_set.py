"""ImageSet: images with ids that never change, decoded on demand, cut into shards."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, overload

from convscope.errors import BadImage, UnknownName, suggest
from convscope.images.decoding import UPLOADS
from convscope.images.origins import BytesOrigin, Origin
from convscope.view import Array  # noqa: TC001 - types are checked in tests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


@dataclass(frozen=True, eq=False)
class Image:
    """One image of a set. ``id`` is its number in the set it was loaded into, also in every part of that set."""

    id: int
    name: str
    origin: Origin
    known_label: int | None = None
    label_name: str | None = None
    find_label: Callable[[], int | None] | None = None  # for datasets that know a label only together with the image

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the encoded bytes (of the pixels, for an item of a Dataset), in hexadecimal."""
        with self._named():
            return hashlib.sha256(self.origin.identity()).hexdigest()

    @cached_property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels, upright."""
        with self._named():
            return self.origin.size()

    @cached_property
    def label(self) -> int | None:
        """The number of the image's class in the set's ``classes``; None where it has none."""
        return self.find_label() if self.find_label else self.known_label

    def pixels(self) -> Array:
        """uint8 ``[row, column, channel]``, RGB or RGBA; an array's own channels and float32 in 0..1 where it is one.

        Decoded anew at each call. Raises :class:`BadImage` when the image is damaged.
        """
        with self._named():
            return self.origin.pixels()

    def encoded(self) -> bytes:
        """The encoded bytes, as they are in the file."""
        with self._named():
            return self.origin.encoded()

    def _named(self) -> _Named:
        return _Named(self.name)

    def __repr__(self) -> str:
        label = "" if self.label_name is None else f", {self.label_name}"
        return f"Image({self.id}, {self.name!r}{label})"


class _Named:
    """Says which image an error is about, where the decoder couldn't know."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, BadImage) and not error.where.startswith(self.name):
            where = f"{self.name}: {error.where}" if error.where else self.name
            raise BadImage(error.what, where=where, next_step=error.next_step) from error


class ImageSet:
    """Images in a fixed order, each with an id that never changes.

    ``images[7]`` is the image with id 7, ``images["cat.jpg"]`` the one of that name, ``images[:32]`` and
    ``images[[3, 5]]`` are parts of the set in which every image keeps its id. ``skipped`` lists (name, reason) of what
    couldn't be read. ``source`` is what a person calls the set, ``location`` what :func:`load_images` takes for it.

    >>> images = ImageSet([Image(0, "first", BytesOrigin(b"")), Image(1, "second", BytesOrigin(b""))])
    >>> images[1:].ids, images["second"].id
    ((1,), 1)
    """

    def __init__(
        self,
        images: Iterable[Image],
        *,
        skipped: Sequence[tuple[str, str]] = (),
        classes: Sequence[str] = (),
        source: str = "",
        location: str = "",
    ) -> None:
        self._images = list(images)
        self._by_id = {image.id: image for image in self._images}
        self._by_fingerprint: dict[str, Image] = {}
        self._lock = threading.Lock()
        self.skipped = list(skipped)
        self.classes = tuple(classes)
        self.source = source
        self.location = location

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[Image]:
        return iter(list(self._images))

    def __contains__(self, image: object) -> bool:
        return isinstance(image, Image) and self._by_id.get(image.id) is image

    def __repr__(self) -> str:
        classes = f", {len(self.classes)} classes" if self.classes else ""
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        return f"ImageSet({len(self)} images{classes}{skipped})"

    @overload
    def __getitem__(self, key: int | str) -> Image: ...
    @overload
    def __getitem__(self, key: slice | list[int] | tuple[int, ...]) -> ImageSet: ...
    def __getitem__(self, key: int | str | slice | list[int] | tuple[int, ...]) -> Image | ImageSet:
        if isinstance(key, slice):
            return self._part(self._images[key])
        if isinstance(key, (list, tuple)):
            return self._part([self._with_id(number) for number in key])
        return self._with_name(key) if isinstance(key, str) else self._with_id(key)

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids, in order."""
        return tuple(image.id for image in self._images)

    def shards(self, size: int) -> Iterator[ImageSet]:
        """Parts of ``size`` images each, in order; the last may be smaller."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def add(self, encoded: bytes, name: str) -> Image:
        """Add an image by its encoded bytes, within the limits of an upload; the same bytes give the image there is.

        Raises :class:`BadImage` for what can't be decoded; the set is then as it was.
        """
        shown = printable(name)[:200] or "image"
        origin = BytesOrigin(encoded, UPLOADS)
        with _Named(shown):
            origin.pixels()
        fingerprint = hashlib.sha256(encoded).hexdigest()
        with self._lock:
            found = self._same(fingerprint, len(encoded))
            if found is None:
                found = Image(max(self._by_id, default=-1) + 1, shown, origin)
                self._images.append(found)
                self._by_id[found.id] = found
                self._by_fingerprint[fingerprint] = found
            return found

    def _same(self, fingerprint: str, size: int) -> Image | None:
        """The image with these bytes; only files of that very size have to be read to know."""
        if fingerprint in self._by_fingerprint:
            return self._by_fingerprint[fingerprint]
        for image in self._images:
            if image.origin.encoded_size() == size and _fingerprint(image) == fingerprint:
                return image
        return None

    def _part(self, images: list[Image]) -> ImageSet:
        return ImageSet(images, classes=self.classes, source=self.source, location=self.location)

    def _with_id(self, number: int) -> Image:
        if number < 0 and -number <= len(self):
            return self._images[number]
        if number not in self._by_id:
            ids = self.ids
            step = f"the ids are {ids[0]} to {ids[-1]}" if ids else "the set is empty"
            raise UnknownName(f"there is no image {number}", next_step=step)
        return self._by_id[number]

    def _with_name(self, name: str) -> Image:
        for image in self._images:
            if image.name == name:
                return image
        step = suggest(name, [image.name for image in self._images[:10_000]]) or "see [image.name for image in images]"
        raise UnknownName(f"there is no image {name[:80]!r}", next_step=step)


def _fingerprint(image: Image) -> str | None:
    try:
        return image.fingerprint
    except BadImage:
        return None


def printable(name: str) -> str:
    """A file's name as text that can be shown and sent; what isn't Unicode or can't be printed is replaced."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
