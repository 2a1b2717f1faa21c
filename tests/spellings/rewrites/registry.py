"""The table of rewrites: each leaves a model's function unchanged wherever it applies."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from ..writing import Step, rewrite

REWRITES: dict[str, Step] = {}


def rewriting(function: Step) -> Step:
    """Put a rewrite in the table under its name."""
    REWRITES[function.__name__] = function
    return function


def named(name: str) -> Callable[[Step], Step]:
    """Put a rewrite in the table under a name."""

    def add(function: Step) -> Step:
        REWRITES[name] = function
        return function

    return add


def rewritten(model: onnx.ModelProto, name: str) -> tuple[onnx.ModelProto, int]:
    """The model in another spelling, and in how many places."""
    return rewrite(model, REWRITES[name])
