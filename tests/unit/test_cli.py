from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from convscope.cli import main
from convscope.cli.source import RECORD, Source, read_record, write_record
from convscope.errors import ConvscopeError
from patience import PATIENCE

FACTORY = """
from torch import nn

def make():
    pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), *pooled)
"""


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(FACTORY)
    return f"{path}:make"


@pytest.fixture
def shell(capsys):
    def run(*words):
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def small(model):
    return [model, "--image-size", "16"]


def test_help_imports_nothing_heavy():
    script = (
        "import sys, contextlib\n"
        "from convscope.cli import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "heavy = {'torch', 'numpy', 'fastapi', 'starlette', 'uvicorn', 'pydantic', 'PIL', 'safetensors'}\n"
        "sys.stderr.write(','.join(sorted(heavy & set(sys.modules))))\n"
    )
    commands = (["--help"], ["--version"], *([name, "--help"] for name in ("open", "view", "mine", "serve")))
    for words in commands:
        done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True)
        assert done.stderr == "", f"convscope {' '.join(words)} imported {done.stderr}"


def test_help_lists_the_journey_with_examples(shell):
    code, out, _ = shell("--help")
    assert code == 0
    commands = re.findall(r"^  (demo|open|layers|view|methods|serve) ", out, re.MULTILINE)
    assert commands == ["demo", "open", "layers", "view", "methods", "serve"]
    assert "convscope open torchvision:resnet18 --images photos/" in out
    assert "openapi" not in out
    assert shell("open", "-h")[1].startswith("Usage: convscope open ")


def test_no_command_shows_the_help(shell):
    code, out, _ = shell()
    assert code == 2
    assert "Commands" in out


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["vew"], "did you mean view"),
        (["view", "weigths", "demo"], "did you mean weights"),
        (["view", "weights", "demo", "x", "--slces", "3"], "--slices"),
        (["layers"], "MODEL"),
        (["layers", "demo", "--image-size", "big"], "rows,columns"),
        (["demo", "--port", "70000"], "65535"),
    ],
)
def test_a_wrong_command_line_exits_with_2_and_a_hint(shell, words, hint):
    code, out, err = shell(*words)
    assert code == 2
    assert out == ""
    assert hint in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["layers", "resnet18"], "torchvision:resnet18"),
        (["view", "weights", "resnet18", "x"], "torchvision:resnet18"),
        (["open", "demo", "--host", "0.0.0.0"], "--allow-host"),  # noqa: S104 - that it is refused is the test
        (["open", "demo", "--host", "example.org"], "isn't an address"),
        (["serve", "nowhere"], "--study"),
    ],
)
def test_an_error_exits_with_1_and_the_next_step(shell, words, hint):
    code, out, err = shell(*words)
    assert code == 1
    assert out == ""
    assert hint in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err


def test_debug_shows_where_an_error_came_from(model):
    with pytest.raises(ConvscopeError):
        main(["view", "weights", *small(model), "nowhere", "--debug"])


