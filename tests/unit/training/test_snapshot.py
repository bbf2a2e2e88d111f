from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from convscope.errors import ConvscopeError, Refused, UnsafeFile
from convscope.training.settings import OPTIMIZERS
from convscope.training.snapshot import Snapshot
from convscope.view import canonical_json

from .learning import EVERYTHING, PLAIN, same_state, small_data, small_learner


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", ["constant", "one_cycle"])
def test_a_run_goes_on_bit_by_bit(optimizer, schedule, tmp_path):
    settings = {"optimizer": optimizer, "schedule": schedule, "weight_decay": 0.01, "l1": 0.001, "batch_size": 7}
    data = small_data()
    through, stopped = (small_learner(EVERYTHING, data=data, seed=5, **settings) for _ in range(2))
    for _ in range(9):
        through.step()
        stopped.step()
    Snapshot.of(stopped).save(tmp_path / "a.safetensors")
    stopped.step()  # what happens after the snapshot doesn't matter
    again = Snapshot.open(tmp_path / "a.safetensors").learner(data)
    assert (again.steps, again.examples, again.position) == (9, 63, 63)
    for _ in range(12):
        first, second = through.step(frame=True), again.step(frame=True)
        assert first.loss == second.loss
        assert first.rate == second.rate
        assert torch.equal(first.frame.maps["input"], second.frame.maps["input"])
        assert torch.equal(first.frame.maps["dropout1"], second.frame.maps["dropout1"])
    assert same_state(through, again)
    assert Snapshot.of(through).to_bytes() == Snapshot.of(again).to_bytes()


def test_a_snapshot_taken_before_the_first_step():
    data = small_data()
    learner = small_learner(data=data)
    again = Snapshot.from_bytes(Snapshot.of(learner).to_bytes()).learner(data)
    assert again.step().loss == learner.step().loss


def test_equal_snapshots_have_equal_bytes_and_survive_them():
    learner = small_learner(optimizer="adam")
    learner.step()
    content = Snapshot.of(learner).to_bytes()
    assert content == Snapshot.of(learner).to_bytes()
    assert Snapshot.from_bytes(content).to_bytes() == content


def test_a_snapshot_is_a_copy():
    learner = small_learner(optimizer="adam")
    learner.step()
    snapshot = Snapshot.of(learner)
    before = snapshot.to_bytes()
    learner.step()
    assert snapshot.to_bytes() == before
    resumed = snapshot.learner(small_data())
    resumed.step()
    assert snapshot.to_bytes() == before


def test_other_data_are_refused():
    with pytest.raises(Refused, match="aren't the images"):
        Snapshot.of(small_learner()).learner(small_data(seed=1))


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    learner = small_learner()
    path = tmp_path / "a.safetensors"
    Snapshot.of(learner).save(path)
    learner.step()
    Snapshot.of(learner).save(path)
    assert Snapshot.open(path).steps == 1
    assert [each.name for each in tmp_path.iterdir()] == ["a.safetensors"]
    with pytest.raises(ConvscopeError, match="can't be written"):
        Snapshot.of(learner).save(tmp_path / "nowhere" / "a.safetensors")
    with pytest.raises(ConvscopeError, match="can't be read"):
        Snapshot.open(tmp_path / "b.safetensors")


# ---- hostile files ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def content():
    learner = small_learner(PLAIN, optimizer="adam")
    learner.step()
    return Snapshot.of(learner).to_bytes()


def header_of(content):
    size = int.from_bytes(content[:8], "little")
    return json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["convscope"])


def changed(content, header=None, **tensors):
    found = load(content) | tensors
    kept = {name: each for name, each in found.items() if each is not None}
    return bytes(save(kept, metadata={"convscope": canonical_json(header_of(content) | (header or {}))}))


@pytest.mark.parametrize(
    "header",
    [
        {"kind": "maps"},
        {"definition": "- !!python/object:os.system x"},
        {"definition": "- input: {rows: 8, columns: 8}\n- fully_connected: {units: 3}\n- softmax"},
        {"definition": None},
        {"definition": "x" * 10**6},
        {"settings": {"optimizer": "sgd"}},
        {"settings": {"optimizer": "evil"}},
        {"settings": []},
        {"settings": {"learning_rate": "1", "__class__": "x"}},
        {"seed": -1},
        {"seed": 2**80},
        {"steps": 1.5},
        {"steps": True},
        {"position": "9"},
        {"examples": None},
        {"class_names": ["a"]},
        {"class_names": [1, 2, 3]},
        {"class_names": "abc"},
        {"data": {}},
        {"data": {"fingerprint": 3, "source": "", "name": ""}},
        {"name": ["x"]},
    ],
    ids=str,
)
def test_a_header_that_does_not_fit_is_refused(content, header):
    with pytest.raises(ConvscopeError):
        Snapshot.from_bytes(changed(content, header))


@pytest.mark.parametrize(
    "tensors",
    [
        {"weights/conv1.weight": None},
        {"weights/conv1.weight": torch.zeros(4, 2, 3, 4)},
        {"weights/conv1.weight": torch.zeros(4, 2, 3, 3, dtype=torch.float64)},
        {"weights/conv1.weight": torch.zeros(0)},
        {"weights/conv9.weight": torch.zeros(1)},
        {"weights/__class__": torch.zeros(1)},
        {"optimizer/conv1.weight/exp_avg": torch.zeros(3)},
        {"optimizer/conv1.weight/exp_avg": torch.zeros(4, 2, 3, 3, dtype=torch.int64)},
        {"optimizer/conv1.weight/step": torch.zeros(4)},
        {"optimizer/conv1.weight/momentum_buffer": torch.zeros(4, 2, 3, 3)},
        {"optimizer/conv9.weight/exp_avg": torch.zeros(4)},
        {"elsewhere": torch.zeros(1)},
    ],
    ids=str,
)
def test_tensors_that_do_not_fit_are_refused(content, tensors):
    with pytest.raises(UnsafeFile):
        Snapshot.from_bytes(changed(content, **tensors))


def test_a_newer_format_says_so(content):
    with pytest.raises(ConvscopeError, match="upgrade convscope"):
        Snapshot.from_bytes(changed(content, {"format": "2"}))


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\x80\x04cos\nsystem\n",
        b"\xff" * 100,
        b"\x00" * 100,
        (10**12).to_bytes(8, "little") + b"{}",
        b"[" * 90_000,
    ],
    ids=range(6),
)
def test_what_is_no_snapshot_is_refused(bad, tmp_path):
    (tmp_path / "bad").write_bytes(bad)
    with pytest.raises(UnsafeFile):
        Snapshot.open(tmp_path / "bad")


def test_any_damage_is_refused_or_harmless(content):
    random = np.random.default_rng(0)
    header = int.from_bytes(content[:8], "little")
    for number in range(150):
        damaged = bytearray(content)
        for _ in range(2):
            damaged[random.integers(0, header + 8)] = random.integers(0, 256)
        if number % 5 == 0:
            del damaged[random.integers(1, len(damaged)) :]
        try:
            found = Snapshot.from_bytes(bytes(damaged))
        except ConvscopeError:
            continue
        found.to_bytes()


def test_weights_that_are_not_numbers_are_kept(content):
    weight = torch.full((4, 2, 3, 3), float("nan"))
    found = Snapshot.from_bytes(changed(content, **{"weights/conv1.weight": weight}))
    assert found.weights["conv1.weight"].isnan().all()
