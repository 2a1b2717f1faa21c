"""Networks of a few nodes, written by hand, whose relevance can be worked out on paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

node = helper.make_node
COUNT = 3  # examples in `images`
WIDTHS = {"image": 2, "hidden": 4, "classes": 5}


def network(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, Sequence[int | str]]],
    outputs: Sequence[str] = ("y",),
    **weights: NDArray,
) -> onnx.ModelProto:
    """A model from nodes, inputs as name=(type, shape), names of outputs, and weights (`__` stands for a dot)."""
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info(name, *given) for name, given in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name.replace("__", ".")) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def random(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Numbers of both signs, none near zero."""
    generator = np.random.default_rng(seed)
    return (generator.uniform(0.2, 1.0, shape) * generator.choice([-1, 1], shape)).astype(np.float32)


def images() -> NDArray[np.float32]:
    """A batch for `convolutional`."""
    return random(COUNT, WIDTHS["image"], 5, 5, seed=1)


def convolutional(outputs: Sequence[str] = ("y",), *, groups: int = 1) -> onnx.ModelProto:
    """Convolution `hidden` [4, 3, 3], module `features.conv`; rectifier; two dense heads, `y` [5] and `box` [2]."""
    image, hidden, classes = WIDTHS.values()
    flat = hidden * 3 * 3
    return network(
        [
            node("Conv", ["x", "features.conv.weight", "features.conv.bias"], ["hidden"], group=groups),
            node("Relu", ["hidden"], ["active"]),
            node("Flatten", ["active"], ["flat"]),
            node("Gemm", ["flat", "head.weight", "head.bias"], ["y"]),
            node("Gemm", ["flat", "box.weight"], ["box"]),
        ],
        {"x": (TensorProto.FLOAT, ["batch", image, 5, 5])},
        outputs,
        features__conv__weight=random(hidden, image // groups, 3, 3, seed=2),
        features__conv__bias=random(hidden, seed=3),
        head__weight=random(flat, classes, seed=4),
        head__bias=random(classes, seed=5),
        box__weight=random(flat, 2, seed=6),
    )
