"""Lowering whole graphs: what depends on shapes only disappears, and every error says where it is."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from backtrace_jax import Explainer
from backtrace_jax.errors import (
    BacktraceError,
    DataDependentError,
    InputError,
    ModelError,
    NumericsError,
    SettingError,
    UnsupportedError,
)
from backtrace_jax.importers.onnx import load, lower
from backtrace_jax.onnx_backend import prepare, run_model, supports_device

from .nodes import floats, ints


def model_of(nodes, inputs, outputs, constants=None, opset=18, **imports):
    """A model; inputs are name -> (element type, dims), outputs names, constants name -> array."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, *declared) for name, declared in inputs.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()],
    )
    opsets = [
        helper.make_opsetid("", opset),
        *(helper.make_opsetid(name, version) for name, version in imports.items()),
    ]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def node(op_type, inputs, output, **attributes):
    return helper.make_node(op_type, inputs.split(), [output], name=f"node_{output}", **attributes)


X = {"x": (TensorProto.FLOAT, ["batch", 4])}


def lowered(model, **shapes):
    return lower(load(model), shapes or {"x": (1, 4)})


def ops(program):
    return [eqn.op for eqn in program.graph.eqns]


def test_shape_arithmetic_disappears():
    nodes = [
        node("Shape", "x", "shape"),
        node("Gather", "shape zero", "batch", axis=0),
        node("Unsqueeze", "batch axis", "batches"),
        node("Concat", "batches tail", "target", axis=0),
        node("Reshape", "x target", "y"),
    ]
    constants = {"zero": np.int64(0), "axis": ints(0), "tail": ints(2, 2)}
    model = model_of(nodes, X, ["y"], constants)
    for batch in (1, 3):
        program = lowered(model, x=(batch, 4))
        assert ops(program) == ["reshape"]
        assert program.graph.outputs[0].shape == (batch, 2, 2)
        assert not program.weights


def test_a_transformers_mask_shrinks_to_what_depends_on_the_input():
    """Causal mask from Range and comparisons, joined with the padding mask that is an input."""
    nodes = [
        node("Shape", "mask", "shape"),
        node("Gather", "shape one", "length"),
        node("Range", "zero length one", "positions"),
        node("Unsqueeze", "positions first", "row"),
        node("Unsqueeze", "positions last", "column"),
        node("LessOrEqual", "row column", "causal"),
        node("Cast", "mask", "attended", to=TensorProto.BOOL),
        node("Unsqueeze", "attended middle", "padding"),
        node("And", "causal padding", "allowed"),
        node("Where", "allowed nothing hidden", "bias"),
    ]
    constants = {
        "zero": np.int64(0),
        "one": np.int64(1),
        "first": ints(0),
        "last": ints(1),
        "middle": ints(1, 2),
        "nothing": np.float32(0),
        "hidden": np.float32(-1e9),
    }
    model = model_of(nodes, {"mask": (TensorProto.INT64, ["batch", "length"])}, ["bias"], constants)
    program = lowered(model, mask=(1, 5))
    assert ops(program) == ["cast", "reshape", "logical_and", "where"]
    assert np.array_equal(program.weights["causal"], np.tri(5, dtype=bool))
    (bias,) = run_model(model, [np.asarray([[1, 1, 1, 0, 1]])])
    assert np.array_equal(bias[0, 0] == 0, np.tri(5, dtype=bool) & (np.arange(5) != 3))


def test_what_only_onnx_can_compute_is_computed_while_it_is_known():
    nodes = [
        node("NonZero", "c", "places"),
        node("Gather", "places zero", "rows"),
        node("Gather", "x rows", "y", axis=1),
    ]
    model = model_of(nodes, X, ["y"], {"c": ints(0, 1, 0, 1), "zero": np.int64(0)})
    assert ops(lowered(model)) == ["gather"]
    assert np.array_equal(run_model(model, [floats(2, 4)])[0], floats(2, 4)[:, [1, 3]])


def test_known_nodes_follow_the_opset_of_the_model():
    """A softmax before opset 13 is over all axes from the second on."""
    model = model_of(
        [node("Softmax", "c", "weights"), node("Add", "x weights", "y")],
        X,
        ["y"],
        {"c": np.zeros((1, 2, 4), np.float32)},
        11,
    )
    assert np.array_equal(run_model(model, [np.zeros((1, 4), np.float32)])[0], np.full((1, 2, 4), 0.125, np.float32))


