"""Values that differ from step to step cross to a chip as graded spikes.

A node on the host rounds them to whole numbers of a unit, a power of two, and the weights behind
it are of that unit. So the product is that of the rounded values, and nothing else changes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
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
FINER = 8
"""Doublings of the unit that are tried beyond that at which nothing is clipped."""

Users = Mapping[str, Sequence[Node]]
"""Synapses that take values of each step, by the neuron whose current they are part of."""


def gradable(graph: Graph, registers: Registers) -> Users:
    """The neurons that lack nothing for the chip but graded spikes in place of values.

    Args:
        graph: after the passes.
        registers: the target's.
    """
    if registers.message_bits < BITS:
        return {}
    users = {
        node.name: synapses
        for node in graph
        if node.op == "neuron" and (synapses := taking_values(graph, node))
    }
    whole = graded(graph, users)
    return {n: users[n] for n in users if rejected_neuron(whole, whole[n], registers) is None}


def graded(graph: Graph, users: Users, samples: Tensor | None = None) -> Graph:
    """The graph with a node of graded values behind each source, in front of its users.

    Args:
        graph: after the passes.
        users: from :func:`gradable`.
        samples: of its input; payloads are of the unit that brings what they lead to nearest to
            itself in the mean square: large values that are rare are clipped. None for any unit.
    """
    if not users:
        return graph
    synapses = [node for some in users.values() for node in some]
    sources = dict.fromkeys(node.inputs[0] for node in synapses)
    units = dict.fromkeys(sources, (Payload(BITS, True), 1.0))
    if samples is not None:
        units = _units(graph, list(sources), samples)
    nodes = {node.name: node for node in graph}
    for source, (payload, unit) in units.items():
        name = unique_name(f"{source}.graded", nodes.keys())
        attrs = {"unit": unit, "bits": payload.bits, "signed": payload.signed}
        signal = OPS["grade"].infer(attrs, {}, (graph[source].type,))
        nodes[name] = Node(name, "grade", (source,), signal, attrs)
        for synapse in synapses:
            if synapse.inputs[0] == source:
                nodes[synapse.name] = _weighted(synapse, name, 1 / unit)
    return sorted_graph(nodes.values(), graph.output.name)


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


def _units(
    graph: Graph, sources: Sequence[str], samples: Tensor
) -> dict[str, tuple[Payload, float]]:
    """The payload of each source, and how many of its whole numbers are a value of 1."""
    ends = dict.fromkeys(sources, (0.0, 0.0))
    for values in _evaluated(graph, sources, samples):
        for name, (low, high) in ends.items():
            ends[name] = min(low, float(values[name].min())), max(high, float(values[name].max()))
    payloads = {name: Payload(BITS, low < 0) for name, (low, _) in ends.items()}
    tried, errors = {}, {}
    for name, (low, high) in ends.items():
        whole = math.floor(math.log2(payloads[name].range[1] / (max(-low, high) or 1.0)))
        tried[name] = [2.0**k for k in range(whole, whole + FINER + 1)]
        errors[name] = [0.0] * len(tried[name])
    axis = graph.input.type.batch_axis
    few = samples.narrow(axis, 0, min(samples.shape[axis], SAMPLES))
    for values in _evaluated(graph, sources, few):
        for name, payload in payloads.items():
            for place, unit in enumerate(tried[name]):
                near = (values[name] * unit).round().clamp(*payload.range) / unit
                errors[name][place] += float((near - values[name]).square().sum())
    return {n: (payloads[n], min(zip(errors[n], tried[n], strict=True))[1]) for n in sources}


def _evaluated(
    graph: Graph, sources: Sequence[str], samples: Tensor
) -> Iterator[Mapping[str, Tensor]]:
    """The values of some nodes, of a few samples at a time."""
    edges = graph.networkx()
    needed = set(sources).union(*(nx.ancestors(edges, name) for name in sources))
    nodes = moved(graph, [node.name for node in graph if node.name in needed], samples)
    for part in samples.split(SAMPLES, graph.input.type.batch_axis):
        values = {graph.input.name: part}
        evaluate_nodes(graph, nodes, values)
        yield values


def _weighted(synapse: Node, source: str, factor: float) -> Node:
    """A synapse that takes another source, through weights times a power of two."""
    tensors = {**synapse.tensors, "weight": synapse.tensors["weight"] * factor}
    return replace(synapse, inputs=(source,), tensors=tensors)
