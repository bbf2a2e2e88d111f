"""Footprints through everything that isn't a window, and the table of which rule serves which operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from convscope.network.footprint import INFINITY, Footprint, Step, merge, reduced_to
from convscope.network.windows import adaptive_pool, convolution, padded, pool, resize

Rule = Callable[[Step], list[Footprint | None]]


def elementwise(step: Step) -> list[Footprint | None]:
    """Each element depends on the elements at its own place in every operand."""
    found = [
        footprint
        for leaf in tree_leaves((step.arguments, step.options))
        if isinstance(leaf, Tensor) and (footprint := step.of(leaf)) is not None
    ]
    shape = step.outputs[0].shape
    parts = [merge([footprint.parts[index] for footprint in found], shape) for index in range(4)]
    return [Footprint((parts[0], parts[1], parts[2], parts[3]))] * len(step.outputs)


def _same(step: Step) -> list[Footprint | None]:
    """Normalisation by stored statistics and the like: each element depends on itself alone."""
    footprint = step.of(step.arguments[0])
    if footprint is not None and step.arguments[0].shape != step.outputs[0].shape:
        raise ValueError("the shape changed")
    return [footprint, *[None] * (len(step.outputs) - 1)]


def _moved(step: Step) -> list[Footprint | None]:
    """Views, permutations, slices, concatenations: the footprint is moved by the very same operation."""

    def part_of(index: int) -> Callable[[Any], Any]:
        def replace(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            footprint = step.of(leaf)
            if footprint is not None:
                return footprint.parts[index]
            # Constants beside the image depend on nothing; integer tensors are indices and stay what they are.
            return leaf if not leaf.is_floating_point() else torch.full((), INFINITY).expand(leaf.shape)

        return replace

    if step.name in ("view", "_unsafe_view", "_reshape_alias"):
        # A broadcast footprint has strides that a view can't express; reshape moves the same elements.
        shape = step.outputs[0].shape
        footprint = step.of(step.arguments[0])
        return [footprint.map(lambda part: part.reshape(shape)) if footprint is not None else None]
    moved = []
    for index in range(4):
        new_arguments, new_options = tree_map(part_of(index), (step.arguments, dict(step.options)))
        if "dtype" in new_options:
            new_options.pop("dtype")
        result = step.function(*new_arguments, **new_options)
        moved.append([leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)])
    return [Footprint((first, second, third, fourth)) for first, second, third, fourth in zip(*moved, strict=True)]


def _reduction(step: Step) -> list[Footprint | None]:
    """mean, sum, amax, var … over some axes; the output's shape tells which."""
    footprint = step.of(step.arguments[0])
    if footprint is None:
        return [None] * len(step.outputs)
    place = 2 if step.name in ("norm", "linalg_vector_norm") else 1
    asked = step.arguments[place] if len(step.arguments) > place else step.options.get("dim")
    dimensions = step.arguments[0].dim()
    axes = [asked] if isinstance(asked, int) else list(asked or range(dimensions))
    axes = [axis % dimensions for axis in axes] if dimensions else []
    results: list[Footprint | None] = []
    for output in step.outputs:
        keep = output.dim() == dimensions
        results.append(footprint.map(lambda part, keep=keep: reduced_to(part, axes, keep=keep)))  # type: ignore[misc]
    return results


def _along(position: int) -> Rule:
    """softmax, cumulative sums …: every element depends on all elements along one axis."""

    def rule(step: Step) -> list[Footprint | None]:
        axis = step.arguments[position] if len(step.arguments) > position else step.options["dim"]
        axis %= step.arguments[0].dim()
        footprint = step.of(step.arguments[0])
        if footprint is None:
            return [None]
        return [footprint.map(lambda part: reduced_to(part, [axis], keep=True).expand(part.shape))] * len(step.outputs)

    return rule


def _layer_norm(step: Step) -> list[Footprint | None]:
    footprint = step.of(step.arguments[0])
    if footprint is None:
        return [None] * len(step.outputs)
    axes = [step.arguments[0].dim() - 1 - index for index in range(len(step.arguments[1]))]
    spread = footprint.map(lambda part: reduced_to(part, axes, keep=True).expand(part.shape))
    return [spread, *[None] * (len(step.outputs) - 1)]