def test_weights_keep_their_names():
    nodes = [node("Gemm", "x fc.weight fc.bias", "y", transB=1, alpha=0.5)]
    model = model_of(nodes, X, ["y"], {"fc.weight": floats(3, 4), "fc.bias": floats(3)})
    program = lowered(model)
    assert ops(program) == ["matmul", "add"]
    assert {name: array.shape for name, array in program.weights.items()} == {"fc.weight": (4, 3), "fc.bias": (1, 3)}
    assert np.array_equal(program.weights["fc.weight"], floats(3, 4).T * np.float32(0.5))


def test_values_keep_their_names_and_equations_their_nodes():
    relu = node("Relu", "x", "hidden")
    entry = relu.metadata_props.add()
    entry.key, entry.value = "pkg.torch.onnx.name_scopes", "['', 'layer1', 'layer1.act', 'relu']"
    program = lowered(model_of([relu, node("Identity", "hidden", "y")], X, ["y"]))
    (eqn,) = program.graph.eqns
    assert eqn.outvars[0].name == "hidden"
    assert (eqn.source.node, eqn.source.operator, eqn.source.module) == ("node_hidden", "ai.onnx.Relu", "layer1.act")
    assert program.graph.output_names == ("y",)


@pytest.mark.parametrize("scopes", ["not a list", "[", "['only']", "7"])
def test_scopes_that_are_no_list_are_no_module(scopes):
    relu = node("Relu", "x", "y")
    entry = relu.metadata_props.add()
    entry.key, entry.value = "pkg.torch.onnx.name_scopes", scopes
    assert lowered(model_of([relu], X, ["y"])).graph.eqns[0].source.module == ""


def test_constants_and_inputs_may_be_outputs():
    model = model_of([node("Relu", "c", "d")], X, ["x", "d"], {"c": np.float32([-1, 2])})
    x, d = run_model(model, [floats(2, 4)])
    assert np.array_equal(x, floats(2, 4))
    assert np.array_equal(d, [0, 2])


def failure(kind, *arguments, **settings):
    with pytest.raises(kind) as caught:
        lowered(model_of(*arguments, **settings))
    return str(caught.value)


def test_unknown_operators():
    nodes = [node("Reshape", "x s", "p"), node("MaxRoiPool", "p r", "y", pooled_shape=[1, 1])]
    message = failure(UnsupportedError, nodes, X, ["y"], {"s": ints(1, 1, 2, 2), "r": floats(1, 5)})
    assert message == (
        "node 'node_y' (ai.onnx.MaxRoiPool, opset 18): operator MaxRoiPool has no implementation yet; "
        "replace it in the model or export with standard operators"
    )
    message = failure(UnsupportedError, [node("Gelu", "x", "y")], X, ["y"])
    assert "operator Gelu is implemented from opset 20 on; re-export the model at a newer opset" in message


def test_other_domains():
    custom = node("FancyAttention", "x", "y", domain="com.example")
    message = failure(UnsupportedError, [custom], X, ["y"], **{"com.example": 1})
    assert "node 'node_y' (com.example.FancyAttention, opset 1): operator com.example.FancyAttention has no" in message
    message = failure(UnsupportedError, [custom], X, ["y"])
    assert "operator domain 'com.example' is not imported by the model" in message
    constant = node("FancyAttention", "c", "y", domain="com.example")
    message = failure(UnsupportedError, [constant], X, ["y"], {"c": ints(1)}, **{"com.example": 1})
    assert "operator com.example.FancyAttention has no implementation yet" in message


@pytest.mark.parametrize("operands", ["x x x", "x"])
def test_operands_that_do_not_fit(operands):
    message = failure(ModelError, [node("Add", operands, "y")], X, ["y"])
    assert f"node 'node_y' (ai.onnx.Add, opset 18): Add has 2 operands, found {len(operands.split())}" in message


def test_unknown_attributes():
    message = failure(ModelError, [node("Relu", "x", "y", sharpness=3)], X, ["y"])
    assert "node 'node_y' (ai.onnx.Relu, opset 18): it has no attribute 'sharpness'; there is: none" in message


def test_shapes_that_do_not_fit():
    nodes = [node("MatMul", "x w", "y")]
    message = failure(ModelError, nodes, X, ["y"], {"w": floats(3, 2)})
    assert "node 'node_y' (ai.onnx.MatMul, opset 18): it is not valid: Incompatible dimensions" in message


