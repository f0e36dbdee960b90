"""The rooms of the package: docs/design.md draws which imports which, and the code must agree."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "espnet_llmvq"


def rooms():
    """Rooms in the order of the table in docs/design.md, the ground first."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    table = text.partition("| room | holds |")[2].partition("\n\n")[0]
    return re.findall(r"^\| `(\w+)/` \|", table, re.M)


def imports():
    """(importing room, imported module, place) of every import of the package, lazy ones too."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).parts
        room = parts[0] if len(parts) > 1 else "cli"  # __main__.py
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom):
                names = [node.module]
                if node.module == "espnet_llmvq":
                    names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                yield room, name, f"{path.relative_to(ROOT)}:{node.lineno}"


def test_the_table_has_every_room():
    there = sorted(p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name not in ("__pycache__", "egs"))
    assert sorted(rooms()) == there


def test_imports_run_downwards_only():
    order = rooms()
    up = [
        f"{place} imports {module}"
        for room, module, place in imports()
        if module.startswith("espnet_llmvq.") and module.split(".")[1] in order
        and order.index(module.split(".")[1]) > order.index(room)
    ]  # fmt: skip
    assert up == []


def test_lazy_imports_are_seen(tmp_path, monkeypatch):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "bad.py").write_text("def f():\n    from espnet_llmvq.model.speech_llm import SpeechLLM\n")
    monkeypatch.setattr("test_design.PACKAGE", tmp_path)
    monkeypatch.setattr("test_design.ROOT", tmp_path)
    assert list(imports()) == [("base", "espnet_llmvq.model.speech_llm", "base/bad.py:2")]


def test_no_module_is_loose():
    assert sorted(p.name for p in PACKAGE.glob("*.py")) == ["__init__.py", "__main__.py"]


def test_one_room_alone_knows_espnets_task_and_trainer():
    strangers = [
        f"{place} imports {module}"
        for room, module, place in imports()
        if module.startswith(("espnet2.tasks", "espnet2.train.trainer", "espnet2.bin")) and room != "espnet"
    ]
    assert strangers == []


# ruff does not look into these.
IMPORTING = [
    path
    for pattern in ("egs/**/*.sh", "test/*.sh", "tools/*.sh", "docs/*.md", "*.md")
    for path in sorted(ROOT.glob(pattern))
    if not path.is_symlink() and "from espnet_llmvq" in path.read_text(encoding="utf-8")
]  # fmt: skip


@pytest.mark.parametrize("path", IMPORTING, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_scripts_and_documents_import_is_there(path):
    for line in path.read_text(encoding="utf-8").splitlines():
        if found := re.match(r"\s*from (espnet_llmvq[\w.]*) import ([\w, ]+)$", line):
            module = importlib.import_module(found[1])
            for name in found[2].split(","):
                word = name.split()[0]
                assert hasattr(module, word) or importlib.import_module(f"{found[1]}.{word}"), line
