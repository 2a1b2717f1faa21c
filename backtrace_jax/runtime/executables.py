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
from collections.abc import Mapping
from typing import Any

import jax
from jax.experimental import serialize_executable

from .cache import Cache, cache_of_user
from .machine import conditions

FORMAT = 1


def compiled_or_kept(lowered: jax.stages.Lowered, device: Any, options: Mapping[str, Any]) -> jax.stages.Compiled:
    """The executable of a function that has been lowered, with all of its arguments, for one device."""
    cache = cache_of_user()
    name = cache and _name(lowered, device, options)
    if cache is None or name is None:
        return lowered.compile(compiler_options=dict(options))
    return _kept(cache, name, lowered, device) or _made(cache, name, lowered, options)


def _kept(cache: Cache, name: str, lowered: jax.stages.Lowered, device: Any) -> jax.stages.Compiled | None:
    content = cache.read(name)
    if content is None:
        return None
    try:
        return serialize_executable.deserialize_and_load(
            content, lowered.in_tree, lowered.out_tree, device.client, [device]
        )
    except Exception:  # whatever XLA does not take any more, for reasons that the name does not tell, is made anew
        cache.remove(name)
        return None


def _made(cache: Cache, name: str, lowered: jax.stages.Lowered, options: Mapping[str, Any]) -> jax.stages.Compiled:
    made = lowered.compile(compiler_options=dict(options))
    try:
        content = serialize_executable.serialize(made)[0]
    except Exception:  # a backend, or a function, that cannot be written
        return made
    cache.write(name, content)
    return made


def _name(lowered: jax.stages.Lowered, device: Any, options: Mapping[str, Any]) -> str | None:
    """What an executable is found by; None for one that calls back into this process."""
    text = lowered.as_text()
    if "callback" in text:
        return None
    types = (lowered.in_tree, lowered.out_tree, lowered.args_info, lowered.out_info)
    told = [FORMAT, text, *map(str, types), dict(options), conditions(device), device.id, device.process_index]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
