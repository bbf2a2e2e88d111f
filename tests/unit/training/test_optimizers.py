from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from convscope.errors import ConvscopeError, Refused, UnknownName
from convscope.training.optimizers import add_l1, adjust, kernels, make_optimizer, penalty
from convscope.training.settings import OPTIMIZERS, Settings


def slow_updates(settings, start, gradients):
    """One number through the papers' formulas, in Python's own floats."""
    w, memory = start, {}
    rate, momentum = settings.learning_rate, settings.momentum
    for step, gradient in enumerate(gradients, 1):
        g = gradient + (0 if settings.optimizer == "adamw" else settings.weight_decay * w)
        if settings.l1:
            g += settings.l1 * math.copysign(1, w)
        if settings.optimizer == "sgd":
            v = memory["v"] = momentum * memory.get("v", 0.0) + g
            w -= rate * ((g + momentum * v) if settings.nesterov else v)
        elif settings.optimizer == "adagrad":
            memory["s"] = memory.get("s", 0.0) + g * g
            w -= rate * g / (math.sqrt(memory["s"]) + 1e-10)
        elif settings.optimizer == "adadelta":
            memory["s"] = 0.95 * memory.get("s", 0.0) + 0.05 * g * g
            delta = math.sqrt(memory.get("d", 0.0) + 1e-6) / math.sqrt(memory["s"] + 1e-6) * g
            memory["d"] = 0.95 * memory.get("d", 0.0) + 0.05 * delta * delta
            w -= rate * delta
        elif settings.optimizer == "rmsprop":
            memory["s"] = 0.99 * memory.get("s", 0.0) + 0.01 * g * g
            v = memory["v"] = momentum * memory.get("v", 0.0) + g / (math.sqrt(memory["s"]) + 1e-8)
            w -= rate * v
        else:
            if settings.optimizer == "adamw":
                w -= rate * settings.weight_decay * w
            m = memory["m"] = momentum * memory.get("m", 0.0) + (1 - momentum) * g
            s = memory["s"] = 0.999 * memory.get("s", 0.0) + 0.001 * g * g
            # ConvNetJS multiplies by (1 - momentum**step) here, where the paper divides.
            w -= rate * (m / (1 - momentum**step)) / (math.sqrt(s / (1 - 0.999**step)) + 1e-8)
    return w


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("more", [{}, {"weight_decay": 0.2}, {"l1": 0.1}, {"momentum": 0.0}, {"nesterov": True}])
def test_updates_against_the_papers_formulas(name, more):
    settings = Settings(**{"optimizer": name, "learning_rate": OPTIMIZERS[name].learning_rate * 3, **more})
    module = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(module.weight, 0.8)
    optimizer = make_optimizer(settings, module)
    gradients = [0.5, -0.2, 1.5, 0.1, 0.7, -0.9]
    for gradient in gradients:
        module.weight.grad = torch.full_like(module.weight, gradient)
        add_l1(kernels(module), settings)
        optimizer.step()
    assert module.weight.item() == pytest.approx(slow_updates(settings, 0.8, gradients), rel=1e-9)


