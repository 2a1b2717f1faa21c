"""LSTM, GRU and RNN in all their forms, against onnxruntime and ONNX's own cases."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.backend.test.case.node import _NodeTestCases, gru, lstm, rnn

from backtrace_jax.errors import ModelError
from backtrace_jax.importers.onnx import load, lower
from backtrace_jax.onnx_backend import run_model
from backtrace_jax.passes import simplify
from tests.zoo.runtime import onnxruntime_outputs

from .nodes import check_node, floats, node_model

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
RESULTS = {"LSTM": 3, "GRU": 2, "RNN": 2}
DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
STEPS, BATCH, FEATURES, STATE = 5, 3, 4, 6
LENGTHS = np.asarray([5, 2, 3], np.int32)
WEIGHTS = (1, 2, 3, 7)  # positions of W, R, B and P

operators = pytest.mark.parametrize("op_type", GATES)
directions = pytest.mark.parametrize("direction", DIRECTIONS)


def operands(op_type, direction="forward", *, bias=True, lengths=None, initial=True, peepholes=False):
    """X, W, R, B, sequence_lens, initial_h, and for an LSTM initial_c and P."""
    count, width = DIRECTIONS[direction], GATES[op_type] * STATE
    X, W, R = (
        floats(STEPS, BATCH, FEATURES),
        floats(count, width, FEATURES, seed=1),
        floats(count, width, STATE, seed=2),
    )
    B = floats(count, 2 * width, seed=3) if bias else None
    first = [floats(count, BATCH, STATE, seed=seed) if initial else None for seed in (4, 5)]
    P = floats(count, 3 * STATE, seed=6) if peepholes else None
    found = [X, W / 2, R / 2, B, lengths, *first, P]
    return found if op_type == "LSTM" else found[:6]


def present(positions, given):
    return tuple(i for i in positions if i < len(given) and given[i] is not None)


def check(op_type, given, *, known=WEIGHTS, opset=14, **attributes):
    """Compare with onnxruntime."""
    settings = {"opset": opset, "results": RESULTS[op_type], "hidden_size": STATE, **attributes}
    check_node(op_type, given, present(known, given), **settings)


@operators
@directions
def test_directions(op_type, direction):
    check(op_type, operands(op_type, direction, lengths=LENGTHS), direction=direction)


@operators
@pytest.mark.parametrize("known", [WEIGHTS, (), (*WEIGHTS, 4), (1,), (2,)], ids=str)
def test_what_may_be_known(op_type, known):
    given = operands(op_type, "bidirectional", lengths=LENGTHS if 4 in known else None)
    check(op_type, given, known=known, direction="bidirectional")


@operators
@pytest.mark.parametrize(("bias", "initial"), [(False, False), (False, True), (True, False)])
def test_what_may_be_left_out(op_type, bias, initial):
    check(op_type, operands(op_type, bias=bias, initial=initial))


@operators
@pytest.mark.parametrize("opset", [7, 22])
def test_opsets(op_type, opset):
    check(op_type, operands(op_type), opset=opset)


@operators
def test_clip(op_type):
    check(op_type, operands(op_type, "reverse", lengths=LENGTHS), direction="reverse", clip=0.3)


@pytest.mark.parametrize("attributes", [{}, {"input_forget": 1}, {"input_forget": 1, "clip": 0.3}], ids=str)
@pytest.mark.parametrize("peepholes", [False, True])
def test_lstm_gates(attributes, peepholes):
    check("LSTM", operands("LSTM", peepholes=peepholes), **attributes)


@pytest.mark.parametrize("known", [WEIGHTS, ()], ids=str)
def test_lstm_with_everything(known):
    given = operands("LSTM", "bidirectional", peepholes=True, lengths=LENGTHS)
    check("LSTM", given, known=known, direction="bidirectional", clip=0.3)


@pytest.mark.parametrize("attributes", [{}, {"clip": 0.3}, {"activations": ["HardSigmoid", "Softsign"]}], ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_gru_with_a_linear_map_before_the_reset(bias, attributes):
    check("GRU", operands("GRU", bias=bias), linear_before_reset=1, **attributes)


@pytest.mark.parametrize("known", [WEIGHTS, (), (2,), (3,)], ids=str)
def test_gru_with_everything(known):
    given = operands("GRU", "bidirectional", lengths=LENGTHS)
    check("GRU", given, known=known, direction="bidirectional", linear_before_reset=1)


ACTIVATIONS = {  # alpha and beta by default where onnxruntime agrees with ONNX about them
    "Affine": None,
    "Elu": {},
    "HardSigmoid": {},
    "LeakyRelu": {},
    "Relu": {},
    "ScaledTanh": None,
    "Sigmoid": {},
    "Softplus": {},
    "Softsign": {},
    "Tanh": {},
    "ThresholdedRelu": None,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    check("RNN", operands("RNN"), activations=[name], activation_alpha=[0.3], activation_beta=[0.4])


@pytest.mark.parametrize("name", [name for name, settings in ACTIVATIONS.items() if settings is not None])
def test_activations_by_default(name):
    check("RNN", operands("RNN"), activations=[name])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("Affine", {"activation_alpha": [1.0], "activation_beta": [0.0]}),
        ("ScaledTanh", {"activation_alpha": [1.0], "activation_beta": [1.0]}),
        ("ThresholdedRelu", {"activation_alpha": [1.0]}),
    ],
)
def test_defaults_that_onnxruntime_does_not_have(name, settings):
    given = operands("RNN")
    inputs = {f"x{i}": x for i, x in enumerate(given) if x is not None}
    wanted = onnxruntime_outputs(
        node_model("RNN", given, opset=14, activations=[name], hidden_size=6, **settings), inputs
    )
    check_node("RNN", given, expected=wanted, opset=14, activations=[name], hidden_size=6)


def test_alpha_and_beta_are_used_up_in_order():
    names = ["HardSigmoid", "Elu", "ScaledTanh", "Sigmoid", "LeakyRelu", "Affine"]
    settings = {"activation_alpha": [0.3, 0.5, 0.6, 0.2, 0.7], "activation_beta": [0.45, 0.9, 0.1]}
    check("LSTM", operands("LSTM", "bidirectional"), direction="bidirectional", activations=names, **settings)
    settings = {"activation_alpha": [0.3]}
    names = ["HardSigmoid", "Elu", "tanh"] * 2
    check("LSTM", operands("LSTM", "bidirectional"), direction="bidirectional", activations=names, **settings)


@operators
def test_batch_first(op_type):
    """onnxruntime has no layout 1 on the CPU: its results of layout 0, turned around."""
    given, direction = operands(op_type, "bidirectional", lengths=LENGTHS), "bidirectional"
    inputs = {f"x{i}": x for i, x in enumerate(given) if x is not None}
    settings = {"opset": 14, "results": RESULTS[op_type], "hidden_size": STATE, "direction": direction}
    Y, *last = onnxruntime_outputs(node_model(op_type, given, **settings), inputs)
    turned = [x.swapaxes(0, 1) if i in (0, 5, 6) and x is not None else x for i, x in enumerate(given)]
    wanted = [Y.transpose(2, 0, 1, 3), *(state.swapaxes(0, 1) for state in last)]
    check_node(op_type, turned, present(WEIGHTS, given), expected=wanted, layout=1, **settings)


ONNX_CASES = {case.name: case for case in _NodeTestCases if case.model.graph.node[0].op_type in GATES}


def test_all_cases_of_onnx_are_there():
    assert {module.__name__.rpartition(".")[2] for module in (gru, lstm, rnn)} == {"gru", "lstm", "rnn"}
    assert len(ONNX_CASES) == 18


@pytest.mark.parametrize("name", ONNX_CASES)
def test_case_of_onnx(name):
    case = ONNX_CASES[name]
    for inputs, wanted in case.data_sets:
        found = run_model(case.model, [array(x) for x in inputs])
        for one, other in zip(found, map(array, wanted), strict=True):
            assert (one.dtype, one.shape) == (other.dtype, other.shape)
            np.testing.assert_allclose(one, other, case.rtol, case.atol)


def array(value):
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


@operators
@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_types(op_type, dtype):
    given = [x if x is None else x.astype(dtype) for x in operands(op_type, "bidirectional")]
    wide = [x if x is None else x.astype(np.float32) for x in given]
    settings = {"opset": 14, "results": RESULTS[op_type], "direction": "bidirectional", "hidden_size": STATE}
    inputs = {f"x{i}": x for i, x in enumerate(wide) if x is not None}
    wanted = [x.astype(dtype) for x in onnxruntime_outputs(node_model(op_type, wide, **settings), inputs)]
    tolerance = 1e-5 if dtype == np.float64 else 2e-2
    check_node(op_type, given, present(WEIGHTS, given), wanted, rtol=tolerance, atol=tolerance, **settings)


@operators
def test_everything_known(op_type):
    given = operands(op_type, "reverse", lengths=LENGTHS)
    settings = {"opset": 14, "results": RESULTS[op_type], "direction": "reverse", "hidden_size": STATE}
    model = node_model(op_type, given, present(range(8), given), **settings)
    program = lower(load(model), {})
    assert not program.graph.eqns
    for var, wanted in zip(program.graph.outputs, onnxruntime_outputs(model, {}), strict=True):
        np.testing.assert_allclose(program.weights[var.name], wanted, 1e-5, 1e-5)


@operators
def test_results_left_out(op_type):
    given = operands(op_type, "reverse")
    model = node_model(op_type, given, present(WEIGHTS, given), opset=14, results=2, direction="reverse", hidden_size=6)
    model.graph.node[0].output[0] = ""
    del model.graph.output[0]
    inputs = {f"x{i}": x for i, x in enumerate(given) if x is not None and i not in WEIGHTS}
    (found,), (wanted,) = run_model(model, inputs), onnxruntime_outputs(model, inputs)
    np.testing.assert_allclose(found, wanted, 1e-5, 1e-5)


@pytest.mark.parametrize("op_type", GATES)
def test_a_sequence_of_no_steps_leaves_the_first_state(op_type):
    given = operands(op_type, lengths=np.asarray([5, 0, 1], np.int32))
    inputs = {f"x{i}": x for i, x in enumerate(given) if x is not None}
    Y, *last = run_model(node_model(op_type, given, results=RESULTS[op_type], direction="reverse"), inputs)
    assert not Y[:, :, 1].any()
    for state, first in zip(last, given[5:], strict=False):
        np.testing.assert_array_equal(state[:, 1], first[:, 1])


def graph(op_type, known=WEIGHTS, simple=True, **settings):
    """The graph of a node, and the body of its first scan."""
    options = {name: settings.pop(name) for name in ("bias", "initial", "lengths", "peepholes") if name in settings}
    given = operands(op_type, settings.get("direction", "forward"), **options)
    model = node_model(op_type, given, present(known, given), results=RESULTS[op_type], **settings)
    shapes = {f"x{i}": x.shape for i, x in enumerate(given) if x is not None and i not in known}
    program = lower(load(model), shapes)
    outer = (simplify(program) if simple else program).graph
    return outer, next(eqn for eqn in outer.eqns if eqn.op == "scan").params["body"]


def operations(graph):
    return [eqn.op for eqn in graph.eqns]


@operators
def test_the_input_is_one_linear_map_with_its_bias(op_type):
    outer, _ = graph(op_type, initial=False)
    assert operations(outer)[:2] == ["matmul", "scan"]
    assert len(outer.eqns[0].invars) == 3
    assert outer.eqns[0].outvars[0] == outer.eqns[1].invars[RESULTS[op_type] - 1]


@pytest.mark.parametrize(
    ("op_type", "attributes", "products"),
    [
        ("LSTM", {}, [2]),
        ("GRU", {}, [2, 2]),
        ("GRU", {"linear_before_reset": 1}, [3]),  # a bias of its own
        ("RNN", {}, [2]),
    ],
)
def test_gates_share_one_recurrent_product(op_type, attributes, products):
    _, body = graph(op_type, **attributes)
    assert [len(eqn.invars) for eqn in body.eqns if eqn.op == "matmul"] == products


@pytest.mark.parametrize("op_type", ["LSTM", "GRU"])
def test_gates_come_first_in_products(op_type):
    _, body = graph(op_type, linear_before_reset=1) if op_type == "GRU" else graph(op_type)
    producers = body.producers()
    factors = [[producers.get(var.name) for var in eqn.invars] for eqn in body.eqns if eqn.op == "mul"]
    assert all(gate.op in ("sigmoid", "sub") for gate, _ in factors)
    assert all(signal is None or signal.op in ("tanh", "slice") for _, signal in factors)


@pytest.mark.parametrize(
    ("op_type", "names"),
    [
        ("LSTM", {"input", "output", "forget", "candidate", "c", "h"}),
        ("GRU", {"update", "reset", "candidate", "h"}),
        ("RNN", {"h"}),
    ],
)
def test_values_of_the_body_have_names(op_type, names):
    _, body = graph(op_type)
    assert names <= {var.name for var in body.variables()}
    assert {eqn.source.operator for eqn in body.eqns} == {f"ai.onnx.{op_type}"}
    assert {var.name for var in body.inputs} >= {"h_before", "x", "R"}


def test_weights_keep_their_names():
    outer, _ = graph("LSTM", simple=False, peepholes=True, direction="bidirectional")
    assert {"x1", "x1.1", "x2", "x2.1", "x3", "x3.1", "x7"} <= {var.name for var in outer.params}


def test_a_peephole_is_an_operand_of_the_gates_sum():
    _, body = graph("LSTM", peepholes=True)
    assert sorted(len(eqn.invars) for eqn in body.eqns if eqn.op == "add") == [2, 2, 3, 3, 3]


def test_known_full_lengths_need_no_mask():
    given = {"lengths": np.full(BATCH, STEPS, np.int32)}
    _, body = graph("GRU", known=(*WEIGHTS, 4), **given)
    assert "where" not in operations(body)
    _, body = graph("GRU", **given)
    assert operations(body).count("where") == 2


@pytest.mark.parametrize(
    ("position", "shape", "message"),
    [
        (0, (STEPS, FEATURES), "First input tensor must have rank 3"),
        (1, (1, 3 * STATE, FEATURES), r"W should have shape \(1, 24, 4\)"),
        (2, (1, 4 * STATE, 2 * STATE), r"R should have shape \(1, 24, 6\)"),
        (3, (1, 4 * STATE), r"B should have shape \(1, 48\)"),
        (4, (BATCH + 1,), r"sequence_lens should have shape \(3,\)"),
        (5, (1, BATCH, 1), r"initial_h should have shape \(1, 3, 6\)"),
        (6, (2, BATCH, STATE), r"initial_c should have shape \(1, 3, 6\)"),
        (7, (1, 4 * STATE), r"P should have shape \(1, 18\)"),
    ],
)
def test_wrong_shapes(position, shape, message):
    given = operands("LSTM", lengths=LENGTHS, peepholes=True)
    given[position] = np.zeros(shape, given[position].dtype)
    with pytest.raises(ModelError, match=message):
        lower_node(given, hidden_size=STATE)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"direction": "backward"}, "'direction' must be one of forward, reverse, bidirectional, found 'backward'"),
        ({"activations": ["Sigmoid", "Tanh"]}, "expected 3 activations .* found 2: Sigmoid, Tanh"),
        ({"activations": ["Sigmoid", "Tanh", "Swish"]}, "out of Affine, .*; found 3: Sigmoid, Tanh, Swish"),
        ({"direction": "bidirectional"}, r"W should have shape \(2, 24, 4\)"),
    ],
)
def test_wrong_attributes(attributes, message):
    with pytest.raises(ModelError, match=message):
        lower_node(operands("LSTM"), **attributes)


def lower_node(given, **attributes):
    model = node_model("LSTM", given, results=3, **attributes)
    lower(load(model), {f"x{i}": x.shape for i, x in enumerate(given) if x is not None})
