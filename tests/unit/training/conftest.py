"""What the tests of training share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .loops import small

if TYPE_CHECKING:
    from torch import nn


@pytest.fixture
def module() -> nn.Sequential:
    return small()
