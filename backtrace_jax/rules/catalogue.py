"""The catalogue of modes: by name, with options, and composites of the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from typing import Any

from backtrace_jax.errors import SettingError
from backtrace_jax.errors.arguments import known_arguments
from backtrace_jax.errors.texts import shown

from .composite import Mode, Rule, Rules, Selector
from .options import hashable


@dataclass(frozen=True)
class Entry:
    """A mode of the catalogue.

    Attributes:
        name: What the user asks for.
        summary: One line.
        reference: Where it is published.
        make: Makes its rules from options.
        settings: Further fields of the mode.
        procedure: Makes the procedure from the same options, where there is more than one walk.
    """

    name: str
    summary: str
    reference: str
    make: Callable[..., Rules]
    settings: dict[str, Any]
    procedure: Callable[..., Any] | None = None

    @property
    def defaults(self) -> dict[str, Any]:
        """Default of every option; `inspect.Parameter.empty` where the user must give one."""
        maker = self.procedure or self.make
        return {name: parameter.default for name, parameter in inspect.signature(maker).parameters.items()}


MODES: dict[str, Entry] = {}

ALIASES = {
    "deep-lift": "deeplift",
    "dlbacktrace": "default",
    "epsilon-lrp": "lrp-epsilon",
    "epsilon-plus": "lrp-epsilon-plus",
    "epsilon-plus-flat": "lrp-epsilon-plus-flat",
    "excitation-backpropagation": "excitation-backprop",
    "gradient-times-input": "gradient-x-input",
    "guided-backpropagation": "guided-backprop",
    "ig": "integrated-gradients",
    "input-x-gradient": "gradient-x-input",
    "integrated-gradient": "integrated-gradients",
    "lrp": "lrp-epsilon",
    "lrp-0": "lrp-zero",
    "lrp-z-plus": "lrp-zplus",
    "saliency": "gradient",
    "smooth-grad": "smoothgrad",
    "vanilla-gradient": "gradient",
    "z-plus": "lrp-zplus",
    "zplus": "lrp-zplus",
}
"""Other names that modes go by; case, spaces and underscores make no difference either."""


def entry(name: str, summary: str, reference: str, procedure: Any = None, **settings: Any) -> Callable[..., Any]:
    """Add a mode to the catalogue; the decorated function makes its rules from the mode's options."""

    def decorate(make: Callable[..., Rules]) -> Callable[..., Rules]:
        MODES[name] = Entry(name, summary, reference, make, settings, procedure)
        return make

    return decorate


@known_arguments
def mode(name: Any, /, **options: Any) -> Mode:
    """The mode of this name with some of its options changed: `mode("lrp-gamma", gamma=0.1)`.

    Raises:
        SettingError: Listing the modes, or the options, there are.
    """
    entry = MODES[_canonical(name)]
    _check_options(entry, options)
    procedure = {"procedure": entry.procedure(**options)} if entry.procedure else {}
    rules = entry.make() if entry.procedure else entry.make(**options)
    chosen = tuple((key, hashable(options.get(key, default))) for key, default in entry.defaults.items())
    return Mode(entry.name, rules, entry.summary, entry.reference, chosen, **entry.settings, **procedure)


def find_mode(wanted: Any) -> Mode:
    """A mode by name, or the user's own as it is.

    Raises:
        SettingError: When it is neither, or an option must be given.
    """
    if isinstance(wanted, Mode):
        return wanted
    if not isinstance(wanted, str):
        raise SettingError(f"mode must be a name such as 'default', or a Mode, found {shown(wanted)}")
    return _plain_mode(_canonical(wanted))


@cache
def _plain_mode(name: str) -> Mode:
    """A mode with its own options, made once."""
    return mode(name)


def _canonical(name: Any) -> str:
    """The mode's own name.

    Raises:
        SettingError: When there is none, with the names closest to it.
    """
    if not isinstance(name, str):
        raise SettingError(f"a mode's name must be text such as 'default', found {shown(name)}")
    plain = "-".join(name.lower().replace("_", " ").replace("-", " ").split())
    plain = ALIASES.get(plain, plain)
    if plain in MODES:
        return plain
    close = get_close_matches(plain, [*MODES, *ALIASES], n=1)
    meant = f"did you mean {close[0]}?" if close else f"there are: {', '.join([*MODES][:8])}, ..."
    raise SettingError(f"mode {shown(name, 60)} does not exist; {meant} 'backtrace-jax modes' lists all")


@known_arguments
def composite(name: Any, rules: Any, base: str | Mode = "default") -> Mode:
    """A mode of one's own: these rules where their selectors match, first match first, those of `base` elsewhere."""
    own, found = _pairs(rules), find_mode(base)
    if not isinstance(name, str):
        raise SettingError(f"a composite's name must be text, found {shown(name)}")
    return replace(
        found,
        name=name,
        rules=(*own, *found.rules),
        summary=f"{found.name} with rules of the user's own",
        own_rules=(*(f"{selector}: {rule}" for selector, rule in own), *found.own_rules),
    )


def _pairs(rules: Any) -> Rules:
    """A user's own rules.

    Raises:
        SettingError: When they are no list of pairs.
    """
    own = tuple(rules) if isinstance(rules, list | tuple) else (rules,)
    for pair in own:
        fits = isinstance(pair, tuple | list) and len(pair) == 2
        if not (fits and isinstance(pair[0], Selector) and isinstance(pair[1], Rule)):
            raise SettingError(f"rules must be a list of (Selector, Rule) pairs, found {shown(pair, 120)}")
    return tuple((selector, rule) for selector, rule in own)


def _check_options(entry: Entry, options: dict[str, Any]) -> None:
    known = entry.defaults
    unknown = sorted(set(options) - set(known))
    missing = [key for key, default in known.items() if default is inspect.Parameter.empty and key not in options]
    if unknown:
        there = ", ".join(known) or "none"
        raise SettingError(f"mode {entry.name!r} has no option {', '.join(unknown)}; its options: {there}")
    if missing:
        given = ", ".join(f"{key}=..." for key in missing)
        raise SettingError(f"mode {entry.name!r} needs {' and '.join(missing)}: mode({entry.name!r}, {given})")
