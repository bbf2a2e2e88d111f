"""Mining: one pass over the images, a shard at a time, merged in whatever order workers finish."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from convscope.errors import BadImage, ConvscopeError, Refused
from convscope.images import ImageSet, load_images
from convscope.images.reading import read_ahead
from convscope.mining.claim import claimed
from convscope.mining.exact import BITS, EXACT_IMAGES, HEADROOM_BITS, SUM_BITS, exponents
from convscope.mining.ranks import LARGEST_IMAGE
from convscope.mining.reduce import numba_is_there
from convscope.mining.settings import SPOT_IMAGES, Grid, Settings, check_k, choose_layers
from convscope.mining.shard import Shard, ShardResult, Work, calibration
from convscope.mining.study import Plan, Study, check_same, commit, find_plan
from convscope.progress import report
from convscope.store import Store

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    from convscope.mining.executors import Executor
    from convscope.mining.state import LayerState
    from convscope.network.network import Network

_CALIBRATED_ON = 16
MESSAGE = "mining"


def mine(
    network: Network,
    images: Any,
    *,
    layers: str | Sequence[str] | None = None,
    k: int | None = None,
    study: str | os.PathLike[str] | Store = "study",
    executor: str | Executor | None = None,
    workers: int | None = None,
    batch_size: int | None = None,
    threads: int | None = None,
    shard_size: int | None = None,
    ray_address: str | None = None,
) -> Study:
    """Find what every unit of the chosen layers responds to most, least and usually, over any number of images.

    ``images`` is an ImageSet or whatever :func:`convscope.load_images` takes. ``layers`` are addresses or globs; None
    is every convolution and linear call, ``*`` every call whose output has units. ``k`` images are ranked for each unit
    (9, or what the study has). ``study`` is the folder (or Store) that the result is written into, shard by shard:
    calling it again goes on where it was stopped, and runs only images that have been added since.

    ``executor`` is "serial", "processes", "ray" or an :class:`Executor`; None takes processes where that helps.
    Results are the same bytes whichever it is and however many ``workers`` there are. ``batch_size`` and ``threads``
    (in one forward pass) belong to the study, because they decide the last bits of an activation; they are chosen when
    it begins, as is ``shard_size``, how many images are at stake when a process is killed.

    Progress is reported in images; what is finished is kept when it is cancelled. Images that can't be read are skipped
    and listed in ``Study.skipped``. Raises :class:`Refused` when the study was begun with another network,
    preprocessing or settings, naming the difference; :class:`ConvscopeError` when no image is left.

    >>> import tempfile
    >>> from torch import nn
    >>> from convscope import Network
    >>> network = Network.from_module(nn.Sequential(nn.Conv2d(1, 2, 3)), image_size=8)
    >>> photos = [np.full((8, 8), shade, np.uint8) for shade in (0, 100, 200)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = mine(network, photos, study=folder, k=2, executor="serial")
    ...     found.state("0").top.image.shape
    (2, 2)
    """
    from convscope.mining.executors import executor_for, refuse_within_worker

    refuse_within_worker()
    pictures = images if isinstance(images, ImageSet) else load_images(images)
    store = study if isinstance(study, Store) else Store.open(study)
    try:
        asked = {"k": k, "batch_size": batch_size, "threads": threads, "shard_size": shard_size}
        with claimed(store):
            plan = _planned(store, network, pictures, layers, {name: value for name, value in asked.items() if value})
            work = Work(network, pictures, _image_ids(plan, pictures), plan.settings)
            run = executor_for(executor, work, workers=workers, ray_address=ray_address)
            return _run(Study(store, plan), work, run)
    except BaseException:
        if store is not study:
            store.close()
        raise


def _run(study: Study, work: Work, executor: Executor) -> Study:
    """Mine what the ledger doesn't name yet, and write every shard as it comes."""
    ledger = study.finished_shards()
    pending = [shard for shard in study.plan.shards() if shard.index not in ledger]
    if not pending:
        report(study.count, study.count, MESSAGE)
        return study
    merged: dict[str, LayerState] = {layer: study.state(layer) for layer in study.layers} if ledger else {}
    done = study.count - sum(len(shard) for shard in pending)
    counter = _Progress(done, study.count)
    counter.tell()
    with closing(executor.run(work, pending, counter.add)) as results:
        for result in results:
            if result.shard.index in ledger:
                continue
            ledger[result.shard.index] = ""
            merged = merge(merged, result.states)
            # Before anything else goes on: a process that is killed has lost no more than the shards at hand.
            commit(study.store, study.network, result, merged)
    if not any(state.images for state in merged.values()):
        raise BadImage(
            "no image could be read", where=_first_reason(study), next_step="give a folder with undamaged images"
        )
    return study


def _first_reason(study: Study) -> str:
    return ": ".join(study.skipped[0]) if study.skipped else ""


def merge(states: dict[str, LayerState], more: Any) -> dict[str, LayerState]:
    """The states of all layers after the images of both."""
    return {layer: states[layer].merge(more[layer]) if layer in states else more[layer] for layer in more}


class _Progress:
    """Images done, told as they are; raises :class:`Cancelled` to whoever does them."""

    def __init__(self, done: int, total: int) -> None:
        self.done, self.total = done, total

    def add(self, images: int) -> None:
        self.done = min(self.done + images, self.total)
        self.tell()

    def tell(self) -> None:
        report(self.done, self.total, MESSAGE)


# ---- the plan --------------------------------------------------------------------------------------------------


def _planned(
    store: Store, network: Network, images: ImageSet, layers: str | Sequence[str] | None, asked: dict[str, int]
) -> Plan:
    """The study's plan: a new one, or the one there is, with images that it doesn't have yet behind the others."""
    facts = _facts(network)
    names = unique_names(images)
    plan = find_plan(store)
    if plan is None:
        settings = _new_settings(network, images, layers, asked)
        plan = Plan(tuple(names), (len(names),), settings, network.fingerprint, images.location, facts)
        store.replace([plan.to_view()])
        return plan
    wanted: dict[str, Any] = dict(asked)
    if layers is not None:
        wanted["layers"] = list(choose_layers(network, layers))
    check_same(plan, network.fingerprint, facts, wanted)
    known = set(plan.names)
    if not known.intersection(names):
        raise Refused(
            "this study is of other images: it has none of these",
            where=plan.location,
            next_step="name another folder with --study",
        )
    added = [name for name in names if name not in known]
    if added:
        plan = plan.extended(added)
        store.replace([plan.to_view()])
    return plan


def _facts(network: Network) -> dict[str, Any]:
    """What a person should know of the network and the arithmetic that a study was made with."""
    return {
        "network": network.name,
        "source": network.source,
        "preprocessing": network.preprocessing.to_json(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if network.device.type == "cuda" else network.device.type,
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def _new_settings(
    network: Network, images: ImageSet, layers: str | Sequence[str] | None, asked: dict[str, int]
) -> Settings:
    accelerated = network.device.type != "cpu"
    defaults = {
        "k": 9,
        "threads": 1,
        "batch_size": 64 if accelerated else 8,
        "shard_size": _shard_size(len(images), EXACT_IMAGES if accelerated else 1024),
    }
    numbers = {**defaults, **asked}
    check_k(numbers["k"])
    if not 1 <= numbers["shard_size"] <= EXACT_IMAGES:
        raise ConvscopeError(f"a shard of {numbers['shard_size']} images", next_step=f"choose 1 to {EXACT_IMAGES}")
    if not 1 <= numbers["batch_size"] <= 4096 or numbers["threads"] < 1:
        raise ConvscopeError("batch_size is 1 to 4096, threads at least 1", next_step="leave them out")
    if len(images) > LARGEST_IMAGE:
        raise Refused(f"{len(images):,} images in one study", next_step=f"mine {LARGEST_IMAGE:,} at most")
    chosen = choose_layers(network, layers)
    first = _first_images(network, images)
    measured = calibration(network, chosen, first, numbers["threads"])
    grids = {
        layer: Grid(exponents(pooled, BITS), exponents(square, SUM_BITS, 2 * HEADROOM_BITS))
        for layer, (pooled, square) in measured.items()
    }
    return Settings(
        layers=chosen,
        spot_stride=max(1, len(images) // SPOT_IMAGES),
        reduction="numba" if numba_is_there() and not accelerated else "torch",
        grids=grids,
        **numbers,
    )


def _shard_size(images: int, largest: int) -> int:
    """Small enough that workers share a small set and first results come soon, large enough that writing is cheap.

    >>> [_shard_size(images, 1024) for images in (10, 300, 1000, 2000, 100_000)]
    [64, 150, 256, 500, 1024]
    """
    return max(64, min(max(images // 4, 256), (images + 1) // 2, largest))


def _first_images(network: Network, images: ImageSet) -> torch.Tensor:
    """Up to 16 prepared images from the start of the set, for the grids."""
    found: list[torch.Tensor] = []
    error: BadImage | None = None
    with closing(read_ahead(images, network.preprocessing.prepare, threads=1, ahead=4)) as reading:
        for each in reading:
            if isinstance(each.prepared, BadImage):
                error = error or each.prepared
                continue
            found.append(each.prepared)
            if len(found) == _CALIBRATED_ON:
                break
    if not found:
        raise error or BadImage("there are no images", next_step="give a folder with images")
    return torch.stack(found)


def unique_names(images: Iterable[Any]) -> list[str]:
    """Each image's name; one that occurs again gets its number, so that a name means one image.

    >>> from collections import namedtuple
    >>> Named = namedtuple("Named", "name")
    >>> unique_names([Named("a.jpg"), Named("b.jpg"), Named("a.jpg")])
    ['a.jpg', 'b.jpg', 'a.jpg (2)']
    """
    seen: Counter[str] = Counter()
    names: list[str] = []
    for image in images:
        seen[image.name] += 1
        names.append(image.name if seen[image.name] == 1 else f"{image.name} ({seen[image.name]})")
    return names


def _image_ids(plan: Plan, images: ImageSet) -> np.ndarray[Any, np.dtype[np.int64]]:
    """For each study image its id in the image set, −1 where it isn't there any more."""
    places = dict(zip(unique_names(images), images.ids, strict=True))
    return np.array([places.get(name, -1) for name in plan.names], np.int64)


__all__ = ["Shard", "ShardResult", "merge", "mine", "unique_names"]
