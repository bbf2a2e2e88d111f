"""What methods that read a study have in common: which folder it is, and what decides their numbers."""

from __future__ import annotations

import os
from abc import ABC
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from convscope.errors import Refused
from convscope.images import ImageSet
from convscope.methods.base import Method, Target, parameter
from convscope.mining.pictures import open_study
from convscope.mining.study import METHOD, Study
from convscope.store import Store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convscope.mining.pictures import StudyPictures
    from convscope.mining.state import LayerState
    from convscope.network.batch import Batch, ImagesLike
    from convscope.network.network import Network
    from convscope.network.unit import Unit
    from convscope.view import Recipe, View


@dataclass(frozen=True)
class FromStudy(Method, ABC):
    """A method that reads a study: its first parameter is the folder that ``convscope mine`` filled."""

    needs: ClassVar = ("study",)

    study: str = parameter("", "the folder that `convscope mine` filled")

    @classmethod
    def make(cls, parameters: Mapping[str, Any]) -> Method:
        """As every method; ``study`` may also be a path, an open Store or a Study."""
        given = dict(parameters)
        place = given.get("study", "")
        if isinstance(place, Study):
            place = place.store
        if isinstance(place, Store):
            place = place.path
        if isinstance(place, os.PathLike):
            given["study"] = os.fspath(place)
        return super().make(given)

    def recipe(self, network: Network, target: str | Unit = "", batch: Batch | None = None) -> Recipe:
        """What decides the numbers: what was mined so far, wherever the study lies."""
        found = super().recipe(network, target, batch)
        layer = found.target.split(":")[0]
        entries = open_study(self.study).study.store.query(method=METHOD, target=layer, network=network.fingerprint)
        mined = entries[-1].blob if entries else ""
        return replace(found, parameters={**found.parameters, "study": mined})

    def run(self, network: Network, target: str | Unit = "", images: ImagesLike | None = None) -> View:
        """Compute the View; ``images``, an ImageSet, are where the study's pictures are found from now on."""
        if isinstance(images, ImageSet):
            open_study(self.study, images)
            images = None
        return super().run(network, target, images)

    def opened(self, network: Network, target: Target) -> tuple[StudyPictures, LayerState]:
        """The study, and what it knows of the target's layer; raises :class:`Refused` if it is of another network."""
        layer = target.layer
        assert layer is not None  # noqa: S101 - a layer method has one
        if target.position is not None:
            raise Refused(
                "top patches are of a unit, wherever in the image its maximum is",
                where=str(target),
                next_step=f"leave out the position: {layer.address}:{target.channel}",
            )
        pictures = open_study(self.study)
        study = pictures.study
        if study.network != network.fingerprint:
            raise Refused(
                "this study was mined with another network, other weights or another preprocessing",
                where=f"{self.study}: {(study.plan.facts or {}).get('network', '')}",
                next_step="open the network it was made with, or mine again into another folder",
            )
        return pictures, study.state(layer.address)


__all__ = ["FromStudy"]
