"""The host's processors, where what is known before a run is computed, whatever device runs the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ..errors import SettingError
from ..numerics import compiled, exact_types


def host_devices() -> list[Any]:
    """The host's processors, as JAX counts them.

    Raises:
        SettingError: When JAX has been told to leave them out.
    """
    try:
        return jax.local_devices(backend="cpu")
    except RuntimeError as error:
        raise SettingError(
            f"JAX may not use the host's CPU here ({error}), but the constants of a model are computed there; "
            "add it after the device that is to run the model: JAX_PLATFORMS=cuda,cpu"
        ) from error


def compile_on_host(function: Callable[..., Any], *types: Any) -> Callable[..., Any]:
    """Compile a function of arrays of these types for the host."""
    return compiled(function, *types, device=host_devices()[0])


def run_on_host(function: Callable[..., Any], *operands: np.ndarray) -> Any:
    """What a function that is compiled for the host makes of arrays."""
    with exact_types():
        return jax.tree.map(np.asarray, function(*jax.device_put(operands, host_devices()[0])))
