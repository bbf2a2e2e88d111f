from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from convscope.errors import ConvscopeError, UnsafeFile
from convscope.training.batches import Batches, derived_seed
from convscope.training.cifar import read_pickled
from convscope.training.data import CLOTHES, Data, Split, fit_images, load_data
from convscope.training.idx import read_idx
from convscope.training.settings import Settings
from convscope.training.spelling import Input

CIFAR = Path(__file__).parents[4] / "shared" / "data" / "cifar10"


def random_pixels(count, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


# ---- the digits ---------------------------------------------------------------------------------------------------


def test_the_digits_are_split_by_their_pixels_and_always_the_same():
    data = load_data("mnist")
    assert len(data.train) + len(data.held_out) == 5000
    assert data.shape == (1, 28, 28)
    assert data.class_names == tuple("0123456789")
    assert 0.18 < len(data.held_out) / 5000 < 0.23
    assert torch.bincount(torch.cat([data.train.labels, data.held_out.labels])).tolist() == [500] * 10
    assert data.fingerprint == load_data("mnist").fingerprint
    assert data.fingerprint != data.limited(train=100).fingerprint
    kept = {image.numpy().tobytes() for image in data.held_out.images}
    assert not kept & {image.numpy().tobytes() for image in data.train.images}


# ---- IDX ----------------------------------------------------------------------------------------------------------


def idx(array):
    return struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(folder, *, count=7, kept=3, gzipped=True):
    folder.mkdir(parents=True)
    for name, array in {
        "train-images-idx3": random_pixels(count, 6, 5),
        "train-labels-idx1": np.arange(count, dtype=np.uint8) % 10,
        "t10k-images-idx3": random_pixels(kept, 6, 5, seed=1),
        "t10k-labels-idx1": np.arange(kept, dtype=np.uint8),
    }.items():
        content = idx(array)
        path = folder / f"{name}-ubyte{'.gz' if gzipped else ''}"
        path.write_bytes(gzip.compress(content) if gzipped else content)


@pytest.mark.parametrize("gzipped", [True, False])
def test_idx_files_as_torchvision_keeps_them(tmp_path, gzipped):
    write_idx(tmp_path / "data" / "FashionMNIST" / "raw", gzipped=gzipped)
    data = load_data(tmp_path / "data")
    assert (len(data.train), len(data.held_out), data.shape) == (7, 3, (1, 6, 5))
    assert data.class_names == CLOTHES
    assert np.array_equal(data.train.images[:, 0].numpy(), random_pixels(7, 6, 5))
    assert data.train.labels.tolist() == list(range(7))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "can't be read"),
        (b"\x00\x00\x09\x01" + struct.pack(">I", 1) + b"x", "not an IDX file"),
        (b"\x00\x00\x08\x09", "not an IDX file"),
        (idx(np.zeros(3, np.uint8))[:-1], "less"),
        (idx(np.zeros(3, np.uint8)) + b"x", "more"),
        (b"\x00\x00\x08\x04" + b"\xff" * 16, "promises"),
    ],
)
@pytest.mark.parametrize("gzipped", [True, False])
def test_damaged_idx_files_are_refused(tmp_path, content, what, gzipped):
    path = tmp_path / ("a.gz" if gzipped else "a")
    path.write_bytes(gzip.compress(content) if gzipped else content)
    with pytest.raises(ConvscopeError, match=what):
        read_idx(path)


def test_a_gzip_bomb_and_a_damaged_gzip_are_refused(tmp_path):
    bomb = tmp_path / "bomb.gz"
    bomb.write_bytes(gzip.compress(idx(np.zeros(3, np.uint8)) + bytes(30 * 2**20)))
    with pytest.raises(ConvscopeError, match="more in the file"):
        read_idx(bomb)
    bomb.write_bytes(b"not a gzip file at all")
    with pytest.raises(ConvscopeError, match="can't be read"):
        read_idx(bomb)
    bomb.write_bytes(gzip.compress(idx(np.zeros(90, np.uint8)))[:20])
    with pytest.raises(ConvscopeError, match="can't be read"):
        read_idx(bomb)


# ---- CIFAR-10 -----------------------------------------------------------------------------------------------------


