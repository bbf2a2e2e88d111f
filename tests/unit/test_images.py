"""Image sets: ids that never change, labels, every source, every kind of picture."""

from __future__ import annotations

import hashlib
import io
import sys
from pathlib import Path  # noqa: TC003 - fixtures are annotated with it
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from convscope.errors import BadImage, ConvscopeError, UnknownName
from convscope.images import Image, ImageSet, decode, demo_photos, load_images, thumbnail
from convscope.images.decoding import size_of

RNG = np.random.default_rng(0)


def encoded(picture: Pillow.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int = 4, width: int = 6, channels: int = 3) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)


def png(height: int = 4, width: int = 6) -> bytes:
    return encoded(Pillow.fromarray(noise(height, width)))


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b/2.png", "b/10.png", "a/1.PNG"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png())
    return tmp_path


# ---- sets ----


def test_a_folder_of_classes(folder: Path) -> None:
    (folder / ".hidden.png").write_bytes(png())
    (folder / "a" / "notes.txt").write_text("not a picture")
    images = load_images(folder)
    assert [image.name for image in images] == ["a/1.PNG", "b/10.png", "b/2.png"]
    assert [(image.id, image.label, image.label_name) for image in images] == [(0, 0, "a"), (1, 1, "b"), (2, 1, "b")]
    assert images.classes == ("a", "b")
    assert images.skipped == []
    assert repr(images) == "ImageSet(3 images, 2 classes)"
    assert repr(images[0]) == "Image(0, 'a/1.PNG', a)"


def test_one_subfolder_or_a_loose_image_makes_no_classes(folder: Path) -> None:
    (folder / "loose.png").write_bytes(png())
    assert load_images(folder).classes == ()
    assert load_images(folder)[0].label is None
    assert load_images(folder / "b").classes == ()


def test_other_formats_are_listed_and_damaged_ones_skipped(folder: Path) -> None:
    (folder / "b" / "scan.tiff").write_bytes(b"II*\0")
    (folder / "b" / "zero.png").write_bytes(b"")
    (folder / "b" / "half.png").write_bytes(png(40, 40)[:100])
    images = load_images(str(folder))
    assert len(images) == 3
    assert [image.id for image in images] == [0, 1, 2]
    assert [name for name, _ in images.skipped] == ["b/scan.tiff", "b/zero.png", "b/half.png"]
    assert "convert it" in images.skipped[0][1]


def test_many_images_are_listed_without_being_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from convscope.images import folders, origins

    opened: list[str] = []
    real = origins.read_part

    def read_part(path: str, *arguments: Any) -> bytes:
        opened.append(path)
        return real(path, *arguments)

    monkeypatch.setattr(origins, "read_part", read_part)
    monkeypatch.setattr(folders, "CHECKED", 5)
    (folder / "a" / "half.png").write_bytes(png(40, 40)[:-500])
    (folder / "a" / "zero.png").write_bytes(b"")
    with (folder / "b" / "huge.jpg").open("wb") as huge:
        huge.truncate((256 << 20) + 1)
    assert [name for name, _ in load_images(folder).skipped] == ["a/zero.png", "b/huge.jpg", "a/half.png"]
    assert len(opened) == 4
    monkeypatch.setattr(folders, "CHECKED", 3)
    opened.clear()
    images = load_images(folder)
    assert opened == []
    assert [name for name, _ in images.skipped] == ["a/zero.png", "b/huge.jpg"]
    with pytest.raises(BadImage, match=r"damaged.*a/half\.png") as caught:
        images["a/half.png"].pixels()
    assert caught.value.next_step


def test_files(folder: Path) -> None:
    assert [image.name for image in load_images([folder / "b/2.png", str(folder / "a/1.PNG")])] == ["2.png", "1.PNG"]
    assert load_images(folder / "b/2.png")[0].size == (4, 6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "missing", "no such file"),
        (lambda folder: folder / "notes.txt", "no image could be read"),
        (lambda folder: folder / "empty", "no images in the folder"),
        (lambda _: 7, "can't take images from a int"),
        (lambda _: np.zeros((0, 4, 4, 3)), "empty"),
    ],
)
def test_nothing_to_load(tmp_path: Path, make: Any, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ConvscopeError, match=message) as caught:
        load_images(make(tmp_path))
    assert caught.value.next_step


def test_an_empty_list_is_a_set_to_add_to() -> None:
    images = load_images([])
    assert len(images) == 0
    with pytest.raises(UnknownName, match="the set is empty"):
        images[0]
    assert images.add(png(), "first").id == 0


