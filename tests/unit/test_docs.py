"""Docs against code: headings for everything, generated pages current, code that runs, links that resolve."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from convscope.render.kinds import KINDS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md"])
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


def page_name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    specification = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def headings(path: Path) -> list[str]:
    without_code = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^#+ (.+)$", without_code, re.MULTILINE)


def reference_headings() -> set[str]:
    return {heading for path in (DOCS / "reference").glob("*.md") for heading in headings(path)}


def test_generated_pages_are_current(generate: ModuleType) -> None:
    for name, page in generate.PAGES.items():
        assert (DOCS / name).read_text(encoding="utf-8") == page(), f"docs/{name} is stale: run python docs/generate.py"


def test_every_method_has_a_heading(generate: ModuleType) -> None:
    assert {method["name"] for method in generate.built_in_methods()} <= reference_headings()


def test_every_command_has_a_heading() -> None:
    from convscope.cli import commands

    visible = {name for name, command in commands.commands.items() if not command.hidden}
    assert visible <= reference_headings()


def test_every_view_kind_has_a_heading() -> None:
    assert set(KINDS) <= reference_headings()


def test_every_citation_is_in_the_bibliography(generate: ModuleType) -> None:
    known = generate.bibliography()
    for method in generate.built_in_methods():
        assert set(method["papers"]) <= set(known), method["name"]


def anchors(path: Path) -> set[str]:
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings(path)}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_resolve(page: Path) -> None:
    for match in LINK.finditer(page.read_text(encoding="utf-8")):
        target = match[1] or match[2]
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), f"{page_name(page)} links to {target}"
        if anchor:
            assert anchor in anchors(linked), f"{page_name(page)} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_python_blocks_run_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A block that needs a file of the reader's says ```python no-run, and is only compiled.
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": f"docs_of_{page.stem.replace('-', '_')}"}
    module = ModuleType(str(names["__name__"]))
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look their module up
    for language, words, code in FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            compiled = compile(code, page_name(page), "exec")
            if "no-run" not in words:
                exec(compiled, vars(module))  # noqa: S102 - our own docs


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_in_shell_blocks_exist(page: Path) -> None:
    from convscope.cli import commands

    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for language, _, code in FENCE.findall(page.read_text(encoding="utf-8")):
        if language != "sh":
            continue
        for words in (line.split() for line in code.splitlines() if line.strip()):
            if words[0] == "convscope" and len(words) > 1 and not words[1].startswith("-"):
                assert words[1] in commands.commands, words
            if words[0] == "make":
                assert words[1] in targets, words


def test_the_changelog_starts_with_what_is_not_released() -> None:
    assert headings(ROOT / "CHANGELOG.md")[1] == "[Unreleased]"
