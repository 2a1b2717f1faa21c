"""Models of a single node, run here and by onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from backtrace_jax.onnx_backend import run_model
from tests.zoo.runtime import onnxruntime_outputs

Operand = np.ndarray | np.generic | None


def node_model(
    op_type: str,
    operands: Sequence[Operand],
    known: Sequence[int] = (),
    opset: int = 21,
    results: int = 1,
    domain: str = "",
    **attributes: Any,
) -> onnx.ModelProto:
    """One node whose operands are inputs x0, x1, ..., or initialisers at the positions `known`; None is left out."""
    names = ["" if operand is None else f"x{i}" for i, operand in enumerate(operands)]
    outputs = [f"y{i}" for i in range(results)]
    node = helper.make_node(op_type, names, outputs, name="the_node", domain=domain, **attributes)
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(operand.dtype), operand.shape)
        for i, (name, operand) in enumerate(zip(names, operands, strict=True))
        if operand is not None and i not in known
    ]
    initialisers = [numpy_helper.from_array(operands[i], names[i]) for i in known if operands[i] is not None]
    results_info = [helper.make_empty_tensor_value_info(name) for name in outputs]
    graph = helper.make_graph([node], "single", inputs, results_info, initialisers)
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def check_node(
    op_type: str,
    operands: Sequence[Operand],
    known: Sequence[int] = (),
    expected: Sequence[np.ndarray] | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    **settings: Any,
) -> None:
    """Compare a node's results with the expected ones, or with onnxruntime's."""
    operands = [x if x is None else np.asarray(x) for x in operands]
    model = node_model(op_type, operands, known, **settings)
    inputs = {f"x{i}": x for i, x in enumerate(operands) if x is not None and i not in known}
    wanted = onnxruntime_outputs(model, inputs) if expected is None else expected
    found = run_model(model, inputs)
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_allclose(one, other, rtol, atol)


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    """Normally distributed float32 numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    """A vector of int64 numbers."""
    return np.asarray(values, np.int64)


def boolean(*shape: int, seed: int = 0) -> np.ndarray:
    """Random truth values."""
    return np.random.default_rng(seed).random(shape) < 0.6