def test_ids_never_change(folder: Path) -> None:
    images = load_images(folder)
    part = images[1:]
    assert part.ids == (1, 2)
    assert part[2] is images[2]
    assert images[[2, 0]].ids == (2, 0)
    assert images[-1] is images[2]
    assert images["b/2.png"].id == 2
    assert [shard.ids for shard in images.shards(2)] == [(0, 1), (2,)]
    assert images[2] in part
    assert images[0] not in part
    assert load_images(images) is images
    for missing in (3, "b/22.png", 0):
        with pytest.raises(UnknownName) as caught:
            part[missing]
        assert caught.value.next_step


def test_adding(folder: Path) -> None:
    images = load_images(folder)
    new = png()
    added = images.add(new, "../../etc/passwd\n\udcff")
    assert (added.id, len(images), added.label) == (3, 4, None)
    assert "\n" not in added.name
    added.name.encode("utf-8")
    assert images.add(new, "again") is added
    assert images.add((folder / "b/2.png").read_bytes(), "known") is images["b/2.png"]
    with pytest.raises(BadImage, match=r"damaged.*half\.png"):
        images.add(png(50, 50)[:200], "half.png")
    assert len(images) == 4


def test_fingerprints_and_bytes(folder: Path) -> None:
    content = (folder / "b/2.png").read_bytes()
    image = load_images(folder)["b/2.png"]
    assert image.encoded() == content
    assert image.fingerprint == hashlib.sha256(content).hexdigest()


def test_a_file_that_changed_is_not_taken_for_what_it_was(folder: Path) -> None:
    image = load_images(folder)["b/2.png"]
    (folder / "b/2.png").write_bytes(png(9, 9))
    with pytest.raises(BadImage, match=r"changed since.*b/2\.png"):
        image.pixels()
    (folder / "b/2.png").unlink()
    with pytest.raises(BadImage, match="can't be read"):
        image.encoded()


def test_the_demonstrations_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    images = load_images("demo")
    assert [image.name for image in images][:3] == ["chelsea", "coffee", "flower"]
    assert len(images) == 12
    assert {image.pixels().shape[2] for image in images} == {3}
    monkeypatch.setattr(demo_photos, "find_spec", lambda _: None)
    with pytest.raises(ConvscopeError, match=r"pip install 'convscope\[demo\]'"):
        load_images("demo")


# ---- pictures ----


