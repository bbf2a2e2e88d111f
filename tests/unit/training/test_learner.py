from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch

from convscope.errors import Cancelled, Refused, UnknownName
from convscope.training import learner as learner_module
from convscope.training.definition import Definition
from convscope.training.losses import image_losses

from .learning import EVERYTHING, PLAIN, same_state, small_data, small_learner


def plain_backward(learner):
    """The next step's gradients by torch alone: the module called on the batch, ``loss.backward()``, nothing else."""
    indexes, _ = learner.batches.indexes(learner.position, learner.settings.batch_size)
    images = learner.batches.images(indexes, learner.settings, learner.position)
    learner._seed_dropout()
    learner.module.zero_grad()
    scores = learner.module(images).flatten(1)
    losses = image_losses(learner.definition.loss, scores, learner.data.train.labels[indexes])
    losses.mean().backward()
    found = {name: each.grad.clone() for name, each in learner.module.named_parameters()}
    learner.module.zero_grad()
    return found, losses.detach()


@pytest.mark.parametrize("text", [PLAIN, EVERYTHING])
@pytest.mark.parametrize("l1", [0.0, 0.1])
def test_weight_gradients_shown_are_backwards_to_the_last_bit(text, l1):
    watched, other = small_learner(text, l1=l1), small_learner(text, l1=l1)
    for _ in range(4):
        expected, losses = plain_backward(other)
        before = {name: each.clone() for name, each in watched.module.named_parameters()}
        step = watched.step(frame=True)
        assert step.loss == pytest.approx(losses.mean().item(), rel=1e-6)
        assert set(step.frame.weight_gradients) == set(expected)
        for name, gradient in expected.items():
            assert torch.equal(step.frame.weight_gradients[name], gradient), name
            assert torch.equal(step.frame.weights[name], before[name]), name
        # The plain backward pass above updated batch normalization's statistics a second time.
        other.module.load_state_dict(watched.module.state_dict())
        other.steps, other.position = watched.steps, watched.position


@pytest.mark.parametrize("text", [PLAIN, EVERYTHING])
def test_training_is_the_same_with_and_without_frames(text):
    plain, watched = small_learner(text), small_learner(text)
    for count in range(12):
        first, second = plain.step(), watched.step(frame=count % 3 != 0)
        watched.frame()
        assert first.loss == second.loss
        assert second.frame is None or second.frame.step == count
    assert same_state(plain, watched)


def test_a_steps_maps_are_gone_when_its_frame_is():
    """A hook that knew the outputs would keep all of them for ever: that ring is out of the collector's sight."""
    learner = small_learner(EVERYTHING)
    kept = []

    class Watched(learner_module.Layerwise):
        def before_backward(self):
            kept.extend(weakref.ref(output) for output in self.outputs.values())
            super().before_backward()

    original, learner_module.Layerwise = learner_module.Layerwise, Watched
    try:
        learner.step(frame=True)
    finally:
        learner_module.Layerwise = original
    gc.collect()
    assert len(kept) >= len(learner.panels)
    assert not any(each() is not None for each in kept)


def test_maps_and_their_gradients_against_autograd():
    learner = small_learner(PLAIN, shift=0, flip=False)
    indexes, _ = learner.batches.indexes(0, 6)
    images = learner.batches.normalized(learner.data.train.images[indexes])
    frame = learner.step(frame=True).frame
    fresh = small_learner(PLAIN).module
    for place in range(4):  # each image on its own: its gradient must be of its own loss
        image = images[place : place + 1].clone().requires_grad_(True)
        outputs = {"input": image}
        result = image
        for name, layer in fresh.named_children():
            result = outputs[name] = layer(result)
        loss = image_losses(learner.definition.loss, result, learner.data.train.labels[indexes[place]][None]).sum()
        gradients = torch.autograd.grad(loss, list(outputs.values()))
        for (name, output), gradient in zip(outputs.items(), gradients, strict=True):
            assert torch.allclose(frame.maps[name][place], output[0], atol=1e-6), name
            assert torch.allclose(frame.map_gradients[name][place], gradient[0], atol=1e-6), name
    assert frame.labels == tuple(learner.data.train.labels[indexes[:4]].tolist())


