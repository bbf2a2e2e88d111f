"""Pictures of patches, kept in the study's own Store from session to session, up to a number of bytes."""

from __future__ import annotations

import hashlib
import logging
import threading
from typing import TYPE_CHECKING

import numpy as np

from convscope.errors import ConvscopeError
from convscope.view import Array, Recipe, View, canonical_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from convscope.store import Store

METHOD = "patches"
KIND = "patch_atlas"
LIMIT = 256 << 20

_log = logging.getLogger("convscope")


class PatchCache:
    """Encoded pictures by the digest of what they show; the oldest make room. A read-only store keeps none.

    >>> import tempfile
    >>> from convscope.store import Store
    >>> with tempfile.TemporaryDirectory() as folder, Store.open(folder) as store:
    ...     cache = PatchCache(store, "network")
    ...     cache.put("digest", b"picture")
    ...     cache.get("digest"), cache.get("another")
    (b'picture', None)
    """

    def __init__(self, store: Store, network: str, limit: int = LIMIT) -> None:
        self._store = store
        self._network = network
        self._limit = limit
        self._lock = threading.Lock()

    def get(self, digest: str) -> bytes | None:
        """The picture kept under this digest, or None."""
        blob = self._store.get(self._recipe(digest))
        return None if blob is None else View.from_bytes(blob)["encoded"].tobytes()

    def put(self, digest: str, picture: bytes) -> None:
        """Keep a picture. That the disk is full costs the next session a computation, not this one its picture."""
        if not self._store.writable or len(picture) > self._limit:
            return
        arrays = {"encoded": np.frombuffer(picture, np.uint8)}
        view = View(KIND, arrays, {"encoded": ("byte",)}, {}, self._recipe(digest))
        try:
            with self._lock:
                entries = self._store.query(method=METHOD)
                used = sum(entry.size for entry in entries) + len(picture)
                dropped = []
                while used > self._limit and entries:
                    oldest = entries.pop(0)
                    used -= oldest.size
                    dropped.append(oldest.key)
                self._store.replace([view], forget=dropped)
        except ConvscopeError as error:
            _log.warning("a picture of patches couldn't be stored: %s", error)

    def _recipe(self, digest: str) -> Recipe:
        return Recipe(METHOD, parameters={"shows": digest}, network=self._network)


def digest_of(images: Array, boxes: Array, facts: Mapping[str, Any]) -> str:
    """What names a picture: which images, which boxes, and everything else that decides its pixels."""
    digest = hashlib.sha256(canonical_json(dict(facts)).encode())
    for each in (images, boxes):
        digest.update(f"{each.shape} ".encode())
        digest.update(np.ascontiguousarray(each, np.int64).tobytes())
    return digest.hexdigest()


__all__ = ["LIMIT", "PatchCache", "digest_of"]
