"""A sum of sums is one sum, unless users may ask for the inner one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from backtrace_jax import explain
from backtrace_jax.ir import Source
from backtrace_jax.passes.sums import flatten_sums
from tests.passes.graphs import check_unchanged, operations, program
from tests.passes.spelled import written

ROW, COLUMN = np.array([1.0, -2.0, 3.0]), np.array([[0.5], [4.0]])


@pytest.mark.parametrize(
    "total",
    [
        lambda w, a, b, c: w.add(w.add(a, b), c),
        lambda w, a, b, c: w.add(a, w.add(c, b)),
        lambda w, a, b, c: w.add(w.add(w.add(a, ROW), b), w.add(c, COLUMN)),
        lambda w, a, b, c: w.add(c, w.add(w.add(b, ROW), a)),
    ],
)
def test_one_sum_of_all_terms(total):
    """Terms may have fewer axes than the sum; constants are one term."""
    before = program(written(total), (2, 3), (2, 3), (3,))
    after = flatten_sums(before)
    assert operations(after) == ["add"]
    assert sum(var.name in after.weights for var in after.graph.eqns[0].invars) <= 1
    check_unchanged(before, after)


@pytest.mark.parametrize(
    "total",
    [
        lambda w, a, b, c: w.add(w.tanh(s := w.add(a, b)), s),  # read twice
        lambda w, a, b, c: w.add(s := w.add(a, b), s),
        lambda w, a, b, c: {"s": (s := w.add(a, b)), "y": w.add(s, c)},  # an output
        lambda w, a, b, c: w.sub(w.add(a, b), c),
        lambda w, a, b, c: w.add(w.sub(a, b), c),
        lambda w, a, b, c: w.add(w.neg(w.add(a, b)), c),
    ],
)
def test_other_sums_stay(total):
    before = program(written(total), (2, 3), (2, 3), (3,))
    assert flatten_sums(before).graph.eqns == before.graph.eqns


def test_sums_of_integers_stay():
    before = program(written(lambda w, a, b: w.add(w.add(a, b), a)), (2,), (2,), dtype=np.dtype(np.int32))
    assert flatten_sums(before).graph.eqns == before.graph.eqns


@pytest.mark.parametrize(
    ("inner", "outer", "merged"),
    [
        (Source(module="a"), Source(module="a"), True),
        (Source(), Source(module="a"), True),
        (Source(module="a.b"), Source(module="a"), False),
        (Source(module="a"), Source(), False),
        (Source(module="a", calls=("a",)), Source(module="a", calls=("a:1",)), False),
    ],
)
def test_the_result_of_a_module_is_no_part_of_another_sum(inner, outer, merged):
    def build(builder, a, b, c):
        builder.source = inner
        total = builder.emit("add", a, b)
        builder.source = outer
        return builder.emit("add", total, c)

    before = program(build, (2,), (2,), (2,))
    assert (operations(flatten_sums(before)) == ["add"]) is merged


class Summing(nn.Module):
    """The sum of what its parts give."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x):
        first, second = (part(x) for part in self.parts)
        return first + second


def branch() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4, bias=False), nn.Tanh())


def test_sums_within_sums_can_be_asked_for_by_their_modules():
    """What a module's sum has received is what its terms have together, and lies where the sum's own value lies."""
    torch.manual_seed(0)
    parts = [branch() for _ in range(3)]
    both = Summing(*parts[:2])
    model = nn.Sequential(Summing(both, parts[2]), nn.Linear(4, 2)).eval()
    x = torch.randn(1, 4)
    names = {"whole": "0", "inner": "0.parts.0", "a": "0.parts.0.parts.0", "b": "0.parts.0.parts.1", "c": "0.parts.1"}
    asked = {
        key: np.asarray(explain(model, x, layers=name, dtype="float64").layers[name]) for key, name in names.items()
    }
    np.testing.assert_allclose(asked["inner"], asked["a"] + asked["b"], rtol=1e-9)
    np.testing.assert_allclose(asked["whole"], asked["inner"] + asked["c"], rtol=1e-9)
    a, b, c = (np.abs(part(x).detach().numpy()) for part in parts)
    inner = np.abs(both(x).detach().numpy())
    np.testing.assert_allclose(asked["inner"], asked["whole"] * inner / (inner + c), rtol=1e-5)
    np.testing.assert_allclose(asked["a"], asked["inner"] * a / (a + b), rtol=1e-5)
    explained = explain(model, x, output="0.parts.0", target=1)
    (value,) = (array for array in explained.outputs.values() if np.shape(array) == (1, 4))
    np.testing.assert_allclose(value, both(x).detach().numpy(), rtol=1e-5)
