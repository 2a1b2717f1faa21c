"""The host's processors, where what is known before a run is computed, whatever device runs the model."""

from __future__ import annotations

from typing import Any

import jax

from ..errors import SettingError


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
