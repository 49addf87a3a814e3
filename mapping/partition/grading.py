"""Values that differ from step to step cross to a chip as graded spikes.

A node on the host rounds them to whole numbers of a unit, a power of two, and the weights behind
it are of that unit. So the product is that of the rounded values, and nothing else changes.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace

import networkx as nx
from torch import Tensor

from mapping.chip.payload import Payload
from mapping.graph.evaluate import evaluate_nodes, moved
from mapping.graph.ir import Graph, Node, sorted_graph, unique_name
from mapping.graph.ops import OPS
from mapping.graph.repeats import SAMPLES
from mapping.partition.rules import rejected_neuron, taking_values
from mapping.targets.schema import Registers

BITS = 8
"""Of a payload, the sign included: as fine as weights are."""


def graded(
    graph: Graph, registers: Registers, samples: Tensor, neurons: Container[str] | None = None
) -> Graph:
    """The graph with graded spikes in front of neurons that lack nothing else for the chip.

    Args:
        graph: after the passes.
        registers: the target's.
        samples: of its input; the largest values that they lead to are the largest that payloads
            hold, and larger ones are clipped to these.
        neurons: only those; None for all.
    """
    if registers.message_bits < BITS:
        return graph
    users = {
        node.name: synapses
        for node in graph
        if node.op == "neuron"
        and (neurons is None or node.name in neurons)
        and (synapses := taking_values(graph, node))
    }
    whole = _with(graph, _payloads(graph, users, samples), users)
    taken = {n: users[n] for n in users if rejected_neuron(whole, whole[n], registers) is None}
    return _with(graph, _payloads(graph, taken, samples), taken)


def ungraded(graph: Graph) -> Graph:
    """The graph without what :func:`graded` put into it; most have nothing of that."""
    grades = {node.name: node for node in graph if node.op == "grade"}
    if not grades:
        return graph
    nodes = []
    for node in graph:
        if (given := grades.get(node.inputs[0] if node.inputs else "")) is not None:
            node = _weighted(node, given.inputs[0], given.attrs["unit"])
        nodes.append(node)
    return sorted_graph((n for n in nodes if n.name not in grades), graph.output.name)


def _payloads(
    graph: Graph, users: Mapping[str, Sequence[Node]], samples: Tensor
) -> dict[str, tuple[Payload, float]]:
    """The payload and the unit of each source, as some samples have it."""
    sources = dict.fromkeys(node.inputs[0] for synapses in users.values() for node in synapses)
    edges = graph.networkx()
    needed = set(sources).union(*(nx.ancestors(edges, name) for name in sources))
    nodes = moved(graph, [node.name for node in graph if node.name in needed], samples)
    ends = dict.fromkeys(sources, (0.0, 0.0))
    for part in samples.split(SAMPLES, graph.input.type.batch_axis) if sources else ():
        values = {graph.input.name: part}
        evaluate_nodes(graph, nodes, values)
        for name, (low, high) in ends.items():
            ends[name] = min(low, float(values[name].min())), max(high, float(values[name].max()))
    return {name: _payload(*between) for name, between in ends.items()}


def _payload(low: float, high: float) -> tuple[Payload, float]:
    """What holds values between two ends, and how many of its whole numbers are a value of 1."""
    payload = Payload(BITS, low < 0)
    largest = max(-low, high) or 1.0
    return payload, 2.0 ** math.floor(math.log2(payload.range[1] / largest))


def _with(
    graph: Graph,
    payloads: Mapping[str, tuple[Payload, float]],
    users: Mapping[str, Sequence[Node]],
) -> Graph:
    """The graph with a node of graded values behind each source, in front of its users."""
    if not users:
        return graph
    nodes = {node.name: node for node in graph}
    for source, (payload, unit) in payloads.items():
        name = unique_name(f"{source}.graded", nodes.keys())
        attrs = {"unit": unit, "bits": payload.bits, "signed": payload.signed}
        signal = OPS["grade"].infer(attrs, {}, (graph[source].type,))
        nodes[name] = Node(name, "grade", (source,), signal, attrs)
        for synapse in (node for synapses in users.values() for node in synapses):
            if synapse.inputs[0] == source:
                nodes[synapse.name] = _weighted(synapse, name, 1 / unit)
    return sorted_graph(nodes.values(), graph.output.name)


def _weighted(synapse: Node, source: str, factor: float) -> Node:
    """A synapse that takes another source, through weights times a power of two."""
    tensors = {**synapse.tensors, "weight": synapse.tensors["weight"] * factor}
    return replace(synapse, inputs=(source,), tensors=tensors)
