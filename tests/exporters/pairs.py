"""Every network through every exporter, and how far the relevance of each is from the reference's.

The reference is this library's own import of the torch module. Programs that come down to the same operations on the
same weights need no computation; of others the relevance is computed in float64.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx

from backtrace_jax.engine.forward import forward
from backtrace_jax.engine.plan import plan_walk
from backtrace_jax.engine.walk import walk
from backtrace_jax.importers import read
from backtrace_jax.ir import Program, Var
from backtrace_jax.passes import simplify, with_float_type
from backtrace_jax.rules import find_mode
from backtrace_jax.runtime.numerics import exact_types
from tests.rules.running import CHEAP
from tests.spellings.comparing import MODES, alike, difference

from .weights import OVER_TOKENS, SHAPES, example, recorded

REFERENCE = "PyTorch"


def _torch(name: str) -> Any:
    from .modules import build

    module, x = build(name).double(), example(name)
    return read(module, x if name in OVER_TOKENS else x.astype(np.float64))


def _keras(name: str) -> Any:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    from .keras_models import build

    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):  # as Keras draws first weights
        model = build(name)
    return read(model)


@cache
def file(name: str, exporter: str) -> onnx.ModelProto:
    """What one of torch's exporters writes."""
    from . import torch_files

    return getattr(torch_files, exporter)(name)


def _optimised(level: str) -> Callable[[str], Any]:
    def make(name: str) -> Any:
        from .torch_files import optimised

        with tempfile.TemporaryDirectory() as folder:
            return optimised(file(name, "plain"), level, Path(folder))

    return make


def _fused(name: str) -> Any:
    from .torch_files import fused

    with tempfile.TemporaryDirectory() as folder:
        return fused(file(name, "plain"), FUSED[name], Path(folder))


FUSED = {"bert": "bert", "gpt": "gpt2", "vit": "vit"}
"""The networks that onnxruntime's optimiser for transformers is for, and what it calls their kind."""

TRANSFORMERS = "onnxruntime, transformers"

__all__ = ["IMPORTS", "LEFT_OUT", "MODES", "REFERENCE", "SHAPES", "apart", "file", "kin", "program", "ways"]

IMPORTS: dict[str, Callable[[str], Any]] = {
    REFERENCE: _torch,
    "Keras": _keras,
    "torch, dynamo": lambda name: file(name, "dynamo"),
    "torch, traced": lambda name: file(name, "traced"),
    "tf2onnx": lambda name: onnx.load(recorded(name, "tf2onnx")),
    "jax2onnx": lambda name: onnx.load(recorded(name, "jax2onnx")),
    "onnxsim": lambda name: onnx.load(recorded(name, "onnxsim")),
    **{f"onnxruntime, {level}": _optimised(level) for level in ("basic", "extended", "all")},
    TRANSFORMERS: _fused,
}
"""Every way from a network's weights to what this library explains."""

LEFT_OUT = (
    "onnxruntime's layouts for one kind of processor (the domain com.microsoft.nchwc) are switched off: such a file "
    "runs nowhere else"
)


def ways(name: str) -> list[str]:
    """The ways that there are for a network, the reference first."""
    return [way for way in IMPORTS if way != TRANSFORMERS or name in FUSED]


EQUAL = 1e-6
"""Of the largest magnitude, in float64. Folding batch norm in float32, as most exporters do, leaves up to 2e-7."""


@cache
def program(name: str, way: str) -> Program:
    """What is explained of a network that came this way, in float64, its input called x."""
    imported = read(IMPORTS[way](name))
    found = simplify(with_float_type(imported.lower({imported.inputs[0].name: SHAPES[name]}), np.dtype(np.float64)))
    return _named(found)


@cache
def kin(name: str, way: str) -> str:
    """The first way by which a network comes down to the same operations on the same weights."""
    found = program(name, way)
    earlier = ways(name)[: ways(name).index(way)]
    return next((each for each in earlier if kin(name, each) == each and alike(found, program(name, each))), way)


def apart(name: str, way: str, mode: str) -> float:
    """Largest difference of relevance from the reference, as a part of the largest magnitude."""
    return difference(_relevance(name, kin(name, way), mode), _relevance(name, REFERENCE, mode))


@cache
def _relevance(name: str, way: str, mode: str) -> dict[str, np.ndarray]:
    found = program(name, way)
    return relevance(found, {"x": example(name).astype(found.graph.inputs[0].dtype)}, mode)


def relevance(program: Program, inputs: Mapping[str, np.ndarray], mode: str) -> dict[str, np.ndarray]:
    """Relevance of the inputs in float64 for the first unit of the output; in contrastive mode the others are against.

    It is compiled in a hurry, which is faster than operation by operation.
    """
    output = program.graph.outputs[0]
    plan = plan_walk(program.graph, find_mode(mode), output)
    start = np.zeros(math.prod(output.shape))
    start[0] = 1
    against = (1 - start) / (start.size - 1)
    starts = np.stack([start, against]).reshape(2, *output.shape) if plan.paired else start.reshape(output.shape)

    def walked(weights: Any, inputs: Any) -> dict[str, Any]:
        values = forward(program.graph, weights, inputs)
        found = walk(plan, values, {output.name: jnp.asarray(starts)})
        return {var.name: found.relevance[var.name] for var in plan.inputs}

    with exact_types():
        arrays = [{key: jnp.asarray(array) for key, array in each.items()} for each in (program.weights, inputs)]
        found = jax.jit(walked).lower(*arrays).compile(CHEAP)(*arrays)
    return {name: np.asarray(array) for name, array in found.items()}


def _named(program: Program) -> Program:
    """The same program with its input called x, and no other value called so."""
    (x,) = program.graph.inputs
    return program if x.name == "x" else renamed(program, {x.name: "x", "x": "x of the file"})


def renamed(program: Program, names: Mapping[str, str]) -> Program:
    """The same program with other names for some of its values; bodies of loops have names of their own."""

    def other(var: Var) -> Var:
        return replace(var, name=names.get(var.name, var.name))

    def others(found: Iterable[Var]) -> tuple[Var, ...]:
        return tuple(map(other, found))

    graph = program.graph
    eqns = tuple(replace(eqn, invars=others(eqn.invars), outvars=others(eqn.outvars)) for eqn in graph.eqns)
    graph = replace(
        graph, inputs=others(graph.inputs), params=others(graph.params), eqns=eqns, outputs=others(graph.outputs)
    )
    return Program(graph, {names.get(key, key): array for key, array in program.weights.items()})
