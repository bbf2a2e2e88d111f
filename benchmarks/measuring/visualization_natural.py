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
    """Random units of the network that the environment names; none where it names none."""
    spec, weights, folder = (os.environ.get(f"CONVSCOPE_{name}") for name in ("NETWORK", "WEIGHTS", "IMAGES"))
    if spec is None or folder is None:
        print(
            "CONVSCOPE_NETWORK and CONVSCOPE_IMAGES don't name a network and photos: not compared with natural images"
        )
        return []
    preprocessing = json.loads(os.environ.get("CONVSCOPE_PREPROCESSING", "{}"))
    network = cs.load(spec, weights=weights, **preprocessing)
    images = cs.load_images(folder)
    wanted: dict[str, list[int]] = defaultdict(list)
    layers = {address: network.layer(address).units for address in convolutions(network)}
    every = [(address, unit) for address, units in layers.items() for unit in range(units)]
    for address, unit in random.Random(0).sample(every, 10 if quick else UNITS):  # noqa: S311 - a sample, not a secret
        wanted[address].append(unit)
    with tempfile.TemporaryDirectory(prefix="convscope-benchmark-") as study:
        cs.mine(network, images, layers=list(wanted), k=1, study=study)
        below, bounded, started = [], 0, time.process_time()
        for address, units in wanted.items():
            view = network.view(
                "feature_visualization", address, units=",".join(map(str, sorted(units))), study=study, ranks=1
            )
            pairs = list(zip(sorted(units), view["score"].tolist(), view["natural_score"].tolist(), strict=True))
            below += [f"{address}:{unit} ({ours:.3g} of {best:.3g})" for unit, ours, best in pairs if not ours > best]
            bounded += sum(
                not ours > best and best >= _bound(network, address, unit) * (1 - 1e-5) for unit, ours, best in pairs
            )
            print(f"{address}: " + ", ".join(f"{ours:.3g} of {best:.3g}" for _, ours, best in pairs), flush=True)
        seconds = (time.process_time() - started) / sum(map(len, wanted.values()))
    count = sum(map(len, wanted.values()))
    what = f"{network.name}, {count} random units of all convolutions, the best of {len(images)} images"
    missing = f"; not above: {', '.join(below)}" if below else ""
    able = (
        f"{what}; without {bounded} whose best photo reaches all that their weights and the rectifier before them allow"
    )
    return [
        Row("share of optimized images not above the best natural one", len(below) / count, "", 0.05, what + missing),
        Row("… of the units that can rise", (len(below) - bounded) / (count - bounded), "", 0.05, able),
        Row("processor time per optimized image", seconds, "s", None, what),
    ]
