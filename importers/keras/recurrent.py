"""LSTM, GRU and simple recurrent layers, their bidirectional wrapper, and layers applied at every time step.

A layer becomes one LSTM, GRU or RNN node. Where time steps are masked, Keras keeps the state and repeats the output:
the steps that count are brought to the front, the node runs over as many, and its results are put back in their places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backtrace_jax.errors import UnsupportedError

from .registry import layer, mask
from .tensor import Operand, Tensor, as_array
from .writer import Writer

_ACTIVATIONS: dict[str, tuple[str, float | None, float | None]] = {
    "elu": ("Elu", 1.0, None),
    "hard_sigmoid": ("HardSigmoid", 1 / 6, 0.5),
    "leaky_relu": ("LeakyRelu", 0.2, None),
    "linear": ("Affine", 1.0, 0.0),
    "relu": ("Relu", None, None),
    "sigmoid": ("Sigmoid", None, None),
    "softplus": ("Softplus", None, None),
    "softsign": ("Softsign", None, None),
    "tanh": ("Tanh", None, None),
}
"""Activation -> name in a recurrent node, alpha, beta."""

_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (0, 1, 2), "RNN": (0,)}  # Keras' gates in ONNX's order
_CELLS = {"LSTMCell": "LSTM", "GRUCell": "GRU", "SimpleRNNCell": "RNN"}


@dataclass(frozen=True)
class Steps:
    """Which time steps count: their order with those first, how many there are, and where each step's result lies."""

    kept: Operand
    order: str
    count: str
    place: str


@layer("LSTM", "GRU", "SimpleRNN", "RNN")
def recurrent(
    writer: Writer, layer: Any, sequences: Tensor, initial_state: Any = None, mask: Any = None
) -> Operand | tuple[Operand, ...]:
    """A recurrent layer; its results are those of all steps or of the last one, then its states if asked for."""
    known = mask[0] if isinstance(mask, list | tuple) else mask
    initial = _states(initial_state)
    value: Operand = writer.cast(sequences, layer.compute_dtype)
    kept: Operand | None = None if known is None else writer.cast(known, "bool")
    if layer.go_backwards:
        value = writer.reverse(value, 1)
        kept = None if kept is None else writer.reverse(kept, 1)
    if kept is None:
        every, last = _run(writer, layer, value, initial, None)
    else:
        steps = _steps(writer, kept)
        every, last = _run(writer, layer, _gathered(writer, value, steps.order), initial, steps.count)
        every = _put_back(writer, layer, every, steps, initial)
    result = every if layer.return_sequences else last[0]
    if kept is not None and not layer.return_sequences and _zeroes(layer):
        result = _last_or_zero(writer, layer, kept, result)
    return (result, *last) if layer.return_state else result


def _states(initial: Any) -> list[Operand]:
    if initial is None:
        return []
    return list(initial) if isinstance(initial, list | tuple) else [initial]


def _run(
    writer: Writer, layer: Any, value: Operand, initial: Sequence[Operand], count: str | None
) -> tuple[str, list[str]]:
    """The node: results of all steps [batch, time, units], and the last states [batch, units]."""
    cell = layer.cell
    op_type = _CELLS.get(type(cell).__name__)
    if op_type is None or not type(cell).__module__.startswith("keras.src."):
        raise UnsupportedError(
            f"runs the cell {type(cell).__name__}, which has no ONNX form; use LSTM, GRU or SimpleRNN"
        )
    states = [writer.emit("Unsqueeze", state, writer.integers(0)) for state in initial]
    operands = [writer.transpose(value, (1, 0, 2)), *_weights(writer, cell, op_type), count, *states]
    names = _activation_names(cell, op_type)
    settings = {"linear_before_reset": int(cell.reset_after)} if op_type == "GRU" else {}
    every, *last = writer.emit_all(
        op_type, *operands, results=3 if op_type == "LSTM" else 2, hidden_size=cell.units, **names, **settings
    )
    steps = writer.transpose(writer.emit("Squeeze", every, writer.integers(1)), (1, 0, 2))
    return str(steps), [writer.emit("Squeeze", state, writer.integers(0)) for state in last]


def _weights(writer: Writer, cell: Any, op_type: str) -> list[str]:
    order = list(_GATES[op_type])

    def gates(array: np.ndarray) -> np.ndarray:
        """The gates of the last axis in ONNX's order."""
        return array.reshape(*array.shape[:-1], len(order), -1)[..., order, :].reshape(array.shape)

    def matrix(kernel: np.ndarray) -> np.ndarray:
        return gates(kernel).T[None]

    def both(bias: np.ndarray) -> np.ndarray:
        """What is added to the input's part and, where Keras has one, to the state's."""
        rows = bias if bias.ndim == 2 else np.stack([bias, np.zeros_like(bias)])
        return gates(rows).reshape(1, -1)

    weights = [writer.weight(cell, "kernel", matrix), writer.weight(cell, "recurrent_kernel", matrix)]
    if cell.bias is not None:
        return [*weights, writer.weight(cell, "bias", both)]
    width = as_array(cell.kernel).shape[-1]
    return [*weights, writer.constant(np.zeros((1, 2 * width), cell.compute_dtype))]


def _activation_names(cell: Any, op_type: str) -> dict[str, Any]:
    own = [cell.activation] if op_type == "RNN" else [cell.recurrent_activation, cell.activation]
    found = [_activation(each) for each in (own if op_type != "LSTM" else [*own, cell.activation])]
    alphas, betas = ([each[i] for each in found if each[i] is not None] for i in (1, 2))
    settings = {"activation_alpha": alphas, "activation_beta": betas}
    return {"activations": [each[0] for each in found], **{name: given for name, given in settings.items() if given}}


