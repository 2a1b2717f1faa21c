"""What ONNX itself knows of its operators."""

from __future__ import annotations

from typing import Any

import onnx

NEWEST = 2**31 - 1  # opset that stands for all newer ones


def schema_of(domain: str, name: str, opset: int | None) -> Any:
    """ONNX's definition of an operator at an opset, an `OpSchema` (whose stubs lack functions); None: it has none."""
    domain = "" if domain == "ai.onnx" else domain
    opset = min(opset or 0, NEWEST)
    known = opset > 0 and onnx.defs.has(name, opset, domain)
    return onnx.defs.get_schema(name, opset, domain) if known else None
