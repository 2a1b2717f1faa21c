"""The modes of derivatives (RULES section 11): for each name, the rules it consists of.

Importing this module adds them to the catalogue.
"""

from __future__ import annotations

from backtrace_jax.ops import FUNCTION, LINEAR, NORM, POINTWISE, PRODUCT, QUOTIENT, SELECT, SOFTMAX, SUM

from . import derivative
from .catalogue import entry
from .composite import AgainstReference, AlongPath, Once, Rule, Rules, Selector, WithNoise
from .options import count, number
from .parts import MOVING, kinds

_DERIVATIVE = Rule("derivative", derivative.derivative)
_CHAIN_RULE = kinds(dict.fromkeys((LINEAR, SUM, PRODUCT, QUOTIENT, POINTWISE, NORM, SOFTMAX, FUNCTION), _DERIVATIVE))
_GRADIENT = (*_CHAIN_RULE, *kinds(MOVING))
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


@entry(
    "deeplift",
    "differences from a baseline, rescale rule",
    "Shrikumar et al. 2017",
    conserving=False,
    procedure=AgainstReference,
)
def _deeplift() -> Rules:
    mean = Rule("mean derivative", derivative.mean_derivative)
    averaged = dict.fromkeys((LINEAR, SUM, PRODUCT, QUOTIENT, NORM, SOFTMAX, SELECT, FUNCTION), mean)
    return kinds({POINTWISE: Rule("rescale", derivative.rescale), **averaged, **_without(MOVING, SELECT)})


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
