"""Structures of arguments and results: tuples, lists, mappings and dataclasses with tensors as leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch


def is_array(value: Any) -> bool:
    """Whether this is data rather than structure or a setting."""
    return isinstance(value, torch.Tensor | np.ndarray)


def join(name: str, key: object) -> str:
    """Name of an entry of a structure."""
    return f"{name}.{key}" if name else str(key)


def children(value: Any) -> list[tuple[Any, Any]] | None:
    """The entries of a structure by key; None for a leaf."""
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))  # type: ignore[attr-defined]
    if isinstance(value, tuple | list):
        return list(enumerate(value))
    if is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    return None


def arrays_of(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every array of a structure with its name; everything else is left out."""
    if is_array(value):
        yield name, value
    for key, child in children(value) or ():
        yield from arrays_of(child, join(name, key))


def mapped(value: Any, function: Callable[[str, Any], Any], name: str) -> Any:
    """The same structure with each leaf replaced by function(name, leaf)."""
    entries = children(value)
    if entries is None:
        return function(name, value)
    found = {key: mapped(child, function, join(name, key)) for key, child in entries}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(**found)
    if isinstance(value, tuple | list):
        return type(value)(found.values())
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **found)
    return dict(found)
