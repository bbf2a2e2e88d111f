"""View: round trips for every array there is, determinism, ranges, and refusals of hostile bytes."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from convscope.errors import ConvscopeError
from convscope.view import Array, Recipe, View, canonical_json, value_range

GOLDEN = Path(__file__).parents[1] / "golden" / "view-1.safetensors"

dtypes = st.sampled_from(["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"])
arrays = dtypes.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
names = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=12).filter(
    lambda name: name != "__metadata__"
)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
recipes = st.none() | st.fixed_dictionaries(
    {
        "method": st.text(max_size=10),
        "parameters": st.dictionaries(st.text(max_size=5), plain, max_size=3),
        "target": st.text(max_size=10),
        "images": st.lists(st.text(max_size=5), max_size=3).map(tuple),
        "labels": st.lists(st.none() | st.integers(0, 999), max_size=3).map(tuple),
    }
)


Pieces = tuple[str, dict[str, Array], dict[str, tuple[str, ...]], dict[str, Any], dict[str, Any] | None]


# The strategies draw pieces and the tests assemble them: the run-time type checks of the tests use `random`, which
# Hypothesis forbids while it draws.
def assemble(drawn: Pieces) -> View:
    kind, chosen, axes, meta, recipe = drawn
    return View(kind, chosen, axes, meta, Recipe(**recipe) if recipe else None)


@st.composite
def pieces(draw: st.DrawFn) -> Pieces:
    chosen = draw(st.dictionaries(names, arrays, max_size=4))
    axes = {name: tuple(f"axis {i}" for i in range(array.ndim)) for name, array in chosen.items()}
    meta = draw(st.dictionaries(st.sampled_from(["caption", "layer", "anything"]), plain, max_size=3))
    return draw(st.text(max_size=10)), chosen, axes, meta, draw(recipes)


@given(pieces())
@settings(max_examples=150, deadline=None)
def test_a_view_survives_its_bytes(drawn: Pieces) -> None:
    view = assemble(drawn)
    again = View.from_bytes(view.to_bytes())
    assert again.kind == view.kind
    assert again.recipe == view.recipe
    assert dict(again.axes) == dict(view.axes)
    assert canonical_json(dict(again.meta)) == canonical_json(dict(view.meta))
    assert set(again.arrays) == set(view.arrays)
    for name, array in view.arrays.items():
        assert again[name].dtype == array.dtype
        assert again[name].shape == array.shape
        assert again[name].tobytes() == array.tobytes()  # NaN payloads and signed zeros included
    assert again.to_bytes() == view.to_bytes()


@given(pieces())
@settings(max_examples=50, deadline=None)
def test_equal_views_give_equal_bytes(drawn: Pieces) -> None:
    view = assemble(drawn)
    backwards = dict(reversed(view.arrays.items()))
    same = View(view.kind, backwards, view.axes, view.meta, view.recipe)
    assert same.to_bytes() == view.to_bytes()


def test_an_array_without_contiguous_memory_survives() -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)[::2]
    view = View("maps", {"map": array}, {"map": ("unit", "row", "column")})
    np.testing.assert_array_equal(View.from_bytes(view.to_bytes())["map"], array)


def test_a_zero_dimensional_array_stays_one() -> None:
    view = View("number", {"value": np.array(2.5, np.float32)}, {"value": ()})
    assert View.from_bytes(view.to_bytes())["value"].shape == ()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, -2.0], (-2.0, 1.0, 2, 0, 0, 0)),
        ([np.nan, np.nan], (None, None, 2, 2, 0, 0)),
        ([np.inf, 1.0, -np.inf, np.nan], (1.0, 1.0, 4, 1, 1, 1)),
        ([], (None, None, 0, 0, 0, 0)),
    ],
)
def test_ranges_are_of_finite_values_and_count_the_rest(values: list[float], expected: tuple[object, ...]) -> None:
    assert tuple(value_range(np.array(values, np.float32)).values()) == expected


def test_a_method_may_state_the_range_of_the_whole_tensor() -> None:
    whole = {"minimum": -9.0, "maximum": 9.0, "count": 99, "nan": 0, "positive_infinity": 0, "negative_infinity": 0}
    view = View("kernels", {"kernel": np.zeros(2)}, {"kernel": ("unit",)}, {"ranges": {"kernel": whole}})
    assert View.from_bytes(view.to_bytes()).meta["ranges"]["kernel"] == whole


def test_axes_must_fit() -> None:
    with pytest.raises(ValueError, match=r"array 'map' has shape \(2, 2\) but axes \('row',\)"):
        View("maps", {"map": np.zeros((2, 2))}, {"map": ("row",)})


def test_a_missing_array_names_the_present_ones() -> None:
    with pytest.raises(KeyError, match="this maps view has map"):
        View("maps", {"map": np.zeros(1)}, {"map": ("unit",)})["mpa"]


def test_a_view_can_not_be_changed() -> None:
    view = View("maps", {"map": np.zeros(1)}, {"map": ("unit",)})
    with pytest.raises(TypeError):
        view.meta["caption"] = "else"  # type: ignore[index]
    with pytest.raises(TypeError):
        view.arrays["map"] = np.ones(1)  # type: ignore[index]


def test_a_recipe_key_depends_on_every_field_and_on_nothing_else() -> None:
    base = Recipe("weights", {"slices": 9, "b": 1}, "conv1")
    assert base.key == Recipe("weights", {"b": 1, "slices": 9}, "conv1").key
    others = [
        Recipe("weight_gradients", base.parameters, "conv1"),
        Recipe("weights", {"slices": 8, "b": 1}, "conv1"),
        Recipe("weights", base.parameters, "conv2"),
        Recipe("weights", base.parameters, "conv1", network="1"),
        Recipe("weights", base.parameters, "conv1", images=("a",)),
        Recipe("weights", base.parameters, "conv1", labels=(1,)),
        Recipe("weights", base.parameters, "conv1", versions={"convscope": "0"}),
        Recipe("weights", base.parameters, "conv1", seed=1),
    ]
    assert len({base.key, *(other.key for other in others)}) == len(others) + 1


# ------------------------------------------------------------------------------------------------- golden bytes


def golden_view() -> View:
    kernel = np.array([[[[0.5, -0.25], [0.0, 1.0]]]], np.float32)
    special = np.array([np.nan, np.inf, -np.inf, -0.0], np.float16)
    return View(
        "kernels",
        {"kernel": kernel, "channel": np.array([[2]], np.int32), "special": special},
        {"kernel": ("unit", "slice", "row", "column"), "channel": ("unit", "slice"), "special": ("value",)},
        {"caption": "kernels of conv1 – a golden file", "warnings": ["made by hand"], "layout": "slices"},
        Recipe("weights", {"slices": 9}, "conv1", "f" * 64, ("a" * 64,), (3,), {"convscope": "0.1.0"}),
    )


def test_the_golden_view_is_read_and_written_for_ever() -> None:
    # Never regenerate this file: files that people keep must stay readable. A new format gets a new golden file.
    blob = GOLDEN.read_bytes()
    view = View.from_bytes(blob)
    expected = golden_view()
    assert view.recipe == expected.recipe
    assert view.recipe is not None
    assert view.recipe.key == "0025dfe86f56caea2ce63fe5cf17732bd15935459a6f366c550ef219bffdd209"
    for name in expected.arrays:
        np.testing.assert_array_equal(view[name], expected[name])
    assert expected.to_bytes() == blob


# --------------------------------------------------------------------------------------------------- hostile bytes


def _blob(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def _with_header(**changes: object) -> bytes:
    header = {"format": "1", "kind": "maps", "axes": {}, "meta": {}, "recipe": None} | changes
    return _blob({"__metadata__": {"convscope": json.dumps(header)}})


HOSTILE = {
    "empty": b"",
    "short": b"\x01",
    "huge header": (2**63).to_bytes(8, "little") + b"{}",
    "not json": _blob(b"{{{{"),
    "deep json": _blob(b"[" * 100_000),
    "not utf-8": _blob(b"\xff\xfe\xff"),
    "a list": _blob([]),
    "no metadata": _blob({}),
    "metadata of another program": _blob({"__metadata__": {"format": "pt"}}),
    "metadata is text": _blob({"__metadata__": "convscope"}),
    "header is a number": _blob({"__metadata__": {"convscope": "3"}}),
    "deep header": _blob({"__metadata__": {"convscope": "[" * 100_000}}),
    "kind is a list": _with_header(kind=[]),
    "axes are a list": _with_header(axes=[1]),
    "axes of nothing": _with_header(axes={"map": 5}),
    "meta is text": _with_header(meta="text"),
    "meta ranges is a number": _with_header(meta={"ranges": 3}),
    "recipe is text": _with_header(recipe="text"),
    "recipe with an unknown field": _with_header(recipe={"method": "x", "images": [], "labels": [], "evil": 1}),
    "recipe without images": _with_header(recipe={"method": "x"}),
    "array without axes": _blob(
        {
            "__metadata__": {
                "convscope": json.dumps({"format": "1", "kind": "", "axes": {}, "meta": {}, "recipe": None})
            },
            "map": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        },
        b"\0" * 4,
    ),
    "array outside the file": _blob(
        {
            "__metadata__": {"convscope": json.dumps({"format": "1", "kind": "", "axes": {"map": ["a"]}, "meta": {}})},
            "map": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]},
        },
    ),
    "pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_refused_in_one_sentence(name: str) -> None:
    with pytest.raises(ConvscopeError, match="not a convscope View"):
        View.from_bytes(HOSTILE[name])


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_a_view_or_refused(blob: bytes) -> None:
    with pytest.raises(ConvscopeError):
        View.from_bytes(blob)


@given(st.integers(0, 10_000), st.integers(0, 255))
@settings(max_examples=150, deadline=None)
def test_one_changed_byte_never_crashes(place: int, value: int) -> None:
    blob = bytearray(golden_view().to_bytes())
    blob[place % len(blob)] = value
    with suppress(ConvscopeError):
        View.from_bytes(bytes(blob))


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_a_cut_file_is_refused(length: int) -> None:
    blob = golden_view().to_bytes()
    with pytest.raises(ConvscopeError):
        View.from_bytes(blob[: length % len(blob)])


def test_a_newer_format_is_refused_with_the_next_step() -> None:
    with pytest.raises(
        ConvscopeError, match=r"a View of format 2; this convscope reads format 1\. Next: upgrade convscope"
    ):
        View.from_bytes(_with_header(format="2"))
