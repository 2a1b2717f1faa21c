"""Which of the framework's modules a node belongs to, as exporters leave it.

torch's newer exporter, and ours, write it down. Its older one leaves scopes in the names of nodes,
`/layer1/layer1.0/conv1/Conv`, which are no paths of modules: one may repeat the container in front of it (`layer1.0`),
leave it out (a ModuleDict), or count calls (`act_1`). They are read where the names of parameters
(`layer1.0.conv1.weight`) tell what they stand for; other nodes belong to the innermost module around them that is told.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import TypeAlias

import onnx

SCOPES = "pkg.torch.onnx.name_scopes"
"""Metadata in which torch's newer exporter keeps the paths of the modules around a node, innermost last."""

CALLS = "backtrace_jax.calls"
"""Metadata in which our own exports keep the modules around a node, each numbered by its calls: `block`, `block:1`."""

_LONGEST = 10_000  # characters of a module path that are read
_DEEPEST = 64  # scopes of a name, and parts of a path, that are read
_CALL = re.compile(r"_\d+$")
Scopes: TypeAlias = tuple[str, ...]


def module_of(node: onnx.NodeProto, told: Mapping[Scopes, str]) -> str:
    """Path of the module around a node: the innermost scope around the operator itself, or one told by parameters."""
    listed, named = _metadata(node, SCOPES), _named_scopes(node)
    if len(listed) > 1:
        return listed[-2]
    return next((told[named[:depth]] for depth in range(len(named), 0, -1) if named[:depth] in told), "")


def calls_around(node: onnx.NodeProto) -> tuple[str, ...]:
    """The modules around a node, each with the number of its call, where an exporter kept count."""
    return tuple(_metadata(node, CALLS))


def scopes_told(graph: onnx.GraphProto) -> dict[Scopes, str]:
    """The module that scopes in the names of nodes stand for, as the names of the parameters read there tell it."""
    parameters = {tensor.name for tensor in graph.initializer}
    found: dict[Scopes, set[str]] = {}
    for node in graph.node:
        scopes = _named_scopes(node)
        owners = {name.rpartition(".")[0] for name in node.input if name in parameters} - {""}
        for depth, path in enumerate(_aligned(scopes, owners.pop()) if scopes and len(owners) == 1 else (), 1):
            found.setdefault(scopes[:depth], set()).add(path)
    return {scopes: path for scopes, (path, *others) in found.items() if not others}


def _named_scopes(node: onnx.NodeProto) -> Scopes:
    """The scopes in the name of a node, outermost first; none where the name is of another form."""
    first, *scopes, last = node.name[:_LONGEST].split("/") if "/" in node.name else ("", "")
    return tuple(scopes) if not first and _CALL.sub("", last) == node.op_type and len(scopes) <= _DEEPEST else ()


def _aligned(scopes: Scopes, owner: str) -> list[str]:
    """Path of the module that each scope stands for, down to the owner; none where not one way fits."""
    parts = owner.split(".")
    if len(parts) > _DEEPEST:
        return []
    reached = [{0}]
    for scope in scopes:
        reached.append({end for begin in reached[-1] for end in _ends(scope, parts, begin)})
    kept = [reached[-1] & {len(parts)}]
    for scope, begins in zip(scopes[::-1], reached[-2::-1], strict=True):
        kept.append({begin for begin in begins if _ends(scope, parts, begin) & kept[-1]})
    ends = kept[-2::-1]
    return [".".join(parts[:end]) for (end,) in ends] if all(len(each) == 1 for each in ends) else []


def _ends(scope: str, parts: list[str], begin: int) -> set[int]:
    """Up to where a scope names a path, from a part on: all of its names, or those behind the ones in front of it."""
    found = set()
    for spelling in (scope, _CALL.sub("", scope)):
        names = spelling.split(".")
        for known in range(min(len(names), begin + 1)):
            end = begin - known + len(names)
            if parts[begin - known : end] == names:
                found.add(end)
    return found


def _metadata(node: onnx.NodeProto, key: str) -> list[str]:
    """A list of texts kept as metadata; nothing where there is none, or none that can be read."""
    for entry in node.metadata_props:
        if entry.key == key and len(entry.value) <= _LONGEST:
            try:
                listed = ast.literal_eval(entry.value)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                return []
            return list(map(str, listed)) if isinstance(listed, list) else []
    return []
