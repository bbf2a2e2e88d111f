"""``convscope mine``, and what shows its study: view, serve."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from convscope.cli import main
from convscope.cli.explore import mined_location
from convscope.cli.source import read_record
from convscope.mining.study import Study
from convscope.store import Store
from patience import PATIENCE

FACTORY = """
from torch import nn

def make():
    pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), *pooled)
"""
SLOW = """
import time
from torch import nn

class Slow(nn.Module):
    def forward(self, images):
        time.sleep(0.05)
        return images

def make():
    return nn.Sequential(Slow(), nn.Conv2d(3, 2, 3))
"""
MAIN = "import sys; from convscope.cli import main; sys.exit(main())"


@pytest.fixture
def shell(capsys):
    def run(*words):
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture
def words(tmp_path, photos):
    seeded = FACTORY.replace("def make():\n", "def make():\n    torch.manual_seed(0)\n")
    (tmp_path / "fixed.py").write_text("import torch\n" + seeded)
    return [f"{tmp_path / 'fixed.py'}:make", "--image-size", "16"]


def mine(words, photos, study):
    return ["mine", *words, "--images", photos, "--study", study, "--executor", "serial"]


def test_mining_says_what_it_found_and_how_to_look(shell, words, photos, tmp_path):
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    code, out, _ = shell(*mine(words, photos, tmp_path / "study"), "-k", "3")
    assert code == 0
    assert "12 images mined" in out
    assert "up to 3 patches for each of 9 units of 2 layers" in out
    assert f"Look at them: convscope serve {tmp_path / 'study'} --trust" in out
    study = Study.open(tmp_path / "study")
    assert (study.k, study.done, study.location) == (3, 12, str(photos))


def test_as_json(shell, words, photos, tmp_path):
    code, out, _ = shell(*mine(words, photos, tmp_path / "study"), "--layers", "0", "--layers", "4", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["images"], found["done"], found["finished"], found["layers"]) == (12, 12, True, ["0", "4"])


def test_what_was_mined_is_served_again(shell, words, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shell(*mine(words, "photos", "study"))[0] == 0
    monkeypatch.chdir("/")
    source, fingerprint = read_record(tmp_path / "study", trust=True)
    assert source.images == (str(photos),)
    assert source.network().fingerprint == fingerprint
    with Store.open(tmp_path / "study") as store:
        assert mined_location(store) == str(photos), "wherever the study is opened from"


def test_a_record_of_other_images_stays(shell, words, photos, tmp_path):
    assert shell(*mine(words, photos, tmp_path / "study"))[0] == 0
    before = (tmp_path / "study" / "study.json").read_text()
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (16, 16)).save(other / "another.png")
    code, _, err = shell(*mine(words, other, tmp_path / "study"))
    assert code == 1
    assert "other images" in err
    assert (tmp_path / "study" / "study.json").read_text() == before


def test_another_network_is_refused_and_changes_nothing(shell, words, photos, tmp_path):
    assert shell(*mine(words, photos, tmp_path / "study"))[0] == 0
    before = (tmp_path / "study" / "study.json").read_text()
    code, _, err = shell(*mine([words[0], "--image-size", "20"], photos, tmp_path / "study"))
    assert code == 1
    assert "image_size" in err
    assert (tmp_path / "study" / "study.json").read_text() == before


@pytest.mark.parametrize(
    ("change", "code", "hint"),
    [
        (["--layers", "9*"], 1, "no layer fits"),
        (["-k", "0"], 2, "1<=x<=1000"),
        (["--executor", "threads"], 2, "'serial', 'processes', 'ray'"),
    ],
)
def test_what_cannot_be_mined(shell, words, photos, tmp_path, change, code, hint):
    found, _, err = shell(*mine(words, photos, tmp_path / "study"), *change)
    assert found == code
    assert hint in " ".join(err.replace("│", " ").split())


def test_images_and_study_are_asked_for(shell, words, photos):
    assert "--study" in shell("mine", *words, "--images", photos)[2]
    assert "--images" in shell("mine", *words, "--study", "study")[2]
    assert "no such file or folder" in shell("mine", *words, "--study", "study", "--images", "/no/such/folder")[2]


def test_a_unit_is_drawn_with_its_patches(shell, words, photos, tmp_path):
    assert shell(*mine(words, photos, tmp_path / "study"))[0] == 0
    for target in ("0", "0:2"):
        code, _, err = shell(
            "view", "top_patches", words[0], target, *words[1:], "--study", tmp_path / "study", "-o", tmp_path / "a.png"
        )
        assert code == 0, err
        picture = np.asarray(Image.open(tmp_path / "a.png"))
        # Noise has hundreds of colors; a table, or crossed-out tiles, only the grays of words.
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 500
    with Store.open(tmp_path / "study") as store:
        assert not store.query(method="top_patches"), "it is read off the study"


def test_moved_images_are_found_where_they_are_now(shell, words, photos, tmp_path):
    assert shell(*mine(words, photos, tmp_path / "study"))[0] == 0
    asked = [
        "view",
        "top_patches",
        words[0],
        "0:2",
        *words[1:],
        "--study",
        tmp_path / "study",
        "-o",
        tmp_path / "a.svg",
    ]
    photos.rename(tmp_path / "moved")
    assert shell(*asked)[0] == 0
    text = (tmp_path / "a.svg").read_text()
    assert "Not shown" in text
    assert shell(*asked, "--images", tmp_path / "moved")[0] == 0
    assert "Not shown" not in (tmp_path / "a.svg").read_text()


def test_without_a_study_the_next_step_is_to_mine(shell, words):
    code, _, err = shell("view", "top_patches", words[0], "0", *words[1:])
    assert code == 1
    assert "convscope mine" in err


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(tmp_path, photos):
    (tmp_path / "slow.py").write_text(SLOW)
    for number in range(12, 300):
        (photos / f"{number}.png").write_bytes((photos / f"{number % 12:02}.png").read_bytes())
    words = [f"{tmp_path / 'slow.py'}:make", "--image-size", "16", "--weights", "random"]
    command = [str(word) for word in mine(words, photos, tmp_path / "study")]
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    with process:
        while not (line := process.stderr.readline()).startswith("mining:"):
            assert line
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(PATIENCE) == 130
    assert "Traceback" not in rest
    assert "0 of 300 images are mined and kept" in rest
    assert f"Go on: convscope {' '.join(command)}" in rest
    assert (tmp_path / "study" / "study.json").is_file()


def test_progress_into_a_file_is_a_few_lines(shell, words, photos, tmp_path):
    _, _, err = shell(*mine(words, photos, tmp_path / "study"))
    lines = [line for line in err.splitlines() if line.startswith("mining:")]
    assert lines[-1] == "mining: 12 of 12"
    assert len(lines) == len(set(lines)) <= 3


def test_the_picture_of_a_view_is_complete_without_the_study(words, photos, tmp_path, shell):
    """A View's blob opened elsewhere shows its numbers, and says why there are no pictures."""
    assert shell(*mine(words, photos, tmp_path / "study"))[0] == 0
    blob = tmp_path / "view.safetensors"
    shell("view", "top_patches", words[0], "0", *words[1:], "--study", tmp_path / "study", "-o", blob)
    script = (
        "import sys\nfrom convscope import View\nView.from_bytes(open(sys.argv[1], 'rb').read()).save(sys.argv[2])\n"
    )
    subprocess.run([sys.executable, "-c", script, blob, tmp_path / "a.svg"], check=True)
    text = (tmp_path / "a.svg").read_text()
    assert "no image" in text
    assert "hasn't opened the study" in text.replace("&#x27;", "'").replace("&apos;", "'")


def test_projections_of_a_study_are_drawn_and_kept(shell, words, photos, tmp_path):
    study = tmp_path / "study"
    assert shell(*mine(words, photos, study), "--layers", "1")[0] == 0
    project = ["view", "projections", *words, "1", "--units", "0-1", "--study", study]
    code, _, err = shell(*project, "-o", tmp_path / "figure.png")
    assert code == 0, err
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    with Store.open(study) as store:
        assert [entry.kind for entry in store.query(method="projections")] == ["projections"]
    moved = tmp_path / "moved"
    photos.rename(moved)
    code, out, err = shell(*project, "--images", moved, "--rule", "gradient", "--json")
    assert code == 0, err
    assert json.loads(out)["recipe"]["images"] == []
    code, _, err = shell("view", "projections", *words, "1")
    assert code == 1
    assert "convscope mine" in err
