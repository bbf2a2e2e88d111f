"""Hostile images: nothing is decoded beyond the limits, nothing outside the allow-list, nothing breaks a set."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zlib
from pathlib import Path  # noqa: TC003 - fixtures are annotated with it
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from convscope.errors import BadImage
from convscope.images import ImageSet, Limits, decode, load_images
from convscope.images.decoding import UPLOADS, size_of


def encoded(picture: Pillow.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that claims any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1 << 20), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def npy(shape: tuple[int, ...], dtype: str, content: bytes = b"", order: bool = False) -> bytes:
    header = repr({"descr": dtype, "fortran_order": order, "shape": shape}).encode()
    header += b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


# Pillow warns of the largest before it is refused; here that warning would be an error, which is refused just as well.
@pytest.mark.parametrize("size", [(9_000, 9_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1)])
def test_a_decompression_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    content = bomb(*size)
    tracemalloc.start()
    try:
        for limits in (UPLOADS, Limits(1 << 30, 64_000_000)):
            with pytest.raises(BadImage):
                decode(content, limits)
            with pytest.raises(BadImage):
                size_of(content, limits)
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_the_limits_hold_exactly() -> None:
    content = encoded(Pillow.new("RGB", (10, 10)))
    assert decode(content, Limits(len(content), 100)).shape == (10, 10, 3)
    with pytest.raises(BadImage, match="10 × 10 pixels"):
        decode(content, Limits(len(content), 99))
    with pytest.raises(BadImage, match="MiB"):
        decode(content, Limits(len(content) - 1, 100))


def test_uploads_have_limits_of_their_own() -> None:
    images = ImageSet([])
    with pytest.raises(BadImage, match="at most 25 million"):
        images.add(bomb(5_001, 5_000), "x.png")
    with pytest.raises(BadImage, match="at most 32 MiB"):
        images.add(bytes((32 << 20) + 1), "x.png")
    assert len(images) == 0


@pytest.mark.parametrize("kind", ["TIFF", "EPS", "PDF", "PPM", "ICO", "TGA", "JPEG2000", "DDS", "PCX"])
def test_another_format_under_an_allowed_name(tmp_path: Path, kind: str) -> None:
    (tmp_path / "good.png").write_bytes(encoded(Pillow.new("RGB", (3, 3))))
    (tmp_path / "evil.png").write_bytes(encoded(Pillow.new("RGB", (16, 16)), kind))
    images = load_images(tmp_path)
    assert [name for name, _ in images.skipped] == ["evil.png"]
    assert "neither JPEG" in images.skipped[0][1]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_every_truncation(kind: str) -> None:
    picture = Pillow.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    content = encoded(picture, kind)
    for length in range(0, len(content) - 1, max(1, len(content) // 60)):
        try:
            pixels = decode(content[:length])
        except BadImage:
            continue
        # Some formats are complete before their last bytes; what decodes has at least the right shape.
        assert pixels.shape == (40, 40, 3), (kind, length)


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "NPY"]),
    flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_damage_gives_pixels_or_a_bad_image(kind: str, flips: list[tuple[int, int]]) -> None:
    picture = Pillow.new("RGB", (12, 12), "orange")
    content = bytearray(npy((12, 12, 3), "|u1", bytes(432)) if kind == "NPY" else encoded(picture, kind))
    for place, value in flips:
        content[place % len(content)] = value
    limits = Limits(1 << 20, 10_000)
    for read in (decode, size_of):
        try:
            read(bytes(content), limits)
        except BadImage:
            continue


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_a_bad_image(content: bytes) -> None:
    for start in (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"GIF89a", b"BM", b"\x93NUMPY\x01\x00"):
        with pytest.raises(BadImage):
            decode(start + content)


@pytest.mark.parametrize(
    "content",
    [
        npy((1 << 20, 1 << 20, 3), "|u1"),
        npy((4, 4, 3), "|O", bytes(384)),
        npy((4, 4, 3), "|u1", bytes(47)),
        npy((4, 4, 3), "|u1", bytes(49)),
        npy((4, -4, 3), "|u1", bytes(48)),
        npy((2, 2, 2, 2), "|u1", bytes(16)),
        npy((), "|u1", b"\0"),
        npy((4, 4), "<c8", bytes(128)),
        npy((4, 4), "<i8", bytes(128)),
        npy((1, 1, 1 << 20), "|u1", bytes(1 << 20)),
        npy((3, 64, 64), "|u1", bytes(3 * 64 * 64)),
        npy((1, 1), "<f4", struct.pack("<f", float("nan"))),
        npy((1, 1), "<f4", struct.pack("<f", 255.0)),
        b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535,
        b"\x93NUMPY\x09\x00",
        b"\x93NUMPY",
    ],
)
def test_hostile_arrays(content: bytes) -> None:
    with pytest.raises(BadImage) as caught:
        decode(content)
    assert caught.value.next_step


def test_an_array_is_never_unpickled(tmp_path: Path) -> None:
    class Gadget:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch '{tmp_path}/canary'",)

    buffer = io.BytesIO()
    np.save(buffer, np.array([[Gadget()]], dtype=object), allow_pickle=True)
    (tmp_path / "x.npy").write_bytes(buffer.getvalue())
    with pytest.raises(BadImage, match="object"):
        load_images(tmp_path)
    assert not (tmp_path / "canary").exists()


def test_links_pipes_devices_and_folders(tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(encoded(Pillow.new("RGB", (3, 3))))
    (tmp_path / "link.png").symlink_to(tmp_path / "good.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "parent").symlink_to(tmp_path)
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    images = load_images(tmp_path)
    assert [image.name for image in images] == ["good.png", "link.png"]
    assert [name for name, _ in images.skipped] == ["device.png", "loop.png", "pipe.png"]


def test_a_pipe_that_takes_a_files_place_doesnt_hang(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(encoded(Pillow.new("RGB", (3, 3))))
    image = load_images(tmp_path)[0]
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BadImage, match="changed"):
        image.pixels()


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there; run on a POSIX system")
def test_names_that_are_not_unicode_or_not_printable(tmp_path: Path) -> None:
    content = encoded(Pillow.new("RGB", (3, 3)))
    for name in (b"\xff\xfe.png", b"new\nline.png", b"\x1b[31mred.png", b"<img onerror=alert(1)>.png"):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as stream:  # noqa: PTH118, PTH123 - bytes
            stream.write(content)
    images = load_images(tmp_path)
    assert len(images) == 4
    for image in images:
        image.name.encode("utf-8")
        assert image.name.isprintable()
        assert image.pixels().shape == (3, 3, 3)


def test_deep_folders_end(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d"] * 100)
    deep.mkdir(parents=True)
    (deep / "x.png").write_bytes(encoded(Pillow.new("RGB", (3, 3))))
    assert len(load_images(tmp_path)) == 1


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's word to the user, and enough
def test_damaged_exif_doesnt_damage_the_picture() -> None:
    content = encoded(Pillow.new("RGB", (40, 20)), "JPEG", exif=b"Exif\0\0II*\0" + b"\xff" * 40)
    assert decode(content).shape == (20, 40, 3)
    assert size_of(content) == (20, 40)


def test_text_bombs_in_a_png() -> None:
    content = encoded(Pillow.new("RGB", (4, 4)))
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(100 << 20), 9))
    place = content.index(b"IDAT") - 4
    with pytest.raises(BadImage):
        decode(content[:place] + text + content[place:])
