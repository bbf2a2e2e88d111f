"""A data set as they are: one image in ten is damaged in some way, and others are of every kind that is not.

Exactly the good ones come out, each with its own tensor; the others are listed by name. From a folder, an archive and a
parquet file; whether they are looked at when they are listed or only when they are read.
"""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from functools import cache
from pathlib import Path  # noqa: TC003 - fixtures are annotated with it
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image as Pillow

from convscope.errors import BadImage
from convscope.images import ImageSet, folders, load_images, read_ahead
from convscope.network.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(24, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), resize=28)
GOOD_PLAIN = 160


def encode(picture: Pillow.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(seed: int, height: int = 40, width: int = 50, channels: int = 3) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return pixels[:, :, 0] if channels == 1 else pixels


def npy(array: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb() -> bytes:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))


@cache
def good() -> dict[str, tuple[bytes, np.ndarray]]:
    """Each with the pixels that it has, found without the package."""
    found: dict[str, tuple[bytes, np.ndarray]] = {}
    for number in range(GOOD_PLAIN):
        pixels = noise(number, 30 + number % 20, 30 + number % 31)
        kind = ("PNG", "JPEG", "WEBP", "BMP")[number % 4]
        options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
        content = encode(Pillow.fromarray(pixels), kind, **options)
        if kind == "JPEG":
            pixels = np.asarray(Pillow.open(io.BytesIO(content)))
        found[f"plain_{number:03}.{kind.lower().replace('jpeg', 'jpg')}"] = content, pixels
    pixels = noise(1000)
    found["jpeg_named.png"] = (content := encode(Pillow.fromarray(pixels), "JPEG"), np.asarray(opened(content)))
    found["png_named.jpg"] = encode(Pillow.fromarray(pixels), "PNG"), pixels
    inks = Pillow.fromarray(noise(1001, channels=4), "CMYK")
    content = encode(inks, "JPEG", quality=95)
    found["cmyk.jpg"] = content, np.asarray(opened(content).convert("RGB"))
    wide = np.random.default_rng(5).integers(0, 65536, (40, 50), dtype=np.uint16)
    grey = np.round(wide.astype(np.float64) / 257).astype(np.uint8)
    found["sixteen_bits.png"] = encode(Pillow.fromarray(wide), "PNG"), np.stack([grey] * 3, 2)
    flat = [Pillow.new("RGB", (50, 40), color) for color in ("red", "blue")]
    found["animated.gif"] = encode(flat[0], "GIF", save_all=True, append_images=flat[1:]), np.asarray(flat[0])
    exif = Pillow.Exif()
    exif[0x0112] = 6  # held so that the first column is at the top
    content = encode(Pillow.fromarray(pixels), "JPEG", exif=exif)
    found["turned.jpg"] = content, np.ascontiguousarray(np.rot90(np.asarray(opened(content)), -1))
    found["grey.png"] = encode(Pillow.fromarray(pixels[:, :, 0]), "PNG"), np.repeat(pixels[:, :, :1], 3, 2)
    clear = noise(1002, channels=4)
    alpha = clear[:, :, 3:].astype(np.float64)
    white = np.floor((clear[:, :, :3] * alpha + 255 * (255 - alpha)) / 255 + 0.5)
    found["transparent.png"] = encode(Pillow.fromarray(clear), "PNG"), white.astype(np.uint8)
    content = encode(Pillow.fromarray(pixels), "JPEG", progressive=True, quality=80)
    found["progressive.jpeg"] = content, np.asarray(opened(content))
    found["array.npy"] = npy(pixels), pixels
    return found


def opened(content: bytes) -> Pillow.Image:
    return Pillow.open(io.BytesIO(content))


