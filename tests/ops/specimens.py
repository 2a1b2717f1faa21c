"""One small use, or several, of every operation that carries relevance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backtrace_jax.ir import Program
from backtrace_jax.ops import CONTROL, FUNCTION, NONE, OPS, POINTWISE
from backtrace_jax.passes.build import Builder


@dataclass(frozen=True)
class Specimen:
    """An operation in use.

    Attributes:
        op: The operation.
        operands: A shape is a float input, an array a constant.
        params: Static settings.
    """

    op: str
    operands: tuple[tuple[int, ...] | np.ndarray, ...]
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the float inputs, x0, x1, ... by position."""
        return {f"x{i}": operand for i, operand in enumerate(self.operands) if isinstance(operand, tuple)}

    def program(self, dtype: np.dtype, *, activation: str | None = None) -> Program:
        """The operation alone, or with an activation behind it; the results are called z and y."""
        builder = Builder()
        operands = [
            builder.input(f"x{i}", operand, dtype) if isinstance(operand, tuple) else of_type(operand, dtype)
            for i, operand in enumerate(self.operands)
        ]
        z = builder.emit(self.op, *operands, **self.params)
        builder.rename(z, "z")
        return builder.finish({"y": builder.emit(activation, z) if activation else z})


def of_type(constant: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A constant as it is, or in the float type of the inputs."""
    return constant.astype(dtype) if constant.dtype == np.float64 else constant


def _affine(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    """A scale and a shift."""
    entries = np.linspace(0.5, 1.7, int(np.prod(shape))).reshape(shape)
    return entries, 1.1 - entries


SETTINGS: dict[str, dict[str, Any]] = {
    "binarize": {"threshold": 0.2},
    "celu": {"alpha": 0.7},
    "clip": {"low": -0.5, "high": 1.0},
    "elu": {"alpha": 0.7},
    "gelu": {"approximate": False},
    "hard_sigmoid": {"alpha": 0.2, "beta": 0.5},
    "integer_pow": {"exponent": 3},
    "leaky_relu": {"alpha": 0.1},
    "selu": {"alpha": 1.67326, "gamma": 1.0507},
    "shrink": {"bias": 0.1, "lambd": 0.4},
    "swish": {"alpha": 1.702},
    "thresholded_relu": {"alpha": 0.3},
}
"""Static settings of the pointwise operations that have any."""

_WINDOW = {"strides": (2, 1), "padding": ((1, 0), (0, 1)), "dilation": (1, 1)}
_LAST = {"channels_last": True}
_TREE = (  # one split, of feature 1 at 0: 0.5 less below it, 0.5 more above
    np.array([1, 0, 0]),
    np.zeros(3, np.float32),
    np.array([4, 0, 0], np.int32),
    np.array([[1, 2], [1, 1], [2, 2]]),
    np.array([[0], [-0.5], [0.5]], np.float32),
    np.array([0]),
)
_INDEX = np.array([[2, 0], [-1, 2]])
_POINTS = np.array([[[0.3, 1.7], [2.0, 4.4], [-0.6, 0.2]], [[3.2, 3.9], [1.5, -2.0], [0.0, 4.0]]])

SPECIMENS: dict[str, Specimen] = {
    "mul": Specimen("mul", ((2, 3), (3,))),
    "matmul": Specimen("matmul", ((2, 3), (3, 4))),
    "einsum": Specimen("einsum", ((2, 2, 3), (3, 2)), {"equation": "bij,jk->bik"}),
    "conv": Specimen("conv", ((1, 2, 4, 4), (4, 1, 2, 2)), {**_WINDOW, "groups": 2}),
    "conv, channels last": Specimen("conv", ((1, 4, 4, 2), (2, 2, 2, 3)), {**_WINDOW, "groups": 1, **_LAST}),
    "conv, dilated, channels last": Specimen(
        "conv", ((1, 6, 5, 2), (2, 3, 2, 3)), {**_WINDOW, "strides": (1, 1), "dilation": (2, 1), "groups": 1, **_LAST}
    ),
    "conv of one entry, channels last": Specimen(
        "conv", ((1, 4, 5, 2), (1, 1, 2, 3)), {**_WINDOW, "padding": ((0, 0), (0, 0)), "groups": 1, **_LAST}
    ),
    "conv in groups, channels last": Specimen("conv", ((1, 4, 4, 2), (2, 2, 1, 4)), {**_WINDOW, "groups": 2, **_LAST}),
    "conv_transpose": Specimen("conv_transpose", ((1, 2, 3, 3), (2, 2, 2, 2)), {**_WINDOW, "groups": 2}),
    "matmul with bias": Specimen("matmul", ((2, 3), (3, 4), _affine(1, 4)[1])),
    "conv with bias": Specimen("conv", ((1, 2, 4, 4), (4, 1, 2, 2), _affine(1, 4, 1, 1)[1]), {**_WINDOW, "groups": 2}),
    "div": Specimen("div", ((2, 3), (3,))),
    "scatter_add": Specimen("scatter_add", ((5, 2), np.array([2, 0, 2, 2, 4])), {"count": 4}),
    "sample": Specimen("sample", ((2, 3, 4, 5), _POINTS), {"kernel": "linear", "padding": "zeros"}),
    "interpolate": Specimen(
        "interpolate",
        ((2, 3, 4), np.array([[1, 0, 0], [0.25, 0.75, 0]]), np.array([[0, 0.5, 0.5, 0], [0, 0, 0, 1.0], [1, 0, 0, 0]])),
        {"axes": (1, 2)},
    ),
    "interpolate with weights of both signs": Specimen(
        "interpolate",
        ((2, 3, 4), np.array([[1, -0.5, 0], [-0.25, 0.75, 0]]), np.array([[0, 0.5, -0.5, 0], [0, 0.1, 0, 1.0]])),
        {"axes": (1, 2), "signed": True},
    ),
    "sample, cubic": Specimen(
        "sample", ((1, 2, 5), _POINTS[:1, :, :1]), {"kernel": "cubic", "padding": "border", "signed": True}
    ),
    "avg_pool": Specimen("avg_pool", ((1, 2, 5, 5),), {**_WINDOW, "window": (3, 2), "counted": ((1, 0), (0, 0))}),
    "avg_pool, channels last": Specimen(
        "avg_pool", ((1, 5, 5, 2),), {**_WINDOW, "window": (3, 2), "counted": ((1, 0), (0, 0)), **_LAST}
    ),
    "reduce_sum": Specimen("reduce_sum", ((2, 3, 2),), {"axes": (1,), "keepdims": False}),
    "reduce_mean": Specimen("reduce_mean", ((2, 3, 2),), {"axes": (0, 2), "keepdims": True}),
    "cumsum": Specimen("cumsum", ((2, 4),), {"axis": 1, "exclusive": True, "reverse": True}),
    "add": Specimen("add", ((2, 3), (3,), (2, 1), (2, 3))),
    "sub": Specimen("sub", ((2, 3), (3,))),
    "reshape": Specimen("reshape", ((2, 6),), {"shape": (3, 4)}),
    "transpose": Specimen("transpose", ((2, 3, 4),), {"perm": (2, 0, 1)}),
    "turn": Specimen("turn", ((2, 3, 4),), {"perm": (2, 0, 1)}),
    "expand": Specimen("expand", ((3, 1),), {"shape": (2, 3, 4)}),
    "slice": Specimen("slice", ((4, 5),), {"start": (1, 0), "limit": (4, 5), "stride": (1, 2)}),
    "reverse": Specimen("reverse", ((3, 4),), {"axes": (1,)}),
    "concat": Specimen("concat", ((2, 3), (2, 1)), {"axis": 1}),
    "pad": Specimen("pad", ((2, 3), ()), {"low": (1, 0), "high": (0, -1)}),
    "gather": Specimen("gather", ((3, 4), _INDEX), {"axis": 0}),
    "gather_elements": Specimen("gather_elements", ((3, 2), _INDEX), {"axis": 0}),
    "gather_nd": Specimen("gather_nd", ((3, 4), _INDEX), {"batch_dims": 0}),
    "gather_by_key": Specimen("gather_by_key", ((3, 4), np.array([[7, 2], [5, -2]]), np.array([-2, 7])), {"axis": 0}),
    "where": Specimen("where", (np.array([[True], [False]]), (2, 3), (3,))),
    "max_pool": Specimen("max_pool", ((1, 2, 5, 5),), {**_WINDOW, "window": (3, 2)}),
    "max_pool, channels last": Specimen("max_pool", ((1, 5, 5, 2),), {**_WINDOW, "window": (3, 2), **_LAST}),
    "reduce_max": Specimen("reduce_max", ((2, 3, 2),), {"axes": (1,), "keepdims": False}),
    "reduce_min": Specimen("reduce_min", ((2, 3, 2),), {"axes": (0, 2), "keepdims": True}),
    "log_sum_exp": Specimen("log_sum_exp", ((2, 3, 2),), {"axes": (0, 2), "keepdims": False}),
    "maximum": Specimen("maximum", ((2, 3), (3,), (2, 1))),
    "minimum": Specimen("minimum", ((2, 3), (3,))),
    "scatter_max": Specimen("scatter_max", ((4, 2), (5, 2), np.array([2, 0, 2, 2, 4]))),
    "scatter_min": Specimen("scatter_min", ((4,), (3,), np.array([1, 1, 3]))),
    "softmax": Specimen("softmax", ((2, 3),), {"axis": 1}),
    "log_softmax": Specimen("log_softmax", ((2, 3),), {"axis": 0}),
    "layer_norm": Specimen("layer_norm", ((2, 4), *_affine(4)), {"axes": (1,), "epsilon": 1e-5}),
    "rms_norm": Specimen("rms_norm", ((2, 4), _affine(4)[0]), {"axes": (1,), "epsilon": 1e-5}),
    "group_norm": Specimen("group_norm", ((1, 4, 3), *_affine(4, 1)), {"groups": 2, "epsilon": 1e-5}),
    "lp_norm": Specimen("lp_norm", ((2, 4),), {"axis": 1, "p": 2}),
    "local_response_norm": Specimen(
        "local_response_norm", ((1, 4, 3),), {"size": 3, "alpha": 1e-2, "beta": 0.75, "bias": 1.0}
    ),
    "standardise": Specimen("standardise", ((2, 3), *_affine(3))),
    "tree_paths": Specimen("tree_paths", ((2, 3, 1), *_TREE), {"depth": 1, "per_tree": False}),
    "tree_sum": Specimen("tree_sum", ((2, 3, 4), (4,))),
    "prelu": Specimen("prelu", ((2, 3), _affine(3)[1])),
    "quantize": Specimen("quantize", ((2, 3), np.array([0.1, 0.2, 0.3]), np.array([3, 0, -5])), {"dtype": "int8"}),
    "dequantize": Specimen("dequantize", ((2, 3), np.array(0.1), np.array(7)), {"dtype": "float32"}),
    "pow": Specimen("pow", ((2, 3), _affine(3)[0])),
    "remainder": Specimen("remainder", ((2, 3), _affine(3)[0]), {"truncate": True}),
}
_SINGLE_INPUT = [name for name, op in OPS.items() if op.kind == POINTWISE and name not in SPECIMENS and name != "cast"]
SPECIMENS |= {name: Specimen(name, ((2, 3),), SETTINGS.get(name, {})) for name in _SINGLE_INPUT}
SPECIMENS["cast"] = Specimen("cast", ((2, 3),), {"dtype": "float16"})


def of_kind(*kinds: str) -> list[str]:
    """Names of the specimens of these kinds."""
    return [name for name, specimen in SPECIMENS.items() if OPS[specimen.op].kind in kinds]


def carrying_operations() -> Sequence[str]:
    """Every operation that has to have a specimen; control flow carries what its body does (tests/engine),
    and functions have derivatives alone (tests/rules/test_operands.py)."""
    return [name for name, op in OPS.items() if op.kind not in (NONE, CONTROL, FUNCTION)]
