"""Biases of currents that last: on a chip they come from a neuron that fires in every step.

A chip adds a bias to the membrane, where nothing of it is left for the next step's current. A
spike in every step through a synapse with the bias as its weight does what the bias did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from mapping.graph.ir import Graph, Kind, Node, sorted_graph, unique_name
from mapping.graph.pooling import OR
from mapping.partition.rules import (
    lasting_biases,
    readers_of,
    rejected_neuron,
    source_of,
    synapses_of,
)
from mapping.targets.schema import Registers


def biases_as_neurons(graph: Graph, registers: Registers) -> Graph:
    """The graph with a population that fires in every step wherever a lasting current has a bias.

    Only in front of neurons that the target can take; what the graph computes stays the same.

    Args:
        graph: after the passes.
        registers: the target's.
    """
    nodes = {node.name: node for node in graph}
    for node in graph:
        if node.op != "neuron" or rejected_neuron(graph, node, registers):
            continue
        if lasting_biases(graph, node.name):
            parts = synapses_of(graph, node.name)
            assert not isinstance(parts, str)
            nodes.update({new.name: new for new in _with_neuron(graph, node, parts)})
    return sorted_graph(nodes.values(), graph.output.name)


def _with_neuron(graph: Graph, neuron: Node, parts: Sequence[Node]) -> list[Node]:
    """A neuron and its synapses without biases, and what fires in their place."""
    name = unique_name(f"{neuron.name}.bias", {node.name for node in graph})
    pixels = (1, *neuron.type.shape[1:])
    value = replace(neuron.type, kind=Kind.VALUE)
    sources = tuple(dict.fromkeys(source_of(graph, part)[0] for part in parts))
    # what a loop feeds back would make the constant part of the loop
    sources = tuple(s for s in sources if s != neuron.name) or sources
    one = Node(
        f"{name}.ones", "ones", sources, replace(value, shape=pixels), {"shape": list(pixels)}
    )
    always = Node(name, "neuron", (one.name,), replace(neuron.type, shape=pixels), OR)
    bias = torch.stack([p.tensors["bias"].double() for p in parts if "bias" in p.tensors]).sum(0)
    if len(pixels) == 1:
        op, attrs, weight = "linear", {}, bias.float()[:, None]
    else:
        op, weight = "conv2d", bias.float()[:, None, None, None]
        attrs = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}
    synapse = Node(f"{name}.synapse", op, (name,), value, attrs, {"weight": weight})
    total = Node(f"{name}.sum", "add", (neuron.inputs[0], synapse.name), value)
    bare = [
        replace(part, tensors={k: v for k, v in part.tensors.items() if k != "bias"})
        for part in parts
    ]
    driven = [
        replace(node, inputs=(total.name, *node.inputs[1:]))
        for node in (neuron, *readers_of(graph, neuron.name))
    ]
    return [*bare, one, always, synapse, total, *driven]
