"""Architectures that come with ONNX, weights made up as they are read: run, and explained.

In double precision: the weights are all alike, and sums of thousands of equal terms round the same way each time.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from backtrace_jax import explain

pytestmark = pytest.mark.optimised
FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
NAMES = sorted(path.stem.removeprefix("light_") for path in FOLDER.glob("light_*.onnx"))


def test_there_are_nine():
    assert len(NAMES) == 9


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_as_expected_and_books_close(name):
    model = onnx.load(FOLDER / f"light_{name}.onnx")
    initialised = {tensor.name for tensor in model.graph.initializer}
    (info,) = (each for each in model.graph.input if each.name not in initialised)
    shape = [size.dim_value for size in info.type.tensor_type.shape.dim]
    image = (np.arange(np.prod(shape)).reshape(shape) / np.prod(shape)).astype(np.float32)  # as ONNX's runner makes it
    tensor = onnx.TensorProto.FromString((FOLDER / f"light_{name}_output_0.pb").read_bytes())
    explanation = explain(model, image, dtype="float64")
    np.testing.assert_allclose(explanation.outputs[explanation.output], numpy_helper.to_array(tensor), 1e-6, 1e-7)
    assert explanation.ledger.error.max() < 1e-12
    assert max(ledger.error.max() for ledger in explanation.ledger.by_node.values()) < 1e-12
    assert np.isfinite(explanation.relevance[info.name]).all()
