"""If, Loop and Scan.

A branch that is known is lowered in place. A loop whose body keeps its types becomes one `scan`; one whose shapes
change from step to step, or that carries sequences, is written out step by step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx

from backtrace_jax.errors import BacktraceError, DataDependentError, ModelError, UnsupportedError
from backtrace_jax.ir import Var
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from ..scope import Held
from ..verify import shortened
from .axes import from_front
from .bodies import lower_body, typed
from .registry import operator


@operator("If")
def if_(
    lowering: Lowering, cond: Value, *, then_branch: onnx.GraphProto, else_branch: onnx.GraphProto
) -> tuple[Held, ...]:
    """One of two sub-graphs; where the condition depends on the inputs, both are computed and one is chosen.

    Where one of them cannot be, the inputs that decide have to be known beforehand.
    """
    _check_branches(then_branch, else_branch)
    if isinstance(cond, np.ndarray):
        return tuple(lowering.inline(then_branch if cond.item() else else_branch, ()))
    condition = lowering.reshape(cond, ())
    one, other = (_branch(lowering, condition, branch) for branch in (then_branch, else_branch))
    return tuple(_chosen(lowering, condition, *pair) for pair in zip(one, other, strict=True))


def _check_branches(one: onnx.GraphProto, other: onnx.GraphProto) -> None:
    """Refuse branches that cannot be alternatives: they give as many results, of the types that both declare."""
    if len(one.output) != len(other.output):
        raise ModelError(f"then_branch gives {len(one.output)} results, else_branch {len(other.output)}")
    for first, second in zip(one.output, other.output, strict=True):
        types = [each.type.tensor_type.elem_type for each in (first, second)]
        if all(types) and types[0] != types[1]:
            raise ModelError(
                f"then_branch declares {shortened(first.name)!r} as {_type_name(types[0])}, else_branch its "
                f"{shortened(second.name)!r} as {_type_name(types[1])}; both must be of one type"
            )


def _type_name(code: int) -> str:
    known = {number: name.lower() for name, number in onnx.TensorProto.DataType.items()}
    return known.get(code, f"type {code}")


def _branch(lowering: Lowering, condition: Value, branch: onnx.GraphProto) -> list[Held]:
    try:
        return lowering.inline(branch, ())
    except DataDependentError:
        raise
    except BacktraceError as error:
        inputs = lowering.inputs_of(condition)
        raise DataDependentError(
            f"which branch is taken depends on the values of the inputs ({', '.join(sorted(inputs))}), and one cannot "
            f"be computed here: {error}",
            inputs,
        ) from error


def _chosen(lowering: Lowering, condition: Value, one: Held, other: Held) -> Held:
    if one is other:
        return one
    if isinstance(one, np.ndarray | Var) and isinstance(other, np.ndarray | Var) and _same_type(one, other):
        return lowering.emit("where", condition, one, other)
    if isinstance(one, np.ndarray | Var) and isinstance(other, np.ndarray | Var) and one.dtype != other.dtype:
        raise ModelError(
            f"then_branch gives {one.dtype.name}, else_branch {other.dtype.name}; both must be of one type"
        )
    lowering.known(condition, "the condition of an If whose branches differ in shape")
    raise AssertionError("a known condition chooses its branch before")


def _same_type(one: Value, other: Value) -> bool:
    return (one.shape, one.dtype) == (other.shape, other.dtype)


@operator("Loop")
def loop(
    lowering: Lowering, M: Value | None = None, cond: Value | None = None, *v_initial: Held, body: onnx.GraphProto
) -> tuple[Held, ...]:
    """A sub-graph run a number of times, or until its condition fails; gives last states and stacked results."""
    limit = None if M is None else int(lowering.known(M, "the number of iterations of a Loop").item())
    lowering.limits.check_steps(limit or 0)
    going = cond is None or bool(lowering.known(cond, "the first condition of a Loop").item())
    length = 0 if not going else limit
    scanned = _scanned_loop(lowering, body, v_initial, length) if length and length > 0 else None
    return tuple(_unrolled_loop(lowering, body, v_initial, length) if scanned is None else scanned)


def _scanned_loop(lowering: Lowering, body: onnx.GraphProto, initial: Sequence[Held], length: int) -> list[Held] | None:
    """The loop as one scan; None where its condition or its types change on the way."""
    states = [state for state in initial if isinstance(state, np.ndarray | Var)]
    if len(states) < len(initial):
        return None
    counter = _declared_like(body.input[0], np.zeros((), np.int64)) if body.input else np.zeros((), np.int64)
    try:
        found = lower_body(lowering, body, [typed(counter), np.asarray(True)], states, skip=1)
    except DataDependentError:
        return None
    condition, *outputs = found.graph.outputs
    if not found.weights.get(condition.name, np.asarray(False)).all() or not _keeps_types(outputs, states):
        return None
    first, *inputs = found.graph.inputs
    count = len(found.moving)
    ordered, names = (*inputs[:count], first, *inputs[count:]), found.graph.output_names[1:]
    graph = replace(found.graph, inputs=ordered, outputs=tuple(outputs), output_names=names)
    steps = np.arange(length).reshape(length, *counter.shape)
    last, stacked = found.run(lowering, graph, [steps], length)
    return [*last, *stacked]


def _keeps_types(outputs: Sequence[Var], states: Sequence[Value]) -> bool:
    return all(_same_type(one, state) for one, state in zip(outputs, states, strict=False))


def _declared_like(info: onnx.ValueInfoProto, number: np.ndarray) -> np.ndarray:
    """A number in the rank that a sub-graph declares for it: scalars are declared as [1] at times."""
    return number.reshape((1,) * len(info.type.tensor_type.shape.dim))


def _unrolled_loop(
    lowering: Lowering, body: onnx.GraphProto, initial: Sequence[Held], length: int | None
) -> list[Held]:
    """The loop written out; without a bound, until its condition is known to fail."""
    states, results, step, going = list(initial), [], 0, True
    while going and (length is None or step < length):
        lead = [np.asarray(step), np.asarray(True)]
        given = [_declared_like(info, number) for info, number in zip(body.input, lead, strict=False)]
        again, *outputs = lowering.inline(body, [*given, *states])
        going = bool(lowering.known(_tensor(again), "the condition of a Loop").item())
        states, step = outputs[: len(states)], step + 1
        results.append(outputs[len(states) :])
    declared = body.output[1 + len(states) :]
    return [*states, *_stacked(lowering, results, declared)]


def _stacked(
    lowering: Lowering, results: Sequence[Sequence[Held]], declared: Sequence[onnx.ValueInfoProto]
) -> list[Value]:
    if not results:
        return [_nothing(info) for info in declared]
    return [_joined(lowering, [_tensor(step[i]) for step in results]) for i in range(len(results[0]))]


def _joined(lowering: Lowering, entries: Sequence[Value]) -> Value:
    """One tensor per step, stacked along a new first axis."""
    return lowering.concat([lowering.reshape(entry, (1, *entry.shape)) for entry in entries], 0)


def _tensor(value: Held) -> Value:
    if not isinstance(value, np.ndarray | Var):
        raise UnsupportedError("a sequence is stacked over time; only tensors can be")
    return value


def _nothing(info: onnx.ValueInfoProto) -> np.ndarray:
    """The stacked results of no step at all."""
    declared = info.type.tensor_type
    dims = [size.dim_value for size in declared.shape.dim]
    if declared.elem_type == onnx.TensorProto.UNDEFINED:
        raise ModelError(f"result {info.name!r} of a loop without steps has no declared type")
    return np.zeros((0, *dims), onnx.helper.tensor_dtype_to_np_dtype(declared.elem_type))


@operator("Scan", since=9)
def scan(
    lowering: Lowering,
    *operands: Value,
    body: onnx.GraphProto,
    num_scan_inputs: int,
    scan_input_axes: Sequence[int] = (),
    scan_input_directions: Sequence[int] = (),
    scan_output_axes: Sequence[int] = (),
    scan_output_directions: Sequence[int] = (),
) -> tuple[Value, ...]:
    """A sub-graph run over the entries of tensors; gives last states and stacked results."""
    count = len(operands) - num_scan_inputs
    if not 0 <= count < len(operands):
        raise ModelError(f"num_scan_inputs={num_scan_inputs} does not fit {len(operands)} operands")
    axes, backwards = _each(scan_input_axes, num_scan_inputs), _each(scan_input_directions, num_scan_inputs)
    sequences = [_time_first(lowering, *each) for each in zip(operands[count:], axes, backwards, strict=True)]
    length = sequences[0].shape[0]
    last, stacked = _over_time(lowering, body, operands[:count], sequences, length)
    axes, backwards = _each(scan_output_axes, len(stacked)), _each(scan_output_directions, len(stacked))
    results = [_time_placed(lowering, *each) for each in zip(stacked, axes, backwards, strict=True)]
    return (*last, *results)


def _each(settings: Sequence[int], count: int) -> Sequence[int]:
    return settings or (0,) * count


def _time_first(lowering: Lowering, sequence: Value, axis: int, backwards: int) -> Value:
    rank = len(sequence.shape)
    time = from_front(axis, rank)
    moved = lowering.transpose(sequence, (time, *(i for i in range(rank) if i != time)))
    return lowering.emit("reverse", moved, axes=(0,)) if backwards else moved


def _time_placed(lowering: Lowering, stacked: Value, axis: int, backwards: int) -> Value:
    rank = len(stacked.shape)
    time, others = from_front(axis, rank), iter(range(1, rank))
    turned = lowering.emit("reverse", stacked, axes=(0,)) if backwards else stacked
    return lowering.transpose(turned, tuple(0 if i == time else next(others) for i in range(rank)))


def _over_time(
    lowering: Lowering, body: onnx.GraphProto, states: Sequence[Value], sequences: Sequence[Value], length: int
) -> tuple[list[Value], list[Value]]:
    if any(sequence.shape[0] != length for sequence in sequences):
        raise ModelError(f"sequences of a Scan differ in length: {[sequence.shape[0] for sequence in sequences]}")
    entries = [Var("", sequence.shape[1:], np.dtype(sequence.dtype)) for sequence in sequences]
    found = lower_body(lowering, body, [], states, entries)
    if not _keeps_types(found.graph.outputs, states):
        raise ModelError("a state of a Scan changes its type from step to step")
    return found.run(lowering, found.graph, sequences, length)


@operator("Scan", since=8)
def scan_8(
    lowering: Lowering,
    sequence_lens: Value | None,
    *operands: Value,
    body: onnx.GraphProto,
    num_scan_inputs: int,
    directions: Sequence[int] = (),
) -> tuple[Value, ...]:
    """At opset 8 the first axis of everything is a batch, and time the second."""
    if sequence_lens is not None:
        raise UnsupportedError("sequence_lens of Scan at opset 8; re-export the model at a newer opset")
    examples = []
    for number in range(operands[0].shape[0]):
        parts = [lowering.emit("gather", operand, np.asarray(number), axis=0) for operand in operands]
        settings = {"num_scan_inputs": num_scan_inputs, "scan_input_directions": directions}
        examples.append(scan(lowering, *parts, body=body, **settings))
    return tuple(_joined(lowering, entries) for entries in zip(*examples, strict=True))
