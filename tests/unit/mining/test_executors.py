"""Executors: the same bytes wherever shards are mined, and nothing left behind, however it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from executor_cases import Faulty, Pictures, alive, children, mined_bytes, small_module, small_network
from PIL import Image as Pillow
from torch import nn

from convscope import Network, load, load_images
from convscope.errors import Cancelled, ConvscopeError, Refused, UnknownName
from convscope.mining import executors, ray_workers
from convscope.mining.executors import Executor, ProcessExecutor, RayExecutor, SerialExecutor, executor_for
from convscope.mining.mine import _image_ids, _new_settings, merge, mine, unique_names
from convscope.mining.parcel import Parcel
from convscope.mining.shard import Shard, Work
from convscope.mining.study import Plan
from convscope.progress import watch
from patience import PATIENCE, SOON

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convscope.mining.study import Study

HERE = Path(__file__).parent
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc; Linux shows what it tests")


def study_of(
    folder: Path, pictures: object, executor: Executor | str | None, *, network: Network | None = None, **more: Any
) -> Study:
    options = {"k": 3, "shard_size": 8, "batch_size": 4, **more}
    return mine(network or small_network(), pictures, study=folder, executor=executor, **options)


# ---- equality ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return mined_bytes(study_of(tmp_path_factory.mktemp("serial"), Pictures(50), SerialExecutor()))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_processes_give_the_serial_bytes(tmp_path: Path, serial: dict[str, bytes], workers: int) -> None:
    assert mined_bytes(study_of(tmp_path, Pictures(50), ProcessExecutor(workers))) == serial


def test_ray_gives_the_serial_bytes_and_is_gone_afterwards(
    tmp_path: Path, serial: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray", reason="Ray isn't installed: pip install 'convscope[ray]'")
    addresses: list[str] = []
    folders: list[Path] = []
    start = ray_workers._start

    def note(ray: Any, folder: str, *rest: Any) -> None:
        start(ray, folder, *rest)
        addresses.append(ray.util.get_node_ip_address())
        folders.append(Path(folder))

    monkeypatch.setattr(ray_workers, "_start", note)
    assert mined_bytes(study_of(tmp_path, Pictures(50), RayExecutor(workers=2))) == serial
    assert addresses == ["127.0.0.1"]
    assert not ray.is_initialized()
    assert not folders[0].exists()


class Shuffled:
    """An executor of one's own: the last shard first, and each of them twice."""

    def run(self, work: Work, shards: Sequence[Any], progress: Any) -> Any:
        serial = SerialExecutor(reading_threads=0)
        return (result for shard in reversed(shards) for result in serial.run(work, [shard, shard], lambda _: None))


def test_any_order_and_duplicates_give_the_same_bytes(tmp_path: Path, serial: dict[str, bytes]) -> None:
    assert isinstance(Shuffled(), Executor)
    assert mined_bytes(study_of(tmp_path, Pictures(50), Shuffled())) == serial


# ---- deaths --------------------------------------------------------------------------------------------------------


def test_a_worker_that_dies_is_replaced_and_its_shard_mined_again(
    tmp_path: Path, serial: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "died"
    monkeypatch.setenv("CONVSCOPE_TEST_MARK", str(mark))
    seen: list[int] = []
    with watch(lambda progress: seen.append(progress.done)):
        study = study_of(tmp_path / "study", Pictures(50, (21,), "once"), ProcessExecutor(2))
    assert mark.exists()
    assert mined_bytes(study) == serial
    assert not study.skipped
    assert seen[-1] == 50


def test_images_that_kill_their_reader_are_found_and_skipped(tmp_path: Path) -> None:
    """Two in one batch; all else is as if they were damaged files."""
    harm = (17, 19)
    study = study_of(tmp_path / "hostile", Pictures(40, harm, "SIGSEGV"), ProcessExecutor(2))
    damaged = study_of(tmp_path / "damaged", Pictures(40, harm, "damaged"), SerialExecutor())
    assert study.finished
    assert [name for name, _ in study.skipped] == [f"item {number}" for number in harm]
    assert {reason for _, reason in study.skipped} == {"reading it crashed a worker (SIGSEGV)"}
    for layer in study.layers:
        assert study.state(layer).to_view().to_bytes() == damaged.state(layer).to_view().to_bytes()


def test_workers_that_die_before_they_begin_end_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "_PROGRAM", "import sys; sys.exit('no such luck')")
    with pytest.raises(ConvscopeError, match="end before they begin: exit code 1: no such luck"):
        study_of(tmp_path, Pictures(20), ProcessExecutor(2))