def python2_batch(pixels, labels):
    """A batch as CIFAR-10's own files are: protocol 2, written by Python 2, an array as a BINSTRING."""

    def short(text):
        return b"U" + bytes([len(text)]) + text

    def number(value):
        return b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)

    dtype = b"cnumpy\ndtype\nq\x04" + short(b"u1") + b"K\x00K\x01\x87Rq\x05(K\x03" + short(b"|") + b"NNN"
    dtype += b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85" + short(b"b") + b"\x87Rq\x03"
    array += b"(K\x01" + number(pixels.shape[0]) + number(pixels.shape[1]) + b"\x86" + dtype + b"\x89"
    array += b"T" + struct.pack("<I", pixels.size) + pixels.tobytes() + b"tb"
    items = short(b"batch_label") + short(b"training batch 1 of 5") + short(b"labels") + b"]q\x06("
    items += b"".join(number(each) for each in labels) + b"e" + short(b"data") + array
    return b"\x80\x02}q\x00(" + items + b"u."


def test_a_batch_of_cifar_is_read_without_unpickling():
    pixels, labels = random_pixels(5, 3072), [3, 1, 4, 1, 5]
    written = python2_batch(pixels, labels)
    # The fixture is a real pickle: Python itself reads it the same.
    opened = pickle.loads(written, encoding="bytes")  # noqa: S301 - written by this test
    assert np.array_equal(opened[b"data"], pixels)
    for content in (written, pickle.dumps({b"data": pixels, b"labels": labels}, protocol=3)):
        found, classes = read_pickled(content, "data_batch_1")
        assert np.array_equal(found, pixels)
        assert classes.tolist() == labels


class Harmful:
    def __reduce__(self):
        return (print, ("this must never be printed",))


def test_a_pickle_that_would_run_something_is_refused(capsys):
    harmful = [pickle.dumps({b"data": Harmful(), b"labels": [1]}, protocol=protocol) for protocol in (0, 1, 2, 3, 4, 5)]
    harmful.append(b"cos\nsystem\n(S'true'\ntR.")
    harmful.append(b"\x80\x02cbuiltins\neval\n" + b"U\x041+1x\x85R.")
    harmful.append(b"\x80\x02(ios\nsystem\n.")
    for content in harmful:
        with pytest.raises(UnsafeFile):
            read_pickled(content, "data_batch_1")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("seed", range(60))
def test_any_damage_to_a_batch_is_one_clear_error(seed):
    content = bytearray(python2_batch(random_pixels(2, 3072), [1, 2]))
    random = np.random.default_rng(seed)
    for _ in range(3):
        content[random.integers(0, 400 if seed % 2 else len(content))] = random.integers(0, 256)
    if seed % 5 == 0:
        del content[random.integers(1, len(content)) :]
    try:
        pixels, labels = read_pickled(bytes(content), "data_batch_1")
    except ConvscopeError:
        return
    assert pixels.shape == (len(labels), 3072)


@pytest.mark.parametrize("version", ["bin", "py"])
def test_cifars_batches_from_a_folder(tmp_path, version):
    folder = tmp_path / f"cifar-10-batches-{version}"
    folder.mkdir()
    expected = []
    for number, name in enumerate([*(f"data_batch_{each}" for each in range(1, 6)), "test_batch"]):
        pixels, labels = random_pixels(2, 3072, seed=number), [number, 9]
        expected.append(pixels)
        rows = np.concatenate([np.array(labels, np.uint8)[:, None], pixels], axis=1)
        content = rows.tobytes() if version == "bin" else python2_batch(pixels, labels)
        (folder / f"{name}{'.bin' if version == 'bin' else ''}").write_bytes(content)
    for place in (folder, tmp_path):
        data = load_data(place)
        assert np.array_equal(data.train.images.reshape(10, -1).numpy(), np.concatenate(expected[:5]))
        assert data.held_out.labels.tolist() == [5, 9]
        assert data.shape == (3, 32, 32)
        assert data.class_names[0] == "airplane"
    (folder / ("test_batch.bin" if version == "bin" else "test_batch")).write_bytes(b"\x80\x02}.")
    with pytest.raises(ConvscopeError):
        load_data(folder)


