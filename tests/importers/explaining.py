"""Models of a few nodes, explained: relevance reaches the input, and the books close."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from backtrace_jax import explain

CONSERVING = ("default", "contrastive", "lrp-epsilon")


def network(
    nodes: Sequence[onnx.NodeProto], inputs: dict[str, np.ndarray], *, opset: int = 21, **weights: np.ndarray
) -> onnx.ModelProto:
    """A model from nodes that end in `y`, with inputs shaped like these arrays."""
    typed = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in inputs.items()
    ]
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(list(nodes), "network", typed, [result], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def check_explained(model: onnx.ModelProto, inputs: dict[str, np.ndarray], *, bearing: str = "x") -> None:
    """Books close in every kind of mode, relevance reaches an input, and gradients are finite."""
    for mode in (*CONSERVING, "gradient-x-input"):
        explanation = explain(model, inputs, mode=mode)
        relevance = explanation.relevance[bearing]
        assert relevance.shape == inputs[bearing].shape
        assert np.isfinite(relevance).all()
        assert np.abs(relevance).sum() > 1e-3
        if mode in CONSERVING:
            assert explanation.ledger.error.max() < 1e-5