def test_indices_out_of_range():
    nodes = [node("Gather", "x i", "y", axis=1)]
    message = failure(ModelError, nodes, X, ["y"], {"i": ints(0, 4)})
    assert "indices from 0 to 4 reach beyond an axis of size 4" in message


def test_undefined_values():
    message = failure(ModelError, [node("Relu", "gone", "y")], X, ["y"])
    assert "node 'node_y' (ai.onnx.Relu, opset 18): value 'gone' is not computed before it is used" in message
    message = failure(ModelError, [node("Relu", "x", "y")], X, ["y", "z"])
    assert "value 'z' is not computed before it is used" in message


def test_cycles():
    nodes = [node("Add", "x b", "a"), node("Relu", "a", "b")]
    assert "value 'b' is not computed before it is used; the graph is cyclic or cut" in failure(
        ModelError, nodes, X, ["b"]
    )


def test_nodes_in_no_order():
    branch = helper.make_graph(
        [node("Identity", "a", "inner")], "branch", [], [helper.make_empty_tensor_value_info("inner")]
    )
    nodes = [
        node("Add", "chosen c", "y"),
        node("If", "true", "chosen", then_branch=branch, else_branch=branch),
        node("Relu", "b", "a"),
        node("Neg", "x", "b"),
        node("Abs", "x", "c"),
    ]
    model = model_of(nodes, X, ["y"], {"true": np.asarray(True)})
    assert ops(lowered(model)) == ["neg", "relu", "abs", "add"]


def test_duplicate_values():
    nodes = [node("Relu", "x", "y"), node("Sigmoid", "x", "y")]
    assert "value 'y' is there twice; the file is not valid ONNX" in failure(ModelError, nodes, X, ["y"])


def test_results_that_are_not_implemented():
    gelu = helper.make_node("Gelu", ["x"], ["y", "z"], name="gelu", domain="com.microsoft")
    with pytest.raises(UnsupportedError, match=r"node 'gelu' .*of its 2 results only 1 can be computed"):
        lowered(model_of([gelu], X, ["y"], **{"com.microsoft": 1}))


def test_results_left_out_at_the_end_do_not_count():
    norm = helper.make_node("BatchNormalization", ["x", *["s"] * 4], ["y", "", ""], name="norm")
    assert ops(lowered(model_of([norm], X, ["y"], {"s": np.ones(4, np.float32)}, opset=9))) == ["mul", "add"]


def branch(op_type: str, result: str):
    return helper.make_graph([node(op_type, "x", result)], op_type, [], [helper.make_empty_tensor_value_info(result)])


def test_a_known_branch_is_lowered_in_place():
    chosen = helper.make_node("If", ["c"], ["y"], then_branch=branch("Relu", "r"), else_branch=branch("Tanh", "r"))
    for condition, expected in ((True, "relu"), (False, "tanh")):
        assert ops(lowered(model_of([chosen], X, ["y"], {"c": np.asarray(condition)}))) == [expected]


def test_a_branch_that_depends_on_inputs_is_chosen_from_both():
    nodes = [node("ReduceMax", "x", "m", keepdims=0), node("Greater", "m zero", "c")]
    chosen = helper.make_node("If", ["c"], ["y"], then_branch=branch("Relu", "r"), else_branch=branch("Tanh", "t"))
    program = lowered(model_of([*nodes, chosen], X, ["y"], {"zero": np.float32(0)}))
    assert ops(program)[-3:] == ["relu", "tanh", "where"]


SPEECH = Path(__file__).parent.parent / "cases" / "if_on_sr.onnx"  # a weight of 4 rows at 16 kHz, of 2 rows otherwise


def test_a_branch_that_does_not_fit_needs_the_inputs_that_decide():
    """With their values only the branch that is taken is lowered."""
    with pytest.raises(DataDependentError, match=r"If, opset 16.*values of the inputs \(sr\).*MatMul") as caught:
        lower(load(SPEECH), {"x": (1, 4), "sr": ()})
    assert caught.value.inputs == {"sr"}
    for size, rate in ((4, 16000), (2, 8000)):
        program = lower(load(SPEECH), {"x": (1, size), "sr": ()}, known={"sr": np.array(rate)})
        assert ops(program) == ["matmul"]
        assert [var.name for var in program.graph.inputs] == ["x"]
        assert [array.shape for array in program.weights.values()] == [(size, 3)]


