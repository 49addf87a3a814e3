"""Membranes that are read once a sample, after the last step, where they are the chip's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from mapping.graph.ir import Graph, Kind, Node, sorted_graph, unique_name
from mapping.graph.repeats import repeats
from mapping.partition.rules import cleared, rejected_neuron
from mapping.targets.schema import Registers


def last_membranes(graph: Graph, registers: Registers) -> Graph:
    """The graph with membranes that only the last step is read of taken from their neurons.

    Only of neurons that the target can take and whose register is what is read: one that a spike
    clears is not. What the graph computes stays the same.

    Args:
        graph: after the passes.
        registers: the target's.
    """
    for decoder, membrane in list(_read_last(graph)):
        if cleared(membrane):
            continue
        changed = _from_neuron(graph, decoder, membrane)
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


def _from_neuron(graph: Graph, decoder: Node, membrane: Node) -> Graph:
    """The graph with a decoder of a membrane's last step read from a neuron."""
    neuron = next((node for node in graph if _same(graph, node, membrane)), None)
    nodes = {node.name: node for node in graph if node is not membrane}
    if neuron is None:
        name = unique_name(membrane.name.removesuffix(".membrane"), nodes)
        signal = replace(membrane.type, kind=Kind.SPIKE)
        neuron = replace(membrane, name=name, op="neuron", type=signal)
        nodes[name] = neuron
    inputs = (neuron.inputs[0], neuron.name)
    nodes[decoder.name] = replace(membrane, name=decoder.name, op="last_membrane", inputs=inputs)
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
