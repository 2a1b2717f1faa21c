"""Functions applied entry by entry, of one operand that bears relevance; with several they are of kind function.

Where a function has a kink its derivative is written down, not left to how it is computed: that of the side on which
less passes, as with relu at 0; of the magnitude, 0. It is what PyTorch has for its activations.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.special import ndtri

from .linear import same_rank
from .registry import POINTWISE, register


def prelu(x: Array, slope: Array) -> Array:
    """Leaky rectifier with a slope per channel."""
    x, slope = same_rank(x, slope)
    return jnp.where(x > 0, x, slope * x)


def pow_(x: Array, exponent: Array) -> Array:
    """x raised to an exponent, broadcast."""
    x, exponent = same_rank(x, exponent)
    return jnp.power(x, exponent)


def remainder(a: Array, b: Array, *, truncate: bool) -> Array:
    """What is left of a divided by b, with the sign of a where the quotient is truncated, else with that of b."""
    a, b = same_rank(a, b)
    return lax.rem(*jnp.broadcast_arrays(a, b)) if truncate else jnp.mod(a, b)


def integer_pow(x: Array, *, exponent: int) -> Array:
    """x raised to a whole power by repeated products."""
    return lax.integer_pow(x, exponent)


def clip(x: Array, *, low: int | float | None, high: int | float | None) -> Array:
    """x kept inside an interval; None leaves a side open. At an end it no longer follows x, as with relu at 0."""
    raised = x if low is None else jnp.where(x <= low, jnp.asarray(low, x.dtype), x)
    return raised if high is None else jnp.where(raised >= high, jnp.asarray(high, x.dtype), raised)


def magnitude(x: Array) -> Array:
    """|x|."""
    return jnp.where(x == 0, jnp.zeros_like(x), jnp.abs(x))


def gelu(x: Array, *, approximate: bool) -> Array:
    """Gaussian error linear unit, exact or by tanh.

    By erf, as ONNX writes it: XLA's erfc, which JAX uses, takes three times as long.
    """
    return jax.nn.gelu(x) if approximate else x * (lax.erf(x * math.sqrt(0.5)) + 1) * 0.5


def leaky_relu(x: Array, *, alpha: float) -> Array:
    """x where positive, alpha x elsewhere."""
    return jnp.where(x > 0, x, x * alpha)


def elu(x: Array, *, alpha: float) -> Array:
    """x where positive, alpha (exp(x) - 1) elsewhere."""
    return jnp.where(x > 0, x, jnp.expm1(_not_positive(x)) * alpha)


def _not_positive(x: Array) -> Array:
    """x, or 0 where it is positive, so that its exponential does not overflow where nobody looks."""
    return jnp.where(x > 0, jnp.zeros_like(x), x)


def selu(x: Array, *, alpha: float, gamma: float) -> Array:
    """Scaled exponential linear unit."""
    return elu(x, alpha=alpha) * gamma


def celu(x: Array, *, alpha: float) -> Array:
    """Continuously differentiable exponential linear unit."""
    return jnp.where(x > 0, x, jnp.expm1(_not_positive(x) / alpha) * alpha)


def hard_sigmoid(x: Array, *, alpha: float, beta: float) -> Array:
    """alpha x + beta kept inside [0, 1]; it ends by alpha x, as XLA may round the sum and the product in one."""
    scaled, dtype = x * alpha, x.dtype
    inside = jnp.where(scaled >= 1 - beta, jnp.ones((), dtype), scaled + beta)
    return jnp.where(scaled <= -beta, jnp.zeros((), dtype), inside)


def hard_swish(x: Array) -> Array:
    """x times the hard sigmoid with slope 1/6 and offset 1/2."""
    return x * hard_sigmoid(x, alpha=1 / 6, beta=0.5)


def swish(x: Array, *, alpha: float) -> Array:
    """x times the sigmoid of alpha x."""
    return x * jax.nn.sigmoid(x * alpha)


def thresholded_relu(x: Array, *, alpha: float) -> Array:
    """x where above alpha, 0 elsewhere."""
    return jnp.where(x > alpha, x, jnp.zeros_like(x))


def standardise(x: Array, offset: Array, scale: Array) -> Array:
    """x in other units: less an offset, times a scale, broadcast."""
    x, offset, scale = same_rank(x, offset, scale)
    return (x - offset) * scale


def binarize(x: Array, *, threshold: float) -> Array:
    """1 where x is above a threshold, 0 elsewhere."""
    return (x > threshold).astype(x.dtype)


def gate(x: Array) -> Array:
    """x itself, said to be the share of a signal that passes, whatever computed it."""
    return x


def shrink(x: Array, *, bias: float, lambd: float) -> Array:
    """x moved towards 0 by `bias` where its magnitude is above `lambd`, 0 elsewhere."""
    zero = jnp.zeros_like(x)
    return jnp.where(x < -lambd, x + bias, jnp.where(x > lambd, x - bias, zero))


register(
    POINTWISE,
    {
        "abs": magnitude,
        "acos": jnp.acos,
        "acosh": jnp.acosh,
        "asin": jnp.asin,
        "asinh": jnp.asinh,
        "atan": jnp.atan,
        "atanh": jnp.atanh,
        "binarize": binarize,
        "cbrt": lax.cbrt,
        "ceil": jnp.ceil,
        "celu": celu,
        "clip": clip,
        "cos": jnp.cos,
        "cosh": jnp.cosh,
        "digamma": lax.digamma,
        "elu": elu,
        "erf": lax.erf,
        "erf_inv": lax.erf_inv,
        "exp": jnp.exp,
        "floor": jnp.floor,
        "gate": gate,
        "gelu": gelu,
        "hard_sigmoid": hard_sigmoid,
        "hard_swish": hard_swish,
        "integer_pow": integer_pow,
        "leaky_relu": leaky_relu,
        "lgamma": lax.lgamma,
        "log": jnp.log,
        "mish": jax.nn.mish,
        "neg": lax.neg,
        "probit": ndtri,
        "reciprocal": jnp.reciprocal,
        "relu": jax.nn.relu,
        "round": jnp.round,
        "rsqrt": lax.rsqrt,
        "selu": selu,
        "shrink": shrink,
        "sigmoid": jax.nn.sigmoid,
        "sign": jnp.sign,
        "silu": jax.nn.silu,
        "sin": jnp.sin,
        "sinh": jnp.sinh,
        "softplus": jax.nn.softplus,
        "softsign": jax.nn.soft_sign,
        "sqrt": jnp.sqrt,
        "swish": swish,
        "tan": jnp.tan,
        "tanh": jnp.tanh,
        "thresholded_relu": thresholded_relu,
    },
)
register(POINTWISE, {"pow": pow_, "remainder": remainder})
register(POINTWISE, {"prelu": prelu, "standardise": standardise}, carriers=(0,))
