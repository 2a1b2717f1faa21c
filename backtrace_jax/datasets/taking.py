"""What a store keeps of an explanation: arrays by key, batch first; and an explanation made of these again.

Keys are the names of arrays in the store. A key is a kind, a dot, and the name of the input, output or layer, with
everything but letters, digits and `_.-` escaped as in an address (`relevance.input_ids`, `outputs.%2Fhead%2FGemm`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

import numpy as np

from backtrace_jax.explanation.explanation import Explanation
from backtrace_jax.explanation.ledger import CHANNELS, Channel, Ledger

RELEVANCE, LAYERS = "relevance", "layers"
_OPTIONAL = ("target", "completeness_error")
_BOOKS = ("signed", "absolute")


def key(kind: str, name: str) -> str:
    """The key of an array."""
    return f"{kind}.{quote(name, safe='')}"


def named(arrays: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The arrays of a kind, by the names of inputs, outputs or layers."""
    start = f"{kind}."
    return {unquote(each[len(start) :]): array for each, array in arrays.items() if each.startswith(start)}


def shared_out(key: str) -> str | None:
    """The input or layer that a key holds relevance of; None where it holds something else."""
    return input_of(key) if _own(key).partition(".")[0] in (RELEVANCE, LAYERS) else None


def input_of(key: str) -> str:
    """The input, output or layer that a key is about."""
    return unquote(_own(key).partition(".")[2])


def is_of_books(key: str) -> bool:
    """Whether a key is of a ledger."""
    return _own(key).partition(".")[0] in ("ledger", "nodes")


def _own(key: str) -> str:
    """A key without the channel that it is of."""
    for channel in CHANNELS:
        key = key.removeprefix(f"{channel}.")
    return key


def taken(explanation: Explanation, kept: Callable[[str], bool]) -> dict[str, np.ndarray]:
    """What is stored of an explanation.

    Args:
        explanation: The explanation.
        kept: Whether an input, by its name, is stored beside its relevance.
    """
    found = {key("inputs", name): array for name, array in explanation.inputs.items() if kept(name)}
    found |= {key("outputs", name): array for name, array in explanation.outputs.items()}
    found |= dict(_of(explanation, ""))
    for name, channel in explanation.channels.items():
        found |= dict(_of(channel, f"{name}."))
    optional = {name: getattr(explanation, name) for name in _OPTIONAL}
    return found | {name: array for name, array in optional.items() if array is not None}


def _of(record: Explanation | Channel, prefix: str) -> Iterator[tuple[str, np.ndarray]]:
    """Relevance and books of an explanation or channel."""
    for kind in (RELEVANCE, LAYERS):
        yield from ((key(f"{prefix}{kind}", name), array) for name, array in getattr(record, kind).items())
    ledger = record.ledger
    for column in _BOOKS if ledger is not None else ():
        yield f"{prefix}ledger.{column}", getattr(ledger, column)
        if ledger and ledger.by_node:
            yield f"{prefix}nodes.{column}", np.stack([getattr(n, column) for n in ledger.by_node.values()], axis=1)


def explanation_of(
    arrays: Mapping[str, np.ndarray],
    inputs: Mapping[str, np.ndarray],
    nodes: list[str],
    **more: Any,
) -> Explanation:
    """The explanation that arrays were taken of.

    Args:
        arrays: By key, batch first.
        inputs: The inputs by name.
        nodes: Names of the nodes that books were kept of.
        more: Its output, fingerprint and warnings.
    """
    channels = {
        name: Channel(
            named(arrays, f"{name}.{RELEVANCE}"),
            named(arrays, f"{name}.{LAYERS}"),
            _ledger(arrays, f"{name}.", nodes),
        )
        for name in CHANNELS
        if named(arrays, f"{name}.{RELEVANCE}")
    }
    return Explanation(
        relevance=named(arrays, RELEVANCE),
        inputs=dict(inputs),
        outputs=named(arrays, "outputs"),
        target=arrays.get("target"),
        layers=named(arrays, LAYERS),
        ledger=_ledger(arrays, "", nodes),
        channels=channels,
        completeness_error=arrays.get("completeness_error"),
        **more,
    )


def _ledger(arrays: Mapping[str, np.ndarray], prefix: str, nodes: list[str]) -> Ledger | None:
    if f"{prefix}ledger.signed" not in arrays:
        return None
    signed, absolute = (arrays[f"{prefix}ledger.{column}"] for column in _BOOKS)
    if f"{prefix}nodes.signed" not in arrays:
        return Ledger(signed, absolute)
    books = [arrays[f"{prefix}nodes.{column}"] for column in _BOOKS]
    return Ledger(signed, absolute, {name: Ledger(books[0][:, i], books[1][:, i]) for i, name in enumerate(nodes)})
