"""Recognises softmax and its logarithm where they are written out, and division written as a product."""

from __future__ import annotations

from collections.abc import Callable

from backtrace_jax.ir import Eqn

from .fitting import Bound
from .patterns import Hole, Pattern, Reduced, Setting, call
from .rewriting import Form, Recogniser, Replacement, Rewriting, becomes

x, a, b = Hole("x"), Hole("a"), Hole("b")


def _finite(value: Pattern) -> Pattern:
    """A value, or 0 in place of it where it is not finite."""
    return value | call(
        "where", call("logical_not", call("logical_or", call("is_nan", value), call("is_inf", value))), value, 0.0
    )


_largest = _finite(Reduced("reduce_max", x))


def _exp(value: Pattern) -> Pattern:
    return call("exp", value)


def _total(value: Pattern) -> Pattern:
    return Reduced("reduce_sum", value)


def _log_sum_exp(keeps: bool) -> Form:
    """With the largest entry taken out first; without that, rules and function are those of log, sum and exp."""
    total = Reduced("reduce_sum", _exp(x - _largest), keeps)
    total = total | call("abs", total)
    found = becomes("log_sum_exp", axes=lambda bound: bound["axes"], keepdims=keeps)
    return Form(call("log", total) + _finite(Reduced("reduce_max", x, keeps)), found)


def _along_axis(op: str) -> Callable[[Rewriting, Eqn, Bound], Replacement]:
    """The operation along the one axis that was summed over."""

    def build(rewriting: Rewriting, eqn: Eqn, bound: Bound) -> Replacement:
        axes = bound["axes"]
        return becomes(op, axis=axes[0])(rewriting, eqn, bound) if len(axes) == 1 else None

    return build


recognise_softmax = Recogniser(
    Form(_exp(x - _largest) / _total(_exp(x - _largest)), _along_axis("softmax")),
    Form(_exp(x) / _total(_exp(x)), _along_axis("softmax")),
    Form(x - _largest - call("log", _total(_exp(x - _largest))), _along_axis("log_softmax")),
    Form(x - call("log", _total(_exp(x))), _along_axis("log_softmax")),
    Form(x - Reduced("log_sum_exp", x), _along_axis("log_softmax")),
    _log_sum_exp(keeps=True),
    _log_sum_exp(keeps=False),
    Form(
        call("log", call("softmax", x, axis=Setting("axis"))), becomes("log_softmax", axis=lambda bound: bound["axis"])
    ),
)
"""With the largest entry taken out first, or not; softmax is the same."""


def _by_root(rewriting: Rewriting, eqn: Eqn, bound: Bound) -> Replacement:
    root = rewriting.equation(eqn, "sqrt", bound["b"], name=eqn.outvars[0].name + ".root")
    return root, rewriting.equation(eqn, "div", bound["a"], root.outvars[0])


recognise_division = Recogniser(
    Form(a * call("reciprocal", b) | a * call("integer_pow", b, exponent=-1), becomes("div", "a", "b")),
    Form(a * call("rsqrt", b) | a * call("pow", b, -0.5), _by_root),
)
"""The numerator takes all, however the division is written (RULES section 4)."""
