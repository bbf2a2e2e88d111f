"""How the part of the image that a value depends on passes through each elementary operation.

Every tensor of a forward pass carries its *footprint*: for each of its elements, the first and last image row and
the first and last image column that can influence it. Four tensors, shaped (or broadcastable to) the tensor itself.
An elementwise operation takes the smallest first and largest last of its operands, a convolution or pooling takes
them over its window, a reduction over the reduced axes, and whatever only moves elements moves the footprint in the
same way. So skips, concatenations, shuffles, patches and attention need no special case, and every element of every
tensor has its own exact field.

Beyond a padded border a footprint is continued linearly, as if the image went on: so a receptive field has one size
everywhere, and intersecting it with the image gives the pixels that are really there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

INFINITY = float("inf")
# First row, minus last row, first column, minus last column: signed so that every merge is a minimum.
Parts = tuple[Tensor, Tensor, Tensor, Tensor]


class Footprint:
    """The footprint of one tensor, and why it is an upper bound where it isn't exact."""

    __slots__ = ("parts", "reason")

    def __init__(self, parts: Parts, reason: str = "") -> None:
        self.parts = parts
        self.reason = reason

    def map(self, function: Callable[[Tensor], Tensor]) -> Footprint:
        """The same operation on all four parts."""
        first, second, third, fourth = (function(part) for part in self.parts)
        return Footprint((first, second, third, fourth), self.reason)


def of_image(image: Tensor) -> Footprint:
    """Each pixel depends on itself."""
    rows, columns = image.shape[-2:]
    row = torch.arange(rows, dtype=torch.float32)[:, None].expand(image.shape)
    column = torch.arange(columns, dtype=torch.float32).expand(image.shape)
    return Footprint((row, -row, column, -column))


class Propagation:
    """Follows footprints through the elementary operations of one forward pass with one image."""

    def __init__(self, image: Tensor) -> None:
        self._footprints: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._footprints[image] = of_image(image)

    def of(self, tensor: Tensor) -> Footprint | None:
        """The tensor's footprint; None when it doesn't depend on the image."""
        found: Footprint | None = self._footprints.get(tensor)
        return found

    def operation(self, function: Any, arguments: tuple[Any, ...], options: Mapping[str, Any], output: Any) -> None:
        """Give every output of one elementary operation its footprint."""
        outputs = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        tracked = [leaf for leaf in tree_leaves((arguments, options)) if isinstance(leaf, Tensor) and self.of(leaf)]
        if not outputs or not tracked:
            return
        name = function._overloadpacket.__name__
        if name in CONSTANTS:
            for each in outputs:
                self._footprints.pop(each, None)
            return
        rule = RULES.get(name) or RULES.get(name.removesuffix("_"))
        if rule is None and torch.Tag.pointwise in function.tags:
            rule = _elementwise
        footprints: list[Footprint | None]
        if rule is None:
            footprints = [
                self._anything(tracked, each, f"`{name}` mixes positions in a way not followed") for each in outputs
            ]
        else:
            try:
                footprints = rule(self, function, arguments, options, outputs)
            except (RuntimeError, IndexError, ValueError, TypeError) as error:
                # A rule that fails on unusual arguments must not decide whether the network opens.
                reason = f"`{name}` could not be followed here ({type(error).__name__})"
                footprints = [self._anything(tracked, each, reason) for each in outputs]
        reasons = [footprint.reason for each in tracked if (footprint := self.of(each)) and footprint.reason]
        for each, footprint in zip(outputs, footprints, strict=False):
            if footprint is None:
                continue
            if reasons and not footprint.reason:
                footprint.reason = reasons[0]
            self._write(each, footprint, in_place=any(each is argument for argument in tracked))

    def _write(self, tensor: Tensor, footprint: Footprint, *, in_place: bool) -> None:
        self._footprints[tensor] = footprint
        base = tensor._base
        if in_place and base is not None and self.of(base) is not None:
            whole = self._anything([base, tensor], base, "an in-place operation wrote through a view")
            self._footprints[base] = whole

    def _anything(self, tracked: list[Tensor], output: Tensor, reason: str) -> Footprint:
        """Every output element may depend on everything any operand depends on."""
        found = [footprint for each in tracked if (footprint := self.of(each)) is not None]
        parts = [
            torch.stack([_amin(footprint.parts[index]) for footprint in found]).amin().expand(output.shape)
            for index in range(4)
        ]
        return Footprint((parts[0], parts[1], parts[2], parts[3]), reason)


