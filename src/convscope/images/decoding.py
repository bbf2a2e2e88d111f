"""From an image file's bytes to pixels: an allow-list of formats, and limits that are checked before decoding."""

from __future__ import annotations

import io
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from convscope.errors import BadImage, Cancelled
from convscope.view import Array  # noqa: TC001 - types are checked in tests

try:
    import simplejpeg
except ImportError:  # an extra; without it Pillow gives the same pixels, more slowly
    simplejpeg = None

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO  # checked when tests run, it would ask bytes in memory for a file name

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".npy")
_NPY = b"\x93NUMPY"
_MAXIMUM_CHANNELS = 4096
_BYTES_PER_PIXEL = 8  # four in Pillow, three or four in the array made of it
_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap rows and columns
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Limits:
    """How large an image may be: bytes as it is encoded, and pixels (rows × columns) as it is decoded."""

    encoded_bytes: int
    pixels: int

    def check_bytes(self, size: int) -> None:
        """Raise :class:`BadImage` when an encoded image is too large."""
        if size > self.encoded_bytes:
            raise BadImage(
                f"the image has {size / 2**20:.1f} MiB; at most {self.encoded_bytes / 2**20:.0f} MiB are read",
                next_step="make it smaller",
            )

    def check_pixels(self, height: int, width: int) -> None:
        """Raise :class:`BadImage` when a decoded image would be too large."""
        if height * width > self.pixels:
            raise BadImage(
                f"the image has {width} × {height} pixels; at most {self.pixels / 1e6:.0f} million are decoded",
                next_step="make it smaller",
            )


FILES = Limits(encoded_bytes=256 << 20, pixels=64_000_000)
UPLOADS = Limits(encoded_bytes=32 << 20, pixels=25_000_000)


def size_of(encoded: bytes | BinaryIO, limits: Limits = FILES) -> tuple[int, int]:
    """(height, width) in pixels, upright, from the header alone; raises :class:`BadImage` as :func:`decode` does.

    Of a file that is open, little more than the header is read.
    """
    stream: BinaryIO = io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    limits.check_bytes(size)
    start = stream.read(len(_NPY))
    stream.seek(0)
    if start == _NPY:
        shape = _npy_header(stream, size, limits)[0]
        return shape[0], shape[1]
    with _opened(stream, limits) as picture:
        width, height = picture.size
        # Asked for what a PNG may say behind its pixels, Pillow decodes them first.
        plain = picture.format == "PNG" and not _says_more(stream, size)
        return (height, width) if plain or _orientation(picture) not in _TURNED else (width, height)


def _says_more(stream: BinaryIO, size: int) -> bool:
    """Whether a PNG has a chunk that may hold EXIF or XMP, before or behind its pixels."""
    place = 8
    while place + 8 <= size:
        stream.seek(place)
        head = stream.read(8)
        if head[4:] in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
            return True
        place += 12 + int.from_bytes(head[:4], "big")
    return False


def decode(
    encoded: bytes,
    limits: Limits = FILES,
    *,
    at_least: int | None = None,
    admit: Callable[[int], None] | None = None,
) -> Array:
    """Pixels ``[row, column, channel]``: uint8, or float32 in 0..1 for ``.npy`` arrays of floating point.

    Pictures have 3 channels (RGB), or 4 where something is transparent (RGBA); the first frame of an animation;
    upright, whatever way the camera was held. ``at_least`` allows a JPEG to be decoded at a fraction of its size, no
    smaller than that on either side. ``admit`` is called with about the number of bytes that decoding will take, before
    it does; it may wait until there is room.

    Raises :class:`BadImage` for what isn't one of JPEG, PNG, WEBP, GIF, BMP and NPY, is damaged, or is above the
    limits, which are checked against the header before anything is decoded.

    >>> buffer = io.BytesIO()
    >>> Pillow.new("L", (3, 2), 200).save(buffer, "PNG")
    >>> decode(buffer.getvalue()).shape
    (2, 3, 3)
    """
    limits.check_bytes(len(encoded))
    if encoded.startswith(_NPY):
        if admit is not None:
            admit(2 * len(encoded))
        return _decode_npy(encoded, limits)
    with _opened(io.BytesIO(encoded), limits, admit) as picture:
        if at_least is not None:
            picture.draft(None, (at_least, at_least))
        elif (pixels := _plain_jpeg(encoded, picture)) is not None:
            return pixels
        picture.load()
        turned = _orientation(picture) != 1
        return picture_pixels(ImageOps.exif_transpose(picture) if turned else picture)


def _plain_jpeg(encoded: bytes, picture: Pillow.Image) -> Array | None:
    """An upright JPEG of one or three components by simplejpeg, where it is installed; None leaves it to Pillow.

    Both are libjpeg-turbo with its exact transform, so the pixels are the same; simplejpeg saves two copies of them and
    lets other threads work. Pillow alone judges what is damaged: the least warning, and it decodes the image anew.
    """
    if simplejpeg is None or picture.format != "JPEG" or picture.mode not in ("RGB", "L"):
        return None
    if _orientation(picture) != 1:
        return None
    try:
        # Memory is taken for the size that simplejpeg finds, so it has to be the one that was checked.
        if simplejpeg.decode_jpeg_header(encoded)[:2] != (picture.height, picture.width):
            return None
        pixels: Array = simplejpeg.decode_jpeg(encoded, "RGB", strict=True)
    except ValueError:
        return None
    return pixels


