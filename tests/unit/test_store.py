"""Store: what was put comes back byte for byte, or not at all; whatever dies, fails or is damaged in between."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file

from convscope.errors import ConvscopeError
from convscope.store import FORMAT, INDEX, Store
from convscope.view import Recipe, View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from convscope.view import Array


def make_view(seed: int = 0, target: str = "conv1", array: Array | None = None, method: str = "activations") -> View:
    values = np.random.default_rng(seed).normal(size=(2, 3, 3)).astype(np.float32) if array is None else array
    axes = tuple(f"axis {i}" for i in range(values.ndim))
    return View("maps", {"map": values}, {"map": axes}, {}, Recipe(method, {"a": 1}, target, "n" * 64, seed=seed))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened


def blob_files(store: Store) -> list[Path]:
    return sorted((store.path / "objects").glob("??/*.safetensors"))


# ------------------------------------------------------------------------------------------------------------- laws


dtypes = st.sampled_from(["float16", "float32", "int32", "uint8", "bool"])


@given(
    st.lists(
        st.tuples(
            dtypes.flatmap(lambda t: hnp.arrays(t, hnp.array_shapes(min_dims=0, min_side=0, max_side=3))),
            st.text(max_size=8),
            st.integers(0, 3),
        ),
        max_size=6,
    )
)
@settings(max_examples=25, deadline=None)
def test_what_was_put_comes_back_byte_for_byte(drawn: list[tuple[Array, str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        expected: dict[str, bytes] = {}
        with Store.open(folder) as store:
            for array, target, seed in drawn:
                view = make_view(seed, target, array)
                expected[store.put(view)] = view.to_bytes()
        with Store.open(folder) as again:
            assert {key: again.get(key) for key in expected} == expected
            assert len(again) == len(expected)
            assert {entry.key for entry in again.query()} == set(expected)


def test_the_same_view_twice_is_stored_once(store: Store) -> None:
    assert store.put(make_view()) == store.put(make_view())
    assert len(store) == len(blob_files(store)) == 1


def test_the_last_view_of_a_recipe_counts(store: Store) -> None:
    store.put(make_view(array=np.zeros(2)))
    key = store.put(make_view(array=np.ones(2)))
    assert store.get(key) == make_view(array=np.ones(2)).to_bytes()
    assert len(store) == 1


def test_get_takes_a_recipe_too(store: Store) -> None:
    view = make_view()
    assert view.recipe is not None
    assert store.get(view.recipe) is None
    store.put(view)
    assert store.get(view.recipe) == view.to_bytes()


def test_query_matches_exactly_and_keeps_the_order(store: Store) -> None:
    for seed, (method, target) in enumerate([("weights", "a"), ("activations", "a"), ("weights", "b")]):
        store.put(make_view(seed, target, method=method))
    assert [entry.target for entry in store.query(method="weights")] == ["a", "b"]
    assert [entry.method for entry in store.query(target="a")] == ["weights", "activations"]
    assert [entry.target for entry in store.query(kind="maps", network="n" * 64, limit=1)] == ["a"]
    assert store.query(target="' OR 1=1 --") == []
    entry = store.query(target="b")[0]
    assert entry.recipe.key == entry.key
    assert store.get(entry.key) is not None


def test_it_is_readable_with_sqlite3_and_safetensors_alone(store: Store) -> None:
    view = make_view()
    key = store.put(view)
    with sqlite3.connect(store.path / INDEX) as connection:
        blob, recipe = connection.execute("SELECT blob, recipe FROM views WHERE key = ?", (key,)).fetchone()
    connection.close()
    arrays = load_file(store.path / "objects" / blob[:2] / f"{blob}.safetensors")
    np.testing.assert_array_equal(arrays["map"], view["map"])
    assert json.loads(recipe)["method"] == "activations"


def test_many_threads_share_one_store(store: Store) -> None:
    expected = {view.recipe.key: view.to_bytes() for view in map(make_view, range(24)) if view.recipe}

    def work(seed: int) -> bool:
        key = store.put(make_view(seed % 24))
        found = [store.get(other) for other in expected]
        return store.get(key) == expected[key] and all(
            blob in (None, expected[k]) for k, blob in zip(expected, found, strict=True)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(48)))
    assert len(store) == 24


def test_two_stores_on_one_folder_see_each_other(store: Store) -> None:
    with Store.open(store.path) as other:
        key = other.put(make_view())
        assert store.get(key) == make_view().to_bytes()


def test_a_view_without_a_recipe_is_refused(store: Store) -> None:
    with pytest.raises(ConvscopeError, match="has no recipe, so it has no key"):
        store.put(View("maps", {}, {}))


# ------------------------------------------------------------------------------------------------ damage and death


@pytest.mark.parametrize("damage", ["cut", "changed", "emptied", "removed", "a folder"])
def test_a_damaged_file_counts_as_missing_is_said_and_is_replaced(
    store: Store, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    key = store.put(make_view())
    (path,) = blob_files(store)
    blob = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(blob[:-1])
    elif damage == "changed":
        blob[len(blob) // 2] ^= 1
        path.write_bytes(blob)
    elif damage == "emptied":
        path.write_bytes(b"")
    else:
        path.unlink()
        if damage == "a folder":
            path.mkdir()
    with caplog.at_level(logging.WARNING, "convscope"):
        assert store.get(key) is None
    assert "will be computed again" in caplog.text
    if damage == "a folder":
        path.rmdir()
    store.put(make_view())
    assert store.get(key) == make_view().to_bytes()


WRITER = """
import sys
import numpy as np
from convscope.store import Store
from convscope.view import Recipe, View
store = Store.open(sys.argv[1])
print("open", flush=True)
for seed in range(int(sys.argv[2]), 10**6):
    values = np.full(4000 + seed % 7, seed, np.float32)
    view = View("maps", {"map": values}, {"map": ("row",)}, {}, Recipe("kill", {}, seed=seed))
    print(store.put(view), seed, flush=True)
