"""torch-lucent's images of some units of ResNet-18, in its own environment, which has its old kornia.

`python visualization_lucent.py LAYER UNITS FILE`: writes the images to FILE and prints what they took, as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from importlib.metadata import version

import numpy as np
import torch
from measuring.resnet18 import resnet18


def main() -> None:
    """Make each unit's image as anyone would: the defaults, one call per unit."""
    layer, units, file = sys.argv[1], [int(each) for each in sys.argv[2].split(",")], sys.argv[3]
    torch.set_num_threads(1)
    if not _importable():
        print(json.dumps({"missing": True}))
        return
    from lucent.optvis import render

    torch.manual_seed(0)
    module = resnet18().eval()
    before = _peak()
    images, seconds = [], []
    for unit in units:
        start = time.process_time()
        found = render.render_vis(module, f"{layer.replace('.', '_')}:{unit}", show_image=False, progress=False)
        seconds.append(time.process_time() - start)
        images.append(found[0][0])
        print(f"torch-lucent: {layer}:{unit} in {seconds[-1]:.1f} s", file=sys.stderr)
    np.save(file, np.stack(images))
    told = {"seconds": seconds, "peak": _peak(), "before": before, "version": version("torch-lucent")}
    print(json.dumps(told))


def _importable() -> bool:
    global _schemas
    try:
        try:
            import torchvision  # noqa: F401
        except RuntimeError:
            # One built for another torch still has its Python parts, given two schemas.
            _schemas = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                _schemas.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import lucent.optvis.render  # noqa: F401
    except (ImportError, AttributeError):
        return False
    return True


_schemas: torch.library.Library | None = None


def _peak() -> float:
    """The most memory this process ever held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
