"""A network in the field's exchange format, ``network.nir``, as a graph.

NIR describes neurons by differential equations. A chip and has8 run steps, so a file leaves open
how long a step is, how a decay of one is taken, what a neuron's reset does that is not to
``v_reset``, and where a loop takes its step. Each is an argument; what none tells is read from the
file's metadata, if it is there, and else has the default that NIR's own paper used or defines.

A step in which x arrives at a neuron, from cleared state: ``i = alpha i + (1 - alpha) w_in x``;
``v = beta v + (1 - beta) (v_leak + r i)``; a spike where ``v > v_threshold``. Source: Pedersen et
al., Nature Communications 15, 8122 (2024), and nir 1.0.8, ``nir/ir``.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import torch

from has8 import given, values
from has8.errors import BadInput, CheckpointError
from has8.reading import regular_file
from has8.steps import Readout
from has8.values import seconds, value, whole
from mapping.graph.ir import Graph, Kind, Node, Signal
from mapping.graph.trace.build import Builder, Coding
from mapping.graph.trace.nir_nodes import (
    SILENT,
    SPIKING,
    Decay,
    Layer,
    NirReset,
    Steps,
    kind_of,
    shape_of,
)
from mapping.graph.verify import verify_graph

STEP_S = 1e-4
"""The step of snnTorch's files and of NIR's paper, in seconds."""


def read_nir(
    path: str | Path,
    *,
    steps: int | None = None,
    dt: float | None = None,
    decay: Decay = "euler",
    reset: NirReset | dict[str, NirReset] | None = None,
    coding: Coding = "spikes",
    seed: int = 0,
    readout: Readout | None = None,
) -> Graph:
    """Read a network that another tool wrote as NIR, to be mapped.

    Spikes reach all layers in the step in which they are sent. A loop takes a step where it comes
    back to neurons that are no further from the input, unless a Delay of the file is in it.

    Args:
        path: of the file.
        steps: of a sample; None takes the file's metadata "steps".
        dt: how long a step is, in seconds; None takes the file's metadata "dt", else 1e-4, or 1
            where the file has no time constant.
        decay: what is left after a step.
        reset: of all neurons, or by their names or wildcards, of which the last that fits rules;
            None takes the metadata "reset" of each neuron or of the file, else "zero".
        coding: of the input.
        seed: of the draws of "rate".
        readout: None takes the metadata "readout", else counts the spikes of the last neurons, or
            reads their membranes after the last step where they do not fire.

    Returns:
        The graph, for :func:`mapping.map_model` and :func:`mapping.save_model`.

    Raises:
        CheckpointError: if the file is missing, damaged, or holds what has8 does not take.
        BadInput: if an argument is out of range, or the file leaves open what none of them tells.
    """
    return read_as_told(
        path,
        steps=steps,
        dt=dt,
        decay=decay,
        reset=reset,
        coding=coding,
        seed=seed,
        readout=readout,
    )[0]


def read_as_told(
    path: str | Path,
    *,
    steps: int | None = None,
    dt: float | None = None,
    decay: Decay = "euler",
    reset: NirReset | dict[str, NirReset] | None = None,
    coding: Coding = "spikes",
    seed: int = 0,
    readout: Readout | None = None,
) -> tuple[Graph, Mapping[str, Any]]:
    """What :func:`read_nir` gives, and each argument as it was taken."""
    path = values.path(path, "a network in NIR")
    decay, coding = value(decay, Decay, "decay"), value(coding, Coding, "coding")
    if isinstance(reset, str):
        reset = {"*": reset}
    rules = given.instance({} if reset is None else reset, dict, "reset as a word or a dictionary")
    rules = value(rules, dict[str, NirReset], "reset")
    readout = None if readout is None else value(readout, Readout, "readout")
    seed = whole(seed, "seed", 0)
    dt = None if dt is None else seconds(dt, "dt")
    steps = None if steps is None else whole(steps, "steps", 1)
    content = _content(path)
    try:
        nodes, edges = _flat(content)
        said = content.metadata
        if steps is None and "steps" not in said:
            raise BadInput(f"{path} does not say how many steps a sample has: pass steps")
        steps = int(said["steps"]) if steps is None else steps
        if dt is None:
            timed = any(hasattr(node, name) for node in nodes.values() for name in TIMES)
            dt = float(said.get("dt", STEP_S if timed else 1.0))
        if readout is None and "readout" in said:
            readout = value(said["readout"], Readout, "readout")
        resets = _resets(nodes, rules, said.get("reset", "zero"))
        reader = _Reader(nodes, edges, Builder(steps), Steps(dt, decay, resets))
        graph, readout = reader.graph(coding, seed, readout)
        verify_graph(graph)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"the network in {path} cannot be read: {error}") from None
    return graph, {
        "steps": steps,
        "dt": dt,
        "decay": decay,
        "reset": " and ".join(sorted(set(resets.values()))) or "zero",
        "coding": coding,
        "seed": seed,
        "readout": readout,
    }


TIMES = ("tau", "tau_mem", "tau_syn", "delay")
"""What a node has in seconds."""


def is_nir(path: str | Path) -> bool:
    """Whether a file is a network in NIR, which is in the container of Lava-DL's too."""
    try:
        with regular_file(path) as file, importlib.import_module("h5py").File(file, "r") as content:
            return "node" in content
    except (ImportError, OSError, ValueError):
        return False