def loop(steps: int, *, growing: bool = False):
    body = [node("Tanh", "h", "t"), node("Concat", "t t", "n", axis=1) if growing else node("Add", "t x", "n")]
    names = {"i": TensorProto.INT64, "go": TensorProto.BOOL, "h": TensorProto.FLOAT}
    inputs = [helper.make_tensor_value_info(name, dtype, None) for name, dtype in names.items()]
    outputs = [helper.make_empty_tensor_value_info(name) for name in ("go", "n", "n")]
    graph = helper.make_graph(body, "step", inputs, outputs[: 2 if growing else 3])
    results = ["y"] if growing else ["y", "all"]
    return model_of(
        [helper.make_node("Loop", ["m", "", "x"], results, body=graph)], X, results, {"m": np.asarray(steps)}
    )


def test_a_loop_that_keeps_its_types_is_one_scan():
    (scan,) = lowered(loop(1000)).graph.eqns
    assert (scan.op, scan.params["length"]) == ("scan", 1000)
    assert [eqn.op for eqn in scan.params["body"].eqns] == ["tanh", "add"]


def test_a_loop_whose_shapes_change_is_written_out():
    program = lowered(loop(3, growing=True))
    assert ops(program) == ["tanh", "concat"] * 3
    assert program.graph.outputs[0].shape[1] == 8 * X["x"][1][1]


def test_a_loop_without_an_end_is_refused():
    model = loop(2)
    model.graph.node[0].input[0] = ""
    with pytest.raises(BacktraceError, match="refused"):
        lowered(model)


@pytest.mark.parametrize("kind", [TensorProto.COMPLEX64, TensorProto.COMPLEX128])
def test_complex_numbers_have_no_relevance(kind):
    sizes = numpy_helper.from_array(np.array([1, 4]), "sizes")
    info = [helper.make_tensor_value_info(name, kind, [None, 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Expand", ["x", "sizes"], ["y"])], "g", info[:1], info[1:], [sizes])
    model = helper.make_model(graph, opset_imports=[helper.make_operatorsetid("", 20)])
    with pytest.raises(UnsupportedError, match="'x' is complex: relevance is for real numbers"):
        Explainer(model)(np.ones((1, 4), np.complex64))


def test_weights_that_overflow_are_told_by_an_error_alone():
    """No warning of NumPy's comes first."""
    parts = {"scale": 1e38, "bias": 0.0, "mean": 0.0, "var": 1e-20}
    known = [numpy_helper.from_array(np.full(4, value, np.float32), name) for name, value in parts.items()]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 4]) for name in "xy"]
    nodes = [helper.make_node("BatchNormalization", ["x", *parts], ["y"], epsilon=0.0)]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], known)
    model = helper.make_model(graph, opset_imports=[helper.make_operatorsetid("", 20)])
    with pytest.raises(NumericsError, match="'y'"):
        Explainer(model)(np.ones((1, 4), np.float32))


def test_inputs_can_be_fixed():
    nodes = [node("Reshape", "x shape", "y")]
    model = model_of(nodes, X | {"shape": (TensorProto.INT64, [2])}, ["y"])
    program = lower(load(model), {"x": (1, 4), "shape": (2,)}, known={"shape": ints(2, 2)})
    assert [var.name for var in program.graph.inputs] == ["x"]
    assert program.graph.outputs[0].shape == (2, 2)


def test_a_thousand_layers_lower_without_recursion():
    names = ["x", *(f"h{i}" for i in range(1000))]
    nodes = [node("Relu", before, after) for before, after in pairwise(names)]
    assert len(lowered(model_of(nodes, X, [names[-1]])).graph.eqns) == 1000


def test_the_backend_checks_its_inputs():
    model = model_of([node("Relu", "x", "y")], X, ["y"])
    rep = prepare(model)
    assert np.array_equal(rep.run({"x": floats(2, 4)})[0], np.maximum(floats(2, 4), 0))
    for inputs in ([], [floats(1, 4), floats(1, 4)], {"z": floats(1, 4)}):
        with pytest.raises(InputError, match="expected the inputs x; found"):
            rep.run(inputs)
    with pytest.raises(InputError, match=r"x: float32 \[\?, 4\] expected, found dtype float64"):
        rep.run([floats(1, 4).astype(np.float64)])
    assert supports_device("CPU")
    assert not supports_device("TOASTER")
    with pytest.raises(SettingError, match="no device 'TOASTER' here"):
        prepare(model, "TOASTER")
    with pytest.raises(SettingError, match="unknown settings speed"):
        prepare(model, speed="fast")
