"""Schedules say which steps; purses say how often it can be afforded."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convscope.errors import ConvscopeError
from convscope.training.schedule import NEVER, At, Every, Logarithmic, Purse, Schedule, schedule

SCHEDULES = [
    Every(1),
    Every(7),
    At.steps([3, 900, 3]),
    NEVER,
    Logarithmic(),
    Logarithmic(1, 5, 10_000),
    Logarithmic(4, 3, 7),
    Every(500) | At.steps([1, 2]),
]


@pytest.mark.parametrize("each", SCHEDULES, ids=str)
def test_following_is_the_first_member_from_there_on(each: Schedule) -> None:
    members = [step for step in range(3000) if step in each]
    for step in range(2500):
        assert each.following(step) == next((m for m in members if m >= step), each.following(step))
        following = each.following(step)
        assert following is None or following >= step


@given(st.integers(1, 50), st.integers(1, 60), st.integers(1, 500), st.integers(0, 10**7))
def test_logarithmic_steps(first: int, per_decade: int, largest: int, step: int) -> None:
    logarithmic = Logarithmic(first, per_decade, largest)
    following = logarithmic.following(step)
    assert step <= following <= max(step + largest, first, 10)
    assert following in logarithmic
    assert logarithmic.following(following) == following


def test_logarithmic_is_dense_then_sparse_then_regular() -> None:
    members = [step for step in range(20_000) if step in Logarithmic(first=20, per_decade=48, largest=100)]
    assert members[:20] == list(range(20))
    gaps = [b - a for a, b in pairwise(members)]
    assert max(gaps) == 100
    assert 0.9 < sum(100 <= step < 1000 for step in members) / 48 < 1.1
    assert set(gaps[-50:]) == {100}


def test_what_people_write() -> None:
    assert schedule(10) == Every(10)
    assert schedule(None) is NEVER
    assert schedule(Every(2)) == Every(2)
    for wrong in (True, 0, -1):
        with pytest.raises(ConvscopeError):
            schedule(wrong)
    with pytest.raises(ConvscopeError, match="per_decade is 0"):
        Logarithmic(per_decade=0)


def test_a_purse_never_spends_more_than_its_share() -> None:
    purse, spent, recordings = Purse(0.02, 0.5), 0.0, []
    purse.learn(0.1)
    for step in range(10_000):
        purse.earn(0.01)
        if purse.affordable:
            purse.spend(0.1)
            spent += 0.1
            recordings.append(step)
    assert 0.02 * 100 - 0.1 <= spent <= 0.02 * 100 + 1e-9, "what was lent at first is paid back"
    assert recordings[:5] == [0, 1, 2, 3, 4]
    assert 400 <= recordings[-1] - recordings[-2] <= 600


def test_a_pause_buys_no_burst_and_a_dear_thing_is_bought_in_the_end() -> None:
    purse = Purse(0.02, 0.5)
    purse.spend(0.4)
    purse.earn(3600.0)
    assert purse.seconds == 0.5
    purse.learn(20.0)
    assert not purse.affordable
    assert purse.owed == 0
    assert purse.wait == pytest.approx(19.5 / 0.02)
    purse.earn(purse.wait + 1e-6)
    assert purse.affordable


def test_waiting_as_long_as_it_says_is_enough() -> None:
    purse = Purse(0.02, 0.5)
    purse.learn(1.0)
    purse.spend(2.0)
    while not purse.affordable:
        purse.earn(purse.wait + 1e-9)
    assert purse.seconds == pytest.approx(1.0, abs=1e-6)


def test_without_a_share_only_what_was_there_is_spent() -> None:
    purse = Purse(0.0, 0.0)
    purse.learn(1.0)
    assert purse.wait == math.inf
