"""Hostile archives: no number in them is trusted, nothing is unpacked, and there is always an end."""

from __future__ import annotations

import io
import os
import tarfile
import tracemalloc
from pathlib import Path  # noqa: TC003 - fixtures are annotated with it
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from convscope.errors import ConvscopeError
from convscope.images import load_images, tar


def png() -> bytes:
    buffer = io.BytesIO()
    Pillow.fromarray(np.zeros((3, 3, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def member(name: str, content: bytes = b"", kind: bytes = b"0", size: int | None = None, **facts: Any) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(content) if size is None else size
    info.type = kind
    for fact, value in facts.items():
        setattr(info, fact, value)
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


def patched(block: bytes, start: int, content: bytes) -> bytes:
    """A header with other bytes, and the checksum that fits them."""
    header = bytearray(block[:512])
    header[start : start + len(content)] = content
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header) + block[512:]


def record(key: str, value: str) -> bytes:
    text = f" {key}={value}\n"
    length = next(n for n in range(len(text), len(text) + 9) if n == len(str(n)) + len(text))
    return f"{length}{text}".encode()


GOOD = member("good.png", png())
END = bytes(1024)


def load(tmp_path: Path, *parts: bytes) -> Any:
    path = tmp_path / "x.tar"
    path.write_bytes(b"".join(parts))
    return load_images(path)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("link.png", tarfile.SYMTYPE),
        ("hard.png", tarfile.LNKTYPE),
        ("device.png", tarfile.CHRTYPE),
        ("disk.png", tarfile.BLKTYPE),
        ("pipe.png", tarfile.FIFOTYPE),
        ("what.png", b"Q"),
    ],
)
def test_what_is_no_file(tmp_path: Path, name: str, kind: bytes) -> None:
    images = load(tmp_path, member(name, kind=kind, linkname="/etc/passwd"), GOOD, END)
    assert [image.name for image in images] == ["x/good"]
    assert [each for each, _ in images.skipped] == [f"x/{name}"]


@pytest.mark.parametrize("name", ["/etc/x.png", "../x.png", "a/../../x.png", "C:/x.png", "C:\\x.png", "..\\x.png"])
def test_names_that_lead_out(tmp_path: Path, name: str) -> None:
    images = load(tmp_path, member(name, png()), GOOD, END)
    assert [image.name for image in images] == ["x/good"]
    assert images.skipped == [(f"x/{name}", "its name leads out of the archive")]


def test_names_that_cant_be_shown(tmp_path: Path) -> None:
    images = load(tmp_path, member("\x1b[31m\udcff<b>.png", png()), GOOD, END)
    for image in images:
        image.name.encode("utf-8")
        assert image.name.isprintable()
        assert image.pixels().shape == (3, 3, 3)


def test_sparse_members(tmp_path: Path) -> None:
    old = patched(member("old.png", bytes(512), kind=tarfile.GNUTYPE_SPARSE), 482, b"\1")
    more = bytes(504) + b"\0" * 8  # one more block of the map
    pax = member("x", record("GNU.sparse.major", "1") + record("GNU.sparse.name", "s.png"), b"x")
    images = load(tmp_path, old[:512], more, bytes(512), pax, member("p.png", bytes(600)), GOOD, END)
    assert [image.name for image in images] == ["x/good"]
    assert {name for name, _ in images.skipped} == {"x/old.png", "x/s.png"}
    assert all("sparse" in reason for _, reason in images.skipped)


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g"])
@pytest.mark.parametrize("size", [(1 << 20) + 1, 1 << 40, 1 << 80])
def test_a_header_as_large_as_you_like_isnt_read(tmp_path: Path, kind: bytes, size: int) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(patched(member("x", kind=kind), 124, b"\x80" + size.to_bytes(11, "big")))
    os.truncate(path, 4 << 30)  # a hole: the bytes are there, and cost nothing to send
    tracemalloc.start()
    try:
        with pytest.raises(ConvscopeError, match="header"):
            load_images(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "records",
    [
        b"99 path=x.png\n",
        b"0 path=x.png\n",
        b"path=x.png\n",
        b"-9 path=x\n",
        b"12 path=x.png",
        b"13 size=-512\n",
        b"14 size=1e999\n",
        b"999999999999999999999999 path=x\n",
        b"11 no value\n",
        "14 size=١٢٣\n".encode(),
    ],
)
def test_damaged_records(tmp_path: Path, records: bytes) -> None:
    images = load(tmp_path, GOOD, member("x", records, b"x"), member("2.png", png()), END)
    assert [image.name for image in images] == ["x/good"]
    assert [name for name, _ in images.skipped] == ["x"]
    assert "after good.png" in images.skipped[0][1]


