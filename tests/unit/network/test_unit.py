"""Unit: the address grammar, one text everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convscope.errors import ConvscopeError
from convscope.network.unit import Unit, split_address

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "units.json").read_text())

paths = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+){0,3}", fullmatch=True)
numbers = st.integers(0, 99_999)


@given(paths, numbers, numbers, st.none() | st.tuples(numbers, numbers))
def test_what_is_written_is_read_back(path: str, call: int, channel: int, place: tuple[int, int] | None) -> None:
    layer = f"{path}@{call}" if call else path
    unit = Unit(layer, channel, *(place or (None, None)))
    assert Unit.parse(str(unit)) == unit
    assert unit.position == place


@pytest.mark.parametrize("row", GOLDEN["valid"], ids=lambda row: row["text"])
def test_golden_addresses(row: dict[str, object]) -> None:
    layer, channel, position = split_address(str(row["text"]))
    assert [layer, channel, list(position) if position else None] == [row["layer"], row["channel"], row["position"]]


@pytest.mark.parametrize("text", GOLDEN["invalid"])
def test_what_is_no_address_is_refused_with_the_grammar(text: str) -> None:
    with pytest.raises(ConvscopeError, match="layer"):
        split_address(text)


def test_a_layer_is_not_a_unit() -> None:
    with pytest.raises(ConvscopeError, match="names a layer"):
        Unit.parse("layer1.0")
