"""Images in tar archives, as the WebDataset library and plain `tar` write them."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from convscope.errors import BadImage, ConvscopeError
from convscope.images.decoding import FILES
from convscope.images.image_set import Image, ImageSet, printable
from convscope.images.labels import number_labels
from convscope.images.origins import Origin, read_part
from convscope.images.tar import Damaged, Member, members
from convscope.progress import report

if TYPE_CHECKING:
    from collections.abc import Sequence

# In the order in which one is preferred where a sample has several.
_IMAGES = ("jpg", "jpeg", "jpe", "png", "webp", "bmp", "gif", "npy")
_LABEL_BYTES = {"cls": 1 << 10, "json": 1 << 20, "txt": 1 << 10}  # of these suffixes, the longest that is read
_HIDDEN = (".", "__MACOSX")


@dataclass(frozen=True, slots=True)
class Shard:
    """One archive, as it was listed."""

    path: str
    listed: tuple[int, int]  # bytes, modification time in nanoseconds


@dataclass(frozen=True, slots=True)
class TarOrigin(Origin):
    """A member of an archive, read where it lies."""

    shard: Shard
    offset: int
    length: int

    def encoded(self) -> bytes:
        """The member's bytes."""
        return read_part(self.shard.path, self.shard.listed, self.offset, self.length)

    def encoded_size(self) -> int:
        """The member's size."""
        return self.length


@dataclass(slots=True)
class _Sample:
    """The members of one key: ``dogs/001.jpg`` and ``dogs/001.cls`` are one sample."""

    images: list[tuple[str, Member]] = field(default_factory=list)  # suffix behind the key, member
    labels: dict[str, Any] = field(default_factory=dict)  # by suffix


@dataclass(slots=True)
class _Index:
    """What was found in all archives so far."""

    images: list[tuple[str, TarOrigin]] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)  # the first folder in each image's own name, or ""
    labels: list[Any] = field(default_factory=list)
    from_text: list[bool] = field(default_factory=list)  # whether the label came from a .txt, which may be a caption
    skipped: list[tuple[str, str]] = field(default_factory=list)


def list_shards(paths: Sequence[tuple[str, str]], source: str) -> ImageSet:
    """The images of archives, given as (path, name); unreadable archives are skipped and listed, unless all are."""
    index = _Index()
    for done, (path, name) in enumerate(paths):
        report(done, len(paths), "looking into the archives")
        try:
            _list_shard(path, name.removesuffix(".tar"), index)
        except ConvscopeError as error:
            if len(paths) == 1:
                raise type(error)(
                    error.what, where=error.where or printable(name), next_step=error.next_step
                ) from error
            index.skipped.append((printable(name), error.what))
    if not index.images:
        raise BadImage(
            "no image in the archive" if len(paths) == 1 else "no image in the archives",
            where=index.skipped[0][1] if index.skipped else source,
            next_step="give one with members such as 0001.jpg, and 0001.cls for its label",
        )
    labels = number_labels(_written(index))
    facts = zip(index.images, labels.numbers, labels.names, strict=True)
    images = [
        Image(place, printable(name), origin, number, label and printable(label))
        for place, ((name, origin), number, label) in enumerate(facts)
    ]
    return ImageSet(images, skipped=index.skipped, classes=[printable(each) for each in labels.classes], source=source)


def _list_shard(path: str, name: str, index: _Index) -> None:
    try:
        facts = os.stat(path)  # noqa: PTH116 - a path in text
        if not stat.S_ISREG(facts.st_mode):
            raise BadImage("not a regular file", next_step="give a tar archive")
        shard = Shard(os.path.abspath(path), (facts.st_size, facts.st_mtime_ns))  # noqa: PTH100 - a path in text
        samples, damage = _samples(path, name, index.skipped)
    except OSError as error:
        raise BadImage(f"can't be read: {error.strerror}", next_step="check the path") from error
    more, example = 0, ""
    for key, sample in samples.items():
        chosen = _choose(key, sample.images)
        more += len(sample.images) - len(chosen)
        if len(chosen) == 1 and len(sample.images) > 1:
            example = example or next(
                member.name for _, member in sample.images if member.offset != chosen[0][1].offset
            )
        suffix = next((each for each in _LABEL_BYTES if each in sample.labels), "")
        for image, member in chosen:
            index.images.append((f"{name}/{image}", TarOrigin(shard, member.offset, member.size)))
            index.folders.append(member.name.partition("/")[0] if "/" in member.name else "")
            index.labels.append(sample.labels.get(suffix))
            index.from_text.append(suffix == "txt")
    if more:
        reason = f"{more} more images of samples that have one already, such as {printable(example)}"
        index.skipped.append((printable(name), reason))
    if damage is not None:
        index.skipped.append((printable(name), damage.what))


