"""What must hold for a partition: the same for one that was cut and one that was read."""

from __future__ import annotations

from has8.errors import BadInput
from mapping.graph.ir import Graph
from mapping.partition.cut import segment_of
from mapping.partition.rules import layer_nodes, synapses_of
from mapping.partition.segments import Partition, Segment


def check_partition(graph: Graph, partition: Partition) -> None:
    """Every node runs once, behind what it needs, on a side that can run it.

    Raises:
        BadInput: with the first thing that is wrong, in one sentence.
    """
    names = [segment.name for segment in partition.segments]
    if len(set(names)) < len(names):
        raise BadInput("two segments of the partition have the same name")
    known = {node.name for node in graph if node.op == "input"}
    for segment in partition.segments:
        _check_segment(graph, segment, known)
    if missing := [node.name for node in graph if node.name not in known]:
        raise BadInput(f"no segment of the partition runs {missing[0]!r}")
    rejected = [rejection.node for rejection in partition.rejections]
    if len(set(rejected)) < len(rejected) or not all(name in graph for name in rejected):
        raise BadInput("the partition's rejections must name nodes of the graph, each once")


def _check_segment(graph: Graph, segment: Segment, known: set[str]) -> None:
    """Hold one segment to the graph; its nodes are added to those that are known."""
    for name in segment.nodes:
        if name not in graph:
            raise BadInput(f"segment {segment.name!r} runs {name!r}, which is no node of the graph")
        if name in known:
            raise BadInput(f"the partition runs {name!r} twice")
        later = known | set(segment.nodes) if graph[name].op == "delay" else known
        if unknown := [source for source in graph[name].inputs if source not in later]:
            raise BadInput(f"segment {segment.name!r} runs {name!r} in front of {unknown[0]!r}")
        known.add(name)
    nodes = [graph[name] for name in segment.nodes]
    if not nodes or segment != segment_of(graph, segment.name, segment.side, nodes, segment.reason):
        raise BadInput(f"inputs and outputs of segment {segment.name!r} are not those of its nodes")
    if segment.side == "chip":
        _check_chip(graph, segment)


def _check_chip(graph: Graph, segment: Segment) -> None:
    """A chip runs whole layers: neurons, and the synapses that drive them."""
    needed: set[str] = set()
    for neuron in (name for name in segment.nodes if graph[name].op == "neuron"):
        reason = synapses_of(graph, neuron)
        if isinstance(reason, str):
            raise BadInput(f"segment {segment.name!r} cannot have {neuron!r} on a chip: {reason}")
        needed.update(layer_nodes(graph, neuron))
    if needed != set(segment.nodes):
        odd = sorted(needed ^ set(segment.nodes))[0]
        raise BadInput(f"segment {segment.name!r} must hold whole layers, and {odd!r} is astray")
