from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from convscope.cli import main
from convscope.training.presets import DEFAULT, PRESETS
from convscope.training.run import Run
from convscope.training.snapshot import Snapshot
from patience import PATIENCE

FEW = ["--train-images", "300", "--held-out-images", "100"]


@pytest.fixture
def shell(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # What the command sets for its own process mustn't reach the other tests.
    monkeypatch.setattr(sys.modules["convscope.cli.train"], "_use_threads", lambda _: None)

    def run(*words):
        code = main(["train", *(str(word) for word in words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_a_run_is_recorded_and_continued_bit_by_bit(shell):
    code, out, err = shell("linear", *FEW, "--steps", 10, "--run", "runs/a", "--json")
    first = json.loads(out)
    assert (code, first["state"], first["steps"], first["examples"]) == (0, "finished", 10, 320)
    assert first["held_out"]["count"] == 100
    assert "recorded in runs/a" in err
    code, out, err = shell(*FEW, "--steps", 25, "--run", "runs/a", "--json")
    assert (code, json.loads(out)["steps"]) == (0, 25)
    assert "continued at step 10" in err
    shell("linear", *FEW, "--steps", 25, "--run", "runs/b")
    one, other = (Snapshot.open(f"runs/{name}/snapshot.safetensors") for name in "ab")
    assert all(torch.equal(weight, other.weights[name]) for name, weight in one.weights.items())
    with Run.open("runs/a") as run:
        steps, losses = run.scalars()["loss"]
        assert steps.tolist() == list(range(25))
        assert run.facts["settings"]["optimizer"] == "sgd"
        assert "fully_connected" in run.facts["definition"]
        assert "filters:fc1" in run.names()
        assert run.scalars()["held_out_accuracy"][1][-1] == pytest.approx(json.loads(out)["held_out"]["accuracy"])
    with Run.open("runs/b") as run:
        assert run.scalars()["loss"][1].tolist() == losses.tolist()


def test_a_changed_setting_is_marked_in_the_run(shell):
    shell("linear", *FEW, "--steps", 3, "--run", "runs/a")
    code, _, err = shell(*FEW, "--steps", 6, "--run", "runs/a", "--learning-rate", "0.5", "--optimizer", "adam")
    assert code == 0
    assert "adam, learning rate 0.5" in err


def test_a_definition_of_ones_own(shell, tmp_path):
    text = shell("lenet5", "--show")[1]
    assert text == PRESETS["lenet5"].text
    (tmp_path / "mine.yaml").write_text(text.replace("units: 84", "units: 21"))
    code, out, err = shell("mine.yaml", *FEW, "--data", "mnist", "--steps", 2, "--export", "w.safetensors")
    assert code == 0
    assert "step 2" in out
    assert "runs/mine" in err
    assert load_file("w.safetensors")["fc2.weight"].shape == (21, 120)
    (tmp_path / "wrong.yaml").write_text(text.replace("units: 84", "unist: 84"))
    code, _, err = shell("wrong.yaml", *FEW)
    assert code == 1
    assert "line 11" in err
    assert "did you mean units?" in err


def test_to_convnetjs_and_back(shell):
    code, _, _ = shell("convnetjs-mnist", *FEW, "--steps", 3, "--export", "net.json")
    assert code == 0
    code, _, _ = shell("net.json", *FEW, "--steps", 0, "--json")
    assert code == 0
    first = Snapshot.open("runs/convnetjs-mnist/snapshot.safetensors")
    again = Snapshot.open("runs/net/snapshot.safetensors")
    assert all(torch.equal(weight, again.weights[name]) for name, weight in first.weights.items())


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["lenett"], "did you mean lenet5"),
        (["nowhere.yaml"], "can't be read"),
        (["resnet"], "--data"),
        (["lenet5", "--data", "nowhere"], "no such folder"),
        (["lenet5", *FEW, "--optimizer", "magic"], "choose sgd"),
        (["lenet5", *FEW, "--optimizer", "adagrad", "--momentum", "0.5"], "adagrad has no momentum"),
        (["lenet5", *FEW, "--batch-size", "-3"], "batch_size"),
        (["lenet5", *FEW, "--steps", "1", "--export", "w.pt"], ".safetensors or .json"),
        (["lenet5", *FEW, "--steps", "1", "--export", "w.json"], "mean: 0.5"),
        (["lenet5", *FEW, "--steps", "1", "--export", "nowhere/w.safetensors"], "a folder that is there"),
    ],
)
def test_what_cannot_be_trained_is_said_with_the_next_step(shell, words, hint):
    code, out, err = shell(*words)
    assert (code, out) == (1, "")
    assert hint in " ".join(err.replace("│", " ").split())


def test_a_run_of_another_network_seed_or_data_is_not_continued(shell):
    shell("linear", *FEW, "--steps", 2, "--run", "runs/a")
    for words, hint in (
        (["lenet5", *FEW], "another network"),
        (["linear", *FEW, "--seed", "3"], "begun with seed 0"),
        (["linear", "--train-images", "200"], "aren't the images"),
    ):
        code, _, err = shell(*words, "--steps", 3, "--run", "runs/a")
        assert code == 1
        assert hint in " ".join(err.replace("│", " ").split())


def test_the_help_names_every_preset_and_imports_nothing_heavy(shell):
    _, out, _ = shell("--help")
    for name in PRESETS:
        assert name in out
    assert DEFAULT == "lenet5"
    script = (
        "import sys; from convscope.cli import main; main(['train', '--help'])\n"
        "sys.exit(bool({'torch', 'numpy', 'yaml'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_interrupting_keeps_everything_and_it_goes_on(tmp_path):
    words = [sys.executable, "-c", "import sys; from convscope.cli import main; sys.exit(main())"]
    words += ["train", "linear", *FEW, "--run", "runs/a", "--no-page"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stderr:
            if line.startswith("step "):  # a line every five seconds
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(PATIENCE) == 130
    assert "Traceback" not in rest
    assert "go on with the same command" in rest
    kept = Snapshot.open(tmp_path / "runs/a/snapshot.safetensors")
    assert kept.steps > 0
    done = subprocess.run(
        [*words, "--steps", str(kept.steps + 5), "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert json.loads(done.stdout)["steps"] == kept.steps + 5
    with Run.open(tmp_path / "runs/a") as run:
        assert run.scalars()["loss"][0].tolist() == list(range(kept.steps + 5))
