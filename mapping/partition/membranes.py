"""Membranes that are read once a sample, after the last step, where they are the chip's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from mapping.chip.arithmetic import largest_drive
from mapping.graph.ir import Graph, Kind, Node, sorted_graph, unique_name
from mapping.graph.ops import synapse_of, wiring_of
from mapping.graph.ops.neuron import constants_of
from mapping.graph.repeats import repeats
from mapping.partition.rules import cleared, rejected_neuron, synapses_of, written_to
from mapping.targets.schema import Registers

KEPT = ("alpha", "beta", "gain")
MARGIN = 1.25
"""How far a threshold that must not be reached lies above what the membrane can come to: rounded
weights are a little larger than those that they stand for."""


def last_membranes(graph: Graph, registers: Registers) -> Graph:
    """The graph with membranes that only the last step is read of taken from their neurons.

    Only of neurons that the target can take and whose register is what is read: one that a spike
    clears is not. One without reset whose spikes nobody takes needs none where it never fires, so
    it gets a threshold that it cannot reach. What the graph computes stays the same.

    Args:
        graph: after the passes.
        registers: the target's.
    """
    for decoder, membrane in list(_read_last(graph)):
        if cleared(membrane):
            continue
        taken = _without_reset(graph, membrane, registers)
        changed = _from_neuron(graph, decoder, membrane, taken)
        neuron = changed[changed[decoder.name].inputs[1]]
        if rejected_neuron(changed, neuron, registers) is None:
            graph = changed
    return graph


def _read_last(graph: Graph) -> Iterator[tuple[Node, Node]]:
    """Decoders of nothing but the last step of a membrane, and that membrane."""
    for decoder in (node for node in graph if node.op == "decode"):
        source = graph[decoder.inputs[0]]
        *before, last = decoder.tensors["weights"].tolist()
        alone = source.op == "membrane" and len(graph.consumers(source.name)) == 1
        if alone and last == 1 and not any(before):
            yield decoder, source


def _without_reset(graph: Graph, membrane: Node, registers: Registers) -> Node:
    """The membrane of a neuron that never fires, in place of one without reset."""
    lacking = membrane.attrs["reset"] == "none" and "none" not in registers.resets
    if not lacking or any(_same(graph, node, membrane) for node in graph):
        return membrane
    parts = synapses_of(graph, membrane.name)
    if isinstance(parts, str) or written_to(graph, membrane.name) is not None:
        return membrane
    constants = constants_of(membrane)
    alpha, beta, gain = (float(torch.as_tensor(constants[k]).abs().max()) for k in KEPT)
    arriving = sum(largest_drive(_weights(graph, part)).max() for part in parts)
    arriving += sum(part.tensors["bias"].abs().max() for part in parts if "bias" in part.tensors)
    current = reach = 0.0
    for _ in range(membrane.type.steps or 0):
        current = current * alpha + float(arriving) * gain
        reach = reach * beta + current
    attrs = {**membrane.attrs, "reset": "zero", "threshold": max(reach, 1.0) * MARGIN}
    tensors = {name: x for name, x in membrane.tensors.items() if name != "threshold"}
    return replace(membrane, attrs=attrs, tensors=tensors)


def _weights(graph: Graph, part: Node) -> Tensor:
    """A synapse's weights, output channels first, which those of some layers are not."""
    weight = part.tensors["weight"].double()
    return synapse_of(part).canonical(part.attrs, weight, wiring_of(graph, part))


def _from_neuron(graph: Graph, decoder: Node, membrane: Node, taken: Node) -> Graph:
    """The graph with a decoder of a membrane's last step read from a neuron.

    Args:
        graph: that they are of.
        decoder: reads the membrane.
        membrane: as the graph has it.
        taken: as a neuron of the target has it.
    """
    neuron = next((node for node in graph if _same(graph, node, taken)), None)
    nodes = {node.name: node for node in graph if node is not membrane}
    if neuron is None:
        name = unique_name(membrane.name.removesuffix(".membrane"), nodes)
        signal = replace(membrane.type, kind=Kind.SPIKE)
        neuron = replace(taken, name=name, op="neuron", type=signal)
        nodes[name] = neuron
    inputs = (neuron.inputs[0], neuron.name)
    nodes[decoder.name] = replace(taken, name=decoder.name, op="last_membrane", inputs=inputs)
    nodes[decoder.name] = replace(nodes[decoder.name], type=decoder.type)
    return sorted_graph(nodes.values(), graph.output.name)


def _same(graph: Graph, neuron: Node, membrane: Node) -> bool:
    """Whether a node is the neuron of a membrane: of equal constants, driven by the same."""
    if neuron.op != "neuron" or neuron.attrs != membrane.attrs:
        return False
    if neuron.tensors.keys() != membrane.tensors.keys():
        return False
    if not all(torch.equal(neuron.tensors[key], membrane.tensors[key]) for key in neuron.tensors):
        return False
    one, other = (graph[node.inputs[0]] for node in (neuron, membrane))
    return one is other or (repeats(one) and repeats(other) and one.inputs == other.inputs)
