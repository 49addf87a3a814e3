"""Who runs where: which nodes a chip can take, why it cannot take the others, and the cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

import networkx as nx

from has8.errors import BadInput
from mapping.graph.ir import Graph, Kind, Node
from mapping.graph.ops import OPS
from mapping.targets.schema import Registers

Side = Literal["host", "chip"]


@dataclass(frozen=True, slots=True)
class Segment:
    """Nodes that run together on one side.

    Args:
        name: unique; for a chip segment the common prefix of its nodes' names.
        side: "host" or "chip".
        nodes: in an order in which they can run.
        inputs: nodes outside it whose results it needs.
        outputs: its nodes whose results others need, or the model's output.
        reason: why it is on this side, in one sentence.
    """

    name: str
    side: Side
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Rejection:
    """A node that stays on the host although it works on steps, or an ANN layer.

    Args:
        node: its name.
        reason: what a chip would need that it does not give.
    """

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Partition:
    """Segments in an order in which they can run, and what could not go to the chip."""

    segments: tuple[Segment, ...]
    rejections: tuple[Rejection, ...]

    @property
    def chip(self) -> tuple[Segment, ...]:
        """The segments on the chip."""
        return tuple(s for s in self.segments if s.side == "chip")

    @property
    def host(self) -> tuple[Segment, ...]:
        """The segments on the host."""
        return tuple(s for s in self.segments if s.side == "host")


def synapses_of(graph: Graph, neuron: str) -> list[Node] | str:
    """The convolutions and linear layers whose sum is a neuron's current.

    Returns:
        The synapse nodes, or a sentence that says what stands in the way.
    """
    found: list[Node] = []
    pending = [graph[graph[neuron].inputs[0]]]
    while pending:
        node = pending.pop()
        if node.op == "add":
            pending.extend(graph[name] for name in node.inputs)
        elif OPS[node.op].role != "synapse":
            return f"its current comes from {node.name!r} ({node.op}), not from synapses alone"
        elif graph[node.inputs[0]].type.kind is not Kind.SPIKE:
            return f"{node.name!r} takes {graph[node.inputs[0]].type}, and a chip takes only spikes"
        else:
            found.append(node)
        if len(graph.consumers(node.name)) != 1:
            return f"the current of {node.name!r} is used elsewhere too"
    return found[::-1]


def reject(graph: Graph, registers: Registers) -> dict[str, str]:
    """Every node that computes and that the chip cannot take, with the reason.

    Encoders, decoders, shapes and the input are the boundary, not candidates, and are left out.
    """
    reasons: dict[str, str] = {}
    taken: set[str] = set()
    for node in graph:
        if node.op != "neuron":
            continue
        parts = synapses_of(graph, node.name)
        if node.attrs["model"] not in registers.neurons:
            reasons[node.name] = f"the target has no {node.attrs['model']!r} neuron"
        elif node.attrs["reset"] not in registers.resets:
            reasons[node.name] = f"the target has no reset by {node.attrs['reset']!r}"
        elif isinstance(parts, str):
            reasons[node.name] = parts
        else:
            taken.update(_current_nodes(graph, node.name), [node.name])
    for node in graph:
        if node.name in taken or node.name in reasons or node.op in ("input", "flatten"):
            continue
        if OPS[node.op].role in ("encode", "decode"):
            continue
        if node.type.steps is None:
            reasons[node.name] = "works on values without time steps: an ANN layer"
        elif OPS[node.op].role == "host":
            reasons[node.name] = f"the target has no {node.op} of spikes"
        else:
            reasons[node.name] = "its neuron stays on the host"
    return reasons


def _current_nodes(graph: Graph, neuron: str) -> list[str]:
    """Synapse and addition nodes between a neuron and the spikes that drive it."""
    names: list[str] = []
    pending = [graph[neuron].inputs[0]]
    while pending:
        name = pending.pop()
        names.append(name)
        if graph[name].op == "add":
            pending.extend(graph[name].inputs)
    return names


def cut(graph: Graph, registers: Registers, select: str | Sequence[str] = "all") -> Partition:
    """Cut the graph into segments.

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
            owner.update(dict.fromkeys([*_current_nodes(graph, node.name), node.name], node.name))
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
    for node in graph:
        side = 1 if node.name in owner else 0
        earliest = side
        for source in node.inputs:
            before = level[source]
            earliest = max(earliest, before if before % 2 == side else before + 1)
        level[node.name] = earliest
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
        _segment(graph, name, "chip", nodes, "spiking layers between an encoder and a decoder")
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


def _segment(graph: Graph, name: str, side: Side, nodes: list[Node], reason: str) -> Segment:
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
        timed.append((when, _segment(graph, f"host{place}", "host", nodes, reason)))
    return tuple(segment for _, segment in sorted(timed, key=lambda item: item[0]))
