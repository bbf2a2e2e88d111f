"""The session's study: what was mined into its store, the pictures behind it, and mining more of it in the background.

Knows no HTTP. A study may also be growing because another process mines into the same folder. What mines is imported
when it is needed: with it comes torch, for which a server that begins to listen doesn't wait.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from convscope.errors import Cancelled, ConvscopeError, Refused
from convscope.progress import watch
from convscope.server.events import StudyEvent
from convscope.store import INDEX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from convscope.images import ImageSet
    from convscope.mining.patches import Mode
    from convscope.mining.pictures import StudyPictures
    from convscope.mining.state import LayerState
    from convscope.mining.study import Study
    from convscope.network.network import Network
    from convscope.server.jobs import Jobs
    from convscope.store import Store
    from convscope.view import Array

MINING = "mining"
"""What the job that mines is called where nobody names it; there is one at a time."""
NEWS_SECONDS = 1.0
_STATES = 6

_log = logging.getLogger("convscope")
_AT_ONCE = 2


@dataclass(frozen=True)
class Patches:
    """Which patches are asked for: units and ranks of one kind of a layer, the tiles' side and what they show.

    A rank that the study hasn't is an empty tile. ``spread`` is the number of ranks that quantiles are spread over:
    that of the View they are shown beside, 0 for all.
    """

    layer: str
    which: str
    units: tuple[int, ...]
    ranks: tuple[int, ...]
    side: int
    mode: Mode
    spread: int = 0


@dataclass(frozen=True, eq=False)
class Wanted:
    """Patches whose images and boxes were looked up; ``digest`` names the picture they make."""

    asked: Patches
    pictures: StudyPictures
    images: Array
    boxes: Array
    digest: str


class Studying:
    """What a session does with the study in its store. ``place`` is the folder as the user named it, "" for none."""

    def __init__(self, store: Store, jobs: Jobs, place: str = "") -> None:
        self.store = store
        self.place = place
        self.failure: ConvscopeError | None = None  # why mining ended early, if it did
        self._name = MINING
        self._pace = 0.0  # seconds an image, where it was measured
        self._jobs = jobs
        self._mining: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        self._states: dict[str, LayerState] = {}
        self._lock = threading.Lock()
        self._cutting = asyncio.Semaphore(_AT_ONCE)

    @property
    def job(self) -> str | None:
        """The name of the job that mines; None when it isn't under way."""
        return self._name if self._mining is not None and not self._mining.done() else None

    def seconds(self, images: int) -> float | None:
        """About how long so many images take, once some were mined in this session."""
        return self._pace * images or None

    def start(self) -> None:
        """Begin to watch for finished shards."""
        self._following = asyncio.ensure_future(self._follow())

    async def close(self) -> None:
        """Stop watching; the job itself ends with all jobs."""
        for task in (self._following, self._mining):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    # ---- what there is -----------------------------------------------------------------------------------------

    def found(self, network: Network, images: ImageSet) -> StudyPictures | None:
        """The study of this network, None where nothing was mined; raises :class:`Refused` for another network's."""
        from convscope.mining.pictures import open_study, plan_digest

        if not plan_digest(self.store):
            return None
        pictures = open_study(str(self.store.path), images)
        if pictures.study.network != network.fingerprint:
            raise Refused(
                "what was mined here is of another network, other weights or another preprocessing",
                where=str((pictures.study.plan.facts or {}).get("network", "")),
                next_step="mine into another folder: open the network with --study FOLDER",
            )
        return pictures

    def required(self, network: Network, images: ImageSet) -> StudyPictures:
        """:meth:`found`, or the refusal that says how to mine."""
        pictures = self.found(network, images)
        if pictures is None:
            raise Refused("nothing was mined here yet", next_step="start mining, or `convscope mine` in a shell")
        return pictures

    def state(self, study: Study, layer: str) -> LayerState:
        """A layer's state, read once for each shard that was finished."""
        from convscope.mining.study import METHOD, recipe

        key = recipe(layer, study.network).key
        entry = next((each for each in self.store.query(method=METHOD, target=layer) if each.key == key), None)
        blob = "" if entry is None else entry.blob
        with self._lock:
            known = self._states.pop(blob, None)
        state = known or study.state(layer)
        with self._lock:
            self._states[blob] = state
            while len(self._states) > _STATES:
                self._states.pop(next(iter(self._states)))
        return state

    # ---- pictures ----------------------------------------------------------------------------------------------

    def want(self, network: Network, images: ImageSet, asked: Patches) -> Wanted:
        """Look up what is asked for; raises with the limits for units and ranks that aren't there."""
        from convscope.mining.patch_cache import digest_of
        from convscope.mining.top_patches import ranked

        pictures = self.required(network, images)
        layer = network.layer(asked.layer)
        state = self.state(pictures.study, layer.address)
        found = ranked(network, layer.address, state, asked.which, asked.spread)
        ranks = found["image"].shape[1]
        for unit in asked.units:
            layer.check_unit(unit)
        place = np.ix_(asked.units, np.minimum(asked.ranks, ranks - 1))
        there = np.array(asked.ranks) < ranks
        shown, boxes = np.where(there, found["image"][place], -1), found["box"][place]
        facts = {
            "side": asked.side,
            "mode": asked.mode,
            "study": pictures.name,
            "preprocessing": network.preprocessing.to_json(),
            "version": 1,
        }
        return Wanted(asked, pictures, shown, boxes, digest_of(shown, boxes, facts))

    async def picture(self, wanted: Wanted) -> bytes:
        """The patches as one encoded picture; stops cutting when cancelled."""
        from convscope.mining.patch_cache import PatchCache

        cache = PatchCache(self.store, wanted.pictures.study.network)
        kept = await asyncio.to_thread(cache.get, wanted.digest)
        if kept is not None:
            return kept
        cancel = threading.Event()

        def cut() -> bytes:
            with watch(lambda _: None, cancel):
                made = wanted.pictures.atlas(wanted.images, wanted.boxes, wanted.asked.side, wanted.asked.mode)
            encoded = made.encode()
            if not made.missing:  # they may come back
                cache.put(wanted.digest, encoded)
            return encoded

        async with self._cutting:
            try:
                return await asyncio.to_thread(cut)
            finally:
                cancel.set()

    # ---- mining ------------------------------------------------------------------------------------------------

    def prepare(
        self, network: Network, images: ImageSet, layers: Sequence[str] | None, k: int | None, *, own_images: bool
    ) -> Callable[[], None] | None:
        """The work of mining, None where it is under way. What can't be mined is refused here and now.

        The images are those of the study, or, where there is none or ``own_images`` is asked for, the session's without
        what was uploaded, which nobody could find again.
        """
        from convscope.images.origins import BytesOrigin
        from convscope.mining.mine import mine
        from convscope.mining.settings import check_k, choose_layers
        from convscope.mining.study import Study

        if self.job is not None:
            return None
        if not self.store.writable:
            raise ConvscopeError("this study is read-only", next_step="open the network with another --study FOLDER")
        if k is not None:
            check_k(k)
        pictures = self.found(network, images)
        chosen = list(choose_layers(network, list(layers))) if layers else None
        if pictures is not None:
            _check(pictures.study, chosen, k)
        if pictures is not None and not own_images:
            source = pictures.images
        else:
            source = images[[image.id for image in images if not isinstance(image.origin, BytesOrigin)]]
        if not len(source):
            raise ConvscopeError(
                "there are no images to mine", next_step="open the network with --images and a folder of them"
            )

        def work() -> None:
            started, before = time.monotonic(), pictures.study.done if pictures is not None else 0
            try:
                size = None if pictures is not None else _shard_size(len(source))
                mine(network, source, layers=chosen, k=k, study=self.store, executor="serial", shard_size=size)
            finally:
                with suppress(ConvscopeError):  # ended before there was a plan
                    done = Study.open(self.store).done - before
                    self._pace = (time.monotonic() - started) / done if done > 0 else self._pace

        return work

    def begin(self, work: Callable[[], None] | None, name: str | None = None) -> None:
        """Start the job under this name, unless it is under way."""
        if work is not None and self.job is None:
            self.failure = None
            self._name = name or MINING
            self._mining = asyncio.ensure_future(self._mine(work))

    async def _mine(self, work: Callable[[], None]) -> None:
        try:
            await self._jobs.run_aside(MINING, work, self._name)
        except Cancelled:
            pass  # somebody's wish, no failure; what was finished is kept
        except ConvscopeError as error:
            self.failure = error
        except Exception as error:
            _log.error("unexpected error while mining", exc_info=error)
            self.failure = ConvscopeError(
                f"something unexpected went wrong: {type(error).__name__}",
                next_step="what is finished is kept; look at the terminal for the details",
            )
        finally:
            await self._tell()

    # ---- news --------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Tell every page when a shard was finished, whichever process finished it."""
        index = self.store.path / INDEX
        changed = _changed(index)
        while True:
            await asyncio.sleep(NEWS_SECONDS)
            if self._jobs.followed and (now := _changed(index)) != changed:
                changed = now
                with suppress(ConvscopeError):
                    await self._tell()

    async def _tell(self) -> None:
        with suppress(ConvscopeError):
            event = await asyncio.to_thread(self._news)
            if event is not None:
                self._jobs.announce(event)

    def _news(self) -> StudyEvent | None:
        from convscope.mining.pictures import open_study, plan_digest

        if not plan_digest(self.store):
            return None
        study = open_study(str(self.store.path)).study
        return StudyEvent(done=study.done, images=study.count, finished=study.finished)


def _shard_size(images: int) -> int:
    """Someone is watching: first results after an eighth of few images, and the usual size for many.

    >>> [_shard_size(images) for images in (12, 1000, 100_000)]
    [32, 125, 256]
    """
    return min(256, max(32, images // 8))


def _check(study: Study, layers: list[str] | None, k: int | None) -> None:
    """What is asked for must be what the study has: a study has one k, and one set of layers."""
    if k is not None and k != study.k:
        raise Refused(f"this study keeps {study.k} patches for each unit, not {k}", next_step=f"go on with k={study.k}")
    if layers is not None and layers != list(study.layers):
        raise Refused(
            f"this study is of {len(study.layers)} layers, others than these",
            next_step="go on with its layers, or open the network with another --study FOLDER",
        )


def _changed(index: Path) -> tuple[int, int]:
    with suppress(OSError):
        facts = index.stat()
        return facts.st_mtime_ns, facts.st_size
    return 0, 0


__all__ = ["MINING", "Patches", "Studying", "Wanted"]
