"""A tiny session: three painted images, a network of two convolutions, and methods that wait, fail or report."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from starlette.testclient import TestClient
from torch import nn

from convscope.errors import Refused
from convscope.images import load_images
from convscope.methods.base import Method, method_class, parameter
from convscope.network.network import Network
from convscope.progress import preview, report
from convscope.server import question as question_module
from convscope.server.app import create_app
from convscope.server.bundle import Bundle
from convscope.server.jobs import Jobs
from convscope.server.session import Opened, Session
from convscope.store import Store
from convscope.view import View

ODD = "<img/src=x/onerror=alert(1)>"


def png(seed=0, size=(24, 20)):
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PillowImage.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def tiny_network():
    module = nn.Sequential()
    module.add_module("conv1", nn.Conv2d(3, 4, 3, stride=2))
    module.add_module(ODD, nn.ReLU())
    module.add_module("conv2", nn.Conv2d(4, 6, 3, padding=1))
    module.add_module("pool", nn.AdaptiveAvgPool2d(1))
    module.add_module("flatten", nn.Flatten())
    module.add_module("fc", nn.Linear(6, 5))
    # Not torch's own generator: a session builds its network in another thread, beside a test that draws numbers, too.
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in module.parameters():
            weights.uniform_(-0.3, 0.3, generator=generator)
    return Network.from_module(module, image_size=16, class_names=["a", "b", "c", ODD, "e"], name="tiny", source="tiny")


@dataclass(frozen=True)
class Slow(Method):
    """Works until the gate opens, and reports."""

    name = "slow"
    title = "Slow"
    target = "network"
    steps: int = parameter(1000, "how many steps")

    gate = threading.Event()
    entered = threading.Event()
    left = threading.Event()
    runs: ClassVar[list[int]] = []

    def compute(self, network, target, batch):
        Slow.runs.append(self.steps)
        Slow.entered.set()
        try:
            for step in range(self.steps):
                if Slow.gate.wait(0.005):
                    break
                report(step, self.steps, "working slowly")
        finally:
            Slow.left.set()
        return View("maps", {"map": np.zeros((1, 2, 2), np.float32)}, {"map": ("unit", "row", "column")})


@dataclass(frozen=True)
class Long(Method):
    """Takes as long as its gate says, step by step, and shows what it has so far."""

    name = "long"
    title = "Long"
    target = "network"
    long: ClassVar[bool] = True
    steps: int = parameter(100_000, "how many steps")
    fails: bool = parameter(False, "end in a refusal")

    gate = threading.Event()
    log: ClassVar[list[str]] = []

    def compute(self, network, target, batch):
        for step in range(self.steps):
            Long.log.append(f"step {self.steps}")
            if Long.gate.wait(0.002):
                break
            preview(lambda step=step: self.view(step))
            report(step, self.steps, "working long")
        Long.log.append(f"end {self.steps}")
        if self.fails:
            raise Refused("there is no honest answer", next_step="ask for something else")
        return self.view(self.steps)

    def view(self, step):
        return View("maps", {"map": np.full((1, 2, 2), step, np.float32)}, {"map": ("unit", "row", "column")})


@dataclass(frozen=True)
class Broken(Method):
    """Has a bug."""

    name = "broken"
    title = "Broken"
    target = "network"

    def compute(self, network, target, batch):
        raise ZeroDivisionError("secret detail")


@pytest.fixture
def slow(monkeypatch):
    """The method ``slow`` (and ``broken``), with its gate closed."""
    own = {"slow": Slow, "broken": Broken, "long": Long}
    monkeypatch.setattr(question_module, "method_class", lambda name: own.get(name) or method_class(name))
    for event in (Slow.gate, Slow.entered, Slow.left):
        event.clear()
    Slow.runs.clear()
    yield Slow
    Slow.gate.set()


@pytest.fixture
def long(slow):
    """The method ``long``, with its gate closed."""
    Long.gate.clear()
    Long.log.clear()
    yield Long
    Long.gate.set()


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        (folder / f"photo{number}.png").write_bytes(png(number))
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    return folder


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "static"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html><title>convscope</title>")
    (folder / "assets" / "index-abc.js").write_text("export {}")
    (folder / "secret.py").write_text("no")
    return Bundle(folder)


@pytest.fixture
def session(tmp_path, images):
    def opener():
        return Opened(tiny_network(), load_images(images), "photos")

    return Session(opener, Store.open(tmp_path / "store"), Jobs(limit=4))


@pytest.fixture
def client(session, bundle):
    """The routes without their guard."""
    with TestClient(create_app(session, bundle=bundle), raise_server_exceptions=False) as client:
        yield client
