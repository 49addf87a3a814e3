"""Values that differ from step to step cross to a chip as graded spikes.

A node on the host rounds them to whole numbers of a unit, a power of two, and the weights behind
it are of that unit. So the product is that of the rounded values, and nothing else changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import networkx as nx
from torch import Tensor

from mapping.chip.arithmetic import largest_state
from mapping.chip.grid import default_bits, weight_grid
from mapping.chip.payload import Payload
from mapping.graph.evaluate import evaluate_nodes, moved
from mapping.graph.ir import Graph, Node, sorted_graph, unique_name
from mapping.graph.ops import OPS, synapse_of, wiring_of
from mapping.graph.repeats import SAMPLES
from mapping.partition.rules import rejected_neuron, taking_values
from mapping.targets.schema import Registers

BITS = range(3, 9)
"""Of a payload, the sign included: up to as many as weights have."""
FINER = 8
"""Doublings of the unit that are tried beyond that at which nothing is clipped."""
VALUES = 1 << 18
"""Of a source, that are looked at."""

Users = Mapping[str, Sequence[Node]]
"""Synapses that take values of each step, by the neuron whose current they are part of."""


def gradable(graph: Graph, registers: Registers) -> Users:
    """The neurons that lack nothing for the chip but graded spikes in place of values.

    Args:
        graph: after the passes.
        registers: the target's.
    """
    if registers.message_bits < BITS[-1]:
        return {}
    users = {
        node.name: synapses
        for node in graph
        if node.op == "neuron" and (synapses := taking_values(graph, node))
    }
    whole = graded(graph, users, registers)
    return {n: users[n] for n in users if rejected_neuron(whole, whole[n], registers) is None}


def graded(
    graph: Graph, users: Users, registers: Registers, samples: Tensor | None = None
) -> Graph:
    """The graph with a node of graded values behind each source, in front of its users.

    Args:
        graph: after the passes.
        users: from :func:`gradable`.
        registers: the target's.
        samples: of its input, on which :func:`payload_of` chooses payloads; None for any.
    """
    if not users:
        return graph
    synapses: dict[str, list[Node]] = {}  # by their source
    for node in (node for some in users.values() for node in some):
        synapses.setdefault(node.inputs[0], []).append(node)
    payloads = dict.fromkeys(synapses, (Payload(BITS[-1], True), 1.0))
    if samples is not None:
        for source, values in _values(graph, list(synapses), samples).items():
            weights = [_weights(graph, node) for node in synapses[source]]
            payloads[source] = payload_of(values, weights, registers)
    nodes = {node.name: node for node in graph}
    for source, (payload, unit) in payloads.items():
        name = unique_name(f"{source}.graded", nodes.keys())
        attrs = {"unit": unit, "bits": payload.bits, "signed": payload.signed}
        signal = OPS["grade"].infer(attrs, {}, (graph[source].type,))
        nodes[name] = Node(name, "grade", (source,), signal, attrs)
        for synapse in synapses[source]:
            nodes[synapse.name] = _weighted(synapse, name, 1 / unit)
    return sorted_graph(nodes.values(), graph.output.name)


def payload_of(
    values: Tensor, weights: Sequence[Tensor], registers: Registers
) -> tuple[Payload, float]:
    """What values are rounded to, and how many of its whole numbers are a value of 1.

    No input may make a current wrap around, so that bits of payloads are taken off those of
    weights. Chosen is what brings the currents nearest to themselves in the mean square, by the
    errors of values (large ones that are rare are clipped) and of weights.

    Args:
        values: some of those that are sent.
        weights: of each layer that takes them, ``[C, ...]``.
        registers: the target's.
    """
    largest, power = float(values.abs().max()) or 1.0, float(values.square().mean())
    low, _, step = weight_grid(registers, default_bits(registers), "mixed")
    room = largest_state(registers.state_bits) >> registers.synapse_shift
    tried = []
    for payload in (Payload(bits, bool(values.min() < 0)) for bits in BITS):
        first = math.floor(math.log2(payload.range[1] / largest))
        for unit in (2.0**k for k in range(first, first + FINER + 1)):
            near = (values * unit).round().clamp(*payload.range) / unit
            of_value, error = float((near - values).square().mean()), 0.0
            for weight in weights:
                each = weight.flatten(1)
                sums = float(each.abs().sum(1).max()) * payload.largest / room
                size = step * max(sums, float(each.abs().max()) / -low)
                error += float(each.square().sum(1).mean()) * of_value
                error += each.shape[1] * power * size**2 / 12
            tried.append((error, payload, unit))
    return min(tried, key=lambda one: one[0])[1:]


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


def _weights(graph: Graph, synapse: Node) -> Tensor:
    """``float64[C, ...]``: all that drive a neuron of a channel."""
    weight, wires = synapse.tensors["weight"].double(), wiring_of(graph, synapse)
    return synapse_of(synapse).canonical(synapse.attrs, weight, wires)


def _values(graph: Graph, sources: Sequence[str], samples: Tensor) -> dict[str, Tensor]:
    """Some of the values of some nodes."""
    axis, edges = graph.input.type.batch_axis, graph.networkx()
    few = samples.narrow(axis, 0, min(samples.shape[axis], SAMPLES))
    needed = set(sources).union(*(nx.ancestors(edges, name) for name in sources))
    values = {graph.input.name: few}
    nodes = moved(graph, [node.name for node in graph if node.name in needed], few)
    evaluate_nodes(graph, nodes, values)
    every = {name: values[name].flatten() for name in sources}
    return {name: x[:: max(1, len(x) // VALUES)] for name, x in every.items()}


def _weighted(synapse: Node, source: str, factor: float) -> Node:
    """A synapse that takes another source, through weights times a power of two."""
    tensors = {**synapse.tensors, "weight": synapse.tensors["weight"] * factor}
    return replace(synapse, inputs=(source,), tensors=tensors)