def _samples(path: str, name: str, skipped: list[tuple[str, str]]) -> tuple[dict[str, _Sample], Damaged | None]:
    """The archive's members by key; members that can't be read are added to ``skipped``."""
    samples: dict[str, _Sample] = {}
    with open(path, "rb", buffering=0) as stream:  # noqa: PTH123 - a path in text
        try:
            for member in members(path):
                folder, _, base = member.name.rpartition("/")
                if (base.startswith(_HIDDEN) and not base.startswith("..")) or member.name.startswith(_HIDDEN[1]):
                    continue
                start, _, suffix = base.partition(".")
                suffix = suffix.lower()
                last = suffix.rpartition(".")[2]
                key = f"{folder}/{start}" if folder else start
                if last in _IMAGES:
                    sample = samples.setdefault(key, _Sample())
                    if trouble := _trouble(member, suffix, sample):
                        skipped.append((f"{printable(name)}/{printable(member.name)}", trouble))
                    else:
                        sample.images.append((suffix, member))
                elif suffix in _LABEL_BYTES and not member.trouble and member.size <= _LABEL_BYTES[suffix]:
                    stream.seek(member.offset)
                    label = _label(suffix, stream.read(member.size))
                    if label is not None:
                        samples.setdefault(key, _Sample()).labels.setdefault(suffix, label)
        except Damaged as error:
            return samples, error
    return samples, None


def _trouble(member: Member, suffix: str, sample: _Sample) -> str:
    if member.trouble:
        return member.trouble
    if any(suffix == known for known, _ in sample.images):
        return "its name is there twice; the first is taken"
    try:
        FILES.check_bytes(member.size)
    except BadImage as error:
        return error.what
    return "" if member.size else "the file is empty"


def _choose(key: str, images: list[tuple[str, Member]]) -> list[tuple[str, Member]]:
    """A sample's image: the one that has nothing but its suffix behind the key.

    Where none has, the names may simply contain dots, and each is an image of its own.
    """
    plain = sorted((each for each in images if each[0] in _IMAGES), key=lambda each: _IMAGES.index(each[0]))
    if plain:
        return [(key, plain[0][1])]
    return [(member.name.rpartition(".")[0], member) for _, member in images]


def _label(suffix: str, content: bytes) -> int | str | None:
    try:
        text = content.decode("utf-8").strip()
        if suffix == "json":
            found = json.loads(text)
            label = found.get("label") if isinstance(found, dict) else None
            return label if isinstance(label, (int, str)) and not isinstance(label, bool) else None
    except (ValueError, RecursionError):  # not Unicode, not JSON, or JSON of a thousand brackets
        return None
    if text.isascii() and text.isdigit() and len(text) < 12:
        return int(text)
    return text if text.isprintable() and text else None  # several lines are no name


def _written(index: _Index) -> list[Any]:
    """The labels; without those from .txt where they are captions; the folders where there is no label at all.

    Texts are taken for captions if most of them are there only once.
    """
    texts = [
        label for label, text in zip(index.labels, index.from_text, strict=True) if text and isinstance(label, str)
    ]
    captions = 2 * len(set(texts)) > len(texts) + 1
    labels = [
        None if text and captions and isinstance(label, str) else label
        for label, text in zip(index.labels, index.from_text, strict=True)
    ]
    if any(label is not None for label in labels) or not all(index.folders) or len(set(index.folders)) < 2:
        return labels
    return list(index.folders)
