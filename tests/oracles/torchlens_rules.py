"""What TorchLens says of some networks, written as .npz: in a process of its own, for it leaves all of torch wrapped."""

from __future__ import annotations

import sys
import warnings

import conftest  # noqa: F401 - torchvision, wherever its wheel is for another torch
import numpy as np
import torch
from architectures import architecture, noise


def main(path: str, names: list[str]) -> None:
    """Both rules' results for class 3 of each network."""
    import torchlens.attribution as torchlens

    rules = {"deconvnet": torchlens.deconvolution, "guided_backprop": torchlens.guided_backprop}
    found = {}
    for name in names:
        module, images = architecture(name), noise(name)
        for rule, attribute in rules.items():
            # The target is one number of one output, so the images go one by one.
            each = [attribute(module, image[None], target=lambda scores: scores[0, 3]).values for image in images]
            found[f"{name} {rule}"] = torch.cat(each).numpy()
    np.savez(path, **found)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1], sys.argv[2:])
