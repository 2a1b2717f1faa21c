"""Imports run downwards through the folders of docs/where-things-are.md, in no circle; no file is too long."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "backtrace_jax"
LONGEST = 300


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by name."""
    found = {}
    for place, _, files in os.walk(ROOT / PACKAGE, followlinks=True):
        for path in (Path(place, name) for name in files if name.endswith(".py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports_of(module: str, path: Path) -> Iterator[str]:
    """Modules of the package that a module imports, also inside functions."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules())
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = (f"{base}.{alias.name}" for alias in node.names)
            yield from (name if name in modules() else base for name in names if base in modules())


@cache
def graph() -> dict[str, frozenset[str]]:
    return {module: frozenset(imports_of(module, path)) for module, path in modules().items()}


def folders() -> list[str]:
    """The folders that the page names, from the bottom to the top."""
    page = (ROOT / "docs/where-things-are.md").read_text()
    return re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)[::-1]


def folder_of(module: str) -> str:
    return module.split(".")[1] if "." in module else PACKAGE


def test_the_page_names_every_folder_and_no_other():
    assert sorted(folders()) == sorted({folder_of(module) for module in modules()})


def test_imports_run_downwards():
    floor = {name: number for number, name in enumerate(folders())}
    upwards = [(a, b) for a, others in graph().items() for b in others if floor[folder_of(b)] > floor[folder_of(a)]]
    assert not upwards


def test_nothing_imports_in_a_circle():
    assert graph()
    list(TopologicalSorter({a: others - {a} for a, others in graph().items()}).static_order())


def test_an_upward_import_is_seen():
    """The graph of imports holds those inside functions, and those of a package's own modules."""
    assert "backtrace_jax.explanation.panels" in graph()["backtrace_jax.explanation.pictures"]
    assert "backtrace_jax.importers.keras" in graph()["backtrace_jax.importers"]
    assert "backtrace_jax.ops.registry" in graph()["backtrace_jax.ops.linear"]


def test_no_file_is_too_long():
    assert not [(name, n) for name, path in modules().items() if (n := len(path.read_text().splitlines())) > LONGEST]
