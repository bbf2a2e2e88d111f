"""Trace: what happened during one forward pass, call by call."""

from __future__ import annotations

from convscope.trace.call import Call, Observer
from convscope.trace.entrance import Entrance
from convscope.trace.relu_rule import ReluRule
from convscope.trace.trace import Trace

__all__ = ["Call", "Entrance", "Observer", "ReluRule", "Trace"]
