"""The graph that the tool-chain works on: nodes, and the signals that flow between them.

Nothing here knows HAS-8. Steps, coding and neuron are data: the number of steps is part of an
edge's type, the coding is an attribute of an encoder node, the neuron's constants are attributes
of a neuron node. Being a spike is a type on the edge, never guessed from the values seen.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import Any

import networkx as nx
from torch import Tensor

from mapping.chip.payload import Payload

SHOWN = 8
"""Nodes that a graph's ``repr`` shows."""


class Kind(str, Enum):
    """What travels on an edge."""

    VALUE = "value"
    """Real numbers."""
    SPIKE = "spike"
    """0 or 1 in every step."""


@dataclass(frozen=True, slots=True)
class Signal:
    """What travels on an edge.

    Args:
        shape: of one sample, without the batch and the time axis, e.g. ``(C, H, W)``.
        kind: values or spikes.
        steps: length T of the time axis, or None where there is none. With T the tensor is
            time first, ``[T, B, *shape]``; without it is ``[B, *shape]``.
        bits: width of a spike, at least 1: 1 is a spike or none, more is a graded spike. Values
            have no width and keep 1.
        signed: whether a spike can be negative.
    """

    shape: tuple[int, ...]
    kind: Kind = Kind.VALUE
    steps: int | None = None
    bits: int = 1
    signed: bool = False

    @property
    def size(self) -> int:
        """Elements of one sample in one step."""
        size = 1
        for extent in self.shape:
            size *= extent
        return size

    @property
    def batch_axis(self) -> int:
        """The axis of the samples: 1 behind the time axis, 0 where there is none."""
        return 0 if self.steps is None else 1

    @property
    def payload(self) -> Payload:
        """What its spikes carry."""
        return Payload(self.bits, self.signed)

    def __str__(self) -> str:
        time = f"{self.steps} steps of " if self.steps else ""
        width = f"{'signed ' if self.signed else ''}{self.bits}-bit " if self.bits > 1 else ""
        return f"{time}{width}{self.kind.value}[{'x'.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Node:
    """One operation.

    Args:
        name: unique in its graph; the module's path in the model where there is one.
        op: the kind of operation, a name in :data:`mapping.graph.ops.OPS`.
        inputs: the names of the nodes that feed it, by input slot; one name may stand twice.
        attrs: JSON-able constants of the operation (stride, beta, coding, ...).
        tensors: its parameters, float32.
        type: the type of its output.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    type: Signal
    attrs: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "attrs", MappingProxyType(dict(self.attrs)))
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))

    def __repr__(self) -> str:
        return f"Node({self.name}: {self.op}({', '.join(self.inputs)}) -> {self.type})"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Graph:
    """Nodes in an order in which they can be run; the last is the output.

    What feeds a node of kind "delay" may stand behind it: so loops over steps close.

    Raises:
        ValueError: if a name stands twice or an input is not defined before its use.
    """

    nodes: tuple[Node, ...]
    _index: Mapping[str, Node] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        index: dict[str, Node] = {}
        late = {node.name for node in self.nodes}
        for node in self.nodes:
            for source in node.inputs:
                if source not in index and (node.op != "delay" or source not in late):
                    raise ValueError(f"node {node.name!r} uses {source!r} before it is defined")
            if node.name in index:
                raise ValueError(f"node {node.name!r} is defined twice")
            index[node.name] = node
        object.__setattr__(self, "_index", MappingProxyType(index))

    def __repr__(self) -> str:
        shown = [f"  {node!r}" for node in self.nodes[:SHOWN]]
        more = [f"  and {len(self.nodes) - SHOWN} more"] if len(self.nodes) > SHOWN else []
        return "\n".join([f"Graph of {len(self.nodes)} nodes", *shown, *more])

    def __getitem__(self, name: str) -> Node:
        return self._index[name]

    def __contains__(self, name: str) -> bool:
        return name in self._index

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    @property
    def input(self) -> Node:
        """The node that stands for the model's input."""
        return next(node for node in self.nodes if node.op == "input")

    @property
    def output(self) -> Node:
        """The node whose value is the model's output."""
        return self.nodes[-1]

    def consumers(self, name: str) -> list[tuple[Node, int]]:
        """Who uses the output of ``name``, and in which input slot."""
        return [
            (node, slot)
            for node in self.nodes
            for slot, source in enumerate(node.inputs)
            if source == name
        ]

    def networkx(self) -> nx.MultiDiGraph:
        """The nodes as a MultiDiGraph; an edge's key is the input slot, so x + x keeps both."""
        graph = nx.MultiDiGraph()
        graph.add_nodes_from((node.name, {"node": node}) for node in self.nodes)
        for node in self.nodes:
            for slot, source in enumerate(node.inputs):
                graph.add_edge(source, node.name, key=slot)
        return graph