Rule = Any  # (propagation, function, arguments, options, outputs) -> list[Footprint | None]


def _amin(part: Tensor) -> Tensor:
    return compact(part).amin()


def compact(part: Tensor) -> Tensor:
    """A broadcast tensor without its repetitions, so that work on it costs what is really there."""
    for axis, (size, stride) in enumerate(zip(part.shape, part.stride(), strict=True)):
        if size > 1 and stride == 0:
            part = part.narrow(axis, 0, 1)
    return part


def _merge(parts: list[Tensor], shape: torch.Size) -> Tensor:
    merged = compact(parts[0])
    for part in parts[1:]:
        merged = torch.minimum(merged, compact(part))
    return merged.expand(shape)


def _elementwise(
    propagation: Propagation,
    _function: Any,
    arguments: tuple[Any, ...],
    options: Mapping[str, Any],
    outputs: list[Tensor],
) -> list[Footprint | None]:
    found = [
        footprint
        for leaf in tree_leaves((arguments, options))
        if isinstance(leaf, Tensor) and (footprint := propagation.of(leaf)) is not None
    ]
    shape = outputs[0].shape
    parts = [_merge([footprint.parts[index] for footprint in found], shape) for index in range(4)]
    return [Footprint((parts[0], parts[1], parts[2], parts[3]))] * len(outputs)


def _same(
    propagation: Propagation,
    _function: Any,
    arguments: tuple[Any, ...],
    _options: Mapping[str, Any],
    outputs: list[Tensor],
) -> list[Footprint | None]:
    """Normalisation by stored statistics and the like: each element depends on itself alone."""
    footprint = propagation.of(arguments[0])
    if footprint is not None and arguments[0].shape != outputs[0].shape:
        raise ValueError("the shape changed")
    return [footprint, *[None] * (len(outputs) - 1)]


def _moved(
    propagation: Propagation,
    function: Any,
    arguments: tuple[Any, ...],
    options: Mapping[str, Any],
    outputs: list[Tensor],
) -> list[Footprint | None]:
    """Views, permutations, slices, concatenations: the footprint is moved by the very same operation."""

    def part_of(index: int) -> Callable[[Any], Any]:
        def replace(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            footprint = propagation.of(leaf)
            if footprint is not None:
                return footprint.parts[index]
            # Constants beside the image depend on nothing; integer tensors are indices and stay what they are.
            return leaf if not leaf.is_floating_point() else torch.full((), INFINITY).expand(leaf.shape)

        return replace

    if function._overloadpacket.__name__ in ("view", "_unsafe_view", "_reshape_alias"):
        # A broadcast footprint has strides that a view can't express; reshape moves the same elements.
        shape = outputs[0].shape
        footprint = propagation.of(arguments[0])
        return [footprint.map(lambda part: part.reshape(shape)) if footprint is not None else None]
    moved = []
    for index in range(4):
        new_arguments, new_options = tree_map(part_of(index), (arguments, dict(options)))
        if "dtype" in new_options:
            new_options.pop("dtype")
        result = function(*new_arguments, **new_options)
        moved.append([leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)])
    return [Footprint((first, second, third, fourth)) for first, second, third, fourth in zip(*moved, strict=True)]


def _reduced_to(part: Tensor, axes: list[int], *, keep: bool) -> Tensor:
    shape = list(part.shape)
    for axis in axes:
        shape[axis] = 1
    small = compact(part).amin(dim=axes, keepdim=True) if axes else compact(part)
    result = small.expand(shape)
    return result if keep else result.squeeze(tuple(axes))


def _reduction(
    propagation: Propagation,
    function: Any,
    arguments: tuple[Any, ...],
    options: Mapping[str, Any],
    outputs: list[Tensor],
) -> list[Footprint | None]:
    """mean, sum, amax, var … over some axes; the output's shape tells which."""
    footprint = propagation.of(arguments[0])
    if footprint is None:
        return [None] * len(outputs)
    place = 2 if function._overloadpacket.__name__ in ("norm", "linalg_vector_norm") else 1
    asked = arguments[place] if len(arguments) > place else options.get("dim")
    dimensions = arguments[0].dim()
    axes = [asked] if isinstance(asked, int) else list(asked or range(dimensions))
    axes = [axis % dimensions for axis in axes] if dimensions else []
    results: list[Footprint | None] = []
    for output in outputs:
        keep = output.dim() == dimensions
        results.append(footprint.map(lambda part, keep=keep: _reduced_to(part, axes, keep=keep)))  # type: ignore[misc]
    return results


