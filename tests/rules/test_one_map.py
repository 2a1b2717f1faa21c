"""Every linear operation of ONNX is one linear map in every mode, however many steps compute it (RULES 1 and 13).

The reference is the product with the operation's matrix, unit by unit in NumPy (`tests.rules.oracles`); the matrix is
what the operation makes of unit vectors. Operands have both signs.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from onnx import helper, numpy_helper

from backtrace_jax.engine.forward import forward
from backtrace_jax.engine.plan import plan_walk
from backtrace_jax.engine.walk import walk
from backtrace_jax.onnx_backend import prepare
from backtrace_jax.ops import LINEAR, MOVE, PRODUCT, QUOTIENT, SUM
from backtrace_jax.passes import simplify, with_float_type
from backtrace_jax.rules import mode
from backtrace_jax.runtime.numerics import exact_types
from tests.rules.lrp_oracles import Map, contrastive, lrp, signed, z_plus
from tests.rules.oracles import default_rule
from tests.rules.running import CHEAP

MICROSOFT = "com.microsoft"


class Use(NamedTuple):
    """An operator in use: shape of the operand that bears relevance, the constants by position, and attributes."""

    op: str
    shape: tuple[int, ...]
    constants: dict[int, Any] = {}  # noqa: RUF012
    attributes: dict[str, Any] = {}  # noqa: RUF012
    at: int = 0
    domain: str = ""


def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape)


def _whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


_GRID = np.random.default_rng(3).uniform(-1.3, 1.3, (1, 2, 3, 2))
_OFFSET = np.random.default_rng(4).uniform(-0.7, 0.7, (1, 8, 2, 2))
_IMAGE = (1, 1, 4, 5)
_POOL = {"kernel_shape": [2, 3], "strides": [1, 2], "pads": [1, 0, 0, 1]}
_REGIONS = np.array([[0.2, 0.4, 4.1, 3.3], [-2.0, 0.5, 9.0, 4.0]])


def _resize(mode: str, sizes: tuple[int, ...], **attributes: Any) -> Use:
    return Use("Resize", _IMAGE, {3: _whole(*sizes)}, {"mode": mode, "axes": [2, 3], **attributes})


def _grid(mode: str, padding: str, **attributes: Any) -> Use:
    return Use("GridSample", _IMAGE, {1: _GRID}, {"mode": mode, "padding_mode": padding, **attributes})


USES = {
    "AffineGrid": Use("AffineGrid", (1, 2, 3), {1: _whole(1, 1, 2, 3)}),
    "AveragePool": Use("AveragePool", _IMAGE, {}, _POOL),
    "AveragePool, padding counted": Use("AveragePool", _IMAGE, {}, {**_POOL, "count_include_pad": 1}),
    "FusedMatMul": Use("FusedMatMul", (3, 2), {1: _normal(3, 4)}, {"transA": 1, "alpha": -0.5}, 0, MICROSOFT),
    "BatchNormalization": Use(
        "BatchNormalization", (1, 3, 2), {1: _normal(3), 2: np.zeros(3), 3: np.zeros(3), 4: np.ones(3)}
    ),
    "CausalConvWithState": Use("CausalConvWithState", (1, 2, 5), {1: _normal(2, 1, 3)}),
    "Col2Im": Use("Col2Im", (1, 4, 6), {1: _whole(3, 4), 2: _whole(2, 2)}),
    "Conv": Use("Conv", _IMAGE, {1: _normal(2, 1, 2, 3)}, _POOL),
    "ConvTranspose": Use("ConvTranspose", (1, 2, 3), {1: _normal(2, 2, 2)}, {"strides": [2]}),
    "ConvTransposeWithDynamicPads": Use(
        "ConvTransposeWithDynamicPads", (1, 1, 2, 2), {1: _normal(1, 1, 2, 2), 2: _whole(0, 0, 1, 0)}, {}, 0, MICROSOFT
    ),
    "ComplexMul": Use("ComplexMul", (3, 2), {1: _normal(3, 2)}, {}, 0, MICROSOFT),
    "ComplexMulConj": Use("ComplexMulConj", (3, 2), {1: _normal(3, 2)}, {}, 0, MICROSOFT),
    "CumSum": Use("CumSum", (2, 4), {1: np.array(1)}, {"reverse": 1, "exclusive": 1}),
    "DFT": Use("DFT", (1, 5, 1), {2: np.array(1)}),
    "DFT of complex numbers": Use("DFT", (1, 4, 2), {2: np.array(1)}, {"inverse": 1}),
    "DFT, one-sided": Use("DFT", (1, 5, 1), {1: np.array(6), 2: np.array(1)}, {"onesided": 1}),
    "DepthToSpace": Use("DepthToSpace", (1, 4, 2, 2), {}, {"blocksize": 2}),
    "Div": Use("Div", (2, 3), {1: _normal(3)}),
    "Einsum of one": Use("Einsum", (3, 3, 2), {}, {"equation": "iij->j"}),
    "Einsum of two": Use("Einsum", (2, 3), {1: _normal(3, 4, 2)}, {"equation": "bi,ijk->bkj"}),
    "Einsum of three, in a chain": Use(
        "Einsum", (2, 3), {1: _normal(3, 4), 2: _normal(4, 2)}, {"equation": "bi,ij,jk->bk"}
    ),
    "Einsum of three, by axis": Use(
        "Einsum", (2, 3), {1: _normal(4, 2), 2: _normal(3, 2)}, {"equation": "ij,ki,jl->kl"}
    ),
    "Einsum of three, operand last": Use(
        "Einsum", (2, 3), {0: _normal(4, 2), 1: _normal(3, 2)}, {"equation": "ki,jl,ij->kl"}, 2
    ),
    "FusedConv": Use("FusedConv", (1, 1, 5), {1: _normal(2, 1, 3)}, {}, 0, MICROSOFT),
    "Gemm": Use("Gemm", (2, 3), {1: _normal(4, 3)}, {"alpha": -2.0, "transB": 1}),
    "GlobalAveragePool": Use("GlobalAveragePool", _IMAGE),
    "GridSample linear": _grid("linear", "reflection"),
    "GridSample nearest": _grid("nearest", "border"),
    **{f"GridSample cubic {padding}": _grid("cubic", padding) for padding in ("zeros", "border", "reflection")},
    "GridSample cubic, corners": _grid("cubic", "reflection", align_corners=1),
    "GridSample of volumes": Use("GridSample", (1, 1, 2, 3, 2), {1: _normal(1, 1, 2, 2, 3)}, {"mode": "linear"}),
    "Irfft": Use("Irfft", (2, 3, 2), {}, {"normalized": 0, "onesided": 1, "signal_ndim": 1}, 0, MICROSOFT),
    "MatMul": Use("MatMul", (2, 3), {1: _normal(3, 4)}),
    "MatMul from the left": Use("MatMul", (3, 2), {0: _normal(4, 3)}, at=1),
    "MaxUnpool": Use(
        "MaxUnpool",
        (1, 1, 2, 2),
        {1: _whole(0, 3, 9, 14).reshape(1, 1, 2, 2)},
        {"kernel_shape": [2, 2], "strides": [2, 2]},
    ),
    "Mean of one": Use("Mean", (2, 3)),
    "MelWeightMatrix": Use("MatMul", (2, 5), {1: np.abs(_normal(5, 3)).round()}),
    "Mul": Use("Mul", (2, 3), {1: _normal(2, 1)}),
    "Neg": Use("Neg", (2, 3)),
    "NegativeLogLikelihoodLoss": Use(
        "NegativeLogLikelihoodLoss", (3, 4), {1: _whole(2, 0, 3), 2: np.array([0.5, 1, 2, 0.1])}
    ),
    "NhwcConv": Use("NhwcConv", (1, 4, 3, 2), {1: _normal(2, 2, 2, 2)}, {}, 0, MICROSOFT),
    "Pad": Use("Pad", (2, 3), {1: _whole(1, 0, 0, 2)}),
    "Pad by reflection": Use("Pad", (2, 3), {1: _whole(0, 2, 0, 1)}, {"mode": "reflect"}),
    "ReduceMean": Use("ReduceMean", (2, 3, 2), {1: _whole(0, 2)}, {"keepdims": 0}),
    "ReduceSum": Use("ReduceSum", (2, 3, 2), {1: _whole(1)}),
    "Resize linear": _resize("linear", (7, 3)),
    "Resize linear, antialiased": _resize("linear", (2, 3), antialias=1),
    "Resize cubic": _resize("cubic", (7, 3)),
    "Resize cubic, antialiased": _resize("cubic", (2, 3), antialias=1),
    "Resize cubic, outside excluded": _resize("cubic", (7, 9), exclude_outside=1, cubic_coeff_a=-0.5),
    "Resize cubic, corners": _resize("cubic", (7, 9), coordinate_transformation_mode="align_corners"),
    "Resize cubic of volumes": Use(
        "Resize", (1, 1, 3, 2, 3), {3: _whole(4, 3, 2)}, {"mode": "cubic", "axes": [2, 3, 4]}
    ),
    "Resize nearest": _resize("nearest", (7, 3)),
    "Rfft": Use("Rfft", (2, 4), {}, {"normalized": 0, "onesided": 1, "signal_ndim": 1}, 0, MICROSOFT),
    "ReverseSequence": Use("ReverseSequence", (3, 2), {1: _whole(3, 2)}),
    "RoiAlign": Use("RoiAlign", _IMAGE, {1: _REGIONS, 2: _whole(0, 0)}, {"output_height": 2, "output_width": 2}),
    "RotaryEmbedding": Use("RotaryEmbedding", (1, 2, 3, 4), {1: _normal(1, 3, 2), 2: _normal(1, 3, 2)}),
    "STFT": Use("STFT", (1, 8, 1), {1: np.array(2), 2: np.hanning(4)}),
    "STFT of complex numbers": Use("STFT", (1, 6, 2), {1: np.array(1), 3: np.array(4)}, {"onesided": 0}),
    "ScatterElements": Use(
        "ScatterElements",
        (2, 3),
        {0: np.zeros((2, 3)), 1: _whole(0, 1, 1, 1, 0, 1).reshape(2, 3)},
        {"reduction": "add"},
        2,
    ),
    "ScatterND": Use(
        "ScatterND", (3, 2), {0: np.zeros((4, 2)), 1: _whole(1, 1, 3).reshape(3, 1)}, {"reduction": "add"}, 2
    ),
    "SpaceToDepth": Use("SpaceToDepth", (1, 1, 2, 4), {}, {"blocksize": 2}),
    "Sum of one": Use("Sum", (2, 3)),
    "Tile": Use("Tile", (2, 3), {1: _whole(2, 2)}),
    "TransposeMatMul": Use("TransposeMatMul", (2, 3), {1: _normal(2, 4)}, {"transA": 1}, 0, MICROSOFT),
    "Trilu": Use("Trilu", (3, 3)),
}
RESULTS = {"CausalConvWithState": 2}  # the state is the other one
SINGLE = ("CausalConvWithState", "RotaryEmbedding")  # ONNX does not define them for double precision
OPSETS = {"RoiAlign": 16, "CausalConvWithState": 27, "RotaryEmbedding": 23}

EPSILON = 1e-14  # as good as none: a move has no stabiliser, its matrix would have
SETTINGS = {name: {"epsilon": EPSILON} for name in ("lrp-epsilon", "lrp-epsilon-plus", "attnlrp")}
NOT_ONE_MAP = {
    **dict.fromkeys(
        ("Add", "Sub", "BiasAdd", "BiasDropout", "GatedAdd"), "what is added has a share of its own (RULES 3)"
    ),
    **dict.fromkeys(("CumProd", "ReduceProd", "ReduceSumSquare"), "a product of what is explained with itself"),
    **dict.fromkeys(("MatMulBnb4", "MatMulNBits"), "a MatMul by weights that are unpacked at lowering"),
    "DeformConv": "reads between entries, which is a linear map, and convolves what was read, which is another",
    "Multinomial": "draws numbers",
    "TensorScatter": "a move",
    "Upsample": "Resize by another name",
}
"""Operators made of linear steps alone that are not among the uses, with the reason."""

MODES = ("default", "contrastive", "lrp-epsilon", "lrp-epsilon-plus", "attnlrp")
CONVOLUTIONS = ("Conv", "ConvTranspose", "ConvTransposeWithDynamicPads", "FusedConv", "NhwcConv", "CausalConvWithState")


def _program(use: Use) -> Any:
    operands = {**use.constants, use.at: None}
    names = ["" if i not in operands else "x" if i == use.at else f"k{i}" for i in range(max(operands) + 1)]
    results = ["y", "rest"][: RESULTS.get(use.op, 1)]
    node = helper.make_node(use.op, names, results, domain=use.domain, **use.attributes)
    float_type = np.dtype(np.float32 if use.op in SINGLE else np.float64)
    arrays = {i: np.asarray(array) for i, array in use.constants.items()}
    arrays = {i: array.astype(float_type) if array.dtype.kind == "f" else array for i, array in arrays.items()}
    constants = [numpy_helper.from_array(array, f"k{i}") for i, array in arrays.items()]
    code = helper.np_dtype_to_tensor_dtype(float_type)
    x, y = helper.make_tensor_value_info("x", code, use.shape), helper.make_empty_tensor_value_info("y")
    domains = [helper.make_opsetid("", OPSETS.get(use.op, 22)), helper.make_opsetid(MICROSOFT, 1)]
    graph = helper.make_graph([node], use.op, [x], [y], constants)
    model = helper.make_model(graph, opset_imports=domains, ir_version=10)
    program, _ = prepare(model).lower({"x": np.zeros(use.shape, float_type)})
    return simplify(with_float_type(program, np.dtype(np.float64)))


def _walked(program: Any, x: np.ndarray, R: np.ndarray, pair: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The operation's matrix, and relevance by mode, of one compiled function."""
    graph, (output,) = program.graph, program.graph.outputs
    plans = {name: plan_walk(graph, mode(name, **SETTINGS.get(name, {})), output) for name in MODES}

    rules = {
        name: (plan.paired, [(step.eqn.outvars, step.rule) for step in plan.steps]) for name, plan in plans.items()
    }
    same = {name: next(other for other in MODES if rules[other] == rules[name]) for name in MODES}

    distinct = {name: plans[name] for name in set(same.values())}

    def run(weights: Any, x: Any, units: Any, starts: Any) -> Any:
        values = forward(graph, weights, {"x": x})
        columns = jax.vmap(lambda unit: forward(graph, weights, {"x": unit})[output.name].reshape(-1))(units)
        walked = {name: walk(plan, values, {output.name: starts[plan.paired]})[0] for name, plan in distinct.items()}
        return columns.T, {name: walked[same[name]]["x"] for name in MODES}

    units = np.eye(x.size).reshape(-1, *x.shape)
    with exact_types():
        arguments = dict(program.weights), x, units, {False: R, True: pair}
        found = jax.jit(run).lower(*arguments).compile(compiler_options=CHEAP)(*arguments)
        return jax.tree.map(np.asarray, found)