def test_a_frames_views():
    frame = small_learner(EVERYTHING).frame()
    maps = frame.activations("block1.conv1")
    assert maps.kind == "maps"
    assert maps["map"].shape == maps["gradient"].shape == (4, 6, 4, 4)
    kernels = frame.weights_of("conv1")
    assert kernels["kernel"].shape == kernels["gradient"].shape == (4, 2, 3, 3)
    assert kernels["bias"].shape == (4,)
    weights = frame.weights["conv1.weight"].numpy()
    assert np.array_equal(kernels["kernel"], weights)
    found = kernels.meta["ranges"]["kernel"]
    assert (found["minimum"], found["maximum"]) == (weights.min(), weights.max())
    templates = frame.weights_of("fc1")
    assert templates["kernel"].shape == (8, 6, 2, 2)
    row, column = np.gradient(weights, axis=(2, 3))
    spatial = frame.spatial_gradients("conv1")
    assert np.allclose(spatial["row"], row, atol=1e-7)
    assert np.allclose(spatial["column"], column, atol=1e-7)
    assert np.allclose(spatial["magnitude"], np.hypot(row, column), atol=1e-7)
    assert frame.spatial_gradients("conv1", of="gradient")["row"].any()
    with pytest.raises(Refused, match="relu1 has no kernels"):
        frame.weights_of("relu1")
    with pytest.raises(UnknownName, match="did you mean conv1"):
        frame.activations("conv")


def test_all_panels_in_one_view():
    learner = small_learner(EVERYTHING)
    view = learner.frame().to_view()
    described = {each["name"]: each for each in view.meta["layers"]}
    assert list(described) == ["input", *(row["name"] for row in learner.definition.rows())]
    assert described["conv1"]["count"] == "4×3×3×2+4"
    assert described["conv1"]["layout"] == "slices"
    assert all(each["forward_milliseconds"] is not None for name, each in described.items() if name != "input")
    assert view["conv1.map"].shape == (1, 4, 8, 8)
    assert view["conv1.map_gradient"].shape == (1, 4, 8, 8)
    assert view["conv1.kernel_gradient"].shape == (4, 2, 3, 3)
    assert view["fc2.bias_gradient"].shape == (3,)
    assert learner.frame().to_view(images=3)["conv1.map"].shape == (3, 4, 8, 8)
    from convscope.view import View

    assert View.from_bytes(view.to_bytes()).to_bytes() == view.to_bytes()


def test_a_large_layers_panel_is_cut_and_its_range_is_not(monkeypatch):
    monkeypatch.setattr("convscope.training.frames.LARGEST_ARRAY", 40)
    frame = small_learner(PLAIN).frame()
    view = frame.to_view()
    assert view["conv1.kernel"].shape == (2, 2, 3, 3)
    assert view["conv1.map"].shape == (1, 1, 6, 6)
    found = view.meta["ranges"]["conv1.kernel"]
    assert found["count"] == frame.weights["conv1.weight"].numel()
    assert found["minimum"] == frame.weights["conv1.weight"].min().item()


@pytest.mark.parametrize("batch_size", [0, 40, 99, 17])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(monkeypatch, batch_size):
    whole = small_learner(PLAIN, batch_size=batch_size, shift=0, flip=False)
    monkeypatch.setattr(learner_module, "_WORK", 1.0)
    monkeypatch.setattr(learner_module, "_SMALLEST_PART", 7)
    parts = small_learner(PLAIN, batch_size=batch_size, shift=0, flip=False)
    assert len(parts._parts(torch.arange(40))) == 6
    for _ in range(3):
        first = whole.step(frame=True)
        second = parts.step(frame=True)
        assert first.loss == pytest.approx(second.loss, rel=1e-5)
        assert first.correct == second.correct
        for name, gradient in first.frame.weight_gradients.items():
            assert torch.allclose(gradient, second.frame.weight_gradients[name], atol=1e-6)
        assert torch.allclose(first.frame.map_gradients["conv1"], second.frame.map_gradients["conv1"], atol=1e-6)


def test_a_cancelled_step_leaves_everything_as_it_was(monkeypatch):
    monkeypatch.setattr(learner_module, "_WORK", 1.0)
    monkeypatch.setattr(learner_module, "_SMALLEST_PART", 4)
    learner, other = small_learner(batch_size=20), small_learner(batch_size=20)
    learner.step()
    other.step()
    asked = iter([False, False, True])
    with pytest.raises(Cancelled):
        learner.step(cancelled=lambda: next(asked))
    assert same_state(learner, other)
    assert all(each.grad is None for each in learner.module.parameters())
    assert learner.step().loss == other.step().loss


