"""The docs cannot rot: generated pages are as generated, links lead somewhere, every command and public name is there."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import recollect
from recollect.benchmarks.page import render_methods, render_readme, render_recall, render_speed
from recollect.claims.page import render
from recollect.cli.main import COMMANDS
from recollect.cli.page import render_commands, render_systems
from recollect.config import Settings, load_settings

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("commands.md", render_commands),
        ("systems.md", render_systems),
        ("claims.md", lambda: render(ROOT / "results")),
        ("recall.md", lambda: render_recall(ROOT / "results")),
        ("speed.md", lambda: render_speed(ROOT / "results")),
        ("methods.md", lambda: render_methods(ROOT / "results")),
    ],
)
def test_generated_pages_are_as_generated(name: str, text):
    assert (ROOT / "docs" / name).read_text("utf-8") == text(), "run `make docs`"


def test_the_figures_in_the_readme_are_those_of_the_results():
    text = (ROOT / "README.md").read_text("utf-8")
    assert text == render_readme(text, ROOT / "results"), "run `make docs`"
    assert "recollect**" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_command_is_in_the_docs():
    text = (ROOT / "docs" / "commands.md").read_text("utf-8")
    for names in COMMANDS.values():
        for name in names:
            assert f"### `recollect {name}`" in text


def test_every_public_method_is_documented_in_code_and_docs():
    page = (ROOT / "docs" / "store.md").read_text("utf-8")
    for name, member in inspect.getmembers(recollect.Memory, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.getdoc(member), name
            assert f"`{name}" in page or f".{name}(" in page, f"docs/store.md does not speak of {name}"


def test_every_setting_is_documented(tmp_path: Path):
    page = (ROOT / "docs" / "settings.md").read_text("utf-8")
    for name in Settings.__dataclass_fields__:
        if name not in ("origins", "files"):
            assert f"RECOLLECT_{name.upper()}" in page, f"docs/settings.md does not speak of {name}"
    for variable in re.findall(r"RECOLLECT_\w+", page):
        if variable not in ("RECOLLECT_CACHE", "RECOLLECT_DATA"):
            assert variable.removeprefix("RECOLLECT_").lower() in Settings.__dataclass_fields__, variable
    assert load_settings(environ={"XDG_DATA_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}).user == "default"


@pytest.mark.parametrize("page", ["README.md", "docs/store.md", "docs/state.md"])
def test_python_examples_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL)
    assert blocks
    space: dict = {}
    for block in blocks:
        exec(compile(block, page, "exec"), space)
    for value in space.values():
        if isinstance(value, recollect.Memory):
            value.close()
