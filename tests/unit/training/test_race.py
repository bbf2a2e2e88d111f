from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from convscope.errors import ConvscopeError, Refused
from convscope.training.definition import Definition
from convscope.training.learner import Learner
from convscope.training.race import Race
from convscope.training.settings import OPTIMIZERS, Settings
from patience import PATIENCE

from .learning import EVERYTHING, PLAIN, same_state, small_data


def race(names=("sgd", "adam", "adadelta"), text=PLAIN, **settings):
    base = Settings(batch_size=6, shift=1, **settings)
    return Race.of_optimizers(Definition.parse(text), small_data(), list(names), base)


def test_everybody_starts_alike_and_sees_the_same_batches():
    made = race(OPTIMIZERS, EVERYTHING)
    states = [racer.learner for racer in made.racers]
    assert all(same_state(states[0], each) for each in states[1:])
    firsts = []
    for racer in made.racers:
        racer.learner.step()
        frame = racer.learner.frame()
        firsts.append(frame.maps["input"])
    assert all(torch.equal(firsts[0], each) for each in firsts[1:])
    assert not any(same_state(states[0], each) for each in states[1:])


def test_a_racer_is_what_it_would_be_alone():
    made = race()
    made.run(7)
    assert made.state == "finished"
    for racer in made.racers:
        alone = Learner(Definition.parse(PLAIN), small_data(), racer.learner.settings)
        losses = [alone.step().loss for _ in range(7)]
        assert same_state(alone, racer.learner)
        assert made.curves()[racer.name]["loss"][1].tolist() == losses
    assert len({tuple(each["loss"][1][1:]) for each in made.curves().values()}) == 3


def test_it_can_be_paused_and_goes_on():
    made = race()
    thread = threading.Thread(target=lambda: made.run(10**6))
    thread.start()
    deadline = time.monotonic() + PATIENCE
    while made.steps < 5:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    made.pause()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert made.state == "paused"
    goal = made.steps + 3
    made.run(goal)
    assert [racer.learner.steps for racer in made.racers] == [goal] * 3


def test_held_out_accuracy_is_on_the_curves(monkeypatch):
    monkeypatch.setattr("convscope.training.race.EVALUATE_EVERY", 4)
    made = race()
    made.run(9)
    steps, values = made.curves()["adam"]["held_out_accuracy"]
    assert steps.tolist() == [4, 8]
    assert ((values >= 0) & (values <= 1)).all()
    assert np.isfinite(made.curves()["sgd"]["held_out_loss"][1]).all()


def test_who_fails_drops_out_and_the_others_go_on(monkeypatch):
    made = race()
    failing = made.racers[1].learner

    def fail(**_):
        raise RuntimeError("no memory left\nand more")

    monkeypatch.setattr(failing, "step", fail)
    made.run(3)
    assert made.failed() == {"adam": "no memory left"}
    assert [racer.learner.steps for racer in made.racers] == [3, 0, 3]
    assert made.state == "finished"


def test_what_is_no_fair_race_is_refused():
    definition, data = Definition.parse(PLAIN), small_data()
    with pytest.raises(Refused, match="another batch_size"):
        Race(definition, data, {"a": Settings(batch_size=4), "b": Settings(batch_size=5)})
    with pytest.raises(Refused, match="choose 1 to"):
        Race(definition, data, {})
    with pytest.raises(ConvscopeError, match="no optimizer"):
        Race.of_optimizers(definition, data, ["magic"])
    same = Race(definition, data, {"slow": Settings(learning_rate=0.01), "fast": Settings(learning_rate=0.1)})
    same.step()
    assert [racer.learner.settings.learning_rate for racer in same.racers] == [0.01, 0.1]