def test_batch_stochastic_and_mini_batch_descent_are_one_setting():
    for size, expected in ((1, 1), (7, 7), (0, 40), (500, 40)):
        learner = small_learner(PLAIN, batch_size=size)
        assert learner.step().size == expected
        assert learner.examples == learner.position == expected


def test_settings_change_from_the_next_step_on():
    learner = small_learner()
    learner.step()
    found = learner.change({"learning_rate": "0.5", "dropout": 0.1, "batch_size": 9, "momentum": 0.9})
    assert found == {"learning_rate": (0.01, 0.5), "dropout": (None, 0.1), "batch_size": (6, 9)}
    assert [each.p for each in learner._dropouts] == [0.1, 0.1]
    done = learner.step()
    assert (done.size, done.rate) == (9, 0.5)
    learner.change({"dropout": None})
    assert [each.p for each in learner._dropouts] == [0.3, 0.5]
    before = learner.settings
    with pytest.raises(UnknownName):
        learner.change({"learning_rate": 0.1, "nonsense": 1})
    assert learner.settings is before
    learner.change({"optimizer": "adam"})
    assert isinstance(learner.optimizer, torch.optim.Adam)
    learner.step()


def test_batch_normalization_of_one_vector_is_refused_before_it_fails():
    text = PLAIN.replace("- fully_connected", "- flatten\n- batch_normalization\n- fully_connected")
    with pytest.raises(Refused, match="at least two images"):
        small_learner(text, batch_size=1)
    learner = small_learner(text)
    with pytest.raises(Refused, match="at least two images"):
        learner.change({"batch_size": 1})
    assert learner.settings.batch_size == 6
    learner.step()


def test_evaluation_against_a_slow_loop():
    learner = small_learner()
    for _ in range(5):
        learner.step()
    found = learner.evaluate()
    part = learner.data.held_out
    learner.module.eval()
    confusion = np.zeros((3, 3), int)
    losses = []
    with torch.no_grad():
        for pixels, label in zip(part.images, part.labels, strict=True):
            scores = learner.module(learner.network.prepare(pixels.permute(1, 2, 0).numpy()))
            losses.append(image_losses(learner.definition.loss, scores, label[None]).item())
            confusion[label, int(scores.argmax())] += 1
    learner.module.train()
    assert np.array_equal(found.confusion, confusion)
    assert found.accuracy == confusion.trace() / len(part)
    assert found.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert found.whole
    assert learner.module.training
    assert all(each.training for each in learner.module.modules())
    some = learner.evaluate(limit=5)
    assert (some.count, some.whole) == (5, False)
    assert learner.evaluate(cancelled=lambda: True) is None


def test_predictions_of_samples_and_of_a_picture_of_ones_own():
    learner = small_learner()
    sample = learner.samples([3])[0]
    pixels = learner.data.held_out.images[3].permute(1, 2, 0).numpy()
    own = learner.predict(pixels)
    assert own.index is None
    assert sample.label == int(learner.data.held_out.labels[3])
    assert [each[0] for each in own.top] == [each[0] for each in sample.top]
    assert sum(p for _, _, p in sample.top) == pytest.approx(1.0)
    scores = [score for _, score, _ in sample.top]
    assert scores == sorted(scores, reverse=True)
    svm = small_learner(PLAIN.replace("softmax", "svm"))
    assert svm.samples([0])[0].top[0][2] is None


def test_a_picture_of_ones_own_is_cropped_as_the_data_are():
    text = PLAIN.replace("rows: 8, columns: 8", "rows: 7, columns: 7")
    learner = small_learner(text)
    assert learner.data.shape == (2, 8, 8)
    pixels = learner.data.held_out.images[0].permute(1, 2, 0).numpy()
    seen = learner.batches.normalized(learner.data.held_out.images[:1])
    assert torch.equal(learner.network.prepare(pixels), seen)


def test_the_network_follows_the_data():
    definition = Definition.parse(EVERYTHING)
    learner = learner_module.Learner(definition, small_data(classes=5))
    assert learner.definition.classes == 5
    assert learner.network.class_names[4] == "class 4"


def test_it_learns():
    learner = small_learner(PLAIN.replace("channels: 2}", "channels: 2, mean: 0.5, std: 0.3}"), batch_size=10, shift=0)
    first = learner.evaluate().loss
    for _ in range(150):
        learner.step()
    assert learner.step().loss < 0.5 * first
