"""A factor on spikes, of all or of each channel, goes behind what is linear, or into it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mapping.graph.ir import Graph, Kind, Node, renamed_inputs, sorted_graph, unique_name
from mapping.graph.ops import OPS
from mapping.graph.ops.shape import RESHAPED

PASSED = frozenset({*RESHAPED, "avgpool", "global_avgpool", "delay"})
"""Kinds of nodes that make of scaled spikes what they make of spikes, scaled."""
WEIGHTED = {"decode": "weights"}
"""Where the weights of readouts are; those of synapses are called "weight"."""


def fold_factors(graph: Graph) -> Graph:
    """Multiply a factor on spikes into the synapses and readouts behind it, through what is linear.

    What else reads the product keeps it.
    """
    changed = True
    while changed:
        changed = False
        for scale in graph:
            if not (_scales(scale) and _of_spikes(graph, graph[scale.inputs[0]])):
                continue
            if users := [node for node, _ in graph.consumers(scale.name) if _takes(scale, node)]:
                graph = _rewritten(graph, scale, users)
                changed = True
                break
    return graph


def _scales(node: Node) -> bool:
    """Whether a node multiplies what it takes with a factor, one or one of each channel."""
    return node.op == "scale" or (node.op == "one_to_one" and "bias" not in node.tensors)


def _of_spikes(graph: Graph, node: Node) -> bool:
    """Whether a node makes spikes, or averages of them."""
    if node.op in PASSED:
        return _of_spikes(graph, graph[node.inputs[0]])
    return node.type.kind is Kind.SPIKE


def _takes(scale: Node, user: Node) -> bool:
    """Whether a factor can go through a node or into it."""
    single = scale.op == "scale"
    if user.op == "maxpool":
        return bool(scale.attrs["factor"] > 0 if single else (scale.tensors["weight"] > 0).all())
    if user.op in RESHAPED or OPS[user.op].role == "synapse":
        return single
    return user.op in PASSED or user.op in WEIGHTED


def _rewritten(graph: Graph, scale: Node, users: list[Node]) -> Graph:
    """The graph with a factor within, or behind, the nodes that can take it."""
    names = {node.name for node in users}
    nodes: dict[str, Node] = {}
    for node in graph:
        for new in _with_factor(graph, scale, node) if node.name in names else (node,):
            nodes[new.name] = new
    return sorted_graph(nodes.values(), graph.output.name)


def _with_factor(graph: Graph, scale: Node, node: Node) -> Iterator[Node]:
    """A node that reads spikes themselves, and what makes up for the factor that they lack."""
    source, factor = graph[scale.inputs[0]], scale.attrs.get("factor")
    bare = renamed_inputs(node, {scale.name: source.name})
    weight = WEIGHTED.get(node.op, "weight")
    if weight in node.tensors and factor is not None:
        scaled = (node.tensors[weight].double() * factor).float()
        yield replace(bare, tensors={**node.tensors, weight: scaled})
        return
    inner = unique_name(f"{node.name}.spikes", {other.name for other in graph})
    type_ = OPS[node.op].infer(node.attrs, node.tensors, (source.type,))
    yield replace(bare, name=inner, type=type_)
    yield replace(scale, name=node.name, inputs=(inner,), type=replace(node.type, kind=Kind.VALUE))
