"""The host's processors, where what is known before a run is computed, whatever device runs the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import ml_dtypes
import numpy as np

from backtrace_jax.runtime.machine import host_devices
from backtrace_jax.runtime.numerics import compiled, exact_types

_AS_BYTES = {
    np.dtype(narrow): np.dtype(wide)
    for narrow, wide in (
        (ml_dtypes.int2, np.int8),
        (ml_dtypes.int4, np.int8),
        (ml_dtypes.uint2, np.uint8),
        (ml_dtypes.uint4, np.uint8),
        (ml_dtypes.float4_e2m1fn, np.float32),
    )
}
"""Types of less than a byte, and those they are handed over in: JAX compiles for packed arrays, and passes others."""


def compile_on_host(function: Callable[..., Any], *types: jax.ShapeDtypeStruct) -> Callable[..., Any]:
    """Compile a function of arrays of these types for the host, to be run by `run_on_host`."""

    def handed(*operands: Any) -> Any:
        return function(*(x.astype(each.dtype) for x, each in zip(operands, types, strict=True)))

    wide = (jax.ShapeDtypeStruct(each.shape, _AS_BYTES.get(each.dtype, each.dtype)) for each in types)
    return compiled(handed, *wide, device=host_devices()[0])


def run_on_host(function: Callable[..., Any], *operands: np.ndarray) -> Any:
    """What a function that is compiled for the host makes of arrays."""
    with exact_types():
        wide = [x.astype(_AS_BYTES.get(x.dtype, x.dtype), copy=False) for x in operands]
        return jax.tree.map(np.asarray, function(*jax.device_put(wide, host_devices()[0])))
