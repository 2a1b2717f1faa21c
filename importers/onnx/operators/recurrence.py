"""LSTM, GRU and RNN: a body graph run over time.

What the input adds to the gates of all steps is one linear map in front of the scan. A step adds what the state
contributes, cuts the sum into gates and applies the activations. The three operators differ in that step alone.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .recurrent_layer import Attributes, Cell, Operands, layer, part, under_name
from .registry import operator
from .steps import Step


@operator("RNN")
def rnn(
    lowering: Lowering,
    X: Value,
    W: Value,
    R: Value,
    B: Value | None = None,
    sequence_lens: Value | None = None,
    initial_h: Value | None = None,
    **attributes: Any,
) -> tuple[Value, ...]:
    """Plain recurrent layer; returns the states of all steps and the last one."""
    cell = Cell(1, ("Tanh",), _rnn_weights, _rnn_step)
    return layer(lowering, cell, Operands(X, W, R, B, sequence_lens, {"h": initial_h}), Attributes(**attributes))


def _rnn_weights(lowering: Lowering, operands: Operands) -> dict[str, Value]:
    return {"R": lowering.transpose(operands.R, (1, 0))}


def _rnn_step(step: Step, x: Value, h: Value, *, R: Value) -> list[Value]:
    return [step.gate(0, step.emit("add", x, step.product(h, R)), "h")]


@operator("GRU")
def gru(
    lowering: Lowering,
    X: Value,
    W: Value,
    R: Value,
    B: Value | None = None,
    sequence_lens: Value | None = None,
    initial_h: Value | None = None,
    *,
    linear_before_reset: int = 0,
    **attributes: Any,
) -> tuple[Value, ...]:
    """Gated recurrent unit; returns the states of all steps and the last one."""
    weights = _gru_weights_apart if linear_before_reset else _gru_weights
    cell = Cell(3, ("Sigmoid", "Tanh"), weights, _gru_step, apart=bool(linear_before_reset))
    return layer(lowering, cell, Operands(X, W, R, B, sequence_lens, {"h": initial_h}), Attributes(**attributes))


def _gru_weights(lowering: Lowering, operands: Operands) -> dict[str, Value]:
    """The reset gate acts on the state, so that the candidate has a product of its own."""
    width, hidden = operands.R.shape
    parts = [part(lowering, operands.R, *ends) for ends in ((0, 2 * hidden), (2 * hidden, width))]
    return dict(zip(("R", "R_candidate"), (lowering.transpose(part, (1, 0)) for part in parts), strict=True))


def _gru_weights_apart(lowering: Lowering, operands: Operands) -> dict[str, Value]:
    """The reset gate acts on the candidate's product, its bias included."""
    weights = {"R": lowering.transpose(operands.R, (1, 0))}
    B, (width, hidden) = operands.B, operands.R.shape
    if B is None:
        return weights
    own = part(lowering, B, 2 * width - hidden, 2 * width)
    bias = lowering.emit("concat", np.zeros(width - hidden, B.dtype), own, axis=0)
    return {**weights, "R_bias": lowering.reshape(under_name(lowering, B, bias), (1, width))}


def _gru_step(
    step: Step, x: Value, h: Value, *, R: Value, R_candidate: Value | None = None, R_bias: Value | None = None
) -> list[Value]:
    """ONNX's order of gates: update, reset, candidate."""
    product = step.product(h, R, R_bias)
    sums = step.emit("add", step.gates_of(x, 0, 2), step.gates_of(product, 0, 2))
    update, reset = (step.gate(0, step.gates_of(sums, i), name) for i, name in enumerate(("update", "reset")))
    if R_candidate is None:
        recurrent = step.emit("mul", reset, step.gates_of(product, 2))
    else:
        recurrent = step.product(step.emit("mul", reset, h), R_candidate)
    candidate = step.gate(1, step.emit("add", step.gates_of(x, 2), recurrent), "candidate")
    new, kept = step.emit("mul", step.complement(update), candidate), step.emit("mul", update, h)
    return [step.named("h", step.emit("add", new, kept))]


@operator("LSTM")
def lstm(
    lowering: Lowering,
    X: Value,
    W: Value,
    R: Value,
    B: Value | None = None,
    sequence_lens: Value | None = None,
    initial_h: Value | None = None,
    initial_c: Value | None = None,
    P: Value | None = None,
    *,
    input_forget: int = 0,
    **attributes: Any,
) -> tuple[Value, ...]:
    """Long short-term memory; returns the states of all steps, the last one, and the last memory."""
    step = partial(lstm_step, coupled=bool(input_forget))
    cell = Cell(4, ("Sigmoid", "Tanh", "Tanh"), lstm_weights, step)
    operands = Operands(X, W, R, B, sequence_lens, {"h": initial_h, "c": initial_c}, P)
    return layer(lowering, cell, operands, Attributes(**attributes))


def lstm_weights(lowering: Lowering, operands: Operands) -> dict[str, Value]:
    """What a step of an LSTM reads: the recurrent weights, and those of the peepholes."""
    weights = {"R": lowering.transpose(operands.R, (1, 0))}
    if operands.P is not None:
        for i, gate in enumerate(("input", "output", "forget")):
            weights[f"P_{gate}"] = part(lowering, operands.P, i * operands.hidden, (i + 1) * operands.hidden)
    return weights


def lstm_step(step: Step, x: Value, h: Value, c: Value, *, coupled: bool, R: Value, **peepholes: Value) -> list[Value]:
    """New state and memory; ONNX's order of gates: input, output, forget, candidate."""
    product = step.product(h, R)
    shared = (x, product) if peepholes else (step.emit("add", x, product),)

    def total(position: int, *others: Value) -> Value:
        """What a gate reads is one sum, peephole included."""
        own = [*(step.gates_of(value, position) for value in shared), *others]
        return own[0] if len(own) == 1 else step.emit("add", *own)

    def gate(position: int, name: str, memory: Value) -> Value:
        peephole = [step.emit("mul", peepholes[f"P_{name}"], memory)] if peepholes else []
        return step.gate(0, total(position, *peephole), name)

    enter = gate(0, "input", c)
    forget = step.named("forget", step.complement(enter)) if coupled else gate(2, "forget", c)
    candidate = step.gate(1, total(3), "candidate")
    kept, new = step.emit("mul", forget, c), step.emit("mul", enter, candidate)
    memory = step.named("c", step.emit("add", kept, new))
    output = gate(1, "output", memory)
    return [step.named("h", step.emit("mul", output, step.activate(2, memory))), memory]
