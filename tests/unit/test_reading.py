"""Reading ahead: in order, once each, bounded, in threads that end."""

from __future__ import annotations

import gc
import hashlib
import io
import pickle
import threading
from pathlib import Path  # noqa: TC003 - fixtures are annotated with it
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from convscope.errors import BadImage
from convscope.images import Image, ImageSet, load_images, read_ahead
from convscope.images.origins import BytesOrigin, FileOrigin
from convscope.network.preprocessing import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Iterator

PREPARE = Preprocessing(8, channels=3, mean=0.5, std=0.25).prepare


def png(seed: int, height: int = 9, width: int = 12) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def make_set(count: int) -> ImageSet:
    return ImageSet([Image(number + 5, f"{number}.png", BytesOrigin(png(number))) for number in range(count)])


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("convscope-read")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    gc.collect()
    assert readers() == []


@pytest.mark.parametrize("threads", [0, 1, 2, 7, None])
@pytest.mark.parametrize("ahead", [1, 3, 64])
def test_in_order_with_the_tensor_of_each(threads: int | None, ahead: int) -> None:
    images = make_set(20)
    found = list(read_ahead(images, PREPARE, threads=threads, ahead=ahead))
    assert [each.image.id for each in found] == list(images.ids)
    for image, fingerprint, prepared in found:
        assert fingerprint is not None
        assert isinstance(prepared, torch.Tensor)
        assert fingerprint.hex() == image.fingerprint == hashlib.sha256(image.encoded()).hexdigest()
        assert torch.equal(prepared, PREPARE(image.pixels()))


@pytest.mark.parametrize("threads", [0, 2])
def test_nothing_to_read(threads: int) -> None:
    assert list(read_ahead([], PREPARE, threads=threads)) == []


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_bad_images_come_in_their_place(tmp_path: Path, threads: int) -> None:
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    images = load_images(tmp_path)
    (tmp_path / "1.png").unlink()
    (tmp_path / "3.png").write_bytes(png(99, 30, 30))
    bad = {each.image.name: each for each in read_ahead(images, PREPARE, threads=threads) if bad_one(each)}
    assert list(bad) == ["1.png", "3.png"]
    assert isinstance(bad["1.png"].prepared, BadImage)
    assert "No such file" in bad["1.png"].prepared.what
    assert bad["1.png"].fingerprint is None
    assert "changed" in str(bad["3.png"].prepared)
    assert bad["3.png"].prepared.where == "3.png"  # type: ignore[union-attr]


def bad_one(each: Any) -> bool:
    return isinstance(each.prepared, BadImage)


@pytest.mark.parametrize("threads", [0, 2])
def test_a_damaged_image_has_a_fingerprint(threads: int) -> None:
    content = png(0, 50, 50)[:-500]
    ((_, fingerprint, prepared),) = read_ahead([Image(0, "half.png", BytesOrigin(content))], PREPARE, threads=threads)
    assert fingerprint == hashlib.sha256(content).digest()
    assert isinstance(prepared, BadImage)
    assert prepared.where == "half.png"
    assert str(pickle.loads(pickle.dumps(prepared))) == str(prepared)  # noqa: S301 - our own


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")]
)
def test_an_image_that_memory_doesnt_suffice_for(threads: int, error: Exception) -> None:
    def prepare(pixels: np.ndarray) -> torch.Tensor:
        if pixels.shape[0] == 7:
            raise error
        return PREPARE(pixels)

    images = [Image(n, str(n), BytesOrigin(png(n, 7 if n == 1 else 9))) for n in range(3)]
    found = [each.prepared for each in read_ahead(images, prepare, threads=threads)]
    assert isinstance(found[1], BadImage)
    assert "more memory" in found[1].what
    assert [type(each) for each in found[::2]] == [torch.Tensor] * 2


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_other_errors_are_raised_in_their_turn(threads: int) -> None:
    def prepare(pixels: np.ndarray) -> torch.Tensor:
        if pixels.shape[0] == 7:
            raise RuntimeError("a mistake")
        return PREPARE(pixels)

    images = [Image(n, str(n), BytesOrigin(png(n, 7 if n == 2 else 9))) for n in range(5)]
    reading = read_ahead(images, prepare, threads=threads)
    assert [next(reading).image.id for _ in range(2)] == [0, 1]
    with pytest.raises(RuntimeError, match="a mistake"):
        next(reading)
    assert readers() == []


def test_an_error_of_the_iterable_is_raised_in_its_turn() -> None:
    def images() -> Iterator[Image]:
        yield from make_set(3)
        raise OSError("gone")

    reading = read_ahead(images(), PREPARE, threads=2)
    assert len([next(reading) for _ in range(3)]) == 3
    with pytest.raises(OSError, match="gone"):
        next(reading)


def test_never_further_ahead_than_asked() -> None:
    taken: list[int] = []

    def images() -> Iterator[Image]:
        for image in make_set(30):
            taken.append(image.id)
            yield image

    reading = read_ahead(images(), PREPARE, threads=3, ahead=4)
    for given in range(1, 31):
        next(reading)
        assert len(taken) <= given + 4
    assert list(reading) == []


