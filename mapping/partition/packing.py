"""Values that cross between host and chip once, as graded spikes, not as a train of spikes.

A neuron in front of a chip segment sends bit t of a payload in step t, and one behind it gathers
the spikes of all steps into a payload: an encoder and a decoder of bit planes, but for the factor
that a code is multiplied by, which stays with the host. Trains stay what they were, and so does
all that is computed from them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import torch

from has8.errors import BadInput
from mapping.graph.ir import Graph, Kind, Node, Signal, renamed_inputs, sorted_graph, unique_name
from mapping.graph.ops import OPS
from mapping.graph.ops.packing import MOST_STEPS
from mapping.partition.cut import segment_of
from mapping.partition.segments import Partition, Segment
from mapping.targets.schema import Target

Coding = Literal["binary", "graded"]
"""What crosses between host and chip: spikes, or trains of spikes as graded ones."""

LEAVE = "leave out coding='graded' (--coding graded)"
"""What a user can do where nothing can be packed."""


def packed(graph: Graph, parts: Partition, target: Target) -> tuple[Graph, Partition]:
    """The graph and its partition with trains packed wherever they cross.

    These are what encoders send to chip segments, and what decoders take from them. Trains of more
    steps than a payload has bits cross as spikes where anything else crosses as graded ones.

    Args:
        graph: after the passes, without such nodes.
        parts: of the graph.
        target: the chip.

    Raises:
        BadInput: if the target has no graded spikes, or none that are wide enough, or nothing
            crosses that could be packed.
    """
    registers = target.registers
    if registers.message_bits == 1 or not {"unpack", "pack"} <= set(registers.neurons):
        raise BadInput(
            f"{target.name} sends no graded spikes: {LEAVE}, or take another target, such as loihi2"
        )
    nodes = {node.name: [node] for node in graph}  # each with what is to stand behind it
    added: dict[str, list[str]] = {part.name: [] for part in parts.segments}
    renamed: dict[str, dict[str, str]] = {}  # what some nodes take instead, by node

    def enter(part: Segment, new: Iterable[Node], behind: str) -> str:
        """Add nodes to a segment; returns the last one's name."""
        for node in new:
            nodes[behind].append(node)
            added[part.name].append(node.name)
        return added[part.name][-1]

    def unused(name: str) -> str:
        return unique_name(name, {node.name for some in nodes.values() for node in some})

    most = min(registers.message_bits, registers.state_bits - 1, MOST_STEPS)
    long: list[Node] = []

    def fitting(source: Node) -> bool:
        """Whether payloads have a bit for each step of a train."""
        fits = 2 <= (source.type.steps or 0) <= most
        long.extend([] if fits else [source])
        return fits

    runs = {name: part for part in parts.segments for name in part.nodes}
    for part in parts.on_chip:
        for source in part.inputs:
            of_values = OPS[graph[source].op].role == "encode" and _is_train(graph[source].type)
            if of_values and fitting(graph[source]):
                signal = _payload(graph[source])
                host = Node(unused(f"{source}.pack"), "pack", (source,), signal)
                enter(runs[source], [host], source)
                last = enter(part, _neuron(host, unused(f"{source}.unpack"), "unpack"), source)
                for name in part.nodes:
                    renamed.setdefault(name, {})[source] = last
        for source in part.outputs:
            users = [user for user, _ in graph.consumers(source) if user.op == "decode"]
            if users and fitting(graph[source]):
                signal = _payload(graph[source])
                last = enter(part, _neuron(graph[source], unused(f"{source}.pack"), "pack"), source)
                host = Node(unused(f"{source}.unpack"), "unpack", (last,), graph[source].type)
                assert host.type.steps == signal.bits
                first = min((runs[user.name] for user in users), key=parts.segments.index)
                enter(first, [host], source)
                for user in users:
                    renamed.setdefault(user.name, {})[source] = host.name
    values = any(graph[source].op == "grade" for part in parts.on_chip for source in part.inputs)
    if long and not values and not any(added.values()):
        raise BadInput(
            f"{long[0].name!r} has {long[0].type.steps} steps, and graded spikes of {target.name} "
            f"hold 2 to {most}: {LEAVE}"
        )
    if parts.on_chip and not values and not any(added.values()):
        raise BadInput(
            "no encoder or decoder stands between host and chip, and no neuron there takes values "
            f"of each step, so no value crosses that a graded spike could carry: {LEAVE}"
        )
    whole = sorted_graph(
        [renamed_inputs(n, renamed.get(n.name, {})) for some in nodes.values() for n in some],
        graph.output.name,
    )
    return whole, replace(parts, segments=tuple(_with(whole, p, added) for p in parts.segments))


def _is_train(signal: Signal) -> bool:
    """Whether these are spikes without payloads."""
    return signal.kind is Kind.SPIKE and not signal.payload.graded


def unpacked(graph: Graph) -> Graph:
    """The graph without what :func:`packed` put into it; most have nothing of that."""
    renamed: dict[str, str] = {}
    for node in graph:
        # Behind a neuron that packs, or a node that packs, and a synapse.
        if node.op == "unpack" or (node.op == "neuron" and node.attrs["model"] == "unpack"):
            source = graph[node.inputs[0]]
            renamed[node.name] = graph[source.inputs[0]].inputs[0]
    if not renamed:
        return graph
    return sorted_graph((renamed_inputs(n, renamed) for n in graph), graph.output.name)


def _payload(source: Node) -> Signal:
    """The type of a train's payloads."""
    return replace(source.type, bits=source.type.steps or 0)


def _neuron(source: Node, name: str, model: str) -> tuple[Node, Node]:
    """Neurons of a model, each behind the one of a source at the same place, and the synapse."""
    steps = source.type.steps
    weight = torch.ones(source.type.shape[0])
    value = Signal(source.type.shape, Kind.VALUE, steps)
    synapse = Node(f"{name}.synapse", "one_to_one", (source.name,), value, {}, {"weight": weight})
    bits = (steps or 1) if model == "pack" else 1
    signal = Signal(source.type.shape, Kind.SPIKE, steps, bits)
    return synapse, Node(name, "neuron", (synapse.name,), signal, {"model": model})


def _with(graph: Graph, part: Segment, added: dict[str, list[str]]) -> Segment:
    """A segment with the nodes that were added to it, in the graph's order."""
    names = {*part.nodes, *added[part.name]}
    nodes = [node for node in graph if node.name in names]
    return segment_of(graph, part.name, part.side, nodes, part.reason)
