"""What one explanation of a store is to be read with caution for, found in its books as `explain` finds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backtrace_jax.explanation.cautions import findings
from backtrace_jax.explanation.explanation import Explanation


def cautions_of(explanation: Explanation, about: Mapping[str, Any]) -> tuple[str, ...]:
    """The findings, given what the store says of itself."""
    known = about["fingerprint"]
    books = [channel.ledger for channel in explanation.channels.values()] or [explanation.ledger]
    return findings(
        [each for each in books if each is not None],
        explanation.completeness_error,
        known["mode_options"],
        mode=known["mode"],
        dtype=known["dtype"],
        restricted=bool(known["conditions"]),
        convolutional=about["cautions"]["convolutional"],
    )


def notes_of(explanation: Explanation, about: Mapping[str, Any]) -> list[str]:
    """What is said of every explanation, whatever its books say."""
    found = cautions_of(explanation, about)
    return [line for line in explanation.warnings if line not in found]
