"""Recognises activations that exporters write out in several equations; each becomes one pointwise operation.

RULES section 5 hands the relevance of a one-input function to its input; written out, parts of it would go to the
constants of sums and half of it to either factor of products.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from backtrace_jax.ir import Eqn

from .fitting import Bound
from .patterns import Hole, Number, Pattern, call
from .rewriting import Form, Recogniser, Replacement, Rewriting, becomes

x, slope = Hole("x"), Hole("slope", known=True)
alpha, beta = Number("alpha", 1e-6, 1e6), Number("beta", 1e-6, 1e6)
scale = Number("scale")
_ROOT_TWO_OVER_PI = math.sqrt(2 / math.pi)


def _halved(function: Pattern) -> Pattern:
    """x (1 + f) / 2, multiplied out or not."""
    once = 0.5 * x * (1 + function) | x * (0.5 + 0.5 * function)
    return once | 0.5 * (x + x * function) | 0.5 * x + 0.5 * x * function


def _cubic(factor: float) -> Pattern:
    """factor (x + 0.044715 x³), multiplied out or not."""
    once = factor * (x + 0.044715 * x * x * x) | factor * x * (1 + 0.044715 * x * x)
    return once | factor * x + factor * 0.044715 * x * x * x


def _hard_sigmoid(rewriting: Rewriting, eqn: Eqn, bound: Bound) -> Replacement:
    """clip(alpha x + beta, 0, high) times what makes its range [0, 1], with 1/2 at 0."""
    high, factor = bound["high"], bound.get("scale", 1.0)
    if not (math.isclose(high * factor, 1, rel_tol=1e-4) and math.isclose(2 * bound["beta"], high, rel_tol=1e-4)):
        return None
    return becomes("hard_sigmoid", alpha=bound["alpha"] / high, beta=0.5)(rewriting, eqn, bound)


def _celu(rewriting: Rewriting, eqn: Eqn, bound: Bound) -> Replacement:
    """alpha (exp(rate x) - 1) below 0, whose slope at 0 is 1."""
    if not math.isclose(bound["alpha"] * bound["rate"], 1, rel_tol=1e-4):
        return None
    return becomes("celu", alpha=bound["alpha"])(rewriting, eqn, bound)


def _prelu(multiple: float) -> Callable[[Rewriting, Eqn, Bound], Replacement]:
    """The slope is a known array times a number found, times this one."""

    def build(rewriting: Rewriting, eqn: Eqn, bound: Bound) -> Replacement:
        factor, array = bound["scale"] * multiple, rewriting.weights[bound["slope"].name]
        name = bound["slope"].name + ".slope"
        own = bound["slope"] if factor == 1 else rewriting.param(name, (array * factor).astype(array.dtype))
        return (rewriting.equation(eqn, "prelu", bound["x"], own),)

    return build


_ramp = call("relu", x)
_shifted = alpha * x + beta
_inside = call("clip", x + 3.0, low=0.0, high=6.0)
_growth = call("exp", x | call("minimum", x, 0.0)) - 1

recognise_activations = Recogniser(
    Form(call("maximum", x, 0.0), becomes("relu")),
    Form(1 / (1 + call("exp", -x)) | call("exp", x) / (1 + call("exp", x)), becomes("sigmoid")),
    Form(0.5 * (1 + call("tanh", 0.5 * x)) | 0.5 + 0.5 * call("tanh", 0.5 * x), becomes("sigmoid")),
    Form(x * call("sigmoid", x) | x / (1 + call("exp", -x)), becomes("silu")),
    Form(x * call("sigmoid", _cubic(2 * _ROOT_TWO_OVER_PI)), becomes("gelu", approximate=True)),
    Form(x * call("sigmoid", alpha * x), becomes("swish", alpha=lambda bound: bound["alpha"])),
    Form(_halved(call("erf", math.sqrt(0.5) * x)), becomes("gelu", approximate=False)),
    Form(_halved(-call("erf", -math.sqrt(0.5) * x)), becomes("gelu", approximate=False)),
    Form(_halved(call("tanh", _cubic(_ROOT_TWO_OVER_PI))), becomes("gelu", approximate=True)),
    Form(call("log", 1 + call("exp", x)), becomes("softplus")),
    Form(_ramp + call("softplus", -call("abs", x)), becomes("softplus")),
    Form(call("where", call("logical_not", call("equal", x, x)), x, call("softplus", x)), becomes("softplus")),
    Form(x * call("tanh", call("softplus", x)), becomes("mish")),
    Form(x / (1 + call("abs", x)), becomes("softsign")),
    Form(x * _inside * (1 / 6), becomes("hard_swish")),
    Form(x * call("hard_sigmoid", x, alpha=1 / 6, beta=0.5), becomes("hard_swish")),
    Form(scale * call("clip", _shifted, low=0.0, high=Number("high", 1e-6)), _hard_sigmoid),
    Form(call("clip", _shifted, low=0.0, high=Number("high", 1e-6)), _hard_sigmoid),
    Form(call("maximum", x, Number("alpha", 1e-6, 1 - 1e-6) * x), becomes("leaky_relu", alpha=lambda b: b["alpha"])),
    Form(_ramp + scale * call("relu", -x), becomes("leaky_relu", alpha=lambda bound: -bound["scale"])),
    Form(_ramp + scale * slope * call("relu", -x), _prelu(-1.0)),
    Form(_ramp + scale * slope * call("minimum", x, 0.0), _prelu(1.0)),
    Form(_ramp + scale * slope * (x - call("abs", x)), _prelu(2.0)),
    Form(
        call("where", call("greater", x, 0.0) | call("greater_equal", x, 0.0), x, alpha * _growth),
        becomes("elu", alpha=lambda b: b["alpha"]),
    ),
    Form(
        call("where", call("less", x, 0.0) | call("less_equal", x, 0.0), alpha * _growth, x),
        becomes("elu", alpha=lambda b: b["alpha"]),
    ),
    Form(_ramp + call("minimum", alpha * _growth, 0.0), becomes("elu", alpha=lambda b: b["alpha"])),
    Form(_ramp + alpha * (call("exp", Number("rate", 1e-6, 1e6) * call("minimum", x, 0.0)) - 1), _celu),
)
"""Formulae of activations, each before those that its parts would match."""
