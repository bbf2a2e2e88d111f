from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
import torch

from convscope.errors import ConvscopeError, Refused
from convscope.progress import Cancelled, watch
from convscope.training import learner as learner_module
from convscope.training import trainer as trainer_module
from convscope.training.curves import LARGEST, Curves
from convscope.training.learner import Learner
from convscope.training.trainer import Trainer, suitable_threads
from convscope.training.until import Until
from convscope.training.watchers import Watchers
from patience import PATIENCE

from .learning import EVERYTHING, PLAIN, same_state, small_learner


@pytest.fixture
def started():
    """Trainers that are stopped at the end, whatever happens."""
    made = []

    def start(text=PLAIN, until=None, **settings):
        trainer = Trainer(small_learner(text, **settings))
        made.append(trainer)
        trainer.start(until or Until())
        return trainer

    yield start
    for trainer in made:
        trainer.close()


def wait_for(condition, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


def test_single_steps_and_a_run_to_the_end():
    trainer, other = Trainer(small_learner()), small_learner()
    trainer.step(3)
    assert (trainer.state, trainer.learner.steps) == ("paused", 3)
    trainer.run(Until(steps=10))
    assert (trainer.state, trainer.learner.steps) == ("finished", 10)
    assert trainer.evaluation is not None
    assert trainer.evaluation.whole
    for _ in range(10):
        other.step()
    assert same_state(trainer.learner, other)
    steps, losses = trainer.curves.read()["loss"]
    assert steps.tolist() == list(range(10))
    assert (losses > 0).all()


@pytest.mark.parametrize(
    ("until", "reached"),
    [
        (Until(steps=4), lambda t: t.learner.steps == 4),
        (Until(epochs=1.2), lambda t: t.learner.epoch == 1.2),
        (Until(examples=13), lambda t: t.learner.examples == 18),
        (Until(seconds=0.2), lambda t: t.learner.steps > 0),
        (Until(accuracy=0.0), lambda t: t.evaluation is not None),
        (Until(steps=0), lambda t: t.learner.steps == 0),
    ],
)
def test_when_to_stop(until, reached):
    trainer = Trainer(small_learner(PLAIN))
    trainer.run(until)
    assert trainer.state == "finished"
    assert reached(trainer)


def test_an_accuracy_is_reached_on_all_held_out_images_not_on_the_first_of_them(monkeypatch):
    trainer = Trainer(small_learner(PLAIN))
    monkeypatch.setattr(trainer_module, "EVALUATION_SHARE", float("inf"))
    wholes = iter((0.4, 0.7))
    seen = []

    def evaluate(limit, _cancelled):
        accuracy = 0.6 if limit else next(wholes)
        seen.append((bool(limit), accuracy))
        return replace(honest(limit), accuracy=accuracy)

    honest = trainer.learner.evaluate
    monkeypatch.setattr(trainer.learner, "evaluate", evaluate)
    trainer.run(Until(accuracy=0.5))
    assert trainer.state == "finished"
    assert seen[-3:] == [(False, 0.4), (True, 0.6), (False, 0.7)]


def test_what_is_no_end_is_refused():
    with pytest.raises(ConvscopeError, match="steps can't be -1"):
        Until(steps=-1)
    with pytest.raises(ConvscopeError, match="seconds can't be inf"):
        Until(seconds=float("inf"))


def test_running_pausing_and_going_on_in_another_thread(started):
    trainer = started()
    assert trainer.state == "running"
    wait_for(lambda: trainer.learner.steps > 3)
    with pytest.raises(Refused, match="pause it first"):
        trainer.step()
    with pytest.raises(Refused, match="pause it first"):
        trainer.start()
    trainer.pause()
    assert trainer.state == "paused"
    steps = trainer.learner.steps
    time.sleep(0.05)
    assert trainer.learner.steps == steps
    trainer.start(Until(steps=steps + 5))
    assert trainer.wait(20.0)
    assert (trainer.state, trainer.learner.steps) == ("finished", steps + 5)
    other = small_learner(PLAIN)
    for _ in range(steps + 5):
        other.step()
    assert same_state(trainer.learner, other)


def test_settings_change_while_it_runs_and_are_events(started):
    trainer = started()
    wait_for(lambda: trainer.learner.steps > 2)
    events = trainer.change({"learning_rate": 0.2, "batch_size": 3, "momentum": 0.9})
    assert {(each.kind, each.name, each.old, each.new) for each in events} == {
        ("setting", "learning_rate", 0.01, 0.2),
        ("setting", "batch_size", 6, 3),
    }
    assert trainer.events == events
    assert all(0 < each.step <= trainer.learner.steps for each in events)
    with pytest.raises(ConvscopeError):
        trainer.change({"learning_rate": "much"})
    trainer.change({"optimizer": "adam"})
    before = trainer.learner.steps
    wait_for(lambda: trainer.learner.steps > before + 2)
    assert trainer.state == "running"
    assert [each.name for each in trainer.events] == ["learning_rate", "batch_size", "optimizer", "learning_rate"] or [
        each.name for each in trainer.events
    ][:2] == ["learning_rate", "batch_size"]


def test_frames_come_while_it_runs_and_while_it_is_paused(started):
    trainer = started(EVERYTHING)
    seen = []
    while len(seen) < 4:
        frame = trainer.frame(seen[-1] if seen else -1, 10.0)
        assert frame is not None
        seen.append(frame.step)
    assert seen == sorted(set(seen))
    trainer.pause()
    frame = trainer.frame()
    assert frame.step == trainer.learner.steps
    assert trainer.frame() is frame
    assert trainer.frame(after=frame.step) is None
    before = {name: each.clone() for name, each in trainer.learner.module.state_dict().items()}
    trainer.step()
    assert torch.equal(frame.weights["conv1.weight"], before["conv1.weight"])
    assert trainer.frame().step == frame.step + 1


def test_what_a_paused_frame_shows_is_what_the_next_step_computes():
    trainer, other = Trainer(small_learner()), small_learner()
    shown = trainer.frame()
    computed = other.step(frame=True).frame
    for name, gradient in computed.weight_gradients.items():
        assert torch.equal(shown.weight_gradients[name], gradient)
    for name, output in computed.maps.items():
        assert torch.equal(shown.maps[name], output)


def test_no_frame_is_taken_when_nobody_looks(started):
    trainer = started()
    wait_for(lambda: trainer.learner.steps > 30)
    assert trainer.watchers.latest is None


def test_frames_cost_a_bounded_part_of_the_time():
    watchers = Watchers(frames_per_second=20.0)
    watchers._asked = time.monotonic()
    assert watchers.wants_frame()
    frame = small_learner(PLAIN).frame()
    for _ in range(100):
        watchers.stepped(0.1)
    before = time.monotonic()
    watchers.show(frame, 0.3)  # 0.2 s more than a plain step
    assert watchers._due - before == pytest.approx(0.6, abs=0.05)
    watchers.show(frame, 0.1)
    assert watchers._due - time.monotonic() < 0.05
    watchers._asked = time.monotonic() - 60
    watchers._due = 0.0
    assert not watchers.wants_frame()


def test_a_long_step_is_cancelled_within_a_second(started, monkeypatch):
    monkeypatch.setattr(learner_module, "_WORK", 1.0)
    monkeypatch.setattr(learner_module, "_SMALLEST_PART", 1)
    trainer = started(batch_size=0)
    slow = threading.Event()
    original = Learner._forward

    def forward(self, images, passed):
        slow.set()
        time.sleep(0.1)
        return original(self, images, passed)

    monkeypatch.setattr(Learner, "_forward", forward)
    assert slow.wait(PATIENCE)
    began = time.monotonic()
    trainer.cancel()  # a whole step would take 4 s
    assert time.monotonic() - began < 3.0
    assert trainer.state == "paused"
    assert all(each.grad is None for each in trainer.learner.module.parameters())


def test_what_fails_is_said_and_can_be_begun_anew(started, monkeypatch):
    trainer = started()

    def fail(*_, **__):
        raise RuntimeError("out of memory\nmore lines")

    monkeypatch.setattr(Learner, "step", fail)
    assert trainer.wait(20.0)
    assert trainer.state == "failed"
    assert trainer.error.what == "a training step failed: out of memory"
    assert "out of memory" in trainer.statistics()["error"]
    monkeypatch.undo()
    trainer.reset()
    assert (trainer.state, trainer.error, trainer.learner.steps) == ("paused", None, 0)
    trainer.run(Until(steps=2))
    assert trainer.state == "finished"


def test_reset_begins_the_same_run_anew(started):
    trainer = started()
    wait_for(lambda: trainer.learner.steps > 5)
    trainer.change({"learning_rate": 0.05})
    trainer.reset()
    assert trainer.learner.steps == 0
    assert trainer.learner.settings.learning_rate == 0.05
    assert not trainer.events
    assert not trainer.curves.read()
    assert same_state(trainer.learner, small_learner(PLAIN))
    trainer.reset(small_learner(EVERYTHING))
    trainer.run(Until(steps=2))
    assert trainer.learner.panels.keys() > {"block1"}


def test_any_thread_may_ask_while_it_runs(started):
    trainer = started(EVERYTHING)
    failures = []

    def ask():
        try:
            for number in range(8):
                trainer.statistics()
                trainer.samples([number % 12])
                trainer.predict(trainer.learner.data.held_out.images[0].permute(1, 2, 0).numpy())
                trainer.change({"learning_rate": 0.01 + 0.001 * number})
                with trainer.still() as network:
                    before = trainer.learner.steps
                    network.view("weights", "conv1")
                    network.view("activations", "conv1", images=torch.zeros(1, 2, 8, 8))
                    assert trainer.learner.steps == before
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert not failures
    trainer.pause()
    with pytest.raises(ConvscopeError, match="no such held-out image"):
        trainer.samples([12])
    with trainer.still() as network:
        assert network is trainer.learner.network


def test_an_error_of_what_was_asked_goes_to_who_asked(started):
    trainer = started()

    def fail():
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        trainer.at_boundary(fail)
    wait_for(lambda: trainer.learner.steps > 2)
    assert trainer.state == "running"


def test_progress_is_told_and_can_stop_it():
    trainer = Trainer(small_learner(PLAIN))
    seen = []
    with watch(seen.append):
        trainer.run(Until(steps=30))
    assert seen[0].total == 10_000
    assert "step 0" in seen[0].message
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled), watch(seen.append, stop):
        trainer.run(Until(steps=60))
    assert trainer.state == "paused"
    trainer.run(Until(steps=31))
    assert trainer.state == "finished"


