"""A small network, and sets of images of which some are hostile: workers import them from here."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from convscope import Network
from convscope.mining.worker import serving

if TYPE_CHECKING:
    from convscope.mining.study import Study

SIDE = 24


class Small(nn.Module):
    """Two convolutions and a classifier, of which one class' name is never reached."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, stride=2)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(6, 10, 3)
        self.fc = nn.Linear(10, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        maps = self.conv2(self.relu(self.conv1(image)))
        scores: torch.Tensor = self.fc(maps.amax((2, 3)))
        return scores


class Faulty(Small):
    """Has a bug that shows in workers only, and not while its layers are listed."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if serving() and len(image) > 1:
            raise LookupError("the network has a bug")
        return super().forward(image)


def small_module() -> Small:
    """Always the same weights; ``executor_cases:small_module`` is its spec."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Small().eval()


def small_network() -> Network:
    """Of images of 24 × 24."""
    return Network.from_module(small_module(), image_size=SIDE)


class Pictures:
    """``count`` pictures of noise with labels. What ``harm`` names isn't a picture: what it does depends on ``how``."""

    def __init__(self, count: int, harm: tuple[int, ...] = (), how: str = "") -> None:
        self.count, self.harm, self.how = count, harm, how

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[object, int]:
        if not 0 <= index < self.count:
            raise IndexError
        if index in self.harm:
            if self.how in ("SIGSEGV", "SIGKILL") and serving():
                os.kill(os.getpid(), getattr(signal, self.how))
            if self.how == "once" and serving():
                self._die_the_first_time()
            if self.how == "damaged":
                return b"not a picture", index % 4
        return np.random.default_rng(index).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8), index % 4

    def _die_the_first_time(self) -> None:
        mark = os.environ["CONVSCOPE_TEST_MARK"]
        try:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


def mined_bytes(study: Study) -> dict[str, bytes]:
    """Everything that a study says, as bytes: two studies with equal ones are the same."""
    found = {layer: study.state(layer).to_view().to_bytes() for layer in study.layers}
    for shard in study.plan.shards():
        if shard.index in study.finished_shards():
            table = study.table(shard.index)
            arrays = (table.fingerprint, table.label, table.predicted, table.good)
            listed = repr((table.label_names, table.skipped)).encode()
            found[f"shard {shard.index}"] = b"|".join([*(array.tobytes() for array in arrays), listed])
    return found


def children(process: int) -> list[int]:
    """The processes that this one started, on Linux."""

    found: list[int] = []
    for task in Path(f"/proc/{process}/task").glob("*"):
        found += [int(each) for each in (task / "children").read_text().split()]
    return found


def alive(process: int) -> bool:
    """Whether it runs; a zombie that nobody waited for yet doesn't."""

    try:
        status: str = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return status.rsplit(")", 1)[1].split()[0] != "Z"
