"""What an explanation should be read with caution for: findings with numbers, and what to try.

The books may close while the map says little: relevance that cancels in sums many times larger than the start, that
never reached the inputs, or that the stabiliser took; attributions that do not add up to the change of the answer.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from backtrace_jax.errors import RelevanceWarning

from .ledger import COLUMNS, Ledger

LARGEST_TOTAL = 10.0  # Σ|R| at the inputs, in units of the start
SMALLEST_SHARE = 0.01  # of the start, at the inputs
LARGEST_STABILISER = 0.10  # of the start
LARGEST_GAP = 0.05  # of the answer's change

_START, _INPUTS, _STABILISER = (COLUMNS.index(name) for name in ("start", "inputs", "stabiliser"))


def findings(
    books: Sequence[Ledger],
    completeness: np.ndarray | None,
    options: Mapping[str, Any],
    *,
    mode: str = "",
    dtype: str = "float32",
    restricted: bool = False,
    convolutional: bool = True,
    left_out: np.ndarray | None = None,
) -> tuple[str, ...]:
    """One line for each finding, with its worst example.

    Args:
        books: The ledger, or one for each channel; none in gradient modes.
        completeness: Completeness error per example, where it is defined.
        options: Options of the mode, which decide what there is to try.
        mode: Its name, which is no way out of itself.
        dtype: What was computed in.
        restricted: Whether conditions cut relevance off, so that little at the inputs is what was asked for.
        convolutional: Whether the network has convolutions, without which lrp-epsilon-plus is lrp-epsilon.
        left_out: Examples that there is nothing more to say about.
    """
    ways = _Ways(mode, options, dtype, convolutional)
    found = [line for ledger in books for line in _of_books(ledger, ways, restricted, left_out)]
    if completeness is not None:
        found += _of_completeness(completeness, options)
    return tuple(dict.fromkeys(found))


def inputs_forgotten(names: Sequence[str]) -> tuple[str, ...]:
    """A line that names the inputs of integers and booleans which bear no relevance for want of the user's word."""
    if not names:
        return ()
    given = ", ".join(map(repr, names))
    return (
        f"no relevance was given to {given}: beside other inputs, integers and booleans bear it when wrt= names them "
        "(and the others)",
    )


class _Ways(NamedTuple):
    """What there is to try."""

    mode: str
    options: Mapping[str, Any]
    dtype: str
    convolutional: bool

    @property
    def calmer(self) -> str:
        """Where relevance cancels."""
        modes = ("default", "lrp-epsilon-plus" if self.convolutional else "lrp-gamma")
        larger = ", or a larger epsilon" if "epsilon" in self.options else ""
        return f"mode {' or '.join(repr(each) for each in modes if each != self.mode)}{larger}"

    @property
    def finer(self) -> str:
        """Where the stabiliser takes it."""
        return "a smaller epsilon" + ("" if self.dtype == "float64" else ", or dtype='float64'")


def _of_books(ledger: Ledger, ways: _Ways, restricted: bool, left_out: np.ndarray | None) -> Iterator[str]:
    start = ledger.absolute[:, _START]
    if left_out is not None and len(left_out):
        start = start.copy()
        start[left_out] = 0
    arrived, stabiliser = ledger.absolute[:, _INPUTS], ledger.absolute[:, _STABILISER]
    if large := _worst_share(arrived, start, arrived > LARGEST_TOTAL * start):
        yield (
            f"|relevance| at the inputs adds up to {arrived[large.example] / start[large.example]:.3g} times the start "
            f"({large}): large shares of both signs cancel; try {ways.calmer}"
        )
    small = None if restricted else _worst_share(-arrived, start, arrived < SMALLEST_SHARE * start)
    if small:
        shares = ledger.absolute[small.example] / start[small.example]
        yield (
            f"only {100 * shares[_INPUTS]:.2g} % of the relevance reached the inputs ({small}); "
            f"{_where_it_went(shares)}{_bias_hint(shares, ways.options)}"
        )
    if taken := _worst_share(stabiliser, start, stabiliser > LARGEST_STABILISER * start):
        share = stabiliser[taken.example] / start[taken.example]
        yield f"the stabiliser took {share:.0%} of the start ({taken}); try {ways.finer}"


def _where_it_went(shares: np.ndarray) -> str:
    kept = [f"{name} {share:.0%}" for name, share in zip(COLUMNS[2:], shares[2:], strict=True) if share >= 0.005]
    return f"it went to: {', '.join(kept) or 'nothing'}"


def _bias_hint(shares: np.ndarray, options: Mapping[str, Any]) -> str:
    taken = shares[COLUMNS.index("bias")] == shares[2:].max()
    return '. Try the mode with bias="ignore"' if taken and options.get("bias") == "keep" else ""


def _of_completeness(errors: np.ndarray, options: Mapping[str, Any]) -> Iterator[str]:
    if gap := _worst(errors, errors > LARGEST_GAP):
        more = f"steps={4 * options['steps']}" if "steps" in options else "mode 'integrated-gradients'"
        yield (
            f"attributions miss the answer's change from the baseline by {errors[gap.example]:.1%} of it ({gap}); try "
            f"{more}, or a baseline whose answer differs more"
        )


class _Worst:
    """The example in which something is worst, and how many have it."""

    def __init__(self, example: int, count: int, size: int) -> None:
        self.example, self.count, self.size = example, count, size

    def __str__(self) -> str:
        return f"example {self.example}" + (f", worst of {self.count} among {self.size}" if self.count > 1 else "")


def _worst_share(amounts: np.ndarray, start: np.ndarray, which: np.ndarray) -> _Worst | None:
    """The same of shares of the start, of examples that have one; nothing is divided where none is in question."""
    if not which.any():
        return None
    started = start > 0
    return _worst(np.divide(amounts, start, out=np.zeros(len(start)), where=started), which & started)


def _worst(sizes: np.ndarray, which: np.ndarray) -> _Worst | None:
    if not which.any():
        return None
    return _Worst(int(np.argmax(np.where(which, sizes, -np.inf))), int(which.sum()), len(sizes))


def warn(lines: Sequence[str]) -> None:
    """Issue each line as a `RelevanceWarning`, at the place of the user's call."""
    if not lines:
        return
    package, frames, frame = __name__.partition(".")[0], [], sys._getframe()
    while frame is not None:
        frames.append(frame.f_globals.get("__name__", "").partition(".")[0] == package)
        frame = frame.f_back
    level = len(frames) - frames[::-1].index(True)  # frames up to the outermost one of this package
    for line in lines:
        warnings.warn(line, RelevanceWarning, stacklevel=level + 1)
