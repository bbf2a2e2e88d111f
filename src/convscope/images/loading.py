"""Finding images: a folder, files, tar archives, parquet files, a torch Dataset, or the demonstration's photographs."""

from __future__ import annotations

import fnmatch
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convscope.errors import ConvscopeError
from convscope.images.demo_photos import demo_photos
from convscope.images.folders import FORMATS, PARQUET, TAR, check, kind_of, list_files, search
from convscope.images.image_set import Image, ImageSet, printable
from convscope.images.origins import FileOrigin, ItemOrigin, Items
from convscope.images.parquet import list_tables
from convscope.images.webdataset import list_shards

if TYPE_CHECKING:
    from collections.abc import Sequence


def load_images(source: Any) -> ImageSet:
    """Images from wherever they are.

    ``source`` is "demo" (photographs that scikit-image and scikit-learn install); or one of these, or a list of them:

    - a folder, searched to any depth, in sorted order; if every image lies in one of two or more subfolders, these are
      its classes;
    - an image file;
    - a tar archive, as WebDataset or plain `tar` writes it, or a folder of them, or a pattern such as
      ``train-*.tar``: members whose names differ only in their suffix are one sample, with the label in its .cls,
      .json ("label") or .txt; images are read where they lie, so the archive must not be compressed;
    - a parquet file or a folder of them: column ``image`` with encoded bytes, or a struct of bytes and path as Hugging
      Face writes it; optionally ``label``, numbers or names;

    or a torch Dataset or sequence whose items are images or (image, label), each a Pillow image, an array
    ``[row, column, channel]`` or a tensor ``[channel, row, column]``, uint8 or in 0..1: without the network's
    normalization. One thread at a time asks a dataset for an item.

    What can't be read is left out and listed in ``skipped`` with the reason. Up to 512 images are decoded to find that
    out; of more, only what the listing itself tells is left out, and damage shows as :class:`BadImage` when an image is
    read. Raises :class:`ConvscopeError` when nothing is left, with the reason.

    >>> import tempfile
    >>> load_images(tempfile.mkdtemp(prefix="empty"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    convscope.errors.ConvscopeError: no images in the folder (empty...). Next: put JPEG, PNG, WEBP, GIF, BMP or .npy ...
    """
    if isinstance(source, str) and source == "demo":
        photos = [Image(number, path.stem, FileOrigin.of(path)) for number, path in enumerate(demo_photos())]
        return ImageSet(photos, source="demo", location="demo")
    if isinstance(source, (str, os.PathLike)):
        images = _load_path(Path(source).expanduser())
        images.location = str(source)
        return images
    if isinstance(source, ImageSet):
        return source
    if isinstance(source, (list, tuple)) and all(isinstance(each, (str, os.PathLike)) for each in source):
        return _load_list([Path(each).expanduser() for each in source]) if source else ImageSet([])
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return _load_items(source)
    raise ConvscopeError(
        f"can't take images from a {type(source).__name__}",
        next_step="give a folder, files, an archive, a parquet file or a dataset with a length",
    )


def _load_path(path: Path) -> ImageSet:
    if path.is_dir():
        return _load_folder(path)
    if path.is_file():
        return _load_list([path], printable(path.name))
    if any(sign in path.name for sign in "*?[") and path.parent.is_dir():
        return _load_pattern(path)
    step = "check the path"
    if "{" in path.name:
        step = f"give the folder, or a pattern such as {path.name.partition('{')[0]}*{path.suffix}"
    raise ConvscopeError("there is no such file or folder", where=str(path)[:200], next_step=step)


def _load_pattern(path: Path) -> ImageSet:
    matching = sorted(name for name in os.listdir(path.parent) if fnmatch.fnmatch(name, path.name))  # noqa: PTH208
    if not matching:
        raise ConvscopeError("no file fits the pattern", where=str(path)[:200], next_step="check it")
    return _load_list([path.parent / name for name in matching], printable(path.name))


def _load_folder(path: Path) -> ImageSet:
    name = printable(path.name) or str(path)
    found = search(str(path))
    if found.images:
        # Whoever wants them says so; they may well hold the same images.
        beside = [(printable(each), "images lie beside it; open it by itself") for each in found.shards + found.tables]
        listed = list_files(((found.folder, each, facts) for each, facts in found.images), name)
        return check(listed, found.skipped + beside)
    if found.shards and found.tables:
        raise ConvscopeError(
            "the folder holds tar archives and parquet files", where=name, next_step="open one of them by itself"
        )
    if found.shards:
        return check(list_shards(found.paths(found.shards), name), found.skipped)
    if found.tables:
        return check(list_tables(found.paths(found.tables), name), found.skipped)
    if found.skipped:
        return check(ImageSet([], source=name), found.skipped)
    raise ConvscopeError("no images in the folder", where=name, next_step=f"put {FORMATS} files there")


def _load_list(paths: Sequence[Path], source: str = "list") -> ImageSet:
    kinds = {kind_of(path.name) for path in paths}
    if len(kinds) > 1:
        raise ConvscopeError(
            "a list of several kinds of files", where=" and ".join(sorted(kinds)), next_step="open one kind at a time"
        )
    folder, names = "", [path.name for path in paths]
    if len(set(names)) < len(names):  # from several folders, which tell them apart
        folder = os.path.commonpath([path.absolute().parent for path in paths])
        names = [path.absolute().relative_to(folder).as_posix() for path in paths]
    pairs = list(zip(map(str, paths), names, strict=True))
    if kinds == {TAR}:
        return check(list_shards(pairs, source))
    if kinds == {PARQUET}:
        return check(list_tables(pairs, source))
    facts = (_facts(folder or str(path.absolute().parent), name) for path, name in zip(paths, names, strict=True))
    return check(list_files(facts, source, classes=False))


def _facts(folder: str, name: str) -> tuple[str, str, os.stat_result | OSError]:
    try:
        return folder, name, Path(folder, name).stat()
    except OSError as error:
        return folder, name, error


def _load_items(items: Any) -> ImageSet:
    count = len(items)
    if not count:
        raise ConvscopeError("the dataset is empty", next_step="give one with images")
    classes = [str(name) for name in getattr(items, "classes", None) or []]
    targets = getattr(items, "targets", None)
    listed = targets if targets is not None and len(targets) == count else None
    images = []
    shared = Items(items)
    for index in range(count):
        label = None if listed is None else int(listed[index])
        known = classes[label] if label is not None and 0 <= label < len(classes) else None
        images.append(
            Image(index, f"item {index}", ItemOrigin(shared, index), label, known, label_inside=listed is None)
        )
    return ImageSet(images, classes=classes, source=type(items).__name__)