"""


def test_a_killed_writer_leaves_a_store_that_opens_and_is_right(tmp_path: Path) -> None:
    # 25 kills at random moments, one after the other in one store: what was acknowledged is there, nothing is wrong.
    moments = random.Random(0)
    acknowledged: dict[str, int] = {}
    first = 0
    for round_number in range(25):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(first)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        # Every fifth one dies while it opens; the others at some time after that.
        if round_number % 5:
            process.stdout.readline()
        time.sleep(moments.uniform(0, 0.03) if round_number % 5 else moments.uniform(0.1, 0.3))
        process.send_signal(signal.SIGKILL)
        lines = process.communicate()[0].split("\n")[:-1]  # the last line may be cut
        for key, seed in (line.split() for line in lines if line != "open"):
            acknowledged[key] = int(seed)
        with Store.open(tmp_path) as store:
            entries = store.query()
            assert set(acknowledged) <= {entry.key for entry in entries}
            first = max([entry.recipe.seed for entry in entries], default=-1) + 1
            for entry in entries:
                blob = store.get(entry.key)
                assert blob is not None
                assert (View.from_bytes(blob)["map"] == entry.recipe.seed).all()
    assert acknowledged


class InjectedError(OSError):
    """The failure that a test causes."""


CALLS = ("open", "write", "fsync", "replace")


def failing(monkeypatch: pytest.MonkeyPatch, fail_at: int, code: int) -> list[str]:
    """Let the ``fail_at``-th call that writes fail with ``code``; returns the growing list of calls."""
    seen: list[str] = []

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            seen.append(name)
            if len(seen) - 1 == fail_at:
                if name == "write":
                    real(arguments[0], bytes(arguments[1])[:10])  # a full disk takes a part first
                raise InjectedError(code, os.strerror(code))
            return real(*arguments, **keywords)

        return call

    for name in CALLS:
        monkeypatch.setattr(f"convscope.store.os.{name}", wrap(name, getattr(os, name)))
    return seen


def refusal(store: Store, view: View) -> str:
    try:
        store.put(view)
    except ConvscopeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("code", "sentence"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "can't be written to")]
)
def test_whichever_write_fails_nothing_is_lost(tmp_path: Path, code: int, sentence: str) -> None:
    old, new = make_view(1), make_view(2)
    assert new.recipe is not None
    for fail_at in range(100):
        folder = tmp_path / str(fail_at)
        with Store.open(folder) as store:
            kept = store.put(old)
            with pytest.MonkeyPatch.context() as patch:
                seen = failing(patch, fail_at, code)
                said = refusal(store, new)
            finished = len(seen) <= fail_at
            assert finished == (said == "")
            assert finished or sentence in said
            assert list((folder / "temporary").iterdir()) == []
        with Store.open(folder) as again:
            assert again.get(kept) == old.to_bytes()
            assert again.get(new.recipe) == (new.to_bytes() if finished else None)
            again.put(new)
            assert again.get(new.recipe) == new.to_bytes()
        if finished:
            break
    assert fail_at >= 5
    assert {"open", "write", "fsync", "replace"} <= set(seen)


def test_an_index_that_can_not_grow_says_so(store: Store) -> None:
    kept = store.put(make_view())
    (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    said = next(filter(None, (refusal(store, make_view(seed)) for seed in range(1, 1000))))
    assert "the disk is full" in said
    assert "nothing that was stored is lost" in said
    assert store.get(kept) == make_view().to_bytes()


def test_what_a_crash_left_behind_is_removed_when_it_is_old(store: Store) -> None:
    store.put(make_view())
    old, fresh = store.path / "temporary" / "old.tmp", store.path / "temporary" / "fresh.tmp"
    old.write_bytes(b"1")
    fresh.write_bytes(b"1")
    os.utime(old, (0, 0))
    with Store.open(store.path):
        assert [path.name for path in (store.path / "temporary").iterdir()] == ["fresh.tmp"]


# ------------------------------------------------------------------------------------------------------- refusals


def test_a_file_is_not_a_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConvscopeError, match="a store is a folder, and this is a file"):
        Store.open(tmp_path / "file")
    with pytest.raises(ConvscopeError, match="can't open the store"):
        Store.open(tmp_path / "file" / "below")


def test_a_folder_with_other_things_is_not_made_a_store(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(
        ConvscopeError, match=r"has other things in it, like 'holiday.jpg'.*name an empty or a new folder"
    ):
        Store.open(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_an_index_of_another_program_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / INDEX)
    connection.execute("CREATE TABLE views (key TEXT)")
    connection.close()
    with pytest.raises(ConvscopeError, match="SQLite file of another program"):
        Store.open(tmp_path)


def test_a_newer_store_is_refused(store: Store) -> None:
    store._connection.execute(f"PRAGMA user_version = {FORMAT + 1}")
    with pytest.raises(ConvscopeError, match=r"a store of format 2; this convscope reads format 1.*upgrade convscope"):
        Store.open(store.path)


def test_a_damaged_index_is_named_and_rebuilt_from_the_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Store.open(tmp_path) as store:
        keys = [store.put(make_view(seed)) for seed in range(3)]
        damaged = blob_files(store)[0]
    (tmp_path / INDEX).write_bytes(b"no database at all, but long enough to be read as one" * 100)
    with pytest.raises(ConvscopeError, match=r"index.sqlite is damaged.*delete index.sqlite and open the store again"):
        Store.open(tmp_path)
    (tmp_path / INDEX).unlink()
    damaged.write_bytes(b"")
    with Store.open(tmp_path) as store:
        assert sum(store.get(key) is not None for key in keys) == 2
    assert "left out the damaged file" in caplog.text


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder outside pytest's own (which only its owner may enter), and no right to write what isn't ours."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    with Store.open(folder / "store") as store:
        store.put(make_view())
    for path in (folder / "store").rglob("*"):
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    (folder / "store").chmod(0o555)
    folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:  # root may write everywhere
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if user == 0:
            os.seteuid(0)
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755)
        subprocess.run(["rm", "-r", str(folder)], check=True)


def test_a_read_only_folder_is_read_and_not_written(unprivileged: Path) -> None:
    with Store.open(unprivileged / "store") as store:
        assert not store.writable
        assert repr(store).endswith(", read-only)")
        view = make_view()
        assert view.recipe is not None
        assert store.get(view.recipe) == view.to_bytes()
        with pytest.raises(ConvscopeError, match=r"this store is read-only.*choose another folder"):
            store.put(make_view(2))


def test_a_new_store_in_a_read_only_folder_says_so(unprivileged: Path) -> None:
    with pytest.raises(ConvscopeError, match=r"can't open the store: the folder can't be written to"):
        Store.open(unprivileged / "new")


def test_sqlite_is_used_without_a_write_ahead_log(store: Store) -> None:
    # SQLite before 3.51.3 can corrupt a database when its write-ahead log is reset.
    assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert store._connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_replace_is_all_or_nothing_and_leaves_no_file_behind(tmp_path: Path) -> None:
    def made(target: str, value: float) -> View:
        recipe = Recipe("activations", parameters={}, target=target)
        return View("maps", {"map": np.full((1, 2, 2), value)}, {"map": ("unit", "row", "column")}, recipe=recipe)

    with Store.open(tmp_path / "store") as store:
        for round_ in range(5):
            keys = store.replace([made("a", round_), made("b", round_)])
        assert len(store) == 2
        assert [View.from_bytes(store.get(key) or b"").arrays["map"][0, 0, 0] for key in keys] == [4.0, 4.0]
        assert len(list((tmp_path / "store" / "objects").glob("??/*"))) == 2
        nameless = View("maps", {"map": np.zeros((1, 2, 2))}, {"map": ("unit", "row", "column")})
        with pytest.raises(ConvscopeError, match="no recipe"):
            store.replace([made("a", 9.0), nameless])
        assert View.from_bytes(store.get(keys[0]) or b"").arrays["map"][0, 0, 0] == 4.0
        # Two Views of the same bytes share a file, which stays until neither needs it.
        twin = Recipe("activations", parameters={}, target="b")
        store.forget([keys[0], "0" * 64])
        assert store.get(keys[0]) is None
        assert store.get(twin) is not None
        assert len(list((tmp_path / "store" / "objects").glob("??/*"))) == 1


def test_a_view_replaced_by_another_process_while_it_is_read_is_found(tmp_path: Path) -> None:
    recipe = Recipe("activations", parameters={}, target="a")
    axes = {"map": ("unit", "row", "column")}
    with Store.open(tmp_path / "store") as store, Store.open(tmp_path / "store") as other:
        old = store.put(View("maps", {"map": np.zeros((1, 2, 2))}, axes, recipe=recipe))
        before = store._found(old)
        other.put(View("maps", {"map": np.ones((1, 2, 2))}, axes, recipe=recipe))
        find = store._found
        answers = iter([before])
        store._found = lambda key: next(answers, None) or find(key)  # type: ignore[method-assign]
        assert View.from_bytes(store.get(old) or b"").arrays["map"][0, 0, 0] == 1.0