def test_penalties_are_on_kernels_alone():
    module = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 3))
    settings = Settings(weight_decay=0.1, l1=0.01, momentum=0.0, learning_rate=1.0)
    weights = [module[0].weight, module[3].weight]
    assert all(any(each is other for other in weights) for each in kernels(module))
    expected = sum(0.05 * (w.double() ** 2).sum() + 0.01 * w.double().abs().sum() for w in weights)
    assert penalty(kernels(module), settings) == pytest.approx(expected.item())
    assert penalty(kernels(module), settings.changed({"optimizer": "adamw", "l1": 0.0})) == 0.0
    before = {name: each.clone() for name, each in module.named_parameters()}
    for each in module.parameters():
        each.grad = torch.zeros_like(each)
    add_l1(kernels(module), settings)
    make_optimizer(settings, module).step()
    for name, each in module.named_parameters():
        decayed = any(each is other for other in weights)
        expected = before[name] - (0.1 * before[name] + 0.01 * before[name].sign() if decayed else 0)
        assert torch.allclose(each, expected)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_changing_settings_keeps_what_was_remembered(name):
    module = nn.Linear(2, 2)
    settings = Settings(optimizer=name, momentum=0.0 if name in ("sgd", "rmsprop") else 0.9, learning_rate=0.01)
    optimizer = make_optimizer(settings, module)

    def step():
        for each in module.parameters():
            each.grad = torch.ones_like(each)
        optimizer.step()

    step()
    changed = settings.changed({"learning_rate": 0.5, "weight_decay": 0.1})
    if "momentum" in OPTIMIZERS[name].uses:
        changed = changed.changed({"momentum": 0.5})
    adjust(optimizer, changed, changed.learning_rate)
    step()
    step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    counts = {float(state["step"]) for state in optimizer.state.values() if "step" in state}
    assert counts <= {3.0}


def test_settings_that_make_no_sense_are_refused():
    settings = Settings()
    with pytest.raises(UnknownName, match="did you mean learning_rate"):
        settings.changed({"learning_rat": 1})
    with pytest.raises(UnknownName, match="did you mean adam"):
        settings.changed({"optimizer": "addam"})
    for name, value in {
        "learning_rate": -1,
        "momentum": 1.0,
        "batch_size": 1.5,
        "dropout": 1.0,
        "weight_decay": float("nan"),
        "epochs": float("inf"),
        "shift": True,
        "l1": None,
    }.items():
        with pytest.raises(ConvscopeError, match=name):
            settings.changed({name: value})
    with pytest.raises(ConvscopeError, match="write a number"):
        settings.changed({"batch_size": "many"})
    with pytest.raises(ConvscopeError, match="true or false"):
        settings.changed({"nesterov": "maybe"})
    for optimizer, name in (("adadelta", "momentum"), ("adagrad", "momentum"), ("adam", "nesterov")):
        with pytest.raises(Refused, match=f"{optimizer} has no {name}"):
            settings.changed({"optimizer": optimizer, name: True if name == "nesterov" else 0.5})
    with pytest.raises(Refused, match="needs momentum"):
        settings.changed({"momentum": 0, "nesterov": True})


def test_a_new_optimizer_brings_its_own_learning_rate():
    assert Settings(learning_rate=0.3).changed({"optimizer": "adadelta"}).learning_rate == 1.0
    assert Settings().changed({"optimizer": "adam", "learning_rate": "0.2"}).learning_rate == 0.2
    assert Settings(nesterov=True).changed({"optimizer": "adam"}).nesterov is False
    assert Settings(learning_rate=0.3).changed({"momentum": 0.5}).learning_rate == 0.3


def test_settings_survive_json_and_text():
    settings = Settings(dropout=0.3, nesterov=True, batch_size=0)
    assert Settings.from_json(settings.to_json()) == settings
    assert Settings(dropout=0.3).changed({"dropout": "none", "flip": "true", "batch_size": "7"}) == Settings(
        flip=True, batch_size=7
    )
    assert settings.differences(Settings()) == {
        "dropout": (0.3, None),
        "nesterov": (True, False),
        "batch_size": (0, 32),
    }
    with pytest.raises(ConvscopeError):
        Settings.from_json({"optimizer": "sgd", "run": "me"})


def test_one_cycle_rises_falls_and_ends_near_nothing():
    settings = Settings(learning_rate=0.4, schedule="one_cycle", epochs=8.0)
    rates = [settings.rate(examples, 100) for examples in range(0, 900, 10)]
    assert rates[0] == pytest.approx(0.04)
    assert max(rates) == pytest.approx(0.4)
    assert rates.index(max(rates)) == 20
    assert rates[:21] == sorted(rates[:21])
    assert rates[20:81] == sorted(rates[20:81], reverse=True)
    assert rates[80:] == pytest.approx([0.004] * 10)
