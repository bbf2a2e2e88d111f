"""Natural: what images excite the same objectives, and how much. An optimized image is never shown without them.

People predict a unit's behavior better from natural images than from optimized ones (Borowski et al. 2021), so these
are the yardstick: from a study that was mined, or from images given on the spot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from convscope.errors import Refused
from convscope.images.thumbnails import in_color
from convscope.methods.backward import mini_batches
from convscope.mining.patches import NEUTRAL, Seen
from convscope.mining.pictures import open_study
from convscope.mining.top_patches import ranked
from convscope.synthesis.aims import Aims
from convscope.synthesis.ascent import images_per_pass
from convscope.synthesis.goal import Captured
from convscope.view import Array  # noqa: TC001 - types are checked in tests

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convscope.mining.pictures import StudyPictures
    from convscope.mining.study import Study
    from convscope.network.batch import Batch
    from convscope.network.network import Network
    from convscope.network.unit import Unit
    from convscope.synthesis.objective import Aim

TILE = 112
"""The longer side of a natural patch's picture, in pixels."""
# Images that statistics are measured from: enough for a smooth spectrum.
_MEASURED = 256


@dataclass(frozen=True, eq=False)
class Natural:
    """The natural images that please each objective most.

    ``value`` [unit, rank] largest first (NaN for none), ``image`` [unit, rank] (ids; -1 for none), ``box`` [unit, rank,
    side] in prepared pixels, ``picture`` uint8 [unit, rank, row, column, color]: the boxes cut out.
    """

    value: Array
    image: Array
    box: Array
    picture: Array
    names: dict[str, str]
    source: str
    warnings: tuple[str, ...] = ()

    @property
    def best(self) -> Array:
        """The strongest response to each objective, float32 [unit]."""
        return np.asarray(self.value[:, 0], np.float32)

    def repeated(self, copies: int) -> Natural:
        """The same beside each of several images of an objective."""
        value, image, box, picture = (
            np.repeat(each, copies, axis=0) for each in (self.value, self.image, self.box, self.picture)
        )
        return replace(self, value=value, image=image, box=box, picture=picture)


def natural_responses(network: Network, aims: Sequence[Aim], images: Batch, ranks: int) -> Natural:
    """Every image's response to every objective, from one forward pass over them; the strongest ``ranks`` are shown.

    A unit counts where its map is largest, and the patch is what it sees there; another objective's is the whole image.
    """
    ranks = min(ranks, len(images))
    values = np.full((len(aims), len(images)), np.nan, np.float32)
    places = np.full((len(aims), len(images), 2), -1, np.int64)
    layers = tuple(dict.fromkeys(layer for aim in aims for layer in aim.layers))
    needs_output = any(aim.needs_output for aim in aims)
    for start, stop, part in mini_batches(network, images, "natural images"):
        with network.trace(layers) as trace:
            output = trace.run(part.tensor, stop=not needs_output)
            captured = Captured(network, trace, output)
            for index, aim in enumerate(aims):
                found = Aims((aim,) * len(part)).peaks(captured)
                values[index, start:stop] = found.float().cpu().numpy()
                places[index, start:stop] = _places(captured, aim, len(part))
    order = np.argsort(-np.nan_to_num(values, nan=-np.inf), axis=1, kind="stable")[:, :ranks]
    value = np.take_along_axis(values, order, axis=1)
    place = np.take_along_axis(places, order[:, :, None], axis=1)
    boxes = np.stack([boxes_at(network, aim, place[index]) for index, aim in enumerate(aims)])
    seen = {int(each): _seen(network, images.tensor[int(each)]) for each in np.unique(order)}
    tiles = [
        [_tile(seen[int(each)].cut(_box(box), TILE)) for each, box in zip(*pair, strict=True)]
        for pair in zip(order, boxes, strict=True)
    ]
    ids = np.array(images.ids or range(len(images)), np.int32)
    names = {str(ids[each]): images.names[each] for each in np.unique(order).tolist()}
    source = f"the best of {len(images):,} image{'s' if len(images) != 1 else ''}"
    return Natural(value, ids[order], boxes, np.array(tiles), names, source)


