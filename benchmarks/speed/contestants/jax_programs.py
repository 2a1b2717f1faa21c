"""What our contestants share: the lowered program of a workload, on the device."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax

from backtrace_jax.engine.compiled import arranged
from backtrace_jax.importers import read
from backtrace_jax.ir import Program
from backtrace_jax.passes import simplify
from backtrace_jax.runtime.numerics import exact_types

from ..stored import Stored
from . import Prepared

_XLA = "/jax/core/compile/backend_compile_duration"


def lowered(stored: Stored, batch: int) -> tuple[Program, dict[str, Any], dict[str, Any]]:
    """The program as the device is to run it, its weights, and a batch of inputs, each with an axis of size 1."""
    inputs = stored.inputs(batch)
    program = simplify(read(stored.onnx).lower({name: (1, *array.shape[1:]) for name, array in inputs.items()}))
    program = arranged(program, jax.default_backend())
    with exact_types():
        weights = jax.device_put(dict(program.weights))
        return program, weights, jax.device_put({name: array[:, None] for name, array in inputs.items()})


def finished(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """A call that waits for its result."""

    def call() -> Any:
        with exact_types():
            return jax.block_until_ready(function(*arguments))

    return call


def compiled(compile: Callable[[], Callable[..., Any]], *arguments: Any) -> Prepared:
    """Compile a function under the clock, for these arguments."""
    xla, before = xla_seconds(), time.perf_counter()
    function = compile()
    seconds = time.perf_counter() - before
    return Prepared(finished(function, *arguments), seconds, {"xla_seconds": round(xla(), 3)})


def xla_seconds() -> Callable[[], float]:
    """Start counting the seconds that XLA compiles; the function returned tells them."""
    spent: list[float] = []

    def listen(event: str, seconds: float, **_: Any) -> None:
        if event == _XLA:
            spent.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return lambda: sum(spent)