def test_never_more_bytes_than_asked() -> None:
    at_once, most = 0, 0
    lock = threading.Lock()

    def prepare(pixels: np.ndarray) -> torch.Tensor:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        threading.Event().wait(0.002)
        with lock:
            at_once -= 1
        return PREPARE(pixels)

    # One decoded image takes 8 bytes a pixel; there is room for two, and for the one that is waited for.
    images = [Image(n, str(n), BytesOrigin(png(n, 100, 100))) for n in range(24)]
    encoded = max(len(image.encoded()) for image in images)
    found = list(read_ahead(images, prepare, threads=8, held_bytes=2 * (80_000 + encoded) + 8 * encoded))
    assert [each.image.id for each in found] == list(range(24))
    assert 1 <= most <= 4
    # Less than one image needs is enough to go on.
    assert len(list(read_ahead(images, PREPARE, threads=8, held_bytes=0))) == 24


@pytest.mark.parametrize("ways", ["close", "delete", "never started", "error"])
def test_abandoned(ways: str) -> None:
    reading = read_ahead(make_set(500), PREPARE, threads=4, ahead=8)
    if ways == "never started":
        return
    next(reading)
    assert len(readers()) == 4
    if ways == "close":
        reading.close()
    elif ways == "error":
        with pytest.raises(KeyError):
            reading.throw(KeyError("stop"))
    del reading
    gc.collect()
    assert readers() == []


def test_torch_keeps_its_number_of_threads() -> None:
    before = torch.get_num_threads()
    inside: list[int] = []

    def prepare(pixels: np.ndarray) -> torch.Tensor:
        inside.append(torch.get_num_threads())
        return PREPARE(pixels)

    def later() -> None:
        inside.append(torch.get_num_threads())

    try:
        torch.set_num_threads(3)
        list(read_ahead(make_set(4), prepare, threads=2))
        assert inside == [1] * 4
        assert torch.get_num_threads() == 3
        thread = threading.Thread(target=later)
        thread.start()
        thread.join()
        assert inside[-1] == 3
    finally:
        torch.set_num_threads(before)


class Fragile(torch.utils.data.Dataset[Any]):
    """A dataset that can't stand two threads at once, and raises what it likes."""

    def __init__(self) -> None:
        self.inside = 0
        self.reads: list[int] = []

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Any:
        self.inside += 1
        assert self.inside == 1
        threading.Event().wait(0.001)
        self.inside -= 1
        self.reads.append(index)
        if index == 4:
            raise OSError("broken archive")
        return np.full((9, 9, 3), index, np.uint8), index % 3


def test_a_dataset_is_read_by_one_thread_at_a_time_and_once_an_image() -> None:
    dataset = Fragile()
    found = list(read_ahead(load_images(dataset), PREPARE, threads=4))
    assert isinstance(found[4].prepared, BadImage)
    assert "OSError: broken archive" in found[4].prepared.what
    assert found[4].image.label is None
    del found[4]
    assert [each.image.label for each in found] == [index % 3 for index in range(12) if index != 4]
    assert sorted(dataset.reads) == sorted([*range(12), 4])


# ---- sent to another process ----


def test_sets_can_be_pickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/1.png", "b/2.png", "b/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png(len(name)))
    monkeypatch.chdir(tmp_path.parent)
    images = load_images(tmp_path.name)
    images.skipped.append(("x", "why"))
    added = images.add(png(77), "added")
    read = [image.fingerprint for image in images]
    monkeypatch.chdir("/")
    for some in (images, images[1:], images[[3, 1]]):
        sent = pickle.loads(pickle.dumps(some))  # noqa: S301 - our own
        assert sent.ids == some.ids
        assert [(i.name, i.label, i.label_name) for i in sent] == [(i.name, i.label, i.label_name) for i in some]
        assert [image.fingerprint for image in sent] == [read[number] for number in some.ids]
        assert (sent.classes, sent.skipped, sent.source, sent.location) == (
            some.classes,
            some.skipped,
            some.source,
            some.location,
        )
        assert sent.add(png(78), "another").id == max(some.ids) + 1
    one = pickle.loads(pickle.dumps(added))  # noqa: S301 - our own
    assert (one.id, one.name, one.encoded()) == (3, "added", png(77))


def test_what_was_read_isnt_sent(tmp_path: Path) -> None:
    origins = [FileOrigin(str(tmp_path), f"{n:06}.jpg", 100_000 + n, 10**18 + n) for n in range(1000)]
    images = ImageSet(Image(n, origin.name, origin, n % 10, f"class {n % 10}") for n, origin in enumerate(origins))
    before = pickle.dumps(images)
    for image in images:
        object.__setattr__(image, "_fingerprint", "0" * 64)
    assert pickle.dumps(images) == before
    assert len(before) < 60 * len(images)


def test_a_dataset_is_sent_once_and_without_its_lock() -> None:
    items = [(np.full((4, 4, 3), n, np.uint8), n) for n in range(5)]
    sent = pickle.loads(pickle.dumps(load_images(items)))  # noqa: S301 - our own
    assert [image.label for image in sent] == list(range(5))
    assert len({id(image.origin.items) for image in sent}) == 1
    assert sent[3].pixels().max() == 3
