"""Tables of what can be written: layers, operations and activations by their Keras names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

Emitter: TypeAlias = Callable[..., Any]
"""(writer, layer, **arguments of its `call`) -> the ONNX names of its results."""

LAYERS: dict[str, Emitter] = {}
"""Layer class -> how it is written."""

OPERATIONS: dict[str, Emitter] = {}
"""Class of an operation of `keras.ops` -> how it is written."""

MASKS: dict[str, Callable[..., Any]] = {}
"""Layer class -> its `compute_mask`; where a layer passes masks on as they are, it has no entry."""


def layer(*names: str) -> Callable[[Emitter], Emitter]:
    """Register how layers of these classes are written."""
    return _registrar(LAYERS, names)


def operation(*names: str) -> Callable[[Emitter], Emitter]:
    """Register how operations of these classes are written."""
    return _registrar(OPERATIONS, names)


def mask(*names: str) -> Callable[[Emitter], Emitter]:
    """Register what mask layers of these classes give their results."""
    return _registrar(MASKS, names)


def _registrar(table: dict[str, Any], names: tuple[str, ...]) -> Callable[[Emitter], Emitter]:
    def register(function: Emitter) -> Emitter:
        table.update(dict.fromkeys(names, function))
        return function

    return register
