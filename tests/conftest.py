"""What every test may rely on."""

from __future__ import annotations

import torch

torch.set_num_threads(1)

try:
    import torchvision  # noqa: F401
except (ImportError, RuntimeError):
    # Where only a torchvision built for another torch can be had, its Python parts still work once two schemas exist.
    # Tests only; the library must be kept alive, or the schemas go with it.
    TORCHVISION_SCHEMAS = torch.library.Library("torchvision", "DEF")
    for _operator in ("nms", "qnms"):
        TORCHVISION_SCHEMAS.define(f"{_operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