def picture_pixels(picture: Pillow.Image) -> Array:
    """A Pillow image of any mode as uint8 RGB, or RGBA where something is transparent."""
    if picture.mode.startswith("I"):  # 16-bit grey, which Pillow's own conversion would clip at 255
        wide = np.asarray(picture).astype(np.int64).clip(0, 65535)
        grey = ((wide * 255 + 32767) // 65535).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    transparent = "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA", "La", "RGBa")
    mode = "RGBA" if transparent else "RGB"
    pixels = np.array(picture if picture.mode == mode else picture.convert(mode))
    opaque = transparent and bool((pixels[:, :, 3] == 255).all())
    return np.ascontiguousarray(pixels[:, :, :3]) if opaque else pixels


def check_array(pixels: Array) -> Array:
    """An array as pixels ``[row, column, channel]``, uint8 or float32 in 0..1; raises :class:`BadImage` if it isn't."""
    _check_shape(pixels.shape)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    if pixels.dtype.kind != "f":
        raise BadImage(
            f"an array of {pixels.dtype}", next_step="save uint8, or floating point in 0..1, [row, column, channel]"
        )
    values = np.ascontiguousarray(pixels, dtype=np.float32)
    if not (values.min() >= 0.0 and values.max() <= 1.0):  # also true for NaN
        raise BadImage(
            f"floating-point pixels from {values.min():.4g} to {values.max():.4g}",
            next_step="rescale them to 0..1, without the network's mean and std",
        )
    return values


@contextmanager
def _opened(stream: BinaryIO, limits: Limits, admit: Callable[[int], None] | None = None) -> Iterator[Pillow.Image]:
    """The picture, with its size checked and nothing decoded; whatever Pillow raises inside becomes a BadImage."""
    if not stream.read(1):
        raise BadImage("the file is empty", next_step="fetch or save it again")
    stream.seek(0)
    try:
        with Pillow.open(stream, formats=FORMATS) as picture:
            limits.check_pixels(picture.height, picture.width)
            if admit is not None:
                admit(_BYTES_PER_PIXEL * picture.height * picture.width)
            yield picture
    except (BadImage, Cancelled):
        raise
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
        raise BadImage("the image has far too many pixels", next_step="make it smaller") from error
    except MemoryError as error:
        raise BadImage("decoding it takes more memory than there is", next_step="make it smaller") from error
    except UnidentifiedImageError as error:
        raise BadImage(
            "neither JPEG, PNG, WEBP, GIF, BMP nor NPY, whatever its name says", next_step="convert it to PNG"
        ) from error
    except Exception as error:
        # Pillow's decoders raise a dozen kinds for damaged files (SyntaxError, struct.error, zlib.error, …).
        raise BadImage(f"damaged: {str(error)[:120].rstrip('.')}", next_step="fetch or save it again") from error


def _orientation(picture: Pillow.Image) -> int:
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF doesn't damage the picture
        return 1


def _decode_npy(encoded: bytes, limits: Limits) -> Array:
    stream = io.BytesIO(encoded)
    shape, dtype, fortran = _npy_header(stream, len(encoded), limits)
    flat: Array = np.frombuffer(encoded, dtype, offset=stream.tell())
    return check_array(flat.reshape(shape, order="F" if fortran else "C"))


def _npy_header(stream: BinaryIO, size: int, limits: Limits) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    try:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(stream)
    except Exception as error:  # NumPy evaluates the header as Python literals, which fails in many ways
        raise BadImage("damaged, or not a .npy array", next_step="save it again with numpy.save") from error
    if dtype.hasobject or (dtype != np.uint8 and dtype.kind != "f"):
        raise BadImage(
            f"an array of {str(dtype)[:40]}", next_step="save uint8, or floating point in 0..1, [row, column, channel]"
        )
    _check_shape(shape)
    limits.check_pixels(shape[0], shape[1])
    count = shape[0] * shape[1] * (shape[2] if len(shape) == 3 else 1)
    if count * dtype.itemsize != size - stream.tell():
        raise BadImage("the array's size and the file's don't agree", next_step="save it again with numpy.save")
    return shape, dtype, fortran


def _check_shape(shape: tuple[int, ...]) -> None:
    axes = "an image array has the axes row, column, channel"
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise BadImage(axes, where=f"found shape {shape}"[:120], next_step="save one image a file")
    if len(shape) == 3 and (shape[2] > _MAXIMUM_CHANNELS or (shape[0] <= 4 and shape[2] > 32)):
        raise BadImage(axes, where=f"found shape {shape}", next_step="move the channels last: array.transpose(1, 2, 0)")
