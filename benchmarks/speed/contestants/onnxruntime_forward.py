"""ONNX Runtime's forward pass."""

from __future__ import annotations

import onnxruntime

from ..stored import Stored
from . import Prepared

PROVIDERS = {"cpu": "CPUExecutionProvider", "gpu": "CUDAExecutionProvider"}


def prepare(stored: Stored, batch: int, mode: str, device: str) -> Prepared:
    """A session with its default options.

    Raises:
        RuntimeError: When this build of ONNX Runtime cannot use the device; it would take another one.
    """
    session = onnxruntime.InferenceSession(str(stored.onnx), providers=[PROVIDERS[device]])
    if PROVIDERS[device] not in session.get_providers():
        raise RuntimeError(f"this build of onnxruntime has no {PROVIDERS[device]}")
    inputs = stored.inputs(batch)
    return Prepared(lambda: session.run(None, inputs))
