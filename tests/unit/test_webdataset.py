"""Tar archives: samples by key, labels beside the images, read where they lie; against Python's own tarfile."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import subprocess
import tarfile
from pathlib import Path  # noqa: TC003 - fixtures are annotated with it
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from convscope.errors import BadImage, ConvscopeError
from convscope.images import folders, load_images, tar


def png(seed: int, height: int = 4, width: int = 6) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, files: dict[str, bytes | str], kind: int = tarfile.PAX_FORMAT, **facts: Any) -> Path:
    with tarfile.open(path, "w", format=kind) as archive:
        for name, content in files.items():
            encoded = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(encoded)
            for fact, value in facts.items():
                setattr(info, fact, value)
            archive.addfile(info, io.BytesIO(encoded))
    return path


def test_samples_of_a_shard(tmp_path: Path) -> None:
    contents = [png(number) for number in range(3)]
    files: dict[str, bytes | str] = {}
    for number, content in enumerate(contents):
        files[f"{number:04}.png"] = content
        files[f"{number:04}.cls"] = str(7 - number)
    path = write(tmp_path / "train-000.tar", files)
    images = load_images(path)
    assert [image.name for image in images] == ["train-000/0000", "train-000/0001", "train-000/0002"]
    assert [image.encoded() for image in reversed(list(images))] == contents[::-1]
    assert [(image.label, image.label_name) for image in images] == [(7, None), (6, None), (5, None)]
    assert images.location == str(path)
    assert images.skipped == []
    assert images[1].size == (4, 6)
    assert images[1].origin.encoded_size() == len(contents[1])
    sent = pickle.loads(pickle.dumps(images))  # noqa: S301 - our own
    assert [image.encoded() for image in sent] == contents


def test_shards_in_a_folder_a_list_and_a_pattern(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "more").mkdir(exist_ok=True)
        write(tmp_path / ("more" if number == 2 else ".") / f"s-{number}.tar", {f"{number}.png": png(number)})
    assert [image.name for image in load_images(tmp_path)] == ["more/s-2/2", "s-0/0", "s-1/1"]
    assert [image.name for image in load_images([tmp_path / "s-1.tar", tmp_path / "s-0.tar"])] == ["s-1/1", "s-0/0"]
    assert [image.name for image in load_images(str(tmp_path / "s-*.tar"))] == ["s-0/0", "s-1/1"]
    (tmp_path / "more" / "s-0.tar").write_bytes((tmp_path / "s-0.tar").read_bytes())
    both = load_images([tmp_path / "s-0.tar", tmp_path / "more" / "s-0.tar"])
    assert [image.name for image in both] == ["s-0/0", "more/s-0/0"]
    with pytest.raises(ConvscopeError, match=r"s-\*\.tar"):
        load_images(str(tmp_path / "s-{0..1}.tar"))
    with pytest.raises(ConvscopeError, match="no file fits"):
        load_images(str(tmp_path / "t-*.tar"))
    with pytest.raises(ConvscopeError, match=r"several kinds.*image files and tar archives"):
        load_images([tmp_path / "s-0.tar", tmp_path / "x.png"])


def labels_of(tmp_path: Path, *labels: tuple[str, str]) -> list[tuple[int | None, str | None]]:
    files: dict[str, bytes | str] = {}
    for number, (suffix, text) in enumerate(labels):
        files[f"{number}.png"] = png(number)
        if suffix:
            files[f"{number}.{suffix}"] = text
    images = load_images(write(tmp_path / "x.tar", files))
    return [(image.label, image.label_name) for image in images]


def test_labels(tmp_path: Path) -> None:
    numbers = [("cls", " 3\n"), ("json", '{"label": 1, "more": [2]}'), ("txt", "2"), ("", "")]
    assert labels_of(tmp_path, *numbers) == [(3, None), (1, None), (2, None), (None, None)]
    names = [("txt", "dog"), ("json", '{"label": "cat"}'), ("cls", "dog\n"), ("txt", "cat"), ("txt", "cat")]
    assert labels_of(tmp_path, *names) == [(1, "dog"), (0, "cat"), (1, "dog"), (0, "cat"), (0, "cat")]
    assert labels_of(tmp_path, ("txt", "dog"), ("cls", "5"), ("txt", "dog")) == [(1, "dog"), (0, "5"), (1, "dog")]


def test_captions_are_no_labels(tmp_path: Path) -> None:
    captions = [("txt", f"a photo of {thing}") for thing in ("a cat", "a dog", "the sea")]
    assert labels_of(tmp_path, *captions) == [(None, None)] * 3
    assert labels_of(tmp_path, *captions, ("cls", "4"))[-1] == (4, None)
    assert labels_of(tmp_path, *[("txt", "several\nlines")] * 3) == [(None, None)] * 3


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        ("json", "[" * 100_000),
        ("json", '{"label": true}'),
        ("json", '{"label": 1.5}'),
        ("json", '{"label": -1}'),
        ("json", '{"label": 99999999999999999999}'),
        ("json", '{"label": [1]}'),
        ("json", "[1]"),
        ("json", "not json"),
        ("cls", ""),
        ("cls", "x" * 2000),
        ("cls", "\x1b[31m"),
    ],
)
def test_what_is_no_label(tmp_path: Path, suffix: str, text: str) -> None:
    assert labels_of(tmp_path, (suffix, text)) == [(None, None)]


def test_folders_are_classes_where_nothing_else_says(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {"./b/1.png": png(1), "./a/deep/2.png": png(2), "./b/3.png": png(3)}
    images = load_images(write(tmp_path / "x.tar", files))
    assert [(image.name, image.label_name) for image in images] == [("x/b/1", "b"), ("x/a/deep/2", "a"), ("x/b/3", "b")]
    assert images.classes == ("a", "b")
    images = load_images(write(tmp_path / "x.tar", {**files, "b/1.cls": "5"}))
    assert [image.label for image in images] == [5, None, None]
    images = load_images(write(tmp_path / "x.tar", {**files, "loose.png": png(4)}))
    assert images.classes == ()


def test_one_image_a_sample(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        "1.seg.png": png(1),
        "1.png": png(2),
        "1.JPG": png(3),
        "1.cls": "4",
        "photo.v2.png": png(4),
        "photo.v3.png": png(5),
        "2.depth.png": png(6),
        "2.npy": b"no array",
        "._1.png": b"",
        "__MACOSX/1.png": b"",
        "readme.md": "hello",
    }
    images = load_images(write(tmp_path / "x.tar", files))
    assert {image.name: image.encoded() for image in images} == {
        "x/1": png(3),
        "x/photo.v2": png(4),
        "x/photo.v3": png(5),
    }
    assert images["x/1"].label == 4
    assert [name for name, _ in images.skipped] == ["x", "x/2"]
    assert images.skipped[0][1].startswith("3 more images of samples that have one already, such as 1.seg.png")


def test_damage_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files: dict[str, bytes | str] = {"1.png": png(1), "2.png": png(2, 40, 40)[:-300], "3.png": b"", "4.png": png(4)}
    path = write(tmp_path / "x.tar", {**files, "4.cls": "1"})
    images = load_images(path)
    assert [(image.id, image.name) for image in images] == [(0, "x/1"), (1, "x/4")]
    assert [name for name, _ in images.skipped] == ["x/3.png", "x/2"]
    monkeypatch.setattr(folders, "CHECKED", 1)
    images = load_images(path)
    assert [image.name for image in images] == ["x/1", "x/2", "x/4"]
    assert [name for name, _ in images.skipped] == ["x/3.png"]
    with pytest.raises(BadImage, match=r"damaged.*x/2"):
        images["x/2"].pixels()
    path.write_bytes(path.read_bytes() + bytes(512))
    with pytest.raises(BadImage, match=r"changed since.*x/1"):
        images["x/1"].pixels()


def test_a_bad_shard_among_good_ones(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", {"1.png": png(1)})
    (tmp_path / "b.tar").write_bytes(b"no archive" * 200)
    (tmp_path / "c.tar.gz").write_bytes(b"\x1f\x8b")
    write(tmp_path / "d.tar", {"notes.txt": "x"})
    images = load_images(tmp_path)
    assert [image.name for image in images] == ["a/1"]
    assert [name for name, _ in images.skipped] == ["c.tar.gz", "b.tar"]
    with pytest.raises(ConvscopeError, match=r"not a tar archive.*b\.tar"):
        load_images(tmp_path / "b.tar")
    with pytest.raises(ConvscopeError, match="no image in the archive"):
        load_images(tmp_path / "d.tar")


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_a_compressed_archive_is_refused(tmp_path: Path, kind: str) -> None:
    for name in (f"x.tar.{kind}", "x.tar"):
        with tarfile.open(tmp_path / name, f"w:{kind}") as archive:
            archive.addfile(tarfile.TarInfo("1.png"))
        with pytest.raises(ConvscopeError, match=r"compressed.*Next: unpack it once with (gunzip|bunzip2|unxz)"):
            load_images(tmp_path / name)


def test_a_folder_with_images_and_shards(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", {"1.png": png(1)})
    (tmp_path / "2.png").write_bytes(png(2))
    images = load_images(tmp_path)
    assert [image.name for image in images] == ["2.png"]
    assert images.skipped == [("a.tar", "images lie beside it; open it by itself")]
    (tmp_path / "2.png").unlink()
    (tmp_path / "x.parquet").write_bytes(b"")
    with pytest.raises(ConvscopeError, match="tar archives and parquet files"):
        load_images(tmp_path)


# ---- the headers, against tarfile ----


def listed(path: Path) -> list[tuple[str, int, int]]:
    return [(each.name, each.offset, each.size) for each in tar.members(str(path)) if not each.trouble]


def by_tarfile(path: Path) -> list[tuple[str, int, int]]:
    with tarfile.open(path, "r:") as archive:
        return [(info.name.removeprefix("./"), info.offset_data, info.size) for info in archive if info.isreg()]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_same_members_as_tarfile(tmp_path: Path, kind: int) -> None:
    rng = random.Random(kind)
    names = [f"{'d' * rng.randint(1, 99)}/{number}.jpg" for number in range(20)]
    names += ["e" * 90 + "/" + "f" * 60 + ".jpg"]
    if kind != tarfile.USTAR_FORMAT:
        names += ["g" * 300 + ".jpg", "h/" * 200 + "1.jpg", "größe 写真.jpg", "\udcff.jpg"]
    files: dict[str, bytes | str] = {name: rng.randbytes(rng.choice([0, 1, 511, 512, 513, 5000])) for name in names}
    facts = {} if kind == tarfile.USTAR_FORMAT else {"uname": "ü" * 20}
    path = write(tmp_path / "x.tar", files, kind, mtime=1_700_000_000.25 if kind == tarfile.PAX_FORMAT else 17, **facts)
    found = listed(path)
    assert found == by_tarfile(path)
    assert len(found) == len(names)
    content = path.read_bytes()
    assert [content[offset : offset + size] for _, offset, size in found] == list(files.values())


@pytest.mark.parametrize("dialect", ["ustar", "gnu", "posix", "v7", "oldgnu"])
def test_the_same_members_as_the_command(tmp_path: Path, dialect: str) -> None:
    for name in ("a/1.png", "b c/2.png", "b c/deeper/3.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(png(len(name)))
    (tmp_path / "in" / "link.png").symlink_to("a/1.png")
    os.link(tmp_path / "in" / "a/1.png", tmp_path / "in" / "hard.png")
    path = tmp_path / "x.tar"
    subprocess.run(["tar", f"--format={dialect}", "-C", tmp_path / "in", "-cf", path, "."], check=True)
    assert listed(path) == by_tarfile(path)
    images = load_images(path)
    assert len(images) == 3
    assert len(images.skipped) == 2
    assert all("a link in the archive" in reason for _, reason in images.skipped)


def test_an_archive_without_an_end_mark(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tar", {"1.png": png(1), "2.png": png(2)})
    end = max(offset + -(-size // 512) * 512 for _, offset, size in by_tarfile(path))
    path.write_bytes(path.read_bytes()[:end])
    images = load_images(path)
    assert len(images) == 2
    assert images.skipped == []


def test_a_size_of_more_than_octal_digits_hold(tmp_path: Path) -> None:
    info = tarfile.TarInfo("1.png")
    info.size = 9 << 30
    header = info.tobuf(tarfile.GNU_FORMAT)
    assert header[124] == 0x80
    path = tmp_path / "x.tar"
    with path.open("wb") as stream:  # a file with a hole: nothing of it is written, or read
        stream.write(header)
        stream.seek(9 << 30, os.SEEK_CUR)
        small = tarfile.TarInfo("2.png")
        small.size = len(png(2))
        stream.write(small.tobuf(tarfile.USTAR_FORMAT) + png(2).ljust(512, b"\0") + bytes(1024))
    images = load_images(path)
    assert [image.name for image in images] == ["x/2"]
    assert images[0].pixels().shape == (4, 6, 3)
    assert images.skipped[0] == ("x/1.png", "the image has 9216.0 MiB; at most 256 MiB are read")


def test_labels_json_is_what_json_says(tmp_path: Path) -> None:
    text = json.dumps({"label": "größe", "bytes": "x" * 5000})
    assert labels_of(tmp_path, ("json", text)) == [(0, "größe")]
