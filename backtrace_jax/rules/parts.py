"""What modes are put together from: rules that most of them share, and how a rule is applied everywhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from backtrace_jax.ops import LINEAR, MOVE, NORM, POINTWISE, PRODUCT, QUOTIENT, SELECT, SOFTMAX, SUM

from . import attention, shared, slopes
from .composite import Rule, RuleFunction, Rules, Selector, first, ungated
from .site import EMBEDDING, INDEX

CONVOLUTIONS = ("conv", "conv_transpose")
WEIGHTED = (*CONVOLUTIONS, "matmul", "einsum")
"""Linear maps that mix many operands by weights; pooling, scaling and running sums have a rule of their own."""
EVIDENCE = (*WEIGHTED, "tree_sum")
"""Those, and the sum of what the splits of decision trees contributed, which has signs but no weights."""

SHARES = ("gate", "hard_sigmoid", "sigmoid", "softmax")
"""What gives gates proper: how much of a signal passes."""
ACTIVATIONS = (
    *("celu", "elu", "gelu", "hard_swish", "leaky_relu", "mish", "prelu", "relu", "selu", "silu", "softplus"),
    *("softsign", "swish", "tanh", "thresholded_relu"),
)
"""What gates the other factor of an elementwise product, as in gated linear units (Shazeer 2020)."""


def kinds(rules: dict[str, Rule]) -> Rules:
    """One rule per kind of operation."""
    return tuple((Selector(kind=kind), rule) for kind, rule in rules.items())


def make(
    name: str,
    function: RuleFunction,
    *,
    keeps_sign: bool = False,
    bounded: Any = None,
    slopes: Any = None,
    **settings: Any,
) -> Rule:
    """A rule with its settings."""
    return Rule(name, function, tuple(settings.items()), keeps_sign, bounded=bounded, slopes=slopes)


def signal_takes_all(rule: Rule) -> Rule:
    """The signal of a gated product takes all, by the rule for the linear map that the gate makes of it."""
    name = f"signal: {rule.name}"
    form = slopes.of_gated if rule.slopes else None
    return replace(rule, name=name, function=attention.signal, settings=(("rule", rule),), takers=ungated, slopes=form)


TAKE_ALL = Rule("identity", shared.identity, keeps_sign=True, takers=first, slopes=slopes.of_identity)
MOVING = {
    MOVE: Rule("move", shared.move, keeps_sign=True, slopes=slopes.of_move),
    SELECT: Rule("winner", shared.select, keeps_sign=True, slopes=slopes.of_selection),
    EMBEDDING: Rule("token", shared.embedding, keeps_sign=True),
    INDEX: Rule("index", shared.index, keeps_sign=True),
}
FROM_ZERO = Rule("from zero", shared.from_zero, takers=first)
"""For one-input functions with f(0) ≠ 0, in composites of the user's own."""
PASSING_ON = {**MOVING, POINTWISE: TAKE_ALL}
"""Rules that hand relevance to single entries as it is."""
_SHARED = {
    **PASSING_ON,
    NORM: TAKE_ALL,
    SOFTMAX: TAKE_ALL,
    QUOTIENT: replace(TAKE_ALL, name="numerator", slopes=slopes.of_quotient),
}
RECURRENT_GATE = Selector(kind=PRODUCT, gate=SHARES, recurrent=True)


def everywhere(rule: Rule) -> Rules:
    """One rule for linear maps, sums and products; inside recurrent cells the signal takes all (RULES section 8)."""
    gated = (RECURRENT_GATE, signal_takes_all(rule))
    return (gated, *kinds({LINEAR: rule, SUM: rule, PRODUCT: rule, **_SHARED}))
