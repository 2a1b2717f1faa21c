"""Names of an exported file as the module's owner knows them, the same from either exporter.

Nodes carry the path of the submodule they were computed in (`layer1.0.conv2`) as metadata; initialisers are called
after the parameters they are. Everything else an exporter leaves, stack traces and paths of the machine among it, goes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import onnx

from ..onnx import CALLS, SCOPES
from ..onnx.verify import graphs_of

_LONGEST = 200  # characters of a reason

PREFIX = "explained"
"""What the exported module calls the user's module."""


Calls = Mapping[str, Sequence[str]]
"""By the name of a node of the traced module, the modules around it from the outside in, numbered by their calls."""


def rename(proto: onnx.ModelProto, modules: Collection[str], calls: Calls) -> None:
    """Give the file the module's own names, in place.

    Args:
        proto: An exported file.
        modules: Paths of the module's submodules.
        calls: Which calls of modules a node belongs to, where the exporter tells.
    """
    del proto.metadata_props[:], proto.graph.metadata_props[:]
    graphs = list(_graphs(proto.graph))
    renamed = _parameter_names(graphs)
    for graph in graphs:
        for named in (*graph.initializer, *graph.value_info, *graph.input, *graph.output):
            named.name = renamed.get(named.name, named.name)
            del named.metadata_props[:]
        for node in graph.node:
            _rename_node(node, renamed, modules, calls)


def _rename_node(node: onnx.NodeProto, renamed: dict[str, str], modules: Collection[str], calls: Calls) -> None:
    node.input[:] = [renamed.get(name, name) for name in node.input]
    node.output[:] = [renamed.get(name, name) for name in node.output]
    scopes = _scopes(node, modules)
    numbered = [_without_prefix(scope) for scope in calls.get(scopes[-1], ())]
    node.doc_string = ""
    del node.metadata_props[:]
    node.metadata_props.add(key=SCOPES, value=repr(scopes))
    node.metadata_props.add(key=CALLS, value=repr(list(filter(None, numbered))))
    if node.name.startswith(f"/{PREFIX}/"):
        node.name = node.name.removeprefix(f"/{PREFIX}")


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    waiting = [graph]
    while waiting:
        current = waiting.pop()
        yield current
        waiting += [inner for node in current.node for each in node.attribute for inner in graphs_of(each)]


def _parameter_names(graphs: Sequence[onnx.GraphProto]) -> dict[str, str]:
    """Initialisers without the prefix, unless that is something else's name."""
    taken = {name for graph in graphs for node in graph.node for name in node.output}
    taken |= {value.name for graph in graphs for value in graph.input}
    names = [tensor.name for graph in graphs for tensor in graph.initializer]
    plain = {name: name.removeprefix(f"{PREFIX}.") for name in names if name.startswith(f"{PREFIX}.")}
    return {name: short for name, short in plain.items() if short not in taken}


def _scopes(node: onnx.NodeProto, modules: Collection[str]) -> list[str]:
    """Paths of the modules around a node, from the module itself inwards, and the node."""
    for entry in node.metadata_props:
        if entry.key == SCOPES:
            return [_without_prefix(scope) for scope in _listed(entry.value)]
    if not node.name.startswith("/"):
        return ["", node.name]
    *segments, own = node.name.strip("/").split("/")
    return [*_paths(segments[1:] if segments[:1] == [PREFIX] else segments, modules), own]


def _listed(text: str) -> list[str]:
    return [part.strip()[1:-1] for part in text.strip("[]").split(",")]


def _without_prefix(scope: str) -> str:
    return "" if scope == PREFIX else scope.removeprefix(f"{PREFIX}.")


def _paths(segments: Sequence[str], modules: Collection[str]) -> list[str]:
    """Paths from the older exporter's scopes, where `layer1/layer1.0` is `layer1.0` and a second call has a suffix."""
    paths = [""]
    for segment in segments:
        found = next((path for path in _candidates(paths[-1], segment) if path in modules), None)
        if found is None:
            break
        paths.append(found)
    return paths


def _candidates(parent: str, segment: str) -> Iterator[str]:
    for name in (segment, segment.rpartition("_")[0]):
        for last in (name, name.rpartition(".")[2]):
            yield f"{parent}.{last}" if parent else last


def describe(error: BaseException) -> str:
    """What went wrong, from the innermost cause, in one line."""
    seen: list[Any] = [error]
    while (cause := seen[-1].__cause__) is not None and cause not in seen:
        seen.append(cause)
    lines = [line.strip() for line in str(seen[-1]).splitlines() if line.strip()]
    text = " ".join(lines[:2])
    text = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
    return f"{type(seen[-1]).__name__}: {text}" if lines else type(seen[-1]).__name__
