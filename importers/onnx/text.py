"""Operators on text: class labels that are words, chosen while the model runs.

Text is no number and bears no relevance. It may be moved, and turned into numbers; as an output of the model it is left
out, and the scores beside it are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from backtrace_jax.errors import UnsupportedError

from .scope import Held, Text

_MOVING = {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Expand", "Gather"}
_READING = {"LabelEncoder", "CategoryMapper", "OneHotEncoder"}


def is_text(value: Any) -> bool:
    """Whether a value is text, known or chosen while the model runs."""
    return isinstance(value, Text) or (isinstance(value, np.ndarray) and value.dtype.kind in "OSU")


def on_text(
    call: Callable[..., Any], op_type: str, operands: Sequence[Held | None], attributes: Mapping[str, Any]
) -> Sequence[Held]:
    """What an operator makes of text: its positions are moved, or it is read; all else is an error.

    Raises:
        UnsupportedError: When the operator computes with it.
    """
    first, *others = operands
    if op_type in _READING:
        return (call(*operands),)
    if isinstance(first, Text) and op_type == "Cast" and attributes["to"] == onnx.TensorProto.STRING:
        return (first,)
    if not isinstance(first, Text) or op_type not in _MOVING or any(map(is_text, others)):
        raise UnsupportedError(
            "it reads class labels that are words, which can be moved and turned into numbers by LabelEncoder, but not "
            "computed with; cut the model before it, or export it with integer labels"
        )
    return (Text(call(first.positions, *others), first.words),)
