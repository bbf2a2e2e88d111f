"""The callbacks, with the real Lightning and the real Transformers."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope.training import Run

from .loops import data, small

if TYPE_CHECKING:
    from pathlib import Path

WAY_BACK = "isn't installed; `pip install -c constraints.txt -e '.[test]'` brings it"
ALL = {"filters": 1, "histograms": 1, "kernels": 1, "maps": 1, "budget": None}
needs_lightning = pytest.mark.skipif(importlib.util.find_spec("lightning") is None, reason=f"Lightning {WAY_BACK}")
needs_transformers = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("transformers", "accelerate")),
    reason=f"Transformers {WAY_BACK}",
)


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    script = (
        "import sys, convscope.training.monitor; print([n for n in ('lightning', 'transformers') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["lightning", "huggingface"])
def test_a_missing_library_is_said(name: str) -> None:
    script = (
        "import sys\n"
        "for name in ('lightning.pytorch', 'pytorch_lightning', 'transformers'): sys.modules[name] = None\n"
        f"from convscope.training.{name} import MonitorCallback"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode
    assert f"pip install 'convscope[{name}]'" in done.stderr


@pytest.fixture
def quiet() -> Any:
    # Their warnings are theirs; ours are errors everywhere else.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@needs_lightning
@pytest.mark.parametrize("automatic", [True, False])
def test_lightning(automatic: bool, tmp_path: Path, quiet: None) -> None:
    import lightning.pytorch as lightning

    from convscope.training.lightning import MonitorCallback

    seen: list[torch.Tensor] = []

    class Classifier(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = small()
            self.automatic_optimization = automatic

        def training_step(self, batch: Any, _index: int) -> torch.Tensor:
            loss = F.cross_entropy(self.network(batch[0]), batch[1])
            self.log("training_loss", loss)
            if not automatic:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
            return loss

        def validation_step(self, batch: Any, _index: int) -> None:
            self.log("validation_loss", F.cross_entropy(self.network(batch[0]), batch[1]))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            super().optimizer_step(*args, **kwargs)
            seen.append(self.network[0].weight.grad.clone())

    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data(24)), batch_size=4)
    callback = MonitorCallback(store=tmp_path / "a", module="network", images=data(2), **ALL)
    options: dict[str, Any] = {"gradient_clip_val": 0.01, "accumulate_grad_batches": 2} if automatic else {}
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[callback], **options,
    )  # fmt: skip
    trainer.fit(Classifier(), batches, batches)
    assert callback.monitor is not None
    assert callback.monitor.problems == []
    run = Run.open(tmp_path / "a")
    steps = 6 if automatic else 12
    assert run.steps("filters:0") == run.steps("maps:0") == list(range(steps))
    if automatic:  # the gradient of two batches, clipped, made inside the optimizer's step
        for step, gradient in enumerate(seen):
            np.testing.assert_array_equal(run.get(step, "kernels:0")["gradient"], gradient.numpy())
        assert gradient.norm() < 0.011
    scalars = run.scalars()
    assert len(scalars["loss"][0]) >= steps - 1
    assert len(scalars["validation_loss"][0]) == 2
    assert scalars["training_loss"][1][-1] == pytest.approx(scalars["loss"][1][-1], rel=1e-5)
    assert not trainer.optimizers[0]._optimizer_step_pre_hooks


@needs_lightning
def test_lightning_that_fails(tmp_path: Path, quiet: None) -> None:
    import lightning.pytorch as lightning

    from convscope.training.lightning import MonitorCallback

    class Failing(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Linear(2, 2)

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            if index == 2:
                raise ZeroDivisionError
            return self.network(batch[0]).sum()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(4, 2)))
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[MonitorCallback(store=tmp_path / "a", **ALL)],
    )  # fmt: skip
    with pytest.raises(ZeroDivisionError):
        trainer.fit(Failing(), batches)
    run = Run.open(tmp_path / "a")
    assert run.steps("filters:network") == [0, 1]
    assert run.events()[-1].text == "Training ended with ZeroDivisionError."


@needs_transformers
def test_hugging_face(tmp_path: Path, quiet: None) -> None:
    from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

    from convscope.training.huggingface import MonitorCallback

    torch.manual_seed(0)
    config = ResNetConfig(num_channels=3, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], num_labels=5)
    model = ResNetForImageClassification(config)
    images, labels = data(16)
    rows = [{"pixel_values": image, "labels": label} for image, label in zip(images, labels, strict=True)]
    seen: list[torch.Tensor] = []
    weight = model.resnet.embedder.embedder.convolution.weight
    callback = MonitorCallback(store=tmp_path / "a", images=(images[:2], labels[:2]), **ALL)
    arguments = TrainingArguments(
        str(tmp_path / "out"),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_steps=4,
        max_grad_norm=0.01,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, train_dataset=rows, callbacks=[callback])
    trainer.create_optimizer()
    trainer.optimizer.register_step_pre_hook(lambda *_: seen.append(weight.grad.clone()))
    trainer.train()
    assert callback.monitor is not None
    assert callback.monitor.problems == []
    run = Run.open(tmp_path / "a")
    layer = "resnet.embedder.embedder.convolution"
    assert run.steps(f"kernels:{layer}") == run.steps(f"maps:{layer}") == [0, 1, 2, 3]
    for step, gradient in enumerate(seen):
        np.testing.assert_array_equal(run.get(step, f"kernels:{layer}")["gradient"], gradient.numpy())
    assert "gradient" in run.get(3, f"maps:{layer}").arrays
    assert run.scalars()["loss"][0].tolist() == [0, 1, 2, 3]
    assert "train_runtime" in run.scalars()
