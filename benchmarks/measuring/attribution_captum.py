"""Each method beside Captum's: the same network, images, class and settings, in turns within one process."""

from __future__ import annotations

import gc
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from measuring.attribution_work import THREADS, captum, check_equal, images, in_turns, seconds, seeded
from measuring.rows import Row

from convscope.mining.shard import torch_threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from convscope.network.batch import Batch
    from convscope.network.network import Network

GOAL = 1.0
BATCH, CLASS = 8, 5
# Of integrated gradients: all of them at once there, which memory has to hold.
STEPS = {"ResNet-18": 16, "VGG-16": 4, "AlexNet": 50}
# The layer that Grad-CAM is asked for: its name, the same for both.
MAPS = {"ResNet-18": "layer4", "VGG-16": "features.29", "AlexNet": "features.11"}
WINDOW, STRIDE = 80, 72  # nine places


def measure(quick: bool) -> list[Row]:
    """Rows for all methods on each network; with ``quick`` not on VGG-16."""
    attr = captum()
    if attr is None:
        return []
    rows = []
    for name in MAPS:
        if quick and name == "VGG-16":
            continue
        with torch_threads(THREADS):
            rows += _measure(name, attr, quick)
        gc.collect()
    return rows


def _measure(name: str, attr: Any, quick: bool) -> list[Row]:
    network = seeded(name)
    batch = images(network, BATCH)
    rounds = 2 if quick else 3 if name == "VGG-16" else 5
    how = (
        f"Captum {version('captum')}, the same {BATCH} prepared images, class and settings, {THREADS} thread, "
        "processor time; ours is the whole View, with maps and pictures"
    )
    rows = []
    for method, (ours, theirs, settings) in _pairs(name, network, batch, attr).items():
        # The first of each is the warm-up, too.
        check_equal(f"{method} on {name}", seconds(ours)[0], seconds(theirs)[0])
        ratio, mine, captums = in_turns(ours, theirs, rounds)
        print(f"{method} on {name}: {mine / BATCH:.3f} s per image, Captum {captums / BATCH:.3f}", flush=True)
        rows.append(Row(f"{method} on {name}, per image", ratio, "×", GOAL, f"{how}{settings}"))
    return rows


def _pairs(name: str, network: Network, batch: Batch, attr: Any) -> dict[str, tuple[Any, Any, str]]:
    model, x, steps = network.module, batch.tensor, STEPS[name]
    zeros = torch.zeros_like(x)  # what a mean color is when it is prepared

    def ours(
        method: str, target: str = "", array: str = "attribution", **parameters: Any
    ) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            view = network.view(method, target, batch, objective=f"score:{CLASS}", **parameters)
            return torch.from_numpy(view[array])

        return run

    def theirs(explainer: Any, **options: Any) -> Callable[[], torch.Tensor]:
        return lambda: explainer.attribute(x.clone(), target=CLASS, **options).detach()

    cam = attr.LayerGradCam(model, model.get_submodule(MAPS[name]))
    stretched = attr.LayerAttribution.interpolate
    window = {"sliding_window_shapes": (3, WINDOW, WINDOW), "strides": (3, STRIDE, STRIDE)}

    def grad_cam() -> torch.Tensor:
        coarse = cam.attribute(x.clone(), target=CLASS, relu_attributions=True).detach()
        found: torch.Tensor = stretched(coarse, tuple(x.shape[2:]), "bilinear")
        return found

    return {
        "gradient": (ours("gradient"), theirs(attr.Saliency(model), abs=False), ""),
        "deconvnet": (ours("deconvnet"), theirs(attr.Deconvolution(model)), ""),
        "guided backpropagation": (ours("guided_backprop"), theirs(attr.GuidedBackprop(model)), ""),
        "integrated gradients": (
            ours("integrated_gradients", steps=steps, baseline="mean", tolerance=0),
            theirs(attr.IntegratedGradients(model), baselines=zeros, n_steps=steps),
            f", {steps} steps, all at once there",
        ),
        "occlusion": (
            ours("occlusion", window=WINDOW, stride=STRIDE, fill="mean"),
            lambda: theirs(attr.Occlusion(model), baselines=zeros, **window)().mean(dim=1, keepdim=True),
            f", squares of {WINDOW} pixels every {STRIDE}; ours also records a unit's activity and the classes",
        ),
        "Grad-CAM": (ours("grad_cam", layer=MAPS[name]), grad_cam, f", at {MAPS[name]}, stretched over the image"),
    }
