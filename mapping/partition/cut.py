"""The cut of a graph into segments of host and chip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import networkx as nx

from has8.errors import BadInput
from mapping.graph.ir import Graph, Node, loops_of
from mapping.partition.rules import layer_nodes, reject
from mapping.partition.segments import Partition, Rejection, Segment, Side
from mapping.targets.schema import Registers


def cut(graph: Graph, registers: Registers, select: str | Sequence[str] = "all") -> Partition:
    """Tiling the graph into segments.

    A chip segment is a connected set of neuron layers that run at the same time: layers that
    feed each other or share an input. Everything else is gathered into as few host segments as
    the order of execution allows.

    Args:
        graph: after the passes.
        registers: what the target's neurons can do.
        select: "all", "none", or the names of the chip segments to keep on the chip.

    Raises:
        BadInput: for a segment name that does not exist; the message lists those that do.
    """
    rejected = reject(graph, registers)
    owner = {}
    for node in graph:
        if node.op == "neuron" and node.name not in rejected:
            owner.update(dict.fromkeys(layer_nodes(graph, node.name), node.name))
    chip = _chip_segments(graph, owner)
    wanted = _selected(select, [segment.name for segment in chip])
    for segment in chip:
        if segment.name not in wanted:
            for name in segment.nodes:
                del owner[name]
                rejected[name] = "not selected for the chip"
    kept = _chip_segments(graph, owner, {segment.nodes[0]: segment.name for segment in chip})
    segments = _in_order(graph, owner, kept, rejected)
    order = {node.name: place for place, node in enumerate(graph)}
    rejections = tuple(Rejection(n, rejected[n]) for n in sorted(rejected, key=order.__getitem__))
    return Partition(segments, rejections)


def _selected(select: str | Sequence[str], names: list[str]) -> set[str]:
    if select == "all":
        return set(names)
    if select == "none":
        return set()
    wanted = [select] if isinstance(select, str) else list(select)
    for name in wanted:
        if name not in names:
            near = get_close_matches(name, names, n=1, cutoff=0.3)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise BadInput(
                f"no chip segment {name!r}: {hint}the model's are "
                f"{', '.join(names) if names else 'none'} (or 'all', 'none')"
            )
    return set(wanted)


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
    names = _names([[node.name for node in nodes] for nodes in groups])
    if named is not None:
        first = [nodes[0].name for nodes in groups]
        names = [named.get(node, name) for node, name in zip(first, names, strict=True)]
    return [
        segment_of(graph, name, "chip", nodes, "spiking layers between an encoder and a decoder")
        for name, nodes in zip(names, groups, strict=True)
    ]


def _names(groups: list[list[str]]) -> list[str]:
    """The longest common module path of each group, numbered where two are equal."""
    names: list[str] = []
    for group in groups:
        paths = [name.split(".") for name in group]
        common = []
        for parts in zip(*paths, strict=False):
            if len(set(parts)) > 1:
                break
            common.append(parts[0])
        name = ".".join(common) or "chip"
        count = 2
        while name in names:
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
        reason = "; ".join(reasons) or "encoding and decoding run on the host"
        timed.append((when, segment_of(graph, f"host{place}", "host", nodes, reason)))
    return tuple(segment for _, segment in sorted(timed, key=lambda item: item[0]))
