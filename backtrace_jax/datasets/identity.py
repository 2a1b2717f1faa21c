"""What a store is known by: everything that its bytes depend on, as JSON; a store of something else is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from backtrace_jax.engine.fingerprint import differences, digest
from backtrace_jax.errors import SettingError
from backtrace_jax.errors.arguments import shown_path
from backtrace_jax.errors.texts import shown
from backtrace_jax.explainer.streaming import OF_EACH, Asking
from backtrace_jax.sources import Source

from .probing import Probe
from .reducing import Reducing, known

_WORKERS = ("threads", "devices")
COLUMN = "column"
"""What is asked by a column of the source is noted as {"column": name}."""

_DEVICES = re.compile(r"\s*--xla_force_host_platform_device_count=\d+")


def identity_of(probe: Probe, asking: Asking, source: Source, reducing: Reducing) -> dict[str, Any]:
    """What decides the bytes of a store.

    How many threads and devices work on it is left out: they make the same bytes.

    Raises:
        SettingError: When something in it is no JSON.
    """
    own = {name: value for name, value in probe.explanation.fingerprint.items() if name not in _WORKERS}
    own["xla_flags"] = _DEVICES.sub("", own["xla_flags"]).strip()
    own |= {name: None for name in asking.of_each if name in own}
    found = {
        "fingerprint": own,
        "question": {name: _described(getattr(asking.asked, name)) for name in OF_EACH},
        "source": {"count": source.count, **asdict(source.schema)},
        "stored": reducing.described,
    }
    try:
        return json.loads(json.dumps(found))
    except (TypeError, ValueError) as error:
        raise SettingError(f"the fingerprint cannot be stored as JSON: {error}; use plain Python values") from error


def _described(value: Any) -> Any:
    """What is asked, as JSON: large arrays by their hashes."""
    if callable(value):
        return known(value)
    if isinstance(value, str):
        return {COLUMN: value}
    if value is None or isinstance(value, int | tuple | np.integer):
        return value.item() if isinstance(value, np.integer) else value
    return digest(np.asarray(value))


_NO_PART = ("version", "count")  # the second is known of a stream when it has ended


def refuse_other(path: Any, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse a store that holds something else than is asked for.

    Raises:
        SettingError: Naming what differs.
    """
    there, here = ({k: v for k, v in about.items() if k not in _NO_PART} for about in (stored, wanted))
    found = differences(there, here)
    if found:
        (name, pair), more = next(iter(found.items())), len(found) - 1
        others = f" (and {more} more: {', '.join([*found][1:4])})" if more else ""
        raise SettingError(
            f"'{shown_path(path)}' belongs to another run: {name.removeprefix('fingerprint.')} is {shown(pair[0], 60)} "
            f"there and {shown(pair[1], 60)} here{others}; choose another folder, or ask the same"
        )
