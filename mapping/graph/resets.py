"""Another reset than the one that a network was trained with, and back."""

from __future__ import annotations

from dataclasses import replace

from mapping.chip.neurons import subtracts
from mapping.graph.ir import Graph, Node


def reset_to_zero(graph: Graph) -> Graph:
    """The graph with neurons that reset to zero where they were trained to reset by subtraction.

    That computes something else: each such neuron keeps the rule that it was trained with as its
    attribute ``trained_reset``, by which :func:`as_trained` gives the graph back.
    """

    def changed(node: Node) -> Node:
        if node.op != "neuron" or not subtracts(reset := node.attrs.get("reset")):
            return node
        return replace(node, attrs={**node.attrs, "reset": "zero", "trained_reset": reset})

    return Graph(tuple(map(changed, graph)))


def as_trained(graph: Graph) -> Graph:
    """The graph with the resets that its neurons were trained with."""

    def changed(node: Node) -> Node:
        if not node.attrs.get("trained_reset"):
            return node
        attrs = {**node.attrs, "reset": node.attrs["trained_reset"]}
        return replace(node, attrs={k: v for k, v in attrs.items() if k != "trained_reset"})

    return Graph(tuple(map(changed, graph)))


def changed_resets(graph: Graph) -> tuple[str, ...]:
    """The neurons that were trained with another reset than they have."""
    return tuple(node.name for node in graph if node.attrs.get("trained_reset"))
