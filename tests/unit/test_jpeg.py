"""The fast JPEG decoder gives Pillow's pixels, and Pillow's verdict."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from convscope.errors import BadImage
from convscope.images import Limits, decode, decoding

simplejpeg = pytest.importorskip("simplejpeg", reason="without it, Pillow is all there is: pip install convscope[fast]")

PHOTOS = sorted(Path(__file__).parents[3].glob("shared/data/imagenet-sample/*.jpg"))


def jpeg(pixels: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise of several scales: every coefficient of the transform is used."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (max(1, height // 8), max(1, width // 8), 3), dtype=np.uint8)
    smooth = np.asarray(Pillow.fromarray(small).resize((width, height), Pillow.Resampling.BICUBIC)).astype(int)
    return (smooth + rng.integers(-20, 21, (height, width, 3))).clip(0, 255).astype(np.uint8)


def by_pillow(content: bytes) -> np.ndarray:
    with Pillow.open(io.BytesIO(content)) as picture:
        return np.array(picture.convert("RGB"))


class Counted:
    """How many images the fast decoder decoded, and what it refused."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.decoded = 0
        real = simplejpeg.decode_jpeg

        def decode_jpeg(*arguments: Any, **options: Any) -> np.ndarray:
            pixels: np.ndarray = real(*arguments, **options)
            self.decoded += 1
            return pixels

        monkeypatch.setattr(simplejpeg, "decode_jpeg", decode_jpeg)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("quality", [5, 50, 95, 100])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (17, 31), (64, 64), (97, 203)])
def test_the_same_pixels(
    size: tuple[int, int], quality: int, progressive: bool, subsampling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    options: dict[str, Any] = {"quality": quality, "progressive": progressive, "optimize": True}
    for content in (
        jpeg(noise(*size), subsampling=subsampling, **options),
        jpeg(noise(*size)[:, :, 0], **options),
        jpeg(noise(*size), subsampling=subsampling, restart_marker_blocks=3, **options),
        jpeg(noise(*size), keep_rgb=True, **options),
        jpeg(noise(*size), comment=b"x" * 600, icc_profile=bytes(1000), **options),
    ):
        pixels = decode(content)
        assert pixels.flags.writeable
        assert np.array_equal(pixels, by_pillow(content))
    assert counted.decoded == 5


def test_other_subsamplings_that_only_simplejpeg_writes() -> None:
    for subsampling in ("444", "422", "420", "440", "411", "Gray"):
        content = simplejpeg.encode_jpeg(np.ascontiguousarray(noise(45, 67)), 80, "RGB", subsampling)
        assert np.array_equal(decode(content), by_pillow(content)), subsampling


@pytest.mark.skipif(not PHOTOS, reason="needs the photos beside the project; any folder of JPEGs will do")
def test_the_same_pixels_of_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    for path in PHOTOS[::20]:
        content = path.read_bytes()
        assert np.array_equal(decode(content), by_pillow(content)), path.name
    assert counted.decoded == len(PHOTOS[::20])


def test_what_is_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    exif = Pillow.Exif()
    exif[0x0112] = 6
    decode(jpeg(noise(20, 30), exif=exif))
    inks = io.BytesIO()
    Pillow.new("CMYK", (8, 8), (0, 255, 255, 0)).save(inks, "JPEG")
    decode(inks.getvalue())
    decode(jpeg(noise(80, 80)), at_least=10)
    with pytest.raises(BadImage, match="truncated"):
        decode(jpeg(noise(80, 80))[:-200])
    with pytest.raises(BadImage, match="million"):
        decode(jpeg(noise(80, 80)), Limits(1 << 20, 6_399))
    assert counted.decoded == 0


def test_memory_is_only_taken_for_the_size_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    content = jpeg(noise(16, 16))
    counted = Counted(monkeypatch)
    monkeypatch.setattr(simplejpeg, "decode_jpeg_header", lambda _: (60_000, 60_000, "YCbCr", "420"))
    assert decode(content).shape == (16, 16, 3)
    assert counted.decoded == 0


@settings(max_examples=300, deadline=None)
@given(
    progressive=st.booleans(),
    flips=st.lists(st.tuples(st.integers(0, 100_000), st.integers(0, 255)), max_size=5),
    cut=st.integers(0, 400),
)
def test_damage_is_judged_the_same(progressive: bool, flips: list[tuple[int, int]], cut: int) -> None:
    content = bytearray(jpeg(noise(24, 24), quality=60, progressive=progressive))
    for place, value in flips:
        content[place % len(content)] = value
    damaged = bytes(content[: len(content) - cut]) if cut % 3 == 0 else bytes(content)
    limits = Limits(1 << 20, 1_000_000)
    outcomes = []
    for fast in (simplejpeg, None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(decoding, "simplejpeg", fast)
            try:
                outcomes.append(decode(damaged, limits).tobytes())
            except BadImage as error:
                outcomes.append(str(error).encode())
    assert outcomes[0] == outcomes[1]
