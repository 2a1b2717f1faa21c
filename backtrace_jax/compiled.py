"""A model compiled for one choice of settings at one input shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from .engine.chunks import default_chunk, run_chunks
from .engine.compile import Explain, Request, Result, compile_explain, cost
from .engine.layers import select_layers
from .engine.plan import plan_walk
from .errors import SettingError
from .importers import Imported
from .ir import Program, Var
from .numerics import Device, exact_types, float_type
from .passes import simplify, with_float_type
from .rules import find_mode
from .settings import Settings
from .tasks import resolve_task

Shapes = Sequence[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Compiled:
    """A compiled explanation at one input shape.

    Attributes:
        program: The simplified graph and its weights on the host.
        request: What was compiled.
        weights: The weights on the device.
        chunk: Examples per call.
        device: Where it runs.
        call: The compiled function.
    """

    program: Program
    request: Request
    weights: Mapping[str, Any]
    chunk: int
    device: Device
    call: Explain

    @property
    def output(self) -> Var:
        """The output explained."""
        return self.request.plan.output

    @property
    def output_name(self) -> str:
        """The model's own name of the output explained."""
        graph = self.program.graph
        return graph.output_names[graph.outputs.index(self.output)]

    def run(self, examples: Any, progress: Any = None) -> Result:
        """Explain (inputs, targets, start or None), arrays with the batch first, chunk by chunk."""

        def call(part: Any) -> Result:
            with exact_types(self.request.precision):
                return self.call(self.weights, *jax.device_put(part, self.device))

        return run_chunks(call, examples, len(examples[1]), self.chunk, progress)


def compile_model(model: Imported, settings: Settings, device: Device, shapes: Shapes, *, custom: bool) -> Compiled:
    """Lower, plan and compile.

    Args:
        model: The model.
        settings: The user's settings.
        device: Where to run.
        shapes: (input name, shape of one example without batch axis) of every input.
        custom: Whether the user passes the start relevance.

    Raises:
        UnsupportedError: Naming the node without an implementation or a rule.
        SettingError: When a setting does not fit the model.
    """
    lowered = model.lower({name: (1, *shape) for name, shape in shapes})
    program = simplify(with_float_type(lowered, float_type(settings.dtype)))
    output = _pick_output(program, settings.output)
    plan = plan_walk(program.graph, find_mode(settings.mode), output, settings.wrt)
    task = resolve_task(settings.task, program.graph, output, settings.scaler, custom=custom)
    request = Request(plan, task, select_layers(program.graph, settings.layers), settings.precision)
    chunk = settings.chunk or default_chunk(cost(program), device.platform)
    with exact_types():
        weights = jax.device_put(dict(program.weights), device)
    call = compile_explain(request, weights, _chunk_types(program, output, chunk, custom), device)
    return Compiled(program, request, weights, chunk, device, call)


def _pick_output(program: Program, wanted: str | int | None) -> Var:
    graph = program.graph
    choices = dict(zip(graph.output_names, graph.outputs, strict=True))
    name = graph.output_names[0] if wanted is None else wanted
    if isinstance(name, int) and 0 <= name < len(choices):
        name = graph.output_names[name]
    if name not in choices:
        raise SettingError(f"output {wanted!r} does not exist; the model has: {', '.join(graph.output_names)}")
    if not choices[name].is_float:
        raise SettingError(
            f"output {name!r} holds {choices[name].dtype.name}, which bears no relevance; pick a float output"
        )
    return choices[name]


def _chunk_types(program: Program, output: Var, chunk: int, custom: bool) -> Any:
    inputs = {var.name: jax.ShapeDtypeStruct((chunk, *var.shape), var.dtype) for var in program.graph.inputs}
    given = jax.ShapeDtypeStruct((chunk, *output.shape), output.dtype) if custom else None
    return inputs, jax.ShapeDtypeStruct((chunk,), np.int64), given
