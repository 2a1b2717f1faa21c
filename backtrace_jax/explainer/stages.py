"""From a model and the form of a call to a compiled function, stage by stage; what was made last is kept.

The stages know each other, and none of them the explainer: with the last reference to it everything here is freed at
once, weights and compiled functions with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, TypeAlias
from weakref import ref

from backtrace_jax.batch import Leaving
from backtrace_jax.batch.layout import axes_of, batch_first, kept, rows_of
from backtrace_jax.batch.leaving import leavings
from backtrace_jax.engine.compiled import Compiled, Planned, compile_model, lower_model, plan
from backtrace_jax.engine.form import Form, Shapes
from backtrace_jax.engine.outline import Outline, outline
from backtrace_jax.engine.weights import DeviceWeights
from backtrace_jax.ir import Program
from backtrace_jax.ir.imported import Imported, InputType
from backtrace_jax.question.settings import Settings
from backtrace_jax.runtime.numerics import Device

from .results import Told, told

FORMS_KEPT = 8
"""Compiled functions that an Explainer keeps: one per form of the call (input shapes, optional arguments).

What was not asked for longest is compiled anew when it is asked for again. Raise it before an Explainer is made
(`backtrace_jax.explainer.stages.FORMS_KEPT = 64`) where its inputs take turns in more shapes, at the price of their
memory.
"""

_Leaving: TypeAlias = "tuple[Leaving, ...] | None"


@dataclass(frozen=True)
class Known:
    """A model known by its hash, where it came from, and what reads its inputs; two models may share a graph."""

    sha256: str
    origin: tuple[tuple[str, str], ...]
    feed: int
    model: Imported = field(compare=False)

    @classmethod
    def of(cls, model: Imported) -> Known:
        """What a model is known by."""
        return cls(model.sha256, tuple(sorted(model.origin.items())), id(model.feed), kept(model.let_go()))


@dataclass(frozen=True)
class Arranged:
    """What no call changes of an import.

    Attributes:
        known: What it is known by.
        axes: The axis of the batch in each of its inputs.
        inputs: Its declared inputs, batch first.
    """

    known: Known
    axes: dict[str, int | None]
    inputs: tuple[InputType, ...]

    @cached_property
    def rows(self) -> int:
        """Examples that one run of it takes."""
        return rows_of(self.inputs)


class Arranging:
    """Arranges imports by the batch axes of one explainer; the last is not arranged twice, nor kept alive here."""

    def __init__(self, batch_axis: Any) -> None:
        self._batch_axis = batch_axis
        self._last: tuple[ref[Imported], Arranged] | None = None

    def __call__(self, imported: Imported) -> Arranged:
        """What no call changes of it.

        Raises:
            SettingError: When an axis, or an input, does not exist.
        """
        last = self._last
        if last is not None and last[0]() is imported:
            return last[1]
        axes = axes_of(imported, self._batch_axis)
        found = Arranged(Known.of(imported), axes, batch_first(imported, axes).inputs)
        self._last = ref(imported), found
        return found


class Stages:
    """The stages of one explainer, from its model or from what an exported explainer has stored of them.

    Attributes:
        arranged: What no call changes of an import.
        leaving: Where a model's outputs hold the examples, at these shapes of so many.
        lowered: The graph and its weights, outputs batch first.
        outline: What is known before anything is compiled.
        planned: The explanation of this form, planned.
        compiled: The same, compiled.
        told: What all explanations by it say alike.
    """

    def __init__(self, settings: Settings, devices: Sequence[Device], stored: Any = None) -> None:
        device, weights = devices[0], [DeviceWeights(each) for each in devices]

        @lru_cache(FORMS_KEPT)
        def leaving(known: Known, shapes: Shapes, count: int) -> _Leaving:
            if stored is not None:
                return stored.leaving_of(shapes, count)
            return leavings(known.model, axes_of(known.model, settings.axes), dict(shapes), count)

        @lru_cache(1)  # holds the weights; what is lowered is compiled at once
        def lowered(known: Known, shapes: Shapes, rows: int, leaving: _Leaving) -> Program:
            if stored is not None:
                return stored.program
            model = batch_first(known.model, axes_of(known.model, settings.axes))
            return lower_model(model, settings, shapes, rows, leaving)

        @lru_cache(FORMS_KEPT)
        def outlined(known: Known, shapes: Shapes, rows: int, leaving: _Leaving) -> Outline:
            return outline(lowered(known, shapes, rows, leaving).graph, settings, rows, leaving)

        @lru_cache(FORMS_KEPT)  # what is compiled holds the same program
        def planned(known: Known, form: Form) -> Planned:
            return plan(lowered(known, form.shapes, form.rows, form.leaving), settings, device, form)

        @lru_cache(FORMS_KEPT)
        def compiled(known: Known, form: Form) -> Compiled:
            make, places = stored and stored.make(form), [*zip(weights, devices, strict=True)]
            places = places[: 1 if form.many else None]
            first, *others = (compile_model(planned(known, form), settings, *place, form, make) for place in places)
            return replace(first, beside=tuple(others)) if others else first

        @lru_cache(FORMS_KEPT)
        def said(known: Known, form: Form) -> Told:
            return told(compiled(known, form), settings, known.model)

        self.arranged = Arranging(settings.axes)
        self.leaving, self.lowered, self.outline = leaving, lowered, outlined
        self.planned, self.compiled, self.told = planned, compiled, said