def mined_responses(network: Network, aims: Sequence[Aim], place: str, ranks: int) -> Natural:
    """The strongest patches of a study; for objectives that are one unit each, which is what a study knows.

    Raises :class:`Refused` for other objectives, or a study of another network.
    """
    pictures = open_study(place)
    study = pictures.study
    if study.network != network.fingerprint:
        raise Refused(
            "this study was mined with another network, other weights or another preprocessing",
            where=f"{place}: {(study.plan.facts or {}).get('network', '')}",
            next_step="open the network it was made with, or mine again into another folder",
        )
    units = [_mined_unit(aim) for aim in aims]
    found: dict[str, dict[str, Array]] = {}
    for layer in dict.fromkeys(unit.layer for unit in units):
        found[layer] = ranked(network, layer, study.state(layer), "top", ranks)
    rows = [{name: found[unit.layer][name][unit.channel] for name in ("value", "image", "box")} for unit in units]
    value, image, box = (np.stack([row[name] for row in rows]) for name in ("value", "image", "box"))
    picture, missing = _cut(pictures, image, box)
    ids = np.unique(image[image >= 0]).tolist()
    names = dict(zip(map(str, ids), study.names(ids), strict=True))
    source = f"the top patches of a study of {study.count:,} images"
    return Natural(value, image, box, picture, names, source, tuple(_study_warnings(study, units, missing)))


def _mined_unit(aim: Aim) -> Unit:
    unit = aim.unit
    # A class can be a unit in disguise, of the layer before a softmax; the study's ranks are those of that unit.
    if unit is None:
        raise Refused(
            f"a study knows which images excite a unit, not which please {aim.text[:80]}",
            next_step="pass images=, which it is computed on",
        )
    return unit


def _study_warnings(study: Study, units: list[Unit], missing: dict[int, str]) -> list[str]:
    warnings = []
    if missing:
        reason = next(iter(missing.values()))
        warnings.append(f"{len(missing)} of the natural images can't be shown: {reason}")
    if not study.finished:
        warnings.append(f"mining isn't finished: the natural patches are of {study.done:,} of {study.count:,} images")
    if any(unit.position is not None for unit in units):
        warnings.append("the natural patches are of the units anywhere in the image, not at the one position")
    return warnings


def measured_images(network: Network, images: Batch | None, place: str) -> torch.Tensor:
    """Prepared images to measure colors and spectrum from: up to 256 of those given or of the study's, evenly taken."""
    if images is not None:
        return images.tensor[_evenly(len(images))]
    pictures = open_study(place)
    chosen = [pictures.image(number) for number in _evenly(pictures.study.count)]
    return torch.cat([network.prepare(each) for each in chosen]).to(network.device)


def images_of(network: Network, ids: Array, images: Batch | None, place: str) -> torch.Tensor:
    """Prepared images by their ids, among those given or the study's."""
    if place:
        pictures = open_study(place)
        return torch.cat([network.prepare(pictures.image(int(number))) for number in ids]).to(network.device)
    assert images is not None  # noqa: S101 - where there is no study, images were given
    places = {number: index for index, number in enumerate(images.ids or range(len(images)))}
    return images.tensor[[places[int(number)] for number in ids]]


def _evenly(count: int) -> list[int]:
    return [int(each) for each in np.unique(np.linspace(0, count - 1, min(count, _MEASURED)).round())]


