"""A model compiled for one choice of settings and one form of the call."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np

from backtrace_jax.analysis.axes import Axes, channel_axes
from backtrace_jax.batch import Leaving
from backtrace_jax.batch.layout import left
from backtrace_jax.errors import ModelError, SettingError, UnsupportedError
from backtrace_jax.ir import Graph, Program, Var
from backtrace_jax.ir.imported import Imported
from backtrace_jax.passes import channels_last, simplify, with_float_type
from backtrace_jax.question.settings import Settings
from backtrace_jax.question.words import UNSET, Question
from backtrace_jax.rules import AlongPath, Mode, find_mode
from backtrace_jax.runtime.numerics import Device, below_normal, exact_types, float_type, within_memory

from .chunks import run_chunks, taking_turns
from .compile import Constant, Explain, Prepared, Request, Result, compile_explain
from .cost import cost, work
from .fingerprint import surroundings
from .form import Form, Shapes, chunk_types, constant_types
from .layers import select_layers, select_value
from .many import Asking, ExplainMany, compile_many, questions_at_once, run_questions
from .outline import own_name, pick_output
from .plan import plan_walk
from .settling import Settling, settled
from .sizes import Sizes, Work, default_chunk, lanes_of, sizes_of
from .steps import Plan
from .weights import DeviceWeights

MOST_WORK = 2.0**47
"""Floating-point operations that one run of a model may take, loops as often as they run; adjustable.

That is an hour of two cores; a language model of 7 billion weights takes a fifth of it for 2,000 tokens.
"""


@dataclass(frozen=True)
class Planned:
    """An explanation that is planned: everything that mistakes can be told from before it is compiled.

    Attributes:
        program: The simplified graph and its weights on the host.
        request: What is compiled.
        masked: The value that each condition is about, by the name the user gave.
        channels: Axis of the channels of values, where there are conditions.
        rows: Examples per run of the graph.
        effort: What one run costs.
    """

    program: Program
    request: Request
    masked: Mapping[str, Var]
    channels: Axes
    rows: int
    effort: Any

    @property
    def output(self) -> Var:
        """The value explained."""
        return self.request.plan.output

    @cached_property
    def work(self) -> Work:
        """What one run takes."""
        types = self.program.graph.inputs, self.program.graph.params
        size, weights = (sum(math.prod(v.shape) * v.dtype.itemsize for v in some) for some in types)
        return Work(self.effort, size, weights, self.request.mode.walks, work(self.program, self.effort) > self.effort)

    @property
    def output_name(self) -> str:
        """The model's own name of the value explained."""
        return own_name(self.program.graph, self.output)


