"""ONNX's own conformance cases, run through the backend protocol."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests

from backtrace_jax.onnx_backend import prepare

KINDS = {"pytorch-operator": 35, "pytorch-converted": 82}
CASES = {case.name: case for kind in KINDS for case in load_model_tests(kind=kind)}
CANNOT_PASS: dict[str, str] = {}  # case name -> why


def test_all_cases_are_there():
    assert len(CASES) == sum(KINDS.values())


@pytest.mark.parametrize("name", CASES)
def test_case(name):
    if name in CANNOT_PASS:
        pytest.xfail(CANNOT_PASS[name])
    case = CASES[name]
    model = prepare(onnx.load(Path(case.model_dir) / "model.onnx"))
    data = list(data_sets(case))
    assert data
    for inputs, expected in data:
        found = model.run(inputs)
        assert [(array.shape, array.dtype) for array in found] == [(array.shape, array.dtype) for array in expected]
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, case.rtol, case.atol)


def data_sets(case: TestCase) -> Iterator[tuple[list[np.ndarray], list[np.ndarray]]]:
    for folder in sorted(Path(case.model_dir).glob("test_data_set_*")):
        yield arrays(folder, "input"), arrays(folder, "output")


def arrays(folder: Path, kind: str) -> list[np.ndarray]:
    files = [folder / f"{kind}_{i}.pb" for i in range(len(list(folder.glob(f"{kind}_*.pb"))))]
    return [numpy_helper.to_array(onnx.TensorProto.FromString(file.read_bytes())) for file in files]
