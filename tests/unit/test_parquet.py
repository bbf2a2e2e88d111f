"""Parquet: bytes or bytes and path, labels as numbers or names, read in batches however it was written."""

from __future__ import annotations

import io
import pickle
import random
from pathlib import Path  # noqa: TC003 - fixtures are annotated with it
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image as Pillow

from convscope.errors import BadImage, ConvscopeError
from convscope.images import folders, load_images, parquet, read_ahead


def png(seed: int, height: int = 4, width: int = 6) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, images: list[Any], labels: Any = None, size: int = 1000, names: str = "") -> Path:
    columns = {"image": images} if labels is None else {"image": images, "label": labels}
    table = pyarrow.table(columns)
    if names:
        table = table.replace_schema_metadata({"huggingface": names})
    pyarrow.parquet.write_table(table, path, row_group_size=size, use_dictionary=False)
    return path


@pytest.mark.parametrize(
    "labels", [["dog", None, "cat", "dog"], pyarrow.array(["dog", None, "cat", "dog"]).dictionary_encode()]
)
def test_labels_that_are_names(tmp_path: Path, labels: Any) -> None:
    images = load_images(write(tmp_path / "x.parquet", [png(n) for n in range(4)], labels))
    assert [(image.label, image.label_name) for image in images] == [(1, "dog"), (None, None), (0, "cat"), (1, "dog")]
    assert images.classes == ("cat", "dog")


def test_names_are_numbered_over_all_files(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [png(0)], ["zebra"])
    write(tmp_path / "b.parquet", [png(1)], ["ant"])
    images = load_images(tmp_path)
    assert [(image.name, image.label, image.label_name) for image in images] == [("a/0", 1, "zebra"), ("b/0", 0, "ant")]


def test_numbers_with_the_names_of_hugging_face(tmp_path: Path) -> None:
    names = '{"info": {"features": {"label": {"names": ["cat", "dog"]}}}}'
    images = load_images(write(tmp_path / "x.parquet", [png(n) for n in range(3)], [1, -1, 0], names=names))
    assert [(image.label, image.label_name) for image in images] == [(1, "dog"), (None, None), (0, "cat")]
    other = names.replace("cat", "cow")
    write(tmp_path / "y.parquet", [png(4)], [1], names=other)
    with pytest.raises(ConvscopeError, match="don't name their classes alike"):
        load_images(tmp_path)


def test_folders_of_files(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    write(tmp_path / "test" / "0.parquet", [png(0)])
    write(tmp_path / "0.parquet", [png(1), png(2)])
    (tmp_path / "1.parquet").write_bytes(b"PAR1 no PAR1")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["x"]}), tmp_path / "2.parquet")
    images = load_images(tmp_path)
    assert [image.name for image in images] == ["0/0", "0/1", "test/0/0"]
    assert [name for name, _ in images.skipped] == ["1.parquet", "2.parquet"]
    assert [image.encoded() for image in load_images([tmp_path / "0.parquet"])] == [png(1), png(2)]


def test_rows_without_an_image_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"bytes": png(0), "path": "0.png"},
        {"bytes": None, "path": "/etc/passwd"},
        None,
        {"bytes": b"", "path": None},
    ]
    path = write(tmp_path / "x.parquet", rows)
    images = load_images(path)
    assert [image.name for image in images] == ["x/0"]
    assert [name for name, _ in images.skipped] == ["x/1", "x/2", "x/3"]
    monkeypatch.setattr(folders, "CHECKED", 1)
    images = load_images(path)
    assert [image.name for image in images] == ["x/0", "x/1", "x/2", "x/3"]
    with pytest.raises(BadImage, match=r"no image bytes.*x/1"):
        images["x/1"].pixels()


@pytest.mark.parametrize("struct", [False, True])
@pytest.mark.parametrize("group", [1, 7, 50])
@pytest.mark.parametrize("batch", [1, 400, 1 << 20])
def test_any_row_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, struct: bool, group: int, batch: int
) -> None:
    contents = [png(n) for n in range(50)]
    rows: list[Any] = [{"bytes": each, "path": "long" * 99} for each in contents] if struct else contents
    path = write(tmp_path / "x.parquet", rows, size=group)
    monkeypatch.setattr(folders, "CHECKED", 1)
    monkeypatch.setattr(parquet, "_BATCH_BYTES", batch)
    images = load_images(path)
    assert [image.encoded() for image in images] == contents
    order = random.Random(0).sample(range(50), 50)
    assert [images[number].encoded() for number in order] == [contents[number] for number in order]
    sent = pickle.loads(pickle.dumps(images[10:20]))  # noqa: S301 - our own
    assert [image.encoded() for image in sent] == contents[10:20]
    read = list(read_ahead(images, lambda pixels: torch.tensor(pixels.shape), threads=4))
    assert [each.image.id for each in read] == list(range(50))
    assert all(isinstance(each.prepared, torch.Tensor) for each in read)


def test_each_part_is_read_once_by_several_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    real = parquet._Reader.__init__

    def count(self: Any, file: Any, group: int) -> None:
        opened.append(group)
        real(self, file, group)

    monkeypatch.setattr(parquet._Reader, "__init__", count)
    monkeypatch.setattr(folders, "CHECKED", 1)
    images = load_images(write(tmp_path / "x.parquet", [png(n) for n in range(200)], size=50))
    list(read_ahead(images, lambda pixels: torch.tensor(pixels.shape), threads=1))
    assert opened == [0, 1, 2, 3]


def test_a_damaged_page_costs_its_rows_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "CHECKED", 1)
    path = write(tmp_path / "x.parquet", [png(n, 40, 40) for n in range(30)], size=10)
    content = bytearray(path.read_bytes())
    with pyarrow.parquet.ParquetFile(path) as file:
        start = file.metadata.row_group(1).column(0).data_page_offset
    content[start : start + 64] = b"\xff" * 64
    path.write_bytes(bytes(content))
    images = load_images(path)
    read = list(read_ahead(images, lambda pixels: torch.tensor(pixels.shape), threads=2))
    bad = [each.image.name for each in read if isinstance(each.prepared, BadImage)]
    assert bad == [f"x/{number}" for number in range(10, 20)]
    assert all("damaged" in str(each.prepared) for each in read if isinstance(each.prepared, BadImage))


def test_a_file_that_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "CHECKED", 1)
    path = write(tmp_path / "x.parquet", [png(0), png(1)], size=1)
    images = load_images(path)
    assert images[0].encoded() == png(0)
    write(path, [png(7), png(8), png(9)])
    with pytest.raises(BadImage, match="changed since"):
        images[1].encoded()
    path.unlink()
    with pytest.raises(BadImage):
        images[1].encoded()