def test_every_mode_of_picture() -> None:
    grey = Pillow.new("L", (2, 2), 77)
    palette = Pillow.new("RGB", (2, 2), (255, 0, 0)).quantize(4)
    assert decode(encoded(grey)).tolist() == [[[77] * 3] * 2] * 2
    assert decode(encoded(Pillow.new("1", (2, 2), 1))).max() == 255
    assert decode(encoded(palette)).shape == (2, 2, 3)
    assert decode(encoded(palette, transparency=0))[0, 0].tolist() == [255, 0, 0, 0]
    assert decode(encoded(Pillow.new("LA", (2, 2), (9, 5))))[0, 0].tolist() == [9, 9, 9, 5]
    assert decode(encoded(Pillow.new("RGBA", (2, 2), (1, 2, 3, 255)))).shape == (2, 2, 3)
    assert decode(encoded(Pillow.new("RGBA", (2, 2), (1, 2, 3, 4))))[0, 0].tolist() == [1, 2, 3, 4]
    cmyk = decode(encoded(Pillow.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert cmyk.shape == (8, 8, 3)
    assert cmyk[4, 4, 0] > 200 > 80 > cmyk[4, 4, 1]


def test_sixteen_bits_keep_their_range() -> None:
    wide = Pillow.fromarray(np.array([[0, 32768, 65535]], np.uint16))
    assert decode(encoded(wide))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_every_format(kind: str) -> None:
    pixels = decode(encoded(Pillow.new("RGB", (6, 4), (200, 100, 50)), kind))
    assert pixels.shape == (4, 6, 3)
    assert pixels[0, 0].tolist() == pytest.approx([200, 100, 50], abs=6)


def test_the_first_frame_of_an_animation() -> None:
    frames = [Pillow.new("RGB", (3, 3), color) for color in ("red", "blue")]
    pixels = decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert pixels[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright(orientation: int) -> None:
    picture = Pillow.new("RGB", (40, 20), "black")
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    content = encoded(picture, "JPEG", exif=exif)
    expected = (40, 20) if orientation >= 5 else (20, 40)
    assert decode(content).shape[:2] == size_of(content) == expected


def test_a_jpeg_decoded_small() -> None:
    content = encoded(Pillow.new("RGB", (800, 400)), "JPEG")
    assert decode(content, at_least=90).shape == (100, 200, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1), (300, 200)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_thumbnails(size: tuple[int, int], mode: str) -> None:
    images = ImageSet([])
    image = images.add(encoded(Pillow.new(mode, size)), "x")
    with Pillow.open(io.BytesIO(thumbnail(image, 96))) as small:
        assert max(small.size) <= 96
        assert min(small.size) >= 1
        assert small.mode == "RGB"
    assert thumbnail(image, 10**9)


# ---- arrays ----


@pytest.mark.parametrize(
    "array",
    [
        noise(),
        noise(channels=1),
        noise(channels=6),
        noise()[:, :, 0],
        noise() / 255,
        (noise() / 255).astype(np.float16),
        np.asfortranarray(noise()),
        (noise() / 255).astype(">f4"),
    ],
)
def test_arrays(tmp_path: Path, array: np.ndarray) -> None:
    (tmp_path / "x.npy").write_bytes(npy(array))
    image = load_images(tmp_path)[0]
    pixels = image.pixels()
    expected = array if array.ndim == 3 else array[:, :, None]
    assert pixels.dtype == (np.uint8 if array.dtype == np.uint8 else np.float32)
    assert np.array_equal(pixels, expected.astype(pixels.dtype))
    assert image.size == (4, 6)
    assert thumbnail(image, 16)


# ---- datasets and parquet ----


class Pairs(torch.utils.data.Dataset[Any]):
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def test_a_torch_dataset() -> None:
    pixels = noise()
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    items = [
        (Pillow.fromarray(pixels), 3),
        (tensor, torch.tensor(2)),
        (tensor / 255, 1),
        (pixels, None),
        {"image": Pillow.fromarray(pixels), "label": 5},
        png(),
        (tensor[:1], "text"),
    ]
    images = load_images(Pairs(items))
    assert [image.label for image in images] == [3, 2, 1, None, 5, None, None]
    assert np.array_equal(images[0].pixels(), pixels)
    assert np.array_equal(images[1].pixels(), pixels)
    assert images[2].pixels() == pytest.approx(pixels / 255, abs=1e-6)
    assert images[6].pixels().shape == (4, 6, 1)
    assert images[0].fingerprint == images[1].fingerprint == images[3].fingerprint != images[2].fingerprint
    assert all(image.size == (4, 6) for image in images)
    for image in images:
        assert np.array_equal(decode(image.encoded()), image.pixels())
        assert thumbnail(image, 8)


def test_a_dataset_with_targets_is_not_read_for_its_labels() -> None:
    dataset = Pairs([None, None])
    dataset.targets = [1, 0]  # type: ignore[attr-defined]
    dataset.classes = ["cat", "dog"]  # type: ignore[attr-defined]
    images = load_images(dataset)
    assert [(image.label, image.label_name) for image in images] == [(1, "dog"), (0, "cat")]
    with pytest.raises(BadImage, match="NoneType"):
        images[0].pixels()


def test_a_normalized_tensor_is_refused() -> None:
    (image,) = load_images([torch.full((3, 4, 4), -1.0)])
    with pytest.raises(BadImage, match="without the network's mean and std"):
        image.pixels()


def test_parquet(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    contents = [png() for _ in range(5)]
    names = '{"info": {"features": {"label": {"names": ["cat", "dog"]}}}}'
    table = pyarrow.table(
        {
            "image": [{"bytes": content, "path": f"{i}.png"} for i, content in enumerate(contents)],
            "label": [0, 1] * 2 + [1],
        }
    ).replace_schema_metadata({"huggingface": names})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet", row_group_size=2)
    pyarrow.parquet.write_table(pyarrow.table({"image": contents[:1]}), tmp_path / "more.parquet")
    images = load_images(tmp_path)
    assert [image.name for image in images][:2] == ["more/0", "train/0"]
    images = load_images(tmp_path / "train.parquet")
    assert [image.encoded() for image in reversed(list(images))] == contents[::-1]
    assert [image.label_name for image in images] == ["cat", "dog", "cat", "dog", "dog"]
    assert images.classes == ("cat", "dog")


def test_parquet_that_doesnt_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1 no PAR1")
    with pytest.raises(ConvscopeError, match="not a parquet file"):
        load_images(path)
    pyarrow.parquet.write_table(pyarrow.table({"picture": [b""]}), path)
    with pytest.raises(ConvscopeError, match="no column 'image'"):
        load_images(path)
    pyarrow.parquet.write_table(pyarrow.table({"image": ["text"]}), path)
    with pytest.raises(BadImage, match="no image bytes"):
        load_images(path)[0].pixels()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConvscopeError, match=r"convscope\[parquet\]"):
        load_images(path)


def test_an_image_is_a_picture_for_networks(folder: Path) -> None:
    from convscope.network.network import Network

    network = Network.from_module(torch.nn.Conv2d(3, 1, 1), image_size=4)
    batch = network.batch(load_images(folder))
    assert batch.tensor.shape == (3, 3, 4, 4)
    assert batch.names == ("a/1.PNG", "b/10.png", "b/2.png")
    assert isinstance(load_images(folder)[0], Image)
