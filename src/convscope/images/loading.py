"""Finding images: a folder, files, parquet files, a torch Dataset, or the demonstration's photographs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from convscope.errors import BadImage, ConvscopeError
from convscope.images.decoding import SUFFIXES
from convscope.images.demo_photos import demo_photos
from convscope.images.image_set import Image, ImageSet, printable
from convscope.images.origins import FileOrigin, ItemOrigin, Items
from convscope.images.parquet import ParquetFile, ParquetOrigin
from convscope.progress import report

_FORMATS = "JPEG, PNG, WEBP, GIF, BMP or .npy"
# Pictures all the same, which a user would miss; everything else in a folder is passed over silently.
_OTHER_SUFFIXES = (".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".svg", ".psd", ".ico", ".raw", ".dng")
_DECODED_AT_ONCE = 512  # up to so many images are decoded once when they are listed; of more, the headers are read


def load_images(source: Any) -> ImageSet:
    """Images from wherever they are.

    ``source`` is "demo" (photographs that scikit-image and scikit-learn install), a folder (searched to any depth, in
    sorted order; if every image lies in one of two or more subfolders, these are its classes), an image file, a list of
    image files, a parquet file or a folder of them (column ``image`` with encoded bytes, or a struct of bytes and path
    as Hugging Face writes it; optionally ``label``), or a torch Dataset or sequence whose items are images or (image,
    label), each a Pillow image, an array ``[row, column, channel]`` or a tensor ``[channel, row, column]``, uint8 or in
    0..1: without the network's normalization.

    A damaged image in a folder or list is skipped and listed in ``skipped``. Raises :class:`ConvscopeError` when
    nothing is left, with the reason.

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
        files = [(Path(each), Path(each).name) for each in source]
        return _load_files(files, "list") if files else ImageSet([])  # images can still be added
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return _load_items(source)
    raise ConvscopeError(
        f"can't take images from a {type(source).__name__}",
        next_step="give a folder, files, a parquet file or a dataset with a length",
    )


def _load_path(path: Path) -> ImageSet:
    name = printable(path.name)
    if path.suffix.lower() == ".parquet" and path.is_file():
        return _load_parquet([path], name)
    if path.is_file():
        loaded = _load_files([(path, path.name)], name)
    elif path.is_dir():
        files, others = _walk(path)
        if not files and (tables := sorted(path.glob("*.parquet"))):
            return _load_parquet(tables, name)
        if not files and not others:
            raise ConvscopeError("no images in the folder", where=name, next_step=f"put {_FORMATS} files there")
        loaded = _load_files(files, name, others)
    else:
        raise ConvscopeError("there is no such file or folder", where=str(path)[:200], next_step="check the path")
    return loaded


def _walk(folder: Path) -> tuple[list[tuple[Path, str]], list[tuple[str, str]]]:
    """Image files below a folder by relative name, sorted; and pictures of other formats with the reason."""
    files: list[tuple[Path, str]] = []
    others: list[tuple[str, str]] = []
    for parent, folders, names in os.walk(folder):  # doesn't follow links to folders, so it ends
        folders[:] = [each for each in folders if not each.startswith((".", "__MACOSX"))]
        for each in names:
            path = Path(parent, each)
            relative = path.relative_to(folder).as_posix()
            if each.startswith("."):
                continue
            if each.lower().endswith(SUFFIXES):
                files.append((path, relative))
            elif each.lower().endswith(_OTHER_SUFFIXES):
                others.append((printable(relative), f"its format isn't read; convert it to {_FORMATS}"))
    return sorted(files, key=lambda found: found[1].split("/")), sorted(others)


def _load_files(files: list[tuple[Path, str]], source: str, skipped: list[tuple[str, str]] | None = None) -> ImageSet:
    skipped = list(skipped or [])
    folders = [name.split("/")[0] if "/" in name else None for _, name in files]
    classes = sorted({folder for folder in folders if folder}) if all(folders) else []
    numbers = {name: number for number, name in enumerate(classes)} if len(classes) > 1 else {}
    images: list[Image] = []
    for done, ((path, name), folder) in enumerate(zip(files, folders, strict=True)):
        if done % 100 == 0:
            report(done, len(files), "looking at the images")
        try:
            origin = FileOrigin.of(path)
            origin.size() if len(files) > _DECODED_AT_ONCE else origin.check()
        except BadImage as error:
            skipped.append((printable(name), f"{error.what} ({error.where})" if error.where else error.what))
            continue
        label = numbers.get(folder or "")
        label_name = None if label is None else printable(classes[label])
        images.append(Image(len(images), printable(name), origin, label, label_name))
    if not images:
        name, reason = skipped[0]
        raise BadImage(f"no image could be read: {reason}", where=name or source, next_step=f"give {_FORMATS} files")
    return ImageSet(images, skipped=skipped, classes=[printable(name) for name in numbers], source=source)


def _load_parquet(files: list[Path], source: str) -> ImageSet:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConvscopeError(
            "reading parquet files needs pyarrow", where=source, next_step="run `pip install 'convscope[parquet]'`"
        ) from error
    images: list[Image] = []
    classes: list[str] = []
    for path in files:
        try:
            with pyarrow.parquet.ParquetFile(path) as opened:
                column = _image_column(opened.schema_arrow, path.name)
                labeled = "label" in opened.schema_arrow.names
                labels = opened.read(columns=["label"])["label"].to_pylist() if labeled else None
                classes = classes or _class_names(opened.schema_arrow.metadata)
                rows = [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]
        except (pyarrow.ArrowException, OSError) as error:
            raise ConvscopeError(
                "damaged, or not a parquet file", where=printable(path.name), next_step="fetch or write it again"
            ) from error
        table, number = ParquetFile(path, column), 0
        for group, count in enumerate(rows):
            for row in range(count):
                value = labels[number] if labels else None
                label = value if isinstance(value, int) and not isinstance(value, bool) else None
                known = classes[label] if label is not None and 0 <= label < len(classes) else None
                name = f"{printable(path.stem)}/{number}"
                images.append(Image(len(images), name, ParquetOrigin(table, group, row), label, known))
                number += 1
    if not images:
        raise ConvscopeError("the parquet file has no rows", where=source, next_step="give one with images")
    return ImageSet(images, classes=classes, source=source)


def _image_column(schema: Any, name: str) -> str:
    known = [each for each in ("image", "img", "bytes") if each in schema.names]
    if not known:
        raise ConvscopeError(
            f"no column 'image' among {', '.join(schema.names)[:120]}",
            where=printable(name),
            next_step="name the column of encoded images 'image'",
        )
    return known[0]


def _class_names(metadata: Any) -> list[str]:
    """The label's class names, where Hugging Face's datasets library wrote them into the file."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features["label"]["names"]]
    except (KeyError, TypeError, ValueError):
        return []


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