@linux
def test_cancelled_workers_are_gone_within_a_second_and_finished_shards_stay(tmp_path: Path) -> None:
    before = set(children(os.getpid()))
    started: list[int] = []
    moment = 0.0

    def listen(progress: Any) -> None:
        nonlocal moment
        if progress.done >= 16 and not moment:
            started.extend(set(children(os.getpid())) - before)
            moment = time.monotonic()
            watcher.cancel.set()

    with watch(listen) as watcher, pytest.raises(Cancelled):
        study_of(tmp_path, Pictures(4000), ProcessExecutor(2))
    assert time.monotonic() - moment < SOON
    assert len(started) == 2
    assert not any(alive(each) for each in started)


@linux
def test_workers_end_with_a_driver_that_is_killed_and_the_study_goes_on(
    tmp_path: Path, serial: dict[str, bytes]
) -> None:
    script = f"""
        import sys; sys.path.insert(0, {str(HERE)!r})
        from executor_cases import Faulty, Pictures, small_network
        from convscope.mining.executors import ProcessExecutor
        from convscope.mining.mine import mine
        from convscope.progress import watch
        with watch(lambda progress: print(progress.done, flush=True)):
            mine(small_network(), Pictures(50), study={str(tmp_path)!r}, executor=ProcessExecutor(2), k=3,
                 shard_size=8, batch_size=4)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        while int(driver.stdout.readline()) < 20:
            pass
        workers = children(driver.pid)
        driver.kill()
    assert workers
    deadline = time.monotonic() + 1
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(alive, workers))
    assert mined_bytes(study_of(tmp_path, Pictures(50), SerialExecutor())) == serial


# ---- sending -------------------------------------------------------------------------------------------------------


class Local(nn.Module):
    """Can't be pickled, for what it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small_module()
        self.secret = lambda image: image

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.inner(self.secret(image))
        return scores


def work_of(network: Network, images: object = None) -> Work:
    pictures = load_images(Pictures(12) if images is None else images)
    settings = _new_settings(network, pictures, None, {"k": 2, "batch_size": 4})
    names = tuple(unique_names(pictures))
    plan = Plan(names, (len(names),), settings, network.fingerprint, "", {})
    return Work(network, pictures, _image_ids(plan, pictures), settings)


def reopened(work: Work) -> Work:
    return Parcel.from_bytes(Parcel.pack(work).to_bytes()).open("cpu")


def test_a_parcel_opens_as_what_was_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    work = work_of(small_network())
    again = reopened(work)
    assert again.network.fingerprint == work.network.fingerprint
    assert again.images.ids == work.images.ids
    assert again.settings.to_json() == work.settings.to_json()


def test_a_network_that_cant_be_pickled_is_opened_by_its_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    work = work_of(load("test_executors:Local", image_size=24, weights="random"))
    assert Parcel.pack(work).network is None
    assert reopened(work).network.fingerprint == work.network.fingerprint
    with torch.no_grad():
        work.network.module.inner.fc.bias.add_(1)  # type: ignore[union-attr, operator]
    changed = Network(work.network.module, work.network.preprocessing, source=work.network.source)
    changed.loaded_with = work.network.loaded_with
    with pytest.raises(Refused, match="another network"):
        reopened(replace(work, network=changed))


def test_what_cant_be_sent_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"the network can't be sent to a worker: .*lambda.* Next: define it in a module"):
        study_of(tmp_path, Pictures(8), ProcessExecutor(2), network=Network.from_module(Local(), image_size=24))


def test_an_error_in_a_worker_is_the_drivers_error(tmp_path: Path) -> None:
    network = Network.from_module(Faulty().eval(), image_size=24)
    with pytest.raises(
        ConvscopeError, match=r"a worker failed: LookupError: the network has a bug .*executor=\"serial\""
    ):
        study_of(tmp_path, Pictures(20), ProcessExecutor(2), network=network)


def test_a_worker_that_sees_other_images_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    photo = tmp_path / "photo.png"
    Pillow.new("RGB", (24, 24), "red").save(photo)
    work = work_of(small_network(), [photo])
    parcel = Parcel.pack(work)
    photo.unlink()
    with pytest.raises(Refused, match="doesn't see the images"):
        parcel.open("cpu")


SCRIPT = """
import sys; sys.path.insert(0, {here!r})
from torch import nn
from executor_cases import Faulty, Pictures, mined_bytes
from convscope import Network
from convscope.mining.executors import ProcessExecutor
from convscope.mining.mine import mine

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)
        nn.init.ones_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)
    def forward(self, image):
        return self.conv(image)

def main():
    study = mine(Network.from_module(Own(), image_size=24), Pictures(12), study={study!r}, executor=ProcessExecutor(2),
                 k=2, shard_size=6)
    print("finished", study.finished)

{guard}main()
"""


def run_script(tmp_path: Path, guard: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(here=str(HERE), study=str(tmp_path / "study"), guard=guard))
    return subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=PATIENCE)


