"""The check finds each kind of defect and names the equation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from backtrace_jax.errors import ModelError
from backtrace_jax.ir import Eqn, Var
from backtrace_jax.passes.build import Builder
from backtrace_jax.passes.check import check

F32 = np.dtype(np.float32)


def graph():
    build = Builder()
    x = build.input("x", (2, 3), F32)
    hidden = build.emit("matmul", x, np.ones((3, 4), np.float32))
    return build.finish({"y": build.emit("relu", hidden)}).graph


def defect(broken):
    with pytest.raises(ModelError) as caught:
        check(broken)
    return str(caught.value)


def test_a_sound_graph_is_returned():
    sound = graph()
    assert check(sound) is sound


def test_values_defined_twice():
    sound = graph()
    assert "value 'x' is defined twice, the second time in: the graph's arguments" in defect(
        replace(sound, inputs=sound.inputs * 2)
    )
    message = defect(replace(sound, eqns=(*sound.eqns, sound.eqns[-1])))
    assert "value 'relu' is defined twice, the second time in: relu:f32[2,4] = relu[] matmul" in message


def test_operands_used_before_they_are_defined():
    sound = graph()
    assert "operand 'matmul' is not defined" in defect(replace(sound, eqns=sound.eqns[::-1]))


def test_operands_of_another_type():
    sound = graph()
    first, second = sound.eqns
    wrong = Eqn("relu", (Var("matmul", (2, 4), np.dtype(np.float64)),), second.outvars)
    assert "operand 'matmul' is not defined, or with another type, before: relu" in defect(
        replace(sound, eqns=(first, wrong))
    )


@pytest.mark.parametrize("shape", [(2, 5), (4,)])
def test_results_of_another_shape(shape):
    sound = graph()
    first, second = sound.eqns
    wrong = Eqn("relu", second.invars, (Var("relu", shape, F32),))
    message = defect(replace(sound, eqns=(first, wrong)))
    assert "results should be" in message
    assert f"found {[(shape, F32)]}" in message


def test_results_of_another_number():
    sound = graph()
    first, second = sound.eqns
    wrong = Eqn("relu", second.invars, (*second.outvars, Var("more", (2, 4), F32)))
    assert "results should be" in defect(replace(sound, eqns=(first, wrong)))


def test_outputs_that_nothing_computes():
    sound = graph()
    assert "graph output 'gone' is not computed by the graph" in defect(
        replace(sound, outputs=(Var("gone", (2, 4), F32),))
    )
