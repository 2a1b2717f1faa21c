"""A model as a pure function of its weights and its inputs, and the paths of its arrays."""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from backtrace_jax.errors import ModelError

from ..keys import is_key as holds_keys
from ..scopes import joined


@dataclass(frozen=True)
class Model:
    """A model as a pure function.

    Attributes:
        name: What to call it in messages.
        framework: Whose module it is, with the version.
        function: Takes the weights, then what the model's user passes.
        weights: Arrays by their path in the model, as `function` takes them.
        signature: Of what the model's user calls; None where Python does not know it.
        single: Whether it is written for one example, so that a batch takes `jax.vmap` of it.
        held: Arrays by path that a function holds, and reads without being passed them.
        notes: What its owner should know of how it is evaluated.
    """

    name: str
    framework: str
    function: Callable[..., Any]
    weights: Mapping[str, Any]
    signature: inspect.Signature | None
    single: bool = False
    held: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


Rebuild = Callable[[Mapping[str, Any]], Any]
"""Puts arrays by path back into the tree that they were taken out of."""


def version(package: str) -> str:
    """A framework that is loaded, with its version."""
    return f"{package} {sys.modules[package].__version__}"


def training_note(name: str, path: str, switch: str) -> str:
    """That a module is explained in another mode than it is in."""
    return (
        f"{name[:30]} is in train mode ({path!r}) and is explained as in evaluation: no dropout, batch norm by its "
        f"running statistics; {switch} agrees"
    )


def signature_of(called: Any, without: str = "") -> inspect.Signature | None:
    """The signature of what a user calls, without the parameter that is passed for him."""
    try:
        found = inspect.signature(called)
    except (TypeError, ValueError):
        return None
    return found.replace(parameters=[each for name, each in found.parameters.items() if name != without])


def is_array(value: Any) -> bool:
    """Whether this is data; numbers of Python are settings."""
    return isinstance(value, jax.Array | np.ndarray | np.generic)


def is_key(value: Any) -> bool:
    """Whether these are keys of random numbers, with a type of their own."""
    return isinstance(value, jax.Array) and holds_keys(value)


def path_of(keys: Iterable[Any]) -> str:
    """The path that keys of a tree make: fields, places, and keys of mappings."""
    return joined(*map(_key, keys))


def _key(key: Any) -> str:
    return str(next((getattr(key, kind) for kind in ("key", "idx", "name") if hasattr(key, kind)), key))


def arrays_of(tree: Any, front: str = "", *, owner: str) -> tuple[dict[str, Any], Rebuild]:
    """The arrays of a tree by path, and what puts others in their places; all else stays as it is.

    Args:
        tree: A tree of arrays.
        front: Where the tree is.
        owner: Whose arrays these are, for messages.

    Raises:
        ModelError: When an entry stands for an array that is not there, or is of another framework.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    for path, leaf in leaves:
        check_loaded(owner, joined(front, path_of(path)), leaf)
    names = unique([joined(front, path_of(path)) for path, _ in leaves])
    arrays = {name: leaf for name, (_, leaf) in zip(names, leaves, strict=True) if is_array(leaf)}

    def rebuild(weights: Mapping[str, Any]) -> Any:
        filled = [weights.get(name, leaf) for name, (_, leaf) in zip(names, leaves, strict=True)]
        return jax.tree_util.tree_unflatten(structure, filled)

    return arrays, rebuild


def shortened(
    arrays: dict[str, Any], rebuild: Rebuild, shorten: Callable[[str], str]
) -> tuple[dict[str, Any], Rebuild]:
    """The arrays under shorter paths, as long as these still tell them apart."""
    full = {shorten(path): path for path in arrays}
    if len(full) < len(arrays) or "" in full:
        return arrays, rebuild
    found = {short: arrays[path] for short, path in full.items()}
    return found, lambda weights: rebuild({full[short]: array for short, array in weights.items() if short in full})


def unique(names: Iterable[str]) -> list[str]:
    """The same names; one that was there before has a number behind it."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        found.append(f"{name}:{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found


def check_loaded(owner: str, path: str, leaf: Any) -> None:
    """Refuse weights that are no arrays of JAX or NumPy.

    Raises:
        ModelError: Naming the entry, and the way out.
    """
    if isinstance(leaf, jax.ShapeDtypeStruct | Tracer):
        said = "a shape without numbers" if isinstance(leaf, jax.ShapeDtypeStruct) else "inside a JAX transformation"
        raise ModelError(
            f"the weights of {owner} are not there: {path!r} is {said}; initialise or restore them, and explain "
            "outside of jit, grad and vmap"
        )
    if isinstance(leaf, jax.Array) and leaf.is_deleted():
        raise ModelError(
            f"the weights of {owner} are gone: {path!r} was donated or deleted; pass those that replace it"
        )
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        raise ModelError(
            f"the weights of {owner} lie on other processes too: {path!r}; gather them first, for example by "
            "jax.experimental.multihost_utils.process_allgather"
        )
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(leaf, torch.Tensor):
        raise ModelError(f"{path!r} of {owner} is a torch tensor; pass arrays of JAX or NumPy: tensor.detach().numpy()")
