"""DynamicQuantizeLSTM of com.microsoft: what dynamic quantisation makes of an LSTM."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from backtrace_jax.passes.build import Builder, Value

from ..lowering import Lowering
from .microsoft import MICROSOFT
from .recurrence import lstm_step, lstm_weights
from .recurrent_layer import Attributes, Cell, Operands, layer
from .registry import operator
from .steps import Step


@operator("DynamicQuantizeLSTM", domain=MICROSOFT)
def dynamic_quantize_lstm(
    lowering: Lowering,
    X: Value,
    W: Value,
    R: Value,
    B: Value | None,
    sequence_lens: Value | None,
    initial_h: Value | None,
    initial_c: Value | None,
    P: Value | None,
    W_scale: Value,
    W_zero_point: Value,
    R_scale: Value,
    R_zero_point: Value,
    *,
    input_forget: int = 0,
    **attributes: Any,
) -> tuple[Value, ...]:
    """An LSTM whose weights are quantised, and whose input and states are rounded to 8 bits before each product.

    What they stand for is computed with, so that each product is a linear map with the bias behind it.
    """
    W, R = _weights(lowering, W, W_scale, W_zero_point), _weights(lowering, R, R_scale, R_zero_point)
    cell = Cell(4, ("Sigmoid", "Tanh", "Tanh"), lstm_weights, partial(_step, coupled=bool(input_forget)))
    initial = {"h": initial_h, "c": initial_c}
    operands = Operands(_rounded(lowering, X), W, R, B, sequence_lens, initial, P)
    return layer(lowering, cell, operands, Attributes(**attributes))


def _weights(lowering: Lowering, quantised: Value, scale: Value, zero_point: Value) -> Value:
    """Weights [direction, input, gates] as floats, laid out as those of an LSTM; scales may be one for each gate."""
    single = np.dtype(np.float32)
    scale, zero_point = (
        lowering.reshape(each, (quantised.shape[0], 1, math.prod(each.shape[1:]))) for each in (scale, zero_point)
    )
    floats = lowering.emit("dequantize", quantised, scale, lowering.cast(zero_point, single), dtype=single.name)
    named = lowering.derived(quantised, floats) if isinstance(floats, np.ndarray) else floats
    return lowering.transpose(named, (0, 2, 1))


def _rounded(builder: Builder, x: Value) -> Value:
    """x as 8 bits hold it; their range is that of the entries (DynamicQuantizeLinear)."""
    scale, zero_point = builder.emit("dynamic_range", x)
    offset = builder.emit("cast", zero_point, dtype="float32")
    levels = builder.emit("quantize", x, scale, offset, dtype="uint8")
    return builder.emit("dequantize", levels, scale, offset, dtype=np.dtype(x.dtype).name)


def _step(step: Step, x: Value, h: Value, c: Value, **settings: Any) -> list[Value]:
    return lstm_step(step, x, _rounded(step, h), c, **settings)