@cache
def damaged() -> dict[str, bytes]:
    jpeg = encode(Pillow.fromarray(noise(2000)), "JPEG")
    png = encode(Pillow.fromarray(noise(2001)), "PNG")
    tiff = encode(Pillow.fromarray(noise(2002)), "TIFF")
    found = {
        "d_zero.jpg": b"",
        "d_half_jpg.jpg": jpeg[: len(jpeg) // 2],
        "d_half_png.png": png[: len(png) // 2],
        "d_header_only.jpg": jpeg[:20],
        "d_flipped.png": png[:60] + bytes([png[60] ^ 0xFF]) + png[61:],
        "d_text.jpg": b"<html>404 not found</html>",
        "d_zeros.jpg": bytes(5000),
        "d_tiff.png": tiff,
        "d_bomb.png": bomb(),
        "d_half_webp.webp": encode(Pillow.fromarray(noise(2003)), "WEBP")[:200],
        "d_half_gif.gif": encode(Pillow.new("RGB", (50, 40), "red"), "GIF")[:20],
        "d_half_bmp.bmp": encode(Pillow.fromarray(noise(2004)), "BMP")[:1000],
        "d_objects.npy": npy(np.array([[None]], dtype=object), allow_pickle=True),
        "d_nan.npy": npy(np.full((9, 9, 3), np.nan, np.float32)),
        "d_normalized.npy": npy(np.full((9, 9, 3), -1.5, np.float32)),
        "d_wrong_channels.npy": npy(np.zeros((9, 9, 7), np.uint8)),  # a good array that the network can't take
    }
    return {**found, **{f"d_cut_{number}.jpg": jpeg[: 300 + 40 * number] for number in range(3)}}


def as_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def as_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path / "x.tar", "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path / "x.tar"


def as_parquet(path: Path, files: dict[str, bytes]) -> Path:
    rows = [{"bytes": content, "path": name} for name, content in files.items()]
    pyarrow.parquet.write_table(pyarrow.table({"image": rows}), path / "x.parquet", row_group_size=40)
    return path / "x.parquet"


def told(name: str, files: list[str]) -> str:
    """The file that a name in the set is of: x/17 is the 17th row, x/grey the member grey.png."""
    inner = name.removeprefix("x/")
    if name in files:
        return name
    return files[int(inner)] if inner.isdigit() else next(each for each in files if inner in (each, each.split(".")[0]))


@pytest.mark.parametrize("write", [as_folder, as_tar, as_parquet])
@pytest.mark.parametrize("checked", [0, 10_000])
@pytest.mark.parametrize("threads", [0, 3])
def test_exactly_the_good_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any, checked: int, threads: int
) -> None:
    monkeypatch.setattr(folders, "CHECKED", checked)
    whole, broken = good(), damaged()
    assert 0.09 < len(broken) / (len(whole) + len(broken)) < 0.11
    files = {**{name: content for name, (content, _) in whole.items()}, **broken}
    order = sorted(files, key=lambda name: zlib.crc32(name.encode()))
    images = load_images(write(tmp_path, {name: files[name] for name in order}))

    found, bad = {}, {told(name, order) for name, _ in images.skipped}
    for image, fingerprint, prepared in read_ahead(images, PREPROCESSING.prepare, threads=threads):
        name = told(image.name, order)
        assert name not in found
        assert name not in bad
        if isinstance(prepared, BadImage):
            assert prepared.where.startswith(image.name)
            bad.add(name)
        else:
            assert fingerprint is not None
            found[name] = prepared
    assert bad == set(broken)
    assert set(found) == set(whole)
    for name, prepared in found.items():
        assert torch.equal(prepared, PREPROCESSING.prepare(whole[name][1].copy())), name
    assert all(reason for _, reason in images.skipped)


def test_ids_and_names_of_what_is_left(tmp_path: Path) -> None:
    files = {**{name: content for name, (content, _) in good().items()}, **damaged()}
    images = load_images(as_folder(tmp_path, files))
    assert isinstance(images, ImageSet)
    assert list(images.ids) == list(range(len(good()) + 1))
    assert [image.name for image in images] == sorted([*good(), "d_wrong_channels.npy"])
