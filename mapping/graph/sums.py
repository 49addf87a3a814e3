"""Sums of spikes: a chip adds currents, so a layer of a sum becomes a sum of layers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from mapping.graph.ir import Graph, Kind, Node, sorted_graph, unique_name
from mapping.graph.ops import OPS

THROUGH = frozenset({"flatten", "avgpool", "global_avgpool", "scale"})
"""Kinds of nodes between a sum and a layer that do to a sum what they do to each of its parts."""

Term = tuple[str, tuple[Node, ...]]
"""The spikes of a part of a sum, and the nodes between them and the layer, the first one first."""


def split_sum(graph: Graph) -> Graph:
    """``layer(a + b)`` of spikes becomes ``layer(a) + layer(b)``, with the layer's bias once.

    The layer's weights are needed once for each part; ``a + a`` doubles them instead. Only where
    the layer drives neurons, and where all else that uses the sum is such a layer.
    """
    nodes = {node.name: node for node in graph}
    for layer in graph:
        if not _drives(graph, layer):
            continue
        counts: dict[Term, int] = {}
        for term in _terms(graph, layer.inputs[0]) or ():
            counts[term] = counts.get(term, 0) + 1
        if sum(counts.values()) > 1:
            _add_split(nodes, layer, counts)
    return sorted_graph(nodes.values(), graph.output.name)


def _add_split(nodes: dict[str, Node], layer: Node, counts: dict[Term, int]) -> None:
    """Put a layer for each part of a sum, and their sum under the layer's name, into ``nodes``."""
    total = ""
    for slot, ((source, between), count) in enumerate(counts.items()):
        for node in between:
            name = unique_name(f"{node.name}.{slot}", nodes)
            signal = OPS[node.op].infer(node.attrs, node.tensors, (nodes[source].type,))
            nodes[name] = replace(node, name=name, inputs=(source,), type=signal)
            source = name
        bias = {k: v for k, v in layer.tensors.items() if k == "bias" and not slot}
        tensors = {"weight": layer.tensors["weight"] * count, **bias}
        alone = len(counts) == 1
        name = layer.name if alone else unique_name(f"{layer.name}.{slot}", nodes)
        nodes[name] = replace(layer, name=name, inputs=(source,), tensors=tensors)
        if total:
            last = slot == len(counts) - 1
            added = layer.name if last else unique_name(f"{layer.name}.sum", nodes)
            nodes[added] = Node(added, "add", (total, name), layer.type)
            name = added
        total = name


def _terms(graph: Graph, name: str, between: tuple[Node, ...] = ()) -> Iterable[Term] | None:
    """The parts of a sum of spikes alone that only layers use; None where it is anything else."""
    node = graph[name]
    if node.type.kind is Kind.SPIKE:
        return [(name, between)]
    if node.op in THROUGH:
        return _terms(graph, node.inputs[0], (node, *between))
    if node.op != "add" or not _for_layers(graph, node):
        return None
    parts = [_terms(graph, source, between) for source in node.inputs]
    return None if None in parts else [term for part in parts for term in part or ()]


def _for_layers(graph: Graph, node: Node) -> bool:
    """Whether all that a value is used for are layers that drive neurons."""
    users = [user for user, _ in graph.consumers(node.name)]
    return bool(users) and all(
        _drives(graph, user)
        or ((user.op in THROUGH or user.op == "add") and _for_layers(graph, user))
        for user in users
    )


def _drives(graph: Graph, node: Node) -> bool:
    """Whether a node is a layer whose sum is, alone or with others, a neuron's current."""
    if OPS[node.op].role != "synapse":
        return False
    pending = [node.name]
    while pending:
        for user, _ in graph.consumers(pending.pop()):
            if user.op == "neuron":
                return True
            pending += [user.name] if user.op == "add" else []
    return False
