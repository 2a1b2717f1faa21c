"""Turns what a compiled function returned into an Explanation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np

from backtrace_jax.engine.compile import Constant, Result
from backtrace_jax.engine.compiled import Compiled
from backtrace_jax.engine.fingerprint import as_json, copied, digest
from backtrace_jax.engine.settling import totals
from backtrace_jax.explanation.cautions import findings, inputs_forgotten
from backtrace_jax.explanation.explanation import Explanation
from backtrace_jax.explanation.ledger import CHANNELS, Channel, Ledger
from backtrace_jax.ir.imported import Imported
from backtrace_jax.question.settings import Settings
from backtrace_jax.question.words import CUSTOM, TOTAL, UNSET, Question
from backtrace_jax.rules.parts import CONVOLUTIONS

from .range import check_closed
from .soundness import check_result, find_unanswered, without


class Told(NamedTuple):
    """What all explanations by a compiled function say alike.

    Attributes:
        settings: What the user chose.
        fingerprint: Of the model and of what was chosen, as JSON gives it back.
        convolutional: Whether the model has convolutions.
    """

    settings: Settings
    fingerprint: dict[str, Any]
    convolutional: bool


def told(compiled: Compiled, settings: Settings, model: Imported) -> Told:
    """What all explanations of a model by a compiled function say alike."""
    said = {"model_sha256": model.sha256, **model.origin, **_resolved(compiled, settings)}
    convolutional = any(eqn.op in CONVOLUTIONS for eqn in compiled.program.graph.eqns)
    return Told(settings, as_json(said), convolutional)


def as_explanation(
    compiled: Compiled,
    same: Told,
    model: Imported,
    feeds: dict[str, np.ndarray],
    asked: Question,
    constant: Constant,
    result: Result,
) -> Explanation:
    """The explanation of a batch.

    Raises:
        NumericsError: When the explained output is NaN or Inf in every example, or relevance or books are in any.
        SettingError: When a segmentation mask is empty.
    """
    result = _in_order(compiled, result)
    unanswered = find_unanswered(compiled, feeds, result)
    result = without(result, unanswered.runs)
    doubtful = check_result(compiled, feeds, result, unanswered.runs, named=not (asked.target == UNSET).any())
    rows, count = compiled.rows, len(asked.target)
    none = _zeros(compiled, same.settings, feeds)
    channels = _channels(compiled, result, count, none)
    paired = compiled.request.mode.paired
    ledger = _difference(channels) if paired else _ledger(compiled, result, count)
    books = [each for each in ([each.ledger for each in channels.values()] or [ledger]) if each is not None]
    if doubtful:
        check_closed(compiled, books)
    completeness = None if result.completeness is None else np.repeat(result.completeness, rows)[:count]
    return Explanation(
        relevance={**_relevance(result.relevance, paired, rows, count), **none},
        inputs=feeds,
        outputs={name: unbatched(array, rows, count) for name, array in result.outputs.items()},
        output=compiled.output_name,
        target=None if compiled.request.task.name == CUSTOM else result.target.reshape(-1)[:count],
        layers=_relevance(result.layers, paired, rows, count),
        ledger=ledger,
        fingerprint=copied({**same.fingerprint, **_asked(compiled, asked, constant), **compiled.surroundings}),
        channels=channels,
        completeness_error=completeness,
        structure=model.structure,
        warnings=(
            *model.notes,
            *inputs_forgotten(compiled.request.plan.forgotten),
            *filter(None, [unanswered.caution]),
            *findings(
                books,
                completeness,
                dict(compiled.request.mode.options),
                mode=compiled.request.mode.name,
                dtype=same.settings.dtype,
                restricted=bool(compiled.masked),
                convolutional=same.convolutional,
                left_out=unanswered.runs,
            ),
        ),
    )


def _in_order(compiled: Compiled, result: Result) -> Result:
    """Names in the model's own order; compiled functions return them sorted."""
    graph = compiled.program.graph
    order = [*(var.name for var in graph.inputs), *graph.output_names, compiled.output_name, *compiled.request.layers]
    parts = {"outputs": result.outputs, "relevance": result.relevance, "layers": result.layers}
    return result._replace(
        **{part: {name: arrays[name] for name in order if name in arrays} for part, arrays in parts.items()}
    )


