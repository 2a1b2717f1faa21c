"""What is done with a file of each family: everything that reads it, and what is expected where that is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from backtrace_jax.explainer.explainer import Explainer
from backtrace_jax.explanation.explanation import Explanation
from backtrace_jax.importers import read
from backtrace_jax.ir import Program
from backtrace_jax.ir.imported import Imported

from .reference import Reference

_DYNAMIC = 2  # size given to axes that are dynamic, but for the first
_EXPLAINED = 2**24  # bytes of all values of a graph that is small enough to explain it as well
_EXPLAINED_NODES = 30
_TOLERANCE = 1e-3  # of the largest entry


@dataclass(frozen=True)
class Used:
    """What came of a file: the outcome, and the inputs and outputs of a model that was explained."""

    outcome: str
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    outputs: dict[str, np.ndarray] = field(default_factory=dict)


def use_model(path: Path, explained: bool) -> Used:
    """Read, survey, lower and, where that is asked and the graph is small, explain a model."""
    model = read(str(path))
    model.unsupported()
    program = model.lower(_shapes(model))
    str(program.graph)
    program.graph.consumers()
    if not explained or not _is_small(program):
        return Used("lowered")
    inputs = _inputs(model)
    return Used("explained", inputs, dict(Explainer(model)(inputs).outputs))


def use_explanation(path: Path, explained: bool) -> Used:
    """Load a saved explanation and look at everything it has."""
    found = Explanation.load(path)
    repr(found)
    len(found)
    for name in dir(found):
        getattr(found, name, None)
    for ledger in () if found.ledger is None else (found.ledger, *found.ledger.by_node.values()):
        repr(ledger)
    if explained:
        found._repr_html_()
    return Used("loaded")


USES: dict[str, Callable[[Path, bool], Used]] = {
    ".onnx": use_model,
    ".keras": use_model,
    ".h5": use_model,
    ".npz": use_explanation,
}
"""Suffix of a file -> what is done with it."""


def compared(path: Path, used: Used) -> list[str]:
    """Findings: outputs for which onnxruntime computes something else."""
    if path.suffix != ".onnx" or not used.outputs or _draws(path):
        return []
    expected = Reference.shared().outputs(path, used.inputs)
    found = used.outputs.items()
    return [_different(name, array, expected[name]) for name, array in found if _differs(array, expected, name)]


def _inputs(model: Imported) -> dict[str, np.ndarray]:
    """Numbers from 0 to 2 for every input."""
    rng = np.random.default_rng(0)
    return {each.name: rng.uniform(0, 2, _shapes(model)[each.name]).astype(each.dtype) for each in model.inputs}


def _shapes(model: Imported) -> dict[str, tuple[int, ...]]:
    """Shapes as declared; a dynamic first axis is a batch of one."""
    return {each.name: tuple(_size(i, size) for i, size in enumerate(each.dims or ())) for each in model.inputs}


def _size(axis: int, size: int | None) -> int:
    return (1 if axis == 0 else _DYNAMIC) if size is None else size


def _is_small(program: Program) -> bool:
    values = list(program.graph.variables())
    size = sum(math.prod(var.shape) * var.dtype.itemsize for var in values)
    return size <= _EXPLAINED and len(program.graph.eqns) <= _EXPLAINED_NODES


def _draws(path: Path) -> bool:
    data = path.read_bytes()
    return any(name in data for name in (b"Random", b"Bernoulli", b"Multinomial", b"Dropout"))


def _differs(array: np.ndarray, expected: dict[str, np.ndarray], name: str) -> bool:
    if name not in expected:
        return False
    other = expected[name]
    if array.shape != other.shape or other.dtype.kind not in "fiub":
        return array.shape != other.shape
    one, other = array.astype(np.float64), other.astype(np.float64)
    scale = max(float(np.abs(other[np.isfinite(other)]).max(initial=0)), 1.0)
    return not np.allclose(one, other, _TOLERANCE, _TOLERANCE * scale, equal_nan=True)


def _different(name: str, found: np.ndarray, expected: np.ndarray) -> str:
    shown = " and ".join(f"{list(each.shape)} {each.reshape(-1)[:4].tolist()}" for each in (found, expected))
    return f"different: output {name!r:.60} is {shown} by onnxruntime"
