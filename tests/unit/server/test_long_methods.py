"""Long methods share the network: whatever others do with it at their reports, and whoever looks on, numbers stay."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from convscope import progress
from convscope.errors import Cancelled
from convscope.images import load_images
from convscope.methods.base import method_class, method_names
from convscope.mining.mine import mine
from convscope.progress import watch

from .conftest import png, tiny_network
from .test_every_method import MISSING, QUESTIONS

LONG = [name for name in method_names() if method_class(name).long]
OTHERS = (
    ("weight_gradients", "conv1", {"objective": "score:1"}),
    ("activation_gradients", "conv2", {}),
    ("guided_backprop", "conv2:3", {}),
    ("predictions", "", {}),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    (folder / "photos").mkdir()
    for number in range(4):
        (folder / "photos" / f"{number}.png").write_bytes(png(number, (20, 24)))
    mine(tiny_network(), load_images(folder / "photos"), study=folder / "study", k=3, executor="serial")
    return folder


@pytest.fixture(params=LONG)
def asked(request, place):
    """A long method as a function of its watchers, on a fresh network: (network, images, run)."""
    name = request.param
    pytest.importorskip(MISSING.get(name, "torch"), reason="an optional package")
    target, ids, parameters = QUESTIONS[name]
    given = dict(parameters)
    if "study" in method_class(name).needs:
        given["study"] = str(place / "study")
    network, images = tiny_network(), load_images(place / "photos")
    chosen = images[[int(each) for each in ids.split(",")]] if ids else None
    return network, images, lambda: method_class(name).make(given).run(network, target, chosen)


def same(one, other):
    assert set(one.arrays) == set(other.arrays)
    for name, array in one.arrays.items():
        assert array.tobytes() == other[name].tobytes(), name


def test_others_use_the_network_at_every_report(asked):
    network, images, run = asked
    expected = run()
    views = {name: network.view(name, target, images[[1, 2]], **more) for name, target, more in OTHERS}
    before = {name: each.clone() for name, each in network.module.state_dict().items()}
    seen = []

    def disturb(number):
        name, target, more = OTHERS[number % len(OTHERS)]
        seen.append((name, network.view(name, target, images[[1, 2]], **more)))

    def listen(_):
        # As the server does it: in a thread of its own, while the long method waits in its report.
        thread = threading.Thread(target=disturb, args=(len(seen),))
        thread.start()
        thread.join()

    with watch(listen):
        found = run()
    assert len(seen) >= 2, "it reports too seldom to be cancelled"
    same(found, expected)
    for name, view in seen:
        same(view, views[name])
    assert all((each == before[name]).all() for name, each in network.module.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.module.modules())


def test_looking_on_changes_nothing(asked, monkeypatch):
    _, _, run = asked
    expected = run()
    monkeypatch.setattr(progress, "PREVIEW_SECONDS", 0.0)
    monkeypatch.setattr(progress, "_PREVIEW_SHARE", 1.0)
    previews = []
    with watch(lambda _: None, previews=previews.append):
        found = run()
    same(found, expected)
    for each in previews:
        assert each.kind == found.kind
        assert set(each.arrays) <= set(found.arrays)
        for name in each.arrays:
            assert each.axes[name] == found.axes[name]
            assert each[name].dtype == found[name].dtype
        assert each.to_bytes()


def test_it_ends_at_any_report_and_leaves_the_network_as_it_was(asked):
    network, images, run = asked
    before = {name: each.clone() for name, each in network.module.state_dict().items()}
    facts = [(each.requires_grad, each.grad) for each in network.module.parameters()]
    reports = []
    with watch(reports.append):
        run()
    for end in sorted({0, len(reports) // 2, len(reports) - 1}):
        cancel, seen = threading.Event(), []

        def listen(told, end=end, cancel=cancel, seen=seen):
            seen.append(told)
            if len(seen) > end:
                cancel.set()

        started = time.monotonic()
        try:
            with watch(listen, cancel):
                run()
        except Cancelled:
            pass
        else:
            assert end == len(reports) - 1, "it went on"
        assert time.monotonic() - started < 20
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.module.modules())
        assert [(each.requires_grad, each.grad) for each in network.module.parameters()] == facts
        assert all((each == before[name]).all() for name, each in network.module.state_dict().items())
    after = network.view("predictions", "", images[[0]])
    assert np.array_equal(after["probability"], tiny_network().view("predictions", "", images[[0]])["probability"])
