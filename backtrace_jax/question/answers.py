"""What the graph says about an output: what kind of answer it is, and which of its axes holds the classes."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from backtrace_jax.analysis.axes import channel_axes, class_axes
from backtrace_jax.analysis.bearing import bearing, bearing_inputs
from backtrace_jax.ir import Graph, Var
from backtrace_jax.ops import MOVE, OPS

from .words import BINARY_SEGMENTATION, CLASS_SEGMENTATION, CLASSIFICATION, NEXT_TOKEN, REGRESSION, TOKENS, UNIT

_PROBABILITIES = ("sigmoid", "hard_sigmoid", "softmax")
_TYPE_CHANGES = ("cast", "quantize", "dequantize")


@dataclass(frozen=True)
class Answer:
    """The value explained, one example without its batch axis.

    Attributes:
        name: Its name.
        shape: Its shape.
        inner: Whether it is a value inside the model.
        probability: Whether it holds results of a sigmoid or softmax, however moved.
        exclusive: Axis over which a softmax, or its logarithm, was taken; None: there is none.
        channels: Axis of the channels or units of the layer that made it; None: it cannot be told.
        vocabulary: Rows of the largest table that token ids look up; 0: there is none.
        inputs: Shapes of the inputs, likewise.
        narrowed: Whether all that is known of the inputs passed through fewer numbers than it has.
        named: Axis of the classes as the user names it; None: it is left to the graph.
    """

    name: str
    shape: tuple[int, ...]
    inner: bool = False
    probability: bool = False
    exclusive: int | None = None
    channels: int | None = None
    vocabulary: int = 0
    inputs: tuple[tuple[int, ...], ...] = ()
    narrowed: bool = False
    named: int | None = None

    @property
    def units(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def several(self) -> tuple[int, ...]:
        """The axes along which it has more than one number."""
        return tuple(axis for axis, size in enumerate(self.shape) if size > 1)

    @property
    def one_of(self) -> int | None:
        """Axis along which one class is chosen, as the user or a softmax says."""
        return self.exclusive if self.named is None else self.named

    @property
    def classes(self) -> int | None:
        """Axis of the classes; None: nothing tells it.

        That of the choice, else of the channels, else the only one beside the places of a picture that went in, or
        the only one with as many classes as there are tokens.
        """
        beside = [axis for axis in self.several if self.shape[:axis] + self.shape[axis + 1 :] in self.pictures]
        tokens = [axis for axis in self.several if self.is_vocabulary(axis)]
        only = (axes[0] if len(axes) == 1 else None for axes in (beside, tokens))
        return next((axis for axis in (self.one_of, self.channels, *only) if axis is not None), None)

    @property
    def pictures(self) -> tuple[tuple[int, ...], ...]:
        """The places of the pictures that went in, channels first or last."""
        return tuple(places for shape in self.inputs if len(shape) > 2 for places in (shape[1:], shape[:-1]))

    @property
    def restored(self) -> bool:
        """Whether it is an input again, behind something narrower: the answer of an autoencoder."""
        return self.narrowed and self.shape in self.inputs and self.exclusive is None

    def is_vocabulary(self, axis: int) -> bool:
        """Whether it has as many classes along an axis as there are tokens."""
        return self.vocabulary > 1 and self.shape[axis] == self.vocabulary


def read_answer(graph: Graph, output: Var, rows: int = 1) -> Answer:
    """What the graph says about an output that holds this many examples along its first axis."""
    lead = int(output.shape[:1] == (rows,))
    exclusive, channels = (_inside(axes(graph).get(output.name), lead) for axes in (class_axes, channel_axes))
    return Answer(
        output.name,
        output.shape[lead:],
        inner=output not in graph.outputs,
        probability=_is_probability(graph, output),
        exclusive=exclusive,
        channels=channels,
        vocabulary=_vocabulary(graph),
        inputs=tuple(var.shape[1:] for var in graph.inputs),
        narrowed=_narrowest(graph, output) < math.prod(output.shape),
    )


def _inside(axis: int | None, lead: int) -> int | None:
    return None if axis is None or axis < lead else axis - lead


def _is_probability(graph: Graph, output: Var) -> bool:
    found: set[str] = set()
    for eqn in graph.eqns:
        carried = {var.name for i, var in enumerate(eqn.invars) if OPS[eqn.op].carries(i)}
        moved = (OPS[eqn.op].kind == MOVE or eqn.op in _TYPE_CHANGES) and carried and carried <= found
        if moved or eqn.op in _PROBABILITIES:
            found.update(var.name for var in eqn.outvars)
    return output.name in found


def tables(graph: Graph) -> tuple[tuple[str, int], ...]:
    """The integer inputs that look up tables as they are, however moved, each with the rows of its table."""
    direct = {var.name: var.name for var in graph.inputs if var.is_integer}
    found: dict[str, int] = {}
    for eqn in graph.eqns:
        if eqn.op == "gather" and eqn.invars[1].name in direct and eqn.invars[0].name not in direct:
            name, rows = direct[eqn.invars[1].name], eqn.invars[0].shape[eqn.params["axis"]]
            found[name] = min(rows, found[name]) if name in found else rows
        elif eqn.op in ("cast", "reshape", "transpose", "expand") and eqn.invars[0].name in direct:
            direct[eqn.outvars[0].name] = direct[eqn.invars[0].name]
    return tuple(found.items())


def _vocabulary(graph: Graph) -> int:
    carrying = bearing(graph, bearing_inputs(graph))
    looked_up = [
        eqn.invars[0].shape[eqn.params["axis"]]
        for eqn in graph.eqns
        if eqn.op == "gather" and eqn.invars[0].name not in carrying and eqn.invars[1].name in carrying
    ]
    return max(looked_up, default=0)


def _narrowest(graph: Graph, output: Var) -> int:
    """The fewest numbers through which all that the output takes from the inputs passes on its way."""
    carrying = bearing(graph, bearing_inputs(graph))
    last = _last_uses(graph, output, carrying)
    sizes = {var.name: math.prod(var.shape) for var in graph.variables()}
    alive = {var.name for var in graph.inputs if var.name in last}
    narrowest = sum(sizes[name] for name in alive)
    for place, eqn in enumerate(graph.eqns):
        alive = {name for name in alive if last[name] > place} | {v.name for v in eqn.outvars if v.name in last}
        if alive:
            narrowest = min(narrowest, sum(sizes[name] for name in alive))
    return narrowest


def _last_uses(graph: Graph, output: Var, carrying: Collection[str]) -> dict[str, int]:
    """Place of the last equation that reads each bearing value on the way to the output."""
    last = {output.name: len(graph.eqns)}
    for place in reversed(range(len(graph.eqns))):
        eqn = graph.eqns[place]
        if any(var.name in last for var in eqn.outvars):
            for var in eqn.invars:
                if var.name in carrying:
                    last.setdefault(var.name, place)
    return last


def task_of(answer: Answer) -> str | None:
    """The task that an answer of this kind is for; None where the graph leaves it open.

    A value inside the model is asked by unit. One number is a class where it is a probability, else a quantity. A row
    of numbers is one of classes, of the next token where it has one for each token, of quantities where an autoencoder
    restored its input. With more axes the softmax, the table of tokens, or a single channel of probabilities decides.
    """
    if answer.inner:
        return UNIT
    if not answer.several:
        return CLASSIFICATION if answer.probability else REGRESSION
    if len(answer.several) == 1:
        return _task_of_row(answer)
    if len(answer.shape) == 2 and answer.classes is not None and answer.is_vocabulary(answer.classes):
        return NEXT_TOKEN
    if answer.one_of in answer.several:
        return TOKENS if len(answer.shape) == 2 and answer.one_of == 1 else CLASS_SEGMENTATION
    if answer.probability and _is_picture(answer):
        return BINARY_SEGMENTATION
    return REGRESSION if answer.restored else None


def _task_of_row(answer: Answer) -> str:
    if answer.restored:
        return REGRESSION
    return NEXT_TOKEN if answer.is_vocabulary(answer.several[0]) else CLASSIFICATION


def _is_picture(answer: Answer) -> bool:
    """Whether it has one channel over two axes or more, or the very axes of a picture that went in."""
    return len(answer.shape) > len(answer.several) or answer.shape in answer.pictures
