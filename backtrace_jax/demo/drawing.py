"""The demo's two pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from backtrace_jax.explanation import panels, pictures
from backtrace_jax.explanation.explanation import Explanation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .samples import Sample

COLUMNS = 6


def digits(explanation: Explanation, known: Sample) -> Figure:
    """Input above, relevance for the predicted digit below, for the first example of six different digits."""
    _, first = np.unique(known.labels, return_index=True)
    chosen = np.sort(first)[:COLUMNS]
    answers = explanation.outputs["logits"].argmax(axis=1)
    figure = pictures.blank(9.6, 4.1)
    _head(figure, "Which strokes made the network say so?")
    _foot(figure, "Below: relevance for the answer. Darker red is more; every digit has its own scale.")
    for column, example in zip(figure.subplots(2, len(chosen)).T, chosen, strict=True):
        picture = known.inputs[example, 0]
        panels.image(column[0], picture, colour_map="gray_r")
        panels.overlay(column[1], picture, explanation.relevance["image"][example, 0], colour_map="gray_r")
        right = answers[example] == known.labels[example]
        panels.title(column[0], f"says {answers[example]}", colour=panels.INK if right else panels.FOR)
    return figure


def tumours(explanation: Explanation, known: Sample) -> Figure:
    """The measurements that counted most, for the first tumour of each class."""
    figure = pictures.blank(10.4, 4.3)
    _head(figure, "Which measurements made the network say so?")
    _foot(figure, "Values are in standard deviations from the mean. Relevance is shared out of a total of 1.")
    for label, axes in enumerate(figure.subplots(1, 2, sharex=True)):
        example = int(np.argmax(known.labels == label))
        assert known.feature_names is not None
        pairs = zip(known.feature_names, known.inputs[example], strict=True)
        names = [f"{name} = {panels.plain(float(value), '+.1f')}" for name, value in pairs]
        panels.bars(axes, explanation.relevance["features"][example], names, most=10)
        answer = int(explanation.outputs["logits"][example].argmax())
        panels.title(axes, f"says {known.class_names[answer]}; it is {known.class_names[label]}")
    return figure


def _head(figure: Figure, text: str) -> None:
    figure.suptitle(text, x=0.008, ha="left", fontsize=11, fontweight="bold", color=panels.INK)


def _foot(figure: Figure, text: str) -> None:
    figure.supxlabel(text, x=0.008, ha="left", fontsize=8.5, color=panels.MUTED)
