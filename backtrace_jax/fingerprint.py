"""What a result depends on, so that it can be made again to the byte."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from .numerics import COMPILER_OPTIONS, Device
from .ops import host_devices


def threads() -> int:
    """Threads of XLA's CPU backend; its narrowest convolutions (up to 16 channels) split their sums by them."""
    visible = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(int(os.environ.get("PJRT_NPROC", 0)) or visible, len(host_devices()))


def digest(array: np.ndarray) -> str:
    """SHA-256 of an array's type, shape and entries."""
    return hashlib.sha256(
        f"{array.dtype.name} {array.shape}".encode() + np.ascontiguousarray(array).tobytes()
    ).hexdigest()


def fingerprint(model_hash: str, settings: Mapping[str, Any], device: Device) -> dict[str, Any]:
    """Model hash, settings, versions, device and compiler flags, as JSON gives them back."""
    return {
        "model_sha256": model_hash,
        **{name: _as_json(value) for name, value in settings.items()},
        "backtrace_jax": version("backtrace-jax"),
        "jax": jax.__version__,
        "jaxlib": version("jaxlib"),
        "backend": device.platform,
        "device": device.device_kind,
        "threads": threads(),
        "compiler_options": COMPILER_OPTIONS.get(device.platform, {}),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def _as_json(value: Any) -> Any:
    """A value in the types that JSON gives back; what it cannot hold is left as it is, and refused when it is saved."""
    if isinstance(value, Mapping):
        return {str(key): _as_json(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_as_json(each) for each in value]
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value
