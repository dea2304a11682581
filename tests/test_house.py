"""The rules of the house: what may import what, what an import costs, and that the catalogue is whole."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from recollect.catalogue import HOMES, SYSTEMS
from recollect.claims.claim import Claim

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "recollect"
LAYERS = [  # a module may import from its own part and from parts in later rows
    {"cli"},
    {"server", "integrations"},
    {"arena", "claims", "doctor"},
    {"benchmarks", "agents", "worlds", "training"},
    {"store", "context", "state", "weights"},
    {"lm"},
    {"config", "catalogue", "taxonomies", "cuda_graphs", "native"},
    {"errors", ""},
]
LAYER = {part: number for number, row in enumerate(LAYERS) for part in row}


def _part(module: str) -> str:
    names = module.split(".")
    return names[1] if len(names) > 1 else ""


def _imports(path: Path) -> set[str]:
    """The modules of recollect that a file imports, anywhere in it but for type checking only."""
    found: set[str] = set()
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.split(".")[0] == "recollect"
            and not node.level
        ):
            found |= {
                f"{node.module}.{alias.name}" if node.module == "recollect" else node.module for alias in node.names
            }
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "recollect"}
    return found


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_arrows_run_one_way(path: Path):
    names = path.relative_to(SOURCE).with_suffix("").parts
    own = names[0] if names != ("__init__",) else "__init__"
    if own == "__init__":
        return  # the public face hands out what the homes make
    for module in _imports(path):
        part = _part(module)
        if part in ("__version__",):
            continue
        assert part in LAYER, f"{module}: no such part of the house"
        assert part == own or LAYER[part] > LAYER[own], f"{own} must not import {part}"


def test_import_is_quick_and_brings_no_torch():
    code = (
        "import sys, time; start = time.perf_counter(); import recollect; "
        "print(time.perf_counter() - start, any(name in sys.modules for name in ('torch', 'numpy', 'onnxruntime', 'pydantic')))"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(5)
    ]
    assert min(float(seconds) for seconds, _ in runs) < 0.2
    assert {heavy for _, heavy in runs} == {"False"}


def test_the_store_needs_no_torch(tmp_path: Path):
    code = (
        "import sys, recollect; memory = recollect.open(sys.argv[1]); memory.add('I like tea.'); memory.recall('tea'); "
        "memory.answer('What do I like?'); print([name for name in ('torch', 'transformers', 'sentence_transformers', 'openai') "
        "if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path / "m.db")], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.key)
def test_every_system_imports_and_has_a_claim_a_page_and_a_test(system):
    module, name = system.target.split(":")
    assert isinstance(getattr(import_module(module), name), type)
    claim = import_module(system.claim).CLAIM
    assert isinstance(claim, Claim)
    assert claim.key == system.key
    assert system.home in HOMES
    assert system.arxiv == "" or re.fullmatch(r"\d{4}\.\d{4,5}", system.arxiv)
    page = ROOT / "docs" / "systems" / f"{system.key}.md"
    assert page.is_file(), f"write {page.relative_to(ROOT)}"
    assert system.name in page.read_text("utf-8").splitlines()[0]
    assert (ROOT / "results" / "claims" / f"{system.key}.json").is_file(), f"run `recollect reproduce {system.key}`"
    test = ROOT / "tests" / system.home / f"test_{module.rsplit('.', 1)[1]}.py"
    assert test.is_file(), f"write {test.relative_to(ROOT)}"


def test_keys_are_unique():
    keys = [system.key for system in SYSTEMS]
    assert len(keys) == len(set(keys))


def test_nothing_public_is_missing_from_the_catalogue():
    """A class that says that it is a method or a benchmark, by its `name` or its loader, has a row."""
    rows = {target for system in SYSTEMS for target in (system.target, system.method)}
    for path in sorted((SOURCE / "store").glob("*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and {"encode", "recall"} <= {
                item.name for item in node.body if isinstance(item, ast.FunctionDef)
            }:
                target = f"recollect.store.{path.stem}:{node.name}"
                assert target in rows or node.name == "Method", f"{target} has no row in the catalogue"
    claims = {path.stem for path in (SOURCE / "claims").glob("*.py")} - {"__init__", "claim", "page", "runs"}
    assert claims == {system.claim.rsplit(".", 1)[1] for system in SYSTEMS}


def test_sources_hold_no_paths_of_a_machine_and_no_pickle():
    for path in SOURCE.rglob("*.py"):
        text = path.read_text("utf-8")
        assert not re.search(r"/(home|root|work|Users)/\w", text), path
        assert not re.search(r"\bpickle\b(?!.*(No|never|no))", text), path
        assert text.isascii(), f"{path} holds characters that are not ASCII"