@dataclass(frozen=True)
class Compiled(Planned):
    """A compiled explanation.

    Attributes:
        weights: The weights on the device, and what was derived from them.
        chunk: Runs of the graph that may be in memory at a time.
        sizes: How they are cut up into calls.
        device: Where it runs.
        explain: The compiled function.
        surroundings: What its bytes depend on besides the model and the settings, as it was when it was compiled.
        at_once: Questions per walk, where several are asked about each example.
        beside: The same on other devices, which share the examples of a call.
    """

    weights: Prepared
    chunk: int
    sizes: Sizes
    device: Device
    explain: Explain | ExplainMany
    surroundings: Mapping[str, Any]
    at_once: int | None = None
    beside: tuple[Compiled, ...] = ()

    @cached_property
    def flushed(self) -> frozenset[str]:
        """Names of the weights of which XLA sees nothing but zeros on CPUs: all entries are below the normal range."""
        floats = {var.name: var.dtype for var in self.program.graph.params if var.is_float}
        return frozenset(n for n, dtype in floats.items() if below_normal(self.program.weights[n][None], dtype)[0])

    @cached_property
    def _settling(self) -> Settling:
        return Settling.of(self.request)

    @cached_property
    def _unset(self) -> Question:
        """What nobody asks about the examples of a call, on the device."""
        chunk = (self.sizes.chunk,) if self.rows == 1 else (self.sizes.chunk, self.rows)
        shape = chunk if self.sizes.chunks == 1 else (self.sizes.chunks, *chunk)
        with exact_types():
            unset = jax.device_put(np.full(shape, UNSET), self.device)
        return Question(unset, unset, unset, None)

    def run(self, inputs: Any, asked: Question, constant: Constant, progress: Any = None) -> Result:
        """Explain examples, arrays with the runs of the graph first, chunk by chunk."""
        call, sizes = self._call(constant), self.sizes
        if self.beside:
            places = [call, *(each._call(constant) for each in self.beside)]
            call, sizes = taking_turns(places, sizes.lanes), replace(sizes, lanes=sizes.lanes * len(places))
        given = {name: array for name, array in asked._asdict().items() if array is not None and _says(array)}
        return run_chunks(call, (inputs, given), len(asked.target), sizes, progress, partial(settled, self._settling))

    def _call(self, constant: Constant) -> Callable[[Any, int], Result]:
        """Explains a part of a batch."""
        assert isinstance(self.explain, Explain)
        function, chunks = self._placed(self.explain.call, self._put(constant)), self.sizes.chunks

        def call(part: Any, used: int) -> Result:
            question = self._unset._replace(**part[1])
            return function(part[0], question) if chunks == 1 else function(part[0], question, np.int32(used))

        return call

    def run_many(self, inputs: Any, asking: Asking, constant: Constant, progress: Any = None) -> list[Result]:
        """Answer questions about examples, arrays with the runs of the graph first and then the questions."""
        assert isinstance(self.explain, ExplainMany)
        assert self.at_once
        constant = self._put(constant)
        begin, walk = (self._placed(each, constant) for each in (self.explain.begin, self.explain.walk))
        found = run_questions(begin, walk, inputs, asking, (self.sizes.chunk, self.at_once), progress)
        return [settled(self._settling, each) for each in found]

    def outputs(self, inputs: Any, asked: Question, constant: Constant) -> dict[str, np.ndarray]:
        """Outputs on all examples."""
        if isinstance(self.explain, Explain):
            return self.run(inputs, asked, constant).outputs
        begin, sizes = self._placed(self.explain.begin, self._put(constant._replace(masks={}))), Sizes(self.sizes.chunk)
        return run_chunks(lambda part, _: begin(part)[0], inputs, len(asked.target), sizes, None)["outputs"]

    def _put(self, constant: Constant) -> Constant:
        if not any(constant):
            return constant
        with exact_types(), within_memory(self.chunk):
            return jax.device_put(constant, self.device)

    def _placed(self, function: Callable[..., Any], constant: Constant) -> Callable[..., Any]:
        """A compiled function of arrays that may be on the host."""

        def call(*arrays: Any) -> Any:
            with exact_types(self.request.precision):
                return function(self.weights, constant, *arrays)

        return call

    def grouped(self, array: np.ndarray) -> np.ndarray:
        """Examples, batch first, as runs of the graph; the last run is filled up with the last example."""
        if self.rows == 1:
            return array[:, None]
        count = -(-len(array) // self.rows) * self.rows
        return array[np.minimum(np.arange(count), len(array) - 1)].reshape(-1, self.rows, *array.shape[1:])


def _says(asked: np.ndarray) -> bool:
    """Whether a part of a question asks for anything."""
    return asked.dtype.kind == "f" or bool((asked != UNSET).any())


def lower_model(
    model: Imported, settings: Settings, shapes: Shapes, rows: int, leaving: tuple[Leaving, ...] | None
) -> Program:
    """The model's graph at these shapes, simplified, outputs batch first; inside, values have the model's own axes."""
    lowered = left(model.lower({name: (rows, *shape) for name, shape in shapes}), leaving, rows)
    return simplify(with_float_type(lowered, float_type(settings.dtype)))


def plan(named: Program, settings: Settings, device: Device, form: Form) -> Planned:
    """Plan the explanation of a lowered model.

    Raises:
        UnsupportedError: Naming the node without an implementation or a rule.
        SettingError: When a setting does not fit the model.
    """
    output = pick_output(named.graph, settings.output, form.leaving)
    program = arranged(named, device.platform, [output.name])
    walked = plan_walk(program.graph, find_mode(settings.mode), output, settings.wrt, memory=settings.memory)
    request = _request(named.graph, walked, settings, form)
    masked = {name: _masked(named.graph, walked, name) for name in form.conditions}
    channels = channel_axes(named.graph) if masked else {}
    effort = cost(named)
    _check_work(work(named, effort))
    return Planned(program, request, masked, channels, form.rows, effort)


def _check_work(operations: float) -> None:
    """Refuse what would not answer before one has lost patience.

    Raises:
        ModelError: Naming the number.
    """
    if operations > MOST_WORK:
        raise ModelError(
            f"one run of the model takes {operations:.3g} floating-point operations, more than the {MOST_WORK:.3g} "
            "that are allowed; if that is meant, raise backtrace_jax.engine.compiled.MOST_WORK"
        )


def compile_model(
    planned: Planned, settings: Settings, kept: DeviceWeights, device: Device, form: Form, make: Any = None
) -> Compiled:
    """Compile what is planned; what is exported is made otherwise than by tracing (`make`)."""
    graph, weights = planned.program.graph, kept.put(planned.program.weights)
    chunk = settings.chunk or default_chunk(planned.work, device.platform)
    sizes = sizes_of(chunk, planned.work, device.platform)
    known: dict[str, Any] = {each.name: getattr(planned, each.name) for each in fields(planned)}
    if form.many:
        known["at_once"] = questions_at_once(graph, sizes.chunk, device.platform, paired=planned.request.plan.paired)
    types = chunk_types(graph, planned.output, sizes.chunk, form, known.get("at_once"))
    constant, around = constant_types(graph, form, planned.masked), surroundings(device)
    with within_memory(chunk):
        if form.many:
            masks = {n: jax.ShapeDtypeStruct((known["at_once"], *t.shape), t.dtype) for n, t in constant.masks.items()}
            given = constant._replace(masks={}), types[0], Asking(types[1], masks)
            explain = compile_many(planned.request, weights, *given, device, prepare=settings.hoists)
        else:
            how: dict[str, Any] = {"prepare": settings.hoists, "chunks": sizes.chunks, "make": make}
            explain = compile_explain(planned.request, weights, constant, types, device, **how)
            sizes = replace(sizes, lanes=lanes_of(planned.work, explain.call_bytes, device.platform, around["threads"]))
        prepared = explain.prepare(weights)
    known |= {"weights": prepared, "chunk": chunk, "sizes": sizes, "device": device, "explain": explain}
    return Compiled(**known, surroundings=around)


def arranged(program: Program, platform: str, keep: Collection[str] = ()) -> Program:
    """The program with its values laid out as the device likes them; those to `keep` stay as they are."""
    return channels_last(program, keep) if platform == "cpu" else program


def _request(graph: Graph, plan: Plan, settings: Settings, form: Form) -> Request:
    mode = find_mode(settings.mode)
    ledger = settings.ledger if mode.conserving else None
    layers = _layers(graph, mode, settings)
    return Request(plan, mode, form.task, layers, settings.precision, form.contrasted, ledger)


def _layers(graph: Graph, mode: Mode, settings: Settings) -> dict[str, str]:
    if settings.layers and isinstance(mode.procedure, AlongPath):
        raise UnsupportedError(
            f"mode {mode.name!r} integrates over inputs and has no relevance of layers; leave layers= out, or explain "
            "by 'gradient-x-input' or 'deeplift'"
        )
    return select_layers(graph, settings.layers)


def _masked(graph: Graph, plan: Plan, name: str) -> Var:
    """The value a condition is about.

    Raises:
        SettingError: When there is none, or no relevance comes by.
    """
    found = select_value(graph, name)
    passed = {var.name for step in plan.steps for var in step.eqn.outvars} & {var.name for var in graph.variables()}
    if found is None or found.name not in passed:
        raise SettingError(
            f"conditions: no relevance passes a value or module called {name!r}; passed are, for example: "
            f"{', '.join(sorted(passed)[:8])}"
        )
    return found
