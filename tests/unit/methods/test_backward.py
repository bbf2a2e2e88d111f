"""Mini-batches: what is reported, when it can be stopped, and that nothing is left behind."""

from __future__ import annotations

import threading

import pytest
from torch import nn

from convscope.errors import Cancelled
from convscope.methods.backward import mini_batches, multiplications
from convscope.network.network import Network
from convscope.progress import Progress, watch
from convscope.testing import tiny_network


def test_multiplications_are_counted_per_position():
    module = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 4, 1, stride=2), nn.Flatten(), nn.Linear(48, 5))
    network = Network.from_module(module, image_size=(6, 8))
    assert multiplications(network) == 3 * 2 * 9 * 48 + 4 * 3 * 12 + 48 * 5


def test_mini_batches_cover_all_images_and_report_each():
    tiny = tiny_network("edges")
    network = tiny.network()
    seen: list[Progress] = []
    with watch(seen.append):
        parts = list(mini_batches(network, network.batch(tiny.images(5)), "looking", 2))
    assert [(start, stop, len(part), len(part.tensor)) for start, stop, part in parts] == [
        (0, 2, 2, 2),
        (2, 4, 2, 2),
        (4, 5, 1, 1),
    ]
    assert [each.done for each in seen] == [0, 2, 4, 5]


@pytest.mark.parametrize("method", ["weight_gradients", "activation_gradients", "activations"])
def test_cancelling_stops_before_the_next_mini_batch(method, monkeypatch):
    monkeypatch.setattr("convscope.methods.backward._WORK", 1)
    tiny = tiny_network("edges")
    cancel = threading.Event()
    seen = []

    def listener(progress: Progress) -> None:
        seen.append(progress.done)
        if progress.done == 2:
            cancel.set()

    with watch(listener, cancel), pytest.raises(Cancelled):
        tiny.network().view(method, "convolution", tiny.images(9))
    assert seen == [0, 1, 2]
