"""What all recurrent layers share: checks, directions, lengths, and the scan that runs a cell over time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from backtrace_jax.errors import ModelError
from backtrace_jax.ir import Program
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .steps import Activation, Step, activation_functions

_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}  # whether time runs backwards


@dataclass(frozen=True)
class Operands:
    """What a layer reads: X [time, batch, input]; the others, sequence_lens aside, have the directions first.

    The operands of one direction go without that axis.
    """

    X: Value
    W: Value
    R: Value
    B: Value | None
    sequence_lens: Value | None
    initial: Mapping[str, Value | None]
    P: Value | None = None

    @property
    def steps(self) -> int:
        """Number of time steps (of X with time first)."""
        return self.X.shape[0]

    @property
    def hidden(self) -> int:
        """Size of a state."""
        return self.R.shape[-1]


@dataclass(frozen=True)
class Attributes:
    """The attributes that the three operators share, by their ONNX names."""

    activation_alpha: Sequence[float] = ()
    activation_beta: Sequence[float] = ()
    activations: Sequence[str] = ()
    clip: float | None = None
    direction: str = "forward"
    hidden_size: int | None = None
    layout: int = 0
    output_sequence: int = 0


@dataclass(frozen=True)
class Cell:
    """What sets one operator apart.

    Attributes:
        gates: Number of gates.
        activations: Names of the activations by default.
        weights: What a step reads, by name, from the operands of one direction.
        step: New states from a step under construction, what the input adds to the gates, states, and weights by name.
        apart: Whether the last gate's recurrent bias is added in the step rather than with the input's.
    """

    gates: int
    activations: tuple[str, ...]
    weights: Callable[[Lowering, Operands], dict[str, Value]]
    step: Callable[..., list[Value]]
    apart: bool = False


def layer(lowering: Lowering, cell: Cell, operands: Operands, attributes: Attributes) -> tuple[Value, ...]:
    """Results of all steps [time, directions, batch, hidden], then each last state [directions, batch, hidden]."""
    backwards = _backwards(attributes.direction)
    functions = _functions(cell, attributes, len(backwards))
    _check_shapes(operands, attributes, cell.gates, len(backwards))
    if attributes.layout:
        operands = _time_first(lowering, operands)
    mask = _mask(lowering, operands.sequence_lens, operands.steps)
    runs = []
    for direction, reverse in enumerate(backwards):
        step = Step(lowering.source, operands.hidden, functions[direction], attributes.clip)
        runs.append(_run(lowering, cell, step, _of_direction(lowering, operands, direction), mask, reverse))
    results, *last = zip(*runs, strict=True)
    stacked = [lowering.stack(results, 1), *(lowering.stack(states, 0) for states in last)]
    return tuple(_batch_first(lowering, stacked) if attributes.layout else stacked)


def _backwards(direction: str) -> tuple[bool, ...]:
    """Whether time runs backwards, for each direction."""
    return _DIRECTIONS[direction]


def _functions(cell: Cell, attributes: Attributes, directions: int) -> list[list[Activation]]:
    """The activations of each direction."""
    defaults, each = cell.activations * directions, len(cell.activations)
    settings = attributes.activation_alpha, attributes.activation_beta
    found = activation_functions(attributes.activations or defaults, *settings, expected=len(defaults))
    return [found[start : start + each] for start in range(0, len(found), each)]


def _check_shapes(operands: Operands, attributes: Attributes, gates: int, directions: int) -> None:
    """Raise a ModelError if an operand has another shape than it should have in its layout."""
    if len(operands.X.shape) != 3:
        raise ModelError(f"X should have three axes, for time, batch and input; found shape {operands.X.shape}")
    batch, features = operands.X.shape[0 if attributes.layout else 1], operands.X.shape[2]
    hidden = attributes.hidden_size or operands.hidden
    state = (batch, directions, hidden) if attributes.layout else (directions, batch, hidden)
    expected = {
        "W": (operands.W, (directions, gates * hidden, features)),
        "R": (operands.R, (directions, gates * hidden, hidden)),
        "B": (operands.B, (directions, 2 * gates * hidden)),
        "sequence_lens": (operands.sequence_lens, (batch,)),
        **{f"initial_{name}": (value, state) for name, value in operands.initial.items()},
        "P": (operands.P, (directions, 3 * hidden)),
    }
    for name, (value, shape) in expected.items():
        if value is not None and value.shape != shape:
            raise ModelError(f"{name} should have shape {shape} for a state of size {hidden}; found {value.shape}")


def _time_first(lowering: Lowering, operands: Operands) -> Operands:
    """Operands of layout 1, which have the batch first, in layout 0."""
    swapped = partial(lowering.transpose, perm=(1, 0, 2))
    initial = {name: None if value is None else swapped(value) for name, value in operands.initial.items()}
    return replace(operands, X=swapped(operands.X), initial=initial)


def _batch_first(lowering: Lowering, stacked: Sequence[Value]) -> list[Value]:
    """Results of layout 0 in layout 1."""
    results, *last = stacked
    return [lowering.transpose(results, (2, 0, 1, 3)), *(lowering.transpose(state, (1, 0, 2)) for state in last)]


def _mask(lowering: Lowering, sequence_lens: Value | None, steps: int) -> Value | None:
    """Whether each step belongs to each sequence [time, batch, 1]; None if all do."""
    if sequence_lens is None:
        return None
    lengths = lowering.reshape(sequence_lens, (1, *sequence_lens.shape, 1))
    mask = lowering.emit("less", np.arange(steps, dtype=lengths.dtype).reshape(steps, 1, 1), lengths)
    return None if isinstance(mask, np.ndarray) and mask.all() else mask


def _of_direction(lowering: Lowering, operands: Operands, direction: int) -> Operands:
    """Operands of one direction; states that are not given are zero."""
    entry = partial(_entry, lowering, position=direction)
    initial: dict[str, Value] = {}
    for name, value in operands.initial.items():
        zeros = np.zeros((operands.X.shape[1], operands.hidden), operands.X.dtype)
        lowering.label(zeros, f"{lowering.source.node}.initial_{name}")
        initial[name] = zeros if value is None else entry(value)
    B, P = (None if value is None else entry(value) for value in (operands.B, operands.P))
    return replace(operands, W=entry(operands.W), R=entry(operands.R), B=B, P=P, initial=initial)


def _run(
    lowering: Lowering, cell: Cell, step: Step, operands: Operands, mask: Value | None, reverse: bool
) -> tuple[Value, ...]:
    """One direction: results of all steps [time, batch, hidden], then each last state [batch, hidden].

    Backwards, the steps beyond a sequence's end come first and leave its first state as it is.
    """
    sequences = {"x": _from_input(lowering, cell, operands)} | ({} if mask is None else {"mask": mask})
    first = {name: value for name, value in operands.initial.items() if value is not None}
    body = _body(cell, step, first, sequences, cell.weights(lowering, operands))
    series = list(sequences.values())
    settings = {"constants": step.constants, "reverse": reverse}
    last, (results,) = lowering.scan(body, list(first.values()), series, operands.steps, **settings)
    return results, *last


def _body(
    cell: Cell, step: Step, first: dict[str, Value], sequences: dict[str, Value], weights: dict[str, Value]
) -> Program:
    """One time step: from states and one entry of each sequence to new states and the result."""
    states = [step.input(f"{name}_before", value.shape, value.dtype) for name, value in first.items()]
    x, *masks = [step.input(name, value.shape[1:], value.dtype) for name, value in sequences.items()]
    after = cell.step(step, x, *states, **{name: step.read(value, name) for name, value in weights.items()})
    result = after[0]
    for mask in masks:  # beyond a sequence's end its states stay as they are and its results are zero
        result = step.emit("where", mask, result, np.zeros((), result.dtype))
        after = [step.emit("where", mask, new, old) for new, old in zip(after, states, strict=True)]
    return step.finish({**dict(zip(first, after, strict=True)), "y": result})


def _from_input(lowering: Lowering, cell: Cell, operands: Operands) -> Value:
    """What the input adds to the gates of all steps [time, batch, gates x hidden], with the biases."""
    product = lowering.emit("matmul", operands.X, lowering.transpose(operands.W, (1, 0)))
    B, width = operands.B, operands.W.shape[0]
    if B is None:
        return product
    own, recurrent = part(lowering, B, 0, width), part(lowering, B, width, 2 * width)
    if cell.apart:
        shared = part(lowering, recurrent, 0, width - operands.hidden)
        recurrent = lowering.emit("concat", shared, np.zeros(operands.hidden, B.dtype), axis=0)
    if B.dtype.itemsize < 4:  # their sum would be rounded before the walk has its wider type, and its error adds up
        return lowering.emit("add", lowering.emit("add", product, own), recurrent)
    return lowering.emit("add", product, under_name(lowering, B, lowering.emit("add", own, recurrent)))


def part(lowering: Lowering, value: Value, start: int, limit: int) -> Value:
    """Entries along the first axis; known arrays keep their name."""
    if isinstance(value, np.ndarray):
        return lowering.derived(value, value[start:limit])
    (_, *rest), stride = value.shape, (1,) * len(value.shape)
    return lowering.emit("slice", value, start=(start, *(0 for _ in rest)), limit=(limit, *rest), stride=stride)


def _entry(lowering: Lowering, value: Value, position: int) -> Value:
    """One entry along the first axis, without that axis."""
    entry = value if value.shape[0] == 1 else part(lowering, value, position, position + 1)
    return lowering.reshape(entry, value.shape[1:])


def under_name(lowering: Lowering, original: Value, value: Value) -> Value:
    """A value computed from another one, under the other one's name if it is known."""
    return lowering.derived(original, value) if isinstance(value, np.ndarray) else value
