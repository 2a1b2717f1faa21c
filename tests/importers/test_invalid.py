"""Models that no runtime can give a meaning: each is refused with an error that names the node and what is wrong."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from backtrace_jax.errors import BacktraceError, ModelError
from backtrace_jax.importers.onnx import load, lower
from benchmarks.fuzz.corpus import graph, model, node, weights

HUGE = 2**40


def ints(*numbers):
    return np.array(numbers, np.int64)


def one(op, operands=("x",), known=None, shape=(1, 4), opset=20, results=("y",), **attributes):
    """A node called `wrong` from x (and known values) to y."""
    made = model([node(op, [*operands], [*results], name="wrong", **attributes)], known, shape)
    made.opset_import[0].version = opset
    return made


def message(hostile, shape=(1, 4)):
    with pytest.raises(ModelError) as caught:
        lower(load(hostile), {"x": shape})
    assert len(str(caught.value)) < 1000
    return str(caught.value)


AXES = {
    "Softmax": {"axis": HUGE},
    "LogSoftmax": {"axis": 2},
    "Hardmax": {"axis": -3},
    "Flatten": {"axis": HUGE},
    "ArgMax": {"axis": HUGE},
    "LayerNormalization": {"axis": HUGE, "operands": ("x", "s"), "known": {"s": weights(4)}},
    "LpNormalization": {"axis": HUGE},
    "Concat": {"axis": HUGE, "operands": ("x", "x")},
    "Gather": {"axis": HUGE, "operands": ("x", "i"), "known": {"i": ints(0)}},
    "GatherElements": {"axis": HUGE, "operands": ("x", "i"), "known": {"i": ints(0).reshape(1, 1)}},
    "Split": {"axis": HUGE, "num_outputs": 1},
    "Compress": {"axis": HUGE, "operands": ("x", "i"), "known": {"i": np.array([True])}},
    "OneHot": {"axis": HUGE, "operands": ("i", "d", "v"), "known": {"i": ints(0), "d": np.array(3), "v": weights(2)}},
    "CumSum": {"operands": ("x", "i"), "known": {"i": np.array(HUGE)}},
    "ReduceSum": {"operands": ("x", "i"), "known": {"i": ints(HUGE)}},
    "ReduceMax": {"operands": ("x", "i"), "known": {"i": ints(-3)}},
    "Squeeze": {"operands": ("x", "i"), "known": {"i": ints(HUGE)}},
    "Unsqueeze": {"operands": ("x", "i"), "known": {"i": ints(HUGE)}},
    "Slice": {"operands": ("x", "i", "j", "k"), "known": {"i": ints(0), "j": ints(1), "k": ints(HUGE)}},
    "TopK": {"axis": HUGE, "operands": ("x", "i"), "known": {"i": ints(1)}, "results": ("y", "z")},
    "ReverseSequence": {"batch_axis": 0, "time_axis": HUGE, "operands": ("x", "i"), "known": {"i": ints(1)}},
    "MeanVarianceNormalization": {"axes": [HUGE]},
}


@pytest.mark.parametrize("op", AXES)
def test_axes_beyond_the_rank(op):
    """Axis 2^40 is not axis 0, though it is a multiple of the rank."""
    found = message(one(op, **AXES[op]))
    assert found.startswith(f"node 'wrong' (ai.onnx.{op}, opset 20): ")
    assert "ax" in found.partition(": ")[2].lower()


SPATIAL = {"operands": ("x", "w"), "known": {"w": weights(4, 2, 3, 3)}, "shape": (1, 4, 6, 6)}
TWO, ONES = {"operands": ("x", "k")}, np.ones(4, np.float32)
ATTRIBUTES = [
    ("Conv", {"strides": [0, 1]}, "'strides' must be at least 1, found 0"),
    ("Conv", {"strides": [1, -2]}, "'strides' must be at least 1, found -2"),
    ("Conv", {"dilations": [0, 1]}, "'dilations' must be at least 1, found 0"),
    ("Conv", {"group": 0}, "'group' must be at least 1, found 0"),
    ("Conv", {"group": 3}, "group=3 does not fit 4 channels"),
    ("Conv", {"group": 2, "pads": [-1, 0, 0, 0]}, "'pads' must be at least 0, found -1"),
    ("Conv", {"group": 2, "auto_pad": "SOME"}, "'auto_pad' must be one of NOTSET, .*, found 'SOME'"),
    ("Conv", {"group": 2, "auto_pad": ""}, "'auto_pad' must be one of NOTSET, .*, found ''"),
    ("Conv", {"group": 2, "kernel_shape": [0, 3]}, "'kernel_shape' must be at least 1"),
    ("ConvTranspose", {"group": 0}, "'group' must be at least 1"),
    ("ConvTranspose", {"group": 3}, "must be divisible by group"),
    ("ConvTranspose", {"output_padding": [-1, 0]}, "'output_padding' must be at least 0"),
    ("MaxPool", {"kernel_shape": [2, -2]}, "'kernel_shape' must be at least 1"),
    ("MaxPool", {"kernel_shape": [2, 2], "ceil_mode": 7}, "'ceil_mode' must be one of 0, 1, found 7"),
    ("AveragePool", {"kernel_shape": [2, 2], "strides": [0, 0]}, "'strides' must be at least 1"),
    ("AveragePool", {}, "'kernel_shape' is missing, which AveragePool needs"),
    ("DepthToSpace", {"blocksize": 0}, "'blocksize' must be at least 1"),
    ("DepthToSpace", {"blocksize": 2, "mode": "ABC"}, "'mode' must be one of DCR, CRD, found 'ABC'"),
    ("LRN", {"size": 0}, "'size' must be at least 1"),
    ("Transpose", {"perm": [0, 0, 1, 2]}, r"axes \[0, 0, 1, 2\] of 4 name one twice"),
    ("Transpose", {"perm": [0, 1, 2]}, "is no order of the 4 axes"),
    ("Transpose", {"perm": [0, 1, 2, 4]}, "axis 4 does not exist; axes of this value are from -4 to 3"),
    ("Cast", {"to": 999}, "'to' must be the code of a type, .*, found 999"),
    ("Cast", {"to": 0}, "'to' must be the code of a type"),
    ("Cast", {}, "'to' is missing, which Cast needs"),
    ("Gelu", {"approximate": "erf"}, "'approximate' must be one of none, tanh"),
    ("Relu", {"alpha": 1.0}, "it has no attribute 'alpha'; there is: none"),
    ("LeakyRelu", {"slope": 1.0}, "it has no attribute 'slope'; there is: alpha"),
    ("Softmax", {"axis": 1.0}, "'axis' must be of type int, found of type float"),
    ("Pad", {**TWO, "known": {"k": ints(0, 0, 0, 0, -9, 0, 0, 0)}}, "it is not valid|negative"),
    ("Pad", {**TWO, "known": {"k": ints(*[0] * 8)}, "mode": "mirror"}, "'mode' must be one of constant"),
    ("Resize", {"operands": ("x", "", "k"), "known": {"k": ONES}, "mode": "area"}, "'mode' must be one of"),
    ("ReduceSum", {"keepdims": 2}, "'keepdims' must be one of 0, 1, found 2"),
]


@pytest.mark.parametrize(("op", "attributes", "words"), ATTRIBUTES)
def test_attributes_out_of_range(op, attributes, words):
    settings = SPATIAL if op.startswith("Conv") else {"shape": SPATIAL["shape"]}
    found = message(one(op, **{**settings, **attributes}), shape=(1, 4, 6, 6))
    assert found.startswith(f"node 'wrong' (ai.onnx.{op}, opset 20): ")
    assert re.search(words, found), found


def test_recurrent_attributes():
    known = {"w": weights(1, 12, 4), "r": weights(1, 12, 3)}
    for attributes, words in (
        ({"hidden_size": 0}, "'hidden_size' must be at least 1, found 0"),
        ({"hidden_size": 3, "direction": "sideways"}, "'direction' must be one of forward, reverse, bidirectional"),
        ({"hidden_size": 3, "layout": 2}, "'layout' must be one of 0, 1"),
    ):
        assert words in message(one("LSTM", ("x", "w", "r"), known, (5, 1, 4), **attributes), (5, 1, 4))


def cast(to, *nodes):
    """x as another type, before some nodes that read it as k."""
    made = model([node("Cast", ["x"], ["k"], to=to), *nodes])
    made.graph.output[0].type.tensor_type.elem_type = 0
    return made


TYPES = [
    (TensorProto.BOOL, node("MatMul", ["k", "k"], ["y"]), "operand 'A' must be one of .*, found bool"),
    (TensorProto.BOOL, node("Add", ["k", "k"], ["y"]), "operand 'A' must be one of .*, found bool"),
    (TensorProto.BOOL, node("Relu", ["k"], ["y"]), "operand 'X' must be one of .*, found bool"),
    (TensorProto.INT64, node("Softmax", ["k"], ["y"]), "operand 'input' must be one of .*, found int64"),
    (TensorProto.INT64, node("And", ["k", "k"], ["y"]), "operand 'A' must be bool, found int64"),
    (TensorProto.DOUBLE, node("Add", ["x", "k"], ["y"]), "operand 'B' must be float as .*, found double"),
    (TensorProto.INT64, node("Add", ["", "k"], ["y"]), "operand 'A' is missing"),
    (TensorProto.INT64, node("Add", ["k"], ["y"]), "Add has 2 operands, found 1"),
    (TensorProto.INT64, node("Add", ["k", "k", "k"], ["y"]), "Add has 2 operands, found 3"),
    (TensorProto.INT64, node("Identity", ["k"], ["y", "z"]), "Identity has 1 results, found 2"),
]


@pytest.mark.parametrize(("to", "last", "words"), TYPES, ids=[f"{each[1].op_type}-{each[0]}" for each in TYPES])
def test_operands_that_an_operator_does_not_take(to, last, words):
    assert re.search(words, message(cast(to, last)))


@pytest.mark.parametrize("op", ["Div", "Mod"])
def test_integers_divided_by_a_constant_of_zero(op):
    last = node(op, ["k", "z"], ["y"], name="by_zero")
    hostile = cast(TensorProto.INT64, last)
    hostile.graph.initializer.append(numpy_helper.from_array(ints(3, 0, 1, 1), "z"))
    assert "node 'by_zero'" in (found := message(hostile))
    assert "integers are divided by a constant that is 0" in found


def test_more_results_than_parts():
    """ONNX's shape inference ends the process on such a node; nothing may hand one to it."""
    hostile = one("Split", results=("y", "z", "u"), num_outputs=2)
    assert "attribute 'num_outputs' is 2, and the node has 3 results" in message(hostile)