def test_the_statistics_are_those_of_the_last_steps():
    trainer = Trainer(small_learner(PLAIN, weight_decay=0.1))
    empty = trainer.statistics()
    assert (empty["loss"], empty["accuracy"], empty["held_out"], empty["examples"]) == (None, None, None, 0)
    trainer.run(Until(steps=150))
    found = trainer.statistics()
    _, losses = trainer.curves.read()["loss"]
    _, accuracies = trainer.curves.read()["accuracy"]
    assert found["loss"] == pytest.approx(losses[-100:].mean())
    assert found["accuracy"] == pytest.approx(accuracies[-100:].mean())
    weights = [each for each in trainer.learner.module.parameters() if each.ndim > 1]
    assert found["penalty"] == pytest.approx(float(sum(0.05 * (w.detach().double() ** 2).sum() for w in weights)))
    assert found["held_out"]["count"] == 12
    assert found["examples"] == 900
    assert found["epoch"] == 22.5
    trainer.frame()
    assert trainer.statistics()["forward_milliseconds"] > 0


def test_a_loss_that_is_not_finite_is_an_event_and_training_goes_on():
    trainer = Trainer(small_learner(PLAIN, learning_rate=100.0, momentum=0.0))
    with torch.no_grad():
        trainer.learner.module.get_submodule("conv1").weight.fill_(float("nan"))
    trainer.run(Until(steps=3))
    assert trainer.state == "finished"
    assert [each.kind for each in trainer.events] == ["not_finite"]
    assert trainer.statistics()["loss"] is None
    assert trainer.statistics()["held_out"]["loss"] is None
    assert trainer.frame().to_view().meta["ranges"]["conv1.kernel"]["nan"] == 72


def test_curves_stay_small():
    curves = Curves()
    count = 5 * LARGEST + 7
    for step in range(count):
        curves.add(step, value=float(step))
    steps, values = curves.read()["value"]
    assert LARGEST // 2 <= len(steps) < LARGEST
    width = int(steps[1] - steps[0])
    assert width in (4, 8)
    # Each point is the mean of the steps up to it.
    assert values[3] == pytest.approx(steps[3] - (width - 1) / 2)
    assert (steps[1:] - steps[:-1] == width).all()


def test_small_networks_use_one_thread(monkeypatch):
    learner = small_learner(PLAIN)
    assert suitable_threads(learner) == 1
    # A large one that comes after it uses all of them again, also in a thread that begins with one.
    monkeypatch.setattr(trainer_module, "_ALL_THREADS", 7)
    learner.multiplications = 10**9
    assert suitable_threads(learner) == 7


def test_a_watcher_waits_for_news():
    watchers = Watchers(10.0)
    version = watchers.version
    assert watchers.wait(version, 0.01) == version
    threading.Timer(0.05, watchers.changed).start()
    assert watchers.wait(version, 10.0) == version + 1
