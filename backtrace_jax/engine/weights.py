"""The weights of a model on a device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from backtrace_jax.runtime.numerics import Device, exact_types


class DeviceWeights:
    """Weights on a device, each kept once however many forms of a call are compiled from one model."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._held: dict[str, tuple[np.ndarray, Any]] = {}

    def put(self, weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The weights on the device, by name; those that are there already are not sent again."""
        for name, array in weights.items():
            held = self._held.get(name)
            if held is None or held[0].dtype != array.dtype or not np.array_equal(held[0], array):
                with exact_types():
                    self._held[name] = array, jax.device_put(array, self._device)
        return {name: self._held[name][1] for name in weights}
