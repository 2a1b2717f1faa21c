"""An Explainer is freed with the last reference to it, and what a process holds does not grow with its work."""

from __future__ import annotations

import gc
import weakref

import jax
import numpy as np
from jax._src import core, pjit
from onnx import TensorProto

from backtrace_jax import Explainer
from backtrace_jax.engine.compiled import compile_model
from backtrace_jax.explainer import stages
from backtrace_jax.runtime.numerics import forget_traces
from tests.tiny import network, node, random


def dense():
    """x [batch, 4] to y [batch, 3]."""
    return network([node("Gemm", ["x", "w"], ["y"])], {"x": (TensorProto.FLOAT, ["batch", 4])}, w=random(4, 3))


def test_the_last_reference_frees_the_weights(monkeypatch):
    weights = []

    def recorded(*arguments):
        made = compile_model(*arguments)
        weights.extend(map(weakref.ref, (*made.weights[0].values(), *made.program.weights.values())))
        return made

    monkeypatch.setattr(stages, "compile_model", recorded)
    call = Explainer(dense(), task="multi-class classification")
    gc.collect()
    gc.disable()
    try:
        found = call(random(1, 4, seed=1), target=1)
        assert len(weights) == 2, "on the device and on the host"
        assert all(array() is not None for array in weights)
        gone = weakref.ref(call)
        del call
        assert gone() is None
        assert all(array() is None for array in weights)
    finally:
        gc.enable()
    assert np.isfinite(found.relevance["x"]).all(), "what was explained does not need the explainer"


def test_traces_of_jax_are_evicted_and_functions_of_the_caller_are_not():
    """A function that is traced anew says so by calling its body again."""
    traced = []

    def own(x):
        traced.append(x.shape)
        return jax.nn.sigmoid(x)

    jitted, x = jax.jit(own), np.ones(3, np.float32)
    jitted(x)
    jax.nn.sigmoid(x)
    assert jax.nn.sigmoid._cache_size() > 0  # type: ignore[attr-defined]
    forget_traces()
    assert jax.nn.sigmoid._cache_size() == 0  # type: ignore[attr-defined]
    jitted(x)
    assert traced == [(3,)]


def test_what_jax_works_out_of_types_is_evicted():
    """JAX keeps thousands of these for each of many functions, some 3,000 objects for each shape of a model."""
    jax.jit(lambda x: x * 2).lower(np.ones((3, 7), np.float32))
    remembering = (pjit._process_in_axis_resources, pjit.create_meta_ty, core.get_sharding)
    assert all(each.cache_info().currsize > 0 for each in remembering)
    forget_traces()
    assert all(each.cache_info().currsize == 0 for each in remembering)
