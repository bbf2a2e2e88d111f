"""Monitor on ordinary loops: the numbers are those of the loop, and the loop is that of without."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import convscope as cs
from convscope.errors import BadImage, ConvscopeError, UnknownName
from convscope.training import Every, Logarithmic, Monitor, Run
from convscope.training.histogram import ExponentCounts

from .loops import data, small, step

ALL = {"filters": 1, "histograms": 1, "kernels": 1, "maps": 1, "budget": None}


def norms(tensor: torch.Tensor) -> np.ndarray:
    """The slow way: double precision, one filter after the other."""
    return np.array([np.sqrt((each.double().numpy() ** 2).sum()) for each in tensor.detach()], np.float32)


# ---- bit-identical ---------------------------------------------------------------------------------------------


def test_training_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    # In processes of their own: the type checks of the tests draw from Python's random numbers themselves.
    script = str(Path(__file__).with_name("same_numbers.py"))
    answers = [
        json.loads(subprocess.run([sys.executable, script, *where], capture_output=True, text=True, check=True).stdout)
        for where in ([], [str(tmp_path / "a")])
    ]
    assert len(answers[0]["losses"]) == 500
    assert answers[0] == answers[1]
    run = Run.open(tmp_path / "a")
    assert run.steps("filters:0") == list(range(250))
    assert len(run.steps("maps:0")) == 84
    assert len(run.scalars()["loss"][0]) >= 250


# ---- the numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.SGD(p, lr=0.1, fused=True),
        lambda p: torch.optim.Adam(p, lr=0.01, foreach=True),
        lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
        lambda p: torch.optim.Adagrad(p, lr=0.01),
        lambda p: torch.optim.RMSprop(p, lr=0.01, foreach=False),
    ],
    ids=["sgd", "fused sgd", "foreach adam", "fused adamw", "adagrad", "rmsprop"],
)
def test_norms_gradients_and_updates_are_those_of_the_loop(make: Any, module: nn.Module, tmp_path: Path) -> None:
    optimizer = make(module.parameters())
    expected = []
    with Monitor(module, optimizer, store=tmp_path / "a", **ALL) as monitor:
        for each in range(3):
            before = {name: value.detach().clone() for name, value in module.named_parameters()}
            step(module, optimizer, each)
            expected.append(
                (
                    before,
                    {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None},
                    {n: p.detach().clone() for n, p in module.named_parameters()},
                )
            )
    assert monitor.problems == []
    run = Run.open(tmp_path / "a")
    assert [name for name in run.names() if name.startswith("filters")] == ["filters:0", "filters:4", "filters:8"]
    for at, (before, gradient, after) in enumerate(expected):
        for layer in ("0", "4", "8"):
            name = f"{layer}.weight"
            view = run.get(at, f"filters:{layer}")
            np.testing.assert_allclose(view["weight_norm"], norms(before[name]), rtol=1e-6)
            np.testing.assert_allclose(view["gradient_norm"], norms(gradient[name]), rtol=1e-6)
            update = norms(after[name].double() - before[name].double())
            np.testing.assert_allclose(view["update_norm"], update, rtol=1e-4)
            np.testing.assert_allclose(view["ratio"], update / norms(before[name]), rtol=1e-4)
            kernels = run.get(at, f"kernels:{layer}")
            shape = kernels["gradient"].shape
            np.testing.assert_array_equal(kernels["gradient"], gradient[name].reshape(shape).numpy())
            np.testing.assert_array_equal(kernels["kernel"], before[name].reshape(shape).numpy())
            moved = before[name] - expected[0][0][name]
            np.testing.assert_array_equal(kernels["displacement"], moved.reshape(shape).numpy())
            counts = run.get(at, f"histograms:{layer}")
            for quantity, tensor in (("weight", before[name]), ("gradient", gradient[name])):
                own = ExponentCounts.of(tensor)
                first, bins = int(counts["exponent"][0]), len(counts["exponent"])
                np.testing.assert_array_equal(counts[f"{quantity}_positive"], own.over(first, bins)[0])
                np.testing.assert_array_equal(counts[f"{quantity}_negative"], own.over(first, bins)[1])
                assert counts.meta["counts"][quantity]["total"] == tensor.numel()
                assert counts.meta["ranges"][quantity]["maximum"] == tensor.max().item()
            total = run.scalars()[f"gradient_norm:{layer}"][1][at]
            assert total == pytest.approx(gradient[name].norm().item(), rel=1e-5)


def test_the_gradient_is_the_final_one(module: nn.Module, tmp_path: Path) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with Monitor(module, optimizer, store=tmp_path / "a", **ALL) as monitor:
        for seed in range(3):
            images, labels = data(seed=seed)
            (F.cross_entropy(module(images), labels) / 3).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 0.01)
        clipped = module[0].weight.grad.clone()
        optimizer.step()
    assert clipped.norm() < 0.011
    run = Run.open(monitor.path)
    assert run.steps("kernels:0") == [0]
    np.testing.assert_array_equal(run.get(0, "kernels:0")["gradient"], clipped.numpy())


def test_maps_are_those_of_the_methods(module: nn.Module, tmp_path: Path) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    images, labels = data(3, seed=5)
    network = cs.Network.from_module(module, image_size=8)
    expected = {}

    def look(*_: Any) -> None:
        for layer in ("0", "2", "5", "8"):
            arguments = {"images": images, "labels": labels.tolist()}
            expected[layer] = network.view("activation_gradients", layer, **arguments)

    with Monitor(module, optimizer, store=tmp_path / "a", images=images, labels=labels.tolist(), **ALL) as monitor:
        step(module, optimizer)
        with optimizer.register_step_pre_hook(look):
            step(module, optimizer)
    run = Run.open(monitor.path)
    assert [name for name in run.names() if name.startswith("maps")] == [f"maps:{n}" for n in range(9)]
    for layer, view in expected.items():
        found = run.get(1, f"maps:{layer}")
        assert found.kind == "maps"
        assert found.meta["objective"] == "loss:true"
        for name, array in view.arrays.items():
            np.testing.assert_array_equal(found[name], array)
    shown = run.get(0, "images")
    assert shown["picture"].shape == (3, 8, 8, 3)
    assert shown.meta["labels"] == labels.tolist()
    assert run.facts["layers"][0]["units"] == 4


def test_large_layers_keep_the_same_slices_all_along(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(128, 64, 3), nn.ConvTranspose2d(64, 16, 3, groups=2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    optimizer = torch.optim.SGD(module.parameters(), lr=10.0)
    with Monitor(module, optimizer, store=tmp_path / "a", **ALL) as monitor:
        for seed in range(3):
            torch.manual_seed(seed)
            optimizer.zero_grad()
            module(torch.randn(2, 128, 5, 5)).square().sum().backward()
            gradient, transposed = module[0].weight.grad.clone(), module[1].weight.grad.clone()
            optimizer.step()
    run = Run.open(monitor.path)
    views = [run.get(at, "kernels:0") for at in range(3)]
    assert views[0]["kernel"].shape == (64, 9, 3, 3)
    for view in views[1:]:
        np.testing.assert_array_equal(view["channel"], views[0]["channel"])
    taken = gradient.numpy()[np.arange(64)[:, None], views[2]["channel"]]
    np.testing.assert_array_equal(views[2]["gradient"], taken)
    np.testing.assert_allclose(views[2]["gradient_norm"], norms(gradient), rtol=1e-6)
    assert views[2].meta["ranges"]["gradient"]["maximum"] == gradient.max().item()
    # A transposed convolution's filters lie along its second axis, group by group.
    by_unit = torch.cat([half.transpose(0, 1) for half in transposed.chunk(2)])
    np.testing.assert_allclose(run.get(2, "filters:1")["gradient_norm"], norms(by_unit), rtol=1e-6)
    np.testing.assert_array_equal(run.get(2, "kernels:1")["gradient"], by_unit.numpy())


def test_norms_are_right_where_squares_leave_the_format(tmp_path: Path) -> None:
    module = nn.Linear(3, 3, bias=False)
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[3e-30, 4e-30, 0], [3e30, 4e30, 0], [0, 0, 0]]))
    with Monitor(module, optimizer, store=tmp_path / "a", **ALL) as monitor:
        module.weight.grad = torch.tensor([[1e-42, 0, 0], [1e25, 0, 0], [0, 0, 0]])
        optimizer.step()
    view = Run.open(monitor.path).get(0, "filters:weight")
    np.testing.assert_allclose(view["weight_norm"], [5e-30, 5e30, 0], rtol=1e-6)
    np.testing.assert_allclose(view["gradient_norm"], [1e-42, 1e25, 0], rtol=1e-3)
    assert view["ratio"][2] == 0


# ---- what loops do ---------------------------------------------------------------------------------------------


def test_numbers_belong_to_the_step_they_were_given_at(module: nn.Module, tmp_path: Path) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with Monitor(module, optimizer, store=tmp_path / "after") as monitor:
        for each in range(3):
            step(module, optimizer)
            monitor.log(loss=float(each), accuracy=np.float32(0.5))
        monitor.log({"validation/loss": torch.tensor([7.0])}, step=100)
    scalars = Run.open(tmp_path / "after").scalars()
    assert scalars["loss"][0].tolist() == [0, 1, 2]
    assert (scalars["validation/loss"][0].tolist(), scalars["validation/loss"][1].tolist()) == ([100], [7.0])
    assert scalars["lr"][1].tolist() == [0.1] * 3
    with Monitor(module, optimizer, store=tmp_path / "before") as monitor:
        for each in range(3):
            monitor.log(loss=each, step=None)
            step(module, optimizer)
    assert Run.open(tmp_path / "before").scalars()["loss"][0].tolist() == [0, 1, 2]


def test_several_optimizers(tmp_path: Path) -> None:
    one, two = nn.Conv2d(3, 2, 3), nn.Conv2d(2, 2, 3)
    module = nn.Sequential(one, two)
    first, second = torch.optim.SGD(one.parameters(), lr=0.1), torch.optim.Adam(two.parameters(), lr=0.01)
    with Monitor(module, [first, second], store=tmp_path / "a", **ALL) as monitor:
        for each in range(4):
            module(data(2)[0]).sum().backward()
            first.step()
            if each % 2 == 0:
                gradient = two.weight.grad.clone()
                second.step()
                second.zero_grad()
    run = Run.open(monitor.path)
    assert run.steps("filters:0") == [0, 1, 2, 3]
    assert run.steps("filters:1") == [0, 2]
    np.testing.assert_array_equal(run.get(2, "kernels:1")["gradient"], gradient.numpy())
    assert set(run.scalars()) >= {"lr", "optimizer1.lr"}


def test_an_optimizer_that_computes_gradients_inside_its_step(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 5))
    optimizer = torch.optim.LBFGS(module.parameters(), lr=0.1, max_iter=4)
    gradients: list[torch.Tensor] = []
    images, labels = data(4)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(module(images), labels)
        loss.backward()
        gradients.append(module[0].weight.grad.clone())
        return loss

    with Monitor(module, optimizer, store=tmp_path / "a", **ALL) as monitor:
        optimizer.step(closure)
        first = len(gradients)
        optimizer.step(closure=closure)
    run = Run.open(monitor.path)
    np.testing.assert_array_equal(run.get(0, "kernels:0")["gradient"], gradients[0].numpy())
    np.testing.assert_array_equal(run.get(1, "kernels:0")["gradient"], gradients[first].numpy())
    assert run.get(1, "filters:0")["update_norm"].min() > 0


def test_shared_frozen_sparse_and_late_parameters(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.ModuleDict(
        {"words": nn.Embedding(50, 4, sparse=True), "frozen": nn.Linear(4, 4), "out": nn.Linear(4, 50)}
    )
    module["again"] = module["out"]
    module["frozen"].requires_grad_(False)
    optimizer = torch.optim.SGD([*module["words"].parameters(), *module["out"].parameters()], lr=0.5)
    with Monitor(module, optimizer, store=tmp_path / "a", **ALL) as monitor:
        for each in range(3):
            if each == 2:
                module["late"] = nn.Linear(4, 4, bias=False)
                optimizer.add_param_group({"params": list(module["late"].parameters()), "lr": 0.25})
            optimizer.zero_grad()
            hidden = module["frozen"](module["words"](torch.tensor([1, 7, 7, 49])))
            if each == 2:
                hidden = module["late"](hidden)
            F.cross_entropy(module["again"](hidden), torch.tensor([0, 1, 2, 3])).backward()
            dense = module["words"].weight.grad.to_dense().clone()
            optimizer.step()
    assert monitor.problems == []
    run = Run.open(monitor.path)
    words = run.get(2, "filters:words")
    np.testing.assert_allclose(words["gradient_norm"], norms(dense), rtol=1e-6)
    assert (words["update_norm"] > 0).sum() == 3
    counts = run.get(2, "histograms:words").meta["counts"]["gradient"]
    assert (counts["total"], counts["zero"]) == (200, int((dense == 0).sum()))
    frozen = run.get(2, "filters:frozen")
    assert set(frozen.arrays) == {"weight_norm"}
    assert "frozen" in frozen.meta["without"]
    assert run.get(2, "kernels:frozen").meta["without"]
    assert run.get(0, "filters:out").meta["shared_with"] == ["again.weight"]
    assert run.steps("filters:late") == [2]
    assert run.get(2, "kernels:late").meta["since"] == 2
    assert [event.new for event in run.events() if event.kind == "layers"] == [4]
    assert set(run.scalars()) >= {"lr.0", "lr.1"}


def test_a_parameter_without_gradient_says_so(module: nn.Module, tmp_path: Path) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with Monitor(module, optimizer, store=tmp_path / "a", **ALL) as monitor:
        module[0](data(2)[0]).sum().backward()
        optimizer.step()
    run = Run.open(monitor.path)
    assert "no gradient" in run.get(0, "filters:8").meta["without"]
    assert "gradient_norm" in run.get(0, "filters:0").arrays
    assert set(run.get(0, "histograms:8").meta["counts"]) == {"weight"}


def test_a_compiled_module(tmp_path: Path) -> None:
    module = small()
    calls = []

    def backend(graph: Any, _inputs: Any) -> Any:
        calls.append(1)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(module, backend=backend)
    optimizer = torch.optim.SGD(compiled.parameters(), lr=0.1)
    step(compiled, optimizer)
    before = len(calls)
    with Monitor(compiled, optimizer, store=tmp_path / "a", images=data(2), **ALL) as monitor:
        for _ in range(3):
            step(compiled, optimizer)
    torch._dynamo.reset()
    assert len(calls) == before, "watching must not make anything compile anew"
    assert monitor.problems == []
    run = Run.open(monitor.path)
    assert run.steps("maps:0") == [0, 1, 2]


def test_a_module_compiled_in_place_is_seen_uncompiled(tmp_path: Path) -> None:
    if "torchlens" in sys.modules:
        # It leaves torch's functions wrapped for as long as the process lives, which the compiler can't look through.
        name = f"{__file__}::{test_a_module_compiled_in_place_is_seen_uncompiled.__name__}"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
        return
    module = small()
    torch._dynamo.reset()
    module.compile(backend="eager")
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with Monitor(module, optimizer, store=tmp_path / "a", images=data(2), **ALL) as monitor:
        step(module, optimizer)
    torch._dynamo.reset()
    assert monitor.problems == []
    assert any("without the compiler" in text for text in Run.open(monitor.path).get(0, "maps:0").meta["warnings"])


def test_a_scaler_that_skips_steps(module: nn.Module, tmp_path: Path) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    with Monitor(module, optimizer, store=tmp_path / "a", scaler=scaler, **ALL) as monitor:
        for each in range(4):
            images, labels = data()
            optimizer.zero_grad()
            loss = F.cross_entropy(module(images), labels) * (float("inf") if each == 1 else 1)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            if each == 3:
                gradient = module[0].weight.grad.clone()
            scaler.update()
    assert "step" not in scaler.__dict__
    assert (monitor.step, monitor.skipped) == (3, 1)
    run = Run.open(monitor.path)
    assert [event.step for event in run.events() if event.kind == "skipped"] == [1]
    np.testing.assert_array_equal(run.get(2, "kernels:0")["gradient"], gradient.numpy())


def test_a_fused_optimizer_under_a_scaler(module: nn.Module, tmp_path: Path) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    with Monitor(module, optimizer, store=tmp_path / "a", scaler=scaler, **ALL) as monitor:
        for each in range(3):
            images, labels = data()
            optimizer.zero_grad()
            loss = F.cross_entropy(module(images), labels) * (float("inf") if each == 1 else 1)
            scaler.scale(loss).backward()
            scaled = module[0].weight.grad.clone()
            scale = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
    run = Run.open(monitor.path)
    assert [event.step for event in run.events() if event.kind == "skipped"] == [1]
    np.testing.assert_array_equal(run.get(2, "kernels:0")["gradient"], (scaled / scale).numpy())
    assert run.get(1, "filters:0")["update_norm"].max() == 0


# ---- choosing --------------------------------------------------------------------------------------------------


def test_schedules_and_layers_can_be_chosen(module: nn.Module, tmp_path: Path) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with Monitor(
        module,
        optimizer,
        store=tmp_path / "a",
        images=data(2),
        filters=2,
        histograms=None,
        kernels=Logarithmic(1, 5, 3),
        maps=Every(4),
        layers=["0", "8"],
        kernel_layers=["0"],
        map_layers=["2", "5"],
        budget=None,
    ):
        for _ in range(6):
            step(module, optimizer)
    run = Run.open(tmp_path / "a")
    assert run.names() == ["images", "maps:2", "maps:5", "filters:0", "filters:8", "kernels:0"]
    assert run.steps("filters:8") == [0, 2, 4]
    assert run.steps("maps:5") == [0, 4]


def test_a_second_run_lies_beside_the_first(
    module: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    paths = []
    for _ in range(3):
        with Monitor(module, optimizer, store=tmp_path / "a") as monitor:
            step(module, optimizer)
        paths.append(monitor.run.path.name)
    assert paths == ["a", "a-2", "a-3"]
    assert "this one is recorded in" in caplog.text
    assert [path.name for path in Run.find(tmp_path)] == paths


def test_a_run_is_resumed(module: nn.Module, tmp_path: Path) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for first_step in (None, None, 2):
        with Monitor(module, optimizer, store=tmp_path / "a", resume=True, first_step=first_step, **ALL) as monitor:
            for _ in range(3):
                step(module, optimizer)
    run = Run.open(tmp_path / "a")
    assert run.steps("filters:0") == [0, 1, 2, 3, 4]
    assert monitor.step == 5
    other = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(other.parameters())
    with pytest.raises(ConvscopeError, match="another architecture"):
        Monitor(other, optimizer, store=tmp_path / "a", resume=True)


def test_nothing_stays_behind(module: nn.Module, tmp_path: Path) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    monitor = Monitor(module, optimizer, store=tmp_path / "a", images=data(2))

    def loop() -> None:
        with monitor:
            step(module, optimizer)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop()
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in module.modules())
    monitor.close()
    step(module, optimizer)
    monitor.log(loss=1)
    run = Run.open(tmp_path / "a")
    assert run.steps("filters:0") == [0]
    assert "loss" not in run.scalars()
    assert run.events()[-1].text == "Training ended with ZeroDivisionError."


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"optimizer": "SGD"}, ConvscopeError, "a str isn't a torch optimizer"),
        ({"optimizer": []}, ConvscopeError, "there is no optimizer"),
        ({"layers": ["layer9"]}, UnknownName, "no layer with weights matches 'layer9'"),
        ({"map_layers": ["layer9"], "images": data(2)}, UnknownName, "no layer with units matches"),
        ({"images": ["a.jpg"]}, BadImage, "a module alone can't prepare pictures"),
        ({"images": torch.zeros(2, 5, 8, 8)}, ConvscopeError, "can't take an image of 5 × 8 × 8"),
        ({"images": data(2)[0], "labels": [1]}, ConvscopeError, "1 labels for 2 images"),
        ({"filters": 0}, ConvscopeError, "interval is 0"),
        ({"objective": "score:9", "images": data(2)}, UnknownName, "no class 9"),
    ],
)
def test_what_makes_no_sense_is_refused_before_training(
    change: dict[str, Any], error: type[Exception], message: str, module: nn.Module, tmp_path: Path
) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with pytest.raises(error, match=message):
        Monitor(module, **({"optimizer": optimizer, "store": tmp_path / "a"} | change))
    assert not Run.find(tmp_path)


def test_without_class_scores_there_are_maps_but_no_gradients(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with Monitor(module, optimizer, store=tmp_path / "a", images=data(2)[0]) as monitor:
        module(data(2)[0]).sum().backward()
        optimizer.step()
    view = Run.open(monitor.path).get(0, "maps:0")
    assert "gradient" not in view.arrays
    assert "cross-entropy over one output" in view.meta["without"]
