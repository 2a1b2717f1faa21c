"""How each operation treats a batch: where its operands must hold the examples, and where its results do.

A rule sees an operation over all examples, at least one operand of which holds them along an axis. It says what must
hold for the operation to be the same as done to each example alone, or that it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from backtrace_jax.ops import NONE, OPS, POINTWISE

from .contractions import CONTRACTIONS
from .indexing import INDEXING
from .moves import MOVES
from .places import MixedError, Operand, Place, Shape, Step, first_place, fitted, widened
from .writing import WRITING

Rule: TypeAlias = Callable[[Sequence[Operand], Mapping[str, Any], Sequence[Shape], int], Step]
"""From operands, params, shapes of the results and the number of examples."""

_WHOLE = {"tree_paths", "determinant", "dynamic_range", "grid_points", "max_positions", "order", "argmax", "argmin"}
_CELLS = {"element_cells", "tuple_cells", "last_writers"}

ENTRYWISE = frozenset(
    {name for name, op in OPS.items() if op.kind in (POINTWISE, NONE)} - _WHOLE - _CELLS
    | {"add", "sub", "mul", "div", "maximum", "minimum", "where"}
)
"""Operations that treat every entry alone, operands broadcast against each other."""


def entrywise(operands: Sequence[Operand], params: Mapping[str, Any], shapes: Sequence[Shape], count: int) -> Step:
    """All operands that have the axis of the examples hold the same ones along it."""
    place = first_place([widened(operand, shapes[0]) for operand in operands])
    assert place is not None
    return Step(tuple(fitted(operand, shapes[0], place) for operand in operands), (place,) * len(shapes), params)


def _over(axes_of: Callable[[Mapping[str, Any]], Sequence[int]], what: str, *, removed: bool = False) -> Rule:
    """A rule for operations that combine the entries along axes, which must not be those of examples."""

    def rule(operands: Sequence[Operand], params: Mapping[str, Any], shapes: Sequence[Shape], count: int) -> Step:
        rank = len(operands[0].shape)
        axes = {axis % rank for axis in axes_of(params)}
        place = operands[0].place
        if place is None:
            raise MixedError("what it is scaled by differs from example to example")
        if place.axis in axes:
            raise MixedError(what)
        wanted = (place, *(fitted(operand, operands[0].shape, place) for operand in operands[1:]))
        gone = removed and not params["keepdims"]
        result = Place(place.axis - sum(axis < place.axis for axis in axes if gone), place.outer)
        return Step(wanted, (result,) * len(shapes), params)

    return rule


def _axes(params: Mapping[str, Any]) -> Sequence[int]:
    return params["axes"]


def _axis(params: Mapping[str, Any]) -> Sequence[int]:
    return (params.get("axis", -1),)


def _leading(axes: int) -> Rule:
    """A rule for operations that treat the first axes, and only those, entry by entry; results keep them."""

    def rule(operands: Sequence[Operand], params: Mapping[str, Any], shapes: Sequence[Shape], count: int) -> Step:
        place = operands[0].place
        if place is None or place.axis >= axes:
            raise MixedError("it runs over several examples at once")
        return Step((place, *(None,) * (len(operands) - 1)), (place,) * len(shapes), params)

    return rule


def _sample(operands: Sequence[Operand], params: Mapping[str, Any], shapes: Sequence[Shape], count: int) -> Step:
    """Positions are the examples' own; along the channels every example may have the same."""
    place = first_place([operand.place for operand in operands])
    if place is None or place.axis > 1:
        raise MixedError("it reads between examples")
    return Step((place, place if place.axis == 0 else None), (place,), params)


def _interpolated(operands: Sequence[Operand], params: Mapping[str, Any], shapes: Sequence[Shape], count: int) -> Step:
    place = operands[0].place
    if place is None or place.axis in params["axes"] or any(each.place for each in operands[1:]):
        raise MixedError("it interpolates between examples")
    return Step((place, *(None for _ in operands[1:])), (place,), params)


def _last_kept(operands: Sequence[Operand], params: Mapping[str, Any], shapes: Sequence[Shape], count: int) -> Step:
    """Operations on the entries of the last axis."""
    place = operands[0].place
    if place is None or place.axis == len(operands[0].shape) - 1:
        raise MixedError("it combines the coordinates of several examples")
    return Step((place,), (place,), params)


def _determinant(operands: Sequence[Operand], params: Mapping[str, Any], shapes: Sequence[Shape], count: int) -> Step:
    place = operands[0].place
    if place is None or place.axis >= len(operands[0].shape) - 2:
        raise MixedError("its matrices hold several examples")
    return Step((place,), (place,), params)


def _shared_range(operands: Sequence[Operand], params: Mapping[str, Any], shapes: Sequence[Shape], count: int) -> Step:
    """Each example is quantised by its own range, as when it is run alone: dynamic quantisation rounds, no more."""
    return Step((operands[0].place,), (None,) * len(shapes), params)


def _tree_paths(operands: Sequence[Operand], params: Mapping[str, Any], shapes: Sequence[Shape], count: int) -> Step:
    place = operands[0].place
    if place is None or place.axis != 0:
        raise MixedError("its features hold several examples")
    others = (None,) * (len(operands) - 1)
    return Step((place, *others), (Place(1 if params["per_tree"] else 0, place.outer),), params)


def _tree_sum(operands: Sequence[Operand], params: Mapping[str, Any], shapes: Sequence[Shape], count: int) -> Step:
    paths, place = operands[0], operands[0].place
    if place is None or place.axis >= len(paths.shape) - 2:
        raise MixedError("it adds up the features of several examples")
    summed = Operand((*paths.shape[:-2], paths.shape[-1]), place)
    result = widened(summed, shapes[0])
    others = (fitted(each, shapes[0], result or place) for each in operands[1:])
    return Step((place, *others), (result,), params)


RULES: dict[str, Rule] = {
    **dict.fromkeys(ENTRYWISE, entrywise),
    **dict.fromkeys(
        ("reduce_sum", "reduce_mean"), _over(_axes, "it adds up the entries of all examples", removed=True)
    ),
    **dict.fromkeys(("reduce_max", "reduce_min"), _over(_axes, "it compares the examples", removed=True)),
    "log_sum_exp": _over(_axes, "it adds up the entries of all examples", removed=True),
    **dict.fromkeys(("argmax", "argmin"), _over(_axis, "it compares the examples", removed=True)),
    **dict.fromkeys(("softmax", "log_softmax"), _over(_axis, "it normalises over the examples")),
    **dict.fromkeys(("layer_norm", "rms_norm"), _over(_axes, "its statistics are those of all examples")),
    "lp_norm": _over(_axis, "its norm is that of all examples"),
    "order": _over(_axis, "it sorts the examples"),
    "cumsum": _over(_axis, "it adds examples to those before them"),
    **dict.fromkeys(("group_norm", "max_positions"), _leading(1)),
    "local_response_norm": _leading(1),
    **dict.fromkeys(("avg_pool", "max_pool"), _leading(2)),
    "sample": _sample,
    "interpolate": _interpolated,
    "grid_points": _last_kept,
    "determinant": _determinant,
    "dynamic_range": _shared_range,
    "tree_paths": _tree_paths,
    "tree_sum": _tree_sum,
    **MOVES,
    **CONTRACTIONS,
    **INDEXING,
    **WRITING,
}
