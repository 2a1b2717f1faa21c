"""Names, and what reads what."""

from __future__ import annotations

import onnx

from .picking import TEXTS, Generator, names, nodes, pick, tensors


def rewired(model: onnx.ModelProto, rng: Generator) -> None:
    """A node reads another value: one before it, one after it, or itself."""
    owner = pick(rng, [each for each in nodes(model) if each.input])
    owner.input[int(rng.integers(len(owner.input)))] = pick(rng, [*names(model), "x"])


def renamed(model: onnx.ModelProto, rng: Generator) -> None:
    """A result under another name: another value's, none, or no name at all."""
    owner = pick(rng, [each for each in nodes(model) if each.output])
    owner.output[int(rng.integers(len(owner.output)))] = pick(rng, [*names(model), *TEXTS])


def odd_text(model: onnx.ModelProto, rng: Generator) -> None:
    """A name of something that should have a decent one."""
    text, owner = pick(rng, TEXTS), pick(rng, nodes(model))
    choice = rng.integers(7)
    if choice < 3:
        setattr(owner, ("name", "op_type", "domain")[choice], text)
    elif choice == 3:
        pick(rng, model.graph.output).name = text
    elif choice == 4:
        pick(rng, model.graph.input).name = text
    elif choice == 5:
        pick(rng, tensors(model)).name = text
    else:
        nested = pick(rng, ("(" * 500 + ")" * 500, "-" * 5000 + "1", "[" * 90 + "]" * 90, "['a', 3]", "[1]" * 5000))
        owner.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=nested)


def operands(model: onnx.ModelProto, rng: Generator) -> None:
    """Operands or results dropped or added."""
    owner, field = pick(rng, nodes(model)), pick(rng, ("input", "output"))
    held = list(getattr(owner, field))
    changed = pick(rng, (held[:-1], held[1:], [], held * 2, [*held, ""], [*held, "extra"], ["", *held], held * 500))
    owner.ClearField(field)
    getattr(owner, field).extend(changed)


def shuffled(model: onnx.ModelProto, rng: Generator) -> None:
    """Nodes dropped, doubled or in another order."""
    moved, choice = list(model.graph.node), rng.integers(3)
    chosen = int(rng.integers(len(moved)))
    if choice == 0:
        del moved[chosen]
    elif choice == 1:
        moved.insert(chosen, moved[chosen])
    else:
        moved = [moved[i] for i in rng.permutation(len(moved))]
    moved = [onnx.NodeProto.FromString(each.SerializeToString()) for each in moved]
    model.graph.ClearField("node")
    model.graph.node.extend(moved)


OPERATORS = sorted({schema.name for schema in onnx.defs.get_all_schemas()})


def other_operator(model: onnx.ModelProto, rng: Generator) -> None:
    """A node that computes something else."""
    owner = pick(rng, nodes(model))
    owner.op_type = pick(rng, OPERATORS)
    if rng.random() < 0.5:
        owner.ClearField("attribute")


def other_opset(model: onnx.ModelProto, rng: Generator) -> None:
    """Another version, or none, or two."""
    entry = pick(rng, model.opset_import)
    entry.version = int(pick(rng, (*range(-1, 30), 2**31, 2**62)))
    if rng.random() < 0.2:
        model.opset_import.add(
            domain=pick(rng, ("", "ai.onnx", "com.microsoft", "\0")), version=int(rng.integers(1, 25))
        )
