"""ImageSet: images with ids that never change, decoded on demand, cut into shards."""

from __future__ import annotations

import hashlib
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, overload

from convscope.errors import BadImage, UnknownName, suggest
from convscope.images.decoding import UPLOADS
from convscope.images.origins import BytesOrigin, Content, Origin
from convscope.view import Array  # noqa: TC001 - types are checked in tests

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


@dataclass(frozen=True, eq=False, slots=True)
class Image:
    """One image of a set. ``id`` is its number in the set it was loaded into, also in every part of that set."""

    id: int
    name: str
    origin: Origin
    known_label: int | None = None
    label_name: str | None = None
    label_inside: bool = False  # of datasets that know a label only together with the image
    _fingerprint: str | None = field(default=None, init=False, repr=False)
    _size: tuple[int, int] | None = field(default=None, init=False, repr=False)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the encoded bytes (of the pixels, for an item of a Dataset), in hexadecimal."""
        if self._fingerprint is None:
            with self.named():
                object.__setattr__(self, "_fingerprint", self.read().fingerprint().hex())
        return str(self._fingerprint)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels, upright."""
        if self._size is None:
            with self.named():
                object.__setattr__(self, "_size", self.origin.size())
        return self._size or (0, 0)

    @property
    def label(self) -> int | None:
        """The number of the image's class in the set's ``classes``; None where it has none or isn't readable."""
        if self.label_inside:
            with suppress(BadImage):
                self.read()
        return self.known_label

    def pixels(self) -> Array:
        """uint8 ``[row, column, channel]``, RGB or RGBA; an array's own channels and float32 in 0..1 where it is one.

        Decoded anew at each call. Raises :class:`BadImage` when the image is damaged.
        """
        with self.named():
            return self.read().pixels()

    def encoded(self) -> bytes:
        """The encoded bytes, as they are in the file."""
        with self.named():
            return self.origin.encoded()

    def read(self) -> Content:
        """Read it once, for the pixels, the fingerprint and the label; raises :class:`BadImage`."""
        with self.named():
            content = self.origin.read()
            if self.label_inside:
                object.__setattr__(self, "known_label", content.label())
                object.__setattr__(self, "label_inside", False)
            return content

    def named(self) -> Named:
        """Within it, a :class:`BadImage` says that it is about this image."""
        return Named(self.name)

    def __reduce__(self) -> tuple[Any, ...]:
        return Image, _VALUES(self)

    def __repr__(self) -> str:
        label = "" if self.label_name is None else f", {self.label_name}"
        return f"Image({self.id}, {self.name!r}{label})"


_VALUES = attrgetter("id", "name", "origin", "known_label", "label_name", "label_inside")


class Named:
    """Says which image an error is about, where the decoder couldn't know."""

    __slots__ = ("name",)

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

    Sets and their parts can be pickled, which takes about a hundred bytes an image; what was read isn't sent along.

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
        self._index: dict[int, Image] | None = None
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
        return isinstance(image, Image) and self._find(image.id) is image

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
        with Named(shown):
            origin.read().pixels()
        fingerprint = hashlib.sha256(encoded).hexdigest()
        with self._lock:
            found = self._same(fingerprint, len(encoded))
            if found is None:
                found = Image(max((image.id for image in self._images), default=-1) + 1, shown, origin)
                self._images.append(found)
                if self._index is not None:
                    self._index[found.id] = found
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

    def _find(self, number: int) -> Image | None:
        """The image of that id; most sets are numbered without gaps, and need no index."""
        guess = number - self._images[0].id if self._images else -1
        if 0 <= guess < len(self._images) and self._images[guess].id == number:
            return self._images[guess]
        with self._lock:
            if self._index is None:
                self._index = {image.id: image for image in self._images}
            return self._index.get(number)

    def _with_id(self, number: int) -> Image:
        if number < 0 and -number <= len(self):
            return self._images[number]
        found = self._find(number)
        if found is None:
            ids = self.ids
            step = f"the ids are {ids[0]} to {ids[-1]}" if ids else "the set is empty"
            raise UnknownName(f"there is no image {number}", next_step=step)
        return found

    def _with_name(self, name: str) -> Image:
        for image in self._images:
            if image.name == name:
                return image
        step = suggest(name, [image.name for image in self._images[:10_000]]) or "see [image.name for image in images]"
        raise UnknownName(f"there is no image {name[:80]!r}", next_step=step)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but locks and what was read, column by column: a tenth of the time of a million small objects."""
        runs = [(kind, list(run)) for kind, run in groupby(self._images, key=lambda image: type(image.origin))]
        origins = [(kind, _columns(kind, [image.origin for image in run])) for kind, run in runs]
        names = ("id", "name", "known_label", "label_name", "label_inside")
        facts = {name: [getattr(image, name) for image in self._images] for name in names}
        own = ("skipped", "classes", "source", "location")
        return {"images": facts, "origins": origins, **{name: getattr(self, name) for name in own}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        facts = state.pop("images")
        origins = [origin for kind, columns in state.pop("origins") for origin in map(kind, *columns)]
        rest = (facts["known_label"], facts["label_name"], facts["label_inside"])
        self.__init__(map(Image, facts["id"], facts["name"], origins, *rest), **state)  # type: ignore[misc]


def _columns(kind: type[Any], origins: list[Origin]) -> list[list[Any]]:
    return [[getattr(origin, name) for origin in origins] for name in kind.__dataclass_fields__]


def _fingerprint(image: Image) -> str | None:
    try:
        return image.fingerprint
    except BadImage:
        return None


def printable(name: str) -> str:
    """A file's name as text that can be shown and sent; what isn't Unicode or can't be printed is replaced."""
    if name.isprintable():
        return name
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