@pytest.mark.skipif(not CIFAR.is_dir(), reason="needs CIFAR-10 as parquet files beside the project")
def test_cifar_from_parquet(tmp_path):
    import pyarrow.parquet

    from convscope.images import load_images

    for name, count in (("train", 40), ("test", 9)):
        with pyarrow.parquet.ParquetFile(CIFAR / f"{name}.parquet") as opened:
            some = next(opened.iter_batches(count))
        pyarrow.parquet.write_table(pyarrow.Table.from_batches([some]), tmp_path / f"{name}.parquet")
    data = load_data(tmp_path)
    assert (len(data.train), len(data.held_out), data.shape) == (40, 9, (3, 32, 32))
    images = load_images(tmp_path / "test.parquet")
    assert np.array_equal(data.held_out.images[7].permute(1, 2, 0).numpy(), images[7].pixels())
    assert data.held_out.labels.tolist() == [image.label for image in images]


# ---- folders of images --------------------------------------------------------------------------------------------


def write_images(folder, names, size=(9, 12)):
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(20):
            pixels = random_pixels(1, *size, 3, seed=hash((name, number)) % 2**31)[0]
            Pillow.fromarray(pixels).save(folder / name / f"{number}.png")


def test_a_folder_of_classes_is_split_by_hash(tmp_path):
    write_images(tmp_path, ["cat", "dog"])
    (tmp_path / "cat" / "broken.png").write_bytes(b"\x89PNG nothing")
    data = load_data(tmp_path, size=(8, 8))
    assert data.class_names == ("cat", "dog")
    assert len(data.train) + len(data.held_out) == 40
    assert data.shape == (3, 8, 8)
    assert [name for name, _ in data.skipped] == ["cat/broken.png"]
    again = load_data(tmp_path, size=(8, 8))
    assert again.fingerprint == data.fingerprint


def test_a_folder_with_a_test_set_of_its_own(tmp_path):
    write_images(tmp_path / "train", ["cat", "dog"], size=(8, 8))
    write_images(tmp_path / "val", ["cat", "dog"], size=(8, 8))
    data = load_data(tmp_path, size=(8, 8))
    assert (len(data.train), len(data.held_out)) == (40, 40)
    exact = random_pixels(1, 8, 8, 3, seed=hash(("cat", 0)) % 2**31)[0]
    assert np.array_equal(data.train.images[0].permute(1, 2, 0).numpy(), exact)


def test_what_cannot_be_trained_on_is_said(tmp_path):
    with pytest.raises(ConvscopeError, match="no such folder"):
        load_data(tmp_path / "nowhere")
    Pillow.new("RGB", (8, 8)).save(tmp_path / "one.png")
    with pytest.raises(ConvscopeError, match="a class for every image"):
        load_data(tmp_path)
    split = Split(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 2]))
    with pytest.raises(ConvscopeError, match="outside the 2 classes"):
        Data(split, split, ("a", "b"), "mine")
    with pytest.raises(ConvscopeError, match="no held-out images"):
        Data(split, split.part(torch.tensor([], dtype=torch.int64)), ("a", "b", "c"), "mine")


def load_as_folder(folder):
    write_images(folder, ["cat", "dog"])
    return folder


def test_data_are_fitted_to_the_network(tmp_path):
    digits = load_data("mnist", train=50, held_out=20)
    assert digits.fitted(Input(24, 24, 1)) is digits
    fitted = digits.fitted(Input(32, 32, 3))
    assert fitted.shape == (3, 32, 32)
    assert torch.equal(fitted.train.images[:, 0], fitted.train.images[:, 2])
    small = digits.fitted(Input(14, 14, 1))
    assert small.shape == (1, 14, 14)
    blocks = digits.train.images.float().unflatten(2, (14, 2)).unflatten(4, (14, 2)).mean(dim=(3, 5))
    assert (small.train.images.float() - blocks).abs().mean() < 8
    with pytest.raises(ConvscopeError, match="2 channels"):
        fit_images(torch.zeros(1, 2, 4, 4, dtype=torch.uint8), 3, (4, 4))
    with pytest.raises(ConvscopeError, match="GiB"):
        load_data("mnist").fitted(Input(512, 512, 3))
    with pytest.raises(ConvscopeError, match="don't fit into memory"):
        load_data(load_as_folder(tmp_path), size=(20_000, 20_000))


