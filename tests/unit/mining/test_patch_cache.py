from __future__ import annotations

import numpy as np
import pytest

from convscope.mining.patch_cache import PatchCache, digest_of
from convscope.store import Store


def test_pictures_stay_from_session_to_session(tmp_path):
    with Store.open(tmp_path) as store:
        PatchCache(store, "n").put("a", b"picture")
    with Store.open(tmp_path) as store:
        assert PatchCache(store, "n").get("a") == b"picture"
        assert PatchCache(store, "another network").get("a") is None


def test_the_oldest_make_room(tmp_path):
    with Store.open(tmp_path) as store:
        cache = PatchCache(store, "n", limit=8000)
        for number in range(12):
            cache.put(str(number), bytes([number]) * 1500)
            assert cache.get(str(number)) == bytes([number]) * 1500
        assert cache.get("0") is None
        assert cache.get("11") is not None
        assert sum(entry.size for entry in store.query(method="patches")) <= 8000
        assert sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors")) <= 8000
        cache.put("large", b"x" * 9000)
        assert cache.get("large") is None
        assert cache.get("11") is not None


def test_a_full_disk_or_a_read_only_store_costs_nothing_but_the_cache(tmp_path, monkeypatch, caplog):
    with Store.open(tmp_path) as store:
        cache = PatchCache(store, "n")
        monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        cache.put("a", b"picture")
        assert "couldn't be stored" in caplog.text
        monkeypatch.undo()
        assert cache.get("a") is None
        store.writable = False
        cache.put("a", b"picture")
        assert cache.get("a") is None


@pytest.mark.parametrize("change", ["images", "boxes", "facts"])
def test_whatever_decides_the_pixels_decides_the_digest(change):
    given = {"images": np.zeros((2, 3), np.int32), "boxes": np.ones((2, 3, 4), np.int32), "facts": {"side": 48}}
    before = digest_of(**given)
    assert before == digest_of(**given)
    given[change] = {"side": 49} if change == "facts" else given[change] + 1
    assert digest_of(**given) != before
