from __future__ import annotations

import json
from pathlib import Path

from convscope.server.app import openapi

COMMITTED = Path(__file__).parents[3] / "web" / "openapi.json"


def test_the_committed_interface_is_the_one_that_the_server_answers():
    """The page's types are made from the file, so it must say what the server says."""
    fix = "make types"
    assert json.loads(COMMITTED.read_text("utf-8")) == openapi(), f"web/openapi.json is stale. Run: {fix}"