# ---- batches ------------------------------------------------------------------------------------------------------


def batches(count=10, rows=6, columns=5, taken=None, seed=0):
    pixels = torch.from_numpy(random_pixels(count, 2, rows, columns))
    split = Split(pixels, torch.arange(count))
    return Batches(split, taken or Input(rows, columns, 2, mean=(0.5, 0.25), std=(0.5, 2.0)), seed)


def test_every_epoch_has_every_image_once_in_an_order_of_its_own():
    made = batches()
    drawn, position = [], 0
    for size in (3, 4, 5, 1, 2, 15):
        indexes, after = made.indexes(position, size if size < 10 else 5)
        drawn += indexes.tolist()
        position = after
    assert position == 20
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10] != drawn[10:]
    one_by_one = [batches().indexes(each, 1)[0].item() for each in range(20)]
    assert one_by_one == drawn
    assert [batches(seed=1).indexes(each, 1)[0].item() for each in range(10)] != drawn[:10]


def test_a_batch_of_everything_begins_an_epoch():
    made = batches()
    for size in (0, 10, 99):
        indexes, after = made.indexes(3, size)
        assert sorted(indexes.tolist()) == list(range(10))
        assert after == 20
        assert made.indexes(10, size)[1] == 20


@pytest.mark.parametrize("fill", ["mean", "edge"])
@pytest.mark.parametrize("taken", [None, Input(4, 4, 2)])
def test_shifted_and_mirrored_images_against_a_slow_loop(fill, taken):
    made = batches(taken=taken)
    rows, columns = made.input.rows, made.input.columns
    settings = Settings(shift=2, flip=True, fill=fill)
    indexes = torch.arange(10)
    found = made.images(indexes, settings, 40)
    assert torch.equal(found, made.images(indexes, settings, 40))
    assert not torch.equal(found, made.images(indexes, settings, 41))
    generator = torch.Generator().manual_seed(derived_seed(0, "augmentation", 40))
    moves = torch.randint(-2, 3, (2, 10, 1), generator=generator)
    mirrored = torch.rand(10, 1, generator=generator) < 0.5
    assert 0 < int(mirrored.sum()) < 10
    plain = made.train.images.double() / 255
    mean, std = (
        torch.tensor(each if isinstance(each, tuple) else (each, each)) for each in (made.input.mean, made.input.std)
    )
    for image in range(10):
        for row in range(rows):
            for column in range(columns):
                source_row = row + (6 - rows) // 2 + int(moves[0, image])
                source_column = (columns - 1 - column) if mirrored[image] else column
                source_column += (5 - columns) // 2 + int(moves[1, image])
                inside = 0 <= source_row < 6 and 0 <= source_column < 5
                source_row, source_column = min(max(source_row, 0), 5), min(max(source_column, 0), 4)
                for channel in range(2):
                    value = (plain[image, channel, source_row, source_column] - mean[channel]) / std[channel]
                    expected = value if inside or fill == "edge" else 0.0
                    assert found[image, channel, row, column].item() == pytest.approx(float(expected), abs=1e-6)


def test_what_training_sees_is_what_the_network_prepares():
    from convscope.training.presets import PRESETS

    data = load_data("mnist", train=30, held_out=5)
    for name in ("lenet5", "linear"):
        definition = PRESETS[name].definition()
        made = Batches(data.train, definition.input, 0).normalized(data.train.images)
        network = definition.network()
        for pixels, seen in zip(data.train.images, made, strict=True):
            assert torch.equal(network.prepare(pixels.permute(1, 2, 0).numpy())[0], seen)


def test_a_derived_seed_is_the_same_for_ever():
    # A snapshot of an older version must go on with the very same images.
    assert derived_seed(0, "order", 0) == 7134422430951335918
    assert derived_seed(7, "augmentation", 12) == 3856481997683144412
    assert derived_seed(1, "order", 0) != derived_seed(0, "order", 0)
    assert 0 <= derived_seed(2**63, "x") < 2**63
