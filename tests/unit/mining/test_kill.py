"""Killed at any moment, a study opens, has lost one shard at most, and ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from executor_cases import mined_bytes
from mining_children import IMAGES, SHARD

from convscope.errors import ConvscopeError
from convscope.mining.study import Study

if TYPE_CHECKING:
    from collections.abc import Iterator

KILLS = 50
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks children; Linux and macOS show what it tests")


class Breeder:
    """Starts children that mine into a folder."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def start(self, folder: Path) -> int:
        return self._ask(str(folder))

    def ended(self) -> int:
        """The exit status of the child; negative is the signal."""
        return self._ask("")

    def _ask(self, line: str) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextmanager
def breeder() -> Iterator[Breeder]:
    here = Path(__file__).parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(here)}
    command = [sys.executable, here / "mining_children.py"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield Breeder(process)
        assert process.stdin is not None
        process.stdin.close()


def finished_images(folder: Path) -> int:
    """Images in finished shards of a study that was killed; whatever is there can be read."""
    try:
        study = Study.open(folder)
    except ConvscopeError as error:
        # Killed before there was a plan: an empty store, or not even a folder.
        assert "nothing was mined here yet" in error.what or "no such folder" in error.what  # noqa: PT017
        return 0
    with study.store:
        if study.done:
            for layer in study.layers:
                assert study.state(layer).images == study.done
        return study.done


def test_fifty_kills_change_no_byte(tmp_path: Path) -> None:
    chosen = random.Random(1)
    with breeder() as children:
        for name in ("first", "whole"):  # the first has to wait for torch
            start = time.monotonic()
            children.start(tmp_path / name)
            assert children.ended() == 0
            seconds = time.monotonic() - start
        with (whole := Study.open(tmp_path / "whole")).store:
            expected = mined_bytes(whole)
        kills = killed_studies = number = 0
        while kills < KILLS:
            folder = tmp_path / f"killed-{number}"
            number += 1
            before, status, interrupted = 0, 1, False
            while status:
                child = children.start(folder)
                time.sleep(chosen.uniform(0, seconds * chosen.choice((0.3, 0.8, 1.5))))
                if kills < KILLS:
                    os.kill(child, signal.SIGKILL)  # without effect where it has ended by itself
                status = children.ended()
                assert status in (0, -signal.SIGKILL)
                kills += status != 0
                interrupted |= status != 0
                done = finished_images(folder)
                assert done >= before
                assert done % SHARD == 0
                before = done
            assert before == IMAGES
            with (again := Study.open(folder)).store:
                assert mined_bytes(again) == expected
            killed_studies += interrupted
    assert killed_studies > 1
