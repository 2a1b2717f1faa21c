"""The modes: for each name, the rules it consists of. Importing this module fills the catalogue.

`mode("lrp-gamma", gamma=0.1)` calls the function below with its options.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from ..errors import SettingError
from ..ops import LINEAR, MOVE, NORM, POINTWISE, PRODUCT, QUOTIENT, SELECT, SOFTMAX, SUM
from . import attention, contrastive, derivative, lrp, proportional, shared
from .catalogue import entry
from .composite import (
    FIRST,
    AgainstReference,
    AlongPath,
    Once,
    Rule,
    RuleFunction,
    Rules,
    Selector,
    WithNoise,
    first,
    ungated,
)
from .options import bounds, count, number
from .site import EMBEDDING, INDEX

CONVOLUTIONS = ("conv", "conv_transpose")
WEIGHTED = (*CONVOLUTIONS, "matmul", "einsum")
"""Linear maps that mix many operands by weights; pooling, scaling and running sums have a rule of their own."""
EVIDENCE = (*WEIGHTED, "tree_sum")
"""Those, and the sum of what the splits of decision trees contributed, which has signs but no weights."""


def _kinds(rules: dict[str, Rule]) -> Rules:
    return tuple((Selector(kind=kind), rule) for kind, rule in rules.items())


def _rule(name: str, function: RuleFunction, *, keeps_sign: bool = False, **settings: Any) -> Rule:
    return Rule(name, function, tuple(settings.items()), keeps_sign)


def signal_takes_all(rule: Rule) -> Rule:
    """The signal of a gated product takes all, by the rule for the linear map that the gate makes of it."""
    name = f"signal: {rule.name}"
    return replace(rule, name=name, function=attention.signal, settings=(("rule", rule),), takers=ungated)


_TAKE_ALL = Rule("identity", shared.identity, keeps_sign=True, takers=first)
_MOVING = {
    MOVE: Rule("move", shared.move, keeps_sign=True),
    SELECT: Rule("winner", shared.select, keeps_sign=True),
    EMBEDDING: Rule("token", shared.embedding, keeps_sign=True),
    INDEX: Rule("index", shared.index, keeps_sign=True),
}
PASSING_ON = {**_MOVING, POINTWISE: _TAKE_ALL}
"""Rules that hand relevance to single entries as it is."""
_SHARED = {
    **PASSING_ON,
    NORM: _TAKE_ALL,
    SOFTMAX: _TAKE_ALL,
    QUOTIENT: replace(_TAKE_ALL, name="numerator"),
}
_RECURRENT_GATE = Selector(kind=PRODUCT, gate="*", recurrent=True)


def _everywhere(rule: Rule) -> Rules:
    """One rule for linear maps, sums and products; inside recurrent cells the signal takes all (RULES section 8)."""
    gated = (_RECURRENT_GATE, signal_takes_all(rule))
    return (gated, *_kinds({LINEAR: rule, SUM: rule, PRODUCT: rule, **_SHARED}))


_DLBACKTRACE = "DLBacktrace, arXiv 2411.12643"
_PROPORTIONAL = Rule("proportional", proportional.proportional, keeps_sign=True)


@entry("default", "relevance in proportion to the magnitude of each contribution", _DLBACKTRACE)
def _default() -> Rules:
    return _everywhere(_PROPORTIONAL)


@entry("dlbacktrace-0.0.24", "as default, with the reference package's split of recurrent gates", _DLBACKTRACE)
def _dlbacktrace() -> Rules:
    gated = Rule("reference gate", proportional.reference_gate, keeps_sign=True)
    return ((_RECURRENT_GATE, gated), *_default())


@entry("contrastive", "relevance for and against the answer, travelling as a pair", _DLBACKTRACE, paired=True)
def _contrastive() -> Rules:
    return _everywhere(Rule("contrastive", contrastive.contrastive, keeps_sign=True, paired=True))


_BACH = "Bach et al. 2015"
_OVERVIEW = "Montavon et al. 2019, LRP: An Overview"
_TAYLOR = "Montavon et al. 2017, deep Taylor decomposition"


def _epsilon(epsilon: float = lrp.EPSILON, bias: str = lrp.KEEP) -> Rule:
    return _rule("epsilon", lrp.epsilon, epsilon=number("epsilon", epsilon), bias=_bias(bias))


def _lrp(rule: Rule, epsilon: float, ops: tuple[str, ...] = WEIGHTED) -> Rules:
    """A rule for linear maps with weights, epsilon wherever else contributions are added up."""
    return ((Selector(kind=LINEAR, op=ops), rule), *_everywhere(_epsilon(epsilon)))


@entry("lrp-epsilon", "shares by signed contributions, stabilised by epsilon", _BACH)
def _lrp_epsilon(epsilon: float = lrp.EPSILON, bias: str = lrp.KEEP) -> Rules:
    return _everywhere(_epsilon(epsilon, bias))


@entry("lrp-zero", "shares by signed contributions, not stabilised (LRP-0)", _BACH)
def _lrp_zero(bias: str = lrp.KEEP) -> Rules:
    return _everywhere(replace(_epsilon(0.0, bias), name="zero"))


def _gamma(gamma: float, epsilon: float, bias: str) -> Rule:
    return _rule("gamma", lrp.gamma, gamma=number("gamma", gamma), epsilon=epsilon, bias=_bias(bias))


@entry("lrp-gamma", "favours contributions of a unit's own sign by 1 + gamma", f"{_OVERVIEW}; Andéol et al. 2021")
def _lrp_gamma(gamma: float = 0.25, epsilon: float = lrp.EPSILON, bias: str = lrp.KEEP) -> Rules:
    return _lrp(_gamma(gamma, epsilon, bias), epsilon, EVIDENCE)


def _alpha_beta(alpha: float, beta: float, epsilon: float, bias: str) -> Rule:
    return _rule("alpha-beta", lrp.alpha_beta, alpha=alpha, beta=beta, epsilon=epsilon, bias=_bias(bias))


@entry("lrp-alpha2-beta1", "positive contributions twice, negative ones once taken away", _BACH)
def _lrp_alpha_beta(alpha: float = 2.0, beta: float = 1.0, epsilon: float = lrp.EPSILON, bias: str = lrp.KEEP) -> Rules:
    alpha, beta = number("alpha", alpha), number("beta", beta)
    if not math.isclose(alpha - beta, 1):
        raise SettingError(f"alpha - beta must be 1, or relevance is not conserved; found alpha={alpha}, beta={beta}")
    return _lrp(_alpha_beta(alpha, beta, epsilon, bias), epsilon, EVIDENCE)


def _z_plus(epsilon: float = lrp.EPSILON, bias: str = lrp.KEEP) -> Rule:
    return _rule("z-plus", lrp.z_plus, keeps_sign=True, epsilon=number("epsilon", epsilon), bias=_bias(bias))


@entry("lrp-alpha1-beta0", "positive contributions alone", _BACH)
@entry("lrp-zplus", "positive contributions alone (the same as alpha 1, beta 0)", _TAYLOR)
def _lrp_z_plus(epsilon: float = lrp.EPSILON, bias: str = lrp.KEEP) -> Rules:
    return _lrp(_z_plus(epsilon, bias), epsilon, EVIDENCE)


@entry("lrp-wsquare", "shares by squared weights, whatever the input", _TAYLOR)
def _lrp_w_square(epsilon: float = lrp.EPSILON, bias: str = lrp.KEEP) -> Rules:
    rule = _rule("w-square", lrp.w_square, keeps_sign=True, epsilon=number("epsilon", epsilon), bias=_bias(bias))
    return _lrp(rule, epsilon)


def _flat(epsilon: float = lrp.EPSILON) -> Rule:
    return _rule("flat", lrp.flat, keeps_sign=True, epsilon=number("epsilon", epsilon))


@entry("lrp-flat", "equal shares for all that is connected", "Lapuschkin et al. 2019")
def _lrp_flat(epsilon: float = lrp.EPSILON) -> Rules:
    return _lrp(_flat(epsilon), epsilon)


@entry("lrp-epsilon-plus", "z-plus for convolutions, epsilon for dense layers", _OVERVIEW)
def _epsilon_plus(epsilon: float = lrp.EPSILON) -> Rules:
    return _lrp(_z_plus(epsilon), epsilon, CONVOLUTIONS)


def _flat_first(rules: Rules, epsilon: float) -> Rules:
    return ((Selector(kind=LINEAR, op=WEIGHTED, position=FIRST), _flat(epsilon)), *rules)


@entry("lrp-epsilon-plus-flat", "epsilon-plus with flat for the first layer", _OVERVIEW)
def _epsilon_plus_flat(epsilon: float = lrp.EPSILON) -> Rules:
    return _flat_first(_epsilon_plus(epsilon), epsilon)


@entry("lrp-epsilon-alpha2-beta1", "alpha 2, beta 1 for convolutions, epsilon for dense layers", _OVERVIEW)
def _epsilon_alpha_beta(epsilon: float = lrp.EPSILON) -> Rules:
    return _lrp(_alpha_beta(2.0, 1.0, epsilon, lrp.KEEP), epsilon, CONVOLUTIONS)


@entry("lrp-epsilon-alpha2-beta1-flat", "epsilon-alpha2-beta1 with flat for the first layer", _OVERVIEW)
def _epsilon_alpha_beta_flat(epsilon: float = lrp.EPSILON) -> Rules:
    return _flat_first(_epsilon_alpha_beta(epsilon), epsilon)


@entry(
    "lrp-epsilon-gamma-box", "gamma for convolutions, epsilon for dense layers, z-box between input bounds", _OVERVIEW
)
def _epsilon_gamma_box(low: Any, high: Any, gamma: float = 0.25, epsilon: float = lrp.EPSILON) -> Rules:
    boxed = _rule("z-box", lrp.z_box, **bounds(low, high), epsilon=number("epsilon", epsilon))
    chosen = Selector(kind=LINEAR, op=WEIGHTED, position=FIRST)
    return ((chosen, boxed), *_lrp(_gamma(gamma, epsilon, lrp.KEEP), epsilon, CONVOLUTIONS))


def _normalisation(norm: str, epsilon: float) -> Rules:
    if norm not in (_TAKE_ALL.name, _CENTRED):
        raise SettingError(f"norm must be {_TAKE_ALL.name!r} or {_CENTRED!r}, found {norm!r}")
    rule = _rule("centred norm", attention.centred_norm, epsilon=number("epsilon", epsilon))
    return ((Selector(op="layer_norm"), rule),) if norm == _CENTRED else ()


_CENTRED = "centred"


@entry("attnlrp", "epsilon-LRP with a Taylor rule for softmax, half of a product to each factor", "arXiv 2402.05602")
def _attnlrp(epsilon: float = lrp.EPSILON, norm: str = "identity") -> Rules:
    softmax = Rule("softmax", attention.taylor_softmax)
    return (*_normalisation(norm, epsilon), (Selector(op="softmax"), softmax), *_everywhere(_epsilon(epsilon)))


@entry("cp-lrp", "epsilon-LRP that lets nothing through attention weights", "Ali et al. 2022, arXiv 2202.07304")
def _cp_lrp(epsilon: float = lrp.EPSILON, norm: str = "identity") -> Rules:
    rule = _epsilon(epsilon)
    weights = (Selector(kind=PRODUCT, gate="softmax"), signal_takes_all(rule))
    return (*_normalisation(norm, epsilon), weights, *_everywhere(rule))


_DERIVATIVE = Rule("derivative", derivative.derivative)
_CHAIN_RULE = _kinds(dict.fromkeys((LINEAR, SUM, PRODUCT, QUOTIENT, POINTWISE, NORM, SOFTMAX), _DERIVATIVE))
_GRADIENT = (*_CHAIN_RULE, *_kinds(_MOVING))
_RECTIFIER = Selector(op="relu")


@entry("gradient", "derivative of the answer by the input", "Simonyan et al. 2014", conserving=False)
def _gradient() -> Rules:
    return _GRADIENT


@entry(
    "gradient-x-input",
    "derivative times input",
    "Shrikumar et al. 2016",
    conserving=False,
    procedure=lambda: Once(times_input=True),
)
def _gradient_x_input() -> Rules:
    return _GRADIENT


@entry(
    "guided-backprop", "gradient; rectifiers pass only what is positive", "Springenberg et al. 2015", conserving=False
)
def _guided_backprop() -> Rules:
    return ((_RECTIFIER, Rule("guided", derivative.guided)), *_GRADIENT)


@entry("deconvnet", "gradient; rectifiers pass what came back positive", "Zeiler and Fergus 2014", conserving=False)
def _deconvnet() -> Rules:
    return ((_RECTIFIER, Rule("deconvnet", derivative.deconvnet)), *_GRADIENT)


@entry("excitation-backprop", "winning probabilities: z-plus everywhere", "Zhang et al. 2016")
def _excitation_backprop(epsilon: float = lrp.EPSILON) -> Rules:
    return _lrp(_z_plus(epsilon), epsilon, EVIDENCE)


@entry(
    "deeplift",
    "differences from a baseline, rescale rule",
    "Shrikumar et al. 2017",
    conserving=False,
    procedure=AgainstReference,
)
def _deeplift() -> Rules:
    mean = Rule("mean derivative", derivative.mean_derivative)
    averaged = dict.fromkeys((LINEAR, SUM, PRODUCT, QUOTIENT, NORM, SOFTMAX, SELECT), mean)
    return _kinds({POINTWISE: Rule("rescale", derivative.rescale), **averaged, **_without(_MOVING, SELECT)})


@entry(
    "integrated-gradients",
    "gradients averaged along the line from a baseline, times the difference",
    "Sundararajan et al. 2017",
    conserving=False,
    procedure=lambda steps=64: AlongPath(count("steps", steps)),
)
def _integrated_gradients() -> Rules:
    return _GRADIENT


@entry(
    "smoothgrad",
    "gradients averaged over noisy inputs",
    "Smilkov et al. 2017",
    conserving=False,
    procedure=lambda samples=32, noise=0.1, seed=0: WithNoise(
        count("samples", samples), number("noise", noise), count("seed", seed, at_least=0)
    ),
)
def _smoothgrad() -> Rules:
    return _GRADIENT


def _without(rules: dict[str, Rule], kind: str) -> dict[str, Rule]:
    return {each: rule for each, rule in rules.items() if each != kind}


def _bias(value: Any) -> str:
    if value not in (lrp.KEEP, lrp.IGNORE):
        raise SettingError(f"bias must be {lrp.KEEP!r} or {lrp.IGNORE!r}, found {value!r}")
    return value
