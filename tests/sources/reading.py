"""What the tests of sources share: models' inputs, and a source read to its end."""

from __future__ import annotations

from typing import Any

import numpy as np

from backtrace_jax.ir.imported import InputType
from backtrace_jax.sources import Source, source_of
from backtrace_jax.sources.joining import joined

FLOAT, LONG = np.dtype(np.float32), np.dtype(np.int64)
ROW = [InputType("x", (None, 3), FLOAT)]
PICTURE = [InputType("x", (None, 3, 6, 5), FLOAT)]
TOKENS = [InputType(name, (None, None), LONG) for name in ("input_ids", "attention_mask", "token_type_ids")]


def opened(given: Any, declared: list[InputType] = ROW, **how: Any) -> Source:
    return source_of(given, declared, axes=dict.fromkeys((each.name for each in declared), 0), **how)


def everything(source: Source, size: int = 7):
    """All examples of a source, read so many at a time, or as a stream gives them."""
    count = source.count
    if count is None:
        return joined([*source.stream()])
    return joined([source.read(first, min(first + size, count)) for first in range(0, count, size)])


def inputs(given: Any, declared: list[InputType] = ROW, **how: Any) -> bytes:
    """The bytes of the only input as the model takes it."""
    found = everything(opened(given, declared, **how))
    (group,) = found.groups
    assert not found.failed
    return group.inputs[declared[0].name].astype(declared[0].dtype).tobytes()
