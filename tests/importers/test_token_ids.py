"""Token ids that reach their table by arithmetic, by a clip or as one-hot rows: the relevance of the plain look-up."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from backtrace_jax import explain
from backtrace_jax.analysis.bearing import bearing, bearing_inputs
from backtrace_jax.importers.onnx import load, lower
from backtrace_jax.ir import Program
from backtrace_jax.passes import simplify, with_float_type
from backtrace_jax.rules import CONSTANT, MODES, Once, find_mode
from tests.importers.explaining import network
from tests.importers.nodes import floats
from tests.rules.running import DOUBLE, Walked, assert_books_close, walk_back

CASES = Path(__file__).parent.parent / "cases"
IDS = np.array([[1, 0, 5, 3, 3]], np.int32)
TABLE, HEAD = floats(7, 4), floats(4, 3, seed=1)
KEPT = {"keras3_wrap_arith": np.array([[1, -7, 6, -4, 3]], np.int32)}  # negative ids count from the end


def node(op_type: str, inputs: str, output: str, **attributes) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(), [output], **attributes)


HEADED = [node("ReduceMean", "emb", "mean", axes=[1], keepdims=0), node("MatMul", "mean w", "y")]
GATHERED = [node("Gather", "tab index", "emb"), *HEADED]
FLOAT, INT = TensorProto.FLOAT, TensorProto.INT32
SPELLINGS = {
    "clip": [node("Clip", "ids zero six", "index"), *GATHERED],
    "largest": [node("Max", "ids zero", "index"), *GATHERED],
    "remainder": [node("Mod", "ids seven", "index"), *GATHERED],
    "counted from the end": [
        node("Less", "ids zero", "negative"),
        node("Add", "ids seven", "turned"),
        node("Where", "negative turned ids", "index"),
        *GATHERED,
    ],
    "offset there and back": [
        node("Reshape", "ids flat", "row"),
        node("Add", "row seven", "more"),
        node("Cast", "more", "wide", to=TensorProto.INT64),
        node("Sub", "wide wide_seven", "index1"),
        node("Reshape", "index1 batch", "index"),
        *GATHERED,
    ],
    "offset in floats": [
        node("Cast", "ids", "numbers", to=FLOAT),
        node("Add", "numbers half", "shifted"),
        node("Floor", "shifted", "whole"),
        node("Clip", "whole float_zero", "kept"),
        node("Cast", "kept", "index", to=TensorProto.INT64),
        *GATHERED,
    ],
    "floats, and one-hot rows": [
        node("Cast", "ids", "numbers", to=FLOAT),
        node("Cast", "numbers", "again", to=INT),
        node("OneHot", "again depth values", "rows"),
        node("MatMul", "rows tab", "emb"),
        *HEADED,
    ],
    "OneHot along the first axis": [
        node("OneHot", "ids depth values", "rows", axis=0),
        node("Transpose", "rows", "turned", perm=[1, 2, 0]),
        node("MatMul", "turned tab", "emb"),
        *HEADED,
    ],
    "OneHot along a middle axis": [
        node("OneHot", "ids depth values", "rows", axis=1),
        node("Transpose", "rows", "turned", perm=[0, 2, 1]),
        node("MatMul", "turned tab", "emb"),
        *HEADED,
    ],
    "OneHot": [node("OneHot", "ids depth values", "rows"), node("MatMul", "rows tab", "emb"), *HEADED],
    "flat one-hot rows": [
        node("OneHot", "ids depth values", "rows"),
        node("Reshape", "rows matrix", "flat_rows"),
        node("Gemm", "flat_rows tab", "flat_emb"),
        node("Reshape", "flat_emb shape", "emb"),
        *HEADED,
    ],
    "truths as integers first": [
        node("Unsqueeze", "ids last", "column"),
        node("Equal", "keys column", "truths"),
        node("Cast", "truths", "ones", to=INT),
        node("Cast", "ones", "rows", to=FLOAT),
        node("Einsum", "rows tab", "emb", equation="btv,vd->btd"),
        *HEADED,
    ],
}
NUMBERS = {
    "zero": np.array(0, np.int32),
    "six": np.array(6, np.int32),
    "seven": np.array(7, np.int32),
    "wide_seven": np.array(7),
    "flat": np.array([5]),
    "batch": np.array([1, 5]),
    "half": np.float32(0.5),
    "float_zero": np.float32(0),
    "depth": np.array(7),
    "values": np.float32([0, 1]),
    "matrix": np.array([5, 7]),
    "shape": np.array([1, 5, 4]),
    "last": np.array([2]),
    "keys": np.arange(7, dtype=np.int32),
}


def spelled(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    return network(nodes, {"ids": IDS}, opset=15, tab=TABLE, w=HEAD, **NUMBERS)


def looked_up(table: np.ndarray, head: np.ndarray) -> onnx.ModelProto:
    """The plain look-up."""
    return network([node("Gather", "tab ids", "emb"), *HEADED], {"ids": IDS}, opset=15, tab=table, w=head)


def in_double(model: onnx.ModelProto) -> Program:
    program = lower(load(model), dict.fromkeys((info.name for info in model.graph.input), (1, 5)))
    return simplify(with_float_type(program, DOUBLE))


START = np.array([[0.7, -0.2, 0.4]])


@cache
def plainly(mode: str) -> np.ndarray:
    return walked(looked_up(TABLE, HEAD), mode, IDS).relevance["ids"]


def walked(model: onnx.ModelProto, mode: str, ids: np.ndarray) -> Walked:
    start = np.stack([np.maximum(START, 0), np.maximum(-START, 0)]) if mode == "contrastive" else START
    found = walk_back(in_double(model), {"ids": ids}, start, mode=mode)
    if find_mode(mode).conserving:
        assert_books_close(found.books)
    return found


TO_TOKENS = [name for name in MODES if name != "lrp-epsilon-gamma-box" and find_mode(name).procedure == Once()]


@pytest.mark.parametrize("mode", ["default", "contrastive", "lrp-zplus", "gradient"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_of_a_look_up(spelling, mode):
    found = walked(spelled(SPELLINGS[spelling]), mode, IDS)
    np.testing.assert_allclose(found.relevance["ids"], plainly(mode), rtol=1e-12, atol=1e-12)
    assert np.abs(plainly(mode)).max() > 1e-2


@pytest.mark.parametrize("mode", TO_TOKENS)
def test_every_mode(mode):
    for spelling in ("counted from the end", "flat one-hot rows"):
        found = walked(spelled(SPELLINGS[spelling]), mode, IDS)
        np.testing.assert_allclose(found.relevance["ids"], plainly(mode), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["keras3_wrap_arith", "offset_add", "onehot_equal_cast"])
def test_models_in_daily_use(name):
    """End to end, in one mode that keeps books and one that ends at rows."""
    model = onnx.load(CASES / f"{name}.onnx")
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    table = weights["tab"][1:] if name == "offset_add" else weights["tab"]
    plain, ids = looked_up(table, weights["w"]), KEPT.get(name, IDS)
    for mode in ("default", "integrated-gradients"):
        found, expected = explain(model, ids, mode=mode), explain(plain, ids % len(table), mode=mode)
        np.testing.assert_allclose(found.outputs["y"], expected.outputs["y"], rtol=1e-5)
        np.testing.assert_allclose(found.relevance["ids"], expected.relevance["ids"], rtol=1e-5, atol=1e-6)
        assert np.abs(found.relevance["ids"]).min() > 1e-3
        assert found.ledger is None or found.ledger.error.max() < 1e-6


def test_one_hot_rows_of_ids_outside_are_zeros():
    """As in the product, and nothing is left for such a token."""
    ids = np.array([[1, 9, 5, -20, 3]], np.int32)
    found = walked(spelled(SPELLINGS["truths as integers first"]), "default", ids)
    rows = np.where(((ids >= 0) & (ids < 7))[..., None], TABLE.astype(np.float64)[ids % 7], 0)
    np.testing.assert_allclose(found.result, rows.mean(1) @ HEAD.astype(np.float64), rtol=1e-12)
    assert found.relevance["ids"][0, [1, 3]].tolist() == [0, 0]
    assert np.abs(found.relevance["ids"][0, [0, 2, 4]]).min() > 1e-3


def test_ids_that_pass_through_floats_beside_other_inputs():
    """They look up rows, so nobody has to name them; numbers that are weighed after the same steps do not."""
    steps = [
        node("Cast", "ids", "numbers", to=FLOAT),
        node("Mul", "numbers half", "halved"),
        node("Cast", "halved", "index", to=TensorProto.INT64),
    ]
    joined = [node("MatMul", "x v", "other"), node("Add", "part other", "y")]
    looked = [*steps, node("Gather", "tab index", "emb"), *HEADED[:1], node("MatMul", "mean w", "part"), *joined]
    inputs = {"ids": IDS, "x": np.ones((1, 5), np.float32)}
    model = network(looked, inputs, opset=15, tab=TABLE, w=HEAD, v=floats(5, 3), **NUMBERS)
    found = walk_back(in_double(model), {**inputs, "x": inputs["x"].astype(np.float64)}, START)
    rows = TABLE.astype(np.float64)[IDS // 2]
    np.testing.assert_allclose(found.values["emb"], rows)
    assert np.abs(found.relevance["ids"]).min() > 1e-3
    assert_books_close(found.books)


def test_a_padding_id_replaced_by_zeros():
    """Where(ids == pad, 0, row): the others get what the plain look-up gives them."""
    nodes = [
        node("Gather", "tab ids", "rows"),
        node("Equal", "ids six", "pads"),
        node("Unsqueeze", "pads last", "columns"),
        node("Where", "columns nothing rows", "emb"),
        *HEADED,
    ]
    ids, table = np.array([[1, 6, 5, 3, 6]], np.int32), np.concatenate([TABLE[:6], np.zeros((1, 4), np.float32)])
    model = network(nodes, {"ids": IDS}, opset=15, tab=TABLE, w=HEAD, nothing=np.zeros(1, np.float32), **NUMBERS)
    for mode in ("default", "lrp-epsilon"):
        expected = walked(looked_up(table, HEAD), mode, ids).relevance["ids"]
        np.testing.assert_allclose(walked(model, mode, ids).relevance["ids"], expected, rtol=1e-12, atol=1e-12)


def positions(masked: str) -> list[onnx.NodeProto]:
    """Positions counted from a mask (RoBERTa from its ids, OPT from its attention mask), which look up a table."""
    return [
        node("Cast", masked, "ones", to=INT),
        node("CumSum", "ones axis", "counted"),
        node("Mul", "counted ones", "places"),
        node("Add", "places zero", "index"),
        node("Gather", "tab index", "place_rows"),
        node("Gather", "tab ids", "rows"),
        node("Add", "rows place_rows", "emb"),
        *HEADED,
    ]


@pytest.mark.parametrize("of_ids", [True, False])
def test_positions_counted_from_a_mask_are_constants(of_ids):
    """They are no function of one token, so their rows take a constant's share, and the mask takes nothing."""
    first = [node("Less", "ids six", "mask")] if of_ids else []
    inputs = {"ids": IDS} if of_ids else {"ids": IDS, "mask": np.ones((1, 5), np.int32)}
    nodes = [*first, *positions("mask")]
    model = network(nodes, inputs, opset=15, tab=TABLE, w=HEAD, axis=np.array(1), **NUMBERS)
    found = walk_back(in_double(model), {**inputs, "ids": IDS}, START)
    assert set(found.relevance) >= {"ids"}
    assert not {"mask", "index", "places"} & set(found.relevance)
    assert abs(found.kept(CONSTANT)[0]) > 1e-2
    assert_books_close(found.books)


