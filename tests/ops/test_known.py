"""What NumPy makes of known arrays is what the compiled operations make of them, bit for bit, or left to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

from backtrace_jax.ops import OPS, compile_on_host, evaluate, evaluate_by_xla, known, run_on_host
from backtrace_jax.ops.known import evaluate_by_numpy

BOOL, LONG, SINGLE, DOUBLE = (np.dtype(kind) for kind in (bool, np.int64, np.float32, np.float64))
INTEGERS = [LONG, *(np.dtype(kind) for kind in (np.int8, np.int32, np.uint8, np.uint64))]
FLOATS = [SINGLE, DOUBLE]
OTHERS = [np.dtype(kind) for kind in (ml_dtypes.bfloat16, ml_dtypes.int4, np.complex64)]
SMALL, ANY = "small", "any"  # entries of which every operation has a result, and those of all sizes


@dataclass(frozen=True)
class Use:
    """Operands, arrays or the shapes of entries to draw, and settings."""

    operands: tuple[tuple[int, ...] | np.ndarray, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    told: bool = True

    def arrays(self, dtype: np.dtype, size: str) -> list[np.ndarray]:
        return [x if isinstance(x, np.ndarray) else drawn(x, dtype, i, size) for i, x in enumerate(self.operands)]


def drawn(shape: tuple[int, ...], dtype: np.dtype, seed: int, size: str) -> np.ndarray:
    generator = np.random.default_rng([seed, *shape])
    if dtype == BOOL:
        return np.asarray(generator.random(shape) < 0.5)
    if dtype in FLOATS:
        wide = generator.normal(size=shape) * 10.0 ** generator.integers(-30, 30, shape)
        return np.asarray(generator.uniform(0.5, 100, shape) if size == SMALL else wide, dtype)
    if size == SMALL or dtype not in INTEGERS:
        return np.asarray(generator.integers(1, 7, shape)).astype(dtype)
    info = np.iinfo(dtype)
    ends = generator.choice(np.array([info.min, info.max, 0, 1], dtype), shape)
    return np.asarray(
        np.where(generator.random(shape) < 0.3, ends, generator.integers(info.min, info.max, shape, dtype))
    )


A, B, C, ONE = (2, 3, 4), (4,), (3, 1), ()
PAIRS = [Use((A, B)), Use((C, A)), Use((ONE, B)), Use((ONE, ONE))]
OVER = [
    Use((A,), {"axes": (0, 2), "keepdims": False}),
    Use((A,), {"axes": (1,), "keepdims": True}),
    Use((B,), {"axes": (0,), "keepdims": False}),
]
CASTS = [Use((A,), {"dtype": dtype.name}) for dtype in (BOOL, *INTEGERS, *FLOATS)]
ALONE = (Use((A,)), Use((ONE,)))
POSITIONS = tuple(Use((A,), {"axis": 2, "keepdims": each, "last": each}) for each in (False, True))
SCALES = np.array([[0.1], [3e-3], [7.7]], np.float32)
INDEX = np.array([[2, 0], [-1, -3]])
COMPARED = ("equal", "less", "less_equal", "greater", "greater_equal")

MOVED = {
    "reshape": [Use((A,), {"shape": (4, 6)}), Use((ONE,), {"shape": (1, 1)})],
    "transpose": [Use((A,), {"perm": (2, 0, 1)}), Use((A,), {"perm": (0, 1, 2)})],
    "turn": [Use((A,), {"perm": (0, 2, 1)})],
    "expand": [Use((C,), {"shape": A}), Use((A,), {"shape": A})],
    "slice": [
        Use((A,), {"start": (0, 1, 3), "limit": (2, 3, 4), "stride": (1, 2, 1)}),
        Use((B,), {"start": (2,), "limit": (2,), "stride": (3,)}),
    ],
    "reverse": [Use((A,), {"axes": (0, 2)}), Use((A,), {"axes": ()})],
    "concat": [Use((A, (2, 1, 4), (2, 0, 4)), {"axis": 1}), Use(((1,),) * 40, {"axis": 0})],
    "pad": [
        Use((A, ONE), {"low": (1, 0, -1), "high": (0, -2, 3)}),
        Use((B, ONE), {"low": (-4,), "high": (2,)}),
        Use((B, ONE), {"low": (-6,), "high": (4,)}, told=False),
    ],
    "gather": [
        Use((A, INDEX), {"axis": 1}),
        Use((A, np.array(1, np.int32)), {"axis": 0}),
        Use((A, np.array([3])), {"axis": 1}, told=False),
    ],
    "gather_elements": [
        Use((A, np.array([0, -1, 2] * 8).reshape(2, 3, 4)), {"axis": 1}),
        Use((A, INDEX[:, :, None]), {"axis": 1}, told=False),
    ],
    "gather_nd": [
        Use((A, np.array([[1, -1], [0, 2], [-2, 0]])), {"batch_dims": 0}),
        Use((A, np.array([[1], [-1]])), {"batch_dims": 1}, told=False),
    ],
    "where": [Use((np.array([[True], [False], [True]]), A, B)), Use((np.array(True), ONE, B))],
}
COUNTED = {
    **dict.fromkeys((*COMPARED, "shift_left", "shift_right", "sub", "mul", "div"), PAIRS),
    **dict.fromkeys(("logical_and", "logical_or", "logical_xor"), PAIRS),
    **dict.fromkeys(("bitwise_and", "bitwise_or", "bitwise_xor"), PAIRS),
    **dict.fromkeys(("logical_not", "bitwise_not", "neg", "abs", "sign"), ALONE),
    **dict.fromkeys(("add", "maximum", "minimum"), (Use((A, B, C)),)),
    **dict.fromkeys(
        ("mod", "remainder"), tuple(Use((shape, shape), {"truncate": t}) for shape in (A, ONE) for t in (True, False))
    ),
    "clip": [Use((ONE,), {"low": 1, "high": 5}), Use((A,), {"low": 1, "high": 5}), Use((A,), {"low": 2, "high": None})],
    **dict.fromkeys(("reduce_sum", "reduce_max", "reduce_min"), OVER),
    "cumsum": [Use((A,), {"axis": 1, "exclusive": each, "reverse": each}) for each in (False, True)],
    **dict.fromkeys(("argmax", "argmin"), POSITIONS),
    "order": [Use((A,), {"axis": 2, "descending": each}) for each in (False, True)],
    "cast": CASTS,
}
ROUNDED = {
    **dict.fromkeys((*COMPARED, "add", "sub", "mul"), PAIRS),
    "div": [Use((A, A)), Use((ONE, ONE)), Use((A, B), told=False)],
    **dict.fromkeys(("sqrt", "floor", "ceil", "round"), ALONE),
    "dequantize": [
        Use(
            (np.arange(-120, 120, 10).astype(np.int8).reshape(A), SCALES, np.array([[4]], np.int8)),
            {"dtype": "float32"},
        ),
    ],
    "cast": CASTS,
}
LOGICAL = {*COMPARED, *(name for name in COUNTED if name.startswith(("logical", "bitwise"))), "maximum", "minimum"}
LOGICAL |= {"reduce_max", "reduce_min", "argmax", "argmin", "order", "cast"}

TABLES = {
    "_MOVED": (MOVED, [BOOL, LONG, SINGLE, *OTHERS]),
    "_COUNTED": (COUNTED, [BOOL, *INTEGERS]),
    "_ROUNDED": (ROUNDED, FLOATS),
}


def uses(table: str, op: str) -> list[tuple[Use, np.dtype]]:
    cases, types = TABLES[table]
    pairs = [
        (use, dtype) for use in cases[op] for dtype in types if dtype != BOOL or table == "_MOVED" or op in LOGICAL
    ]
    return [(use, dtype) for use, dtype in pairs if (dtype, use.params.get("dtype")) != (BOOL, "bool")]


def by_xla(op: str, settings: Sequence[Mapping[str, Any]], trials: Sequence[Sequence[np.ndarray]]) -> Any:
    """Uses of an operation, each with operands of its own, as one compiled function of lists like these."""
    ends = np.cumsum([0, *map(len, trials)])

    def together(*operands: Any) -> list[Any]:
        parts = (operands[i:k] for i, k in pairwise(ends))
        return [OPS[op](*part, **params) for part, params in zip(parts, settings, strict=True)]

    compiled = compile_on_host(together, *(jax.ShapeDtypeStruct(x.shape, x.dtype) for each in trials for x in each))
    return lambda trials: run_on_host(compiled, *(x for each in trials for x in each))


@pytest.mark.parametrize(("table", "op"), [(table, op) for table, (cases, _) in TABLES.items() for op in cases])
def test_bits_are_those_of_the_compiled_operation(table, op):
    tried = uses(table, op)
    trials = {size: [use.arrays(dtype, size) for use, dtype in tried] for size in (SMALL, ANY)}
    run = by_xla(op, [use.params for use, _ in tried], trials[SMALL])
    for size, arrays in trials.items():
        for (use, _), operands, expected in zip(tried, arrays, run(arrays), strict=True):
            found = evaluate_by_numpy(op, operands, use.params)
            assert use.told or found is None
            assert found is not None or size == ANY or not use.told
            if found is not None:
                assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
                assert found.tobytes() == expected.tobytes()
                assert found.flags.c_contiguous
                assert not found.flags.writeable


def test_what_is_not_rounded_alike_is_left_to_xla():
    """Numbers below the normal range, NaN, and results that are one; the result is XLA's then."""
    tiny, small, one = (np.array([x], np.float32) for x in (1e-40, 2e-20, 1))
    for op, operands in [("add", [tiny, one]), ("mul", [small, small]), ("less", [one, tiny]), ("sqrt", [-one])]:
        assert evaluate_by_numpy(op, operands, {}) is None
        np.testing.assert_array_equal(evaluate(op, operands, {}), evaluate_by_xla(op, operands, {}))
    assert evaluate_by_numpy("cast", [tiny], {"dtype": "bool"}) is None


def test_what_has_no_result_of_its_type_is_left_to_xla():
    for value in (3e9, -1e10, np.nan, np.inf, 2.0**31):
        assert evaluate_by_numpy("cast", [np.array([value])], {"dtype": "int32"}) is None
    least, minus_one, zero = (np.array([x]) for x in (-(2**63), -1, 0))
    for op, params in (("div", {}), ("mod", {"truncate": False})):
        assert evaluate_by_numpy(op, [least, minus_one], params) is None
        assert evaluate_by_numpy(op, [minus_one, zero], params) is None
    for amount in (-1, 64):
        assert evaluate_by_numpy("shift_left", [minus_one, np.array([amount])], {}) is None


def test_a_part_does_not_hold_the_whole():
    whole = np.zeros((1000, 8), np.float32)
    part = evaluate("slice", [whole], {"start": (0, 0), "limit": (1, 8), "stride": (1, 1)})
    assert part.base.nbytes == part.nbytes


def test_every_operation_of_the_tables_is_tried():
    assert all(cases.keys() == getattr(known, table).keys() for table, (cases, _) in TABLES.items())
