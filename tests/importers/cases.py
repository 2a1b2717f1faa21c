"""ONNX's own conformance cases: models, inputs and expected outputs, and how they are compared.

    python -m tests.importers.cases resize

runs the node cases whose names contain a word, and says what fails.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests

from backtrace_jax.onnx_backend import prepare

KINDS = {"node": 1884, "simple": 23, "pytorch-operator": 35, "pytorch-converted": 82}


@dataclass(frozen=True)
class Case:
    """One conformance case.

    Attributes:
        name: Its name in ONNX's suite.
        model: The model.
        data_sets: Inputs and expected outputs; sequences are lists, absent optionals None.
        rtol: Relative tolerance that ONNX sets.
        atol: Absolute tolerance that ONNX sets.
    """

    name: str
    model: onnx.ModelProto
    data_sets: tuple[tuple[list[Any], list[Any]], ...]
    rtol: float
    atol: float


@cache
def cases(kind: str) -> dict[str, TestCase]:
    """All cases of a kind as ONNX lists them, by name."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):  # ONNX computes what is expected, infinities included
        warnings.simplefilter("ignore")
        return {case.name: case for case in load_model_tests(kind=kind)}


def load_case(case: TestCase) -> Case:
    """A case with its data."""
    if case.model is not None:
        sets = [([*map(_array, inputs)], [*map(_array, outputs)]) for inputs, outputs in case.data_sets]
        return Case(case.name, case.model, tuple(sets), case.rtol, case.atol)
    folder = Path(case.model_dir)
    model = onnx.load(folder / "model.onnx")
    folders = sorted(folder.glob("test_data_set_*"))
    sets = [
        (_stored(model.graph.input, each, "input"), _stored(model.graph.output, each, "output")) for each in folders
    ]
    return Case(case.name, model, tuple(sets), case.rtol, case.atol)


_MESSAGES = {
    "tensor_type": (onnx.TensorProto, numpy_helper.to_array),
    "sequence_type": (onnx.SequenceProto, numpy_helper.to_list),
    "optional_type": (onnx.OptionalProto, numpy_helper.to_optional),
}


def _stored(declared: Sequence[onnx.ValueInfoProto], folder: Path, kind: str) -> list[Any]:
    found = []
    for number in range(len(list(folder.glob(f"{kind}_*.pb")))):
        message, read = _MESSAGES[declared[number].type.WhichOneof("value")]
        found.append(read(message.FromString((folder / f"{kind}_{number}.pb").read_bytes())))
    return found


def _array(value: Any) -> Any:
    """What a case holds in memory, as arrays, lists of arrays, or None."""
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, list | tuple):
        return [_array(item) for item in value]
    return value if value is None or isinstance(value, dict) else np.asarray(value)


def check_case(case: Case) -> None:
    """Run a case and compare types, shapes and values with what is expected."""
    assert case.data_sets
    model = prepare(case.model)
    for inputs, expected in case.data_sets:
        found = model.run(inputs)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            check_value(one, other, case)


def check_value(found: Any, expected: Any, case: Case) -> None:
    """Compare one output, entry by entry where it is a sequence."""
    if expected is None or isinstance(expected, list):
        assert (found is None) == (expected is None)
        assert len(found or ()) == len(expected or ())
        for one, other in zip(found or (), expected or (), strict=True):
            check_value(one, other, case)
        return
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(_comparable(found), _comparable(expected), case.rtol, case.atol)


def _comparable(array: np.ndarray) -> np.ndarray:
    """Types of ml_dtypes, which NumPy cannot compare with a tolerance, as floats."""
    return array if array.dtype.isbuiltin else array.astype(np.float64)


def failing(word: str, kind: str = "node") -> Iterator[tuple[str, str]]:
    """Names and reasons of the failing cases whose names contain a word."""
    for name, case in cases(kind).items():
        if word in name:
            try:
                check_case(load_case(case))
            except Exception as error:
                yield name, f"{type(error).__name__}: {error}".strip().replace("\n", " ")


if __name__ == "__main__":
    for case_name, reason in failing(*sys.argv[1:]):
        print(f"{case_name}: {reason[:300]}")
