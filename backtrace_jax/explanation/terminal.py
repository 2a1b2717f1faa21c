"""Explanations as plain text: the prediction, the inputs that mattered most, the books. ASCII, for any terminal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backtrace_jax.errors.texts import printable

from .describe import (
    SIDES,
    answers_for_two,
    arrived,
    check_example,
    classes_of,
    no_books,
    number,
    position,
    speaks_for_other,
    unit,
    units,
)
from .explanation import Explanation
from .ledger import COLUMNS, Channel

WIDEST_BAR = 20


def summary(
    explanation: Explanation,
    example: int = 0,
    *,
    count: int = 5,
    feature_names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    label: int | None = None,
) -> str:
    """Everything about one example: prediction, relevance for and against in mode "contrastive", top inputs, ledger.

    Args:
        explanation: what to report.
        example: position in the batch.
        count: how many input values to list.
        feature_names: names of the values of a [features] input, instead of their indices.
        class_names: names of the units of the explained output.
        label: the true class, shown beside the prediction.

    Raises:
        SettingError: there is no such example.
    """
    example = check_example(explanation, example)
    parts = [
        prediction(explanation, example, class_names=class_names, label=label),
        *([channels(explanation, example)] if explanation.channels else []),
        top_inputs(explanation, example, count=count, feature_names=feature_names),
        ledger(explanation, example),
    ]
    return "\n\n".join(parts)


def prediction(
    explanation: Explanation,
    example: int,
    *,
    class_names: Sequence[str] | None = None,
    label: int | None = None,
) -> str:
    """What the model said and which unit is explained, one fact per line."""
    values = np.asarray(explanation.outputs[explanation.output][example], np.float64)
    lines = [f"example      {example}"]
    if values.size > 1 and classes_of(explanation.task, values.shape) is not None:
        lines.append(f"prediction   {_class(int(values.argmax()), class_names)}, {_score(values.max())}")
    elif values.size == 1:
        lines.append(f"prediction   {_score(values.item())}{' for class 1' if answers_for_two(explanation) else ''}")
    if label is not None:
        lines.append(f"label        {_class(label, class_names)}")
    lines.append(f"explained    {unit(explanation, example)}{_value(explanation, values, example)}")
    return "\n".join(lines)


def channels(explanation: Explanation, example: int) -> str:
    """What speaks for the answer and what against it: relevance at the inputs; with books also the start, and how far
    they are from closing."""
    rows = {side: _channel(explanation.channels[channel], example) for side, channel in SIDES.items()}
    heads = next(iter(rows.values()))
    lines = ["  ".join([f"{'relevance':<14}", *(f"{head:>12}" for head in heads)])]
    lines += ["  ".join([f"  {side:<12}", *(f"{text:>12}" for text in row.values())]) for side, row in rows.items()]
    return "\n".join(lines)


def _channel(channel: Channel, example: int) -> dict[str, str]:
    books, inputs = channel.ledger, number(arrived(channel, example))
    if books is None:
        return {"inputs": inputs}
    return {"start": number(books.start[example]), "inputs": inputs, "error": f"{books.error[example]:.1e}"}


def top_inputs(
    explanation: Explanation,
    example: int,
    *,
    count: int = 5,
    feature_names: Sequence[str] | None = None,
) -> str:
    """The input values of largest |relevance| over all inputs, with a bar of + or - for each.

    In mode "contrastive" that is the difference of what speaks for and what speaks against.
    """
    entries = _largest(explanation, example, count)
    if not entries:
        return "top inputs   none: no input bears relevance"
    longest = abs(entries[0][2])
    named = [(_input_name(explanation, name, flat, feature_names), name, flat, share) for name, flat, share in entries]
    width = max(12, *(len(entry[0]) for entry in named))
    heading = "difference" if explanation.channels else "relevance"
    lines = [f"{'top inputs':<{width + 2}}  {'value':>10}  {heading:>12}"]
    for text, name, flat, share in named:
        value = float(np.asarray(explanation.inputs[name][example]).ravel()[flat])
        lines.append(f"  {text:<{width}}  {value:>10.4g}  {number(share):>12}  {_bar(share, longest)}".rstrip())
    return "\n".join(lines)


def ledger(explanation: Explanation, example: int) -> str:
    """The books of one example, a line per column, and how far they are from closing; one line where there are none."""
    books = explanation.ledger
    if books is None:
        return _completeness(explanation, example)
    lines = [f"{'ledger':<14}  {'signed':>12}  {'absolute':>12}"]
    for index, name in enumerate(COLUMNS):
        signed, absolute = books.signed[example, index], books.absolute[example, index]
        lines.append(f"  {name:<12}  {number(signed):>12}  {number(absolute).lstrip('+'):>12}")
    lines.append(f"  {'error':<12}  {books.error[example]:>12.1e}")
    return "\n".join(lines)


def layers(explanation: Explanation, example: int) -> str:
    """The intermediate relevance that was asked for: shape and total of each, a line per value."""
    names = {name: printable(name) for name in explanation.layers}
    width = max(12, *map(len, names.values())) if names else 12
    lines = [f"{'layers':<{width + 2}}  {'total':>12}  shape"]
    for name, array in explanation.layers.items():
        total = number(float(np.sum(array[example], dtype=np.float64)))
        lines.append(f"  {names[name]:<{width}}  {total:>12}  {list(array.shape[1:])}")
    return "\n".join(lines)


def batch(explanation: Explanation) -> str:
    """One line about all examples: how many, and which of them closes worst."""
    books, count = explanation.ledger, f"examples     {len(explanation)}"
    name, errors = ("completeness", explanation.completeness_error) if books is None else ("ledger", books.error)
    if errors is None or not len(errors):
        return count
    worst = int(errors.argmax())
    return f"{count}, largest {name} error {errors[worst]:.1e} (example {worst})"


def _completeness(explanation: Explanation, example: int) -> str:
    errors = explanation.completeness_error
    if errors is None:
        return no_books(explanation)
    return f"completeness error  {errors[example]:.1e} of the answer's change from the baseline"


def _largest(explanation: Explanation, example: int, count: int) -> list[tuple[str, int, float]]:
    entries: list[tuple[str, int, float]] = []
    for name, array in explanation.relevance.items():
        shares = np.asarray(array[example], np.float64).ravel()
        order = np.argsort(-np.abs(shares), kind="stable")[:count]
        entries += [(name, int(flat), float(shares[flat])) for flat in order]
    return sorted(entries, key=lambda entry: -abs(entry[2]))[:count]


def _input_name(explanation: Explanation, name: str, flat: int, feature_names: Sequence[str] | None) -> str:
    shape = explanation.relevance[name].shape[1:]
    if feature_names is not None and len(shape) == 1 and len(feature_names) == shape[0]:
        return printable(feature_names[flat])
    return position(name, flat, shape)


def _class(index: int, names: Sequence[str] | None) -> str:
    name = "" if names is None else names[index]
    return f"class {index} ({name})" if name not in ("", str(index)) else f"class {index}"


def _score(value: float) -> str:
    return f"score {value:.4g}"


def _value(explanation: Explanation, values: np.ndarray, example: int) -> str:
    found = [] if speaks_for_other(explanation, example) else units(explanation, example)
    return f" = {', '.join(f'{value:.4g}' for value in values.ravel()[found])}" if found else ""


def _bar(share: float, longest: float) -> str:
    length = round(WIDEST_BAR * abs(share) / longest) if longest else 0
    return ("-" if share < 0 else "+") * length