def _content(path: Path) -> Any:
    """The graph of a file, as the nir package reads it."""
    try:
        nir = importlib.import_module("nir")
    except ImportError:
        raise BadInput(f"reading {path} needs nir: run `pip install 'has8[files]'`") from None
    with regular_file(path) as file:
        try:
            content = nir.read(file)
            return content if hasattr(content, "edges") else nir.NIRGraph.from_list(content)
        except Exception as error:  # a broken file can raise anything
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise CheckpointError(f"{path} is no network in NIR or is damaged: {reason}") from None


def _resets(
    nodes: Mapping[str, Any], rules: Mapping[str, NirReset], general: str
) -> dict[str, NirReset]:
    """The reset of each neuron that fires.

    Args:
        nodes: of the file.
        rules: of names or wildcards.
        general: of neurons that no rule fits, and that do not say their own.

    Raises:
        BadInput: if a rule fits none, or a word is no reset.
    """
    firing = {name: node for name, node in nodes.items() if kind_of(node) in SPIKING}
    found = {}
    for name, node in firing.items():
        fitting = [reset for rule, reset in rules.items() if fnmatchcase(name, rule)]
        said = fitting[-1] if fitting else node.metadata.get("reset", general)
        found[name] = value(said, NirReset, f"the reset of {name!r}")
    lost = [rule for rule in rules if not any(fnmatchcase(name, rule) for name in firing)]
    if lost and lost != ["*"]:
        raise BadInput(f"reset: no neuron is called {lost[0]!r}: they are {', '.join(firing)}")
    return found


