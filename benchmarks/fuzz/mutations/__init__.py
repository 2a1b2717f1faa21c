"""Mutations of a serialised model, by kind: what it claims, attributes, wiring, nesting, width, unfolding, bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import onnx
from google.protobuf.message import DecodeError

from . import attributes, claims, nesting, unfolding, width, wire, wiring
from .picking import Generator, pick

__all__ = ["attributes", "claims", "mutate", "nesting", "unfolding", "width", "wire", "wiring"]

Mutation: TypeAlias = Callable[[onnx.ModelProto, Generator], None]

STRUCTURAL: tuple[Mutation, ...] = (
    claims.absurd_dims,
    claims.absurd_input,
    claims.absurd_type,
    *[claims.absurd_integers] * 3,
    claims.absurd_floats,
    claims.lost_data,
    claims.doubled_data,
    claims.outside_data,
    *[attributes.absurd_attribute] * 3,
    *[attributes.out_of_range] * 4,
    attributes.retyped_attribute,
    attributes.lost_attribute,
    wiring.rewired,
    wiring.renamed,
    wiring.odd_text,
    wiring.operands,
    wiring.shuffled,
    wiring.other_operator,
    wiring.other_opset,
    unfolding.doubled,
    unfolding.chained,
    unfolding.calling_itself,
    unfolding.looping,
    nesting.loops_in_loops,
    nesting.branches_in_branches,
    nesting.functions_in_functions,
    width.many_operands,
    width.many_results,
    width.many_consumers,
    width.many_inputs,
)

BYTES = (wire.flipped, wire.flipped, wire.truncated, wire.spliced, wire.stuffed, wire.nested, wire.crowded)


def mutate(data: bytes, rng: Generator) -> tuple[bytes, list[str]]:
    """A hostile file from an honest one, and the names of what was done to it."""
    names = []
    for _ in range(int(rng.integers(1, 4))):
        try:
            model = onnx.ModelProto.FromString(data) if rng.random() < 0.88 else None
        except DecodeError:
            model = None
        if model is None:
            change = pick(rng, BYTES)
            data = change(data, rng) if data else data
        else:
            change = pick(rng, STRUCTURAL)
            data = _changed(model, change, rng, data)
        names.append(change.__name__)
    return data, names


def _changed(model: onnx.ModelProto, change: Mutation, rng: Generator, data: bytes) -> bytes:
    """The model after a change, or as it was where there is nothing to change like that."""
    try:
        change(model, rng)
        return model.SerializeToString()
    except Exception:  # an earlier mutation left nothing to pick, or text that cannot be written
        return data
