"""What onnxruntime's quantisers, converters and optimisers make of small networks: same outputs, same relevance.

The outputs are compared with onnxruntime's own on the same file, the relevance with that of the float network.
"""

from __future__ import annotations

from functools import lru_cache, partial

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.optimizer import optimize_model

from backtrace_jax import explain
from backtrace_jax.onnx_backend import run_model
from tests.zoo.runtime import onnxruntime_outputs

from .nodes import floats
from .test_microsoft_block import EXTRA, IDS, MASK, WEIGHTS, spelled_out
from .test_microsoft_block import model as block_model

node = helper.make_node


def network(nodes, shape, classes, **arrays):
    inputs = [helper.make_tensor_value_info("x", 1, ("batch", *shape))]
    result = [helper.make_tensor_value_info("y", 1, ("batch", classes))]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "network", inputs, result, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def dense():
    nodes = [node("MatMul", ["x", "W"], ["a"], "first"), node("Add", ["a", "b"], ["c"], "shift"),
             node("Relu", ["c"], ["d"], "bend"), node("MatMul", ["d", "V"], ["y"], "last")]  # fmt: skip
    arrays = {"W": floats(32, 16, seed=1), "b": floats(16, seed=2) / 4, "V": floats(16, 3, seed=3)}
    return network(nodes, (32,), 3, **arrays), floats(1, 32)


def images():
    nodes = [
        node("Conv", ["x", "K", "b"], ["a"], "first", pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["c"], "bend"),
        node("MaxPool", ["c"], ["d"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["d", "L"], ["e"], "second"),
        node("LeakyRelu", ["e"], ["f"], "lean"),
        node("GlobalAveragePool", ["f"], ["g"], "mean"),
        node("Flatten", ["g"], ["h"], "flat"),
        node("Gemm", ["h", "V", "v"], ["y"], "last"),
    ]
    arrays = {"K": floats(4, 2, 3, 3, seed=1) / 3, "b": floats(4, seed=2) / 4, "L": floats(6, 4, 2, 2, seed=3) / 3,
              "V": floats(6, 3, seed=4), "v": floats(3, seed=5) / 4}  # fmt: skip
    return network(nodes, (2, 8, 8), 3, **arrays), floats(1, 2, 8, 8)


def steps():
    nodes = [
        node("Transpose", ["x"], ["a"], perm=[1, 0, 2]),
        node("LSTM", ["a", "W", "R", "B"], ["", "h"], "cell", hidden_size=5),
        node("Squeeze", ["h", "front"], ["b"]),
        node("MatMul", ["b", "V"], ["y"], "last"),
    ]
    arrays = {"W": floats(1, 20, 4, seed=1), "R": floats(1, 20, 5, seed=2), "B": floats(1, 40, seed=3) / 4,
              "V": floats(5, 3, seed=4), "front": np.asarray([0])}  # fmt: skip
    return network(nodes, (6, 4), 3, **arrays), floats(1, 6, 4)


def block():
    return block_model(spelled_out(), WEIGHTS | EXTRA), {"ids": IDS, "mask": MASK}


NETWORKS = {"dense": dense, "images": images, "steps": steps, "block": block}


class Examples(CalibrationDataReader):
    def __init__(self, x):
        self._left = iter([{"x": x * size} for size in (1.0, 0.5, -1.0, 1.2)])

    def get_next(self):
        return next(self._left, None)


def dynamic(model, x, path, **settings):
    quantize_dynamic(model, path, **settings)


def static(model, x, path, **settings):
    quantize_static(model, path, Examples(x), **settings)


def few_bits(model, x, path):
    quantiser = MatMulNBitsQuantizer(model, block_size=16, is_symmetric=False)
    quantiser.process()
    onnx.save(quantiser.model.model, path)


def half(model, x, path):
    """The converter leaves nodes in no order; onnxruntime runs them nonetheless."""
    onnx.save(convert_float_to_float16(model, keep_io_types=True), path)


def optimised(model, x, path, model_type="bert"):
    onnx.save(model, path)
    optimize_model(path, model_type, num_heads=2, hidden_size=6).save_model_to_file(path)


S8, U8, S16 = QuantType.QInt8, QuantType.QUInt8, QuantType.QInt16
EIGHT = {"activation_type": U8, "weight_type": S8}
CASES = [
    ("dense", "dynamic", partial(dynamic)),
    ("dense", "dynamic, per channel", partial(dynamic, per_channel=True, weight_type=S8)),
    ("dense", "operators", partial(static, quant_format=QuantFormat.QOperator, **EIGHT)),
    ("dense", "16 bits", partial(static, quant_format=QuantFormat.QDQ, activation_type=S16, weight_type=S8)),
    ("dense", "4 bits", few_bits),
    ("images", "dynamic", partial(dynamic)),
    ("images", "operators", partial(static, quant_format=QuantFormat.QOperator, per_channel=True, **EIGHT)),
    ("images", "nodes around", partial(static, quant_format=QuantFormat.QDQ, per_channel=True, **EIGHT)),
    ("images", "half", half),
    ("steps", "dynamic", partial(dynamic)),
    ("steps", "dynamic, per channel", partial(dynamic, per_channel=True, weight_type=S8)),
    ("block", "dynamic", partial(dynamic)),
    ("block", "half", half),
    ("block", "optimised", optimised),
    ("block", "optimised as GPT-2", partial(optimised, model_type="gpt2")),
]


def relevance(model, inputs):
    named = inputs if isinstance(inputs, dict) else {"x": inputs}
    settings = {"wrt": "ids"} if "ids" in named else {}
    found = explain(model, named, target=1, **settings)
    assert found.ledger.error.max() < 1e-5
    return next(iter(found.relevance.values())).ravel()


@lru_cache
def plain(name):
    return relevance(*NETWORKS[name]())


@pytest.mark.parametrize(("name", "tool", "make"), CASES, ids=[f"{name}, {tool}" for name, tool, _ in CASES])
def test_outputs_are_onnxruntimes_and_relevance_that_of_the_floats(name, tool, make, tmp_path):
    model, inputs = NETWORKS[name]()
    make(model, inputs, str(tmp_path / "made.onnx"))
    made = onnx.load(tmp_path / "made.onnx")
    named = inputs if isinstance(inputs, dict) else {"x": inputs}
    (wanted,), (found,) = onnxruntime_outputs(made, named), run_model(made, named)
    assert np.abs(found - wanted).max() <= (2e-3 if tool == "half" else 1e-6) * np.abs(wanted).max()
    assert np.corrcoef(relevance(made, inputs), plain(name))[0, 1] > (0.99 if tool == "4 bits" else 0.998)