def test_variances_below_zero():
    known = {"s": weights(4), "v": np.array([1, 1, -2, 1], np.float32)}
    assert "a variance is -2; with epsilon=1e-05 it must be above 0" in message(
        one("BatchNormalization", ("x", "s", "s", "s", "v"), known)
    )


@pytest.mark.parametrize("version", [0, -1, 29, 10**6, 2**62])
def test_opsets_that_do_not_exist(version):
    hostile = one("Relu")
    hostile.opset_import[0].version = version
    assert f"opset {version} of 'ai.onnx' does not exist; the installed onnx" in message(hostile)
    hostile.opset_import[0].version = 20
    hostile.opset_import.add(domain="ai.onnx.ml", version=version)
    assert "of 'ai.onnx.ml' does not exist" in message(hostile)


def test_a_domain_at_two_versions():
    hostile = one("Relu")
    hostile.opset_import.add(domain="ai.onnx", version=13)
    assert "imported at two versions, 20 and 13" in message(hostile)


def test_functions_of_one_name():
    """Overloads tell them apart; otherwise one of the two would be taken at random."""
    hostile = one("Relu")
    for operator in ("Relu", "Abs"):
        body = [node(operator, ["a"], ["b"])]
        hostile.functions.append(helper.make_function("own", "F", ["a"], ["b"], body, hostile.opset_import))
    assert "function 'own::F' is there twice" in message(hostile)
    hostile.functions[1].overload = "other"
    load(hostile)


