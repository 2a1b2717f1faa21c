"""Nodes in an order in which each comes after those it reads.

ONNX asks files for such an order. Converters in daily use (onnxruntime's one to half precision, for example) do not
keep to it, and onnxruntime runs what they write, so nodes are put in order before they are lowered.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

import onnx

from .verify import graphs_of


def in_order(nodes: Iterable[onnx.NodeProto]) -> Sequence[onnx.NodeProto]:
    """The nodes of one graph, each after those whose results it or its sub-graphs read.

    Nodes that are in order stay where they are. Those of a circle come last: reading them names what is missing.
    """
    nodes = list(nodes)
    made_by = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    waits_for = [{made_by[name] for name in _read(node) if name in made_by} for node in nodes]
    readers: list[list[int]] = [[] for _ in nodes]
    for i, others in enumerate(waits_for):
        for other in others:
            readers[other].append(i)
    ready = [i for i, others in enumerate(waits_for) if not others]
    order: list[int] = []
    while ready:  # a heap: of the nodes that can come next, the first in the file does
        order.append(heapq.heappop(ready))
        for reader in readers[order[-1]]:
            waits_for[reader].discard(order[-1])
            if not waits_for[reader]:
                heapq.heappush(ready, reader)
    circle = sorted(set(range(len(nodes))).difference(order))
    return [nodes[i] for i in (*order, *circle)]


def _read(node: onnx.NodeProto) -> set[str]:
    """Names that a node reads, those that its sub-graphs read around them included."""
    read, waiting = set(node.input), [graph for attribute in node.attribute for graph in graphs_of(attribute)]
    own: set[str] = set()
    while waiting:
        graph = waiting.pop()
        own.update(each.name for each in (*graph.input, *graph.initializer))
        own.update(name for inner in graph.node for name in inner.output)
        read.update(each.name for each in graph.output)
        read.update(name for inner in graph.node for name in inner.input)
        waiting += [each for inner in graph.node for attribute in inner.attribute for each in graphs_of(attribute)]
    return (read - own) | set(node.input)
