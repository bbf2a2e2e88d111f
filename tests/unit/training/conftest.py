"""What the tests of training share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .loops import small

if TYPE_CHECKING:
    from torch import nn

# A script that a test runs in a process of its own; collecting doctests would import it.
collect_ignore = ["same_numbers.py"]


@pytest.fixture
def module() -> nn.Sequential:
    return small()
