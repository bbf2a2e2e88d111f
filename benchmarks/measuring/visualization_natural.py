"""Time until the first preview, and how many units' optimized images excite them more than any natural image."""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from math import inf
from threading import Event

import torch
from measuring.mining_work import convolutions, seeded_resnet18
from measuring.pictures import picture
from measuring.rows import Row

import convscope as cs
from convscope.errors import Cancelled
from convscope.progress import watch

UNITS = 100


def measure_preview(quick: bool) -> list[Row]:  # noqa: ARG001 - it takes seconds
    """From asking for 16 units' images, of a network just loaded, to the first picture of them."""
    network = seeded_resnet18()
    images = torch.cat([network.prepare(picture(seed, 224, 224)) for seed in range(8)])
    start, worked = time.perf_counter(), time.process_time()
    shown: list[tuple[float, float]] = []
    cancel = Event()

    def see(_view: object) -> None:
        shown.append((time.perf_counter() - start, time.process_time() - worked))
        cancel.set()

    with watch(lambda _: None, cancel, see), suppress(Cancelled):
        network.view("feature_visualization", "layer3.1.conv2", images=images, units="0-15")
    what = f"16 units of layer3.1.conv2 of ResNet-18 beside 8 images, {torch.get_num_threads()} threads"
    return [
        Row("until the first preview of optimized images", shown[0][0], "s", 10.0, what),
        Row("the same in processor time", shown[0][1], "s", None, "of all threads"),
    ]


def _bound(network: cs.Network, address: str, unit: int) -> float:
    """The largest value that a convolution's unit can have, as far as its weights and the rectifier before it tell."""
    layer = network.layer(address)
    source = layer
    while source is layer or source.kind.lower().startswith(("zeropad", "pad", "dropout", "maxpool")):
        if source.inputs[0] == "input":
            return inf
        source = network.layer(source.inputs[0])
    if layer.kernel is None or not source.kind.lower().startswith(("relu", "hardtanh")):
        return inf
    weight, bias = layer.kernel.weight[unit].detach(), layer.kernel.bias
    most = 6.0 if "6" in source.kind or source.kind.lower().startswith("hardtanh") else inf
    rising = float(weight.clamp(min=0).sum())
    return (rising * most if rising else 0.0) + (float(bias[unit]) if bias is not None else 0.0)


def measure(quick: bool) -> list[Row]:
    """Random units of the embedded network, and of the one that the environment names; no rows without photos."""
    folder = os.environ.get("CONVSCOPE_IMAGES")
    if folder is None:
        print("CONVSCOPE_IMAGES doesn't name a folder of photos: not compared with natural images")
        return []
    images = cs.load_images(folder)
    spec, weights = (os.environ.get(f"CONVSCOPE_{name}") for name in ("NETWORK", "WEIGHTS"))
    preprocessing = json.loads(os.environ.get("CONVSCOPE_PREPROCESSING", "{}"))
    networks = [cs.load("demo")]
    if spec is not None:
        networks.append(cs.load(spec, weights=weights, **preprocessing))
    return [row for network in networks for row in _against_photos(network, images, 10 if quick else UNITS)]


def _against_photos(network: cs.Network, images: cs.ImageSet, count: int) -> list[Row]:
    wanted: dict[str, list[int]] = defaultdict(list)
    layers = {address: network.layer(address).units for address in convolutions(network)}
    every = [(address, unit) for address, units in layers.items() for unit in range(units)]
    for address, unit in random.Random(0).sample(every, count):  # noqa: S311 - a sample, not a secret
        wanted[address].append(unit)
    with tempfile.TemporaryDirectory(prefix="convscope-benchmark-") as study:
        cs.mine(network, images, layers=list(wanted), k=1, study=study)
        below, further, photos, bounded, started = [], 0, 0, 0, time.process_time()
        for address, units in wanted.items():
            view = network.view(
                "feature_visualization", address, units=",".join(map(str, sorted(units))), study=study, ranks=1
            )
            further += sum(steps > 0 for steps in view.meta["further_steps"])
            photos += len(view.meta["from_natural"])
            pairs = list(zip(sorted(units), view["score"].tolist(), view["natural_score"].tolist(), strict=True))
            below += [f"{address}:{unit} ({ours:.3g} of {best:.3g})" for unit, ours, best in pairs if not ours > best]
            bounded += sum(
                not ours > best and best >= _bound(network, address, unit) * (1 - 1e-5) for unit, ours, best in pairs
            )
            print(f"{address}: " + ", ".join(f"{ours:.3g} of {best:.3g}" for _, ours, best in pairs), flush=True)
        seconds = (time.process_time() - started) / count
    what = f"{count} random units of all convolutions, the best of {len(images)} images"
    missing = f"; not above: {', '.join(below)}" if below else ""
    bounds = (
        f"{what}; without {bounded} whose best photo reaches all that their weights and the rectifier before them allow"
    )
    name = "share of optimized images not above the best natural one"
    return [
        Row(f"{name}, {network.name}", len(below) / count, "", 0.05, what + missing),
        Row(f"… of those that can rise, {network.name}", (len(below) - bounded) / (count - bounded), "", 0.05, bounds),
        Row(f"images that went on without transforms, {network.name}", further / count, "", None, what),
        Row(f"… of them from their best photo, {network.name}", photos / count, "", None, what),
        Row(f"processor time per optimized image, {network.name}", seconds, "s", None, what),
    ]