def test_arithmetic_of_two_inputs_makes_no_index_unless_one_is_named():
    nodes = [node("Mul", "ids mask", "index"), *GATHERED]
    inputs = {"ids": IDS, "mask": np.ones((1, 5), np.int32)}
    graph = in_double(network(nodes, inputs, opset=15, tab=TABLE, w=HEAD)).graph
    assert "y" not in bearing(graph, bearing_inputs(graph))
    assert {"index", "emb", "y"} <= bearing(graph, bearing_inputs(graph, ["ids"]))
    found = walk_back(in_double(network(nodes, inputs, opset=15, tab=TABLE, w=HEAD)), inputs, START, wrt=["ids"])
    np.testing.assert_allclose(found.relevance["ids"], plainly("default"), rtol=1e-12)


def test_masks_made_of_ids_are_weights():
    """The mean over what is no padding: the mask multiplies and divides, and the tokens take all."""
    nodes = [
        node("Gather", "tab ids", "rows"),
        node("Less", "ids six", "kept"),
        node("Cast", "kept", "weights", to=FLOAT),
        node("Unsqueeze", "weights last", "column"),
        node("Mul", "rows column", "emb"),
        *HEADED,
    ]
    model = network(nodes, {"ids": IDS}, opset=15, tab=TABLE, w=HEAD, **NUMBERS)
    found = walked(model, "default", IDS)
    np.testing.assert_allclose(found.relevance["ids"], plainly("default"), rtol=1e-12)
