"""Attributes: values out of range, other types, dropped and doubled."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, helper, numpy_helper

from .picking import ABSURD, Generator, attributes, nodes, pick


def absurd_attribute(model: onnx.ModelProto, rng: Generator) -> None:
    """The value of an attribute."""
    attribute = pick(rng, attributes(model))
    attribute.i = pick(rng, ABSURD) if attribute.type == AttributeProto.INT else attribute.i
    attribute.f = pick(rng, (np.nan, np.inf, -1.0, 1e38)) if attribute.type == AttributeProto.FLOAT else attribute.f
    if attribute.ints:
        attribute.ints[int(rng.integers(len(attribute.ints)))] = pick(rng, ABSURD)
    if attribute.type == AttributeProto.STRING:
        attribute.s = pick(rng, (b"", b"\xff\xfe", b"a" * 100_000, b"ij,jk,kl,lm->im", b"...i->", b"abc->cba" * 99))
    for field, kind in (("i", AttributeProto.INT), ("f", AttributeProto.FLOAT)):
        if attribute.type != kind:
            attribute.ClearField(field)


def retyped_attribute(model: onnx.ModelProto, rng: Generator) -> None:
    """An attribute of another type, in name or in deed."""
    attribute = pick(rng, attributes(model))
    if rng.random() < 0.3:
        attribute.type = int(rng.integers(0, 15))
        return
    values = (1, -5, 2**62, 1.5, "text", [1, 2], [1.5], ["a"], numpy_helper.from_array(np.ones(3)), np.int64(7))
    held = attribute.name
    attribute.CopyFrom(helper.make_attribute(held, pick(rng, values)))


def lost_attribute(model: onnx.ModelProto, rng: Generator) -> None:
    """An attribute dropped, doubled or renamed."""
    owner = pick(rng, [each for each in nodes(model) if each.attribute])
    position, choice = int(rng.integers(len(owner.attribute))), rng.integers(4)
    if choice == 0:
        del owner.attribute[position]
    elif choice == 1:
        owner.attribute.append(owner.attribute[position])
    elif choice == 2:
        owner.attribute[position].name = pick(rng, ("lowering", "self", "axis", "body", "", "a" * 9999))
    else:
        owner.attribute[position].ref_attr_name = "nothing"


_MODES = ("", "bogus", "NOTSET", "SAME_UPPER", "VALID", "reflect", "wrap", "linear", "cubic", "nearest", "forward")
_MODES += ("bidirectional", "mul", "none", "mean", "CRD", "LEFT", "tanh", "x" * 100_000, "\udcff\x1b[2J")


def out_of_range(model: onnx.ModelProto, rng: Generator) -> None:
    """An attribute that the operator has, whether the node gave it or not, beyond what it may be."""
    owner = pick(rng, [each for each in nodes(model) if _known(each)])
    name, kind = pick(rng, _known(owner))
    kept = [each for each in owner.attribute if each.name != name]
    changed = helper.make_attribute(name, _beyond(kind, rng))
    del owner.attribute[:]
    owner.attribute.extend([*kept, changed])


def _known(owner: onnx.NodeProto) -> list[tuple[str, str]]:
    """Attributes of an operator that hold numbers or text, with their types."""
    if not onnx.defs.has(owner.op_type, owner.domain):
        return []
    known: Any = onnx.defs.get_schema(owner.op_type, owner.domain).attributes
    return sorted((name, each.type.name) for name, each in known.items() if each.type.name in _KINDS)


_KINDS = ("INT", "INTS", "FLOAT", "STRING")


def _beyond(kind: str, rng: Generator) -> Any:
    """A value of a type that few operators take."""
    small = (*range(-3, 6), 7, 99)
    if kind == "INT":
        return int(pick(rng, (*ABSURD, *small)))
    if kind == "INTS":
        values = [int(pick(rng, (*ABSURD, *small))) for _ in range(int(pick(rng, (1, 2, 3, 4, 8, 100))))]
        return pick(rng, (values, values[:1] * len(values), list(range(len(values)))[::-1]))
    if kind == "FLOAT":
        return float(pick(rng, (np.nan, np.inf, -np.inf, -1.0, 0.0, 1e-45, 1e38, -1e38)))
    return pick(rng, _MODES).encode("utf-8", "surrogateescape")
