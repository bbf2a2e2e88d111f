"""Who watches a piece of work, and what it costs where nobody does."""

from __future__ import annotations

import threading

import pytest

from convscope import progress
from convscope.errors import Cancelled
from convscope.progress import preview, report, watch


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on only when it is told to."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_previews_are_made_at_most_once_a_second(clock):
    made, shown = [], []

    def make():
        made.append(clock.now)
        return clock.now

    with watch(lambda _: None, previews=shown.append):
        for _ in range(61):
            preview(make)
            clock.now += 0.0625
    assert shown == made == [100.0, 101.0, 102.0, 103.0]


def test_dear_previews_are_made_less_often(clock):
    shown = []

    def make():
        clock.now += 0.5
        return clock.now

    with watch(lambda _: None, previews=shown.append):
        for _ in range(200):
            preview(make)
            clock.now += 0.125
    assert shown == [100.5, 105.5, 110.5, 115.5, 120.5, 125.5], "a tenth of the time at most"


def test_nobody_looking_makes_none():
    def make():
        pytest.fail("nobody looks")

    preview(make)
    with watch(lambda _: None):
        preview(make)


def test_who_was_told_to_stop_makes_none():
    cancel = threading.Event()
    with watch(lambda _: None, cancel, lambda _: pytest.fail("it was made")):
        cancel.set()
        preview(lambda: 1)
        with pytest.raises(Cancelled):
            report(1, 2, "work")


def test_a_preview_that_fails_is_not_hidden():
    with watch(lambda _: None, previews=print), pytest.raises(ZeroDivisionError):
        preview(lambda: 1 / 0)


def test_an_inner_watcher_looks_at_its_own(clock):
    outer, inner = [], []
    with watch(lambda _: None, previews=outer.append):
        preview(lambda: "outer")
        with watch(lambda _: None, previews=inner.append):
            preview(lambda: "inner")
        clock.now += 1
        preview(lambda: "outer again")
    assert (outer, inner) == (["outer", "outer again"], ["inner"])
