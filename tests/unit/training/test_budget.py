"""The budget is kept, whatever recording costs; nothing starves; and what was stretched is said."""

from __future__ import annotations

import pytest

from convscope.training.budget import ALLOWANCE, Budget, Cost, Stretch
from convscope.training.schedule import NEVER, At, Every, Logarithmic


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def train(
    schedules: dict, costs: dict, *, steps: int, step_seconds: float, fraction: float | None = 0.02
) -> tuple[dict[str, list[int]], Cost, list[Stretch], int]:
    """A loop whose steps and recordings take exactly so long; where each kind was recorded, and how often it asked."""
    clock = Clock()
    budget = Budget(schedules, fraction, clock=clock)
    recorded: dict[str, list[int]] = {kind: [] for kind in schedules}
    told, asked = [], 0
    for step in range(steps):
        if step >= budget.next:
            asked += 1
            kinds, stretches = budget.begin(step)
            told += stretches
            for kind, charged in kinds.items():
                recorded[kind].append(step)
                measuring, writing = costs[kind]
                clock.now += measuring
                budget.measured(measuring)
                budget.settle(kind, charged, measuring, writing, 0.0)
        clock.now += step_seconds
    return recorded, budget.cost(), told, asked


FOUR = {"filters": Every(1), "histograms": Every(1), "kernels": Every(1), "maps": Every(1)}
COSTS = {"filters": (0.001, 0.004), "histograms": (0.01, 0.004), "kernels": (0.001, 0.02), "maps": (0.5, 0.05)}


@pytest.mark.parametrize("step_seconds", [0.001, 0.01, 0.1, 1.0])
def test_the_budget_is_kept_and_nothing_starves(step_seconds: float) -> None:
    steps = int(600 / step_seconds) if step_seconds >= 0.01 else 100_000
    recorded, cost, _, _ = train(FOUR, COSTS, steps=steps, step_seconds=step_seconds)
    training = steps * step_seconds
    assert cost.training_seconds == pytest.approx(training)
    spent = cost.measuring_seconds + cost.writing_seconds
    # One recording of each kind may be under way when the books are closed.
    lent = max(0.0, ALLOWANCE - 0.009 * training)
    assert spent <= lent + 0.02 * training + sum(sum(each) for each in COSTS.values())
    if training >= 600:
        assert spent >= 0.8 * 0.02 * training
        assert all(len(each) > 3 for each in recorded.values())


def test_what_is_cheap_is_recorded_whenever_it_is_wanted() -> None:
    schedules = {"filters": Logarithmic(), "maps": Every(50)}
    costs = {"filters": (1e-5, 1e-5), "maps": (1e-4, 1e-5)}
    recorded, cost, told, asked = train(schedules, costs, steps=3000, step_seconds=0.1)
    assert recorded["filters"] == [step for step in range(3000) if step in Logarithmic()]
    assert recorded["maps"] == list(range(0, 3000, 50))
    assert told == []
    assert cost.stretched == ()
    assert asked < 300, "most steps ask nothing"


def test_the_first_steps_are_all_recorded_and_then_it_is_stretched_and_said() -> None:
    recorded, cost, told, asked = train(
        {"filters": Every(1)}, {"filters": (0.002, 0.008)}, steps=50_000, step_seconds=0.005
    )
    steps = recorded["filters"]
    assert steps[:40] == list(range(40))
    gaps = [after - before for before, after in zip(steps[-11:-1], steps[-10:], strict=True)]
    assert all(108 <= gap <= 115 for gap in gaps), "0.01 s is nine tenths of 2 % of 111 steps"
    assert asked < 3 * len(steps)
    assert told[-1].asked == 1
    assert 50 <= told[-1].every <= 230, "half as often while what was lent is paid back"
    assert len(told) <= 8
    assert cost.fraction == pytest.approx(0.02, abs=0.005)
    assert "filters every 11" in str(cost)


def test_without_a_limit_everything_is_recorded() -> None:
    recorded, _, told, _ = train(FOUR, COSTS, steps=100, step_seconds=0.001, fraction=None)
    assert all(each == list(range(100)) for each in recorded.values())
    assert told == []


def test_what_was_lent_is_said_until_it_is_paid_back() -> None:
    schedules, costs = {"filters": At.steps(range(10))}, {"filters": (0.01, 0.02)}
    _, early, _, _ = train(schedules, costs, steps=12, step_seconds=0.1)
    assert early.lent_seconds == pytest.approx(0.3, abs=0.02)
    assert "s lent for the first steps" in str(early)
    _, late, _, _ = train(schedules | {"maps": Every(500)}, costs | {"maps": (0.0, 0.0)}, steps=2000, step_seconds=0.1)
    assert late.lent_seconds == 0
    assert "lent" not in str(late)


def test_a_budget_of_nothing_allows_the_beginning_only() -> None:
    recorded, cost, _, _ = train(
        {"filters": Every(1)}, {"filters": (0.1, 0.0)}, steps=1000, step_seconds=1.0, fraction=0.0
    )
    assert recorded["filters"] == list(range(5))
    assert cost.measuring_seconds == pytest.approx(0.5)


def test_what_turns_out_dear_is_not_done_again_before_it_is_paid() -> None:
    budget = Budget({"maps": Every(1)}, 0.02)
    assert budget.begin(0)[0] == {"maps": 0.0}
    budget.foresee("maps", 10.0)
    budget.foresee("filters", 10.0)
    assert budget.begin(1)[0] == {}


def test_nothing_wanted_nothing_asked() -> None:
    for schedules in ({}, {"filters": NEVER}, {"filters": At.steps([])}):
        budget = Budget(schedules, 0.02)
        budget.begin(0)
        assert budget.next > 10**15
        assert budget.begin(10)[0] == {}


def test_everything_can_be_asked_for_and_a_kind_can_be_given_up() -> None:
    budget = Budget({"filters": Every(100), "maps": Every(1000)}, 0.02)
    budget.begin(0)
    assert budget.next == 100
    budget.want_all()
    assert budget.next <= 1
    assert set(budget.begin(1)[0]) == {"filters", "maps"}
    budget.stop("filters")
    assert budget.next == 1000
    budget.settle("filters", 0.0, 1.0, 1.0, 0.0)
    budget.settle("", 0.0, 0.0, 0.5, 0.0)
    assert budget.cost().writing_seconds == 1.5
