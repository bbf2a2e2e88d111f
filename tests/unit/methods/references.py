"""Second implementations that the tests of gradients share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from convscope.network.batch import Batch

if TYPE_CHECKING:
    from convscope.network.network import Network
    from convscope.testing import TinyNetwork

LABELS = (1, 0, 2)


def double(tiny: TinyNetwork, *, generic: bool = False) -> tuple[Network, Batch]:
    """A tiny network in float64 and three labelled images; ``generic`` ones meet no kink of a ReLU exactly."""
    network = tiny.network()
    network.module.double()
    tensor = tiny.images(3)
    if generic:
        tensor = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return network, Batch(tensor.double(), ("a", "b", "c"), ("a.png", "b.png", "c.png"), LABELS)


def objective_value(network: Network, output, objective: str, labels) -> torch.Tensor:
    """The objective once more, as a textbook writes it; the mean over the images."""
    scores = network.scores(output)
    if objective == "loss:true":
        return F.cross_entropy(scores, torch.tensor(labels))
    if objective == "loss:predicted":
        return F.cross_entropy(scores, scores.argmax(1))
    if objective == "loss:2":
        return F.cross_entropy(scores, torch.full((len(scores),), 2))
    if objective == "score":
        return scores.max(dim=1).values.mean()
    assert objective == "score:1"
    return scores[:, 1].mean()


def backward_by_torch(network: Network, batch: Batch, objective: str) -> dict[str, np.ndarray]:
    """Each parameter's gradient by loss.backward() on a network in evaluation mode."""
    module = network.module.eval()
    module.zero_grad(set_to_none=True)
    objective_value(network, module(batch.tensor), objective, batch.labels).backward()
    gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
    module.zero_grad(set_to_none=True)
    return {name: grad.numpy() for name, grad in gradients.items() if grad is not None}


def laid_out(layer, gradient: np.ndarray, view) -> np.ndarray:
    """A parameter's gradient as ``[unit, slice, row, column]`` with the slices of ``view``, value by value."""
    result = np.zeros(view["kernel"].shape)
    kernel = layer.kernel
    for unit, place, row, column in np.ndindex(*result.shape):
        channel = int(view["channel"][unit, place])
        if kernel.operation == "convolution":
            group = unit // (gradient.shape[0] // kernel.groups)
            value = gradient[unit, channel - group * gradient.shape[1], row, column]
        elif kernel.operation == "transposed convolution":
            value = gradient[channel, unit % gradient.shape[1], row, column]
        else:
            size = result.shape[2] * result.shape[3]
            value = gradient[unit, channel * size + row * result.shape[3] + column]
        result[unit, place, row, column] = value
    return result
