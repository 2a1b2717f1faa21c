"""Writes docs/operators.md: every ONNX operator, the opsets it is implemented for, and the kinds it becomes.

    python -m benchmarks.operator_table

Operators and opsets are those of the registry. The kinds are seen at work: ONNX's own cases are lowered, the tests of
operators that ONNX has no cases of are run, and every equation emitted is noted under the operator it comes from.
"""

from __future__ import annotations

from collections import defaultdict
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from backtrace_jax.importers.onnx.operators import OPERATORS
from backtrace_jax.onnx_backend import prepare
from backtrace_jax.ops import KINDS, NONE, OPS
from backtrace_jax.passes.build import Builder
from tests.importers.cases import cases, load_case
from tests.importers.test_conformance import CASES, NOT_PASSING

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "operators.md"
WITHOUT_OPERATORS = {
    *("test_calls.py", "test_changing_modules.py", "test_conformance.py", "test_hostile.py", "test_keras.py"),
    *("test_keras_hostile.py", "test_keras_operations.py", "test_light.py", "test_load.py", "test_minilm.py"),
    *("test_pytorch.py", "test_pytorch_batch.py", "test_torch_forms.py", "test_totality.py"),
}
TESTS = [path for path in (ROOT / "tests" / "importers").glob("test_*.py") if path.name not in WITHOUT_OPERATORS]
HEAD = """# ONNX operators

Made by `python -m benchmarks.operator_table` from the registry of `importers/onnx/operators`; a version stands for all
opsets up to the next one. The kind decides which relevance rules apply (README, "How it works"). An operator of several
kinds becomes several equations, one of kind "none" carries no relevance, and one of kind "function" has derivatives but
no rule: modes that conserve relevance refuse it by name. "no equation" stands where operands are
handed on as they are, or everything is computed before anything runs.
What has no line here may still be a function of the model's own, or one that ONNX defines by other operators.
"""


def seen_kinds() -> dict[str, set[str]]:
    """Kinds of the equations that each operator was seen to become; none where it was seen to need no equation."""
    found: dict[str, set[str]] = defaultdict(set)
    emit, nodes = Builder.emit, import_module("backtrace_jax.importers.onnx.lower")
    find = nodes.find_operator

    def emitting(self: Builder, op: str, *operands: Any, **params: Any) -> Any:
        found[self.source.operator].add(OPS[op].kind)
        return emit(self, op, *operands, **params)

    def finding(domain: str, name: str, opset: int) -> Any:
        found[f"{domain or 'ai.onnx'}.{name}"] |= set()
        return find(domain, name, opset)

    with patch.object(Builder, "emit", emitting), patch.object(nodes, "find_operator", finding):
        for kind, name in CASES:
            if name in NOT_PASSING:
                continue
            case = load_case(cases(kind)[name])
            prepare(case.model).lower(case.data_sets[0][0])
        pytest.main(["-q", "-p", "no:cacheprovider", *map(str, sorted(TESTS))])
    return found


def main() -> None:
    found, lines = seen_kinds(), [HEAD]
    for domain in sorted({domain for domain, _ in OPERATORS}):
        lines += [f"## {domain or 'ai.onnx'}\n", "| operator | since opset | kind |", "|---|---|---|"]
        for name in sorted(name for each, name in OPERATORS if each == domain):
            versions = ", ".join(map(str, sorted(OPERATORS[domain, name])))
            kinds = found.get(f"{domain or 'ai.onnx'}.{name}")
            lines.append(f"| {name} | {versions} | {_in_words(kinds)} |")
        lines.append("")
    PAGE.write_text("\n".join(lines))
    print(f"{len(OPERATORS)} operators written to {PAGE.name}")


def _in_words(kinds: set[str] | None) -> str:
    if not kinds:
        return "-" if kinds is None else "no equation"
    return ", ".join(kind for kind in KINDS if kind in kinds and kind != NONE) or NONE


if __name__ == "__main__":
    main()