def test_layers_as_a_table_and_as_json(shell, model):
    code, out, _ = shell("layers", *small(model))
    assert code == 0
    assert "Conv2d" in out
    assert "4 × 7 × 7" in out
    code, out, _ = shell("layers", *small(model), "--json")
    rows = json.loads(out)["layers"]
    assert [row["address"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert rows[0]["label"] == "Conv2d 3×3 stride 2"
    assert rows[0]["shape"] == [4, 7, 7]
    assert rows[0]["kernel_size"] == [3, 3]
    assert rows[0]["receptive_field"]["rows"] == {"size": 3, "stride": 2.0, "offset": 0}
    assert not rows[1]["has_kernel"]


def test_methods_as_a_table_and_as_json(shell):
    assert "weight_gradients" in shell("methods")[1]
    described = {each["name"]: each for each in json.loads(shell("methods", "--json")[1])["methods"]}
    assert described["weights"]["parameters"][0]["name"] == "slices"


def test_every_parameter_of_every_method_is_an_option(shell):
    from convscope.methods.base import method_class, method_names

    for name in method_names():
        _, out, _ = shell("view", name, "--help")
        for parameter in method_class(name).parameters():
            assert f"--{parameter.name.replace('_', '-')}" in out


def test_view_prints_a_summary(shell, model):
    code, out, _ = shell("view", "weights", *small(model), "0")
    assert code == 0
    assert "unit 4, slice 3, row 3, column 3" in out


def test_view_as_json(shell, model):
    code, out, _ = shell("view", "weights", *small(model), "0:2", "--json")
    summary = json.loads(out)
    assert code == 0
    assert summary["kind"] == "kernels"
    assert summary["arrays"]["kernel"] == {
        "axes": ["unit", "slice", "row", "column"],
        "shape": [1, 3, 3, 3],
        "dtype": "float32",
    }
    assert summary["meta"]["ranges"]["kernel"]["count"] == 4 * 3 * 3 * 3
    assert summary["recipe"]["target"] == "0:2"


@pytest.mark.parametrize(
    ("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<"), ("html", b"<"), ("npz", b"PK"), ("safetensors", b"")]
)
def test_view_writes_a_file_by_its_suffix(shell, model, tmp_path, suffix, start):
    path = tmp_path / f"kernels.{suffix}"
    code, out, err = shell("view", "weights", *small(model), "0", "-o", path)
    assert (code, out) == (0, ""), err
    assert path.name in err
    assert path.read_bytes().startswith(start)


def test_view_takes_images_by_folder_and_id(shell, model, tmp_path):
    from PIL import Image

    for number in range(4):
        Image.new("RGB", (20, 20), (number * 60, 9, 9)).save(tmp_path / f"{number}.png")
    words = ["view", "activations", *small(model), "0", "--images", tmp_path, "--json"]
    everything = json.loads(shell(*words)[1])
    assert everything["arrays"]["map"]["shape"] == [4, 4, 7, 7]
    some = json.loads(shell(*words, "--pick", "3,0-1")[1])
    assert [some["recipe"]["images"][n] for n in (1, 2, 0)] == [everything["recipe"]["images"][n] for n in (0, 1, 3)]
    for wrong in ("4", "0-9", "0-999999999999", "x", "1-", "-1", ""):
        assert shell(*words, f"--pick={wrong}")[0] == 1
    assert shell("view", "activations", *small(model), "0")[0] == 1


def test_view_refuses_an_output_it_cannot_write_before_computing(shell, model, tmp_path):
    for output in (tmp_path / "kernels.jpeg", tmp_path / "kernels", tmp_path / "nowhere" / "kernels.png"):
        code, _, err = shell("view", "weights", *small(model), "0", "-o", output)
        assert code == 1
        assert "Next" in err


def test_view_keeps_its_result_in_a_study(shell, model, tmp_path):
    from convscope.store import Store

    study = tmp_path / "study"
    first = shell("view", "weights", *small(model), "0", "--study", study, "--json")
    second = shell("view", "weights", *small(model), "0", "--study", study, "--json")
    assert first[0] == second[0] == 0
    assert json.loads(first[1]) == json.loads(second[1])
    with Store.open(study) as store:
        assert [entry.key for entry in store.query()] == [json.loads(first[1])["key"]]


def test_an_unknown_layer_is_one_clear_panel(shell, model):
    code, _, err = shell("view", "weights", *small(model), "9")
    assert code == 1
    assert "no layer '9'" in err


def test_openapi_is_sorted_json_with_named_operations(shell):
    code, out, _ = shell("openapi")
    described = json.loads(out)
    assert code == 0
    assert list(described) == sorted(described)
    operations = {each["operationId"] for path in described["paths"].values() for each in path.values()}
    assert operations >= {"getSession", "getLayers", "getView", "addImage", "cancelJob", "getEvents"}


def test_a_record_is_read_as_it_was_written(tmp_path):
    preprocessing = {"image_size": (64, 48), "mean": 0.5, "resize": 70, "interpolation": "bicubic", "channels": 3}
    preprocessing |= {"std": (1.0, 2.0, 3.0), "scale": 255.0, "output": "output.0"}
    write_record(tmp_path, Source("demo", images=("demo",), preprocessing=preprocessing, trust=True), "f" * 64)
    found, fingerprint = read_record(tmp_path, trust=False)
    assert found == Source("demo", images=("demo",), preprocessing=preprocessing)
    assert fingerprint == "f" * 64


def test_a_strangers_study_runs_no_code_without_trust(tmp_path, model):
    for spec in (model, "os:getcwd", "demo.py:make", "demoted.module:make"):
        write_record(tmp_path, Source(spec, trust=True), "f" * 64)
        assert "trust" not in json.loads((tmp_path / RECORD).read_text())
        with pytest.raises(ConvscopeError, match="running Python code"):
            read_record(tmp_path, trust=False)
        assert read_record(tmp_path, trust=True)[0].trust


RECORDED = {
    "format": 1,
    "model": "demo",
    "network": "",
    "images": [],
    "weights": None,
    "preprocessing": {},
    "device": None,
}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        *(
            json.dumps(RECORDED | change)
            for change in (
                {"format": 2},
                {"model": 3},
                {"images": 5},
                {"images": [5]},
                {"preprocessing": {"trust": True}},
            )
        ),
    ],
)
def test_a_damaged_record_is_one_clear_sentence(tmp_path, content):
    (tmp_path / RECORD).write_text(content)
    with pytest.raises(ConvscopeError, match=r"study\.json can't be read"):
        read_record(tmp_path, trust=True)


