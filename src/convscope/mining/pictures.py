"""The pictures behind a study: from a study's image ids to what the network saw of each.

An image is shown only if it still is the one that was mined: its bytes are compared with the study's fingerprint, so a
file that was replaced is said to be another one instead of being shown under somebody else's value.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from convscope.errors import BadImage, ConvscopeError, Refused, UnknownName
from convscope.images import ImageSet, load_images
from convscope.mining.atlas import Atlas, atlas
from convscope.mining.mine import unique_names
from convscope.mining.patches import Mode, Seen, seen
from convscope.mining.study import METHOD, Study
from convscope.network.preprocessing import Preprocessing
from convscope.store import INDEX

if TYPE_CHECKING:
    from convscope.images import Image
    from convscope.images.origins import Content
    from convscope.store import Store
    from convscope.view import Array, View


KEPT_BYTES = 128 << 20


class StudyPictures:
    """The images of a study, found by name in ``images``, or, where none are given, at the study's location.

    They are looked for when the first one is asked for. Any number of threads may ask.
    """

    def __init__(self, study: Study, images: ImageSet | None = None) -> None:
        self.study = study
        self.preprocessing = Preprocessing(**(study.plan.facts or {})["preprocessing"])
        self._given = images
        self._found: ImageSet | ConvscopeError | None = None
        self._by_name: dict[str, int] = {}
        # Units share their top images: what was decoded for one is there for the next.
        self._kept: OrderedDict[int, Seen] = OrderedDict()
        self._lock = threading.Lock()
        self.name = plan_digest(study.store)

    @property
    def images(self) -> ImageSet:
        """The image set that the pictures are taken from; raises :class:`UnknownName` when it isn't there any more."""
        with self._lock:
            if self._found is None:
                try:
                    self._found = self._given if self._given is not None else _load(self.study.location)
                    self._by_name = dict(zip(unique_names(self._found), self._found.ids, strict=True))
                except ConvscopeError as error:
                    self._found = error
            if isinstance(self._found, ConvscopeError):
                raise UnknownName(
                    f"the study's images aren't there: {self._found.what}",
                    where=self._found.where or self.study.location,
                    next_step="open the study with --images and the folder they are in now",
                )
            return self._found

    def take(self, images: ImageSet) -> None:
        """Find the pictures in this set from now on, if it is of this study's images."""
        with self._lock:
            names = self.study.plan.names
            if self._given is images or len(images) < len(names):
                return
            by_name = dict(zip(unique_names(images), images.ids, strict=True))
            if names[0] in by_name and names[-1] in by_name:
                self._given = self._found = images
                self._by_name = by_name

    def image(self, number: int) -> Image:
        """The image of a study id; raises :class:`UnknownName` when it isn't in the image set any more."""
        if not 0 <= number < self.study.count:
            raise UnknownName(f"the study has no image {number}", next_step=f"the ids are 0 to {self.study.count - 1}")
        (name,) = self.study.names([number])
        images = self.images
        if name not in self._by_name:
            raise UnknownName(
                f"{name} isn't among the images any more",
                where=images.source or self.study.location,
                next_step="open the study with --images and the folder it is in now",
            )
        return images[self._by_name[name]]

    def read(self, number: int) -> Content:
        """An image, read; raises :class:`UnknownName` or :class:`BadImage` where it isn't there, or isn't the same."""
        image = self.image(number)
        with image.named():
            content = image.read()
            expected = self.study.fingerprint(number)
            if expected and not content.fingerprint().hex().startswith(expected):
                raise BadImage("its bytes changed since it was mined", next_step="mine the images again")
            return content

    def see(self, number: int, finest: float) -> Seen:
        """What the network saw of an image; raises as :meth:`read` does."""
        with self._lock:
            known = self._kept.get(number)
            if known is not None and known.finest >= finest:
                self._kept.move_to_end(number)
                return known
        content = self.read(number)
        with self.image(number).named():
            found = seen(self.preprocessing, content, finest)
        with self._lock:
            self._kept[number] = found
            self._kept.move_to_end(number)
            while sum(each.pixels.nbytes for each in self._kept.values()) > KEPT_BYTES and len(self._kept) > 1:
                self._kept.popitem(last=False)
        return found

    def atlas(self, images: Array, boxes: Array, side: int, mode: Mode = "crop") -> Atlas:
        """Many patches in one picture; see :func:`convscope.mining.atlas.atlas`."""
        return atlas(images, boxes, side, mode, see=self.see, size=self.preprocessing.image_size)


def plan_digest(store: Store) -> str:
    """What names a study: its plan's bytes. Another one as soon as images are added."""
    return next((entry.blob[:24] for entry in store.query(method=METHOD, kind="mining_plan")), "")


def _load(location: str) -> ImageSet:
    if not location:
        raise ConvscopeError("they came from Python, not from a folder", next_step="pass the image set again")
    return load_images(location)


_MOST_OPEN = 4
_opened: OrderedDict[str, tuple[int, StudyPictures]] = OrderedDict()
_opening = threading.Lock()


def open_study(place: str, images: ImageSet | None = None) -> StudyPictures:
    """A study by its folder; the few that were used last stay open, with what was read of them.

    ``images`` are where its pictures are found from then on, if they are its images: nothing is loaded a second time.
    Raises :class:`Refused` when nothing was mined there.
    """
    index = Path(place, INDEX)
    if not place or not index.is_file():
        raise Refused(
            "there is no study" if place else "top patches are read from a study, and none is named",
            where=place,
            next_step="run `convscope mine MODEL --images FOLDER --study FOLDER`, then pass study=FOLDER",
        )
    path = str(index.resolve())
    with _opening:
        number, pictures = _opened.pop(path, (-1, None))
        if pictures is None or number != index.stat().st_ino or pictures.name != plan_digest(pictures.study.store):
            if pictures is not None:
                pictures.study.store.close()
            pictures = StudyPictures(Study.open(place))
        _opened[path] = index.stat().st_ino, pictures
        if len(_opened) > _MOST_OPEN:
            _, (_, oldest) = _opened.popitem(last=False)
            oldest.study.store.close()
    if images is not None:
        pictures.take(images)
    return pictures


def patches_of(view: View, which: str, side: int, units: int | None = None) -> Atlas | None:
    """The tiles of the first ``units`` of a "top_patches" View (None: all), what ``convscope.render`` asks for.

    Only of a study that this process has opened: a View from elsewhere names no folder that would be read.
    """
    wanted = str(view.meta.get("study", {}).get("name", ""))
    with _opening:
        found = next((pictures for _, pictures in _opened.values() if pictures.name == wanted), None)
    if found is None:
        return None
    prefix = "" if which == "top" else f"{which}_"
    return found.atlas(view[f"{prefix}image"][:units], view[f"{prefix}box"][:units], side)


__all__ = ["StudyPictures", "open_study", "patches_of", "plan_digest"]