def test_a_scripts_own_classes_reach_the_workers(tmp_path: Path) -> None:
    done = run_script(tmp_path, 'if __name__ == "__main__":\n    ')
    assert done.stdout.split() == ["finished", "True"], done.stderr


def test_a_script_without_guard_is_told_what_it_needs(tmp_path: Path) -> None:
    done = run_script(tmp_path, "")
    assert done.returncode == 1
    assert 'put what starts the work under `if __name__ == "__main__":`' in done.stderr


# ---- choosing ------------------------------------------------------------------------------------------------------


def test_names_choose_executors(monkeypatch: pytest.MonkeyPatch) -> None:
    work = work_of(small_network())
    monkeypatch.setattr(executors, "cores", lambda: 4)
    assert isinstance(executor_for("serial", work), SerialExecutor)
    assert isinstance(executor_for("processes", work), ProcessExecutor)
    assert isinstance(executor_for("ray", work), RayExecutor)
    assert isinstance(executor_for(None, work, ray_address="10.0.0.1:6379"), RayExecutor)
    assert isinstance(executor_for(None, work), SerialExecutor)  # 12 images: not worth it
    assert isinstance(executor_for(None, work, workers=2), ProcessExecutor)
    many = work_of(small_network(), Pictures(executors._WORTH_PROCESSES))
    assert isinstance(executor_for(None, many), ProcessExecutor)
    assert isinstance(executor_for(None, replace(many, network=Network.from_module(Local()))), SerialExecutor)
    monkeypatch.setattr(executors, "cores", lambda: 1)
    assert isinstance(executor_for(None, many), SerialExecutor)
    with pytest.raises(UnknownName, match="did you mean processes"):
        executor_for("process", work)
    with pytest.raises(ConvscopeError, match="0 workers"):
        executor_for("processes", work, workers=0)
    with pytest.raises(ConvscopeError, match="2 workers of the serial executor"):
        executor_for("serial", work, workers=2)


def test_ray_is_asked_for_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConvscopeError, match=r"Ray isn't installed\. Next: run `pip install 'convscope\[ray\]'`"):
        study_of(tmp_path, Pictures(8), "ray")


# ---- memory --------------------------------------------------------------------------------------------------------


class Cramped(nn.Module):
    """Runs out of memory in its second layer for more than ``room`` images, as torch says it on GPU and CPU."""

    def __init__(self, room: int, error: Exception) -> None:
        super().__init__()
        self.inner, self.room, self.error = small_module(), room, error
        self.inner.conv2.register_forward_pre_hook(self._check)

    def _check(self, _: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        if len(arguments[0]) > self.room:
            raise self.error

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.inner(image)
        return scores


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] data. DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_too_little_memory_halves_the_batch_with_the_same_result(tmp_path: Path, error: Exception) -> None:
    roomy = Network.from_module(Cramped(10**6, error), image_size=24)
    cramped = Network.from_module(Cramped(10**6, error), image_size=24)
    expected = study_of(tmp_path / "roomy", Pictures(30), SerialExecutor(), network=roomy, batch_size=16)
    work = work_of(cramped, Pictures(30))
    work = replace(work, settings=expected.settings)
    merged, smallest = mined_with_room(cramped, 4, work, expected)
    assert smallest == {4}
    for layer in expected.layers:
        assert merged[layer].to_view().to_bytes() == expected.state(layer).to_view().to_bytes()


def test_batches_below_four_images_change_last_bits_only(tmp_path: Path) -> None:
    """A matrix product of so few rows adds up in another order."""
    network = Network.from_module(Cramped(10**6, MemoryError()), image_size=24)
    expected = study_of(tmp_path, Pictures(30), SerialExecutor(), network=network, batch_size=8)
    work = replace(work_of(network, Pictures(30)), settings=expected.settings)
    merged, smallest = mined_with_room(network, 1, work, expected)
    assert smallest == {1}
    for layer in expected.layers:
        state, wanted = merged[layer], expected.state(layer)
        np.testing.assert_allclose(state.top.value, wanted.top.value, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(state.top.image, wanted.top.image)


def mined_with_room(network: Network, room: int, work: Work, expected: Study) -> tuple[dict[str, Any], set[int]]:
    network.module.room = room  # type: ignore[assignment]
    merged: dict[str, Any] = {}
    smallest = set()
    with closing(SerialExecutor().run(work, expected.plan.shards(), lambda _: None)) as results:
        for result in results:
            merged = merge(merged, result.states)
            smallest.add(result.smallest_batch)
    return merged, smallest


def test_no_memory_for_even_one_image_is_an_error(tmp_path: Path) -> None:
    network = Network.from_module(Cramped(10**6, MemoryError()), image_size=24)
    work = work_of(network, Pictures(8))
    network.module.room = 0  # type: ignore[assignment]
    with pytest.raises(MemoryError):
        list(SerialExecutor().run(work, [Shard(0, 0, 8)], lambda _: None))
