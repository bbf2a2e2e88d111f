"""Image files, and folders of them, listed without being opened where there are many."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from convscope.errors import BadImage
from convscope.images.decoding import SUFFIXES
from convscope.images.image_set import Image, ImageSet, printable
from convscope.images.labels import number_labels
from convscope.images.origins import FileOrigin
from convscope.progress import report

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FORMATS = "JPEG, PNG, WEBP, GIF, BMP or .npy"
CHECKED = 512  # up to so many images are decoded once when they are listed; of more, damage shows when they are read
# Pictures all the same, which a user would miss; everything else in a folder is passed over silently.
_OTHER_SUFFIXES = (".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".svg", ".psd", ".ico", ".raw", ".dng")
_COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")
TAR, PARQUET, FILES = "tar archives", "parquet files", "image files"


@dataclass
class Found:
    """What lies below a folder, by name relative to it, sorted."""

    folder: str
    images: list[tuple[str, os.stat_result | OSError]] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def paths(self, names: list[str]) -> list[tuple[str, str]]:
        """(path, name) of each."""
        return [(os.path.join(self.folder, name), name) for name in names]  # noqa: PTH118 - of a million


def search(folder: str) -> Found:
    """Everything below a folder that is or holds images. Hidden files, and links to folders, are passed over."""
    found = Found(os.path.abspath(folder))  # noqa: PTH100 - a path in text
    for seen, (name, entry) in enumerate(_entries(found.folder, "", found.skipped)):
        if seen % 10_000 == 0:
            report(0, 1, "listing the images")
        lower = entry.name.lower()
        if lower.endswith(SUFFIXES):
            try:
                found.images.append((name, entry.stat()))
            except OSError as error:
                found.images.append((name, error))
        elif lower.endswith(".tar"):
            found.shards.append(name)
        elif lower.endswith(".parquet"):
            found.tables.append(name)
        elif lower.endswith(_OTHER_SUFFIXES):
            found.skipped.append((printable(name), f"its format isn't read; convert it to {FORMATS}"))
        elif lower.endswith(_COMPRESSED_SUFFIXES):
            found.skipped.append((printable(name), "a compressed archive; unpack it to .tar"))
    found.images.sort(key=lambda each: each[0].split("/"))
    found.shards.sort(key=lambda each: each.split("/"))
    found.tables.sort(key=lambda each: each.split("/"))
    found.skipped.sort()
    return found


def kind_of(name: str) -> str:
    """What a file that was named by the user is, by its name."""
    lower = name.lower()
    if lower.endswith((".tar", *_COMPRESSED_SUFFIXES)):
        return TAR
    return PARQUET if lower.endswith(".parquet") else FILES


def _entries(folder: str, prefix: str, skipped: list[tuple[str, str]]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Files below a folder, to any depth; doesn't follow links to folders, so it ends."""
    waiting = [(folder, prefix)]
    while waiting:
        place, start = waiting.pop()
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.name.startswith((".", "__MACOSX")):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append((entry.path, f"{start}{entry.name}/"))
                    elif not _links_to_folder(entry):
                        yield start + entry.name, entry
        except OSError as error:
            if not start:
                raise BadImage(f"the folder can't be listed: {error.strerror}", next_step="check the path") from error
            skipped.append((printable(start), f"the folder can't be listed: {error.strerror}"))


def _links_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_symlink() and entry.is_dir()
    except OSError:  # a link in a circle; told when it is read
        return False


def list_files(
    files: Iterable[tuple[str, str, os.stat_result | OSError]], source: str, *, classes: bool = True
) -> ImageSet:
    """Image files, given as (folder, name, facts); if each lies in one of several folders, these are the classes."""
    origins: list[FileOrigin] = []
    skipped: list[tuple[str, str]] = []
    for folder, name, facts in files:
        try:
            if isinstance(facts, OSError):
                raise BadImage(f"can't be read: {facts.strerror}")
            origins.append(FileOrigin.found(folder, name, facts))
        except BadImage as error:
            skipped.append((printable(name), error.what))
    folders = [origin.name.partition("/")[0] if "/" in origin.name else "" for origin in origins]
    labeled = classes and all(folders) and len(set(folders)) > 1
    labels = number_labels(folders if labeled else [None] * len(folders))
    images = [
        Image(number, printable(origin.name), origin, label, label_name and printable(label_name))
        for number, (origin, label, label_name) in enumerate(zip(origins, labels.numbers, labels.names, strict=True))
    ]
    return ImageSet(images, skipped=skipped, classes=[printable(each) for each in labels.classes], source=source)


def check(images: ImageSet, skipped: Iterable[tuple[str, str]] = ()) -> ImageSet:
    """The set without its damaged images, if it is small enough to decode them all; they are listed with the reason.

    ``skipped`` is what was left out before. Raises :class:`BadImage` when nothing is left.
    """
    bad = [*skipped, *images.skipped]
    good: list[Image] = []
    if len(images) > CHECKED:
        images.skipped = bad
        return images
    for done, image in enumerate(images):
        if done % 16 == 0:
            report(done, len(images), "looking at the images")
        try:
            image.origin.check()
        except BadImage as error:
            bad.append((image.name, f"{error.what} ({error.where})" if error.where else error.what))
        else:
            good.append(Image(len(good), image.name, image.origin, image.known_label, image.label_name))
    if not good:
        name, reason = bad[0] if bad else ("", "there is none")
        raise BadImage(
            f"no image could be read: {reason}", where=name or images.source, next_step=f"give {FORMATS} files"
        )
    return ImageSet(good, skipped=bad, classes=images.classes, source=images.source)
