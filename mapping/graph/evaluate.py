"""Running a graph, or some of its nodes, in floating point."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mapping.graph.ir import Graph, Node, loops_of
from mapping.graph.ops import OPS, run_node
from mapping.graph.ops.neuron import State, constants_of, stepped_on

Watch = Callable[[Node, tuple[Tensor, ...]], None]
"""Called with each node and its inputs before it runs."""


def evaluate(graph: Graph, x: Tensor) -> Tensor:
    """The graph's output for ``x`` (``[B, *shape]``), in the dtype and on the device of ``x``."""
    values = {graph.input.name: x}
    nodes = moved(graph, (node.name for node in graph), x)
    evaluate_nodes(graph, nodes, values)
    return values[graph.output.name]


def moved(graph: Graph, names: Iterable[str], like: Tensor) -> tuple[Node, ...]:
    """The named nodes, inputs left out, with tensors in the dtype and on the device of ``like``."""
    return tuple(
        replace(graph[n], tensors={k: v.to(like) for k, v in graph[n].tensors.items()})
        for n in names
        if graph[n].op != "input"
    )


def evaluate_nodes(
    graph: Graph, nodes: Iterable[Node], values: dict[str, Tensor], watch: Watch | None = None
) -> None:
    """Run nodes in the given order; results are added to ``values``.

    Args:
        graph: the graph that the nodes belong to.
        nodes: from :func:`moved`.
        values: tensors by node name, ``[B, ...]`` or time first; must hold what is needed.
        watch: called before each node.
    """
    with torch.no_grad():
        for part in loops_of(tuple(nodes)):
            if len(part) > 1:
                run_loop(part, values, watch)
                continue
            (node,) = part
            inputs = tuple(values[source] for source in node.inputs)
            if watch is not None:
                watch(node, inputs)
            steps = graph[node.inputs[0]].type.steps
            values[node.name] = run_node(OPS[node.op], node, inputs, steps)


def run_loop(nodes: Sequence[Node], values: dict[str, Tensor], watch: Watch | None = None) -> None:
    """Run the nodes of a loop over steps, step by step; results are added to ``values``.

    Args:
        nodes: of one part of :func:`mapping.graph.ir.loops_of`.
        values: tensors by node name, time first where they have steps; must hold what is needed.
        watch: called for each node behind the last step.
    """
    inside = {node.name for node in nodes}
    fed = next(values[s] for node in nodes for s in node.inputs if s not in inside)
    made: dict[str, list[Tensor]] = {name: [] for name in inside}
    states: dict[str, State] = {}
    for step in range(len(fed)):
        for node in nodes:
            before = step - node.attrs["steps"] if node.op == "delay" else step
            inputs = (
                tuple((made if s in inside else values)[s][before] for s in node.inputs)
                if (before >= 0)
                else ()
            )
            if node.op == "delay":
                zeros = fed.new_zeros(fed.shape[1], *node.type.shape)
                made[node.name].append(inputs[0] if inputs else zeros)
            elif node.op in ("neuron", "membrane"):
                spikes, membranes, states[node.name] = stepped_on(
                    constants_of(node), inputs[0][None], states.get(node.name)
                )
                made[node.name].append((spikes if node.op == "neuron" else membranes)[0])
            else:
                alone = tuple(x[None] for x in inputs)
                made[node.name].append(run_node(OPS[node.op], node, alone, 1)[0])
    values.update({name: torch.stack(steps) for name, steps in made.items()})
    if watch is not None:
        for node in nodes:
            watch(node, tuple(values[source] for source in node.inputs))