def responses(network: Network, aims: Aims, prepared: torch.Tensor) -> tuple[Array, Array, Array]:
    """What each optimized image does at the network's own input size: (peak [unit], value [unit], box [unit, side]).

    ``peak`` counts units where they are strongest, as for natural images; ``value`` is the objective as it was raised.
    """
    peak = np.zeros(len(aims), np.float32)
    value = np.zeros(len(aims), np.float32)
    box = np.zeros((len(aims), 4), np.int32)
    plain = replace(aims, diversity=0.0)
    step = images_per_pass(network, aims)
    for start in range(0, len(aims), step):
        part = list(range(start, min(start + step, len(aims))))
        goal = plain.part(part)
        with network.trace(goal.layers) as trace:
            output = trace.run(prepared[part].to(network.device, network.dtype), stop=not goal.needs_output)
            captured = Captured(network, trace, output)
            peak[part] = goal.peaks(captured).float().cpu().numpy()
            value[part] = goal.values(captured).float().cpu().numpy()
            for place, (index, aim) in enumerate(zip(part, goal.aims, strict=True)):
                box[index] = boxes_at(network, aim, _places(captured, aim, len(part))[place][None])[0]
    return peak, value, box


def boxes_at(network: Network, aim: Aim, places: Array) -> Array:
    """What an objective sees at positions [rank, coordinate] of its map: int32 [rank, side]; all, if it is no unit."""
    unit = aim.unit
    if unit is None:
        return np.tile(np.array([0, 0, *network.image_size], np.int32), (len(places), 1))
    channel = np.full(len(places), unit.channel)
    return network.boxes(unit.layer, channel, places[:, 0], places[:, 1]).astype(np.int32)


def _places(captured: Captured, aim: Aim, count: int) -> Array:
    """Where each image excites a unit most, [image, coordinate]; the first of equals; -1 where that has no meaning."""
    unit = aim.unit
    if unit is None:
        return np.full((count, 2), -1)
    maps = captured[unit.layer][:, unit.channel]
    if unit.position is not None:
        return np.tile(np.array(unit.position), (count, 1))
    flat = maps.flatten(1).argmax(dim=1).cpu().numpy()
    return np.stack([flat // maps.shape[2], flat % maps.shape[2]], axis=1)


def _seen(network: Network, prepared: torch.Tensor) -> Seen:
    return Seen(in_color(network.unprepare(prepared)), (0.0, 0.0), (1.0, 1.0), network.image_size)


def _box(box: Array) -> tuple[int, int, int, int]:
    row, column, rows, columns = (int(each) for each in box)
    return row, column, rows, columns


def _tile(patch: Array) -> Array:
    """A patch in the middle of a square of gray, so that all have one size."""
    tile = np.full((TILE, TILE, 3), NEUTRAL, np.uint8)
    top, left = (TILE - patch.shape[0]) // 2, (TILE - patch.shape[1]) // 2
    tile[top : top + patch.shape[0], left : left + patch.shape[1]] = patch
    return tile


def _cut(pictures: StudyPictures, image: Array, box: Array) -> tuple[Array, dict[int, str]]:
    """The study's patches as pictures [unit, rank, row, column, color], a few units at a time."""
    units, ranks = image.shape
    picture = np.full((units, ranks, TILE, TILE, 3), NEUTRAL, np.uint8)
    missing: dict[int, str] = {}
    for start in range(0, units, 16):
        atlas = pictures.atlas(image[start : start + 16], box[start : start + 16], TILE)
        missing |= atlas.missing
        for unit in range(start, min(start + 16, units)):
            for rank in range(ranks):
                tile = atlas.tile(unit - start, rank)
                there = tile[:, :, 3] > 0
                picture[unit, rank][there] = tile[:, :, :3][there]
    return picture, missing


def no_evidence() -> Refused:
    """What is said where there is nothing natural to show."""
    return Refused(
        "optimized images are shown beside natural ones only, and there are none: people predict a unit better from "
        "those (Borowski et al. 2021)",
        next_step="pass images=, or study= with a folder that `convscope mine` filled",
    )


__all__ = [
    "TILE",
    "Natural",
    "boxes_at",
    "images_of",
    "measured_images",
    "mined_responses",
    "natural_responses",
    "no_evidence",
    "responses",
]