def _group_norm(step: Step) -> list[Footprint | None]:
    footprint = step.of(step.arguments[0])
    if footprint is None:
        return [None] * len(step.outputs)
    groups = step.arguments[6] if step.name == "native_group_norm" else step.arguments[1]
    shape = step.arguments[0].shape

    def spread(part: Tensor) -> Tensor:
        grouped = part.reshape(shape[0], groups, -1)
        return grouped.amin(2, keepdim=True).expand_as(grouped).reshape(shape)

    return [footprint.map(spread), *[None] * (len(step.outputs) - 1)]


def _product(step: Step) -> list[Footprint | None]:
    """mm, bmm, addmm, baddbmm: an entry depends on its row of the left and its column of the right factor."""
    *added, left, right = [each for each in step.arguments if isinstance(each, Tensor)]
    shape = step.outputs[0].shape
    parts = []
    for index in range(4):
        pieces = []
        if (footprint := step.of(left)) is not None:
            pieces.append(reduced_to(footprint.parts[index], [left.dim() - 1], keep=True).expand(shape))
        if (footprint := step.of(right)) is not None:
            pieces.append(reduced_to(footprint.parts[index], [right.dim() - 2], keep=True).expand(shape))
        pieces += [footprint.parts[index].expand(shape) for each in added if (footprint := step.of(each))]
        parts.append(merge(pieces, shape))
    return [Footprint((parts[0], parts[1], parts[2], parts[3]))]


def _attention(step: Step) -> list[Footprint | None]:
    """softmax(query keyᵀ) value: a token depends on its own query and on all keys and values of its sequence."""
    query, key, value = (step.of(each) for each in step.arguments[:3])
    if query is None or key is None or value is None:
        raise ValueError("attention over constants")
    shape = step.outputs[0].shape
    last = step.arguments[0].dim() - 1
    parts = [
        merge(
            [
                reduced_to(query.parts[index], [last], keep=True).expand(shape),
                reduced_to(key.parts[index], [last - 1, last], keep=True).expand(shape),
                reduced_to(value.parts[index], [last - 1], keep=True).expand(shape),
            ],
            shape,
        )
        for index in range(4)
    ]
    return [Footprint((parts[0], parts[1], parts[2], parts[3])), *[None] * (len(step.outputs) - 1)]


def _copied(step: Step) -> list[Footprint | None]:
    """copy_(target, source): the target takes the source's footprint."""
    footprint = step.of(step.arguments[1])
    return [footprint.map(lambda part: part.expand(step.outputs[0].shape)) if footprint is not None else None]


# Operations that only move elements, and operations that reduce axes, by torch's names.
_MOVES = (
    "view _unsafe_view reshape _reshape_alias permute transpose t expand slice select split split_with_sizes chunk "
    "unbind squeeze unsqueeze cat stack clone contiguous roll flip alias detach repeat reflection_pad2d "
    "replication_pad2d upsample_nearest2d _upsample_nearest_exact2d pixel_shuffle pixel_unshuffle channel_shuffle "
    "index index_select _to_copy unfold diagonal movedim lift_fresh"
).split()
_REDUCTIONS = "mean sum amax amin var std prod max min any all logsumexp norm linalg_vector_norm var_mean".split()

# What these make takes its shape from a tensor, but none of its values.
CONSTANTS = frozenset(
    "new_zeros new_ones new_full new_empty zeros_like ones_like full_like empty_like rand_like randn_like "
    "bernoulli zero_ fill_ sym_size empty new_empty_strided".split()
)

RULES: dict[str, Rule] = {
    **dict.fromkeys(_MOVES, _moved),
    **dict.fromkeys(_REDUCTIONS, _reduction),
    **dict.fromkeys(("mm", "bmm", "addmm", "baddbmm", "matmul"), _product),
    **dict.fromkeys(("_softmax", "_log_softmax", "_safe_softmax", "cumsum"), _along(1)),
    **dict.fromkeys(("max_pool2d_with_indices", "max_pool2d", "avg_pool2d"), pool),
    **dict.fromkeys(("_adaptive_avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"), adaptive_pool),
    **dict.fromkeys(("upsample_bilinear2d", "upsample_bicubic2d"), resize),
    **dict.fromkeys(
        (
            "native_batch_norm",
            "_native_batch_norm_legit_no_training",
            "cudnn_batch_norm",
            "native_dropout",
            "_prelu_kernel",
            "hardtanh",
            "hardswish",
            "as_strided_",  # torch restrides the result of a pooling; the elements stay where they are
            "rrelu_with_noise_functional",
        ),
        _same,
    ),
    "convolution": convolution,
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "copy_": _copied,
    "constant_pad_nd": padded,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_attention_math": _attention,
}
