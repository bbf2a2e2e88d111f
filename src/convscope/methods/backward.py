"""Forward and backward over many images in mini-batches: what every method with a gradient asks a network."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING

from convscope.progress import report

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch

    from convscope.methods.objective import BoundObjective
    from convscope.network.batch import Batch
    from convscope.network.network import Network

# Multiplications of one mini-batch's forward pass. Two slow cores do them in well under a second, so cancelling is felt
# at once. A fixed rule and not a stopwatch: the same images must give the same bytes.
_WORK = 8e9
_LARGEST_MINI_BATCH = 32
_LARGEST_MAP = 32 * 2**20  # bytes; above this the C library's allocator keeps nothing for the next time


@dataclass(frozen=True, eq=False)
class Step:
    """One mini-batch: which images, and what was recorded, each call's tensors by its address."""

    start: int
    stop: int
    outputs: dict[str, torch.Tensor]
    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)
    values: list[float] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)


def multiplications(network: Network) -> int:
    """Multiplications of all convolutions and linear layers for one image."""
    total = 0
    for layer in network.layers:
        if layer.kernel is not None:
            positions = 1
            for axis, size in zip(layer.axes, layer.output_shape, strict=False):
                positions *= size if axis in ("row", "column") else 1
            total += layer.kernel.weight.numel() * positions
    return total


def mini_batch_size(network: Network) -> int:
    """How many images go through the network at once."""
    return max(1, min(_LARGEST_MINI_BATCH, int(_WORK / max(1, multiplications(network)))))


def images_per_pass(network: Network) -> int:
    """How many images a method takes at a time that goes forward and backward through the network again and again.

    The weights are laid out anew for each pass, so more images cost less each; but a map of more than 32 MiB is given
    back to the system after each pass and has to be cleared by it for the next, which costs more than that.
    """
    largest = max((prod(layer.output_shape) for layer in network.layers), default=1) * network.dtype.itemsize
    work = int(2 * _WORK / max(1, multiplications(network)))
    return max(1, min(_LARGEST_MINI_BATCH, work, _LARGEST_MAP // max(1, largest)))


def even_parts(total: int, most: int) -> list[slice]:
    """As few runs of at most ``most`` as there can be, as long as each other: a short one costs nearly as much.

    >>> even_parts(50, 8)[:2], len(even_parts(50, 8))
    ([slice(0, 8, None), slice(8, 15, None)], 7)
    """
    count = -(-total // most)
    size, longer = divmod(total, count)
    return [
        slice(start, stop) for start, stop in pairwise(each * size + min(each, longer) for each in range(count + 1))
    ]


def part_of(batch: Batch, start: int, stop: int) -> Batch:
    """Some images of a batch."""
    part = slice(start, stop)
    return replace(
        batch,
        tensor=batch.tensor[part],
        fingerprints=batch.fingerprints[part],
        names=batch.names[part],
        labels=batch.labels[part],
    )


def mini_batches(network: Network, batch: Batch, message: str, size: int = 0) -> Iterator[tuple[int, int, Batch]]:
    """Cut images into runs (start, stop, batch), telling the watcher before each and at the end."""
    step = size or mini_batch_size(network)
    for start in range(0, len(batch), step):
        report(start, len(batch), message)
        stop = min(start + step, len(batch))
        yield start, stop, part_of(batch, start, stop)
    report(len(batch), len(batch), message)


def backward(
    network: Network,
    objective: BoundObjective,
    batch: Batch,
    layers: Sequence[str],
    *,
    message: str,
    inputs: bool = False,
    size: int = 0,
) -> Iterator[Step]:
    """For each mini-batch: outputs of ``layers``, and the gradient of each image's own objective with respect to them.

    An image's gradient doesn't depend on which other images are in the batch; a mean over images divides by their
    number. The trace is closed before a step is handed out, so nothing lives on in the module while the caller works.
    """
    recorded = tuple(dict.fromkeys((*layers, *objective.layers)))
    for start, stop, part in mini_batches(network, batch, message, len(batch) if objective.whole_batch else size):
        with network.trace(recorded, gradients=True, inputs=inputs) as trace:
            output = trace.run(part.tensor, stop=not objective.needs_output)
            values, labels = objective.values(network, trace, output, part)
            gradients = trace.gradients(values.sum(), list(layers))
            step = Step(
                start,
                stop,
                {name: trace[name].detach() for name in layers},
                {name: trace.input(name).detach() for name in layers} if inputs else {},
                {name: gradient.detach() for name, gradient in gradients.items()},
                values.detach().double().flatten().tolist(),
                labels,
            )
        yield step
