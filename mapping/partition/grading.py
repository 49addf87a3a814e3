"""Values that differ from step to step cross to a chip as graded spikes.

A node on the host rounds them to whole numbers of a unit, a power of two, and the weights behind
it are of that unit. So the product is that of the rounded values, and nothing else changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import networkx as nx
import torch
from torch import Tensor

from mapping.chip.arithmetic import largest_state
from mapping.chip.grid import default_bits, weight_grid
from mapping.chip.payload import Payload
from mapping.graph.evaluate import evaluate_nodes, moved
from mapping.graph.ir import Graph, Node, renamed_inputs, sorted_graph, unique_name
from mapping.graph.ops import OPS, synapse_of, wiring_of
from mapping.graph.ops.neuron import constants_of
from mapping.graph.repeats import SAMPLES
from mapping.partition.rules import LEAST_BITS, rejected_neuron, takes_graded, taking_values
from mapping.targets.schema import Registers

BITS = range(LEAST_BITS, 9)
"""Of a payload, the sign included: up to as many as weights have."""
LEAST = 2.0**-60
"""A magnitude that is as good as none."""
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
    if not takes_graded(registers):
        return {}
    users = {
        node.name: synapses
        for node in graph
        if node.op == "neuron" and (synapses := taking_values(graph, node))
    }
    whole = graded(graph, users, registers, default_bits(registers))
    return {n: users[n] for n in users if rejected_neuron(whole, whole[n], registers) is None}


def graded(
    graph: Graph, users: Users, registers: Registers, bits: int, samples: Tensor | None = None
) -> Graph:
    """The graph with a node of graded values behind each source, in front of its users.

    Args:
        graph: after the passes.
        users: from :func:`gradable`.
        registers: the target's.
        bits: of a weight.
        samples: of its input, on which :func:`payload_of` chooses payloads; None for any.
    """
    if not users:
        return graph
    synapses: dict[str, list[tuple[Node, str]]] = {}  # by their source, with the neuron
    for neuron, nodes in users.items():
        for node in nodes:
            synapses.setdefault(node.inputs[0], []).append((node, neuron))
    payloads = dict.fromkeys(synapses, (Payload(BITS[0], True), 1.0))
    if samples is not None:
        for source, (values, signed) in _values(graph, list(synapses), samples).items():
            layers = [
                (_weights(graph, node), _lasting(graph[name])) for node, name in synapses[source]
            ]
            payloads[source] = payload_of(values, signed, layers, registers, bits)
    whole = {node.name: node for node in graph}
    for source, (payload, unit) in payloads.items():
        name = unique_name(f"{source}.graded", whole.keys())
        attrs = {"unit": unit, "bits": payload.bits, "signed": payload.signed}
        signal = OPS["grade"].infer(attrs, {}, (graph[source].type,))
        whole[name] = Node(name, "grade", (source,), signal, attrs)
        for synapse, _ in synapses[source]:
            whole[synapse.name] = _taking(synapse, name, 1 / unit)
        for node in (node for node in graph if node.op == "ones"):  # biases of such synapses
            whole[node.name] = renamed_inputs(whole[node.name], {source: name})
    return sorted_graph(whole.values(), graph.output.name)


def payload_of(
    values: Tensor,
    signed: bool,
    layers: Sequence[tuple[Tensor, float]],
    registers: Registers,
    bits: int,
) -> tuple[Payload, float]:
    """What values are rounded to, and how many of its whole numbers are a value of 1.

    No input may make a current wrap around, so that bits of payloads are taken off those of
    weights. Chosen is what brings the currents nearest to themselves in the mean square, by the
    errors of values (large ones that are rare are clipped) and of weights.

    Args:
        values: some of those that are sent.
        signed: whether any that is sent is negative.
        layers: the weights of each that takes them, ``[C, ...]``, and how many times what arrives
            in a step its current can come to.
        registers: the target's.
        bits: of a weight.
    """
    largest, power = max(float(values.abs().max()), LEAST), float(values.square().mean())
    low, _, step = weight_grid(registers, bits, "mixed")
    room = largest_state(registers.state_bits) >> registers.synapse_shift
    tried = []
    widths = [width for width in BITS if width <= registers.message_bits]
    for payload in (Payload(width, signed) for width in widths):
        first = math.floor(math.log2(payload.range[1] / largest))
        for unit in (2.0**k for k in range(first, first + FINER + 1)):
            near = (values * unit).round().clamp(*payload.range) / unit
            of_value, error = float((near - values).square().mean()), 0.0
            for weight, lasting in layers:
                each = weight.flatten(1)
                sums = float(each.abs().sum(1).max()) * payload.largest * lasting / room
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
        if node.op == "ones":
            node = renamed_inputs(node, {name: grade.inputs[0] for name, grade in grades.items()})
        elif (given := grades.get(node.inputs[0] if node.inputs else "")) is not None:
            node = _taking(node, given.inputs[0], given.attrs["unit"])
        nodes.append(node)
    return sorted_graph((n for n in nodes if n.name not in grades), graph.output.name)


def _weights(graph: Graph, synapse: Node) -> Tensor:
    """``float64[C, ...]``: all that drive a neuron of a channel."""
    weight, wires = synapse.tensors["weight"].double(), wiring_of(graph, synapse)
    return synapse_of(synapse).canonical(synapse.attrs, weight, wires)


def _lasting(neuron: Node) -> float:
    """How many times what arrives in one step a neuron's current can come to in a sample."""
    alpha = float(torch.as_tensor(constants_of(neuron)["alpha"]).max())
    return sum(alpha**step for step in range(neuron.type.steps or 1))


def _values(
    graph: Graph, sources: Sequence[str], samples: Tensor
) -> dict[str, tuple[Tensor, bool]]:
    """Some of the values of some nodes, drawn by chance, and whether any of all is negative."""
    axis, edges = graph.input.type.batch_axis, graph.networkx()
    needed = set(sources).union(*(nx.ancestors(edges, name) for name in sources))
    nodes = moved(graph, [node.name for node in graph if node.name in needed], samples)
    drawing = torch.Generator().manual_seed(0)
    parts = samples.split(SAMPLES, axis)
    found: dict[str, list[Tensor]] = {name: [] for name in sources}
    signed = dict.fromkeys(sources, False)
    for part in parts:
        values = {graph.input.name: part}
        evaluate_nodes(graph, nodes, values)
        for name, some in found.items():
            every = values[name].flatten().cpu()
            signed[name] |= bool((every < 0).any())
            most = max(1, VALUES // len(parts))
            if len(every) > most:
                every = every[torch.randint(len(every), (most,), generator=drawing)]
            some.append(every)
    return {name: (torch.cat(some), signed[name]) for name, some in found.items()}


def _taking(synapse: Node, source: str, factor: float) -> Node:
    """A synapse that takes another source, through weights times a power of two."""
    tensors = {**synapse.tensors, "weight": synapse.tensors["weight"] * factor}
    return replace(synapse, inputs=(source,), tensors=tensors)
