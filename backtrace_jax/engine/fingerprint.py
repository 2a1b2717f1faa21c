"""What a result depends on, so that it can be made again to the byte."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from backtrace_jax.ops import compile_on_host
from backtrace_jax.runtime.machine import jax_settings, simd, threads, versions, xla_flags
from backtrace_jax.runtime.numerics import COMPILER_OPTIONS, Device

_FEATURES = re.compile(rb"[+-][a-z0-9.-]+(?:,[+-][a-z0-9.-]+)+")
"""Features of a processor, as LLVM lists them in a compiled function: `+avx2,-sse4a`."""


@cache
def instruction_set() -> str:
    """What XLA takes the host's processor to be capable of, as a function that it compiles for this says.

    A later version of XLA may not say so; then this is what NumPy finds.
    """
    trivial = compile_on_host(jnp.negative, jax.ShapeDtypeStruct((), np.float32))
    listed = max(_FEATURES.findall(trivial.runtime_executable().serialize()), key=len, default=b"").decode()  # type: ignore[attr-defined]
    found = [each[1:] for each in listed.split(",") if each.startswith("+")]
    return " ".join(found or simd())


def digest(array: np.ndarray) -> str:
    """SHA-256 of an array's type, shape and entries."""
    return hashlib.sha256(
        f"{array.dtype.name} {array.shape}".encode() + np.ascontiguousarray(array).tobytes()
    ).hexdigest()


def surroundings(device: Device) -> dict[str, Any]:
    """Versions, device, processor, flags and settings as they are: to be asked for when a function is compiled."""
    return {
        **versions(),
        "backend": device.platform,
        "device": device.device_kind,
        "platform_version": device.client.platform_version,
        "threads": threads(),
        "instruction_set": instruction_set(),
        "compiler_options": dict(COMPILER_OPTIONS.get(device.platform, {})),
        "xla_flags": xla_flags(),
        "jax_settings": jax_settings(),
    }


def as_json(said: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of a result by name, as JSON gives it back."""
    return {name: _as_json(value) for name, value in said.items()}


def copied(said: Mapping[str, Any]) -> dict[str, Any]:
    """The same for an owner who may change it."""
    return {name: _copied(value) if type(value) in _NESTED else value for name, value in said.items()}


_NESTED = (dict, list)


def _copied(value: Any) -> Any:
    if isinstance(value, list):
        return [_copied(each) for each in value]
    return copied(value) if isinstance(value, dict) else value


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What two fingerprints differ in: both values by name, None where one has none; inside of fields after a dot."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in dict.fromkeys((*one, *other)):
        first, second = one.get(name), other.get(name)
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            found |= {f"{name}.{inner}": pair for inner, pair in differences(first, second).items()}
        elif first != second:
            found[name] = first, second
    return found


def _as_json(value: Any) -> Any:
    """A value in the types that JSON gives back; what it cannot hold is left as it is, and refused when it is saved."""
    if isinstance(value, str | int | float | None):  # most are
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, Mapping):
        return {str(key): _as_json(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_as_json(each) for each in value]
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value
