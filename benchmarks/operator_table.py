"""Writes docs/operators.md: every ONNX operator, the opsets it is implemented for, and the kinds it becomes.

    python -m benchmarks.operator_table

Operators and opsets are those of the registry. The kinds are seen at work: ONNX's own cases are lowered, and every
equation that is emitted is noted under the operator it comes from.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

from backtrace_jax.importers.onnx.operators import OPERATORS
from backtrace_jax.ir import Builder
from backtrace_jax.onnx_backend import prepare
from backtrace_jax.ops import KINDS, NONE, OPS
from tests.importers.cases import cases, load_case
from tests.importers.totality import few_of_each_operator

PAGE = Path(__file__).parent.parent / "docs" / "operators.md"
HEAD = """# ONNX operators

Made by `python -m benchmarks.operator_table` from the registry of `importers/onnx/operators`; a version stands for all
opsets up to the next one. The kind decides which relevance rules apply (README, "How it works"). An operator of several
kinds becomes several equations, and one of kind "none" carries no relevance. A dash stands where none of ONNX's cases
needs an equation: the operator is computed before anything runs, or has no case (`check` tells its kind in a model).
What has no line here may still be a function of the model's own, or one that ONNX defines by other operators.
"""


def seen_kinds() -> dict[str, set[str]]:
    """Kinds of the equations that each operator was seen to become."""
    found: dict[str, set[str]] = defaultdict(set)
    emit = Builder.emit

    def noting(self: Builder, op: str, *operands: Any, **params: Any) -> Any:
        found[self.source.operator].add(OPS[op].kind)
        return emit(self, op, *operands, **params)

    with patch.object(Builder, "emit", noting):
        for kind, name in few_of_each_operator(4):
            case = load_case(cases(kind)[name])
            prepare(case.model).lower(case.data_sets[0][0])
    return found


def main() -> None:
    found, lines = seen_kinds(), [HEAD]
    for domain in sorted({domain for domain, _ in OPERATORS}):
        lines += [f"## {domain or 'ai.onnx'}\n", "| operator | since opset | kind |", "|---|---|---|"]
        for name in sorted(name for each, name in OPERATORS if each == domain):
            versions = ", ".join(map(str, sorted(OPERATORS[domain, name])))
            kinds = found[f"{domain or 'ai.onnx'}.{name}"]
            bearing = [kind for kind in KINDS if kind in kinds and kind != NONE]
            lines.append(f"| {name} | {versions} | {', '.join(bearing) or ('none' if kinds else '-')} |")
        lines.append("")
    PAGE.write_text("\n".join(lines))
    print(f"{len(OPERATORS)} operators written to {PAGE.name}")


if __name__ == "__main__":
    main()