def _activation(function: Any) -> tuple[str, float | None, float | None]:
    name = "linear" if function is None else getattr(function, "__name__", type(function).__name__)
    if name not in _ACTIVATIONS or (function and not function.__module__.startswith("keras.src.")):
        raise UnsupportedError(f"activation {name!r} in a recurrent cell; use one of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def _steps(writer: Writer, kept: Operand) -> Steps:
    """The steps [batch, time] that count, first; each later step's result is that of the last one that counted."""
    ones = writer.recast(kept, "int64")
    length = writer.size(kept, 1, 2)
    zero, one = writer.constant(np.array(0, np.int64)), writer.constant(np.array(1, np.int64))
    times = writer.emit("Range", zero, writer.emit("Squeeze", length), one)
    keys = writer.emit("Sub", writer.emit("Mul", ones, length), times)
    order = writer.emit_all("TopK", keys, length, results=2, axis=1, largest=1, sorted=1)[1]
    running = writer.emit("CumSum", ones, writer.constant(np.array(1, np.int64)))
    place = writer.emit("Max", writer.emit("Sub", running, one), zero)
    total = writer.emit("ReduceSum", ones, writer.integers(1), keepdims=0)
    return Steps(kept, order, writer.recast(total, "int32"), place)


def _gathered(writer: Writer, value: Operand, index: str) -> str:
    """Time steps [batch, time, features] in the order of the index [batch, time]."""
    return writer.emit("GatherND", value, writer.emit("Unsqueeze", index, writer.integers(-1)), batch_dims=1)


def _put_back(writer: Writer, layer: Any, every: str, steps: Steps, initial: Sequence[Operand]) -> str:
    """Results at the steps they belong to: before the first that counts the initial state, and zeros where asked."""
    placed = _gathered(writer, every, steps.place)
    counted = writer.emit("Unsqueeze", steps.kept, writer.integers(-1))
    zero = writer.constant(np.array(0, layer.compute_dtype))
    if _zeroes(layer):
        return writer.emit("Where", counted, placed, zero)
    ones = writer.emit("CumSum", writer.recast(steps.kept, "int64"), writer.constant(np.array(1, np.int64)))
    begun = writer.emit("Unsqueeze", writer.recast(ones, "bool"), writer.integers(-1))
    before: Operand = zero
    if initial and not layer.unroll:
        before = writer.emit("Unsqueeze", initial[0], writer.integers(1))
    return writer.emit("Where", begun, placed, before)


def _zeroes(layer: Any) -> bool:
    return bool(layer.zero_output_for_mask) and not layer.unroll


def _last_or_zero(writer: Writer, layer: Any, kept: Operand, result: Operand) -> str:
    """Keras' last output, which is zero where the last step is masked."""
    last = writer.slice(kept, 1, -1, None)
    return writer.emit("Where", last, result, writer.constant(np.array(0, layer.compute_dtype)))


@mask("LSTM", "GRU", "SimpleRNN", "RNN")
def recurrent_mask(writer: Writer, layer: Any, sequences: Any, previous: Any) -> Any:
    """Steps stay masked; states and a single result are not."""
    known = previous[0] if isinstance(previous, list | tuple) else previous
    own = known if layer.return_sequences else None
    return [own, *(None for _ in layer.state_size)] if layer.return_state else own


@layer("Bidirectional")
def bidirectional(writer: Writer, layer: Any, sequences: Tensor, initial_state: Any = None, mask: Any = None) -> Any:
    """The same sequence forwards and backwards, merged."""
    from .graph import call

    states = _states(initial_state)
    half = len(states) // 2
    runs: list[list[Tensor]] = []
    for inner, own in ((layer.forward_layer, states[:half]), (layer.backward_layer, states[half:])):
        given = {"initial_state": list(own)} if own else {}
        run = call(writer, inner, (sequences,), {**given, **({} if mask is None else {"mask": mask})})
        runs.append([*run] if isinstance(run, tuple | list) else [run])
    forward, backward = (run[0].name for run in runs)
    if layer.return_sequences:
        backward = writer.reverse(backward, 1)
    merged = _merged(writer, layer, forward, backward)
    last = [state for run in runs for state in run[1:]]
    results = [*merged, *last]
    return tuple(results) if layer.return_state or len(results) > 1 else results[0]


def _merged(writer: Writer, layer: Any, forward: str, backward: str) -> tuple[str, ...]:
    mode = layer.merge_mode
    if mode is None:
        return forward, backward
    if mode == "concat":
        return (writer.emit("Concat", forward, backward, axis=-1),)
    if mode == "mul":
        return (writer.emit("Mul", forward, backward),)
    total = writer.emit("Add", forward, backward)
    return (total if mode == "sum" else writer.emit("Div", total, writer.constant(np.array(2, layer.compute_dtype))),)


@mask("Bidirectional")
def bidirectional_mask(writer: Writer, layer: Any, sequences: Any, previous: Any) -> Any:
    """Steps stay masked; states and a single result are not."""
    known = previous[0] if isinstance(previous, list | tuple) else previous
    if not layer.return_sequences:
        return None
    return known if layer.merge_mode else (known, known)


@layer("TimeDistributed")
def time_distributed(writer: Writer, layer: Any, inputs: Tensor, mask: Tensor | None = None) -> str:
    """A layer at every time step: the steps are examples of one batch."""
    from .graph import call

    flat = writer.reshape(inputs, -1, writer.size(inputs, 2))
    result = call(writer, layer.layer, (Tensor(flat, (None, *inputs.shape[2:]), inputs.dtype),), {})
    if not isinstance(result, Tensor):
        raise UnsupportedError("applies a layer of several results at every time step")
    return writer.reshape(result, writer.size(inputs, 0, 2), writer.size(result, 1))
