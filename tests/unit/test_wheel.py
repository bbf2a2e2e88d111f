"""What pip installs: the built page must be in the wheel, with every file that it names."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    path: Path = built
    return path


def test_the_wheel_holds_the_page_and_every_file_it_names(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        page = archive.read("convscope/server/static/index.html").decode()
    linked = re.findall(r'(?:src|href)="\./([^"]+)"', page)
    assert any(name.endswith(".js") for name in linked)
    for name in linked:
        assert f"convscope/server/static/{name}" in names, name
    assert "convscope/network/formats/imagenet_classes.txt" in names
    assert "convscope/py.typed" in names


def test_the_wheel_brings_no_tests_and_no_sources_of_the_page(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        roots = {name.split("/")[0] for name in archive.namelist()}
    assert {root for root in roots if not root.endswith(".dist-info")} == {"convscope"}
