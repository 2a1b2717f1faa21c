"""The modes: for each name, the rules it consists of. Importing this module fills the catalogue.

`mode("lrp-gamma", gamma=0.1)` calls the function below with its options.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from backtrace_jax.errors import SettingError
from backtrace_jax.ops import LINEAR, NORM, PRODUCT

from . import attention, contrastive, lrp, norms, options, proportional, slopes
from .catalogue import entry
from .composite import FIRST, Rule, Rules, Selector
from .options import KEEP, LINEAR_NORM, bounds, number
from .parts import CONVOLUTIONS, EVIDENCE, RECURRENT_GATE, WEIGHTED, everywhere, make, signal_takes_all

_DLBACKTRACE = "DLBacktrace, arXiv 2411.12643"
_PROPORTIONAL = Rule("proportional", proportional.proportional, keeps_sign=True)


@entry("default", "relevance in proportion to the magnitude of each contribution", _DLBACKTRACE)
def _default(bias: str = KEEP) -> Rules:
    kept = options.bias(bias) == KEEP
    return everywhere(_PROPORTIONAL if kept else replace(_PROPORTIONAL, settings=(("bias", bias),)))


@entry("dlbacktrace-0.0.24", "as default, with the reference package's split of recurrent gates", _DLBACKTRACE)
def _dlbacktrace() -> Rules:
    gated = Rule("reference gate", proportional.reference_gate, keeps_sign=True)
    return ((RECURRENT_GATE, gated), *_default())


@entry("contrastive", "relevance for and against the answer, travelling as a pair", _DLBACKTRACE, paired=True)
def _contrastive(bias: str = KEEP) -> Rules:
    """A bias takes nothing, kept or ignored; it only helps to decide which evidence a unit stands for."""
    options.bias(bias)
    return everywhere(Rule("contrastive", contrastive.contrastive, keeps_sign=True, paired=True))


_BACH = "Bach et al. 2015"
_OVERVIEW = "Montavon et al. 2019, LRP: An Overview"
_TAYLOR = "Montavon et al. 2017, deep Taylor decomposition"


_LIMIT = 0.0
"""Epsilon of a vanishing stabiliser: the walk carries slopes (docs/slopes.md)."""


def _limit(form: Any, epsilon: float, bias: str = KEEP) -> Any:
    """The slope form of a rule, which is the limit of a vanishing stabiliser, and lets the bias take its share."""
    return form if number("epsilon", epsilon) == _LIMIT and options.bias(bias) == KEEP else None


def _epsilon(epsilon: float = lrp.EPSILON, bias: str = KEEP) -> Rule:
    given = {"epsilon": number("epsilon", epsilon), "bias": options.bias(bias)}
    return make("epsilon", lrp.epsilon, slopes=_limit(slopes.of_linear, **given), **given)


def _family(epsilon: float, norm: str, bias: str = KEEP) -> Rules:
    """Epsilon wherever contributions are added up, and with it what keeps R/x bounded (RULES sections 6 and 7).

    A norm is an identity only in its deviation. A softmax inside the network is expanded; where it gives the answer
    itself, relevance starts above it and is handed on as it is.
    """
    softened = _limit(slopes.of_softmax, epsilon)
    inner = {
        "softmax": Rule("softmax", attention.taylor_softmax, slopes=slopes.of_softmax),
        "log_softmax": make("log-softmax", attention.taylor_log_softmax, slopes=softened, epsilon=epsilon),
    }
    expanded = tuple((Selector(op=op, answer=False), rule) for op, rule in inner.items())
    form = _limit(slopes.of_norm, epsilon, bias)
    linear = make("linear part", norms.at_fixed_deviation, slopes=form, epsilon=epsilon, bias=bias)
    normed = ((Selector(kind=NORM), linear),) if options.norm(norm) == LINEAR_NORM else ()
    return (*expanded, *normed, *everywhere(_epsilon(epsilon, bias)))


def _lrp(rule: Rule, epsilon: float, norm: str, ops: tuple[str, ...] = WEIGHTED, bias: str = KEEP) -> Rules:
    """A rule for linear maps with weights, those of the family elsewhere."""
    return ((Selector(kind=LINEAR, op=ops), rule), *_family(epsilon, norm, bias))


@entry("lrp-epsilon", "shares by signed contributions, stabilised by epsilon", _BACH)
def _lrp_epsilon(epsilon: float = _LIMIT, bias: str = KEEP, norm: str = LINEAR_NORM) -> Rules:
    return _family(epsilon, norm, bias)


@entry("lrp-zero", "shares by signed contributions, not stabilised (LRP-0)", _BACH)
def _lrp_zero(bias: str = KEEP, norm: str = LINEAR_NORM) -> Rules:
    return _family(_LIMIT, norm, bias)


def _gamma(gamma: float, epsilon: float, bias: str) -> Rule:
    return make("gamma", lrp.gamma, gamma=number("gamma", gamma), epsilon=epsilon, bias=options.bias(bias))


@entry("lrp-gamma", "favours contributions of a unit's own sign by 1 + gamma", f"{_OVERVIEW}; Andéol et al. 2021")
def _lrp_gamma(gamma: float = 0.25, epsilon: float = lrp.EPSILON, bias: str = KEEP, norm: str = LINEAR_NORM) -> Rules:
    return _lrp(_gamma(gamma, epsilon, bias), epsilon, norm, EVIDENCE, bias)


def _alpha_beta(alpha: float, beta: float, epsilon: float, bias: str) -> Rule:
    return make("alpha-beta", lrp.alpha_beta, alpha=alpha, beta=beta, epsilon=epsilon, bias=options.bias(bias))


@entry("lrp-alpha2-beta1", "positive contributions twice, negative ones once taken away", _BACH)
def _lrp_alpha_beta(
    alpha: float = 2.0, beta: float = 1.0, epsilon: float = lrp.EPSILON, bias: str = KEEP, norm: str = LINEAR_NORM
) -> Rules:
    alpha, beta = number("alpha", alpha), number("beta", beta)
    if not math.isclose(alpha - beta, 1):
        raise SettingError(f"alpha - beta must be 1, or relevance is not conserved; found alpha={alpha}, beta={beta}")
    return _lrp(_alpha_beta(alpha, beta, epsilon, bias), epsilon, norm, EVIDENCE, bias)


def _z_plus(epsilon: float = lrp.EPSILON, bias: str = KEEP) -> Rule:
    return make("z-plus", lrp.z_plus, keeps_sign=True, epsilon=number("epsilon", epsilon), bias=options.bias(bias))


@entry("lrp-alpha1-beta0", "positive contributions alone", _BACH)
@entry("lrp-zplus", "positive contributions alone (the same as alpha 1, beta 0)", _TAYLOR)
def _lrp_z_plus(epsilon: float = lrp.EPSILON, bias: str = KEEP, norm: str = LINEAR_NORM) -> Rules:
    return _lrp(_z_plus(epsilon, bias), epsilon, norm, EVIDENCE, bias)


@entry("lrp-wsquare", "shares by squared weights, whatever the input", _TAYLOR)
def _lrp_w_square(epsilon: float = lrp.EPSILON, bias: str = KEEP, norm: str = LINEAR_NORM) -> Rules:
    rule = make("w-square", lrp.w_square, keeps_sign=True, epsilon=number("epsilon", epsilon), bias=options.bias(bias))
    return _lrp(rule, epsilon, norm, bias=bias)


def _flat(epsilon: float = lrp.EPSILON) -> Rule:
    return make("flat", lrp.flat, keeps_sign=True, epsilon=number("epsilon", epsilon))


@entry("lrp-flat", "equal shares for all that is connected", "Lapuschkin et al. 2019")
def _lrp_flat(epsilon: float = lrp.EPSILON, norm: str = LINEAR_NORM) -> Rules:
    return _lrp(_flat(epsilon), epsilon, norm)


@entry("lrp-epsilon-plus", "z-plus for convolutions, epsilon for dense layers", _OVERVIEW)
def _epsilon_plus(epsilon: float = lrp.EPSILON, norm: str = LINEAR_NORM) -> Rules:
    return _lrp(_z_plus(epsilon), epsilon, norm, CONVOLUTIONS)


def _flat_first(rules: Rules, epsilon: float) -> Rules:
    return ((Selector(kind=LINEAR, op=WEIGHTED, position=FIRST), _flat(epsilon)), *rules)


@entry("lrp-epsilon-plus-flat", "epsilon-plus with flat for the first layer", _OVERVIEW)
def _epsilon_plus_flat(epsilon: float = lrp.EPSILON, norm: str = LINEAR_NORM) -> Rules:
    return _flat_first(_epsilon_plus(epsilon, norm), epsilon)


@entry("lrp-epsilon-alpha2-beta1", "alpha 2, beta 1 for convolutions, epsilon for dense layers", _OVERVIEW)
def _epsilon_alpha_beta(epsilon: float = lrp.EPSILON, norm: str = LINEAR_NORM) -> Rules:
    return _lrp(_alpha_beta(2.0, 1.0, epsilon, KEEP), epsilon, norm, CONVOLUTIONS)


@entry("lrp-epsilon-alpha2-beta1-flat", "epsilon-alpha2-beta1 with flat for the first layer", _OVERVIEW)
def _epsilon_alpha_beta_flat(epsilon: float = lrp.EPSILON, norm: str = LINEAR_NORM) -> Rules:
    return _flat_first(_epsilon_alpha_beta(epsilon, norm), epsilon)


@entry(
    "lrp-epsilon-gamma-box", "gamma for convolutions, epsilon for dense layers, z-box between input bounds", _OVERVIEW
)
def _epsilon_gamma_box(
    low: Any, high: Any, gamma: float = 0.25, epsilon: float = lrp.EPSILON, norm: str = LINEAR_NORM
) -> Rules:
    settings = {**bounds(low, high), "epsilon": number("epsilon", epsilon)}
    boxed = make("z-box", lrp.z_box, bounded=lrp.within_box, **settings)
    chosen = Selector(kind=LINEAR, op=WEIGHTED, position=FIRST)
    return ((chosen, boxed), *_lrp(_gamma(gamma, epsilon, KEEP), epsilon, norm, CONVOLUTIONS))


@entry("attnlrp", "epsilon-LRP with a Taylor rule for softmax, half of a product to each factor", "arXiv 2402.05602")
def _attnlrp(epsilon: float = _LIMIT, norm: str = LINEAR_NORM) -> Rules:
    return _family(epsilon, norm)


@entry(
    "cp-lrp", "epsilon-LRP that lets nothing through attention weights and gates", "Ali et al. 2022, arXiv 2202.07304"
)
def _cp_lrp(epsilon: float = _LIMIT, norm: str = LINEAR_NORM) -> Rules:
    gated = (Selector(kind=PRODUCT, gate="*"), signal_takes_all(_epsilon(epsilon)))
    return (gated, *_family(epsilon, norm))


@entry("excitation-backprop", "winning probabilities: z-plus everywhere", "Zhang et al. 2016")
def _excitation_backprop(epsilon: float = lrp.EPSILON) -> Rules:
    """Norms and softmax stay an identity: probabilities must not change sign, which centring would do."""
    return ((Selector(kind=LINEAR, op=EVIDENCE), _z_plus(epsilon)), *everywhere(_epsilon(epsilon)))
