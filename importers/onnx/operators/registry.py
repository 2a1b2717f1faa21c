"""The table of ONNX operators and the choice of implementation for an opset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from backtrace_jax.errors import UnsupportedError

from ..verify import shortened
from .exclusions import exclusion

Operator = Callable[..., Any]
"""`operator(lowering, *operands, **attributes)`; parameters bear the ONNX attribute names, absent operands are None."""

OPERATORS: dict[tuple[str, str], dict[int, Operator]] = {}

_RANDOM = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
}


def operator(*names: str, since: int = 1, domain: str = "") -> Callable[[Operator], Operator]:
    """Register an implementation of operators for all opsets from `since` up to the next one registered."""

    def decorate(function: Operator) -> Operator:
        for name in names:
            OPERATORS.setdefault((domain, name), {})[since] = function
        return function

    return decorate


def find_operator(domain: str, name: str, opset: int) -> Operator:
    """The newest implementation not above the opset.

    Raises:
        UnsupportedError: When there is none.
    """
    domain = "" if domain == "ai.onnx" else domain
    versions = OPERATORS.get((domain, name), {})
    usable = [since for since in versions if since <= opset]
    if not usable:
        raise UnsupportedError(_advice(domain, name, sorted(versions)))
    return versions[max(usable)]


def is_random(name: str) -> bool:
    """Whether an operator draws random numbers, so that it must not be computed while lowering."""
    return name in _RANDOM


def _advice(domain: str, name: str, versions: list[int]) -> str:
    if versions:
        return f"operator {name} is implemented from opset {versions[0]} on; re-export the model at a newer opset"
    qualified = shortened(f"{domain}.{name}" if domain else name)
    reason = exclusion(domain, name)
    if reason:
        return f"operator {qualified} {reason}"
    return f"operator {qualified} has no implementation yet; replace it in the model or export with standard operators"
