"""Hash of a model of JAX: its arrays, its structure, and what a function holds and reads (`importers.state`).

Flax, Equinox, Haiku and JAX itself do not change while a program runs, so of their code the names are enough. What no
one can look into (a generator, an object of another language) leaves a model without a hash: it is traced every time.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from .. import state
from .models.model import is_key

_OWN = "_pytree__"  # what nnx keeps for itself in every module
_INERT = ("_abc", "_thread", "types", "typing", "weakref")  # of these, objects without attributes are no settings
_NAMED = (types.BuiltinFunctionType, types.WrapperDescriptorType, types.MethodWrapperType, np.ufunc, np.dtype)


def state_of(*values: Any) -> str | None:
    """Hash of a model and whatever belongs to it; None where something cannot be looked into."""
    found = _Hash()
    found.add(values)
    return None if found.hidden or found.cut else found.digest.hexdigest()


class _Hash(state.Hash):
    plain = (*state.Hash.plain, np.generic, type(Ellipsis))
    arrays = (np.ndarray, jax.Array)
    foreign = state.Hash.foreign | {
        "jax",
        "jaxlib",
        "flax",
        "equinox",
        "haiku",
        "optax",
        "einops",
        "jaxtyping",
        "chex",
        "scipy",
    }

    def __init__(self) -> None:
        super().__init__()
        self.hidden = False

    def numbers(self, value: Any) -> bytes | memoryview:
        return super().numbers(np.asarray(jax.random.key_data(value) if is_key(value) else value))

    def function(self, function: types.FunctionType) -> Iterator[Any]:
        if state.root(function) not in self.foreign:
            return super().function(function)
        self.note(f"{function.__module__}.{function.__qualname__}")
        return state.bound(function)

    def is_own(self, module: types.ModuleType, function: types.FunctionType) -> bool:
        return state.root(module) not in self.foreign

    def is_read(self, found: Any, function: types.FunctionType) -> bool:
        return not isinstance(found, types.ModuleType)

    def attributes(self, value: Any) -> Iterator[Any]:
        if isinstance(value, _NAMED):
            self.note(str(value) if isinstance(value, np.dtype) else _name(value))
            yield getattr(value, "__self__", None)
            return
        if _is_linen(value):
            yield {name: getattr(value, name, None) for name in value.__dataclass_fields__ if name != "parent"}
            yield value.variables if value.scope is not None else None
            yield from self.members(type(value))
            return
        slots = [name for kind in type(value).__mro__ for name in _slots(kind)]
        if not hasattr(value, "__dict__") and not slots:
            yield from self._reduced(value)
            return
        own = {key: each for key, each in getattr(value, "__dict__", {}).items() if not str(key).startswith(_OWN)}
        yield own | {name: getattr(value, name, None) for name in slots}
        yield from self.members(type(value))

    def _reduced(self, value: Any) -> Iterator[Any]:
        """An object without attributes, by what it would be made of once more."""
        package = state.root(type(value))
        if package in _INERT:
            return
        if package in ("jax", "jaxlib"):
            self.note(str(value))  # trees, devices and the like: constants
            return
        try:
            yield value.__reduce_ex__(4)
        except Exception:  # whatever it raises, it cannot be looked into
            self.hidden = True


def _is_linen(value: Any) -> bool:
    linen = sys.modules.get("flax.linen")
    return linen is not None and isinstance(value, linen.Module)


def _slots(kind: type) -> tuple[str, ...]:
    found = vars(kind).get("__slots__", ())
    names = (found,) if isinstance(found, str) else tuple(found)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', getattr(value, '__name__', ''))}"