@pytest.mark.parametrize("version", [0, -1, 10**6])
def test_versions_of_the_format_that_do_not_exist(version):
    hostile = one("Relu")
    hostile.ir_version = version
    assert f"ir_version is {version}; the installed onnx" in message(hostile)


def branches(then_graph, else_graph):
    decided = [node("ReduceSum", ["x"], ["s"], keepdims=0), node("Greater", ["s", "o"], ["c"])]
    chosen = node("If", ["c"], ["y"], name="wrong", then_branch=then_graph, else_branch=else_graph)
    return model([*decided, chosen], {"o": np.array(0, np.float32)})


def test_branches_that_disagree():
    relu = graph([node("Relu", ["x"], ["t"])], {}, ["t"])
    two = graph([node("Relu", ["x"], ["t"]), node("Relu", ["x"], ["u"])], {}, ["t", "u"])
    assert "then_branch gives 1 results, else_branch 2" in message(branches(relu, two))
    whole = graph([node("Cast", ["x"], ["t"], to=TensorProto.INT64)], {}, ["t"])
    whole.output[0].type.tensor_type.elem_type = 0
    assert "then_branch gives float32, else_branch int64" in message(branches(relu, whole))
    whole.output[0].type.tensor_type.elem_type = TensorProto.INT64
    assert "declares 't' as float, else_branch its 't' as int64" in message(branches(relu, whole))


def test_a_reference_outside_a_function():
    hostile = one("LeakyRelu")
    hostile.graph.node[0].attribute.add(name="alpha", type=AttributeProto.FLOAT, ref_attr_name="slope")
    words = "attribute 'alpha' of node 'wrong' (LeakyRelu) refers to 'slope', which no function around it has"
    assert words in message(hostile)
    opsets = [helper.make_opsetid("", 20)]
    body = [node("LeakyRelu", ["a"], ["b"])]
    body[0].attribute.add(name="alpha", type=AttributeProto.FLOAT, ref_attr_name="slope")
    call = node("leaky", ["x"], ["y"], domain="local", slope=0.25)
    local = helper.make_function("local", "leaky", ["a"], ["b"], body, opsets, ["other"])
    assert "refers to 'slope', which no function around it has" in message(model([call], functions=[local]))
    local = helper.make_function("local", "leaky", ["a"], ["b"], body, opsets, ["slope"])
    assert lower(load(model([call], functions=[local])), {"x": (1, 4)}).graph.eqns