def _flat(graph: Any, prefix: str = "") -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The nodes and edges of a graph, with those of the graphs within it."""
    nodes: dict[str, Any] = {}
    edges: list[tuple[str, str]] = []
    ends: dict[str, tuple[str, str]] = {}
    for name, node in graph.nodes.items():
        if not hasattr(node, "edges"):
            nodes[prefix + name] = node
            continue
        inner, within = _flat(node, f"{prefix}{name}.")
        nodes, edges = nodes | inner, edges + within
        doors = [[f"{prefix}{name}.{n}" for n in side] for side in (node.inputs, node.outputs)]
        if [len(side) for side in doors] != [1, 1]:
            raise ValueError(f"the graph {name!r} within it must have one input and one output")
        ends[name] = (doors[0][0], doors[1][0])
    for source, target in graph.edges:
        start = ends[source][1] if source in ends else prefix + source
        edges.append((start, ends[target][0] if target in ends else prefix + target))
    return nodes, edges


@dataclass
class _Reader:
    """Makes nodes of a file's.

    Args:
        nodes: of the file, by name.
        edges: between them.
        made: the nodes in the making.
        how: these are taken in steps.
        names: of the node of a graph that stands for one of the file.
        delays: of each Delay, :meth:`Steps.delays`.
    """

    nodes: Mapping[str, Any]
    edges: Sequence[tuple[str, str]]
    made: Builder
    how: Steps
    names: dict[str, str] = field(default_factory=dict)
    delays: dict[str, list[tuple[int, list[Layer]]]] = field(default_factory=dict)

    def graph(self, coding: Coding, seed: int, readout: Readout | None) -> tuple[Graph, Readout]:
        """All nodes, what feeds the first and what reads the last, and how."""
        (start,) = self._only("Input")
        (end,) = self._only("Output")
        for name, node in self.nodes.items():
            if kind_of(node) == "Delay":
                with self._named(name):
                    self.delays[name] = self.how.delays(node)
        late = self._late(start)
        shape = shape_of(self.nodes[start])
        self.names[start] = self.made.input(start, shape, coding, seed).name
        for name in self._order(start, late):
            self._add(name, late)
        answer = self.made.nodes[self.names[end]]
        if readout is None:
            readout = "membrane_last" if answer.op == "membrane" else "count"
        return self.made.graph(self._read_out(answer, readout)), readout

    def _only(self, kind: str) -> list[str]:
        """The one node of a kind that leads into the network, or out of it."""
        side = 1 if kind == "Input" else 0
        inner = {edge[side] for edge in self.edges}
        names = [n for n, node in self.nodes.items() if kind_of(node) == kind and n not in inner]
        if len(names) != 1:
            raise ValueError(f"it has {len(names)} nodes of type {kind}, and has8 reads one")
        return names

    def _flow(self) -> nx.DiGraph:
        flow = nx.DiGraph()
        flow.add_nodes_from(self.nodes)
        flow.add_edges_from(self.edges)
        return flow

    def _late(self, start: str) -> set[tuple[str, str]]:
        """The edges at which loops take a step: from neurons, in front of what they reach."""
        flow = self._flow()
        far = nx.single_source_shortest_path_length(flow, start)
        if lost := sorted(self.nodes.keys() - far.keys()):
            raise ValueError(f"nothing reaches {lost[0]!r} from its input")
        flow.remove_nodes_from(self._holding())
        late = set()
        for loop in map(flow.subgraph, nx.strongly_connected_components(flow)):
            neurons = {n for n in loop if kind_of(self.nodes[n]) in SPIKING + SILENT}
            passed = nx.restricted_view(loop, [], [e for e in loop.edges if e[0] in neurons])
            for name in neurons:
                for target in loop[name]:
                    met = neurons & {target, *nx.descendants(passed, target)}
                    if any(far[neuron] <= far[name] for neuron in met):
                        late.add((name, target))
        return late

    def _order(self, start: str, late: Collection[tuple[str, str]]) -> list[str]:
        """The nodes behind those that feed them, but for what comes late."""
        place = {name: at for at, name in enumerate(self.nodes)}
        flow = self._flow()
        circles = [part for part in nx.strongly_connected_components(flow) if len(part) > 1]
        inner = [e for e in flow.edges if any(set(e) <= part for part in circles)]
        flow.remove_edges_from([*late, *(e for e in inner if e[1] in self._holding())])
        try:
            order = list(nx.lexicographical_topological_sort(flow, key=lambda n: place[n]))
        except nx.NetworkXUnfeasible:
            raise ValueError("it has a loop without neurons") from None
        return [name for name in order if name != start]

    def _holding(self) -> set[str]:
        """The Delays that let nothing through in the step in which it comes."""
        return {name for name, parts in self.delays.items() if min(late for late, _ in parts)}

    def _add(self, name: str, late: Collection[tuple[str, str]]) -> None:
        """The nodes that a node of the file is."""
        node = self.nodes[name]
        edges = sorted(edge for edge in self.edges if edge[1] == name)
        with self._named(name):
            if name in self.delays:
                self.names[name] = self._delayed(name, edges)
                return
            sources = [self._source(edge, edge in late) for edge in edges]
            current, *others = sources
            for other in others:
                current = self.made.add(f"{name}.sum", "add", (current, other)).name
            layers = self.how.layers(name, node, self.made.nodes[current].type)
            for place, (op, attrs, tensors) in enumerate(layers, 1):
                own = name if place == len(layers) else f"{name}.{op}"
                current = self.made.add(own, op, (current,), attrs, tensors).name
            self.names[name] = current
            if layers and name not in self.made.nodes:
                raise ValueError("another node takes its name")

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        """A body whose errors name the node that they are of."""
        try:
            yield
        except (ValueError, TypeError, AttributeError) as error:
            kind = kind_of(self.nodes[name])
            raise ValueError(f"node {name!r} ({kind}): {error}") from None

    def _source(self, edge: tuple[str, str], late: bool) -> str:
        return self._after(edge[0], 1, f"{edge[0]}.late") if late else self.names[edge[0]]

    def _after(self, source: str, steps: int, name: str) -> str:
        """What a node made some steps before; the node may come later."""
        if not steps:
            return self.names[source]
        signal = None
        if source not in self.names:
            kind = Kind.SPIKE if kind_of(self.nodes[source]) in SPIKING else Kind.VALUE
            signal = Signal(shape_of(self.nodes[source]), kind, self.made.steps)
        inputs = (self.names.get(source, source),)
        return self.made.add(name, "delay", inputs, {"steps": steps}, signal=signal).name

    def _delayed(self, name: str, edges: Sequence[tuple[str, str]]) -> str:
        if len(edges) != 1:
            raise ValueError("it must have one source")
        total = ""
        for steps, layers in self.delays[name]:
            part = self._after(edges[0][0], steps, name)
            for op, attrs, tensors in layers:
                part = self.made.add(f"{name}.{op}", op, (part,), attrs, tensors).name
            total = self.made.add(f"{name}.sum", "add", (total, part)).name if total else part
        return total

    def _read_out(self, answer: Node, readout: Readout) -> Node:
        """What reads the last node."""
        if readout == "spikes":
            return answer
        if readout == "count":
            return self.made.summed(answer)
        if answer.op == "neuron":
            zero = answer.attrs["reset"] == "zero"
            if zero and np.any(getattr(self.nodes[answer.name], "v_reset", 0)):
                raise ValueError("membranes are read where v_reset is 0: count the spikes")
            name = f"{answer.name}.membrane"
            answer = self.made.add(name, "membrane", answer.inputs, answer.attrs, answer.tensors)
        if answer.op != "membrane":
            raise ValueError("its last node has no membranes: count, or read each step as spikes")
        if readout == "membrane_sum":
            return self.made.summed(answer)
        if readout == "membrane_max":
            return self.made.add("answer", "largest", (answer.name,))
        last = torch.zeros(self.made.steps)
        last[-1] = 1
        return self.made.add("answer", "decode", (answer.name,), None, {"weights": last})
