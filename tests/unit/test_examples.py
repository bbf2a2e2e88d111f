"""Every script under examples/ runs, in seconds, and writes the pictures it speaks of."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"
WRITTEN = {
    "keep_results.py": ["study"],
    "own_network.py": ["first-before.png", "first-after.png", "maps.png", "digits.safetensors"],
    "step_through.py": ["step.png"],
    "watch_training.py": ["runs"],
    "weight_gradients_of_a_batch.py": ["stem-gradients.png"],
    "weights_of_a_network.py": ["stem.png", "expand-7.png", "depthwise.png"],
}


def test_every_example_is_here() -> None:
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == sorted(WRITTEN)


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(WRITTEN[name])


def test_the_page_can_open_the_example_of_an_own_network() -> None:
    import convscope as cs

    network = cs.load(f"{EXAMPLES / 'own_network.py'}:make_network", image_size=8)
    assert (network.channels, network.image_size, network.classes) == (1, (8, 8), 10)
