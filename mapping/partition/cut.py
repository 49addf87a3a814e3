"""The cut of a graph into segments of host and chip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import networkx as nx

from mapping.graph.ir import Graph, Node, loops_of
from mapping.partition.pins import PINNED, Pins, pinned, unkept, unselected
from mapping.partition.rules import HOSTED, layer_nodes, reject
from mapping.partition.segments import Partition, Rejection, Segment, Side
from mapping.targets.schema import Registers


def cut(
    graph: Graph,
    registers: Registers,
    select: str | Sequence[str] = "all",
    pins: Pins | None = None,
    unfit: Mapping[str, str] | None = None,
) -> Partition:
    """Tiling the graph into segments.

    A chip segment is a connected set of neuron layers that run at the same time: layers that
    feed each other or share an input. Everything else is gathered into as few host segments as
    the order of execution allows. The layers of a loop over steps go together: one on the host
    keeps all there.

    Args:
        graph: after the passes.
        registers: what the target's neurons can do.
        select: "all", "none", or the names of the chip segments or layers to keep on the chip.
        pins: layers to have on one side, by name or wildcard, whatever ``select`` says.
        unfit: neurons that fit on no core, with the reason; they stay on the host.

    Raises:
        BadInput: for a name that does not exist; the message lists those that do. For a layer
            that is pinned to the chip and has to stay on the host; the message says why.
    """
    rejected = reject(graph, registers)
    whole = _chip_segments(graph, _owners(graph, rejected))
    hosted = unselected(graph, whole, select)
    sides = pinned(graph, pins or {}, rejected)
    hosted = {name: reason for name, reason in hosted.items() if sides.get(name) != "chip"}
    hosted.update({name: PINNED for name, side in sides.items() if side == "host"})
    hosted.update(unfit or {})
    if hosted:
        rejected = reject(graph, registers, hosted)
    for name in (name for name, side in sides.items() if side == "chip" and name in rejected):
        raise unkept(name, rejected[name])
    owner = _owners(graph, rejected)
    kept = _chip_segments(graph, owner, {segment.nodes[0]: segment.name for segment in whole})
    segments = _in_order(graph, owner, kept, rejected)
    order = {node.name: place for place, node in enumerate(graph)}
    rejections = tuple(Rejection(n, rejected[n]) for n in sorted(rejected, key=order.__getitem__))
    return Partition(segments, rejections)


def _owners(graph: Graph, rejected: Mapping[str, str]) -> dict[str, str]:
    """The neuron of each node on the chip."""
    return {
        name: neuron.name
        for neuron in graph
        if neuron.op == "neuron" and neuron.name not in rejected
        for name in layer_nodes(graph, neuron.name)
    }


def _levels(graph: Graph, owner: dict[str, str]) -> dict[str, int]:
    """When each node can run: even levels are the host's, odd ones the chip's."""
    level: dict[str, int] = {}
    for part in loops_of(graph.nodes):  # a loop over steps runs as one too
        side = 1 if part[0].name in owner else 0
        inside = {node.name for node in part}
        earliest = side
        for source in (s for node in part for s in node.inputs if s not in inside):
            before = level[source]
            earliest = max(earliest, before if before % 2 == side else before + 1)
        level.update(dict.fromkeys(inside, earliest))
    for node in reversed(graph.nodes):  # a neuron layer runs as one: all its nodes with the neuron
        if node.name in owner:
            level[node.name] = level[owner[node.name]]
    return level


def _chip_segments(
    graph: Graph, owner: dict[str, str], named: Mapping[str, str] | None = None
) -> list[Segment]:
    """Connected layers of one level; names by first node are kept where ``named`` has them."""
    level = _levels(graph, owner)
    links = nx.Graph()
    for node in graph:
        if node.name not in owner:
            continue
        links.add_edge(node.name, owner[node.name])
        for source in node.inputs:
            # Layers with a common input belong together; an edge between levels does not bind.
            tie = source if source in owner else f"input:{source}"
            if source not in owner or level[source] == level[node.name]:
                links.add_edge(node.name, (tie, level[node.name]) if source not in owner else tie)
    groups = [
        [node for node in graph if node.name in group and node.name in owner]
        for group in nx.connected_components(links)
    ]
    groups.sort(key=lambda nodes: [n.name for n in graph].index(nodes[0].name))
    names = _names([[node.name for node in nodes] for nodes in groups], named or {})
    return [
        segment_of(graph, name, "chip", nodes, "spiking layers between an encoder and a decoder")
        for name, nodes in zip(names, groups, strict=True)
    ]


def _names(groups: list[list[str]], named: Mapping[str, str]) -> list[str]:
    """The longest common module path of each group, numbered where two are equal.

    Those whose first node ``named`` has are called as there.
    """
    names: list[str] = []
    for group in groups:
        paths = [name.split(".") for name in group]
        common = []
        for parts in zip(*paths, strict=False):
            if len(set(parts)) > 1:
                break
            common.append(parts[0])
        name = named.get(group[0]) or ".".join(common) or "chip"
        count = 2
        while group[0] not in named and (name in names or name in named.values()):
            name, count = f"{'.'.join(common) or 'chip'}#{count}", count + 1
        names.append(name)
    return names


def segment_of(graph: Graph, name: str, side: Side, nodes: list[Node], reason: str) -> Segment:
    """A segment of some nodes, with what goes in and out.

    Args:
        graph: that they are of.
        name: the segment's.
        side: where it runs.
        nodes: in an order in which they can run.
        reason: why it is on this side.
    """
    inside = {node.name for node in nodes}
    inputs = dict.fromkeys(s for node in nodes for s in node.inputs if s not in inside)
    outputs = [
        node.name
        for node in nodes
        if node.name == graph.output.name
        or any(user.name not in inside for user, _ in graph.consumers(node.name))
    ]
    names = tuple(node.name for node in nodes)
    return Segment(name, side, names, tuple(inputs), tuple(outputs), reason)


def _in_order(
    graph: Graph, owner: dict[str, str], chip: list[Segment], rejected: dict[str, str]
) -> tuple[Segment, ...]:
    """Host and chip segments by level; nodes of one host level form one segment."""
    level = _levels(graph, owner)
    host: dict[int, list[Node]] = {}
    for node in graph:
        if node.name not in owner and node.op != "input":
            host.setdefault(level[node.name], []).append(node)
    timed = [(level[segment.nodes[0]], segment) for segment in chip]
    for place, (when, nodes) in enumerate(sorted(host.items())):
        reasons = dict.fromkeys(rejected[n.name] for n in nodes if n.name in rejected)
        reasons.pop(HOSTED, None)  # which its neuron's own reason says better
        reason = "; ".join(reasons) or "encoding and decoding run on the host"
        timed.append((when, segment_of(graph, f"host{place}", "host", nodes, reason)))
    return tuple(segment for _, segment in sorted(timed, key=lambda item: item[0]))
