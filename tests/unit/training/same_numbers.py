"""500 steps of a loop that uses every random number generator, watched in the folder that is named or not at all.

Run as a script: prints what the loop computed, to the last bit.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys

import numpy as np
import torch
import torch.nn.functional as F
from loops import data, small
from torch import nn

from convscope.training import Every, Monitor


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()


def loop(module: nn.Module, optimizer: torch.optim.Optimizer, monitor: Monitor | None) -> list[str]:
    """With dropout, batch normalization, augmentation from three generators, accumulation and clipping."""
    losses = []
    for each in range(500):
        images, labels = data(4, seed=each % 7)
        if random.random() < 0.5:
            images = images.flip(3)
        images = images.roll(int(np.random.randint(-1, 2)), 2) + 0.1 * torch.randn(images.shape)
        loss = F.cross_entropy(module(images), labels)
        loss.backward()
        if each % 2:
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=each % 4 == 1)
        losses.append(loss.item().hex())
        if monitor is not None:
            monitor.log(loss=loss)
    return losses


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    module = small()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    if len(sys.argv) == 1:
        losses = loop(module, optimizer, None)
    else:
        every = {"filters": 1, "histograms": 1, "kernels": Every(2), "maps": Every(3)}
        with Monitor(module, optimizer, store=sys.argv[1], images=data(3, seed=99), budget=None, **every) as monitor:
            losses = loop(module, optimizer, monitor)
        assert not monitor.problems, monitor.problems
        assert not monitor.dropped
    answer = {
        "losses": losses,
        "weights": {name: digest(value) for name, value in module.state_dict().items()},
        "momentum": [digest(each["momentum_buffer"]) for each in optimizer.state.values()],
        "torch": digest(torch.get_rng_state()),
        "numpy": hashlib.sha256(np.random.get_state()[1].tobytes()).hexdigest(),
        "python": hashlib.sha256(repr(random.getstate()).encode()).hexdigest(),
    }
    print(json.dumps(answer))  # noqa: T201 - what the test reads


if __name__ == "__main__":
    main()