def _zeros(compiled: Compiled, settings: Settings, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Relevance of the float inputs that the explained output does not depend on: none, said rather than left out."""
    reached = {var.name for var in compiled.request.plan.inputs}
    unread = {name: array for name, array in feeds.items() if array.dtype.kind == "f" and name not in reached}
    return {} if settings.wrt is not None else {name: np.zeros(a.shape, settings.dtype) for name, a in unread.items()}


def _relevance(arrays: Mapping[str, np.ndarray], paired: bool, rows: int, count: int) -> dict[str, np.ndarray]:
    """What speaks for the answer, in pairs less what speaks against it."""
    whole = {name: array[:, 0] - array[:, 1] if paired else array for name, array in arrays.items()}
    return {name: unbatched(array, rows, count) for name, array in whole.items()}


def _channels(compiled: Compiled, result: Result, count: int, none: Mapping[str, np.ndarray]) -> dict[str, Channel]:
    rows = compiled.rows
    if not compiled.request.mode.paired:
        return {}
    return {
        name: Channel(
            {**{key: unbatched(array[:, i], rows, count) for key, array in result.relevance.items()}, **none},
            {key: unbatched(array[:, i], rows, count) for key, array in result.layers.items()},
            _ledger(compiled, result, count, (i,)),
        )
        for i, name in enumerate(CHANNELS)
    }


def _difference(channels: Mapping[str, Channel]) -> Ledger | None:
    """The books of the difference; its magnitudes are those of both channels together."""
    speaking, against = (channels[name].ledger for name in CHANNELS)
    return None if speaking is None or against is None else _minus(speaking, against)


def _minus(speaking: Ledger, against: Ledger) -> Ledger:
    nodes = {name: _minus(ledger, against.by_node[name]) for name, ledger in speaking.by_node.items()}
    return Ledger(speaking.signed - against.signed, speaking.absolute + against.absolute, nodes)


def _resolved(compiled: Compiled, settings: Settings) -> dict[str, object]:
    """The settings with every choice that was left open as it was made."""
    request = compiled.request
    axis = request.task.place.axis
    return {
        **{each.name: getattr(settings, each.name) for each in fields(settings)},
        "prepare": settings.hoists,
        "mode": request.mode.name,
        "mode_options": dict(request.mode.options),
        "rules": request.mode.own_rules,
        "task": request.task.name,
        "class_axis": None if axis is None else axis + 1,
        "output": compiled.output_name,
        "layers": list(request.layers),
        "wrt": [var.name for var in compiled.program.graph.inputs if var.name in request.reached],
        "chunk": compiled.chunk,
        "devices": 1 + len(compiled.beside),
        **({} if compiled.at_once is None else {"questions_at_once": compiled.at_once}),
    }


def _asked(compiled: Compiled, asked: Question, constant: Constant) -> dict[str, object]:
    """What the call asked, arrays by their hashes."""
    return {
        "against": _listed(asked.against),
        "position": _listed(asked.position),
        "start": None if asked.start is None else digest(asked.start),
        "baseline": {name: digest(array) for name, array in constant.reference.items()},
        "conditions": {name: digest(constant.masks[var.name]) for name, var in compiled.masked.items()},
    }


def _listed(chosen: np.ndarray) -> list[int] | None:
    return None if (chosen == UNSET).all() else chosen.tolist()


def unbatched(array: np.ndarray, rows: int, count: int) -> np.ndarray:
    """A value of all runs of the graph as one of `count` examples.

    The model's own batch axis, of this many rows, gives way to the axis of runs. A value without that axis is stacked;
    it belongs to all rows of its run.
    """
    if array.shape[1:2] != (rows,):
        return np.repeat(array, rows, axis=0)[:count]
    return array.reshape(len(array) * rows, *array.shape[2:])[:count]


def _shared(totals: np.ndarray, rows: int, count: int) -> np.ndarray:
    """Totals of runs, an equal part of them for each row."""
    return totals if rows == 1 else np.repeat(totals / rows, rows, axis=0)[:count]


def _ledger(compiled: Compiled, result: Result, count: int, channel: tuple[int, ...] = ()) -> Ledger | None:
    """The whole graph's books from what its steps kept; inputs are added up once more from their relevance.

    Args:
        compiled: What was run.
        result: What it gave.
        count: Number of examples.
        channel: Index of the channel, or () where there is one only.
    """
    if result.books is None:
        return None
    pick, plan = (slice(None), *channel), compiled.request.plan
    books = [book[(..., *channel)] for book in result.books[:2]]
    if compiled.request.ledger == TOTAL:
        signed, absolute = (_shared(book[:, 0], compiled.rows, count) for book in books)
        return Ledger(signed, absolute)
    arrived, start = np.zeros((len(result.start), 2)), result.start[pick]
    for array in result.relevance.values():
        arrived += totals(array[pick])
    kept = [book[:, plan.own_rows, 2:].sum(axis=1) for book in books]
    whole = [np.concatenate([start[:, k, None], arrived[:, k, None], kept[k]], axis=1) for k in range(2)]
    signed, absolute, *whole = (_shared(book, compiled.rows, count) for book in (*books, *whole))
    turned = {step.eqn.outvars[0].name for step in plan.steps if step.eqn.op == "turn"}  # no nodes of the model
    names = [(i, name) for i, name in enumerate(plan.nodes) if name not in turned]
    by_node = {name: Ledger(signed[:, i], absolute[:, i], {}) for i, name in names}
    return Ledger(whole[0], whole[1], by_node)
