"""What must hold for a graph after each stage."""

from __future__ import annotations

from mapping.graph.ir import Graph
from mapping.graph.ops import OPS


def verify_graph(graph: Graph) -> None:
    """Every node is of a known kind and its type follows from its inputs' types.

    Raises:
        ValueError: with the first node for which that does not hold.
    """
    for node in graph:
        if node.op not in OPS:
            raise ValueError(f"node {node.name!r} is of unknown kind {node.op!r}")
        if node.op == "input":
            continue
        inputs = tuple(graph[source].type for source in node.inputs)
        inferred = OPS[node.op].infer(node.attrs, node.tensors, inputs)
        if inferred != node.type:
            raise ValueError(f"node {node.name!r} says {node.type}, its inputs make {inferred}")
