"""Untrained networks: the same random weights every time, and the caller's random state left as found."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

RANDOM = "random"


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Inside the block torch's CPU generator starts at ``seed``; afterwards it is where it was.

    >>> with seeded():
    ...     first = torch.rand(1)
    >>> with seeded():
    ...     bool(torch.rand(1) == first)
    True
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
