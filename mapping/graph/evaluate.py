"""Running a graph, or some of its nodes, in floating point."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from mapping.graph.ir import Graph, Node
from mapping.graph.ops import OPS, run_node

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
        for node in nodes:
            inputs = tuple(values[source] for source in node.inputs)
            if watch is not None:
                watch(node, inputs)
            steps = graph[node.inputs[0]].type.steps
            values[node.name] = run_node(OPS[node.op], node, inputs, steps)
