"""What TorchLens says of some networks, written as .npz, in a process of its own: it leaves all of torch wrapped."""

from __future__ import annotations

import importlib
import sys
import warnings

import numpy as np
import torch


def main(path: str, names: list[str]) -> None:
    """Both rules' results for class 3 of each network."""
    import torchlens.attribution as torchlens
    from architectures import architecture, noise

    rules = {"deconvnet": torchlens.deconvolution, "guided_backprop": torchlens.guided_backprop}
    found = {}
    for name in names:
        module, images = architecture(name).double(), noise(name).double()
        for rule, attribute in rules.items():
            # The target is one number of one output, so the images go one by one.
            each = [attribute(module, image[None], target=lambda scores: scores[0, 3]).values for image in images]
            found[f"{name} {rule}"] = torch.cat(each).numpy()
    np.savez(path, **found)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    importlib.import_module("conftest")  # before torchvision, whose wheel may be for another torch
    main(sys.argv[1], sys.argv[2:])