def _along(position: int) -> Rule:
    """softmax, cumulative sums …: every element depends on all elements along one axis."""

    def rule(
        propagation: Propagation,
        _function: Any,
        arguments: tuple[Any, ...],
        options: Mapping[str, Any],
        outputs: list[Tensor],
    ) -> list[Footprint | None]:
        axis = arguments[position] if len(arguments) > position else options["dim"]
        axis %= arguments[0].dim()
        footprint = propagation.of(arguments[0])
        if footprint is None:
            return [None]
        return [footprint.map(lambda part: _reduced_to(part, [axis], keep=True).expand(part.shape))] * len(outputs)

    return rule


def _layer_norm(
    propagation: Propagation,
    _function: Any,
    arguments: tuple[Any, ...],
    _options: Mapping[str, Any],
    outputs: list[Tensor],
) -> list[Footprint | None]:
    footprint = propagation.of(arguments[0])
    if footprint is None:
        return [None] * len(outputs)
    axes = [arguments[0].dim() - 1 - index for index in range(len(arguments[1]))]
    spread = footprint.map(lambda part: _reduced_to(part, axes, keep=True).expand(part.shape))
    return [spread, *[None] * (len(outputs) - 1)]


def _group_norm(
    propagation: Propagation,
    function: Any,
    arguments: tuple[Any, ...],
    _options: Mapping[str, Any],
    outputs: list[Tensor],
) -> list[Footprint | None]:
    footprint = propagation.of(arguments[0])
    if footprint is None:
        return [None] * len(outputs)
    groups = arguments[6] if function._overloadpacket.__name__ == "native_group_norm" else arguments[1]
    shape = arguments[0].shape

    def spread(part: Tensor) -> Tensor:
        grouped = part.reshape(shape[0], groups, -1)
        return grouped.amin(2, keepdim=True).expand_as(grouped).reshape(shape)

    return [footprint.map(spread), *[None] * (len(outputs) - 1)]


# ---- windows -------------------------------------------------------------------------------------------------------


def extend(part: Tensor, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    """Continue a footprint linearly beyond its border along rows and columns."""
    for axis, (low, high) in ((-2, (before[0], after[0])), (-1, (before[1], after[1]))):
        if low <= 0 and high <= 0:
            continue
        size = part.shape[axis]
        first, last = part.narrow(axis, 0, 1), part.narrow(axis, size - 1, 1)
        step = (
            torch.nan_to_num(part.narrow(axis, 1, 1) - first, nan=0.0) if size > 1 else torch.zeros_like(first),
            torch.nan_to_num(last - part.narrow(axis, size - 2, 1), nan=0.0) if size > 1 else torch.zeros_like(last),
        )
        shape = [1] * part.dim()
        shape[axis] = -1
        ahead = torch.arange(low, 0, -1, dtype=part.dtype).view(shape)
        behind = torch.arange(1, high + 1, dtype=part.dtype).view(shape)
        part = torch.cat([first - ahead * step[0], part, last + behind * step[1]], dim=axis)
    return part


def _window(
    part: Tensor,
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    shape: tuple[int, int],
) -> Tensor:
    """The minimum over each window of a ``[image, channel, row, column]`` part."""
    reach = [(shape[k] - 1) * stride[k] + dilation[k] * (size[k] - 1) + 1 for k in (0, 1)]
    after = (reach[0] - padding[0] - part.shape[-2], reach[1] - padding[1] - part.shape[-1])
    wide = extend(part, padding, (max(after[0], 0), max(after[1], 0)))
    wide = wide[..., : reach[0], : reach[1]]
    return -F.max_pool2d(-wide, size, stride, 0, dilation)


def _pair(value: Any, default: tuple[int, int]) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value or [])
    if not values:
        return default
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