MAIN = "import sys; from convscope.cli import main; sys.exit(main())"
HEARING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "


def test_an_interrupted_view_ends_with_130(tmp_path):
    path = tmp_path / "slow.py"
    path.write_text(
        "import sys, time\n\ndef make():\n    print('begun', file=sys.stderr, flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        # A shell's background job, as this test run may be, is born deaf to Ctrl-C, and so are its children.
        [sys.executable, "-c", HEARING + MAIN, "view", "weights", f"{path}:make", "x"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    with process:
        assert process.stderr.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(PATIENCE) == 130, rest
    assert "Traceback" not in rest
    assert "cancelled" in rest


def test_the_command_keeps_freed_memory_and_the_library_does_not(monkeypatch, capsys):
    import convscope.cli as shell_module

    asked = []
    monkeypatch.setattr(shell_module, "keep_freed_memory", lambda: asked.append(True))
    assert shell_module.main(["--version"]) == 0
    assert asked == []
    monkeypatch.setattr(sys, "argv", ["convscope", "--version"])
    assert shell_module.main() == 0
    assert asked == [True]
    capsys.readouterr()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's settings; elsewhere it answers False")
def test_memory_is_kept_where_glibc_is():
    script = "from convscope.cli.memory import keep_freed_memory; print(keep_freed_memory())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


INEXACT = """
import torch
from torch import nn

class Running(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, image):
        return torch.cummax(self.conv(image), 2).values
"""


def test_layers_measures_a_field_that_is_not_exact(shell, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "240")
    (tmp_path / "running.py").write_text(INEXACT)
    code, out, _ = shell("layers", f"{tmp_path / 'running.py'}:Running", "--image-size", "16")
    assert code == 0
    assert "cummax" in out
    # Rows 0 to 8 + 1 through the running maximum, columns 8 ± 1.
    assert "measured: 10×3" in " ".join(out.split()) or "measured: 10 × 3" in " ".join(out.split())


def test_view_of_an_objective_takes_no_target_or_a_unit(shell, model, tmp_path):
    from PIL import Image

    Image.new("RGB", (20, 20), (200, 90, 9)).save(tmp_path / "cat.png")
    words = [*small(model), "--image", tmp_path / "cat.png", "--json"]
    of_class = json.loads(shell("view", "gradient", *words, "--objective", "score:3")[1])
    assert of_class["meta"]["objective"] == "score:3"
    assert of_class["recipe"]["target"] == ""
    model_name, *rest = words
    of_unit = json.loads(shell("view", "deconvnet", model_name, "1:2", *rest)[1])
    assert of_unit["recipe"]["target"] == "1:2"
    assert "cat.png" in of_unit["meta"]["command"]
    code, _, err = shell("view", "gradient", model_name, "1:2", *rest, "--objective", "score:3")
    assert code == 1
    assert "leave one of them out" in err


def test_a_long_view_says_how_far_it_is(shell, model, tmp_path):
    from PIL import Image

    Image.new("RGB", (20, 20), (200, 90, 9)).save(tmp_path / "cat.png")
    path = tmp_path / "checks.svg"
    code, _, err = shell(
        "view",
        "attribution_matrix",
        *small(model),
        "--image",
        tmp_path / "cat.png",
        "--methods",
        "gradient",
        "-o",
        path,
    )
    assert code == 0, err
    assert "deletion and insertion: 0 of 1" in err
    assert "score" in path.read_text()


def test_a_parameter_that_the_shell_has_too_gets_another_name(shell):
    from convscope.methods.base import method_class
    from convscope.methods.call_text import Written

    assert "--method-scale" in shell("view", "invariance", "--help")[1]
    method = method_class("invariance").make({"scale": 3})
    command = Written("demo", {"scale": 255.0}, method, images="photos/", names=("a",)).command()
    assert "--method-scale 3" in command
    assert "--scale 255.0" in command
