"""What an explanation costs, as a ratio to the package's own forward pass on the same chunk of examples.

    python -m benchmarks.explanation_cost                       # ResNet-18 at 224², batch 8
    python -m benchmarks.explanation_cost resnet_small bert --batch 32

Both functions are compiled beforehand and called in turn, so that a drift of the machine's speed hits both alike; the
figures are medians. Writes one JSON line per model with the environment it was measured in.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from backtrace_jax.engine.compile import Constant, Request, compile_batched_forward, compile_explain
from backtrace_jax.engine.plan import plan_walk
from backtrace_jax.importers import read
from backtrace_jax.ir import Program
from backtrace_jax.numerics import exact_types
from backtrace_jax.passes import simplify
from backtrace_jax.rules import find_mode
from backtrace_jax.tasks import open_question, resolve_task
from tests.zoo import exported


def measure(name: str, batch: int, repeats: int, mode: str) -> dict[str, Any]:
    """Seconds of forward and explanation, and their ratio."""
    model = exported(name)
    program = simplify(read(model.model).lower({key: (1, *array.shape[1:]) for key, array in model.inputs.items()}))
    inputs = {key: np.resize(array, (batch, 1, *array.shape[1:])) for key, array in model.inputs.items()}
    forward, explanation = (_bound(program, call, inputs, batch, mode) for call in ("forward", "explain"))
    seconds = _interleaved(forward, explanation, repeats)
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    return {
        "model": name,
        "batch": batch,
        "mode": mode,
        "forward_seconds": round(statistics.median(seconds[0]), 4),
        "explanation_seconds": round(statistics.median(seconds[1]), 4),
        "ratio": round(ratio, 2),
    }


def _bound(program: Program, call: str, inputs: dict[str, np.ndarray], batch: int, mode: str) -> Callable[[], Any]:
    """A compiled function with its arguments on the device."""
    output = program.graph.outputs[0]
    device = jax.devices()[0]
    with exact_types():
        weights, inputs = jax.device_put((dict(program.weights), inputs), device)
        asked = jax.device_put(open_question(batch), device)
    if call == "forward":
        run = compile_batched_forward(program.graph, weights, inputs)
        return lambda: run(weights, inputs)
    found = find_mode(mode)
    task = resolve_task("auto", program.graph, output, paired=found.paired)
    request = Request(plan_walk(program.graph, found, output), found, task, {}, "highest")
    explain = compile_explain(request, weights, Constant({}, {}), (inputs, asked), device)
    prepared = explain.prepare(weights)
    return lambda: explain.call(prepared, Constant({}, {}), inputs, asked)


def _interleaved(first: Callable[[], Any], second: Callable[[], Any], repeats: int) -> tuple[list[float], list[float]]:
    seconds: tuple[list[float], list[float]] = ([], [])
    with exact_types():
        for repeat in range(repeats + 1):
            for call, found in zip((first, second), seconds, strict=True):
                before = time.perf_counter()
                jax.block_until_ready(call())
                if repeat:  # the first round warms up
                    found.append(time.perf_counter() - before)
    return seconds


def _environment() -> dict[str, Any]:
    return {
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["resnet18"], help="names of tests/zoo")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--mode", default="default")
    arguments = parser.parse_args()
    for name in arguments.models:
        found = measure(name, arguments.batch, arguments.repeats, arguments.mode)
        print(json.dumps({**found, "environment": _environment()}), flush=True)


if __name__ == "__main__":
    main()