def _convolution(
    propagation: Propagation,
    function: Any,
    arguments: tuple[Any, ...],
    options: Mapping[str, Any],
    outputs: list[Tensor],
) -> list[Footprint | None]:
    names = [each.name for each in function._schema.arguments]
    values = {**dict(zip(names, arguments, strict=False)), **options}
    image, weight, output = values["input"], values["weight"], outputs[0]
    footprint = propagation.of(image)
    if footprint is None or image.dim() != 4:
        raise ValueError("only images with rows and columns")
    stride, padding = _pair(values.get("stride"), (1, 1)), _pair(values.get("padding"), (0, 0))
    dilation, groups = _pair(values.get("dilation"), (1, 1)), values.get("groups", 1)
    size = (weight.shape[2], weight.shape[3])
    shape = (output.shape[2], output.shape[3])

    def per_part(part: Tensor) -> Tensor:
        narrow = compact(part)
        narrow = narrow.expand(*narrow.shape[:2], *image.shape[2:])
        if narrow.shape[1] > 1:
            narrow = narrow.reshape(narrow.shape[0], groups, -1, *image.shape[2:]).amin(2)
        if values.get("transposed"):
            spread = _transposed_window(narrow, size, stride, padding, dilation, shape)
        else:
            spread = _window(narrow, size, stride, padding, dilation, shape)
        if spread.shape[1] > 1:
            spread = spread.repeat_interleave(output.shape[1] // groups, dim=1)
        return spread.expand(output.shape)

    return [footprint.map(per_part)]


def _transposed_window(
    part: Tensor,
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    shape: tuple[int, int],
) -> Tensor:
    """Output position o takes input i wherever o = i*stride - padding + k*dilation for a tap k."""
    for axis, k in ((-2, 0), (-1, 1)):
        places = torch.arange(shape[k])[:, None] + padding[k] - torch.arange(size[k])[None, :] * dilation[k]
        taken = (places % stride[k] == 0) & (places >= 0) & (places // stride[k] < part.shape[axis])
        index = (places // stride[k]).clamp(0, part.shape[axis] - 1)
        gathered = part.index_select(axis, index.flatten()).unflatten(axis, index.shape)
        fits = taken if axis == -1 else taken[..., None]
        part = torch.where(fits, gathered, INFINITY).amin(axis if axis == -1 else -2)
    return part


def _pool(
    propagation: Propagation,
    function: Any,
    arguments: tuple[Any, ...],
    options: Mapping[str, Any],
    outputs: list[Tensor],
) -> list[Footprint | None]:
    names = [each.name for each in function._schema.arguments]
    values = {**dict(zip(names, arguments, strict=False)), **options}
    footprint = propagation.of(arguments[0])
    if footprint is None:
        return [None] * len(outputs)
    size = _pair(values["kernel_size"], (1, 1))
    stride, padding = _pair(values.get("stride"), size), _pair(values.get("padding"), (0, 0))
    dilation = _pair(values.get("dilation"), (1, 1))
    shape = (outputs[0].shape[-2], outputs[0].shape[-1])
    repeat = arguments[0].shape

    def per_part(part: Tensor) -> Tensor:
        narrow = compact(part)
        narrow = narrow.expand(*narrow.shape[:-2], *repeat[-2:])
        pooled = _window(narrow, size, stride, padding, dilation, shape)
        return pooled.expand(*repeat[:-2], *shape)

    return [footprint.map(per_part), *[None] * (len(outputs) - 1)]


def _adaptive_pool(
    propagation: Propagation,
    _function: Any,
    arguments: tuple[Any, ...],
    _options: Mapping[str, Any],
    outputs: list[Tensor],
) -> list[Footprint | None]:
    footprint = propagation.of(arguments[0])
    if footprint is None:
        return [None] * len(outputs)

    def per_part(part: Tensor) -> Tensor:
        full = outputs[0].shape
        part = compact(part)
        part = part.expand(*part.shape[:-2], *arguments[0].shape[-2:])
        for axis in (-2, -1):
            size, bins = part.shape[axis], full[axis]
            edges = [(index * size // bins, math.ceil((index + 1) * size / bins)) for index in range(bins)]
            part = torch.cat([part.narrow(axis, a, b - a).amin(axis, keepdim=True) for a, b in edges], dim=axis)
        return part.expand(full)

    return [footprint.map(per_part), *[None] * (len(outputs) - 1)]


def _resize(
    propagation: Propagation,
    function: Any,
    arguments: tuple[Any, ...],
    _options: Mapping[str, Any],
    outputs: list[Tensor],
) -> list[Footprint | None]:
    """Interpolated resizing reads up to two (bilinear) or four (bicubic) neighbours along each axis."""
    footprint = propagation.of(arguments[0])
    if footprint is None:
        return [None]
    name = function._overloadpacket.__name__
    if "_aa" in name:
        raise ValueError("antialiased resizing reads a window that depends on the scale")
    taps = (-1, 2) if "bicubic" in name else (0, 1)
    align = bool(arguments[2])

    def per_part(part: Tensor) -> Tensor:
        for axis in (-2, -1):
            size, new = part.shape[axis], outputs[0].shape[axis]
            places = torch.arange(new, dtype=torch.float64)
            source = places * ((size - 1) / max(new - 1, 1)) if align else ((places + 0.5) * size / new - 0.5)
            source = source.clamp(min=0) if "bilinear" in name else source
            low = source.floor().long()
            exact = source == low
            neighbours = [
                part.index_select(axis, torch.where(exact, low, low + tap).clamp(0, size - 1))
                for tap in range(taps[0], taps[1] + 1)
            ]
            part = torch.stack(neighbours).amin(0)
        return part

    return [footprint.map(per_part)]


# ---- products ------------------------------------------------------------------------------------------------------


def _product(
    propagation: Propagation,
    _function: Any,
    arguments: tuple[Any, ...],
    _options: Mapping[str, Any],
    outputs: list[Tensor],
) -> list[Footprint | None]:
    """mm, bmm, addmm, baddbmm: an entry depends on its row of the left and its column of the right factor."""
    *added, left, right = [each for each in arguments if isinstance(each, Tensor)]
    shape = outputs[0].shape
    parts = []
    for index in range(4):
        pieces = []
        if (footprint := propagation.of(left)) is not None:
            pieces.append(_reduced_to(footprint.parts[index], [left.dim() - 1], keep=True).expand(shape))
        if (footprint := propagation.of(right)) is not None:
            pieces.append(_reduced_to(footprint.parts[index], [right.dim() - 2], keep=True).expand(shape))
        pieces += [footprint.parts[index].expand(shape) for each in added if (footprint := propagation.of(each))]
        parts.append(_merge(pieces, shape))
    return [Footprint((parts[0], parts[1], parts[2], parts[3]))]


def _attention(
    propagation: Propagation,
    _function: Any,
    arguments: tuple[Any, ...],
    _options: Mapping[str, Any],
    outputs: list[Tensor],
) -> list[Footprint | None]:
    """softmax(query keyᵀ) value: a token depends on its own query and on all keys and values of its sequence."""
    query, key, value = (propagation.of(each) for each in arguments[:3])
    if query is None or key is None or value is None:
        raise ValueError("attention over constants")
    shape = outputs[0].shape
    last = arguments[0].dim() - 1
    parts = [
        _merge(
            [
                _reduced_to(query.parts[index], [last], keep=True).expand(shape),
                _reduced_to(key.parts[index], [last - 1, last], keep=True).expand(shape),
                _reduced_to(value.parts[index], [last - 1], keep=True).expand(shape),
            ],
            shape,
        )
        for index in range(4)
    ]
    return [Footprint((parts[0], parts[1], parts[2], parts[3])), *[None] * (len(outputs) - 1)]


def _copied(
    propagation: Propagation,
    _function: Any,
    arguments: tuple[Any, ...],
    _options: Mapping[str, Any],
    outputs: list[Tensor],
) -> list[Footprint | None]:
    """copy_(target, source): the target takes the source's footprint."""
    footprint = propagation.of(arguments[1])
    return [footprint.map(lambda part: part.expand(outputs[0].shape)) if footprint is not None else None]


def _padded(
    propagation: Propagation,
    _function: Any,
    arguments: tuple[Any, ...],
    _options: Mapping[str, Any],
    _outputs: list[Tensor],
) -> list[Footprint | None]:
    """Constant padding of rows and columns continues the image; padding of other axes depends on nothing."""
    footprint = propagation.of(arguments[0])
    if footprint is None:
        return [None]
    amounts = list(arguments[1])
    if len(amounts) > 4 and any(amounts[4:]):
        return [footprint.map(lambda part: F.pad(part, amounts, value=INFINITY))]
    left, right, top, bottom = [*amounts, 0, 0, 0, 0][:4]

    def per_part(part: Tensor) -> Tensor:
        kept = part[
            ...,
            max(-top, 0) : part.shape[-2] - max(-bottom, 0) if part.dim() > 1 else None,
            max(-left, 0) : part.shape[-1] - max(-right, 0),
        ]
        return extend(kept, (max(top, 0), max(left, 0)), (max(bottom, 0), max(right, 0)))

    return [footprint.map(per_part)]


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
    **dict.fromkeys(("max_pool2d_with_indices", "max_pool2d", "avg_pool2d"), _pool),
    **dict.fromkeys(("_adaptive_avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"), _adaptive_pool),
    **dict.fromkeys(("upsample_bilinear2d", "upsample_bicubic2d"), _resize),
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
    "convolution": _convolution,
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "copy_": _copied,
    "constant_pad_nd": _padded,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_attention_math": _attention,
}