def _expected(
    mode: str, K: np.ndarray, x: np.ndarray, R: np.ndarray, pair: np.ndarray, *, convolves: bool
) -> np.ndarray:
    linear = Map(K, K != 0, x)
    if mode == "default":
        return default_rule(K, x, None, R).share
    if mode == "contrastive":
        return contrastive(linear, pair).share
    return lrp(z_plus if convolves and mode == "lrp-epsilon-plus" else signed, linear, R, EPSILON).share


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_linear_operation_is_the_product_with_its_matrix(use):
    generator = np.random.default_rng(0)
    program, x = _program(use), generator.normal(size=use.shape)
    shape = program.graph.outputs[0].shape
    R, pair = generator.normal(size=shape), generator.normal(0.5, 1, size=(2, *shape))
    K, found = _walked(program, x, R, pair)
    K = np.where(np.abs(K) < 1e-13 * np.abs(K).max(), 0, K)
    for name in MODES:
        expected = _expected(name, K, x, R, pair, convolves=use.op in CONVOLUTIONS)
        np.testing.assert_allclose(found[name], expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max(), err_msg=name)


def test_every_operator_made_of_linear_steps_is_used():
    """The kinds of step that each operator takes stand in docs/operators.md."""
    steps = {LINEAR, MOVE, SUM, PRODUCT, QUOTIENT}
    table = Path(__file__).parents[2].joinpath("docs", "operators.md").read_text(encoding="utf-8")
    kinds = {
        name: set(found.split(", ")) for name, found in re.findall(r"^\| (\w+) \| [\d, ]+ \| (.*) \|$", table, re.M)
    }
    linear = {name for name, found in kinds.items() if found <= steps and not found <= {MOVE}}
    assert linear
    assert linear - {use.op for use in USES.values()} == set(NOT_ONE_MAP) & linear
