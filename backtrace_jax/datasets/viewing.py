"""The views of a store: what they are made from goes into it as JSON, so that whoever opens it makes the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .probing import Probe
from .views import Views


def described(probe: Probe) -> dict[str, Any]:
    """What the views follow from, beside the source."""
    found = probe.explanation
    return {
        "relevance": {name: list(array.shape[1:]) for name, array in found.relevance.items()},
        "layers": {name: list(array.shape[1:]) for name, array in found.layers.items()},
        "output": list(found.outputs[found.output].shape[1:]),
        "task": found.task,
        "channel_axes": dict(probe.channels),
        "books": found.ledger is not None,
        "threshold": 0.5 if probe.probability else 0.0,
    }


def views_of(about: Mapping[str, Any]) -> Views:
    """The views of a store, from what it says of itself."""
    views, source = about["views"], about["source"]
    relevance, layers = ({name: tuple(s) for name, s in views[kind].items()} for kind in ("relevance", "layers"))
    return Views.of(
        relevance,
        layers,
        tuple(views["output"]),
        views["task"],
        channel_axes=views["channel_axes"],
        features=source["features"],
        vocabulary={name: words for name, words in source["kept"].items() if words is not None},
        books=views["books"],
        threshold=views["threshold"],
    )
