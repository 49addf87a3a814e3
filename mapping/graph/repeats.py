"""Values that are the same in every step: layers of them run once, and a chip may be given them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import networkx as nx
from torch import Tensor

from has8.encoders import DuplicateEncoder
from mapping.graph.evaluate import evaluate_nodes, moved
from mapping.graph.ir import Graph, Kind, Node, sorted_graph, unique_name
from mapping.graph.ops import OPS

SAMPLES = 64
"""Samples that are measured at a time."""


def repeats(node: Node) -> bool:
    """Whether a node repeats values in every step."""
    return node.op == "encode" and node.attrs["coding"] == DuplicateEncoder.coding


def repeat_last(graph: Graph) -> Graph:
    """Layers of repeated values run once, and what they give is repeated; the values are the same.

    Each use of what is repeated has a repetition of its own.
    """
    nodes: dict[str, Node] = {}
    once: dict[str, tuple[str, Node]] = {}  # what is the same in all steps, as made once; repeated

    def use(name: str) -> str:
        if name not in once:
            return name
        made, repeat = once[name]
        wanted = name if graph[name] is repeat else f"{name}.repeated"
        repeated = unique_name(wanted, nodes.keys() | {n.name for n in graph if n is not repeat})
        signal = replace(nodes[made].type, kind=Kind.VALUE, steps=repeat.attrs["steps"])
        nodes[repeated] = replace(repeat, name=repeated, inputs=(made,), type=signal)
        return repeated

    for node in graph:
        if repeats(node):
            once[node.name] = node.inputs[0], node
        elif all(name in once for name in node.inputs) and _stepless(node):
            inputs = tuple(once[name][0] for name in node.inputs)
            signals = tuple(nodes[name].type for name in inputs)
            signal = OPS[node.op].infer(node.attrs, node.tensors, signals)
            nodes[node.name] = replace(node, inputs=inputs, type=signal)
            once[node.name] = node.name, once[node.inputs[0]][1]
        else:
            nodes[node.name] = replace(node, inputs=tuple(use(name) for name in node.inputs))
    return sorted_graph(nodes.values(), use(graph.output.name))


def _stepless(node: Node) -> bool:
    """Whether a node does in each step what it does without steps."""
    op = OPS[node.op]
    return op.role in ("host", "synapse") and (node.op == "add" or not op.sees_time)


def measured(graph: Graph, samples: Tensor) -> Graph:
    """The graph with the largest magnitude of all that is repeated, as some samples have it.

    Args:
        graph: any.
        samples: of its input.
    """
    sources = {node.inputs[0] for node in graph if repeats(node)}
    if not sources:
        return graph
    edges = graph.networkx()
    needed = sources.union(*(nx.ancestors(edges, name) for name in sources))
    nodes = moved(graph, [node.name for node in graph if node.name in needed], samples)
    largest = dict.fromkeys(sources, 0.0)
    for part in samples.split(SAMPLES, graph.input.type.batch_axis):
        values = {graph.input.name: part}
        evaluate_nodes(graph, nodes, values)
        for name in sources:
            largest[name] = max(largest[name], float(values[name].abs().max()))
    kept = [_with_largest(node, largest) if repeats(node) else node for node in graph]
    return sorted_graph(kept, graph.output.name)


def _with_largest(node: Node, largest: Mapping[str, float]) -> Node:
    return replace(node, attrs={**node.attrs, "largest": largest[node.inputs[0]]})