def test_attributes_that_a_function_hands_on_are_checked():
    opsets = [helper.make_opsetid("", 20)]
    body = [node("Softmax", ["a"], ["b"])]
    body[0].attribute.add(name="axis", type=AttributeProto.INT, ref_attr_name="along")
    local = helper.make_function("local", "soft", ["a"], ["b"], body, opsets, ["along"])
    call = node("soft", ["x"], ["y"], domain="local", along=HUGE)
    assert "axis" in message(model([call], functions=[local]))


def test_names_that_are_there_twice():
    twice = model([node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["y"])])
    assert "value 'y' is there twice" in message(twice)
    hostile = one("Relu")
    hostile.graph.output.append(hostile.graph.output[0])
    assert "output 'y' is there twice" in message(hostile)
    hostile = one("Add", ("x", "w"), {"w": weights(4)})
    hostile.graph.initializer.append(hostile.graph.initializer[0])
    assert "value 'w' is there twice" in message(hostile)
    hostile = one("Relu")
    hostile.graph.input.append(hostile.graph.input[0])
    assert "value 'x' is there twice" in message(hostile)
    hidden = graph([node("Relu", ["x"], ["t"]), node("Neg", ["x"], ["t"])], {}, ["t"])  # in a branch not taken
    right = graph([node("Relu", ["x"], ["t"])], {}, ["t"])
    chosen = node("If", ["c"], ["y"], then_branch=right, else_branch=hidden)
    assert "value 't' is there twice" in message(model([chosen], {"c": np.array(True)}))


def test_names_that_are_missing():
    hostile = one("Relu")
    hostile.graph.output[0].name = ""
    assert "an input or output of a graph has no name" in message(hostile)
    hostile = one("Relu")
    hostile.graph.node[0].op_type = ""
    assert "node 'wrong' names no operator" in message(hostile)
    assert "'q' is not computed before it is used" in message(one("Add", ("x", "q")))
    cyclic = model([node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"])])
    assert "the graph is cyclic or cut" in message(cyclic)


TENSORS = [
    ("holds data in float_data and raw_data", lambda t: t.float_data.append(1)),
    ("holds data in int32_data and raw_data", lambda t: t.int32_data.append(1)),
    ("'w' is broken", lambda t: t.ClearField("raw_data")),
    ("'w' is broken", lambda t: setattr(t, "raw_data", t.raw_data[:-1])),
    ("'w' is broken", lambda t: setattr(t, "raw_data", t.raw_data + b"\0\0\0\0")),
    ("'w' is broken", lambda t: (t.ClearField("raw_data"), t.float_data.extend([1.0] * 3))),
    ("'w' is broken", lambda t: (t.ClearField("raw_data"), t.int64_data.extend([1] * 4))),
    ("'w' is broken", lambda t: setattr(t, "data_type", 0)),
    ("'w' is broken", lambda t: setattr(t, "data_type", 99)),
    ("holds data in raw_data and external_data", lambda t: setattr(t, "data_location", TensorProto.EXTERNAL)),
]


@pytest.mark.parametrize(("words", "change"), TENSORS)
def test_tensors_whose_data_do_not_fit(words, change):
    hostile = one("Add", ("x", "w"), {"w": weights(4)})
    change(hostile.graph.initializer[0])
    assert words in message(hostile)


LONG = "\x1b[2J\n" + "é\u202e" * 500_000


@pytest.mark.parametrize("where", ["node", "operator", "input", "output", "attribute", "domain", "value", "tensor"])
def test_messages_stay_short_and_plain_whatever_a_name_holds(where):
    hostile = one("Softmax", axis=HUGE)
    changed = hostile.graph.node[0]
    if where == "attribute":
        changed.attribute[0].name = LONG
    elif where == "value":
        changed.attribute[0].CopyFrom(onnx.helper.make_attribute("axis", LONG))
    elif where in ("input", "output"):
        getattr(changed, where)[0] = LONG
    elif where == "tensor":
        hostile.graph.initializer.add(name=LONG, data_type=1, dims=[4])
    else:
        setattr(changed, {"node": "name", "operator": "op_type", "domain": "domain"}[where], LONG)
    with pytest.raises(BacktraceError) as caught:
        lower(load(hostile), {"x": (1, 4)})
    found = str(caught.value)
    assert len(found) < 1000
    assert all(each.isprintable() for each in found)