def loops_of(nodes: Sequence[Node]) -> list[tuple[Node, ...]]:
    """The nodes in an order in which they can be run, those of a loop over steps together.

    Those of a loop stand as they do in ``nodes``; only a node of kind "delay" closes a loop.
    """
    place = {node.name: at for at, node in enumerate(nodes)}
    if all(place.get(s, -1) < at for at, node in enumerate(nodes) for s in node.inputs):
        return [(node,) for node in nodes]
    graph = nx.DiGraph()
    graph.add_nodes_from(place)
    graph.add_edges_from((s, node.name) for node in nodes for s in node.inputs if s in place)
    whole = nx.condensation(graph)
    members = {part: sorted(place[n] for n in whole.nodes[part]["members"]) for part in whole}
    order = nx.lexicographical_topological_sort(whole, key=lambda part: members[part][0])
    return [tuple(nodes[at] for at in members[part]) for part in order]


def unfed_loop(nodes: Sequence[Node]) -> Node | None:
    """A node of a loop over steps that takes nothing from outside; None where each loop does."""
    for part in loops_of(nodes):
        inside = {node.name for node in part}
        sources = {source for node in part for source in node.inputs}
        if sources and sources <= inside:
            return part[0]
    return None


def sorted_graph(nodes: Iterable[Node], output: str) -> Graph:
    """A graph of the given nodes in topological order, without what ``output`` does not need.

    Ties keep the given order, so the same nodes give the same graph. Within a loop over steps
    what feeds a delay does not bind its place.
    """
    by_name = {node.name: node for node in nodes}
    if _in_order(by_name.values()):
        needed = {output}
        for node in reversed(by_name.values()):
            needed.update(node.inputs if node.name in needed else ())
        return Graph(tuple(node for name, node in by_name.items() if name in needed))
    position = {name: place for place, name in enumerate(by_name)}
    graph = nx.DiGraph()
    graph.add_nodes_from(by_name)
    graph.add_edges_from((s, node.name) for node in by_name.values() for s in node.inputs)
    needed = nx.ancestors(graph, output) | {output}
    graph = nx.DiGraph(graph.subgraph(needed))
    for loop in [part for part in nx.strongly_connected_components(graph) if len(part) > 1]:
        delays = [name for name in loop if by_name[name].op == "delay"]
        graph.remove_edges_from([(s, n) for n in delays for s in by_name[n].inputs if s in loop])
    order = list(nx.lexicographical_topological_sort(graph, key=lambda name: position[name]))
    if graph.out_degree(output):  # in a loop that also feeds others, the answer is a copy
        last = by_name[output]
        copy = Node(unique_name(f"{output}.answer", by_name), "identity", (output,), last.type)
        return Graph((*(by_name[name] for name in order), copy))
    names = [name for name in order if name != output]
    return Graph(tuple(by_name[name] for name in [*names, output]))


def _in_order(nodes: Iterable[Node]) -> bool:
    """Whether each node stands behind all that feed it."""
    seen: set[str] = set()
    for node in nodes:
        if not seen.issuperset(node.inputs):
            return False
        seen.add(node.name)
    return True


def unique_name(name: str, taken: Container[str]) -> str:
    """A name that is not taken, numbered where a module or function is used again."""
    candidate, count = name, 1
    while candidate in taken:
        candidate, count = f"{name}_{count}", count + 1
    return candidate


def renamed_inputs(node: Node, mapping: Mapping[str, str]) -> Node:
    """The node with its inputs renamed, itself if none is; names that ``mapping`` lacks stay."""
    inputs = tuple(mapping.get(name, name) for name in node.inputs)
    return node if inputs == node.inputs else replace(node, inputs=inputs)