@pytest.mark.parametrize(
    "size", [b"\xff" * 12, b"-0000000001\0", b"99999999999\0", b"0x10\0\0\0\0\0\0\0\0", b"\x80" + b"\xff" * 11]
)
def test_sizes_that_are_none(tmp_path: Path, size: bytes) -> None:
    images = load(tmp_path, GOOD, patched(member("2.png"), 124, size), png(), END)
    assert [image.name for image in images] == ["x/good"]
    assert len(images.skipped) == 1


def test_a_size_in_the_records_counts(tmp_path: Path) -> None:
    content = png()
    sizes = member("x", record("size", str(len(content))), b"x")
    images = load(tmp_path, sizes, patched(member("1.png", content), 124, b"00000000000\0"), GOOD, END)
    assert [image.name for image in images] == ["x/1", "x/good"]
    images = load(tmp_path, GOOD, member("x", record("size", str(10**18)), b"x"), member("1.png", content), GOOD)
    assert images.skipped == [("x/1.png", "the archive ends within it")]


def test_what_follows_the_end(tmp_path: Path) -> None:
    for more in (GOOD, b"text" * 128):
        images = load(tmp_path, GOOD, END, more, END)
        assert len(images) == 1
        assert "follows" in images.skipped[0][1]
    assert load(tmp_path, GOOD, END, bytes(10_240)).skipped == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 4000))
def test_every_truncation(tmp_path: Path, length: int) -> None:
    whole = member("1.png", png()) + member("L", b"n" * 200 + b".png\0", b"L") + member("2.png", png()) + END
    length %= len(whole)
    (tmp_path / "x.tar").write_bytes(whole[:length])
    try:
        images = load_images(tmp_path / "x.tar")
    except ConvscopeError as error:
        assert error.next_step  # noqa: PT017 - one or the other
        return
    assert 1 <= len(images) <= 2
    assert all(image.pixels().shape == (3, 3, 3) for image in images)
    assert len(images) == 2 or images.skipped or length <= 1024


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6), st.booleans())
def test_any_damage_ends(tmp_path: Path, flips: list[tuple[int, int]], mend: bool) -> None:
    content = bytearray(member("x", b"18 path=good2.png\n", b"x") + GOOD + member("a/2.png", png()) + GOOD + END)
    for place, value in flips:
        content[place % len(content)] = value
    if mend:  # so that not the checksum alone refuses it
        for start in range(0, len(content) - 512, 512):
            if content[start + 257 : start + 262] == b"ustar":
                content[start : start + 512] = patched(bytes(content[start : start + 512]), 0, b"")
    path = tmp_path / "x.tar"
    path.write_bytes(bytes(content))
    try:
        found = list(tar.members(str(path)))
    except ConvscopeError:
        return
    assert len(found) <= len(content) // 512
    for each in found:
        assert 0 <= each.offset <= each.offset + each.size <= len(content)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=2000))
def test_noise_is_no_archive(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    with pytest.raises(ConvscopeError) as caught:
        load_images(path)
    assert caught.value.next_step


def test_a_pipe_or_a_folder_of_that_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    (tmp_path / "b.tar").mkdir()
    (tmp_path / "c.tar").write_bytes(GOOD + END)
    images = load_images(tmp_path)
    assert [image.name for image in images] == ["c/good"]
    assert images.skipped == [("a.tar", "not a regular file")]
