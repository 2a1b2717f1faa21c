"""Executables that are compiled once and kept for the next process (see `cache`).

They are read and written by `jax.experimental.serialize_executable`, of whose results each belongs to its caller. JAX's
own cache is one for the whole process and set by settings of the whole process, which are the user's.

An executable is found by all that it follows from: the function as StableHLO, the types and trees around it, the
compiler's options, and the machine with its versions, flags and settings. So a function that differs in anything has
another name, and nothing that is found needs to be compared.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import jax
from jax.experimental import serialize_executable

from .cache import Cache, cache_of_user
from .machine import conditions

FORMAT = 2

NAMES: WeakKeyDictionary[jax.stages.Compiled, str] = WeakKeyDictionary()
"""The name under which an executable is kept, of those that are."""


def compiled_or_kept(lowered: jax.stages.Lowered, device: Any, options: Mapping[str, Any]) -> jax.stages.Compiled:
    """The executable of a function that has been lowered, with all of its arguments, for one device."""
    cache = cache_of_user()
    name = cache and _name(lowered, device, options)
    if cache is None or name is None:
        return lowered.compile(compiler_options=dict(options))
    found = load(cache, name, device)
    if found is None:
        found = lowered.compile(compiler_options=dict(options))
        _keep(cache, name, found)
    return found


def load(cache: Cache, name: str, device: Any) -> jax.stages.Compiled | None:
    """The executable that is kept under a name; None where there is none, or XLA does not take it."""
    content = cache.read(name)
    if content is None:
        return None
    try:
        executable, in_tree, out_tree = pickle.loads(content)
        found = serialize_executable.deserialize_and_load(executable, in_tree, out_tree, device.client, [device])
    except Exception:  # for reasons that its name does not tell: it is made anew
        cache.remove(name)
        return None
    NAMES[found] = name
    return found


def _keep(cache: Cache, name: str, made: jax.stages.Compiled) -> None:
    try:
        content = pickle.dumps(serialize_executable.serialize(made))
    except Exception:  # a backend, or a function, that cannot be written
        return
    cache.write(name, content)
    NAMES[made] = name


def _name(lowered: jax.stages.Lowered, device: Any, options: Mapping[str, Any]) -> str | None:
    """What an executable is found by; None for one that calls back into this process."""
    text = lowered.as_text()
    if "callback" in text:
        return None
    types = (lowered.in_tree, lowered.out_tree, lowered.args_info, lowered.out_info)
    told = [FORMAT, text, *map(str, types), dict(options), conditions(device), device.id, device.process_index]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
